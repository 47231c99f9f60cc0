"""The run directory: can it be used, and what an earlier life of the job in it tells of checkpoints, memory and time.

Reading is in `read_run`, the bucket's probe in `bucket`; what follows from what was read is pure.
"""

import secrets
from dataclasses import dataclass

from orchestrator.jobfile.resolve import SPOT_GRACE_S
from orchestrator.jobfile.spec import JobSpec
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.subject import JOB_CHECKS, Candidate
from orchestrator.runs.view import view_of
from orchestrator.text import size
from trainer.config import TrainConfig
from trainer.errors import OrchError, StoreDenied
from trainer.rundir.attempts import AttemptRecord
from trainer.rundir.bucket import is_bucket
from trainer.rundir.commits import Commit, read_commit
from trainer.rundir.metrics import TooMany, read_signs
from trainer.rundir.open import bucket_notices, open_store

TENSORFLOW_BYTES = 600_000_000
"""What TensorFlow takes before there is any model."""
_STORE_S = 15.0
_ATTEMPTS = 3
"""Save times are taken from so many attempts: older ones were other machines, or another model."""
_SEGMENTS_MAX = 128


@dataclass(frozen=True)
class EarlierRun:
    """What lies in the run directory already."""

    commit: Commit | None = None
    """The checkpoint that the job would go on from."""
    save_s: float | None = None
    """The longest of the saves that were told lately, from the copy to the commit."""
    block_s: float = 0.0
    """The longest of the blocks that were told lately."""


def bucket(config: TrainConfig) -> Finding:
    """Write, list and delete a probe in the run directory, as the user; and what its bucket does by itself.

    The pods have an identity of their own, but what the user may not reach is most often misspelled.
    """
    directory = config.run_directory
    if not is_bucket(directory):
        return ok(f"{directory} lies on a volume, which cannot be tried from here")
    probe = f"tmp/preflight-{secrets.token_hex(8)}"
    try:
        store = open_store(directory, timeout_s=_STORE_S)
        store.put_if_absent(probe, b"orch writes, reads, lists and deletes this before a submit\n")
        store.get(probe)
        found = any(entry.name == probe for entry in store.list(probe))
        store.delete(probe)
    except OrchError as problem:
        refused = isinstance(problem, StoreDenied)
        return error(
            f"run.directory {directory} {'refuses' if refused else 'cannot be used'}: {problem.message}",
            "correct run.directory, or get the role storage.objectUser on the bucket; "
            "--skip bucket submits all the same (the pods have an identity of their own)",
        )
    if not found:
        return error(f"run.directory {directory} does not list what was just written")
    try:
        notices = bucket_notices(directory, timeout_s=_STORE_S)
    except OrchError:
        notices = []
    if notices:
        return warning(f"{directory} can be written, read, listed and deleted from; {' '.join(notices)}")
    return ok(f"{directory} can be written, read, listed and deleted from")


@JOB_CHECKS.check(
    "bucket",
    140,
    what="write, read, list, delete; soft delete, lifecycle rules",
    error_when="one of them is refused",
)
def _bucket(on: Candidate) -> Finding:
    return bucket(on.job.config)


def read_run(config: TrainConfig) -> EarlierRun:
    """What an earlier life of the job left; nothing where it cannot be read from here."""
    if not is_bucket(config.run_directory):
        return EarlierRun()
    try:
        store = open_store(config.run_directory, timeout_s=_STORE_S)
        view = view_of(store)
        commit = read_commit(store, view.line[0]) if view.line else None
        newest = [record for record in view.records if isinstance(record, AttemptRecord)][-_ATTEMPTS:]
        signs = [
            sign for of_attempt in read_signs(store, newest, segments_max=_SEGMENTS_MAX).values() for sign in of_attempt
        ]
    except (OrchError, TooMany):
        return EarlierRun()
    saves = [sign.seconds for sign in signs if sign.type == "saved"]
    blocks = [sign.seconds for sign in signs if sign.type == "block"]
    return EarlierRun(commit, max(saves, default=None), max(blocks, default=0.0))


