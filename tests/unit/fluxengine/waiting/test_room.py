from __future__ import annotations

import pytest

from fluxengine.errors import Overloaded
from fluxengine.job import Ticket
from fluxengine.waiting.room import Room
from tests.unit.fluxengine.answers import Answer, request

MEGABYTE = 2**20


def ticket(megabytes: int = 0, images: int = 1) -> Ticket:
    return Ticket(request(image=bytes(megabytes * MEGABYTE), images=images), Answer())


def test_images_count() -> None:
    room = Room(max_images=3, max_upload_mb=1)
    room.take(ticket(images=2))
    assert not room.is_full
    room.take(ticket(images=2))
    assert room.is_full and room.images == 4
    with pytest.raises(Overloaded, match="queue: holds 4 images, max_in_flight is 3; try again later"):
        room.take(ticket())


def test_uploads_count_until_they_are_let_go() -> None:
    room = Room(max_images=100, max_upload_mb=10)
    first, second = ticket(4), ticket(4)
    room.take(first)
    room.take(second)
    assert room.upload_bytes == 2 * (4 * MEGABYTE + 64 * 64 * 3)
    with pytest.raises(Overloaded, match="image: comes to 8 MB of others, max_upload_mb is 10; try again later"):
        room.take(ticket(4))
    room.take(ticket())
    assert room.images == 3, "what has no pictures does not mind"
    room.let_upload_go(first)
    room.let_upload_go(first)
    room.take(ticket(4))
    assert room.images == 4


def test_one_that_is_larger_than_all_is_taken_alone() -> None:
    room = Room(max_images=100, max_upload_mb=1)
    large = ticket(5)
    room.take(large)
    with pytest.raises(Overloaded):
        room.take(ticket(1))
    room.let_upload_go(large)
    room.take(ticket(1))
