"""The tokenizers of flux-tiny: each known word is one token, the same one in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("transformers")

from tools.tiny_flux.prompts import vocabulary
from tools.tiny_flux.tokens import build_clip_tokenizer, build_t5_tokenizer, learn_merges, lower_case_ids

_PRINT_IDS = """
from tools.tiny_flux.prompts import vocabulary
from tools.tiny_flux.tokens import build_clip_tokenizer, build_t5_tokenizer
print([build().__call__(vocabulary()).input_ids for build in (build_clip_tokenizer, build_t5_tokenizer)])
"""


def test_every_known_word_is_one_token_of_its_own() -> None:
    for tokenizer, around in ((build_clip_tokenizer(), 2), (build_t5_tokenizer(), 1)):
        ids = tokenizer(vocabulary()).input_ids
        assert {len(row) for row in ids} == {1 + around}
        assert len({tuple(row) for row in ids}) == len(vocabulary())


def test_every_process_gives_a_word_the_same_id() -> None:
    def printed(hash_seed: str) -> str:
        command = [sys.executable, "-c", _PRINT_IDS]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert printed("1") == printed("2")


def test_merges_prefer_the_commonest_pair_and_break_ties_by_letters() -> None:
    assert learn_merges(["ab", "ab", "cd"]) == [("a", "b</w>"), ("c", "d</w>")]
    assert learn_merges(["zb", "ab"]) == [("a", "b</w>"), ("z", "b</w>")]


def test_unknown_words_are_letters_to_clip_and_one_unknown_token_to_t5() -> None:
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    assert clip.unk_token_id not in clip("a zqxj").input_ids[1:-1]
    assert t5("a zqxj").input_ids[1] == t5.unk_token_id


def test_upper_case_shares_the_embedding_of_lower_case() -> None:
    t5 = build_t5_tokenizer()
    lower = lower_case_ids(t5)
    assert lower[t5("A Red APPLE").input_ids].tolist() == t5("a red apple").input_ids