def run_of(on: Candidate) -> EarlierRun:
    """Of the job that is checked."""
    return read_run(on.job.config)


def checkpoints(config: TrainConfig, run: EarlierRun) -> Finding:
    """How large checkpoints are, and what that comes to in the bucket."""
    if config.train.command is not None:
        return ok("a command's own")
    if run.commit is None:
        return ok("their size is not known before the first one")
    each = run.commit.size_bytes
    at_most = each * (config.checkpoint.keep + 1)
    return ok(
        f"{size(each)} each ({run.commit.ref.name}, from which the job goes on); "
        f"{config.checkpoint.keep} are kept, {size(at_most)} at most at a time",
    )


@JOB_CHECKS.check("checkpoints", 150, what="their size, from the one the job goes on from", error_when="never")
def _checkpoints(on: Candidate) -> Finding:
    return checkpoints(on.job.config, on.once(run_of))


def memory(config: TrainConfig, run: EarlierRun) -> Finding:
    """The memory limit against what a worker needs at least: state, one copy of it, one shard in upload, TensorFlow."""
    limit = config.memory_limit_bytes
    if limit is None:
        return ok("no limit (resources.memory): the node's memory is the limit")
    remedy = "raise resources.memory; gradients, activations and data come on top"
    if run.commit is None:
        if limit < TENSORFLOW_BYTES:
            return warning(f"{size(limit)} is less than TensorFlow takes alone ({size(TENSORFLOW_BYTES)})", remedy)
        return ok(f"{size(limit)}; what the model needs is not known before its first checkpoint")
    state = run.commit.size_bytes
    shard = min(config.checkpoint.shard_size_mb * 1_000_000, state)
    least = 2 * state + shard + TENSORFLOW_BYTES
    needs = f"a worker needs at least {size(least)}: state {size(state)}, its copy, a shard, TensorFlow"
    if limit < least:
        return error(f"the limit is {size(limit)}; {needs}", remedy)
    return ok(f"{size(limit)}; {needs}, and what the steps take")


@JOB_CHECKS.check("memory", 160, what="the limit against state, its copy, a shard and 0.6 GB", error_when="below that")
def _memory(on: Candidate) -> Finding:
    return memory(on.job.config, on.once(run_of))


def grace(spec: JobSpec, config: TrainConfig, run: EarlierRun) -> Finding:
    """Whether a preempted job has the time to save: end of the block, copy, upload."""
    if spec.resources.capacity == "spot" and config.grace_s > SPOT_GRACE_S:
        return warning(
            f"preemption.grace is {config.grace_s:.0f} s; GKE gives pods on Spot VMs {SPOT_GRACE_S:.0f} s, whatever they ask for",
            "leave it at auto; where a save takes longer, save more often (checkpoint.every)",
        )
    if run.save_s is None:
        return ok(f"{config.grace_s:.0f} s; how long a save takes is not known before the first one")
    needed_s = run.block_s + run.save_s
    told = f"a save took up to {run.save_s:.1f} s, after a block of up to {run.block_s:.1f} s"
    if needed_s > config.grace_s:
        remedy = (
            "save more often (checkpoint.every): what was done since the last save is done again"
            if spec.resources.capacity == "spot"
            else f"preemption.grace: {needed_s * 1.5:.0f}s, or save more often (checkpoint.every)"
        )
        return warning(f"{config.grace_s:.0f} s are too short to save at a preemption: {told}", remedy)
    return ok(f"{config.grace_s:.0f} s; {told}")


@JOB_CHECKS.check(
    "grace",
    170,
    what="preemption.grace against the longest save measured in the run directory",
    error_when="never: a warning",
)
def _grace(on: Candidate) -> Finding:
    return grace(on.job.spec, on.job.config, on.once(run_of))
