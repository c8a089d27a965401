"""What is settled before a request reaches its route: its key, its size, its type, and how many there may be.

May import: fluxclient.errors, gateway.errors.
"""
