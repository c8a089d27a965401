"""What differs between members of FLUX: each is one folder, behind the interface in base.py, found by registry.py.

Knows LoRA layers, compiled blocks and the types of requests; nothing of jobs, batches or scheduling.
"""
