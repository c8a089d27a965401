"""LoRAs as callers may name them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fluxclient import InvalidArgument
from fluxclient.inputs.lora import lora_text


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("ink", "ink"),
        ("ink:0.5, paper", "ink:0.5, paper"),
        ("", ""),
        (["ink", "paper:0.25"], "ink,paper:0.25"),
        ((), ""),
        ({}, ""),
        ({"ink": 1, "paper": -0.1}, "ink:1.0,paper:-0.1"),
        ({"ink": np.float64(0.1)}, "ink:0.1"),
    ],
)
def test_as_the_server_reads_it(given: Any, sent: str) -> None:
    assert lora_text(given) == sent


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, "is 7; must be text, a sequence of texts, or numbers by name"),
        (None, "is None; must be"),
        (b"ink", "is b'ink'; must be"),
        (["ink", 7], "is ['ink', 7]; must be"),
        ({"ink:2": 1}, "has the name 'ink:2'; must be text without ',' and ':'"),
        ({"a,b": 1}, "has the name 'a,b'"),
        ({"": 1}, "has the name ''"),
        ({3: 1}, "has the name 3"),
        ({"ink": "much"}, "has 'much' for 'ink'; must be a number"),
        ({"ink": True}, "has True for 'ink'"),
    ],
)
def test_what_is_none(given: Any, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        lora_text(given)
    assert caught.value.field == "lora"
    assert words in caught.value.text
