"""What `orch run` says became of its launch, from the records, from how the agents left, and where one of the two is missing."""

import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.local import run as local_run
from orchestrator.local.agents import Agents
from orchestrator.local.printer import Printer
from orchestrator.local.result import result_of
from orchestrator.runs.view import RunView
from orchestrator.status import run_directory
from orchestrator.status.model import JobStatus
from orchestrator.status.run_directory import with_its_past
from orchestrator.status.text import last_lines
from trainer.config import TrainConfig, TrainSection
from trainer.errors import StoreUnavailable
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch
from trainer.rundir.open import open_store
from trainer.wire.coordinator import AgentReport, JobState
from trainer.wire.termination import LastWords, general_remedy

OWN = Launch(id="own", started=datetime(2026, 1, 2, tzinfo=UTC))
EARLIER = Launch(id="earlier", started=datetime(2026, 1, 1, tzinfo=UTC))
AWAY = "the run directory cannot be read: gs://acme/digits: 503"
CONFIG = TrainConfig.model_validate(
    {
        "name": "digits",
        "train": {"task": "trainer.tasks.digits:Digits", "steps": 500},
        "run_directory": "gs://acme/digits",
        "workers": 2,
    }
)


def attempt(number: int, launch: Launch) -> AttemptRecord:
    return AttemptRecord(
        number=number, nonce="n", launch=launch, created=launch.started, members=[], restore=None, world_size=2
    )


def end(number: int, launch: Launch, **facts: Any) -> EndRecord:
    told = {"state": "succeeded", "code": 0, "reason": "trained 500 steps", "step": 500, "weights_sha256": "abc"}
    return EndRecord.model_validate(
        {"number": number, "nonce": "n", "launch": launch, "created": launch.started, **told, **facts}
    )


def told(*, committed: int | None = None, **facts: Any) -> JobState:
    """What the coordinator told last: it trains."""
    report = AgentReport(
        launch=OWN.id, index=0, uid="zero", address="127.0.0.1", port=1, state="running", attempt=3,
        last_commit=CommitRef(step=committed, attempt=3) if committed else None,
    )  # fmt: skip
    return JobState(
        name="digits", launch=OWN.id, state="running", reason="", attempt=3, restarts=2, budget_used=0, budget_max=20,
        step=450, total_steps=500, rate=10.0, metrics={"loss": 0.25}, workers=[report], **facts,
    )  # fmt: skip


def result(
    *records: AttemptRecord | EndRecord, codes: list[int | None], last: JobState | None = None, **facts: Any
) -> JobStatus:
    view = RunView(open_store("/nowhere"), list(records), [CommitRef(step=400, attempt=1)] if records else [])
    given: dict[str, Any] = {"stop_signal": None, "gave_up": ""} | facts
    return result_of(view, CONFIG, launch=OWN.id, codes=codes, last=last, **given)


def test_a_run_whose_agents_all_left_well_has_succeeded_also_where_its_directory_cannot_be_read() -> None:
    found = result(codes=[0, 0], last=told(), unread=AWAY)
    assert (found.state, found.code, found.reason) == ("succeeded", 0, AWAY)
    assert (found.step, found.attempts, found.restarts, found.metrics) == (450, 3, 2, {"loss": 0.25})
    # The coordinator may have told of the end before it left.
    found = result(codes=[0, 0], last=told(end=end(4, OWN)), unread=AWAY)
    assert (found.state, found.reason, found.step, found.weights_sha256) == (
        "succeeded", "trained 500 steps", 500, "abc"
    )  # fmt: skip
    assert result(codes=[0, 0], unread=AWAY).code == 0


COMMAND = CONFIG.model_copy(update={"train": TrainSection(command=["python", "train.py"])})


def test_no_end_of_a_command_speaks_of_a_checkpoint() -> None:
    """Stopped, failed, given up, finished before; with records and without."""
    ran = attempt(1, OWN).model_copy(update={"command": True})
    last = end(
        2, OWN, command=True, state="failed", code=70, reason="worker 0: the script failed: ValueError: x", step=0
    )
    cases: list[tuple[list[AttemptRecord | EndRecord], dict[str, Any]]] = [
        ([ran], {"stop_signal": signal.SIGINT, "codes": [143]}),
        ([], {"stop_signal": signal.SIGINT, "codes": [143]}),
        ([ran, last], {"codes": [70]}),
        ([ran], {"codes": [70]}),
        ([ran], {"codes": [None], "gave_up": "the agent died"}),
        ([end(2, EARLIER, command=True)], {"codes": [0]}),
    ]
    for records, facts in cases:
        view = RunView(open_store("/nowhere"), records, [])
        given: dict[str, Any] = {"stop_signal": None, "gave_up": "", "last": None} | facts
        lines = "\n".join(last_lines(result_of(view, COMMAND, launch=OWN.id, **given), "runs/x"))
        said = lines.replace("orch saves nothing of a command", "")
        assert not any(word in said for word in ("checkpoint", "train.steps", "the task", "save")), lines
    assert "the command was not run now: to run it again, use --fresh" in lines
    stopped = result_of(RunView(open_store("/nowhere"), [ran], []), COMMAND, launch=OWN.id, **{**given, **cases[0][1]})
    assert stopped.reason == "stopped; orch saves nothing of a command: run again, and it runs from its start"
    assert "command" not in stopped.to_json()


