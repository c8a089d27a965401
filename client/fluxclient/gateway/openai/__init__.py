"""OpenAI's Images API: its routes, bodies, streams and files.

May import: fluxclient, and of the gateway all but app, server, page and replaced.
"""
