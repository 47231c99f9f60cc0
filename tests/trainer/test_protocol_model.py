"""The whole protocol under random interleavings: coordinators, agents, writers, store, and old ones of each that go on.

The world is in support_protocol.py. What must hold is checked here from outside: on the objects of the run directory, on
what writers acknowledged, and on the codes that agents leave with.

ORCH_MODEL_EXAMPLES and ORCH_MODEL_STEPS make it longer; ORCH_MODEL_SHRINK looks for the shortest walk that fails, for minutes.
"""

import itertools
import logging
import os
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support_protocol import SNAPSHOT_BYTES, Call, Launched, Pod, SteppedTime, World, record_number

import trainer.checkpoint.writer as writer_module
from trainer.coordinator.machine import FROZEN_S
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, parse_record
from trainer.rundir.commits import commit_name, data_folder, parse_commit_name, parse_data_name
from trainer.rundir.lineage import line

TOTAL_STEPS = 100
FATES = st.sampled_from(["done"] * 6 + ["refused", "lost", "late"])
ANY = st.integers(0, 30)
Records = list[AttemptRecord | EndRecord]


class Protocol(RuleBasedStateMachine):
    """Pods of one to three launches on one run directory."""

    @initialize(
        workers=st.sampled_from([1, 2, 3, 3]),
        command=st.sampled_from([False] * 7 + [True]),
        keep=st.integers(2, 3),
        restarts_max=st.sampled_from([1000, 1000, 3]),
        rounds=st.sampled_from([0, 8, 8, 8]),
    )
    def begin(self, workers: int, command: bool, keep: int, restarts_max: int, rounds: int) -> None:
        logging.disable(logging.CRITICAL)
        self.memory_fd = os.memfd_create("model")
        os.truncate(self.memory_fd, SNAPSHOT_BYTES)
        self.world = World(self.memory_fd, self.saved)
        writer_module.time = SteppedTime(lambda: self.world.now)  # type: ignore[assignment]
        self.world.store.on_put = self.look_at_put
        self.world.store.on_delete = self.look_at_delete
        self.acknowledged: list[CommitRef] = []
        self.committed: set[CommitRef] = set()
        self.routed_to: Pod | None = None
        self.world.start(
            Launched(1, workers, total=TOTAL_STEPS, fresh=False, command=command, keep=keep, restarts_max=restarts_max)
        )
        self.the_job_goes_on(rounds, steps=10, save=True)

    # --- who is there

    @property
    def launched(self) -> Launched:
        return self.world.launches[-1]

    def current(self, index: int) -> Pod:
        return self.launched.pods[index % self.launched.workers]

    def anyone(self, choice: int) -> Pod | None:
        awake = [pod for pod in self.world.alive() if not pod.asleep]
        return awake[choice % len(awake)] if awake else None

    def chief_of(self, pod: Pod) -> Pod:
        """Whom the name of worker 0 leads to."""
        chief = pod.launched.pods[0]
        return self.routed_to if self.routed_to is not None and pod.launched is self.launched else chief

    # --- what happens in the world

    @rule(rounds=st.integers(1, 8), steps=st.integers(0, 15), save=st.booleans())
    def the_job_goes_on(self, rounds: int, steps: int, save: bool) -> None:
        """Undisturbed for a while: without this, most walks would never leave the first assembly."""
        for _ in range(rounds):
            self.round(self.launched.pods, seconds=0.3)
        for pod in self.launched.pods:
            self.work(pod, steps, save)

    def round(self, pods: list[Pod], seconds: float, beside: Iterator[list[Call]] = iter(())) -> None:  # noqa: B008
        """All of `pods` do what is due; after each of their requests the next call of `beside`, if any, has its turn."""
        self.world.now += seconds
        for pod in pods:
            if pod.left is not None or pod.asleep:
                continue
            pod.tick()
            for call in pod.calls():
                for _ in range(60):
                    if call.over:
                        break
                    self.world.step(call)
                    for other in next(beside, ()):
                        if not other.over:
                            self.world.step(other)
            pod.advance()
            if pod.left is None:
                pod.poll(self.chief_of(pod))
            self.restore(pod)

    def work(self, pod: Pod, steps: int, save: bool) -> None:
        if pod.left is None and not pod.asleep:
            pod.train(steps)
            if save:
                pod.begin_save()
            pod.advance()

    @rule(choice=ANY, fate=FATES, times=st.integers(1, 4))
    def a_request_is_answered(self, choice: int, fate: str, times: int) -> None:
        for _ in range(times):
            calls = self.world.calls()
            if calls:
                self.world.step(calls[choice % len(calls)][1], fate)

    @precondition(lambda self: self.world.limbo)
    @rule(choice=ANY)
    def a_request_arrives_late(self, choice: int) -> None:
        self.world.land(choice)

    @rule(choice=ANY, answered=st.sampled_from([True, True, True, False]))
    def someone_polls(self, choice: int, answered: bool) -> None:
        pod = self.anyone(choice)
        if pod is not None:
            pod.tick()
            pod.poll(self.chief_of(pod), answered=answered)

    @rule(choice=ANY, asks=st.booleans())
    def the_name_leads_to_an_old_worker_0(self, choice: int, asks: bool) -> None:
        """For a while: a cache of names, a connection that was kept."""
        old = [pod for pod in self.world.alive() if pod.index == 0 and pod is not self.launched.pods[0]]
        self.routed_to = old[choice % len(old)] if old and choice % 3 else None
        if self.routed_to is not None:
            self.routed_to.asleep = False
            for pod in self.launched.pods[1:] if asks else []:
                if pod.left is None and not pod.asleep:
                    pod.poll(self.routed_to)

    @rule(choice=ANY, steps=st.integers(0, 40), save=st.booleans(), finish=st.booleans())
    def someone_trains(self, choice: int, steps: int, save: bool, finish: bool) -> None:
        pod = self.anyone(choice)
        if pod is not None:
            self.restore(pod)
            self.work(pod, steps, save)
            if finish:
                pod.finish()
            pod.advance()

    def restore(self, pod: Pod) -> None:
        if pod.record is None or pod.restored:
            return
        newest = self.attempts()[-1]
        bad = pod.restore()
        if bad is not None and newest.number == pod.record.number:
            assert bad in self.damaged(), f"{bad}, from which attempt {newest.number} goes on, was deleted"

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 11.0, 35.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.world.now + seconds
        while self.world.now < until:
            # In steps: a coordinator to which the clock jumps takes itself for the one that stood still.
            self.world.now = min(self.world.now + FROZEN_S - 0.5, until)
            for pod in self.world.alive():
                if not pod.asleep:
                    pod.tick()
                    pod.advance()

    @rule(index=ANY, code=st.sampled_from([75, 76, 134, 137]))
    def process_dies(self, index: int, code: int) -> None:
        self.current(index).exit(code)

    @rule(index=ANY)
    def pod_dies_and_is_replaced(self, index: int) -> None:
        pod = self.current(index)
        if pod.left is None:
            pod.die()
        self.replace(index)

    @rule(index=ANY, asleep=st.booleans())
    def pod_is_replaced_and_goes_on(self, index: int, asleep: bool) -> None:
        """Frozen, or cut off from the others but not from the store."""
        pod = self.current(index)
        if pod.left is None:
            pod.asleep = asleep
            self.replace(index)

    @rule(
        steps=st.integers(1, 20), requests=st.sampled_from([3, 3, 3, *range(17)]), asleep=st.booleans(),
        rounds=st.integers(0, 60), pause=st.integers(0, 12), pauses=st.integers(0, 3),
        burst=st.integers(1, 3),
    )  # fmt: skip
    def worker_0_is_replaced_in_the_middle_of_a_save(
        self, steps: int, requests: int, asleep: bool, rounds: int, pause: int, pauses: int, burst: int
    ) -> None:
        """And the job goes on without it, for some or all of the time until its next attempt trains. The old writer pauses
        for a while, and then does some requests after each of the new coordinator's, or after every second, third, fourth."""
        old = self.current(0)
        if old.left is not None or old.asleep:
            return
        self.work(old, steps, save=True)
        for _ in range(requests):
            if old.save is not None and not old.save.over:
                self.world.step(old.save)
        self.pod_is_replaced_and_goes_on(0, asleep)
        self.routed_to = None
        turn = [old.save] * burst if old.save is not None else []
        beside = itertools.chain([[]] * pause, itertools.cycle([turn, *[[]] * pauses]))
        for _ in range(rounds):
            self.round(self.launched.pods, seconds=0.3, beside=beside)

    @precondition(lambda self: any(pod.left is None and pod.save is not None for pod in self.world.pods))
    @rule(choice=ANY, requests=st.integers(1, 8), fate=FATES, steps=st.integers(0, 10))
    def a_writer_goes_on(self, choice: int, requests: int, fate: str, steps: int) -> None:
        """Any of them, also one that nobody knows of any more; with a next save where the last one is through."""
        writing = [pod for pod in self.world.alive() if pod.save is not None]
        if writing:
            pod = writing[choice % len(writing)]
            pod.asleep = False
            self.work(pod, steps, save=True)
            for _ in range(requests):
                if pod.save is not None and not pod.save.over:
                    self.world.step(pod.save, fate)

    def replace(self, index: int) -> None:
        pods = self.launched.pods
        index %= len(pods)
        if pods[index].left in (None, ExitCode.KILLED, ExitCode.STOPPED):
            pods[index] = Pod(self.world, self.launched, index)

    @rule(choice=ANY)
    def someone_wakes_up(self, choice: int) -> None:
        asleep = [pod for pod in self.world.alive() if pod.asleep]
        if asleep:
            asleep[choice % len(asleep)].asleep = False

    @rule(index=ANY)
    def pod_falls_asleep(self, index: int) -> None:
        self.current(index).asleep = True

    @rule(index=ANY, everyone=st.booleans())
    def sigterm(self, index: int, everyone: bool) -> None:
        for pod in self.launched.pods if everyone else [self.current(index)]:
            if pod.left is None and not pod.asleep:
                pod.sigterm()

    @precondition(lambda self: len(self.world.launches) < 3)
    @rule(
        workers=st.integers(1, 3), fresh=st.booleans(), more=st.sampled_from([0, 50]), old=st.sampled_from("swr"),
        seldom=st.integers(0, 9),
    )  # fmt: skip
    def another_launch(self, workers: int, fresh: bool, more: int, old: str, seldom: int) -> None:
        """The old launch's pods are stopped, or go on, or go on and are replaced when they end."""
        if seldom:
            return
        before = self.launched
        before.replaces = old == "r"
        if old == "s":
            for pod in before.pods:
                if pod.left is None and not pod.asleep:
                    pod.sigterm()
        self.routed_to = None
        self.world.start(
            Launched(
                len(self.world.launches) + 1,
                workers,
                total=before.total + more,
                fresh=fresh,
                command=before.command,
                keep=before.keep,
                restarts_max=before.restarts_max,
            )
        )

    @rule(choice=ANY, seldom=st.integers(0, 4))
    def a_checkpoint_is_damaged(self, choice: int, seldom: int) -> None:
        commits = self.commits()
        if commits and not seldom:
            ref = commits[choice % len(commits)]
            shards = [name for name in self.world.store.objects if name.startswith(data_folder(ref))]
            self.world.store.damaged.add(shards[0] if shards else commit_name(ref))

    @rule()
    def training_finishes(self) -> None:
        for _ in range(3):
            for pod in self.launched.pods:
                if pod.left is None and not pod.asleep:
                    self.restore(pod)
                    pod.train(1000)
                    pod.finish()
                    pod.advance()
            self.round(self.launched.pods, seconds=0.1)

    # --- what is there

    def records(self) -> Records:
        return self.world.records()

    def attempts(self, launch: str | None = None) -> list[AttemptRecord]:
        found = [record for record in self.records() if isinstance(record, AttemptRecord)]
        return [record for record in found if launch in (None, record.launch.id)]

    def commits(self) -> list[CommitRef]:
        return [ref for name in self.world.store.objects if (ref := parse_commit_name(name))]

    def damaged(self) -> set[str]:
        """Names of commits that were damaged."""
        names = self.world.store.damaged
        return {ref.name for name in names if (ref := parse_commit_name(name) or parse_data_name(name))}

    # --- what must hold

    def saved(self, pod: Pod, ref: CommitRef) -> None:
        """A writer acknowledged a commit."""
        if ref in self.acknowledged:
            return
        later = [record for record in self.attempts() if record.number > ref.attempt]
        # Frozen on its way, an acknowledgement may come late; whoever closed the attempt must have seen the commit.
        if later and not later[0].fresh and ref.name not in later[0].bad:
            chosen = later[0].restore
            assert chosen is not None, f"{ref.name} is acknowledged and attempt {later[0].number} restores nothing"
            assert chosen.step >= ref.step, f"{ref.name} is acknowledged, {chosen.name} was restored before"
        if not any(record.fresh for record in later):
            self.acknowledged.append(ref)

    def look_at_put(self, name: str) -> None:
        number, ref = record_number(name), parse_commit_name(name)
        if number is not None:
            before = [record for record in self.records() if record.number != number]
            self.look_at_record(parse_record(self.world.store.objects[name][0]), before)
        elif ref is not None:
            on_line = line(self.records(), self.commits())
            if ref in self.committed and ref in on_line:
                # The second copy of a request, which arrives after retention deleted what the first had made.
                assert on_line.index(ref) >= 2, f"{ref.name} is there again, with nothing newer"
            elif self.attempts()[-1].number > ref.attempt:
                assert ref not in on_line, f"{ref.name} of an old writer is on the line"
            self.committed.add(ref)

    def look_at_record(self, record: AttemptRecord | EndRecord, before: Records) -> None:
        assert [earlier.number for earlier in before] == list(range(1, record.number)), "records are consecutive"
        launch = record.launch.id
        own = [earlier for earlier in before if earlier.launch.id == launch]
        assert not own or before[-1].launch.id == launch, f"{launch} writes after it was taken over"
        assert not any(isinstance(earlier, EndRecord) for earlier in own), f"{launch} writes after its end"
        there = {ref for ref in self.commits() if ref.name not in self.damaged()}
        if isinstance(record, AttemptRecord) and record.fresh:
            self.acknowledged = []
        needed = [ref for ref in self.acknowledged if ref in there and ref.name not in record.bad]
        if isinstance(record, EndRecord):
            assert record.code != ExitCode.CONFIGURATION or not needed, f"the job ends although {needed} are whole"
            return
        assert all(name in self.damaged() or name not in {ref.name for ref in there} for name in record.bad)
        if needed:
            newest = max(needed, key=lambda ref: ref.step)
            assert record.restore is not None, f"{newest.name} was acknowledged"
            assert record.restore.step >= newest.step, f"{newest.name} was acknowledged, not {record.restore.name}"
        assert record.restore is None or record.restore.attempt < record.number
        world_size = next(one.workers for one in self.world.launches if one.launch.id == launch)
        assert [member.index for member in record.members] == list(range(world_size))
        if own and isinstance(own[-1], AttemptRecord):
            self.look_at_budget(record, own[-1])
        else:
            assert record.budget_used == 0

    def look_at_budget(self, record: AttemptRecord, last: AttemptRecord) -> None:
        """A restart is free if, and only if, the attempt before it committed something."""
        assert record.previous is not None
        assert record.previous.attempt == last.number
        used = record.budget_used - last.budget_used
        if any(ref.attempt == last.number for ref in self.acknowledged):
            assert used == 0, "a restart costs although steps were committed"
        elif not any(ref.attempt == last.number for ref in self.committed):
            assert used == 1, "a restart is free although nothing was committed"

    def look_at_delete(self, name: str) -> None:
        assert not name.startswith("attempts/"), "records stay"
        self.look_at_reach(name)
        # Damage that a record names takes a commit off the line, not off the disk.
        records = [record.model_copy(update={"bad": []}) for record in self.records()]
        on_line = line(records, self.commits())
        ref, owner = parse_commit_name(name), parse_data_name(name)
        if ref is not None and ref in on_line:
            newer = on_line[: on_line.index(ref)]
            assert len(newer) >= 2, f"{name} is deleted while {newer} are all that is newer"
            for other in newer[:2]:
                shards = [shard for shard in self.world.store.objects if shard.startswith(data_folder(other))]
                assert len(shards) == 2, f"{name} is deleted while {other.name} lacks data"
        elif owner is not None:
            assert owner not in on_line, f"{name} is deleted while its commit stands"
            newest = self.attempts()[-1].number
            for pod in self.world.alive():
                saving = pod.save is not None and not pod.save.over and pod.record and pod.record.number == newest
                assert not saving or owner != CommitRef(step=pod.step, attempt=newest), f"{name} is being written"

    def look_at_reach(self, name: str) -> None:
        """No writer touches what is of a later attempt, of a time before a fresh start, or known to be damaged."""
        ref = parse_commit_name(name) or parse_data_name(name)
        pod = next((pod for pod in self.world.pods if pod.save is not None and pod.save.is_this_thread()), None)
        if pod is None or pod.record is None or ref is None:
            return  # a request that comes late
        known = [record for record in self.records() if record.number <= pod.record.number]
        first = max([record.number for record in known if isinstance(record, AttemptRecord) and record.fresh] or [1])
        assert first <= ref.attempt <= pod.record.number, f"{name} is deleted by attempt {pod.record.number}"
        assert not any(ref.name in record.bad for record in known), f"{name} is deleted although it is damaged"

    @invariant()
    def all_who_run_an_attempt_run_what_is_on_record(self) -> None:
        if not hasattr(self, "world"):
            return
        records = {record.number: record for record in self.records()}
        for pod in self.world.alive():
            if pod.record is not None:
                assert pod.record == records[pod.record.number]
                assert {member.index: member.uid for member in pod.record.members}[pod.index] == pod.uid

    def teardown(self) -> None:
        """Left in peace, the job goes on to its end, and every agent leaves, those of its last days with the end's code."""
        if not hasattr(self, "world"):
            return
        try:
            self.in_peace()
        finally:
            self.world.close()
            writer_module.time = __import__("time")
            os.close(self.memory_fd)
            logging.disable(logging.NOTSET)

    def in_peace(self) -> None:
        self.routed_to = None
        for pod in self.world.pods:
            pod.asleep = False
        for number in range(700):
            while self.world.limbo:
                self.world.land(0)
            self.round(self.world.alive(), seconds=0.5)
            for pod in self.world.alive():
                pod.train(7)
                pod.finish()
                pod.advance()
            for launched in self.world.launches:
                abandoned = not launched.replaces or launched.pods[0].left is not None
                if number > 500 and abandoned and not self.attempts(launched.launch.id):
                    # Who never heard of worker 0 can only be told by whoever started it (FailJob, delete, `orch run`).
                    for pod in self.world.alive():
                        if pod.launched is launched:
                            pod.sigterm()
                elif launched.replaces:
                    for index, pod in enumerate(launched.pods):
                        if pod.left in (ExitCode.KILLED, ExitCode.STOPPED):
                            launched.pods[index] = Pod(self.world, launched, index)
            if not self.world.alive():
                break
        records = self.records()
        last = next(launched for launched in self.world.launches if launched.launch.id == records[-1].launch.id)
        # Of a launch whose pods nobody replaces no more can be asked.
        if last.replaces:
            assert isinstance(records[-1], EndRecord), [self.said(pod) for pod in last.pods]
        assert not self.world.alive(), [self.said(pod) for pod in self.world.alive()]
        ends = {record.launch.id: record for record in records if isinstance(record, EndRecord)}
        for launched in self.world.launches:
            end = ends.get(launched.launch.id)
            if end is not None and launched.replaces:
                code = ExitCode.TASK_ERROR if end.code == ExitCode.SCRIPT_FAILED else end.code
                assert {pod.left for pod in launched.pods} == {code}, (launched.launch.id, launched.pods, end.reason)

    @staticmethod
    def said(pod: Pod) -> tuple[object, ...]:
        coordinator = pod.coordinator
        return (
            pod,
            pod.left,
            pod.running,
            coordinator and (coordinator.stage, coordinator.reason(), coordinator.leave),
        )


_EXAMPLES = os.environ.get("ORCH_MODEL_EXAMPLES")
Protocol.TestCase.settings = settings(
    max_examples=int(_EXAMPLES or "300"),
    stateful_step_count=int(os.environ.get("ORCH_MODEL_STEPS", "60")),
    # The same walks each time in the test suite; other ones in a long run, by pytest's --hypothesis-seed.
    derandomize=_EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[HypothesisPhase.generate] + [HypothesisPhase.shrink] * ("ORCH_MODEL_SHRINK" in os.environ),
)
TestProtocolUnderRandomInterleavings = Protocol.TestCase
