"""A world in memory for test_protocol_model.py: a store, calls that stop before each of their requests, and pods.

Real are the coordinator and what it asks of the store, what agents decide, the records, the writer, retention and restore.
Played are processes, signals, polls and time, which only carry out what agents order.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from trainer.agent.attempt import WRITER_S
from trainer.agent.decide import AskToStop, AskWhoTookOver, Begin, Decisions, Kill, LimitWriter, Order
from trainer.agent.link import END_CHECK_S, from_records
from trainer.checkpoint import restore
from trainer.checkpoint.writer import Writer
from trainer.coordinator.driver import perform
from trainer.coordinator.job import Job
from trainer.coordinator.machine import Coordinator
from trainer.errors import DamagedCheckpoint, ObjectExists, ObjectNotFound, StoreUnavailable
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import (
    AttemptRecord,
    CommitRef,
    EndRecord,
    Launch,
    parse_record,
    read_records,
    record_name,
)
from trainer.rundir.checksum import crc32c
from trainer.rundir.store import Data, Entry, buffers
from trainer.wire.coordinator import AgentReport, Directive, ExitReport
from trainer.wire.process import Phase, Result
from trainer.wire.writer import Saved, SaveFailed, Snapshot, Tensor, WriterStart

SNAPSHOT_BYTES = 16
GRACE_S = 30.0

_T = TypeVar("_T")


# --- the store, one request at a time


class MemoryStore:
    """All objects of a run directory. `on_put` and `on_delete` look at every change."""

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.damaged: set[str] = set()
        """Names whose bytes come back wrong, while listings show nothing of it."""
        self.on_put: Callable[[str], None] = lambda name: None
        self.on_delete: Callable[[str], None] = lambda name: None
        self._generation = 0

    def put_if_absent(self, name: str, data: Data) -> Entry:
        if name in self.objects:
            raise ObjectExists(f"{name} exists")
        self._generation += 1
        self.objects[name] = (b"".join(buffers(data)), self._generation)
        self.on_put(name)
        return self._entry(name)

    def put(self, name: str, data: Data) -> Entry:
        raise AssertionError("nothing of the protocol is ever overwritten")

    def get(self, name: str, *, generation: int | None = None) -> bytes:
        if name not in self.objects or generation not in (None, self.objects[name][1]):
            raise ObjectNotFound(name)
        data = self.objects[name][0]
        return data[:-1] + bytes([data[-1] ^ 1]) if name in self.damaged else data

    def list(self, prefix: str) -> list[Entry]:
        return [self._entry(name) for name in sorted(self.objects) if name.startswith(prefix)]

    def delete(self, name: str, *, generation: int | None = None) -> None:
        if name in self.objects and generation in (None, self.objects[name][1]):
            self.on_delete(name)
            del self.objects[name]

    def _entry(self, name: str) -> Entry:
        data, generation = self.objects[name]
        return Entry(name, len(data), generation, crc32c([data]))


class _Killed(BaseException):
    """The process is gone: nothing after the request that it waits with is done."""


class Call:
    """A function in a thread of its own, which stops before each request to the store until `step` lets it go on."""

    _of_thread = threading.local()

    def __init__(self, function: Callable[[], object]) -> None:
        self.request: tuple[str, Callable[[], object]] | None = None
        self.over = False
        self._error: BaseException | None = None
        self._fate = ""
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()
        self._wait()

    def step(self, fate: str = "done") -> Callable[[], object] | None:
        """Let the request happen ("done"), be refused, happen without an answer ("lost"), or happen at some later time
        without an answer ("late"): that is returned, to be called then."""
        assert self.request is not None
        name, act = self.request
        self._fate = fate
        self._go.release()
        self._wait()
        return act if fate == "late" and name in ("put_if_absent", "delete") else None

    def is_this_thread(self) -> bool:
        return getattr(Call._of_thread, "call", None) is self

    def kill(self) -> Callable[[], object] | None:
        """End the thread; a request on its way may still arrive."""
        return self.step("late killed") if self.over is False else None

    def _wait(self) -> None:
        self._back.acquire()
        if self.over:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, function: Callable[[], object]) -> None:
        Call._of_thread.call = self
        try:
            function()
        except _Killed:
            pass
        except BaseException as error:
            self._error = error
        self.over, self.request = True, None
        self._back.release()

    @staticmethod
    def ask(name: str, act: Callable[[], _T]) -> _T:
        """In the call's own thread: wait, then do or do not do `act`."""
        call: Call = Call._of_thread.call
        call.request = (name, act)
        call._back.release()
        call._go.acquire()
        call.request = None
        if "killed" in call._fate:
            raise _Killed
        if name == "sleep" or call._fate == "done":
            return call._watched(act)
        if call._fate == "lost":
            call._watched(act)
        raise StoreUnavailable(f"{name}: {call._fate}")

    def _watched(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except AssertionError as error:  # what a writer must survive, a test must not
            self._error = error
            raise _Killed from None


class SteppedStore:
    """The same store as a process sees it: every method is one request."""

    url = "memory"

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def put_if_absent(self, name: str, data: Data) -> Entry:
        copy = b"".join(buffers(data))
        return Call.ask("put_if_absent", lambda: self._store.put_if_absent(name, copy))

    def put(self, name: str, data: Data) -> Entry:
        return self._store.put(name, data)

    def get(self, name: str, *, generation: int | None = None) -> bytes:
        return Call.ask("get", lambda: self._store.get(name, generation=generation))

    def list(self, prefix: str) -> list[Entry]:
        return Call.ask("list", lambda: self._store.list(prefix))

    def delete(self, name: str, *, generation: int | None = None) -> None:
        return Call.ask("delete", lambda: self._store.delete(name, generation=generation))


class SteppedTime:
    """Stands in for the module `time` in the writer: the world's clock, and sleeping is one more request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.monotonic = clock

    def sleep(self, seconds: float) -> None:
        Call.ask("sleep", lambda: None)


# --- launches and pods


class Launched:
    """One start by a user: which pods hold its places now."""

    def __init__(
        self, number: int, workers: int, *, total: int, fresh: bool, command: bool, keep: int, restarts_max: int
    ) -> None:
        started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
        self.launch = Launch(id=f"launch-{number}", started=started)
        self.workers, self.total, self.fresh, self.command, self.keep = workers, total, fresh, command, keep
        self.restarts_max = restarts_max
        self.pods: list[Pod] = []
        self.replaces = True
        """Whether pods that ended are replaced."""


class World:
    """Everything that exists at one moment. What must hold is checked by whoever made it."""

    def __init__(self, memory_fd: int, on_saved: Callable[["Pod", CommitRef], None]) -> None:
        self.now = 0.0
        self.store = MemoryStore()
        self.stepped = SteppedStore(self.store)
        self.memory_fd = memory_fd
        self.on_saved = on_saved
        self.pods: list[Pod] = []
        """All there ever were, the gone ones too."""
        self.launches: list[Launched] = []
        self.limbo: list[Callable[[], object]] = []
        """Requests on their way that nobody waits for any more."""
        self.restored: dict[int, set[str]] = {}
        """By attempt: UIDs of pods whose process has restored."""

    def records(self) -> list[AttemptRecord | EndRecord]:
        names = sorted(int(name[9:-5]) for name in self.store.objects if record_number(name))
        return [parse_record(self.store.objects[record_name(number)][0]) for number in names]

    def start(self, launched: Launched) -> None:
        self.launches.append(launched)
        launched.pods = [Pod(self, launched, index) for index in range(launched.workers)]

    def alive(self) -> "list[Pod]":
        return [pod for pod in self.pods if pod.left is None]

    def calls(self) -> "list[tuple[Pod, Call]]":
        """Calls that wait before a request, of pods that are awake."""
        return [(pod, call) for pod in self.alive() if not pod.asleep for call in pod.calls()]

    def step(self, call: Call, fate: str = "done") -> None:
        late = call.step(fate)
        if late is not None:
            self.limbo.append(late)

    def drop(self, call: Call | None) -> None:
        """The process of a call is gone; its request may still be on its way."""
        late = call.kill() if call is not None and not call.over else None
        if late is not None:
            self.limbo.append(late)

    def land(self, number: int) -> None:
        """A request that was on its way arrives."""
        with suppress(ObjectExists):
            self.limbo.pop(number % len(self.limbo))()

    def close(self) -> None:
        for pod in self.pods:
            for call in pod.calls():
                call.kill()


def record_number(name: str) -> int | None:
    """The number in a record's name; None for any other object."""
    text = name.removeprefix("attempts/").removesuffix(".json")
    return int(text) if name == f"attempts/{text}.json" and text.isdecimal() else None


class Pod:
    """One agent with its process and, as worker 0, with coordinator and writer."""

    def __init__(self, world: World, launched: Launched, index: int) -> None:
        self.world, self.launched, self.index = world, launched, index
        self.uid = f"uid-{len(world.pods) + 1}"
        world.pods.append(self)
        self.asleep = False
        self.left: int | None = None
        """The code it left with; 137 when it was killed."""
        # The agent.
        self.decisions = Decisions(GRACE_S)
        self._next_end_check = 0.0
        # The attempt it is in, which lasts until process and writer are through.
        self.record: AttemptRecord | None = None
        self.running = False
        self.restored = False
        self.step = 0
        self.superseded = False
        self.saved: CommitRef | None = None
        self.result: Result | None = None
        self._exit: ExitReport | None = None
        self._writer_until = 0.0
        self.save: Call | None = None
        self._writer: Writer | None = None
        # The coordinator.
        self.coordinator: Coordinator | None = None
        self.duty: Call | None = None
        if index == 0:
            self._read_records()

    def __repr__(self) -> str:
        return f"<{self.uid} {self.launched.launch.id} worker {self.index}>"

    def calls(self) -> list[Call]:
        return [call for call in (self.duty, self.save) if call is not None and not call.over]

    # --- the coordinator's duty

    def _read_records(self) -> None:
        def read() -> None:
            while self.coordinator is None:
                try:
                    records = read_records(self.world.stepped)
                except StoreUnavailable:
                    continue
                self.coordinator = Coordinator(self._job(), records, self.world.now)

        self.duty = Call(read)

    def _job(self) -> Job:
        launched = self.launched
        return Job(
            "job",
            launched.workers,
            self.uid,
            launched.launch,
            restarts_max=launched.restarts_max,
            start_timeout_s=1e9,
            steps_asked=None if launched.command else launched.total,
            fresh=launched.fresh,
        )

    def tick(self) -> None:
        coordinator = self.coordinator
        if coordinator is None:
            return
        coordinator.tick(self.world.now)
        if self.duty is not None and not self.duty.over:
            return
        action = coordinator.next_action(self.world.now)
        if action is not None:
            clock, stepped = (lambda: self.world.now), self.world.stepped
            self.duty = Call(lambda: perform(coordinator, action, stepped, nullcontext(), clock))

    # --- the agent

    def report(self) -> AgentReport:
        report = AgentReport(
            launch=self.launched.launch.id,
            index=self.index,
            uid=self.uid,
            address="10.0.0.1",
            port=20000,
            state=self.decisions.state(runs=self.record is not None),
            attempt=self.decisions.last_attempt,
            last_exit=self.decisions.last_exit,
            step=self.decisions.last_exit.step if self.decisions.last_exit else 0,
            result=self.decisions.result,
            last_commit=self.decisions.last_commit,
        )
        if self.record is None:
            return report
        phase = Phase.TRAIN if self.restored else Phase.RESTORE
        of_attempt = {"phase": phase, "step": self.step, "result": self.result, "last_commit": self.saved}
        return report.model_copy(update=of_attempt)

    def poll(self, target: "Pod | None", *, answered: bool = True) -> None:
        """Ask the coordinator in pod `target` (its own, for worker 0); nobody there: ask the run directory sometimes."""
        target = self if self.index == 0 else target
        if target is None or target.asleep or target.left is not None:
            if self.world.now >= self._next_end_check:
                self._next_end_check = self.world.now + END_CHECK_S
                self.obey(from_records(self.world.records(), self.launched.launch.id))
            return
        if target.coordinator is None:
            return
        directive = target.coordinator.poll(self.report(), self.world.now)
        if answered:
            self.obey(directive)

    def obey(self, directive: Directive | None) -> None:
        if directive is not None:
            self._carry_out(self.decisions.obey(directive, self.world.now, runs=self.record is not None))
            self.advance()

    def _carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            match order:
                case Begin(record=record):
                    self._begin(record)
                case AskToStop():
                    self.begin_save("stop")
                    self.exit(ExitCode.STOPPED)
                case Kill():
                    self.exit(ExitCode.KILLED, by_agent=True)
                case LimitWriter(until_s=until_s):
                    self._writer_until = min(self._writer_until, until_s)
                case AskWhoTookOver() if self.coordinator is not None:
                    self.coordinator.look(self.world.now)

    def _begin(self, record: AttemptRecord) -> None:
        self.decisions.began(record.number)
        self.record = record
        self.running, self.restored, self.superseded = True, False, False
        self.step = record.restore.step if record.restore else 0
        self.result = self._exit = self.saved = self._writer = None
        if self.index == 0 and not self.launched.command:
            start = WriterStart(
                run_directory="memory",
                attempt=record.number,
                nonce=record.nonce,
                keep=self.launched.keep,
                shard_size_bytes=8,
                memory_fd=self.world.memory_fd,
            )
            self._writer = Writer(start, self._from_writer)
            self._writer._opened = self.world.stepped

    def sigterm(self) -> None:
        """AskToStop in order: with a save, where a process trains."""
        self.decisions.sigterm(self.world.now)
        self.advance()

    def die(self) -> None:
        """The pod is gone, with all that ran in it."""
        for call in self.calls():
            self.world.drop(call)
        self.left = ExitCode.KILLED

    def advance(self) -> None:
        """What the agent's own thread does without being told."""
        now, decisions = self.world.now, self.decisions
        if self.left is not None:
            return
        runs = self.record is not None
        self._carry_out(decisions.due(now, runs=runs, process_ended=runs and not self.running))
        if self.record is not None and self.superseded:
            self.when_superseded()
        if self.record is not None and not self.running:
            if self.save is not None and not self.save.over and now > self._writer_until:
                self.world.drop(self.save)
            if self.save is None or self.save.over:
                assert self._exit is not None
                decisions.ended(self._exit, self.result, self.saved)
                self.record, self.save = None, None
        if self.record is None:
            coordinator = self.coordinator
            leaving = decisions.leaves(now, lambda: coordinator is None or coordinator.everybody_told(now))
            if leaving is not None:
                self._leave(leaving.code)

    def when_superseded(self) -> None:
        self.superseded = False
        self._carry_out(self.decisions.superseded())

    def _leave(self, code: int) -> None:
        for call in self.calls():
            self.world.drop(call)
        self.left = code

    # --- the training process and its writer

    def exit(self, code: int, *, by_agent: bool = False, bad_commit: str | None = None) -> None:
        """The process ends."""
        if not self.running or self.record is None:
            return
        self.running, self._writer_until = False, self.world.now + WRITER_S
        self._exit = ExitReport(
            attempt=self.record.number,
            code=code,
            step=self.step,
            blocks=self.restored,
            killed_by_agent=by_agent,
            bad_commit=bad_commit,
        )

    def restore(self) -> str | None:
        """Read what the record names, as the process does; the name of a commit that is not what it was."""
        if not self.running or self.restored or self.record is None:
            return None
        ref = self.record.restore
        try:
            if ref is not None and not self.launched.command:
                restore.verify(self.world.store, ref, patience_s=0)
        except DamagedCheckpoint as error:
            self.exit(ExitCode.LOST_PEER, bad_commit=error.commit)
            return error.commit
        self.restored = True
        self.world.restored.setdefault(self.record.number, set()).add(self.uid)
        return None

    def train(self, steps: int) -> None:
        """No step is done before all of the attempt have restored: they compare what they hold."""
        if self.running and self.restored and self.record is not None:
            members = {member.uid for member in self.record.members}
            if members <= self.world.restored.get(self.record.number, set()):
                # A checkpoint of a launch that asked for more may lie beyond the end: nothing is left to do.
                self.step = max(self.step, min(self.step + steps, self.launched.total))

    def begin_save(self, why: str = "interval") -> None:
        """Hand a snapshot to the writer, if it has none."""
        writer = self._writer
        if not self.running or writer is None or (self.save is not None and not self.save.over) or not self.restored:
            return
        if self.record is None or self.step <= (self.record.restore.step if self.record.restore else 0):
            return
        tensors = [
            Tensor(key=f"model/{n}", path=f"w{n}", dtype="int64", shape=[1], offset=8 * n, size_bytes=8)
            for n in range(2)
        ]
        snapshot = Snapshot(
            step=self.step,
            epoch=0,
            examples_seen=self.step,
            why=why,  # type: ignore[arg-type]
            tensors=tensors,
            size_bytes=SNAPSHOT_BYTES,
        )

        def save() -> None:
            if writer.save(snapshot):
                writer.retain()

        self.save = Call(save)

    def _from_writer(self, message: object) -> None:
        match message:
            case Saved():
                self.saved = message.commit
                self.world.on_saved(self, message.commit)
            case SaveFailed():
                self.superseded = self.superseded or message.superseded

    def finish(self) -> None:
        """The end of training: the chief's last save, then its result."""
        if not self.running or not self.restored or self.record is None:
            return
        if self.launched.command:
            self.exit(ExitCode.DONE)
            return
        if self.step < self.launched.total:
            return
        if self.index == 0:
            restored_it = self.record.restore is not None and self.record.restore.step == self.step
            if not restored_it and (self.saved is None or self.saved.step != self.step):
                self.begin_save("last")
                return
            self.result = Result(
                step=self.step, total_steps=self.step, metrics={}, weights_sha256=str(self.step), export=None
            )
        self.exit(ExitCode.DONE)
