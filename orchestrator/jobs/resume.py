"""Letting a stopped job go on: with as many workers as before, or with another number.

The former is one field (suspend.py). The template of a Job cannot be changed once it has started: another number of workers is
another Job of the same name, made from the job file that its ConfigMap holds. What training knows is in the run directory
either way.
"""

import itertools
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.jobfile.explain import dotted, explain
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobs import submit as submitting
from orchestrator.jobs.delete import Say
from orchestrator.jobs.suspend import suspend
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError, Forbidden, NotFound
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import QUEUE_LABEL
from orchestrator.kube.objects import Manifest, condition, is_over, labels, run_directory_of, workers_of
from orchestrator.manifests.render import JOB_FILE
from trainer.errors import ConfigError

_CONFIG_VOLUME = "orch-config"


@dataclass(frozen=True)
class Resumed:
    """A job that goes on."""

    name: str
    workers: int
    run_directory: str
    queued: bool
    """Whether Kueue decides when it starts."""
    anew: bool
    """Whether its objects were made anew."""


def resume(cluster: Cluster, name: str, *, workers: int | None, say: Say, skip: Collection[str] = ()) -> Resumed:
    """Let a stopped job go on; one that failed, or that is to have another number of workers, is made anew.

    Args:
        workers: how many from now on; None for as many as before. A job that runs is stopped with a checkpoint first.
        skip: checks to leave out where the job is made anew.

    Raises:
        NotFound: no such job. ConfigError: it runs already, has succeeded, or cannot have that many workers.
        OrchError: what submit raises; a job file is left in the current folder when the old job is gone by then.
    """
    job = find_job(cluster, name)
    before = workers_of(job)
    if not is_over(job) and workers in (None, before):
        if not suspend(cluster, job, False):
            raise ConfigError(
                f"job {name} is not stopped: there is nothing to resume",
                remedy=f"orch status {name} tells what it does; --workers N gives it another number of workers",
            )
        queued = QUEUE_LABEL in labels(job)
        return Resumed(name=name, workers=before, run_directory=run_directory_of(job), queued=queued, anew=False)
    if condition(job, "Complete", "True"):
        raise ConfigError(
            f"job {name} has succeeded: there is nothing left to do",
            remedy="to train on, raise train.steps in the job file and submit it with --replace: it goes on from there",
        )
    spec = _with_workers(stored_spec(cluster, job), workers)
    config = resolve_for_cluster(spec)
    say(f"job {name} is made anew with {config.workers} worker{'s' if config.workers > 1 else ''}, was {before}")
    done = _saved_on_failure(
        spec,
        lambda: find_job(cluster, name)["metadata"]["uid"] == job["metadata"]["uid"],
        lambda: submitting.submit(
            cluster, spec, config, token=secrets.token_urlsafe(32), say=say, skip=skip, replace=True
        ),
        say,
    )
    return Resumed(name=name, workers=done.workers, run_directory=done.run_directory, queued=done.queued, anew=True)


def stored_spec(cluster: Cluster, job: Manifest) -> JobSpec:
    """The job file that a job was made from, out of its ConfigMap.

    Raises:
        ConfigError: it is not there, or another version of orch wrote it.
    """
    name = job["metadata"]["name"]
    volumes = job["spec"]["template"]["spec"].get("volumes") or []
    config_map = next((item["configMap"]["name"] for item in volumes if item["name"] == _CONFIG_VOLUME), "")
    remedy = (
        f"give it the job file: orch submit JOB.YAML --replace; the run directory of {name} carries what it has learnt"
    )
    try:
        text = cluster.get("ConfigMap", config_map)["data"][JOB_FILE]
        return JobSpec.model_validate_json(text)
    except (NotFound, KeyError):
        raise ConfigError(f"the job file of job {name} is not in ConfigMap {config_map}", remedy=remedy) from None
    except ValidationError:
        raise ConfigError(
            f"the job file in ConfigMap {config_map} was written by another version of orch", remedy=remedy
        ) from None


def _with_workers(spec: JobSpec, workers: int | None) -> JobSpec:
    if workers is None:
        return spec
    data = spec.written()
    data["resources"] = data.get("resources", {}) | {"workers": workers}
    try:
        return JobSpec.model_validate(data)
    except ValidationError as error:
        problems = [f"{dotted(place)}: {message}" for place, message in explain(error, data, {})]
        raise ConfigError(f"job {spec.name} with {workers} workers: {'; '.join(problems)}") from None


def _saved_on_failure(
    spec: JobSpec, still_there: Callable[[], bool], act: Callable[[], submitting.Submitted], say: Say
) -> submitting.Submitted:
    """`act`; when it fails after it took the old job away, the job file, which that had, stays in the current folder.

    It is written before: what ends this process may not ask first.
    """
    from orchestrator.manifests.yaml_writer import to_yaml

    text = to_yaml([spec.written()])
    path = _written(Path(), f"{spec.name}.job", text)
    try:
        done = act()
    except BaseException:
        try:
            lost = not still_there()
        except NotFound:
            lost = True
        except (ClusterError, Forbidden):
            lost = True  # not known: better a file too many
        if lost:
            where = f"in {path}: orch submit {path}" if path else f"this:\n{text}"
            say(f"the job was removed and is not there anew; its job file is {where}")
        elif path:
            path.unlink(missing_ok=True)
        raise
    if path:
        path.unlink(missing_ok=True)
    return done


def _written(folder: Path, stem: str, text: str) -> Path | None:
    """A new file, beside whatever is there; None where none can be made."""
    for number in itertools.count():
        path = folder / (f"{stem}-{number}.yaml" if number else f"{stem}.yaml")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:
            continue
        except OSError:
            return None
    raise AssertionError("there is always one more number")
