"""The command `fluxclient`: one module for each subcommand, `app` puts them together."""
