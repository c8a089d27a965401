"""LoRA files: found, kept, read key by key, and applied row by row.

Knows errors alone, and the modules of torch and diffusers that it is applied to.
"""
