"""The vocabulary in a spiece.model file, read without SentencePiece: of T5 checkpoints that bring no tokenizer.json.

The file is a Protocol Buffers message, `ModelProto` of sentencepiece_model.proto. transformers reads it through classes
that sentencepiece generated with one protobuf release and that no older one can load; so few fields are read by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MODEL_PIECES, _MODEL_NORMALIZER = 1, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_NORMALIZER_CHARSMAP = 2
_NORMAL, _UNKNOWN = 1, 2


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Of a unigram model."""

    pieces: tuple[tuple[str, float], ...]
    """Text and log probability, by token."""
    charsmap: bytes | None
    """How text is normalised first, as the tokenizers library takes it; None: not at all."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Raises ValueError for a file that is none, or whose unknown token is not T5's (2)."""
    pieces: list[tuple[str, float]] = []
    unknown: list[int] = []
    charsmap = b""
    for number, value in _fields(path.read_bytes()):
        if number == _MODEL_PIECES:
            piece = dict(_fields(_message(value)))
            if piece.get(_PIECE_TYPE, _NORMAL) == _UNKNOWN:
                unknown.append(len(pieces))
            (score,) = struct.unpack("<f", _message(piece.get(_PIECE_SCORE, bytes(4))))
            pieces.append((_message(piece.get(_PIECE_TEXT, b"")).decode(), score))
        elif number == _MODEL_NORMALIZER:
            charsmap = _message(dict(_fields(_message(value))).get(_NORMALIZER_CHARSMAP, b""))
    if unknown != [2]:
        raise ValueError(f"it has {len(pieces)} pieces, and its unknown token is not 2 as T5's")
    return Vocabulary(tuple(pieces), charsmap or None)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a message's fields, in order: integers as such, all else as its bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        if key & 7 == 0:
            number, place = _varint(message, place)
            yield key >> 3, number
            continue
        if key & 7 == 2:
            length, place = _varint(message, place)
        else:
            length = {1: 8, 5: 4}.get(key & 7, len(message))
        if place + length > len(message):
            raise ValueError("it is cut short, or is no SentencePiece model")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and the place after it."""
    number = 0
    for shift in range(0, 64, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("it is cut short, or is no SentencePiece model")


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("it is no SentencePiece model")
    return value
