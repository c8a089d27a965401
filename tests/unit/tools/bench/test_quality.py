from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tools.bench.load import Answered, Load
from tools.bench.quality import SAME_DB, judge
from tools.bench.soak import bodies, growth
from tools.bench.traffic import Wanted, held_out_traffic
from tools.tiny_flux.pictures import PICTURE_SIZE, compose
from tools.tiny_flux.prompts import SIZES, all_combinations, caption
from tools.tiny_flux.recognise import Recogniser


def answered(wanted: Wanted, picture: Image.Image) -> Answered:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Answered(wanted, 1.0, file.getvalue())


def true_pictures(wanted: list[Wanted]) -> list[Image.Image]:
    scenes = {caption(scene): scene for scene in all_combinations()}
    draw = Recogniser()._draw
    found = [scenes[one.prompt] for one in wanted]
    return [compose(draw(scene.subject, SIZES[scene.size]), scene.background) for scene in found]


def test_true_pictures_are_right_and_others_are_not() -> None:
    wanted = held_out_traffic(12, steps=8, seed=1)
    pictures = true_pictures(wanted)
    right = judge(Load([answered(*pair) for pair in zip(wanted, pictures, strict=True)], 0, 1.0), None)
    assert (right.background_right, right.subject_right, right.psnr_db) == (1.0, 1.0, None)
    moved = [*pictures[1:], pictures[0]]
    wrong = judge(Load([answered(*pair) for pair in zip(wanted, moved, strict=True)], 0, 1.0), right)
    assert wrong.subject_right < 0.2
    assert wrong.psnr_db is not None and wrong.psnr_db < 30


def test_the_same_pictures_are_told_apart_from_nearly_the_same() -> None:
    (wanted,) = held_out_traffic(1, steps=8, seed=1)
    plain = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), (100, 100, 100))
    one_off = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), (101, 101, 101))
    reference = judge(Load([answered(wanted, plain)], 0, 1.0), None)
    assert judge(Load([answered(wanted, plain)], 0, 1.0), reference).psnr_db == SAME_DB
    off = judge(Load([answered(wanted, one_off)], 0, 1.0), reference)
    assert off.psnr_db == pytest.approx(10 * np.log10(255**2))


def test_held_out_prompts_are_those_of_a_seed_and_no_two_alike() -> None:
    one, again, other = (held_out_traffic(20, steps=28, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len({wanted.prompt for wanted in one}) == 20
    assert {wanted.num_inference_steps for wanted in one} == {28}


def test_growth_is_told_from_what_is_used_for_the_first_time() -> None:
    settled = [(done, 100 if done > 400 else done // 4) for done in range(50, 2001, 50)]
    assert growth(settled, 2000) == 0
    leaking = [(done, 100_000 + done * 10) for done in range(50, 2001, 50)]
    assert growth(leaking, 2000) > 0.05


def test_a_soak_has_requests_of_every_kind() -> None:
    sent = list(bodies(400))
    assert len(sent) == 400
    for name in ("lora", "negative_prompt", "image", "leaves"):
        assert 5 <= sum(name in body for body in sent) < 200
    assert len({(body["height"], body["width"]) for body in sent}) == 4
