"""torch.compile of the blocks of a transformer: in the background, kept on disk, never in the way of a step.

Knows LoRA layers and config; nothing of families.
"""
