from __future__ import annotations

from callers import LOOKS_AT_DRAWN, LOOKS_AT_NEXT, MORE_LOOKS, POLL_S, ROUND_S, find_leavers


class Caller:
    clock = 0.0

    def __init__(self, order: float = 0.0, *, is_drawn: bool = False, left: bool = False) -> None:
        self.order = order
        self.is_drawn = is_drawn
        self.left = left
        self.looked_at_s = 0.0
        self.looks = 0

    def has_left(self) -> bool:
        Caller.clock += 1
        self.looked_at_s = Caller.clock
        self.looks += 1
        return self.left


def look(callers: list[Caller], rounds: int = 1) -> list[Caller]:
    """The leavers that are found; they are gone then."""
    found: list[Caller] = []
    for _ in range(rounds):
        for caller in find_leavers([caller for caller in callers if caller not in found], Caller.has_left):
            found.append(caller)
    return found


def test_those_on_the_device_and_those_that_come_next_are_asked_each_time() -> None:
    drawn = [Caller(is_drawn=True) for _ in range(LOOKS_AT_DRAWN)]
    waiting = [Caller(order=n) for n in range(60)]
    look(drawn + waiting, rounds=3)
    assert [caller.looks for caller in drawn] == [3] * len(drawn)
    assert [caller.looks for caller in waiting[:LOOKS_AT_NEXT]] == [3] * LOOKS_AT_NEXT
    assert sum(caller.looks for caller in waiting[LOOKS_AT_NEXT:]) == 3, "one of the others at a time"


def test_all_others_are_asked_in_turn() -> None:
    drawn = [Caller(is_drawn=True) for _ in range(3 * LOOKS_AT_DRAWN)]
    look(drawn, rounds=3)
    assert min(caller.looks for caller in drawn) == 1
    waiting = [Caller(order=n) for n in range(1000)]
    look(waiting, rounds=int(ROUND_S / POLL_S))
    assert {caller.looks for caller in waiting[LOOKS_AT_NEXT:]} == {1, 2}, "hardly more than once within ROUND_S"


def test_a_crowd_that_left_is_found_at_once_wherever_it_is() -> None:
    stays = [Caller(order=n) for n in range(10)]
    gone = [Caller(order=100 + n, left=True) for n in range(500)]
    assert set(look(stays + gone, rounds=6)) == set(gone)
    assert max(caller.looks for caller in gone) == 1


def test_who_stays_is_hardly_asked_for_one_that_left() -> None:
    callers = [Caller(order=n) for n in range(50)]
    callers[0].left = True
    assert look(callers) == callers[:1]
    assert sum(caller.looks for caller in callers) == LOOKS_AT_NEXT + 1 + MORE_LOOKS
