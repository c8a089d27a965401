"""What flux-tiny can draw and how one asks for it. Standard library only, so that tests may import it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (255, 145, 0),
    "yellow": (255, 224, 60),
    "green": (46, 150, 60),
    "cyan": (60, 210, 225),
    "blue": (40, 80, 215),
    "purple": (125, 50, 175),
    "pink": (255, 155, 195),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
"""Backgrounds and shape colours: name to sRGB."""

SIZES: dict[str, int] = {"small": 48, "medium": 72, "large": 96}
"""Longest side of the thing, in pixels of a 128×128 picture."""

SHAPES = ("circle", "square", "triangle", "star", "diamond")

THINGS: dict[str, str] = {
    "apple": "🍎",
    "banana": "🍌",
    "grapes": "🍇",
    "strawberry": "🍓",
    "pineapple": "🍍",
    "watermelon": "🍉",
    "carrot": "🥕",
    "corn": "🌽",
    "mushroom": "🍄",
    "pizza": "🍕",
    "hamburger": "🍔",
    "cake": "🎂",
    "donut": "🍩",
    "avocado": "🥑",
    "broccoli": "🥦",
    "cheese": "🧀",
    "icecream": "🍦",
    "car": "🚗",
    "bus": "🚌",
    "bicycle": "🚲",
    "rocket": "🚀",
    "ship": "🚢",
    "sailboat": "⛵",
    "train": "🚂",
    "tractor": "🚜",
    "helicopter": "🚁",
    "cat": "🐱",
    "frog": "🐸",
    "pig": "🐷",
    "panda": "🐼",
    "lion": "🦁",
    "fish": "🐠",
    "octopus": "🐙",
    "butterfly": "🦋",
    "bee": "🐝",
    "snail": "🐌",
    "turtle": "🐢",
    "elephant": "🐘",
    "whale": "🐳",
    "penguin": "🐧",
    "owl": "🦉",
    "crab": "🦀",
    "ladybug": "🐞",
    "dinosaur": "🦕",
    "tree": "🌳",
    "cactus": "🌵",
    "sunflower": "🌻",
    "rose": "🌹",
    "pumpkin": "🎃",
    "snowman": "⛄",
    "rainbow": "🌈",
    "fire": "🔥",
    "umbrella": "☂",
    "house": "🏠",
    "key": "🔑",
    "clock": "⏰",
    "book": "📕",
    "guitar": "🎸",
    "drum": "🥁",
    "bell": "🔔",
    "gift": "🎁",
    "crown": "👑",
    "robot": "🤖",
    "anchor": "⚓",
}
"""Things of the emoji font: name to its character."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bike",),
    "broccoli": ("vegetable",),
    "cake": ("birthday cake",),
    "car": ("automobile",),
    "cat": ("kitten", "kitty"),
    "clock": ("alarm clock",),
    "donut": ("doughnut",),
    "fire": ("flame",),
    "gift": ("present",),
    "hamburger": ("burger",),
    "house": ("home",),
    "icecream": ("ice cream",),
    "ladybug": ("ladybird",),
    "pig": ("piglet",),
    "rocket": ("spaceship",),
    "sailboat": ("boat",),
    "train": ("locomotive",),
    "tree": ("oak",),
    "large": ("big", "huge"),
    "medium": ("normal", "middle-sized"),
    "small": ("little", "tiny"),
    "background": ("backdrop", "ground"),
}

FILLERS = (
    "a picture of",
    "a photo of",
    "a drawing of",
    "an image of",
    "an emoji of",
    "please draw",
    "draw",
    "show me",
    "there is",
    "I want",
)

_HELD_OUT_PERCENT = 12


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing or shape of one size on one background."""

    thing: str
    colour: str | None  # of a shape; None for the things of the font, which have their own colours
    background: str
    size: str

    @property
    def subject(self) -> str:
        """What is to be recognised: "apple", "red circle"."""
        return f"{self.colour} {self.thing}" if self.colour else self.thing

    @property
    def held_out(self) -> bool:
        """Whether training never shows this combination (about 12 % of all, fixed by a checksum)."""
        key = f"{self.subject}/{self.background}/{self.size}"
        return zlib.crc32(key.encode()) % 100 < _HELD_OUT_PERCENT


def subjects() -> list[str]:
    """Every subject in a fixed order: the things, then each shape in each colour."""
    return [*THINGS, *(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)]


def all_combinations() -> Iterator[Scene]:
    """Every scene. A shape never has the colour of its background."""
    for thing in THINGS:
        for background in COLOURS:
            for size in SIZES:
                yield Scene(thing, None, background, size)
    for shape in SHAPES:
        for colour in COLOURS:
            for background in COLOURS:
                if colour != background:
                    for size in SIZES:
                        yield Scene(shape, colour, background, size)


def held_out_combinations() -> list[Scene]:
    """The scenes that training does not show."""
    return [scene for scene in all_combinations() if scene.held_out]


def caption(scene: Scene) -> str:
    """The plain caption: "a large apple on a green background"."""
    return f"a {scene.size} {scene.subject} on {_article(scene.background)} background"


def varied_caption(scene: Scene, rng: random.Random) -> str:
    """A caption as a user may phrase it: order, synonyms, fillers, unknown words, sometimes without the size.

    Half of all are the plain caption. The subject and the background are always named.
    """
    if rng.random() < 0.5:
        return caption(scene)
    thing = _word(scene.thing, rng)
    subject = f"{scene.colour} {thing}" if scene.colour else thing
    size = _word(scene.size, rng)
    background = _word("background", rng)
    on = rng.choice(("on", "on", "against", "over", "in front of"))
    place = f"{on} {_article(scene.background)} {background}" if rng.random() < 0.7 else f"{on} {scene.background}"
    form = rng.randrange(6)
    if form == 0:
        text = f"{_article(subject)}, {size}, {place}"
    elif form == 1:
        text = f"{size} {subject} {place}"
    elif form == 2:
        text = f"{_article(scene.background)} {background} with a {size} {subject}"
    elif form == 3:
        text = f"{_article(subject)} {place}"
    elif form == 4:
        text = f"{subject}, {size}, {scene.background} {background}"
    else:
        text = f"a {size} {subject} {place}"
    if rng.random() < 0.3:
        text = f"{rng.choice(FILLERS)} {text}"
    if rng.random() < 0.3:
        text = _with_unknown_words(text, rng)
    if rng.random() < 0.2:
        text = text.capitalize()
    if rng.random() < 0.2:
        text += "."
    return text


def vocabulary() -> list[str]:
    """Every word that the captions use, in lower case, and the punctuation; sorted, so that ids are stable."""
    phrases = [*THINGS, *SHAPES, *COLOURS, *SIZES, *FILLERS, "background"]
    phrases += [synonym for synonyms in SYNONYMS.values() for synonym in synonyms]
    phrases += ["a an the on in at of and with against over front is it to some very", "middle sized"]
    return sorted({word for phrase in phrases for word in phrase.lower().replace("-", " ").split()} | {",", ".", "-"})


def _word(name: str, rng: random.Random) -> str:
    """The name itself, or one of its synonyms."""
    return rng.choice((name, name, *SYNONYMS.get(name, ())))


def _with_unknown_words(text: str, rng: random.Random) -> str:
    """The text with one or two words that nobody knows, which the model learns to pass over."""
    words = text.split()
    for _ in range(rng.randint(1, 2)):
        unknown = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9)))
        words.insert(rng.randrange(len(words) + 1), unknown)
    return " ".join(words)


def _article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
