"""Notices when a model has lost a stub process or answers nobody, and loads that model anew.

No Triton restarts a dead stub, and 24.10 goes on calling the model ready. What the watchdog does about one:

1. A model that the index calls ready has fewer living stubs than instances.
2. It still has after a moment in which nothing moved. An unload or reload ends stubs too, but goes on to another state.
3. Unload, and load at once with the configuration that it ran with. Instances that live finish their requests
   meanwhile. A load that fails (the memory may not hold both) is tried again, ever more slowly.
4. Old stubs that are still there after `drain_s` are killed: Triton 24.10 never lets go of a decoupled model, nor of
   its other instances, once a request has met the dead stub.

A model that is ready but silent loses its stubs by the watchdog itself: it is asked something twice a minute that costs
nothing (an empty prompt, which it refuses), and has left three such questions in a row without any answer.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, field

from tools.triton.api import JSON, ApiError
from tools.triton.server import TritonServer
from tools.triton.stub import Stub, expected_instances, living_instances
from tools.triton.watching.probe import draws, is_silent

LOGGER = logging.getLogger(__name__)
MAX_PAUSE_S = 60.0
MAX_SILENCES = 3


@dataclass
class _Suspect:
    """A model that lacks stubs, as it was when that was first seen."""

    living: frozenset[Stub]
    configuration: JSON
    since: float = field(default_factory=time.monotonic)


class Watchdog:
    """Watches the stubs of a running server from a thread of its own, as a context manager.

    `interval_s` between looks; `settle_s` for which a model must lack the same stubs; `drain_s` that the other
    instances of a reloaded model get to finish; `ask_s` between questions, `answer_s` that a model has for an answer;
    `blind_s` without a look at the server after which a warning says so.
    """

    def __init__(
        self,
        server: TritonServer,
        *,
        interval_s: float = 0.5,
        settle_s: float = 1.0,
        drain_s: float = 60.0,
        ask_s: float = 30.0,
        answer_s: float = 10.0,
        blind_s: float = 60.0,
    ) -> None:
        self.server = server
        self.interval_s = interval_s
        self.settle_s = settle_s
        self.drain_s = drain_s
        self.ask_s = ask_s
        self.answer_s = answer_s
        self.blind_s = blind_s
        self.reloads = 0  # written by the thread, read by anyone
        # The rest belongs to the thread.
        self._suspects: dict[str, _Suspect] = {}
        self._lost: dict[str, JSON] = {}  # unloaded models to load, with their configurations
        self._well: frozenset[Stub] | None = None  # with which nothing was missing
        self._seen: frozenset[Stub] = frozenset()
        self._silences: dict[str, int] = {}  # questions in a row that a model has left without an answer
        self._ask_at = time.monotonic() + ask_s
        self._retired: dict[Stub, float] = {}
        self._pause_s: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._sighted_at = time.monotonic()
        self._has_complained = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="triton-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._seen = frozenset(self.server.stubs())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()  # what it still waits for ends with the server, which is not to be kept waiting for that

    def _run(self) -> None:
        while not self._stopped.wait(self.interval_s):
            try:
                self._look()
                if time.monotonic() >= self._ask_at:
                    self._ask()
                self._sighted_at = time.monotonic()
                self._has_complained = False
            except ApiError as error:  # it is stopping, or busy: next time
                if time.monotonic() - self._sighted_at > self.blind_s and not self._has_complained:
                    self._has_complained = True
                    LOGGER.warning("nobody watches over the models, as the server cannot be asked: %s", error)
            except Exception:
                if not self._stopped.is_set() and not self._has_complained:
                    self._has_complained = True
                    LOGGER.exception("the watchdog failed, and tries again")

    def _look(self) -> None:
        self._kill_retired()
        stubs = frozenset(self.server.stubs())
        for stub in self._seen - stubs:
            stub.release()  # Triton does so too, but not for a model that it never lets go of
        self._seen = stubs
        if stubs == self._well and not self._suspects and not self._lost:
            return
        suspects = {}
        for model in self._ready():
            self._lost.pop(model, None)  # somebody else has loaded it
            configuration = self.server.api.configuration(model)
            expected = expected_instances(configuration)
            living = living_instances(stubs - self._retired.keys(), expected)
            if all(len(living[group]) >= count for group, count in expected.items()):
                continue
            now = _Suspect(frozenset(stub for found in living.values() for stub in found), configuration)
            before = self._suspects.get(model, now)
            same = before.living == now.living and before.configuration == now.configuration
            suspects[model] = before if same else now
        self._suspects = suspects
        self._well = None if suspects else stubs
        for model, suspect in list(suspects.items()):
            if time.monotonic() - suspect.since >= self.settle_s and self._is_time(model):
                LOGGER.warning("model %s has lost a stub process: loading it anew", model)
                self._unload(model, suspect)
        for model, configuration in list(self._lost.items()):
            if self._is_time(model):
                self._load(model, configuration)

    def _ask(self) -> None:
        self._ask_at = time.monotonic() + self.ask_s
        for model in self._ready():
            configuration = self.server.api.configuration(model)
            silences = self._silences.pop(model, 0) + 1
            if not (draws(configuration) and is_silent(self.server.api, model, self.answer_s)):
                continue
            self._ask_at = time.monotonic()  # once more at the next look
            self._silences[model] = silences
            if silences >= MAX_SILENCES and self._is_time(model):
                silent_s = silences * self.answer_s
                LOGGER.warning("model %s is ready but answered nothing for %g s: ending its processes", model, silent_s)
                del self._silences[model]
                # Not unloaded first: Triton waits for them then, and so would the load that follows.
                for found in living_instances(self._seen, expected_instances(configuration)).values():
                    for stub in found:
                        stub.kill()

    def _ready(self) -> set[str]:
        return {entry["name"] for entry in self.server.api.index() if entry.get("state") == "READY"}

    def _unload(self, model: str, suspect: _Suspect) -> None:
        del self._suspects[model]
        self._retired.update(dict.fromkeys(suspect.living, time.monotonic() + self.drain_s))
        self._lost[model] = suspect.configuration  # also where Triton takes its time, and the model is gone after that
        self.server.api.unload(model, self.drain_s)

    def _load(self, model: str, configuration: JSON) -> None:
        began = time.monotonic()
        # The pause doubles while a model fails or dies soon after, and starts over once it has lived for a while.
        lived = began - self._not_before.get(model, -math.inf) > MAX_PAUSE_S
        self._pause_s[model] = 1.0 if lived else min(2 * self._pause_s[model], MAX_PAUSE_S)
        try:
            self.server.api.load(model, configuration, self.server.start_timeout_s)
        except ApiError as error:
            if not self._stopped.is_set():
                LOGGER.error("model %s could not be loaded anew, next try soon: %s", model, error)
        else:
            del self._lost[model]
            self.reloads += 1
            LOGGER.warning("model %s serves again, loaded in %.1f s", model, time.monotonic() - began)
        self._not_before[model] = time.monotonic() + self._pause_s[model]

    def _is_time(self, model: str) -> bool:
        """Whether to unload or load it: never once this has been stopped, as the next server has the same address."""
        return not self._stopped.is_set() and time.monotonic() >= self._not_before.get(model, -math.inf)

    def _kill_retired(self) -> None:
        """Ends the old stubs of reloaded models whose time is over, and forgets those that are gone."""
        for stub, deadline in list(self._retired.items()):
            if time.monotonic() > deadline:
                stub.kill()
            if not stub.alive:
                del self._retired[stub]
