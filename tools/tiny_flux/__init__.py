"""Training of flux-tiny, step by step: `python -m tools.tiny_flux.vae`, latents, transformer, export, evaluate."""
