"""Why an attempt ended, and whether another one may follow. Pure: reports in, decisions out.

In one attempt every process ends, and most ends are echoes of the first. The rules are in docs/architecture.md, "Restarts".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trainer.exit_codes import CRASH_CODES, FINAL_CODES, ExitCode, title_of
from trainer.memory import in_words, is_full
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord
from trainer.wire.coordinator import ExitReport

CRASH_LOOP_ATTEMPTS = 3
TOLD_TO_LEAVE = "was told to leave (SIGTERM)"
HUNG_S = 5.0
"""A process that its agent had to kill counts as hung when its last block ended longer ago than this."""
BACKOFF_ATTEMPTS = 3
BACKOFF_MAX_S = 60.0


@dataclass(frozen=True)
class Loss:
    """One worker's end in an attempt, as the coordinator learned of it, or its silence."""

    worker: int
    at_s: float
    """By the coordinator's clock."""
    report: ExitReport | None = None
    why: str = ""
    """Instead of a report, or before one that says no more than that its agent had to end it: `silent for 10 s`."""
    memory_bytes: int = 0
    """Instead of a report: what its process had when its agent was last heard."""

    @property
    def telling_report(self) -> ExitReport | None:
        """The report, where that says why the process ended."""
        report = self.report
        return None if report and self.why and report.killed_by_agent and report.silent_s <= HUNG_S else report


def end_of_attempt(attempt: int, losses: Sequence[Loss], *, memory_limit: int | None, at: datetime) -> AttemptEnd:
    """The culprit's end, told as the end of the attempt.

    A final code (task error, configuration, last save refused) beats all, wherever and whenever it shows; then the first
    that is no echo (75), no orderly stop (143) and not killed by its agent because the attempt was over; then who was
    told to leave; then hung processes, the longest silent first; then the first of what is left.
    """
    culprit = _culprit(sorted(losses, key=lambda loss: loss.at_s))
    reports = [loss.report for loss in losses if loss.report is not None]
    heard = bool(reports)
    step = max((report.step for report in reports), default=0)
    blocks = any(report.blocks for report in reports)
    if culprit is None:
        return AttemptEnd(
            attempt=attempt,
            code=ExitCode.LOST_PEER,
            reason="coordinator lost",
            at=at,
            step=step,
            blocks=blocks,
            heard=heard,
        )
    report = culprit.telling_report
    if report is None:
        # Peers end in order only where somebody was told to leave: who is gone without a word was that one.
        stopped = heard and all(peer.code == ExitCode.STOPPED for peer in reports)
        # With cgroup v2 the kernel's out-of-memory kill takes the agent too, and no code of ours runs.
        full = not stopped and is_full(culprit.memory_bytes, memory_limit)
        lost = ExitCode.STOPPED if stopped else ExitCode.KILLED if full else ExitCode.LOST_PEER
        why = TOLD_TO_LEAVE if stopped else culprit.why
        if full:
            why += f", probably out of memory: it had {in_words(culprit.memory_bytes)} of {in_words(memory_limit or 0)}"
        return AttemptEnd(
            attempt=attempt,
            code=lost,
            reason=f"worker {culprit.worker} {why}",
            worker=culprit.worker,
            step=step,
            blocks=blocks,
            heard=heard,
            memory_full=full,
            at=at,
        )
    hung = report.killed_by_agent and report.silent_s > HUNG_S
    code = ExitCode.HANG if hung else report.code
    return AttemptEnd(
        attempt=attempt,
        code=code,
        reason=_reason(culprit.worker, code, report),
        exception=report.exception,
        worker=culprit.worker,
        step=step,
        block_steps=report.block_steps,
        blocks=blocks,
        heard=heard,
        memory_full=report.out_of_memory or is_full(report.memory_peak_bytes, memory_limit),
        stacks=report.stacks,
        at=at,
    )


def _culprit(losses: Sequence[Loss]) -> Loss | None:
    def code(loss: Loss) -> int | None:
        return loss.report.code if loss.report else None

    echoes = (ExitCode.DONE, ExitCode.LOST_PEER, ExitCode.STOPPED)
    own = [loss for loss in losses if loss.telling_report is None or not loss.telling_report.killed_by_agent]
    hung = [loss for loss in losses if loss.report and loss.report.killed_by_agent and loss.report.silent_s > HUNG_S]
    ranks: list[list[Loss]] = [
        [loss for loss in losses if code(loss) in FINAL_CODES],
        [loss for loss in own if loss.report and loss.report.bad_commit],
        [loss for loss in own if code(loss) not in echoes and loss.telling_report is not None],
        [loss for loss in own if loss.telling_report is None],
        [loss for loss in losses if loss.report and loss.report.asked],
        sorted(hung, key=lambda loss: -(loss.report.silent_s if loss.report else 0)),
        [loss for loss in own if code(loss) == ExitCode.STOPPED],
        [loss for loss in own if code(loss) != ExitCode.DONE],
        [loss for loss in losses if code(loss) != ExitCode.DONE],
    ]
    return next((rank[0] for rank in ranks if rank), None)


