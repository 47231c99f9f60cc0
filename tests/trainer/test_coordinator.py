"""The coordinator under random interleavings: polls, deaths, lost answers of the store, zombies, several coordinators.

A world in memory plays agents, processes and the store. What must hold is checked from outside, on the records alone.
"""

from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trainer.agent.coordinator import Append, Coordinator, Job, ListCommits, Probe
from trainer.agent.protocol import AgentReport, Directive, ExitReport, Phase, Result
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch
from trainer.rundir.lineage import line

TOTAL_STEPS = 100
Records = list[AttemptRecord | EndRecord]


class SimulatedAgent:
    """What an agent does with directives, without processes."""

    def __init__(self, index: int, uid: str) -> None:
        self.index = index
        self.uid = uid
        self.running: AttemptRecord | None = None
        self.attempt = 0
        self.step = 0
        self.last_exit: ExitReport | None = None
        self.result: Result | None = None
        self.left: int | None = None

    def report(self, launch: str) -> AgentReport:
        return AgentReport(
            launch=launch,
            index=self.index,
            uid=self.uid,
            address="10.0.0.1",
            port=20000,
            state="running" if self.running else "idle",
            attempt=self.running.number if self.running else self.attempt,
            last_exit=self.last_exit,
            phase=Phase.TRAIN if self.running else None,
            step=self.step,
            result=self.result,
        )

    def obey(self, directive: Directive) -> None:
        if directive.kind == "run" and self.running is None:
            assert directive.record is not None
            if directive.record.number > self.attempt:
                self.running = directive.record
                self.attempt = directive.record.number
                self.step = directive.record.restore.step if directive.record.restore else 0
                self.last_exit = self.result = None
        elif directive.kind == "end" and self.running is not None:
            self.exit(ExitCode.KILLED, by_agent=True)
        elif directive.kind in ("exit", "leave"):
            if self.running is not None:
                self.exit(ExitCode.KILLED, by_agent=True)
            self.left = directive.end.code if directive.end else directive.code

    def exit(self, code: int, *, by_agent: bool = False) -> None:
        assert self.running is not None
        self.last_exit = ExitReport(
            attempt=self.running.number, code=code, step=self.step, blocks=True, killed_by_agent=by_agent
        )
        self.running = None


