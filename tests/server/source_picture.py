"""What image to image begins with in the tests of the client, the command and the gateway."""

from __future__ import annotations

import io

from PIL import Image


def source(kind: str = "PNG") -> bytes:
    """A picture of another size than those that are drawn."""
    gradient = Image.linear_gradient("L").resize((96, 80))
    file = io.BytesIO()
    Image.merge("RGB", (gradient, gradient.rotate(180), gradient)).save(file, kind)
    return file.getvalue()
