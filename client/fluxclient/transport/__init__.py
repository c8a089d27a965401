"""How requests travel: gRPC and HTTP behind one interface, and what goes wrong on the way (silence, proxies).

May import: fluxclient.errors, inputs, result.
"""
