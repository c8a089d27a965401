"""A real Triton server on this machine: found or assembled, started, watched and stopped."""
