"""The vocabulary of flux-tiny: what it can draw, how it is asked for, what is held out."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tools.tiny_flux.prompts import (
    COLOURS,
    SIZES,
    THINGS,
    Scene,
    all_combinations,
    caption,
    held_out_combinations,
    subjects,
    varied_caption,
    vocabulary,
)


def test_import_needs_nothing_but_the_standard_library() -> None:
    check = (
        "import sys, tools.tiny_flux.prompts; "
        "bad = {'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene("apple", None, "green", "large"), "a large apple on a green background"),
        (Scene("circle", "red", "blue", "small"), "a small red circle on a blue background"),
        (Scene("cat", None, "orange", "medium"), "a medium cat on an orange background"),
    ],
)
def test_caption(scene: Scene, text: str) -> None:
    assert caption(scene) == text


def test_captions_tell_all_scenes_apart() -> None:
    scenes = list(all_combinations())
    assert len({caption(scene) for scene in scenes}) == len(scenes)


def test_a_shape_never_hides_in_its_background() -> None:
    assert all(scene.colour != scene.background for scene in all_combinations())


def test_about_an_eighth_is_held_out_and_every_subject_and_background_is_trained() -> None:
    scenes = list(all_combinations())
    held_out = held_out_combinations()
    assert 0.10 < len(held_out) / len(scenes) < 0.14
    trained = set(scenes) - set(held_out)
    assert {scene.subject for scene in trained} == set(subjects())
    assert {(scene.background, scene.size) for scene in trained} == {(c, s) for c in COLOURS for s in SIZES}


def test_the_held_out_rule_does_not_change_between_processes() -> None:
    assert Scene("apple", None, "red", "small").held_out is False
    assert held_out_combinations()[0] == Scene("apple", None, "red", "medium")


def test_varied_captions_name_the_background_and_stay_in_the_vocabulary() -> None:
    rng = random.Random(0)
    known = set(vocabulary())
    unknown_captions = 0
    for scene in rng.sample(list(all_combinations()), 500):
        words = varied_caption(scene, rng).lower().replace(",", " ").replace(".", " ").replace("-", " ").split()
        assert scene.background in words
        unknown_captions += not set(words) <= known
    assert 0 < unknown_captions < 150  # about 15 %: words that the model shall learn to pass over


def test_varied_captions_repeat_with_the_same_seed() -> None:
    scene = Scene("cat", None, "red", "small")
    first, second = (varied_caption(scene, random.Random(7)) for _ in range(2))
    assert first == second


def test_every_name_is_one_word() -> None:
    assert all(name.isalpha() and name.islower() for name in [*THINGS, *COLOURS, *SIZES])
