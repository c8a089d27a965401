from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtest.failures import BadInput
from loadtest.traffic.mix import NAMES, Mix, tiny_captions
from loadtest.traffic.order import Order
from tools.tiny_flux.prompts import all_combinations, caption

ENTRY: dict[str, Any] = {"name": "a", "weight": 1, "width": 128, "height": 64, "num_inference_steps": 8}


def first(mix: Mix, count: int, seed: int | None = None) -> list[Order]:
    return list(itertools.islice(mix.orders(seed), count))


def written(folder: Path, *entries: dict[str, Any], **others: Any) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps({"entries": list(entries), **others}))
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_mix_that_ships_is_reproducible(name: str) -> None:
    mix = Mix.load(name)
    assert first(mix, 200, 7) == first(Mix.load(name), 200, 7)
    assert first(mix, 200, 7) != first(mix, 200, 8)


def test_those_that_the_documentation_names_ship() -> None:
    assert NAMES == ("bursty", "dataset-c", "dataset-c-tiny", "uniform")


def test_the_published_mix_is_dataset_c() -> None:
    mix = Mix.load("dataset-c")
    assert [(entry.weight, entry.width, entry.height, entry.steps) for entry in mix.entries] == [
        (15, 512, 512, (20, 20)),
        (25, 768, 768, (20, 20)),
        (45, 1024, 1024, (25, 25)),
        (15, 1536, 1536, (35, 35)),
    ]


def test_its_tiny_copy_has_the_same_shares_at_an_eighth_of_the_edges() -> None:
    whole, tiny = Mix.load("dataset-c"), Mix.load("dataset-c-tiny")
    assert [(entry.weight, entry.width // 8) for entry in whole.entries] == [
        (entry.weight, entry.width) for entry in tiny.entries
    ]


@pytest.mark.parametrize("name", NAMES)
def test_entries_come_as_often_as_their_weights_say(name: str) -> None:
    mix = Mix.load(name)
    counts = Counter(order.kind for order in first(mix, 20_000))
    total = sum(entry.weight for entry in mix.entries)
    for entry in mix.entries:
        assert counts[entry.name] / 20_000 == pytest.approx(entry.weight / total, abs=0.02)


def test_steps_are_drawn_from_both_ends_of_their_range_and_all_between() -> None:
    assert {order.num_inference_steps for order in first(Mix.load("uniform"), 500)} == set(range(4, 13))


def test_a_run_comes_in_a_row() -> None:
    orders = first(Mix.load("bursty"), 2000)
    runs = [(kind, len(list(run))) for kind, run in itertools.groupby(order.kind for order in orders)]
    jobs = [length for kind, length in runs if kind == "job"]
    assert jobs and all(length % 10 == 0 for length in jobs[:-1])


def test_an_entry_says_everything(tmp_path: Path) -> None:
    entry = {**ENTRY, "guidance_scale": 2.5, "priority": 1, "lora": "ink:0.5", "prompts": ["a cat"]}
    mix = Mix.load(written(tmp_path, entry, seed=9))
    (order,) = first(mix, 1)
    assert (order.prompt, order.width, order.height, order.num_inference_steps) == ("a cat", 128, 64, 8)
    assert (order.guidance_scale, order.priority, order.label) == (2.5, 1, "128x64 8 steps")
    assert first(mix, 5) == first(mix, 5, seed=9)
    inputs = order.inputs(timeout_s=3)
    assert (inputs["deadline_ms"], inputs["guidance_scale"], inputs["priority"]) == (3000, 2.5, 1)
    assert inputs["lora"] == "ink:0.5"


def test_what_an_entry_leaves_out_is_not_sent(tmp_path: Path) -> None:
    (order,) = first(Mix.load(written(tmp_path, ENTRY)), 1)
    assert not {"guidance_scale", "priority", "lora"} & order.inputs(timeout_s=3).keys()


def test_loras_are_mixed_by_their_entries(tmp_path: Path) -> None:
    plain, ink = {**ENTRY, "name": "plain"}, {**ENTRY, "name": "ink", "lora": "ink"}
    orders = first(Mix.load(written(tmp_path, plain, ink)), 100)
    assert {(order.kind, order.lora) for order in orders} == {("plain", ""), ("ink", "ink")}


def test_without_prompts_flux_tiny_is_asked_for_what_it_can_draw(tmp_path: Path) -> None:
    prompts = {order.prompt for order in first(Mix.load(written(tmp_path, ENTRY)), 100)}
    assert len(prompts) > 50 and prompts <= set(tiny_captions())
    assert set(tiny_captions()) <= {caption(scene) for scene in all_combinations()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 100}, r"entries\[0\].width: 100 is not a multiple of 16; must be pixels, a multiple of 16, from 64"),
        ({"height": 48}, r"entries\[0\].height: 48 is less than the minimum of 64"),
        ({"width": "128"}, r"entries\[0\].width: '128' is not of type 'integer'"),
        ({"weight": 0}, r"entries\[0\].weight: 0 is less than or equal to the minimum of 0"),
        ({"num_inference_steps": 0}, r"entries\[0\].num_inference_steps: 0 is less than the minimum of 1"),
        ({"num_inference_steps": [8, 4]}, r"num_inference_steps: is \[8, 4\]; must be \[low, high\]"),
        ({"num_inference_steps": [8]}, r"entries\[0\].num_inference_steps: \[8\] is too short"),
        ({"priority": 5}, r"entries\[0\].priority: 5 is greater than the maximum of 4"),
        ({"lora": ""}, r"entries\[0\].lora: '' should be non-empty; must be NAME or NAME:SCALE"),
        ({"lora": 3}, r"entries\[0\].lora: 3 is not of type 'string'"),
        ({"prompts": []}, r"entries\[0\].prompts: \[\] should be non-empty"),
        ({"prompts": "cats"}, r"entries\[0\].prompts: 'flux-tiny' was expected"),
        ({"stpes": 3}, r"entries\[0\]: .*'stpes' was unexpected"),
    ],
)
def test_a_bad_entry_is_refused_by_its_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=f"mix .*mine.json: .*{message}"):
        Mix.load(written(tmp_path, {**ENTRY, **change}))


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'a' is the name of two"):
        Mix.load(written(tmp_path, ENTRY, ENTRY))


def test_no_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"entries: \[\] should be non-empty"):
        Mix.load(written(tmp_path))


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="there is no 'unifrom'; must be bursty, dataset-c, dataset-c-tiny, uniform"):
        Mix.load("unifrom")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(BadInput, match=r"mix .*broken.json: cannot be read"):
        Mix.load(str(path))
