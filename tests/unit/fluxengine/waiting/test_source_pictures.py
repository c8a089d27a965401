"""Pictures that requests start from: how many are decoded ahead, and for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest

from fluxengine.errors import InvalidArgument
from fluxengine.job import Ticket
from fluxengine.waiting import source_pictures
from fluxengine.waiting.source_pictures import SourcePictures
from fluxengine.wire.picture_files import Picture, decode_picture, encode_picture
from tests.unit.fluxengine.answers import PATIENCE_S, Answer, eventually, request

MAX_BATCH = 2


def file(shade: int) -> bytes:
    return encode_picture(np.full((8, 8, 3), shade, np.uint8), "png")


def ticket(shade: int = 1, **options: object) -> Ticket:
    return Ticket(request(image=file(shade), **options), Answer())  # type: ignore[arg-type]


class Decoder:
    """Decodes when it is let."""

    def __init__(self, decode: Callable[[bytes, tuple[int, int]], Picture]) -> None:
        self.files: list[bytes] = []
        self.let = threading.Event()
        self._decode = decode

    def __call__(self, file: bytes, size: tuple[int, int]) -> Picture:
        self.files.append(file)
        assert self.let.wait(PATIENCE_S)
        return self._decode(file, size)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    decoder = Decoder(decode_picture)
    monkeypatch.setattr("fluxengine.waiting.source_pictures.decode_picture", decoder)
    yield decoder
    decoder.let.set()


@pytest.fixture
def pictures() -> Iterator[SourcePictures]:
    pictures = SourcePictures(MAX_BATCH, lambda: None)
    yield pictures
    pictures.close()


def decoded(pictures: SourcePictures, tickets: list[Ticket]) -> list[bool]:
    pictures.start_some()
    return [pictures.decoded(ticket) for ticket in tickets]


def test_as_many_as_a_batch_has_are_decoded_ahead_and_more_once_those_are_under_way(pictures: SourcePictures) -> None:
    tickets = [ticket(n, arrival_s=n) for n in range(5)]
    for its in reversed(tickets):
        pictures.add(its)
    eventually(lambda: decoded(pictures, tickets) == [True, True, False, False, False], "the first two")
    taken = pictures.take(tickets[0])
    assert [picture.max() for picture in taken.values()] == [0]
    tickets[0].jobs[0].encoded = True
    eventually(lambda: decoded(pictures, tickets[1:]) == [True, True, False, False], "the next one")
    tickets[1].end()
    pictures.forget(tickets[1])
    eventually(lambda: decoded(pictures, tickets[2:]) == [True, True, False], "the one after that")


def test_nobody_waits_for_those_of_another_size(pictures: SourcePictures) -> None:
    large = [ticket(n, size=(128, 128)) for n in range(3)]
    small = ticket(9, size=(64, 64))
    for its in (*large, small):
        pictures.add(its)
    eventually(lambda: decoded(pictures, [small]) == [True], "the small one")
    assert pictures.take(small).keys() == {(file(9), (64, 64))}


def test_the_more_urgent_do_not_wait_for_room(pictures: SourcePictures) -> None:
    waiting = [ticket(n, arrival_s=10 + n) for n in range(3)]
    for its in waiting:
        pictures.add(its)
    eventually(lambda: decoded(pictures, waiting) == [True, True, False], "two of them")
    urgent = ticket(7, priority=1, arrival_s=12)
    pictures.add(urgent)
    eventually(lambda: decoded(pictures, [urgent]) == [True], "the urgent one")
    assert decoded(pictures, waiting) == [True, True, False]


def test_one_file_of_one_size_is_decoded_once_for_all_rows(pictures: SourcePictures, decoder: Decoder) -> None:
    decoder.let.set()
    both = Ticket(request("a fox", "a cat", image=file(3)), Answer())
    pictures.add(both)
    eventually(lambda: decoded(pictures, [both]) == [True], "both rows")
    assert decoder.files == [file(3)]


def test_what_has_not_begun_for_a_request_that_ended_never_does(pictures: SourcePictures, decoder: Decoder) -> None:
    three = Ticket(request("a", "b", "c", images=1), Answer())
    rows = tuple(row for n in range(3) for row in request(image=file(n)).rows)
    three.request = request()
    object.__setattr__(three.request, "rows", rows)
    pictures.add(three)
    pictures.start_some()
    eventually(lambda: len(decoder.files) == source_pictures.WORKERS, "all workers to be at it")
    futures = list(pictures._decoding[three].values())
    pictures.forget(three)
    decoder.let.set()
    with pytest.raises(CancelledError):
        futures[-1].result()
    assert len(decoder.files) == source_pictures.WORKERS


def test_a_broken_file_says_so_when_it_is_taken(pictures: SourcePictures) -> None:
    broken = Ticket(request(image=file(1)[:40]), Answer())
    pictures.add(broken)
    eventually(lambda: decoded(pictures, [broken]) == [True], "an end")
    with pytest.raises(InvalidArgument, match="image: "):
        pictures.take(broken)
