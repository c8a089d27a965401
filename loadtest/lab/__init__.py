"""The measurements: a Locust process and a monitor for each, round after round, and the figures that they give.

Imports traffic and server, but not sending: Locust is a process of its own.
"""
