"""Where figures come together: in the master, or in the only process. It keeps the records, and ends the test."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, LocalRunner, MasterRunner

from loadtest.mix import MixError
from loadtest.plan import Share, planned
from loadtest.records import RecordFile
from loadtest.settings import Settings, SettingsError

BAD_EXIT = 2
"""Locust's exit code where a test could not be run or kept as asked; 1 says that requests failed."""

LOCAL = "local"
"""What Locust calls the only process in its messages."""

POLL_S = 0.5

log = logging.getLogger(__name__)


class Collector:
    """Hears the messages of all senders."""

    def __init__(self, environment: Environment, runner: LocalRunner | MasterRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._records: RecordFile | None = None
        self._sending: set[str] = set()
        """Processes whose share is not done."""
        self._settings: Settings | None = None
        self._failed = False
        self._watcher: gevent.Greenlet | None = None
        runner.register_message("flux_record", self._on_record)
        runner.register_message("flux_done", self._on_done)
        runner.register_message("flux_failed", self._on_failed)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.test_stopping.add_listener(self._on_stopping)
        environment.events.test_stop.add_listener(self._on_stop)

    def settings(self) -> Settings:
        """What is asked for. Raises SettingsError and MixError."""
        settings = Settings.read(self._environment.parsed_options, self._environment.host)
        planned(settings, Share())
        return settings

    def _on_start(self, **_: Any) -> None:
        self._failed = False
        self._environment.process_exit_code = None
        try:
            self._settings = self.settings()
            self._records = RecordFile(self._settings.records) if self._settings.records else None
            self._sending = self._share_out(self._settings)
        except (SettingsError, MixError) as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"--records: cannot be written: {error}")
        else:
            self._watcher = gevent.spawn(self._watch)

    def _share_out(self, settings: Settings) -> set[str]:
        """Tells each worker which part of the plan is its own, before Locust starts it. Raises SettingsError."""
        runner = self._runner
        if isinstance(runner, LocalRunner):
            return {LOCAL}
        workers = [client.id for client in runner.clients.all if client.state != STATE_MISSING]
        if runner.target_user_count < len(workers):
            name = "--users" if settings.shape == "constant" else "--shape-from"
            problem = f"must be {len(workers)} or more, one for each worker"
            raise SettingsError(f"{name}: is {runner.target_user_count}; {problem}")
        for index, worker in enumerate(workers):
            runner.send_message("flux_share", {"index": index, "of": len(workers)}, worker)
        return set(workers)

    def _on_record(self, msg: Any, **_: Any) -> None:
        if self._records is None:
            return
        try:
            self._records.write(msg.data["line"])
        except OSError as error:  # the disk is full
            self._records = None
            self._fail(f"--records: cannot be written any more: {error}; what was written before is kept")

    def _on_done(self, msg: Any, **_: Any) -> None:
        self._sending.discard(msg.node_id)

    def _on_failed(self, msg: Any, **_: Any) -> None:
        self._fail(msg.data["text"])

    def _watch(self) -> None:
        """Ends the test when all shares are done, those of lost workers excepted."""
        while self._outstanding():
            gevent.sleep(POLL_S)
        gevent.spawn(self._end)

    def _outstanding(self) -> set[str]:
        if isinstance(self._runner, MasterRunner):
            here = {client.id for client in self._runner.clients.all if client.state != STATE_MISSING}
            if lost := self._sending - here:
                log.error("%d workers were lost, and their requests with them", len(lost))
                self._environment.process_exit_code = BAD_EXIT
                self._sending &= here
        return self._sending

    def _on_stopping(self, **_: Any) -> None:
        """Workers get the time to end what is in flight, and their last records are waited for."""
        if self._watcher is not None:
            self._watcher.kill()
        if isinstance(self._runner, MasterRunner) and self._settings and self._outstanding():
            self._runner.send_message("flux_finish")
            with gevent.Timeout(2 * self._settings.timeout_s, False):
                while self._outstanding():
                    gevent.sleep(POLL_S / 10)

    def _on_stop(self, **_: Any) -> None:
        if self._records is not None and isinstance(self._runner, LocalRunner):
            self._records.close()
            self._records = None

    def _fail(self, text: str) -> None:
        if not self._failed:
            self._failed = True
            log.error(text)
            self._environment.process_exit_code = BAD_EXIT
            gevent.spawn(self._end)

    def _end(self) -> None:
        options = self._environment.parsed_options
        if options is not None and options.headless:
            self._runner.quit()
        else:
            self._runner.stop()
