"""The gateway's page in headless Chromium, as a person uses it, against flux-tiny on a real Triton."""

from __future__ import annotations

import os
import re
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
)
from tests.server.servers import settled, until, until_idle
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
    tile = visit.tiles("done").first
    expect(bar).to_be_hidden()

    seen = visit.page.evaluate("window.seen.filter(([state]) => state !== 'empty')")
    steps = [step for state, step, total, _, _ in seen if state == "drawing" and total == 40]
    assert seen[0][0] == "waiting" and seen[0][1] is None, "nothing is known of the progress at first"
    assert steps == sorted(steps) and len(set(steps)) > 10 and steps[-1] == 40
    assert any(preview for state, _, _, preview, _ in seen if state == "drawing")
    assert len({place for *_, place in seen}) == 1, "nothing moves while it is drawn"

    assert tile.locator("img").evaluate("img => [img.naturalWidth, img.naturalHeight]") == [128, 128]
    shown = visit.settings(tile)
    assert float(shown.pop("Time").split()[0]) > 0
    assert shown == {"Size": "128×128", "Steps": "40", "Guidance": "3.25", "Seed": "11", "Format": "png"}
    expect(visit.stage.locator(".prompt")).to_have_text(APPLE)
    expect(visit.page.get_by_role("status")).to_have_text(f"Done: {APPLE}")


def test_a_picture_has_its_own_size_or_a_multiple_and_is_enlarged(visit: Visit) -> None:
    box = "img => [img.getBoundingClientRect().width, getComputedStyle(img).imageRendering]"
    frame = visit.page.get_by_role("button", name="Enlarge the picture")
    viewer = visit.page.get_by_role("dialog")
    visit.draw(Size="512x512", Steps="1")
    visit.tiles("done")
    assert frame.locator("img").evaluate(box) == [512, "auto"]
    visit.draw(Size="128x128")
    visit.tiles("done", 2)
    assert frame.locator("img").evaluate(box) == [5 * 128, "pixelated"]

    frame.click()
    assert viewer.locator("img").evaluate(box) == [6 * 128, "pixelated"]
    expect(viewer.get_by_role("link", name="Download")).to_have_attribute("download", re.compile(r"^flux-\d+\.png$"))
    visit.page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(frame).to_be_focused()


def test_what_the_server_tells(visit: Visit) -> None:
    """Its model and state in the head, and its defaults as values."""
    head = visit.page.get_by_role("banner")
    expect(head).to_contain_text("flux-tiny")
    expect(head).to_contain_text("Ready")
    visit.open_more()
    values = {label: visit.field(label).input_value() for label in ("Size", "Steps", "Guidance", "Seed", "Pictures")}
    assert values == {"Size": "128x128", "Steps": "8", "Guidance": "3.5", "Seed": "", "Pictures": "1"}
    visit.page.get_by_role("radio", name="9:16").check()
    sizes = visit.field("Size").locator("option").evaluate_all("options => options.map((one) => one.value)")
    assert sizes == ["80x144", "96x176", "144x256", "192x336", "288x512", "own"], "within the server's 512x512"
    assert visit.field("Size").input_value() == "96x176"

    visit.draw(**LONG)
    expect(head).to_contain_text("Drawing 1")
    visit.button("Cancel").click()
    expect(head).to_contain_text("Ready")


def test_the_same_seed_again_and_a_new_one(visit: Visit) -> None:
    visit.draw()  # all by the server's defaults
    first = visit.settings(visit.tiles("done").first)
    visit.button("Run again").click()
    again, original = visit.tiles("done", 2).all()
    assert visit.settings(again)["Seed"] == first["Seed"]
    assert pixels(again) == pixels(original)

    visit.button("New seed").click()
    new = visit.tiles("done", 3).first
    assert visit.settings(new)["Seed"] != first["Seed"]
    assert distance(pixels(new), pixels(original)) > 1


def test_several_at_once_each_with_its_own_seed(visit: Visit) -> None:
    """Beyond the 53 bits that a number of JavaScript has."""
    visit.draw(Pictures="3", Seed="9007199254740992")
    tiles = visit.tiles("done", 3).all()
    assert [visit.settings(tile)["Seed"] for tile in tiles] == [f"{9007199254740992 + n}" for n in range(3)]
    pictures = [pixels(tile) for tile in tiles]
    assert min(distance(one, other) for one, other in combinations(pictures, 2)) > 1

    visit.draw("a small cat on a pink background", Pictures="1", Seed="9007199254740993")
    visit.draw(APPLE)
    apple, cat = visit.tiles("done", 5).all()[:2]
    assert distance(pixels(apple), pictures[1]) <= 1, "that of the three which had this seed"
    assert distance(pixels(cat), pixels(apple)) > 1


