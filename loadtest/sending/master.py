"""Where records come together: in the master, or in the only process. It keeps the records, and ends the test."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, LocalRunner, MasterRunner

from loadtest.failures import BadInput
from loadtest.sending.record_file import RecordFile
from loadtest.sending.settings import Settings

BAD_EXIT = 2
"""Locust's exit code where a test could not be run or kept as asked; 1 says that requests failed."""

LOCAL = "local"
"""What Locust calls the only process in its messages."""

POLL_S = 0.5
LOST_S = 6.0
"""A worker on a busy machine may miss heartbeats, which Locust notices after four seconds, and come back."""

log = logging.getLogger(__name__)


class Master:
    """Hears the messages of all workers. Each names its test: what is late from the one before is not of this one."""

    def __init__(self, environment: Environment, runner: LocalRunner | MasterRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._records: RecordFile | None = None
        self._sending: set[str] = set()
        """Processes whose share is not done."""
        self._left: set[str] = set()
        """Those of them that sent a part of it and end: lost, unless the test ends with them."""
        self._missing_s: dict[str, float] = {}
        """Since when Locust has missed the heartbeat of which of them."""
        self._settings: Settings | None = None
        self._test = 0
        """Its number, as several may be run from the web page."""
        self._problem = ""
        """Why the results of the test are not whole, if they are not."""
        self._received = 0
        self._failed = False
        self._stopping = False
        self._watcher: gevent.Greenlet | None = None
        runner.register_message("flux_record", self._on_record)
        runner.register_message("flux_done", self._on_done)
        runner.register_message("flux_failed", self._on_failed)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.test_stopping.add_listener(self._on_stopping)
        environment.events.test_stop.add_listener(self._on_stop)
        environment.events.quit.add_listener(self._on_quit)

    def settings(self) -> Settings:
        """What is asked for. Raises BadInput."""
        settings = Settings.read(self._environment.parsed_options, self._environment.host)
        settings.schedule.share()
        return settings

    def _on_start(self, **_: Any) -> None:
        # Locust's master calls a test stopped up to a second before it fires test_stop: the next may begin before that.
        self._close_records()
        self._test += 1
        self._sending, self._left, self._missing_s, self._settings = set(), set(), {}, None
        self._problem, self._received, self._failed, self._stopping = "", 0, False, False
        self._environment.process_exit_code = None  # the code is the last test's, as Locust's own figures are
        try:
            self._settings = self.settings()
            self._records = RecordFile(self._settings.records) if self._settings.records else None
            self._sending = self._share_out(self._settings)
        except BadInput as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"--records: cannot be written: {error}")
        else:
            self._watcher = gevent.spawn(self._watch, self._test)

    def _share_out(self, settings: Settings) -> set[str]:
        """Tells each process which share of the schedule is its own, before Locust starts it. Raises BadInput."""
        runner = self._runner
        if isinstance(runner, LocalRunner):
            runner.send_message("flux_share", {"index": 0, "of": 1, "test": self._test})
            return {LOCAL}
        workers = [client.id for client in runner.clients.all if client.state != STATE_MISSING]
        if runner.target_user_count < len(workers):
            name = "--users" if settings.shape == "constant" else "--shape-from"
            problem = f"must be {len(workers)} or more, one for each worker"
            raise BadInput(f"{name}: is {runner.target_user_count}; {problem}")
        for index, worker in enumerate(workers):
            share = {"index": index, "of": len(workers), "test": self._test}
            runner.send_message("flux_share", share, worker)
        return set(workers)

    def _on_record(self, msg: Any, **_: Any) -> None:
        if msg.data["test"] != self._test:
            return
        self._received += 1
        if self._records is None:
            return
        try:
            self._records.write(msg.data["record"])
        except OSError as error:  # the disk is full
            self._fail(f"--records: cannot be written any more: {error}; what was written before is kept")
            self._close_records()

    def _on_done(self, msg: Any, **_: Any) -> None:
        if msg.data["test"] != self._test:
            return
        if msg.data["whole"] or self._stopping:
            self._sending.discard(msg.node_id)
        else:
            self._left.add(msg.node_id)

    def _on_failed(self, msg: Any, **_: Any) -> None:
        if msg.data["test"] == self._test:
            self._fail(msg.data["text"])

    def _watch(self, test: int) -> None:
        """Ends the test when all shares are done, those of lost workers excepted."""
        while self._outstanding():
            gevent.sleep(POLL_S)
        gevent.spawn(self._end, test)

    def _outstanding(self) -> set[str]:
        if isinstance(self._runner, MasterRunner):
            known = {client.id: client.state for client in self._runner.clients.all}
            now_s = time.monotonic()
            for worker in self._sending:
                if known.get(worker) != STATE_MISSING:
                    self._missing_s.pop(worker, None)
            lost = {
                worker
                for worker in self._sending
                if worker not in known
                or (known[worker] == STATE_MISSING and now_s - self._missing_s.setdefault(worker, now_s) > LOST_S)
            }
            if lost:
                self._sending -= lost
                self._lose(f"{len(lost)} of the workers lost, and their requests with them")
        return self._sending

    def _on_stopping(self, **_: Any) -> None:
        """Workers get the time to end what is in flight, and their last records are waited for."""
        self._stopping = True
        self._sending -= self._left
        if self._watcher is not None:
            self._watcher.kill()
        if isinstance(self._runner, MasterRunner) and self._settings and self._outstanding():
            self._runner.send_message("flux_finish")
            with gevent.Timeout(2 * self._settings.timeout_s, False):
                while self._outstanding():
                    gevent.sleep(POLL_S / 10)
            if self._sending:
                self._lose("requests of workers were still in flight when their time was over")

    def _on_stop(self, **_: Any) -> None:
        if not self._stopping:  # of the test before
            return
        self._close_records()
        if self._problem:  # Locust stops when its last worker is lost, but a headless one does not end
            gevent.spawn(self._end, self._test)

    def _on_quit(self, **_: Any) -> None:
        """Under Locust's tables, which do not know that they lack something."""
        if self._problem:
            print(f"PARTIAL: {self._problem}", file=sys.stderr, flush=True)

    def _close_records(self) -> None:
        records, self._records = self._records, None
        if records is None:
            return
        problem, wanted = self._problem, self._settings.schedule.requests if self._settings else 0
        if not problem and self._received < wanted:
            problem = f"stopped after {self._received} of {wanted} requests"
        records.close(problem)

    def _lose(self, problem: str) -> None:
        """The test goes on with what is left of it; only the first reason is kept."""
        log.error(problem)
        self._problem = self._problem or problem
        self._environment.process_exit_code = BAD_EXIT

    def _fail(self, problem: str) -> None:
        """Nothing more of the test is worth while."""
        if not self._failed:
            self._failed = True
            self._lose(problem)
            # Not at once: a stop that overtakes Locust's first order to spawn leaves workers that run for ever.
            gevent.spawn_later(POLL_S, self._end, self._test)

    def _end(self, test: int) -> None:
        if test != self._test:
            return
        options = self._environment.parsed_options
        if options is not None and options.headless:
            self._runner.quit()
            return
        if (page := self._environment.web_ui) is not None and page._swarm_greenlet is not None:
            page._swarm_greenlet.kill(block=True)  # as the page's own button does: it goes on spawning otherwise
        self._runner.stop()
