"""What people and operators look at: the page (its files are in static/), health and metrics.

May import: fluxclient, and of the gateway all but app, server, openai and replaced.
"""