def test_cancelling_stops_the_server(visit: Visit, tiny: TritonServer) -> None:
    def cancelled() -> float:
        return settled(tiny).total("flux_dropped_images_total", {"cause": "cancelled"})

    before = cancelled()
    visit.draw(**LONG)
    visit.tiles("drawing")
    visit.button("Cancel").click()
    visit.tiles("cancelled")
    expect(visit.stage).to_be_focused()  # the button that had the focus is gone
    until(lambda: cancelled() == before + 1, "the server to have dropped the picture")
    until_idle(tiny)
    offered = visit.page.locator("#actions").get_by_role("button")
    assert [text.strip() for text in offered.all_inner_texts()] == ["Run again", "Edit", "Remove"]

    visit.draw(**LONG)
    visit.tiles("drawing")
    visit.page.reload()
    until(lambda: cancelled() == before + 2, "the server to have dropped the picture of the page that was left")


def test_what_is_wrong_stands_at_its_field_and_with_the_picture(visit: Visit) -> None:
    alert, wrong = visit.stage.get_by_role("alert"), visit.stage.locator(".wrong")
    visit.draw(Size="100x100", Pictures="4")
    visit.tiles("failed")  # one of the four: the others say the same
    size = visit.field("Width × height")
    expect(size).to_have_attribute("aria-invalid", "true")
    for place in (visit.page.locator("#size-fault"), alert):
        expect(place).to_contain_text("100")
        expect(place).to_contain_text("16")
    expect(wrong).to_have_text("Size100×100")

    size.fill("128x128")
    expect(size).not_to_have_attribute("aria-invalid", "true")
    expect(visit.page.locator("#size-fault")).to_be_hidden()
    visit.button("Remove").click()

    for label, value in {"Steps": "many", "Guidance": "31", "Seed": "-1"}.items():
        visit.draw(Pictures="1", **{label: value})
        visit.tiles("failed")
        expect(visit.field(label)).to_have_attribute("aria-invalid", "true")
        expect(wrong).to_have_text(f"{label}{value}")
        visit.field(label).fill("")
        visit.button("Remove").click()
    assert visit.page.locator(".tile").count() == 0


def test_by_keyboard_alone(visit: Visit) -> None:
    keys = visit.page.keyboard
    expect(visit.field("Prompt")).to_be_focused()
    keys.type(APPLE)
    keys.press("Control+Enter")
    visit.tiles("done")
    expect(visit.field("Prompt")).to_be_focused()

    labels = "Begin with a picture", "1:1", "Size", "Steps", "Seed", "Pictures", "More options", "Draw"
    for label in labels:
        keys.press("Tab")
        focused = visit.page.evaluate(
            "[document.activeElement.labels?.[0], document.activeElement].find(e => e?.innerText)?.innerText"
        )
        assert focused.strip() == label
        if label == "Size":
            keys.type("512")  # of the list's texts
        elif value := LONG.get(label):
            keys.type(value)
    keys.press("Enter")
    visit.tiles("drawing")
    keys.press("Tab")
    cancel = visit.button("Cancel")
    expect(cancel).to_be_focused()
    assert cancel.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    keys.press("Escape")
    visit.tiles("cancelled")
    expect(visit.stage).to_be_focused()

    for name in ("Run again", "Edit", "Remove"):
        keys.press("Tab")
        expect(visit.button(name)).to_be_focused()
    keys.press("Tab")
    keys.press("ArrowRight")  # to the older one
    expect(visit.page.locator(".tile").nth(1)).to_be_focused()
    expect(visit.stage).to_have_attribute("data-state", "done")


def test_edit_brings_the_settings_back(visit: Visit) -> None:
    visit.draw(Steps="5", Size="64x64", Seed="3", Guidance="2")
    visit.tiles("done")
    visit.draw(Steps="", Size="256x256", Seed="", Guidance="")
    visit.tiles("done", 2).nth(0)
    visit.page.locator(".tile").nth(1).click()
    visit.button("Edit").click()
    expect(visit.field("Prompt")).to_be_focused()
    values = {label: visit.field(label).input_value() for label in ("Prompt", "Size", "Steps", "Guidance", "Seed")}
    assert values == {"Prompt": APPLE, "Size": "64x64", "Steps": "5", "Guidance": "2", "Seed": "3"}


