"""The API that the gateway replaces, so that its callers can move: its routes, and jobs that nobody waits for.

May import: fluxclient, and of the gateway all but app, server, page and openai.
"""
