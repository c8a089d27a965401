"""torch.compile of the blocks of a transformer: in the background, kept on disk, never in the way of a step.

Knows LoRA layers, sizes and errors; nothing of families.
"""
