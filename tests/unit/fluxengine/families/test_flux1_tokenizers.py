"""Tokenizers: all that is published about them gives the same tokens, and what is not whole is refused."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer, T5TokenizerFast

from fluxengine.errors import ConfigError
from fluxengine.families.flux1.spiece import read_vocabulary
from fluxengine.families.flux1.tokenizers import load_clip_tokenizer, load_t5_tokenizer
from tools.triton.installation import PROJECT

TINY = PROJECT / "model_repository/flux/1/flux-tiny"
CLIP_EMBEDDINGS, T5_EMBEDDINGS = 932, 430
PROMPTS = ["a large apple on a green background", "Two BOATS, 3 stars!", "übergroß </s> of <pad>", ""]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY / "tokenizer", tmp_path / "tokenizer"))


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY / "tokenizer_2", tmp_path / "tokenizer_2"))


def tokens(tokenizer: Any) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(PROMPTS).input_ids
    return ids


def refusal(folder: Path, embeddings: int = 0) -> str:
    with pytest.raises(ConfigError) as caught:
        if folder.name == "tokenizer":
            load_clip_tokenizer(folder, embeddings or CLIP_EMBEDDINGS, positions=77)
        else:
            load_t5_tokenizer(folder, embeddings or T5_EMBEDDINGS)
    assert len(str(caught.value)) <= 500
    return str(caught.value)


def field(number: int, value: bytes | int) -> bytes:
    """One of a Protocol Buffers message: an integer below 128, four bytes, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    length = len(value)
    head = bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    return head + value


def spiece(words: list[tuple[str, float]], charsmap: bytes = b"", unknown: int = 2) -> bytes:
    kinds = {0: 3, 1: 3, unknown: 2}
    pieces = [
        field(1, field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + field(3, kinds.get(n, 1)))
        for n, (text, score) in enumerate(words)
    ]
    normalizer = field(3, field(1, b"nmt_nfkc") + field(2, charsmap) + field(3, 1))
    return b"".join([*pieces, field(2, field(3, 1)), normalizer])


@pytest.mark.parametrize("configured", [True, False])
def test_only_a_spiece_model(t5: Path, configured: bool) -> None:
    wanted = tokens(T5TokenizerFast.from_pretrained(t5))
    vocabulary = t5 / "tokenizer.json"
    (t5 / "spiece.model").write_bytes(spiece(json.loads(vocabulary.read_text())["model"]["vocab"]))
    vocabulary.unlink()
    if not configured:
        (t5 / "tokenizer_config.json").unlink()
    assert tokens(load_t5_tokenizer(t5, T5_EMBEDDINGS)) == wanted


def test_the_sentinels_of_t5_come_after_its_words(t5: Path) -> None:
    words = json.loads((t5 / "tokenizer.json").read_text())["model"]["vocab"]
    (t5 / "spiece.model").write_bytes(spiece(words))
    (t5 / "tokenizer.json").unlink()
    (t5 / "tokenizer_config.json").unlink()
    tokenizer = load_t5_tokenizer(t5, len(words) + 128)
    assert tokenizer.convert_ids_to_tokens([len(words), len(words) + 99]) == ["<extra_id_99>", "<extra_id_0>"]
    assert tokenizer("apple <extra_id_0>").input_ids[-2:] == [len(words) + 99, 1]


def test_what_a_spiece_model_says(tmp_path: Path) -> None:
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("ß" * 200, -3.5)]
    path = tmp_path / "spiece.model"
    path.write_bytes(spiece(words, charsmap=bytes(range(256)) * 20))
    vocabulary = read_vocabulary(path)
    assert list(vocabulary.pieces) == words
    assert vocabulary.charsmap == bytes(range(256)) * 20
    path.write_bytes(spiece(words))
    assert read_vocabulary(path).charsmap is None


def test_a_spiece_model_that_is_none(t5: Path) -> None:
    words = json.loads((t5 / "tokenizer.json").read_text())["model"]["vocab"]
    (t5 / "tokenizer.json").unlink()
    whole = spiece(words)
    for broken, words_of_it in (
        (whole[:-3], "is cut short, or is no SentencePiece model"),
        (b"", "has 0 pieces"),
        (b'{"not": "one"}', "tokenizer_2/spiece.model cannot be read: "),
        (spiece(words, unknown=0), "its unknown token is not 2 as T5's"),
    ):
        (t5 / "spiece.model").write_bytes(broken)
        assert words_of_it in refusal(t5)


def test_clip_from_its_two_files(clip: Path) -> None:
    whole = CLIPTokenizer.from_pretrained(clip)
    model = json.loads((clip / "tokenizer.json").read_text())["model"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (clip / "tokenizer.json").unlink()
    for name, text in (
        ("vocab.json", json.dumps(model["vocab"])),
        ("merges.txt", "\n".join(["#version: 0.2", *merges])),
    ):
        (clip / name).write_text(text, encoding="utf-8")
    assert tokens(load_clip_tokenizer(clip, CLIP_EMBEDDINGS, positions=77)) == tokens(whole)
    (clip / "tokenizer_config.json").unlink()
    assert load_clip_tokenizer(clip, CLIP_EMBEDDINGS, positions=77).model_max_length == 77

    (clip / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges[:-3]), encoding="utf-8")
    assert "tokenizer lacks the merges for 3 of its words, the first " in refusal(clip)
    (clip / "merges.txt").unlink()
    assert (
        "tokenizer has no vocabulary: merges.txt missing; must have tokenizer.json, or vocab.json and merges.txt"
        in (refusal(clip))
    )


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_what_is_not_there(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue({"tokenizer": "clip", "tokenizer_2": "t5"}[name])
    (folder / "tokenizer.json").unlink()
    assert f"{name} has no vocabulary: " in refusal(folder)
    (folder / "tokenizer.json").write_text("{")
    assert f"{name} cannot be loaded: " in refusal(folder)
    shutil.rmtree(folder)
    assert refusal(folder) == f"there is no folder {name}"


@pytest.mark.parametrize(("name", "tokens"), [("tokenizer", 932), ("tokenizer_2", 430)])
def test_tokens_and_embeddings_of_different_models(name: str, tokens: int, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue({"tokenizer": "clip", "tokenizer_2": "t5"}[name])
    for embeddings in (tokens - 1, tokens * 2):
        said = f"{name} has {tokens} tokens, its text encoder embeddings for {embeddings}"
        assert said in refusal(folder, embeddings)


def test_tokenizers_that_changed_places(clip: Path, t5: Path) -> None:
    vocabulary = (clip / "tokenizer.json").read_text()
    shutil.copy(t5 / "tokenizer.json", clip)
    (t5 / "tokenizer.json").write_text(vocabulary)
    assert refusal(clip).startswith("tokenizer ")
    assert refusal(t5).startswith("tokenizer_2 ")
