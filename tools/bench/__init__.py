"""What serving FLUX costs and gains on this machine, against its peers, in one run: `python -m tools.bench`."""