class World(RuleBasedStateMachine):
    """Two workers, one run directory, any number of coordinators over time."""

    workers = 2

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.uids = 0
        self.records: Records = []
        self.commits: list[CommitRef] = []
        self.acknowledged: list[CommitRef] = []
        self.launch = Launch(id="launch-1", started=datetime(2026, 1, 1, tzinfo=UTC))
        self.agents = [SimulatedAgent(index, self.new_uid()) for index in range(self.workers)]
        self.zombies: list[tuple[Coordinator, Append]] = []
        self.old_agents: list[SimulatedAgent] = []
        self.coordinator = self.new_coordinator()

    def new_uid(self) -> str:
        self.uids += 1
        return f"uid-{self.uids}"

    def new_coordinator(self) -> Coordinator:
        job = Job("job", self.workers, self.agents[0].uid, self.launch, restarts_max=1000, steps_asked=TOTAL_STEPS)
        return Coordinator(job, list(self.records), self.now)

    # --- what happens in the world

    @rule(index=st.integers(0, 1))
    def poll(self, index: int) -> None:
        agent = self.agents[index]
        if agent.left is None:
            agent.obey(self.coordinator.poll(agent.report(self.launch.id), self.now))

    @rule(rounds=st.integers(1, 6), steps=st.integers(0, 30))
    def the_job_goes_on(self, rounds: int, steps: int) -> None:
        """Undisturbed for a while: without this, most random walks would never leave the first assembly."""
        for _ in range(rounds):
            self.now += 0.3
            self.coordinator.tick(self.now)
            for index in range(self.workers):
                self.poll(index)
            self.store_answers("done")
        for index in range(self.workers):
            self.train(index, steps)

    @rule(index=st.integers(0, 1))
    def a_replaced_agent_wakes_up(self, index: int) -> None:
        for agent in self.old_agents:
            if agent.index == index and agent.left is None:
                directive = self.coordinator.poll(agent.report(self.launch.id), self.now)
                # As far as this coordinator knows: a record that a stale one wrote since, it finds when it writes its own.
                known = [record for record in self.coordinator.records if isinstance(record, AttemptRecord)]
                named = {member.uid for member in known[-1].members} if known else set()
                recorded = {member.uid for record in known for member in record.members}
                if self.agents[index].uid in named and (index == 0 or agent.uid in recorded):
                    assert directive.kind in ("leave", "exit"), "an agent whose successor is on record goes on"
                agent.obey(directive)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    @rule(fate=st.sampled_from(["done", "done", "done", "refused", "lost answer"]))
    def store_answers(self, fate: str) -> None:
        action = self.coordinator.next_action(self.now)
        if action is None:
            return
        if fate == "refused":
            self.coordinator.store_failed("503", self.now)
            return
        if isinstance(action, ListCommits):
            if fate == "lost answer":
                self.coordinator.store_failed("reset", self.now)
            else:
                self.coordinator.commits_listed(list(self.commits), self.now)
        elif isinstance(action, Append):
            written = self.put_if_absent(action.record)
            if fate == "lost answer":
                self.coordinator.store_failed("reset", self.now)
            else:
                self.coordinator.appended(written, self.now)
        elif isinstance(action, Probe):
            number = action.number
            found = self.records[number - 1] if number <= len(self.records) else None
            self.coordinator.probed(found, self.now)

    def put_if_absent(self, record: AttemptRecord | EndRecord) -> AttemptRecord | EndRecord:
        if record.number <= len(self.records):
            return self.records[record.number - 1]
        assert record.number == len(self.records) + 1, "records are consecutive"
        self.records.append(record)
        return record

    @rule(index=st.integers(0, 1), steps=st.integers(1, 40))
    def train(self, index: int, steps: int) -> None:
        agent = self.agents[index]
        if agent.running is not None:
            agent.step = min(agent.step + steps, TOTAL_STEPS)

    @rule()
    def commit(self) -> None:
        for chief in [self.agents[0], *(old for old in self.old_agents if old.index == 0)]:
            if chief.running is None:
                continue
            ref = CommitRef(step=chief.step, attempt=chief.running.number)
            if ref in self.commits or chief.step == 0:
                continue
            self.commits.append(ref)
            # A zombie's commit is nobody's promise; that of the chief of the day is.
            if chief is self.agents[0]:
                self.acknowledged.append(ref)

    @rule(index=st.integers(0, 1), code=st.sampled_from([75, 76, 134, 137]))
    def process_dies(self, index: int, code: int) -> None:
        if self.agents[index].running is not None:
            # Steps differ, so that no crash loop ends the job.
            self.uids += 1
            self.agents[index].step = min(self.agents[index].step + self.uids, TOTAL_STEPS)
            self.agents[index].exit(code)

    @rule(index=st.integers(0, 1))
    def agent_dies(self, index: int) -> None:
        if self.agents[index].left is not None:
            return
        self.old_agents.append(self.agents[index])
        self.agents[index] = SimulatedAgent(index, self.new_uid())
        if index == 0:
            action = self.coordinator.next_action(self.now)
            if isinstance(action, Append):
                self.zombies.append((self.coordinator, action))
            self.coordinator = self.new_coordinator()

    @precondition(lambda self: self.zombies)
    @rule()
    def a_stale_coordinator_writes(self) -> None:
        coordinator, action = self.zombies.pop()
        if action.record.number <= len(self.records) + 1:
            coordinator.appended(self.put_if_absent(action.record), self.now)

    @rule()
    def training_finishes(self) -> None:
        running = [agent.running for agent in self.agents]
        if any(record is None for record in running) or len({record.number for record in running if record}) != 1:
            return
        chief = self.agents[0]
        for agent in self.agents:
            agent.step = TOTAL_STEPS
            if agent is chief:
                assert chief.running is not None
                ref = CommitRef(step=TOTAL_STEPS, attempt=chief.running.number)
                if ref not in self.commits:
                    self.commits.append(ref)
                agent.result = Result(
                    step=TOTAL_STEPS, total_steps=TOTAL_STEPS, metrics={}, weights_sha256="x", export=None
                )
            agent.exit(ExitCode.DONE)

    # --- what must hold

    @invariant()
    def records_tell_one_story(self) -> None:
        if not hasattr(self, "records"):
            return
        assert [record.number for record in self.records] == list(range(1, len(self.records) + 1))
        ends = [record for record in self.records if isinstance(record, EndRecord)]
        assert len(ends) <= 1
        if ends:
            assert self.records[-1] is ends[0], "nothing follows the end of a launch"

    @invariant()
    def all_who_run_an_attempt_run_the_same(self) -> None:
        if not hasattr(self, "agents"):
            return
        for agent in self.agents:
            if agent.running is not None:
                assert agent.running in self.records
                named = {member.index: member.uid for member in agent.running.members}
                assert named[agent.index] == agent.uid

    @invariant()
    def no_acknowledged_commit_is_lost(self) -> None:
        if not hasattr(self, "records"):
            return
        known = line(self.records, self.commits)
        assert set(self.acknowledged) <= set(known)
        attempts = [record for record in self.records if isinstance(record, AttemptRecord)]
        assert all(record.restore.attempt < record.number for record in attempts if record.restore is not None)

    def teardown(self) -> None:
        """Left in peace, the job goes on to its end, with every agent leaving with the end's code."""
        if not hasattr(self, "records"):
            return
        for _ in range(400):
            self.now += 0.5
            self.coordinator.tick(self.now)
            for index in range(self.workers):
                self.poll(index)
            self.store_answers("done")
            self.training_finishes()
            for index, agent in enumerate(self.agents):
                if agent.left == ExitCode.STOPPED:
                    agent.left = None
                    self.agent_dies(index)
            if all(agent.left is not None for agent in self.agents):
                break
        lefts = {agent.left for agent in self.agents}
        if self.coordinator.leave is not None:
            return
        assert isinstance(self.records[-1], EndRecord), (self.coordinator.stage, lefts)
        assert lefts == {self.records[-1].code}


