"""What the gateway keeps in memory for its callers, bounded in bytes and time: files by address, and jobs.

May import: fluxclient, gateway.errors.
"""
