"""OpenAI's Images API: its routes, bodies and streams.

May import: fluxclient, and of the gateway all but app, server, page and the other routes.
"""
