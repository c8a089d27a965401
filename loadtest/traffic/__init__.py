"""What is asked for, when, and what is kept of each request: mixes, traces, arrivals, schedules, records.

Imports the standard library, jsonschema, tools' prompts of flux-tiny, and of this package failures.py.
"""