def _reason(worker: int, code: int, report: ExitReport) -> str:
    if report.bad_commit:
        return f"worker {worker}: {report.message or f'checkpoint {report.bad_commit} is damaged'}"
    if code == ExitCode.HANG:
        how = report.message or f"silent for {report.silent_s:.0f} s"
        return f"worker {worker} hung: {how} (step {report.step})"
    if code == ExitCode.STOPPED and report.asked:
        return f"worker {worker} {TOLD_TO_LEAVE}" + (f": {_first_line(report.message)}" if report.message else "")
    text = f"worker {worker}: {title_of(code)}"
    text = ": ".join(part for part in (text, report.exception, _first_line(report.message)) if part)
    return text + (f" (step {report.step})" if report.step else "")


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:500] if lines else ""


def is_crash(end: AttemptEnd) -> bool:
    """Whether this end counts towards a crash loop."""
    return end.code in CRASH_CODES or end.out_of_memory


def crash_loop(ends: Sequence[AttemptEnd]) -> bool:
    """Whether the last three attempts of a launch ended with the same code and exception at the same step, which is known to
    a block: the step that was reported last is the end of the block before."""
    last = list(ends)[-CRASH_LOOP_ATTEMPTS:]
    if len(last) < CRASH_LOOP_ATTEMPTS or not all(is_crash(end) for end in last):
        return False
    steps = [end.step for end in last]
    near = max(steps) - min(steps) <= max(end.block_steps for end in last)
    return near and len({(end.code, end.exception) for end in last}) == 1


def backoff_s(ends: Sequence[AttemptEnd]) -> float:
    """Seconds to wait before the next attempt: 0, but 1, 2, 4 ... 60 from the third attempt in a row without a block."""
    barren = 0
    for end in reversed(list(ends)):
        if end.blocks:
            break
        barren += 1
    return min(2.0 ** (barren - BACKOFF_ATTEMPTS), BACKOFF_MAX_S) if barren >= BACKOFF_ATTEMPTS else 0.0


def _with_commits(end: AttemptEnd, next_restore: CommitRef | None) -> AttemptEnd:
    committed = next_restore is not None and next_restore.attempt == end.attempt
    return end.model_copy(update={"blocks": end.blocks or committed})


def ends_of_launch(records: Sequence[AttemptRecord | EndRecord], launch: str) -> list[AttemptEnd]:
    """How the attempts of one launch ended, oldest first, as later records of the launch tell it.

    One from whose commit the next one went on has trained, also where nobody was left to say so.
    """
    own = {record.number for record in records if isinstance(record, AttemptRecord) and record.launch.id == launch}
    return [
        _with_commits(record.previous, record.restore)
        for record in records
        if isinstance(record, AttemptRecord) and record.previous is not None and record.previous.attempt in own
    ]


@dataclass(frozen=True)
class GiveUp:
    """No further attempt: the job ends with this code and reason."""

    code: int
    reason: str


def give_up(end: AttemptEnd, earlier: Sequence[AttemptEnd], *, budget_used: int, budget_max: int) -> GiveUp | None:
    """Whether the job ends with this attempt: a final code, a crash loop, or the budget used up.

    A `command:` script's plain failure is the task's own, unless a peer died first, in which case it is not the culprit.
    """
    if end.code in FINAL_CODES:
        return GiveUp(end.code, end.reason)
    if end.code == ExitCode.SCRIPT_FAILED:
        return GiveUp(ExitCode.TASK_ERROR, end.reason)
    if crash_loop([*earlier, end]):
        return GiveUp(
            ExitCode.GIVEN_UP,
            f"crash loop: {CRASH_LOOP_ATTEMPTS} attempts ended alike at step {end.step}, with code {end.code}: {end.reason}",
        )
    if budget_used > budget_max:
        return GiveUp(
            ExitCode.GIVEN_UP,
            f"restarts.max ({budget_max}) is used up; the last attempt ended with code {end.code}: {end.reason}",
        )
    return None
