"""The server under test: where it is, how it is set to a strategy and back, what it and its machine do meanwhile.

Imports tools.triton, psutil, NVML, and of this package failures.py.
"""
