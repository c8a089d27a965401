"""Derives from a model's shapes how much memory it needs, without its weights and without a GPU."""
