"""The two tokenizers: one token for each known word, in the classes that FluxPipeline expects."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5TokenizerFast

from .prompts import vocabulary

CLIP_LENGTH = 77
T5_LENGTH = 24
"""Tokens of the T5 encoder, in training and in serving (`max_sequence_length`). Longer prompts are cut."""

_WORD_END = "</w>"
_PUNCTUATION = (",", ".", "-")


def build_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding whose merges make each known word one token; other words fall into letters."""
    merges = learn_merges(vocabulary())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + _WORD_END for letter in alphabet)]
    pieces += [first + second for first, second in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges after which each word is one piece: again and again the commonest pair, of equals the first by letters.

    The trainer of `tokenizers` breaks ties by chance, which would give a word another id in each process.
    """
    split = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in split for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merged(pieces, best) for pieces in split]
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with every occurrence of the pair made one, from the left."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def build_t5_tokenizer() -> T5TokenizerFast:
    """T5's Unigram model over whole words, each also Capitalised and in UPPER case; other words are <unk>."""
    words = [word for word in vocabulary() if word not in _PUNCTUATION]
    forms = [*words, *(word.capitalize() for word in words), *(word.upper() for word in words)]
    pieces = ["<pad>", "</s>", "<unk>", *("▁" + form for form in dict.fromkeys(forms)), *_PUNCTUATION]
    pieces += ["▁" + mark for mark in _PUNCTUATION]
    return T5TokenizerFast(
        vocab=[(piece, 0.0) for piece in pieces],
        extra_ids=0,
        additional_special_tokens=None,
        model_max_length=T5_LENGTH,
    )


def lower_case_ids(tokenizer: T5TokenizerFast) -> torch.Tensor:
    """For every T5 token the token of its lower case, [vocabulary]. Both share one embedding."""
    vocab: dict[str, int] = tokenizer.get_vocab()
    ids = torch.arange(len(vocab))
    for piece, index in vocab.items():
        ids[index] = vocab.get(piece.lower(), index)
    return ids