World.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestCoordinatorUnderRandomInterleavings = World.TestCase


def test_the_worker_that_its_peers_lost_is_named_also_where_it_was_the_coordinator() -> None:
    """A killed agent 0 tells nobody why: what is left are the echoes of its peers, and that another one took its place."""
    launch = Launch(id="launch-1", started=datetime(2026, 1, 1, tzinfo=UTC))
    agents = [SimulatedAgent(0, "first"), SimulatedAgent(1, "other")]
    coordinator = Coordinator(Job("job", 2, "first", launch), [], 0.0)

    def until_recorded(now: float) -> AttemptRecord:
        for agent in agents:
            agent.obey(coordinator.poll(agent.report(launch.id), now))
        assert isinstance(coordinator.next_action(now), ListCommits)
        coordinator.commits_listed([], now)
        action = coordinator.next_action(now)
        assert isinstance(action, Append)
        assert isinstance(action.record, AttemptRecord)
        coordinator.appended(action.record, now)
        return action.record

    first = until_recorded(1.0)
    agents[1].obey(coordinator.poll(agents[1].report(launch.id), 2.0))
    agents[1].step = 40
    agents[1].exit(ExitCode.LOST_PEER)
    agents[0] = SimulatedAgent(0, "second")
    coordinator = Coordinator(Job("job", 2, "second", launch), [first], 3.0)
    end = until_recorded(4.0).previous
    assert end is not None
    assert (end.worker, end.step, end.reason) == (0, 40, "worker 0 was replaced: its agent or pod had ended")