def test_a_picture_that_begins_with_another(visit: Visit) -> None:
    file: FilePayload = {"name": "in.png", "mimeType": "image/png", "buffer": source()}
    field, thumbnail = visit.field("Begin with a picture"), visit.page.locator("#thumbnail")
    expect(visit.field("Strength")).to_be_hidden()
    field.set_input_files(file)
    expect(thumbnail).to_be_visible()
    visit.draw(Steps="10", Strength="0.5", Seed="3")
    first = visit.tiles("done").first
    shown = visit.settings(first)
    assert (shown["Begin with"], shown["Strength"], shown["Steps"], shown["Seed"]) == ("in.png", "0.5", "10", "3")

    visit.button("Run again").click()
    again, original = visit.tiles("done", 2).all()
    assert distance(pixels(again), pixels(original)) <= 1

    visit.button("Begin without it").click()
    visit.draw()
    plain = visit.tiles("done", 3).first
    assert "Begin with" not in visit.settings(plain)
    assert distance(pixels(plain), pixels(original)) > 1
    original.click()
    visit.button("Edit").click()
    assert field.evaluate("field => field.files[0].name") == "in.png"
    plain.click()
    visit.button("Edit").click()
    assert field.evaluate("field => field.files.length") == 0

    transfer = visit.page.evaluate_handle(
        """([bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        [list(source())],
    )
    visit.page.dispatch_event("main", "drop", {"dataTransfer": transfer})  # anywhere
    expect(thumbnail).to_be_visible()
    expect(visit.page.locator("#file")).to_contain_text("dropped.png")

    notes: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"of mine"}
    field.set_input_files(notes)
    expect(thumbnail).to_be_hidden()
    visit.draw()
    visit.tiles("failed")
    expect(visit.stage.get_by_role("alert")).to_contain_text("no PNG, JPEG or WebP file")
    expect(field).to_have_attribute("aria-invalid", "true")


def test_negative_prompts_and_loras(visit: Visit) -> None:
    visit.draw(**{"Seed": "3", "True CFG": "3"})
    visit.tiles("done")  # away from the empty prompt
    visit.draw(**{"Negative prompt": "a large apple on a white background"})
    guided, empty = visit.tiles("done", 2).all()
    assert distance(pixels(guided), pixels(empty)) > 1
    shown = visit.settings(guided)
    assert (shown["True CFG"], shown["Negative prompt"]) == ("3", "a large apple on a white background")
    assert "Negative prompt" not in visit.settings(empty)

    expect(visit.page.get_by_text("More options")).to_contain_text("2 set")
    visit.draw(LoRA="nobody")
    visit.tiles("failed")
    expect(visit.stage.locator(".wrong")).to_have_text("LoRAnobody")
    expect(visit.field("LoRA")).to_have_attribute("aria-invalid", "true")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_download(visit: Visit, format: str) -> None:
    visit.open_more()
    visit.field("Format").select_option(format)
    visit.draw(Seed="5")
    visit.tiles("done")
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
        visit.tiles("failed", 2)
        expect(visit.field("API key")).to_be_focused()
        visit.field("API key").fill("wrong")
        visit.button("Use key").click()
        expect(visit.field("API key")).to_be_focused()
        visit.field("API key").fill("open-sesame")
        visit.button("Use key").click()
        visit.tiles("done", 2)  # those that were refused
        visit.page.reload()
        visit.draw()
        visit.tiles("done")
        expect(visit.field("API key")).to_be_hidden()
        visit.leave()


def test_a_gateway_that_is_gone(browser: Browser, tiny: TritonServer) -> None:
    with gateway(tiny) as url:
        visit = Visit(browser, url)
    visit.draw()
    visit.tiles("failed")
    expect(visit.stage.get_by_role("alert")).to_contain_text("connection failed")
    expect(visit.page.get_by_role("banner")).to_contain_text("Gateway not reached")
    visit.leave()


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}


def test_on_a_phone(browser: Browser, url: str) -> None:
    visit = Visit(browser, url, **PHONE)
    expect(visit.page.get_by_text("draws,")).to_be_hidden()  # no keys to press
    visit.draw("an apple " + "so_long_that_no_phone_has_room_for_it_" * 4)
    visit.tiles("done")

    def top(selector: str) -> float:
        box = visit.page.locator(selector).bounding_box()
        assert box is not None
        return box["y"]

    assert top("#frame") < top("#actions") < top("#prompt"), "the picture first"
    width = visit.page.locator("#frame img").evaluate("img => img.getBoundingClientRect().width")
    assert width == 5 * 128 / 2, "five pixels of this screen for each"
    boxes = [button.bounding_box() for button in visit.page.locator("#actions > :visible").all()]
    assert len(boxes) == 5 and len({box["y"] for box in boxes if box}) == 1, "in one row"
    assert all(box and min(box["width"], box["height"]) >= 44 for box in boxes), "as large as a finger"
    visit.draw(Size="100x100")
    visit.tiles("failed")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.page.evaluate("visualViewport.width") == 390, "nothing makes the page wider than the phone"
    visit.leave()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> None:
    """WCAG AA: 4.5 for text, against the nearest background behind it that is opaque."""
    visit = Visit(browser, url, color_scheme=scheme)
    visit.open_more()
    visit.draw()
    visit.tiles("done")
    texts = colours_of_texts(visit.page)
    visit.draw(Size="100x100")
    visit.tiles("failed")
    texts += colours_of_texts(visit.page)
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
    visit.tiles("done", len(scenes))
    visit.draw(APPLE, **LONG)
    visit.page.locator("#stage[data-state=drawing].pictured").wait_for()
    SCREENSHOT.parent.mkdir(exist_ok=True)
    visit.page.screenshot(path=SCREENSHOT)
    with Image.open(SCREENSHOT) as screenshot:
        assert screenshot.size == (1440, 1000)
        assert len(screenshot.convert("RGB").getcolors(1 << 24) or ()) > 1000, "pictures are seen on it"
    visit.leave()
