"""FLUX.1 [dev], [schnell] and every checkpoint of their kind.

As all of families/: knows nothing of jobs, batches or scheduling.
"""
