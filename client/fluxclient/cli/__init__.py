"""The command `fluxclient`: a file for each subcommand, and what they share.

May import: all of fluxclient; of its gateway only `fluxclient gateway`, and only when it is called.
"""
