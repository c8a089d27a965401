"""A browser on the gateway's page: where it goes, and what can be seen there."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from tests.server import wire
from tests.server.servers import until
from tools.triton.installation import PROJECT
from tools.triton.ports import choose_port
from tools.triton.server import TritonServer

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
APPLE = "a large apple on a green background"
MORE = "Guidance", "LoRA", "Negative prompt", "True CFG", "Format", "Priority", "Deadline in ms"


@contextmanager
def gateway(server: TritonServer, **environment: str) -> Iterator[str]:
    """The command as a person starts it; gives its address."""
    port = choose_port("127.0.0.1", "http", 0, set())
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "fluxclient", "gateway", "--port", f"{port}"]
    command += ["--url", server.urls.grpc, "--metrics-url", server.urls.metrics]
    process = subprocess.Popen(command, cwd=PROJECT / "client", env={**os.environ, **environment})

    def answers() -> bool:
        assert process.poll() is None, f"the gateway exited with {process.returncode}"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=wire.ANSWER_S):
                return True
        except urllib.error.URLError:
            return False

    try:
        until(answers, "the gateway to answer")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=wire.ANSWER_S)


class Visit:
    """The page in a browser of its own, and what it must never do: complain, or ask another host for anything."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        self.context.set_default_timeout(1000 * wire.ANSWER_S)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error}"))
        self.page.on("request", self._asked)
        self.page.goto(url)

    def _heard(self, message: ConsoleMessage) -> None:
        # Chromium itself reports what is refused or out of reach: no fault of the page, which shows it.
        failed = message.text.startswith("Failed to load resource")
        refused = failed and message.location["url"].endswith(("/generations", "/edits", "/page/state"))
        if message.type in ("error", "warning") and not refused:
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", f"blob:{self.url}")):
            self.elsewhere.append(request.url)

    def leave(self) -> None:
        self.context.close()
        assert (self.complaints, self.elsewhere) == ([], [])

    def field(self, label: str) -> Locator:
        return self.page.locator("form").get_by_label(label, exact=True)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def fill(self, label: str, value: str) -> None:
        """A size that is no choice of the list goes where one's own is typed."""
        if label == "Size":
            choices = self.field("Size").locator("option").evaluate_all("options => options.map((one) => one.value)")
            self.field("Size").select_option(value if value in choices else "own")
            if value in choices:
                return
            label = "Width × height"
        if label in MORE:
            self.open_more()
        self.field(label).fill(value)

    def open_more(self) -> None:
        if not self.page.locator("#more").evaluate("more => more.open"):
            self.page.get_by_text("More options").click()

    def draw(self, prompt: str = APPLE, **options: str) -> None:
        for label, value in {"Prompt": prompt, **options}.items():
            self.fill(label, value)
        self.button("Draw").click()

    @property
    def stage(self) -> Locator:
        """The picture that is looked at, with what is known of it and can be done."""
        return self.page.locator("#stage")

    def tiles(self, state: str, count: int = 1) -> Locator:
        """Those of the pictures in this state, the newest first, once there are `count`."""
        tiles = self.page.locator(f".tile[data-state={state}]")
        expect(tiles).to_have_count(count)
        return tiles

    def settings(self, tile: Locator) -> dict[str, str]:
        """As they stand below the picture, which is looked at for it."""
        tile.click()
        labels, values = self.stage.locator("dt").all_inner_texts(), self.stage.locator("dd").all_inner_texts()
        return dict(zip(labels, values, strict=True))


def pixels(tile: Locator) -> list[int]:
    """As the browser has decoded them: RGBA of each."""
    read = """img => {
        const canvas = new OffscreenCanvas(img.naturalWidth, img.naturalHeight).getContext("2d");
        canvas.drawImage(img, 0, 0);
        return [...canvas.getImageData(0, 0, img.naturalWidth, img.naturalHeight).data];
    }"""
    values: list[int] = tile.locator("img").evaluate(read)
    return values


def distance(one: list[int], other: list[int]) -> int:
    """The most that a channel of any pixel differs, in levels of 255: up to 1 for a picture drawn in another batch."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


WATCH = """() => {
    window.seen = [];
    const look = () => {
        const stage = document.getElementById("stage");
        const bar = stage.querySelector("progress");
        const preview = stage.querySelector("img").src.startsWith("data:image/");
        const box = stage.querySelector("img").getBoundingClientRect();
        const place = [box.x, box.y, box.width, box.height].join();
        window.seen.push([stage.dataset.state, bar.position < 0 ? null : bar.value, bar.max, preview, place]);
    };
    const what = { subtree: true, childList: true, attributes: true };
    new MutationObserver(look).observe(document.querySelector("main"), what);
}"""
"""Notes how the stage changes, in the page itself: a look from here would miss the steps of a quick picture."""


COLOURS = """() => {
    // rgb(0 to 255), and color(srgb 0 to 1) of what is mixed, as under the mouse.
    const channels = (colour) => colour.match(/[\\d.]+/g)
        .map((channel) => colour.startsWith("color(srgb") ? 255 * channel : Number(channel));
    const behind = (element) => {
        const colour = channels(getComputedStyle(element).backgroundColor);
        return colour.length === 3 ? colour : behind(element.parentElement);
    };
    const found = [];
    for (const element of document.body.querySelectorAll("*")) {
        const text = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
            .map((node) => node.data.trim()).join("") || element.value || element.placeholder;
        if (!text || !element.checkVisibility()) continue;
        const pseudo = element.placeholder && !element.value ? "::placeholder" : undefined;
        found.push([`${text}`, channels(getComputedStyle(element, pseudo).color), behind(element)]);
    }
    return found;
}"""


def contrast(one: list[float], other: list[float]) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""

    def luminance(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def colours_of_texts(page: Page) -> list[tuple[str, list[float], list[float]]]:
    """Each text that is visible, its colour, and that of the nearest background behind it that is opaque."""
    found: list[tuple[str, list[float], list[float]]] = page.evaluate(COLOURS)
    return found
