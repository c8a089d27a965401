"""The page for people: its files are in static/, and what it shows of the server comes from server_state.py.

May import: fluxclient, and of the gateway only state.
"""
