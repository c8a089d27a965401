"""The gateway's page in headless Chromium, as a person uses it, against flux-tiny on a real Triton."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import combinations
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, expect, sync_playwright

from tests.server import wire
from tests.server.browsing import (
    APPLE,
    ARGUMENTS,
    WATCH,
    Visit,
    colours_of_texts,
    contrast,
    distance,
    gateway,
    pixels,
    settings,
)
from tests.server.servers import settled, started, until, until_idle
from tests.server.source_picture import source
from tools.triton.installation import PROJECT
from tools.triton.server import TritonServer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium, or set CHROMIUM to its path"
)

SCREENSHOT = PROJECT / "out" / "page.png"
LONG = {"Steps": "100", "Size": "512x512"}


@pytest.fixture(scope="module")
def tiny() -> Iterator[TritonServer]:
    with started() as server:
        yield server


@pytest.fixture(scope="module")
def url(tiny: TritonServer) -> Iterator[str]:
    with gateway(tiny) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        expect.set_options(timeout=1000 * wire.ANSWER_S)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    visit = Visit(browser, url)
    yield visit
    visit.leave()


def test_progress_and_previews_until_the_picture_is_there(visit: Visit) -> None:
    visit.page.evaluate(WATCH)
    visit.draw(Steps="40", Guidance="3.25", Seed="11")
    bar = visit.page.get_by_role("progressbar", name="Progress")
    expect(bar).to_be_visible()
    card = visit.cards("done").first
    expect(bar).to_be_hidden()

    seen = visit.page.evaluate("window.seen")
    steps = [step for state, step, total, _ in seen if state == "drawing" and total == 40]
    assert seen[0][0] == "waiting" and seen[0][1] is None, "nothing is known of the progress at first"
    assert steps == sorted(steps) and len(set(steps)) > 10 and steps[-1] == 40
    assert any(preview for state, _, _, preview in seen if state == "drawing")

    assert card.locator("img").evaluate("img => [img.naturalWidth, img.naturalHeight]") == [128, 128]
    shown = settings(card)
    assert float(shown.pop("Time").split()[0]) > 0
    assert shown == {"Size": "128×128", "Steps": "40", "Guidance": "3.25", "Seed": "11", "Format": "png"}
    expect(card.locator(".prompt")).to_have_text(APPLE)
    expect(visit.page.get_by_role("status")).to_have_text(f"Done: {APPLE}")


def test_the_same_seed_again_and_a_new_one(visit: Visit) -> None:
    visit.draw()  # all by the server's defaults
    first = settings(visit.cards("done").first)
    visit.button("Run again").click()
    again, original = visit.cards("done", 2).all()
    assert settings(again)["Seed"] == first["Seed"]
    assert pixels(again) == pixels(original)

    again.get_by_role("button", name="New seed").click()
    new = visit.cards("done", 3).first
    assert settings(new)["Seed"] != first["Seed"]
    assert distance(pixels(new), pixels(original)) > 1


def test_several_at_once_each_with_its_own_seed(visit: Visit) -> None:
    """Beyond the 53 bits that a number of JavaScript has."""
    visit.draw(Pictures="3", Seed="9007199254740992")
    cards = visit.cards("done", 3).all()
    assert [settings(card)["Seed"] for card in cards] == [f"{9007199254740992 + n}" for n in range(3)]
    pictures = [pixels(card) for card in cards]
    assert min(distance(one, other) for one, other in combinations(pictures, 2)) > 1

    visit.draw("a small cat on a pink background", Pictures="1", Seed="9007199254740993")
    visit.draw(APPLE)
    cat, apple = sorted(visit.cards("done", 5).all()[:2], key=lambda card: card.inner_text().find("apple"))
    assert distance(pixels(apple), pictures[1]) <= 1, "that of the three which had this seed"
    assert distance(pixels(cat), pixels(apple)) > 1


def test_cancelling_stops_the_server(visit: Visit, tiny: TritonServer) -> None:
    def cancelled() -> float:
        return settled(tiny).total("flux_dropped_images_total", {"cause": "cancelled"})

    before = cancelled()
    visit.draw(**LONG)
    visit.cards("drawing").get_by_role("button", name="Cancel").click()
    card = visit.cards("cancelled")
    expect(card).to_be_focused()  # the button that had the focus is gone
    until(lambda: cancelled() == before + 1, "the server to have dropped the picture")
    until_idle(tiny)
    assert card.get_by_role("button").all_inner_texts() == ["Run again", "Edit", "Remove"]

    visit.draw(**LONG)
    visit.cards("drawing")
    visit.page.reload()
    until(lambda: cancelled() == before + 2, "the server to have dropped the picture of the page that was left")


def test_what_is_wrong_stands_at_its_field_and_in_the_card(visit: Visit) -> None:
    visit.draw(Size="100x100", Pictures="4")
    card = visit.cards("failed")  # one of the four: the others say the same
    size = visit.field("Size")
    expect(size).to_have_attribute("aria-invalid", "true")
    for place in (visit.page.locator("#size-fault"), card.get_by_role("alert")):
        expect(place).to_contain_text("100")
        expect(place).to_contain_text("16")
    expect(card.locator(".wrong")).to_have_text("Size100x100")

    size.fill("128x128")
    expect(size).not_to_have_attribute("aria-invalid", "true")
    expect(visit.page.locator("#size-fault")).to_be_hidden()
    card.get_by_role("button", name="Remove").click()

    for label, value in {"Steps": "many", "Guidance": "31", "Seed": "-1"}.items():
        visit.draw(Pictures="1", **{label: value})
        card = visit.cards("failed")
        expect(visit.field(label)).to_have_attribute("aria-invalid", "true")
        expect(card.locator(".wrong")).to_have_text(f"{label}{value}")
        visit.field(label).fill("")
        card.get_by_role("button", name="Remove").click()
    assert visit.page.locator(".card").count() == 0


def test_by_keyboard_alone(visit: Visit) -> None:
    keys = visit.page.keyboard
    expect(visit.field("Prompt")).to_be_focused()
    keys.type(APPLE)
    keys.press("Control+Enter")
    visit.cards("done")
    expect(visit.field("Prompt")).to_be_focused()

    options = "Size", "Steps", "Guidance", "Seed", "Pictures", "Format"
    more = "LoRA", "True CFG", "Negative prompt", "Begin with", "Strength"
    for label in ("Options", *options, *more, "Draw"):
        keys.press("Tab")
        focused = visit.page.evaluate(
            "[document.activeElement.labels?.[0], document.activeElement].find(e => e?.innerText)?.innerText"
        )
        assert focused == label
        if value := LONG.get(label):
            keys.type(value)
    keys.press("Enter")
    drawing = visit.cards("drawing")
    keys.press("Tab")
    expect(drawing).to_be_focused()
    assert drawing.evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
    keys.press("Escape")
    expect(visit.cards("cancelled")).to_be_focused()

    for _ in range(2):
        keys.press("Tab")
    expect(visit.button("Edit").first).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")  # Remove
    expect(visit.cards("done")).to_be_focused()


def test_edit_brings_the_settings_back(visit: Visit) -> None:
    visit.draw(Steps="5", Size="64x64", Seed="3")
    visit.cards("done")
    for label in ("Prompt", "Steps", "Size", "Seed"):
        visit.field(label).fill("")
    visit.button("Edit").click()
    expect(visit.field("Prompt")).to_be_focused()
    values = {label: visit.field(label).input_value() for label in ("Prompt", "Size", "Steps", "Guidance", "Seed")}
    assert values == {"Prompt": APPLE, "Size": "64x64", "Steps": "5", "Guidance": "", "Seed": "3"}


def test_a_picture_that_begins_with_another(visit: Visit) -> None:
    file: FilePayload = {"name": "in.png", "mimeType": "image/png", "buffer": source()}
    visit.field("Begin with").set_input_files(file)
    visit.draw(Steps="10", Strength="0.5", Seed="3")
    first = visit.cards("done").first
    shown = settings(first)
    assert (shown["Begin with"], shown["Strength"], shown["Steps"], shown["Seed"]) == ("in.png", "0.5", "10", "3")

    visit.button("Run again").click()
    again, original = visit.cards("done", 2).all()
    assert distance(pixels(again), pixels(original)) <= 1

    visit.field("Begin with").set_input_files([])
    visit.field("Strength").fill("")
    visit.draw()
    plain = visit.cards("done", 3).first
    assert "Begin with" not in settings(plain)
    assert distance(pixels(plain), pixels(original)) > 1
    original.get_by_role("button", name="Edit").click()
    assert visit.field("Begin with").evaluate("field => field.files[0].name") == "in.png"
    plain.get_by_role("button", name="Edit").click()
    assert visit.field("Begin with").evaluate("field => field.files.length") == 0

    notes: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"of mine"}
    visit.field("Begin with").set_input_files(notes)
    visit.draw()
    expect(visit.cards("failed").get_by_role("alert")).to_contain_text("no PNG, JPEG or WebP file")
    expect(visit.field("Begin with")).to_have_attribute("aria-invalid", "true")


def test_negative_prompts_and_loras(visit: Visit) -> None:
    visit.draw(**{"Seed": "3", "True CFG": "3"})
    visit.cards("done")  # away from the empty prompt
    visit.draw(**{"Negative prompt": "a large apple on a white background"})
    guided, empty = visit.cards("done", 2).all()
    assert distance(pixels(guided), pixels(empty)) > 1
    shown = settings(guided)
    assert (shown["True CFG"], shown["Negative prompt"]) == ("3", "a large apple on a white background")
    assert "Negative prompt" not in settings(empty)

    visit.draw(LoRA="nobody")
    expect(visit.cards("failed").locator(".wrong")).to_have_text("LoRAnobody")
    expect(visit.field("LoRA")).to_have_attribute("aria-invalid", "true")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_download(visit: Visit, format: str) -> None:
    visit.field("Format").select_option(format)
    visit.draw(Seed="5")
    visit.cards("done")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"flux-5.{format}"
    with Image.open(download.value.path()) as picture:
        assert (picture.format, picture.size) == (format.upper(), (128, 128))


def test_a_key_is_asked_for_only_when_it_is_needed(browser: Browser, tiny: TritonServer) -> None:
    with gateway(tiny, FLUXCLIENT_GATEWAY_KEYS="open-sesame") as url:
        visit = Visit(browser, url)
        expect(visit.field("API key")).to_be_hidden()
        visit.draw(Pictures="2")
        visit.cards("failed", 2)
        expect(visit.field("API key")).to_be_focused()
        visit.field("API key").fill("wrong")
        visit.button("Use key").click()
        expect(visit.field("API key")).to_be_focused()
        visit.field("API key").fill("open-sesame")
        visit.button("Use key").click()
        visit.cards("done", 2)  # those that were refused
        visit.page.reload()
        visit.draw()
        visit.cards("done")
        expect(visit.field("API key")).to_be_hidden()
        visit.leave()


def test_a_gateway_that_is_gone(browser: Browser, tiny: TritonServer) -> None:
    with gateway(tiny) as url:
        visit = Visit(browser, url)
    visit.draw()
    expect(visit.cards("failed").get_by_role("alert")).to_contain_text("connection failed")
    assert len(visit.complaints) == 0
    visit.leave()


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_on_a_phone(browser: Browser, url: str) -> None:
    visit = Visit(browser, url, **PHONE)
    expect(visit.field("Size")).to_be_hidden()
    visit.draw("an apple " + "so_long_that_no_phone_has_room_for_it_" * 4)
    card = visit.cards("done")
    visit.page.get_by_text("Options").tap()
    visit.draw(Size="100x100")
    visit.cards("failed")
    expect(visit.field("Size")).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    width = visit.page.evaluate("visualViewport.width")
    assert width == 390, "nothing makes the page wider than the phone"
    box = card.bounding_box()
    assert box is not None and box["width"] > 340, "one column"
    visit.leave()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> None:
    """WCAG AA: 4.5 for text, against the nearest background behind it that is opaque."""
    visit = Visit(browser, url, color_scheme=scheme)
    visit.draw()
    visit.cards("done")
    visit.draw(Size="100x100")
    visit.cards("failed")
    texts = colours_of_texts(visit.page)
    assert len(texts) > 30
    too_weak = {text: ratio for text, ink, behind in texts if (ratio := contrast(ink, behind)) < 4.5}
    assert too_weak == {}
    visit.leave()


def test_as_it_looks(browser: Browser, url: str) -> None:
    """Keeps out/page.png: pictures that are done, and one on its way."""
    visit = Visit(browser, url, viewport={"width": 1440, "height": 1000}, device_scale_factor=1)
    scenes = "owl on a blue", "cat on a pink", "rocket on a white", "pizza on a yellow", "panda on a cyan"
    for scene in scenes:
        visit.draw(f"a large {scene} background")
    visit.cards("done", len(scenes))
    visit.draw(APPLE, **LONG)
    visit.page.locator(".card[data-state=drawing].pictured").wait_for()
    SCREENSHOT.parent.mkdir(exist_ok=True)
    visit.page.screenshot(path=SCREENSHOT)
    with Image.open(SCREENSHOT) as screenshot:
        assert screenshot.size == (1440, 1000)
        assert len(screenshot.convert("RGB").getcolors(1 << 24) or ()) > 1000, "pictures are seen on it"
    visit.leave()
