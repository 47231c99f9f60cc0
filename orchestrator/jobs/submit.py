"""A job onto the cluster, whole or not at all. delete.py takes it off again."""

import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from orchestrator.image.model import placeholder, with_ref
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobs.delete import delete
from orchestrator.jobs.interrupts import held_back
from orchestrator.kube.carrier import owner_reference
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import AlreadyExists, ClusterError, ClusterUnreachable, NotFound
from orchestrator.kube.jobs import find_carriers
from orchestrator.kube.objects import Manifest, annotations, is_ours, is_over, run_directory_of
from orchestrator.manifests.render import TOKEN_PLACEHOLDER, render
from orchestrator.preflight import Check, CheckedJob, errors, preflight, summary_lines
from orchestrator.preflight.subject import JOB_CHECKS
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.retry import Backoff, retry

T = TypeVar("T")
log = logging.getLogger(__name__)

SUBMISSION = "orch/submission"
"""The annotation by which a submit knows the Job that it made, also when the answer to its request was lost."""
_UNDO_S = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Submitted:
    """A job that the cluster has taken."""

    name: str
    namespace: str
    context: str
    uid: str
    workers: int
    run_directory: str
    queued: bool
    """Whether Kueue decides when it starts."""


@dataclass(frozen=True)
class Request:
    """A job as it is asked of the cluster. What is checked, shown by a dry run, or created are these objects."""

    spec: JobSpec
    config: TrainConfig
    objects: list[Manifest]
    """The Job or JobSet is the last."""
    folder: Path | None = None
    """The job file's, where there is one."""


def request(
    spec: JobSpec, config: TrainConfig, *, namespace: str, token: str = TOKEN_PLACEHOLDER, folder: Path | None = None
) -> Request:
    """The objects of a job, rendered once.

    Args:
        token: of the agents' HTTP. A placeholder will do where nothing is created.
        folder: the job file's, in which the code can be looked at.

    Raises:
        ConfigError: the job cannot be rendered.
    """
    shown = with_ref(spec, placeholder(spec)) if spec.image.build is not None else spec
    return Request(spec, config, render(shown, config, namespace=namespace, token=token), folder)


def check(cluster: Cluster, asked: Request, *, skip: Collection[str] = (), replace: bool = False) -> list[Check]:
    """Preflight: what holds and what does not. Nothing is created.

    Args:
        skip: checks to leave out, by name.
        replace: whether a job of this name that orch made is no trouble.

    Raises:
        ClusterUnreachable, Forbidden: the cluster does not answer at all.
    """
    job = CheckedJob(asked.spec, asked.config, asked.objects, replace, version("orch"), asked.folder)
    return preflight(cluster, job, skip=skip)


def check_before_image(
    cluster: Cluster,
    spec: JobSpec,
    config: TrainConfig,
    *,
    skip: Collection[str] = (),
    replace: bool = False,
    folder: Path | None = None,
) -> None:
    """What is soon known, before an image is made and pushed for nothing. The submit itself checks all of it again.

    Raises:
        OrchError: as `submit`.
    """
    _check_trainable(spec)
    later = [declared.name for declared in JOB_CHECKS.all() if not declared.before_image]
    asked = request(spec, config, namespace=cluster.namespace, folder=folder)
    checks = check(cluster, asked, skip={*skip, *later}, replace=replace)
    require(errors(checks), say=log.debug)


def require(checks: Collection[Check], *, say: Say) -> None:
    """Say the warnings.

    Raises:
        ConfigError: there are errors; all of them.
    """
    for text in summary_lines(checks):
        say(text)
    wrong = errors(checks)
    if len(wrong) == 1:
        raise ConfigError(wrong[0].text, remedy=wrong[0].remedy)
    if wrong:
        raise ConfigError("\n".join(f"{item.name}: {item.text}; {item.remedy}".rstrip("; ") for item in wrong))


def submit(
    cluster: Cluster,
    spec: JobSpec,
    config: TrainConfig,
    *,
    token: str,
    say: Say,
    skip: Collection[str] = (),
    replace: bool = False,
    folder: Path | None = None,
) -> Submitted:
    """Check, create the Job (or JobSet) suspended, its dependents owned by it, then let it go.

    Whatever interrupts this, what was created is removed again: a refusal, an API server that goes away, Ctrl-C, SIGTERM.

    Args:
        token: of the agents' HTTP.
        skip: checks to leave out.
        replace: stop and remove a job of this name that orch made, first, once all checks have passed.
        folder: the job file's, in which the code can be looked at.

    Raises:
        OrchError: what does not hold, or which object was refused.
    """
    _check_trainable(spec)
    asked = request(spec, config, namespace=cluster.namespace, token=token, folder=folder)
    require(check(cluster, asked, skip=skip, replace=replace), say=say)
    if replace:
        _remove_predecessor(cluster, spec.name, config, say)
    with held_back() as raise_if_interrupted:
        done = _create(cluster, asked, say, raise_if_interrupted)
        say(f"submitted: job {done.name}, {done.workers} worker{'s' if done.workers > 1 else ''}")
    return done


