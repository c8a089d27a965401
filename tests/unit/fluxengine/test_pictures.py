from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fluxengine.pictures import encode_picture
from fluxengine.request import OUTPUT_FORMATS
from fluxengine.ticket import Picture


@pytest.fixture
def picture() -> Picture:
    """A smooth one, as lossy formats expect, wider than high, with no two channels alike."""
    y, x = np.mgrid[0:48, 0:80]
    picture: Picture = np.stack([x * 3, y * 5, 255 - x - y], axis=-1).astype(np.uint8)
    return picture


@pytest.mark.parametrize("output_format", [name for name in OUTPUT_FORMATS if name != "raw"])
def test_a_file_of_each_format(picture: Picture, output_format: str) -> None:
    image = Image.open(io.BytesIO(encode_picture(picture, output_format)))
    assert (image.format, image.size, image.mode) == (output_format.upper(), (80, 48), "RGB")
    difference = np.abs(np.asarray(image).astype(int) - picture)
    assert difference.mean() <= (0 if output_format == "png" else 3)


def test_only_formats_that_are_files(picture: Picture) -> None:
    with pytest.raises(KeyError):
        encode_picture(picture, "raw")