def test_a_script_that_was_finished_before_is_not_told_of_a_length_that_it_does_not_have() -> None:
    script = CONFIG.model_copy(update={"train": TrainSection(script="train.py")})
    view = RunView(open_store("/nowhere"), [attempt(1, EARLIER), end(2, EARLIER)], [])
    given: dict[str, Any] = {"launch": OWN.id, "codes": [0], "stop_signal": None, "gave_up": "", "last": None}
    said, of_a_task = ("\n".join(last_lines(result_of(view, config, **given), "runs/x")) for config in (script, CONFIG))
    assert "nothing was trained now: to train anew, use --fresh or another --directory" in said
    assert (
        "nothing was trained now: to go on, raise train.steps or train.epochs; to train anew, use --fresh" in of_a_task
    )


def test_a_run_that_failed_says_so_where_its_directory_cannot_be_read() -> None:
    found = result(codes=[70, 0], unread=AWAY)
    assert (found.state, found.code, found.reason) == ("failed", 70, f"the agents left: task error ({AWAY})")


@pytest.mark.parametrize(
    ("last", "saved"),
    [
        (told(committed=300), f"checkpoint at step 300 or later; {AWAY}"),
        (told(), f"how far it is saved is unknown; {AWAY}"),
        (None, f"how far it is saved is unknown; {AWAY}"),
    ],
)
def test_a_stopped_run_says_nothing_of_checkpoints_that_it_does_not_know(last: JobState | None, saved: str) -> None:
    found = result(codes=[143, 143], stop_signal=signal.SIGINT, last=last, unread=AWAY)
    assert (found.state, found.code, found.reason) == ("stopped", 130, f"stopped ({saved}); run again to go on")


def test_the_end_of_another_launch_is_not_taken_for_this_ones() -> None:
    before = [attempt(1, EARLIER), end(2, EARLIER)]
    found = result(*before, codes=[78, 78])
    assert (found.state, found.code) == ("failed", 78)
    found = result(*before, codes=[None, None], gave_up="the agent of worker 0 died 21 times in a row")
    assert (found.state, found.code) == ("failed", 77)
    # Unless all was done before, and the agents left with its code.
    found = result(*before, codes=[0, 0])
    assert (found.state, found.reason, found.step) == ("succeeded", "trained 500 steps", 500)


def test_its_own_end_stands_whoever_went_on_behind_it() -> None:
    records = [attempt(1, OWN), end(2, OWN), attempt(3, EARLIER), end(4, EARLIER, state="failed", code=77)]
    found = result(*records, codes=[0, 0])
    assert (found.state, found.code, found.step) == ("succeeded", 0, 500)
    found = result(*records[:3], codes=[143, 0], stop_signal=signal.SIGINT)
    assert (found.state, found.code) == ("succeeded", 0)


def test_what_the_coordinator_sent_its_agents_away_with_is_what_to_do() -> None:
    """No record tells of a launch that found the end of another job: its agents' last words do."""
    words = LastWords(code=78, reason="it is finished, and the job has changed since", remedy="train anew")
    found = result(attempt(1, EARLIER), end(2, EARLIER), codes=[78, 78], words=[words])
    assert (found.code, found.reason, found.remedy) == (78, words.reason, "train anew")
    assert "what to do: train anew" in last_lines(found, "runs/digits")
    # What its code says anyway is no remedy of its own.
    general = words.model_copy(update={"remedy": general_remedy(78)})
    assert result(codes=[78, 78], words=[general]).remedy == ""


def test_a_run_directory_that_could_not_be_read_at_the_end_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def away(directory: str, **_: Any) -> RunView:
        asked.append(directory)
        raise StoreUnavailable("gs://acme/digits: 503\nagain later")

    monkeypatch.setattr(local_run, "read_run", away)
    monkeypatch.setattr(run_directory, "read_run", away)
    monkeypatch.setattr(local_run, "open_store", lambda _: open_store("/nowhere"))
    agents = Agents(2, {}, 1, Printer(), python="python")
    for agent in agents.all:
        agent.final_code = 0
    found = with_its_past(local_run.LocalRun(CONFIG, Printer())._result(agents))
    assert (found.state, found.code, found.unread) == ("succeeded", 0, "gs://acme/digits: 503")
    assert asked == ["gs://acme/digits"]