def _create(cluster: Cluster, asked: Request, say: Say, raise_if_interrupted: Callable[[], None]) -> Submitted:
    *dependents, carrier = asked.objects
    queued = bool(carrier["spec"].get("suspend"))
    mark = secrets.token_hex(8)
    marked = carrier["metadata"] | {"annotations": carrier["metadata"].get("annotations", {}) | {SUBMISSION: mark}}
    created: list[Manifest] = []
    try:
        raise_if_interrupted()
        with _name_taken_told(carrier):
            owner = cluster.create(carrier | {"metadata": marked, "spec": carrier["spec"] | {"suspend": True}})
        created.append(owner)
        reference = owner_reference(carrier | {"metadata": owner["metadata"]})
        for item in dependents:
            raise_if_interrupted()
            owned = item | {"metadata": item["metadata"] | {"ownerReferences": [reference]}}
            with _name_taken_told(item):
                created.append(cluster.create(owned))
        raise_if_interrupted()
        if not queued:
            cluster.patch(carrier["kind"], carrier["metadata"]["name"], {"spec": {"suspend": False}})
    except BaseException:
        _undo(cluster, carrier, mark, created, say)
        raise
    return Submitted(
        name=carrier["metadata"]["name"],
        namespace=cluster.namespace,
        context=cluster.context,
        uid=owner["metadata"]["uid"],
        workers=asked.config.workers,
        run_directory=asked.config.run_directory,
        queued=queued,
    )


def _remove_predecessor(cluster: Cluster, name: str, config: TrainConfig, say: Say) -> None:
    before = next((item for item in find_carriers(cluster, name) if is_ours(item)), None)
    if before is None:
        with contextlib.suppress(NotFound):  # what a job of this name left behind, if there is anything
            delete(cluster, name, say=say)
        return
    saves = "" if config.train.command is not None else " with a checkpoint"
    state = "which has ended" if is_over(before) else f"which is stopped{saves} first"
    say(f"replacing job {name}, {state}")
    directory = run_directory_of(before)
    delete(cluster, name, say=say)
    if directory.rstrip("/") == config.run_directory.rstrip("/"):
        and_then = "has it too" if config.train.command is not None else "goes on from there"
        say(f"removed; its run directory {directory} stays, and the new job {and_then}")
    else:
        say(f"removed; its run directory {directory} stays; the new job has another one: {config.run_directory}")


def _check_trainable(spec: JobSpec) -> None:
    """Raises ConfigError for what Kubernetes would run and the trainer cannot train."""
    hardware = spec.resources.hardware()
    if hardware is not None and hardware.multi_host:
        raise ConfigError(
            f"job {spec.name}: {hardware.name} is a TPU slice of {hardware.hosts} hosts, and training on several TPU hosts is "
            "not built yet: each host would train alone",
            remedy="use a slice of one host, such as v5litepod-8, or GPUs or CPUs with several workers; "
            "`orch render` and --dry-run=server show what would be created",
        )


@contextlib.contextmanager
def _name_taken_told(item: Manifest) -> Iterator[None]:
    try:
        yield
    except AlreadyExists:
        kind, name = item["kind"], item["metadata"]["name"]
        raise AlreadyExists(
            f"{kind} {name} exists already in namespace {item['metadata']['namespace']}: it was created while this submit "
            "was checked",
            remedy="choose another name for the job",
        ) from None


def _undo(cluster: Cluster, carrier: Manifest, mark: str, created: list[Manifest], say: Say) -> None:
    """Remove what was created, also what was created without our hearing of it.

    The Job goes last: should this break off, whatever is left belongs to a Job that `orch delete` knows.
    """
    kind, name = carrier["kind"], carrier["metadata"]["name"]
    left: list[str] = []
    for item in reversed(created[1:]):
        try:
            _while_away(lambda item=item: cluster.delete(*_named(item), uid=item["metadata"]["uid"]))  # type: ignore[misc]
        except ClusterError as error:
            left.append(f"{item['kind']} {item['metadata']['name']} ({error.message})")
    try:
        found = _while_away(lambda: cluster.find(kind, name))
        if found is not None and annotations(found).get(SUBMISSION) == mark:
            _while_away(lambda: cluster.delete(kind, name, uid=found["metadata"]["uid"]))
    except ClusterError as error:
        left.append(f"{kind} {name}, suspended, if it was created ({error.message})")
    if left:
        say(f"could not be removed again: {'; '.join(left)}. orch delete {name} removes it when the cluster is back")
    else:
        say("nothing was submitted: what had been created is removed again")


def _named(item: Manifest) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _while_away(act: Callable[[], T]) -> T:
    """`act`, tried for a while where the API server does not answer: what made a submit fail may be over in a moment."""
    return retry(act, ClusterUnreachable, Backoff(1.0, 1.0), for_s=_UNDO_S)
