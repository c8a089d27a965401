"""What a small model allows its requests."""

from fluxengine.wire.limits import Limits

LIMITS = Limits(
    default_size=(64, 64),
    max_size=(64, 64),
    default_steps=4,
    max_steps=9,
    default_guidance=3.5,
    max_images=2,
    max_loras=8,
)
