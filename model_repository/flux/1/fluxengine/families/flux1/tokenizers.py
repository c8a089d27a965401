"""From the folders `tokenizer` and `tokenizer_2` to what splits prompts for CLIP and T5: all of it, or an error.

transformers makes a tokenizer of whatever is there; without its vocabulary all prompts would be about the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer, T5TokenizerFast

from fluxengine.errors import ConfigError, in_short
from fluxengine.families.flux1.spiece import read_vocabulary

LEAST_SHARE = 0.9
"""Of the text encoder's embeddings that tokens must have: T5's are a few more, padded to a round number."""

T5_SENTINELS = 100
"""`<extra_id_0>` … after the words, unless tokenizer_config.json says another number."""


def load_clip_tokenizer(folder: Path, embeddings: int, positions: int) -> Any:
    """A CLIPTokenizer of `folder`, for a text encoder with so many embeddings of tokens and of positions.

    Raises ConfigError, as for T5, naming the file that is missing or what does not fit.
    """
    _check_files(folder, ("vocab.json", "merges.txt"))
    tokenizer = _load(CLIPTokenizer, folder)
    _check_size(folder, tokenizer, embeddings)
    _check_merges(folder, tokenizer)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)  # endless without tokenizer_config.json
    return tokenizer


def load_t5_tokenizer(folder: Path, embeddings: int) -> Any:
    """A T5TokenizerFast of `folder`, for a text encoder with so many embeddings of tokens."""
    _check_files(folder, ("spiece.model",))
    if (folder / "tokenizer.json").exists():
        configured = (folder / "tokenizer_config.json").exists()
        tokenizer = _load(T5TokenizerFast, folder, **({} if configured else {"extra_ids": 0}))
    else:
        tokenizer = _from_spiece(folder, embeddings)
    _check_size(folder, tokenizer, embeddings)
    return tokenizer


def _check_files(folder: Path, files: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder.name}")
    if (folder / "tokenizer.json").exists():
        return
    missing = [file for file in files if not (folder / file).exists()]
    if missing:
        raise ConfigError(
            f"{folder.name} has no vocabulary: {' and '.join(missing)} missing; "
            f"must have tokenizer.json, or {' and '.join(files)}"
        )


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, **options)
    except Exception as error:  # whatever transformers stumbles over in files of another kind
        raise ConfigError(f"{folder.name} cannot be loaded: {in_short(error)}") from error


def _from_spiece(folder: Path, embeddings: int) -> Any:
    """As transformers' T5Converter lays out the tokens: the words, then the sentinels, the last one first."""
    path = folder / "spiece.model"
    try:
        vocabulary = read_vocabulary(path)
        sentinels = _sentinels(folder, most=embeddings - len(vocabulary.pieces))
        words = [*vocabulary.pieces, *((f"<extra_id_{n}>", 0.0) for n in reversed(range(sentinels)))]
        (pad, _), (end, _), (unknown, _) = words[:3]
        return T5TokenizerFast(
            vocab=words,
            pad_token=pad,
            eos_token=end,
            unk_token=unknown,
            extra_ids=sentinels,
            _spm_precompiled_charsmap=vocabulary.charsmap,
        )
    except Exception as error:  # as above
        raise ConfigError(f"{folder.name}/{path.name} cannot be read: {in_short(error)}") from error


def _sentinels(folder: Path, most: int) -> int:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return int(config.get("extra_ids", max(0, min(most, T5_SENTINELS))))


def _check_size(folder: Path, tokenizer: Any, embeddings: int) -> None:
    tokens = len(tokenizer)
    if not LEAST_SHARE * embeddings <= tokens <= embeddings:
        raise ConfigError(
            f"{folder.name} has {tokens} tokens, its text encoder embeddings for {embeddings}: "
            "they are of different models"
        )


def _check_merges(folder: Path, tokenizer: Any) -> None:
    """Without its merges a word of several letters is never made of them."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    made = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]}
    made.update(tokenizer.get_added_vocab())
    lost = [word for word in model["vocab"] if len(word.removesuffix("</w>")) > 1 and word not in made]
    if lost:
        raise ConfigError(f"{folder.name} lacks the merges for {len(lost)} of its words, the first {lost[0]!r}")
