"""Who keeps a server well: stubs seen, models asked, what is dead or silent started anew, nothing left behind.

Knows the rest of tools/triton but its command line.
"""
