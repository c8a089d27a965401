"""All that holds or moves tensors while pictures are drawn: batches, caches, memory.

Knows jobs, LoRAs, config and the interface of families. Called by the thread of the engine alone, but for heap.py and
what reads LoRAs.
"""
