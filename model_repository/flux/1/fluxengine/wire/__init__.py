"""What comes over the wire and goes back: the inputs, requests, their limits, pictures as files.

Knows errors and config. No torch: a request is read in microseconds, in whichever thread Triton calls.
"""
