"""Worker 0's coordinator at work: performs the wishes of the state machine against the store, in a thread of its own."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from trainer import faults
from trainer.coordinator.job import Action, Append, Job, ListCommits, Probe, finished_before
from trainer.coordinator.machine import Coordinator
from trainer.coordinator.outage import STORE_WAIT_MAX_S, waiting_for_store
from trainer.errors import OrchError, StoreUnavailable
from trainer.retry import Backoff
from trainer.rundir.attempts import EndRecord, append_record, close_attempt, now, read_record, read_records, record_name
from trainer.rundir.commits import list_commits
from trainer.rundir.store import Store
from trainer.wire.coordinator import AgentReport, Directive, JobState

log = logging.getLogger(__name__)

TICK_S = 0.1


class Duty:
    """The coordinator with its store and its lock."""

    def __init__(
        self,
        job: Job,
        store: Store,
        *,
        on_change: Callable[[], None],
        changed: Callable[[EndRecord], Sequence[str]] = lambda end: (),
    ) -> None:
        """`on_change` is called, from this thread, after every answer of the store: polls may now be answered anew. `changed`
        tells in what the job differs from one that has ended; it may take its time."""
        self._job = job
        self._store = store
        self._on_change = on_change
        self._changed = changed
        self._lock = threading.Lock()
        self._coordinator: Coordinator | None = None
        self._error = "reading the run directory"
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._thread.start()

    def poll(self, report: AgentReport) -> Directive:
        """One worker's report, and what it is to do."""
        with self._lock:
            if self._coordinator is None:
                return Directive(kind="wait", coordinator=self._job.uid, attempt=0, reason=self._error)
            stage = self._coordinator.stage
            directive = self._coordinator.poll(report, time.monotonic())
            if self._coordinator.stage is not stage:
                self._wake.set()
            return directive

    def state(self) -> JobState:
        """What `orch status` shows."""
        with self._lock:
            if self._coordinator is not None:
                return self._coordinator.state(time.monotonic())
        return JobState(
            name=self._job.name,
            launch=self._job.launch.id,
            state="waiting",
            reason=self._error,
            attempt=0,
            restarts=0,
            budget_used=0,
            budget_max=self._job.restarts_max,
            step=0,
            total_steps=None,
            rate=0.0,
            metrics={},
            workers=[],
        )

    def everybody_told(self) -> bool:
        """Whether all other agents know of the end."""
        with self._lock:
            return self._coordinator is None or self._coordinator.everybody_told(time.monotonic())

    def look(self) -> None:
        """The writer found its attempt closed: ask at once who took over."""
        with self._lock:
            if self._coordinator is not None:
                self._coordinator.look(time.monotonic())
        self._wake.set()

    def close(self) -> None:
        """Stop performing wishes."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            # Nobody would number attempts any more, and everybody would wait for it. Another worker 0 can do it.
            log.exception("the coordinator failed: this agent leaves, and the one in its place goes on")
            os.kill(os.getpid(), signal.SIGTERM)

    def _work(self) -> None:
        self._read()
        while not self._closed:
            coordinator = self._coordinator
            if coordinator is None:
                return
            with self._lock:
                coordinator.tick(time.monotonic())
                action = coordinator.next_action(time.monotonic())
            if action is None:
                self._wake.wait(TICK_S)
                self._wake.clear()
                continue
            perform(coordinator, action, self._store, self._lock)
            self._on_change()

    def _read(self) -> None:
        """Read the records, for as long as it takes: a store that is away is no reason to end."""
        backoff = Backoff(1.0, STORE_WAIT_MAX_S)
        since = now()
        while not self._closed:
            try:
                records = read_records(self._store)
            except OrchError as error:
                self._error = waiting_for_store(since, str(error))
                wait_s = backoff.next_s()
                log.warning("run directory cannot be read, trying again in %.0f s: %s", wait_s, error)
                self._wake.wait(wait_s)
                continue
            changed: dict[int, Sequence[str]] = {}
            newest = records[-1] if records else None
            if isinstance(newest, EndRecord) and finished_before(self._job, newest):
                self._error = "the run is finished: looking whether the job has changed since"
                changed[newest.number] = self._changed(newest)
            with self._lock:
                self._coordinator = Coordinator(self._job, records, time.monotonic(), changed)
            return


def perform(
    coordinator: Coordinator,
    action: Action,
    store: Store,
    lock: AbstractContextManager[object],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Ask the store what the coordinator wishes, and give it the answer. `lock` is held while the coordinator is called."""
    try:
        match action:
            case ListCommits(closing=number):
                newest = coordinator.records[-1].number if coordinator.records else None
                if newest is not None and read_record(store, newest) is None:
                    # A volume that is not mounted any more shows an empty folder: that is no job without commits.
                    raise StoreUnavailable(f"{store.url} has lost {record_name(newest)}: is it mounted?")
                if number is not None:
                    close_attempt(store, number, by=coordinator.job.uid)
                commits = list_commits(store)
                with lock:
                    coordinator.commits_listed(commits, clock())
            case Append(record=record):
                faults.reach("coordinator.before-append")
                written = append_record(store, record)
                faults.reach("coordinator.after-append")
                with lock:
                    coordinator.appended(written, clock())
            case Probe():
                found = read_record(store, action.number)
                with lock:
                    coordinator.probed(found, clock())
    except OrchError as error:
        log.warning("the store does not answer, trying again: %s", error)
        with lock:
            coordinator.store_failed(str(error), clock())
