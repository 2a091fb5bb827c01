"""The parent of several workers: starts them, starts them again, passes on what it is told, and ends with them.

It serves nothing and runs no loop of Trio's: it is forked from, and must have no thread. The workers inherit the
listening sockets, so one that is killed takes none of the connections that wait to be accepted with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from .lines import Line, Word

if TYPE_CHECKING:
    from collections.abc import Callable

STEADY_SECONDS = 10.0
"""A worker that lived so long did not die of its start."""

FIRST_WAIT_SECONDS, LAST_WAIT_SECONDS = 0.5, 15.0
"""Before a worker that died young is started again, and again. One that was steady is started again at once."""

EXIT_FAILED, EXIT_USAGE = 1, 2

_log = structlog.get_logger("trionode.server")


@dataclass(eq=False)
class _Worker:
    """One place for a worker: the process that has it, if any."""

    pid: int = 0
    line: Line | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    """When it may be started (again)."""
    failures: int = 0


class Supervisor:
    """Keeps `count` workers; `work` is what each does, and returns its exit status."""

    def __init__(self, count: int, work: Callable[[Line], int]) -> None:
        self._workers = [_Worker() for _ in range(count)]
        self._work = work
        self._told = 0
        self._status = 0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Keep the workers until told to end; return the exit status of the whole: 0 when all ended in good order."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(read_end, selectors.EVENT_READ)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        # The handlers do nothing: what counts is the number that is written into the pipe.
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        try:
            while True:
                now = time.monotonic()
                self._start_due(now)
                if not any(worker.pid for worker in self._workers) and self._told:
                    return self._status
                self._wait(read_end, now)
                self._reap()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(read_end)
            os.close(write_end)

    def _start_due(self, now: float) -> None:
        for worker in self._workers:
            if not worker.pid and not self._told and worker.start_at <= now:
                self._start(worker, now)

    def _start(self, worker: _Worker, now: float) -> None:
        ours, theirs = Line.pair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_worker(theirs)
        theirs.close()
        worker.pid, worker.line, worker.started_at = pid, ours, now
        self._selector.register(ours, selectors.EVENT_READ, worker)
        _log.info("worker started", pid=pid)

    def _be_worker(self, line: Line) -> None:
        """Become a worker, and end as one."""
        status = EXIT_FAILED
        try:
            signal.set_wakeup_fd(-1)
            for other in self._workers:
                if other.line is not None:
                    other.line.close()
            self._selector.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A terminal gives these to all of its processes; the parent passes on what they mean.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            status = self._work(line)
        except BaseException:  # noqa: BLE001 - nothing above this may run in a worker
            traceback.print_exc()
        finally:
            os._exit(status)

    def _wait(self, read_end: int, now: float) -> None:
        due = [w.start_at - now for w in self._workers if not w.pid and not self._told]
        for key, _ in self._selector.select(max(0.0, min(due)) if due else None):
            if key.fd == read_end:
                for number in os.read(read_end, 4096):
                    self._heed(signal.Signals(number))
            elif isinstance(key.data, _Worker):
                self._listen(key.data)

    def _heed(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._say(Word.RELOAD)
        elif number != signal.SIGCHLD:
            _log.info("stopping now" if self._told else "stopping", signal=number.name)
            self._end()

    def _listen(self, worker: _Worker) -> None:
        assert worker.line is not None
        words = worker.line.hear()
        if words is None:
            # It is ending; `_reap` sees its end.
            self._selector.unregister(worker.line)
            return
        if Word.END in words and not self._told:
            _log.info("stopping", told_by="trionode drain")
            self._end()

    def _end(self) -> None:
        self._told += 1
        self._say(Word.END)

    def _say(self, word: Word) -> None:
        for worker in self._workers:
            if worker.line is not None:
                worker.line.say(word)

    def _reap(self) -> None:
        for worker in self._workers:
            if not worker.pid:
                continue
            pid, waited = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(waited))

    def _ended(self, worker: _Worker, status: int) -> None:
        assert worker.line is not None
        if worker.line.fileno() in {key.fd for key in self._selector.get_map().values()}:
            self._selector.unregister(worker.line)
        worker.line.close()
        pid, worker.pid, worker.line = worker.pid, 0, None
        lived = time.monotonic() - worker.started_at
        if self._told:
            # By a signal, when it did not end as it was told: that is no good order.
            self._status = max(self._status, status if status >= 0 else EXIT_FAILED)
        elif status == EXIT_USAGE:
            # It has said what is wrong; the next would say the same.
            self._status = EXIT_USAGE
            self._end()
        else:
            worker.failures = 0 if lived >= STEADY_SECONDS or status == 0 else worker.failures + 1
            wait = 0.0
            if worker.failures > 1:
                wait = min(LAST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(worker.failures - 2, 10))
            worker.start_at = time.monotonic() + wait
            said = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            _log.warning("a worker has ended and is replaced", pid=pid, by=said, lived=round(lived, 1), wait=wait)
