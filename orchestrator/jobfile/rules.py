"""What the sections of a job file must agree on: batch and replicas, names and paths used twice, patches and kinds.

Pure. Each disagreement names the field that is to blame, so that a reader of the file is led to its line.
"""

import math
from bisect import bisect
from collections.abc import Iterator
from typing import Any

from orchestrator.jobfile.capacity import FLEX_START_MAX_S, FLEX_START_TPUS
from orchestrator.jobfile.sections import JobSections
from orchestrator.kube.carrier import CarrierKind

Disagreement = tuple[tuple[str | int, ...], str]
"""Field and message."""

_OWN_MOUNTS = ("/tmp", "/home/trainer", "/etc/orch")
"""Where the pods have volumes of orch's own."""
_OWN_VOLUMES = ("orch-", "secret-")
"""How the names of those volumes begin."""
_PATCH_KEYS = {"metadata", "spec"}


def disagreements(spec: JobSections) -> list[Disagreement]:
    """All that does not fit together, in the order of the file's sections."""
    return [
        *_batch(spec),
        *_params(spec.train.params, ("train", "params")),
        *_export(spec),
        *_environment(spec),
        *_names_and_mounts(spec),
        *_capacity(spec),
        *_kubernetes(spec),
    ]


def kind_of(spec: JobSections) -> CarrierKind:
    """Which of the two carries the workers of a job file."""
    kubernetes, hardware = spec.kubernetes, spec.resources.hardware()
    if kubernetes.kind != "auto":
        return kubernetes.kind
    grouped = kubernetes.groups > 1 or kubernetes.exclusive_topology is not None
    return "JobSet" if grouped or (hardware is not None and hardware.multi_host) else "Job"


def batch_problem(global_batch_size: int, workers: int, devices_per_worker: int = 1) -> str | None:
    """Why a batch cannot be split evenly over all replicas, with the nearest sizes that can; None when it can."""
    replicas = workers * devices_per_worker
    if global_batch_size % replicas == 0:
        return None
    below = global_batch_size // replicas * replicas
    near = f"{below} or {below + replicas}" if below else str(replicas)
    made_of = (
        f"{workers} x {devices_per_worker} devices" if devices_per_worker > 1 else f"{workers} workers of 1 device"
    )
    return f"{global_batch_size} does not divide by {replicas} replicas ({made_of}); nearest: {near}"


def _batch(spec: JobSections) -> Iterator[Disagreement]:
    if spec.train.task is None:
        return
    hardware = spec.resources.hardware()
    devices = hardware.chips_per_host if hardware else 1
    problem = batch_problem(spec.train.global_batch_size, spec.resources.worker_count(), devices)
    if problem:
        yield ("train", "global_batch_size"), problem


def _params(value: Any, path: tuple[str | int, ...]) -> Iterator[Disagreement]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path, f"{value} cannot be handed on as JSON; use a finite number, or text that the task turns into one"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _params(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _params(item, (*path, index))


def _export(spec: JobSections) -> Iterator[Disagreement]:
    if spec.export.best is not None and spec.train.script is not None:
        best = "keras.callbacks.ModelCheckpoint(FILE, save_best_only=True)"
        yield ("export", "best"), f"is for a task; a script keeps its best model by {best} among fit's callbacks"


def _environment(spec: JobSections) -> Iterator[Disagreement]:
    seen = dict.fromkeys(spec.env, "env")
    for index, secret in enumerate(spec.secrets):
        for name in secret.env:
            if name in seen:
                yield ("secrets", index, "env", name), f"{name} is set twice, in {seen[name]} as well"
            seen.setdefault(name, f"secrets[{index}].env")


def _names_and_mounts(spec: JobSections) -> Iterator[Disagreement]:
    secrets: dict[str, str] = {}
    names: dict[str, str] = {}
    mounts: dict[str, str] = {}
    for index, secret in enumerate(spec.secrets):
        here = f"secrets[{index}]"
        if secret.name in secrets:
            yield ("secrets", index, "name"), f"{secret.name} is listed twice; join both under {secrets[secret.name]}"
        secrets.setdefault(secret.name, here)
        if secret.mount is not None:
            yield from _mount(secret.mount, ("secrets", index, "mount"), mounts)
            mounts.setdefault(secret.mount, here)
    for index, volume in enumerate(spec.volumes):
        here = f"volumes[{index}]"
        if volume.name in names:
            yield ("volumes", index, "name"), f"{volume.name} is taken by {names[volume.name]}; choose another name"
        if volume.name.startswith(_OWN_VOLUMES):
            yield ("volumes", index, "name"), f"{volume.name} may be one of orch's own volumes; choose another name"
        names.setdefault(volume.name, here)
        yield from _mount(volume.mount, ("volumes", index, "mount"), mounts)
        mounts.setdefault(volume.mount, here)


def _mount(path: str, field: tuple[str | int, ...], taken: dict[str, str]) -> Iterator[Disagreement]:
    if path in taken:
        yield field, f"{path} is mounted twice, by {taken[path]} as well"
    if any(path == own or own.startswith(path + "/") for own in _OWN_MOUNTS) or path.startswith("/etc/orch/"):
        yield field, f"{path} covers what orch itself mounts ({', '.join(_OWN_MOUNTS)}); choose another path"


def _capacity(spec: JobSections) -> Iterator[Disagreement]:
    hardware, limit = spec.resources.hardware(), spec.scheduling.max_runtime
    if spec.resources.capacity != "flex-start":
        return
    if limit is not None and limit > FLEX_START_MAX_S:
        yield ("scheduling", "max_runtime"), "capacity: flex-start lasts seven days at most; give 7d or less"
    if hardware is not None and hardware.kind == "tpu" and not hardware.name.startswith(FLEX_START_TPUS):
        yield (
            ("resources", "capacity"),
            f"there is no flex-start for {hardware.name}, only for {', '.join(FLEX_START_TPUS)}",
        )


def _kubernetes(spec: JobSections) -> Iterator[Disagreement]:
    hardware, kubernetes, workers = spec.resources.hardware(), spec.kubernetes, spec.resources.worker_count()
    if kubernetes.kind == "Job":
        if hardware is not None and hardware.multi_host:
            why = f"{hardware.name} has {hardware.hosts} hosts, replaced together: JobSet (or auto)"
            yield ("kubernetes", "kind"), why
        elif kubernetes.groups > 1 or kubernetes.exclusive_topology is not None:
            field = "groups" if kubernetes.groups > 1 else "exclusive_topology"
            yield ("kubernetes", field), "goes with kind: JobSet (or auto), not with kind: Job"
    if kubernetes.groups > 1 and hardware is not None and hardware.kind == "tpu":
        yield ("kubernetes", "groups"), f"{hardware.name} is one slice, which is one group; leave groups out"
    elif workers % kubernetes.groups:
        even = [count for count in range(1, workers + 1) if workers % count == 0]
        near = [max(count for count in even if count < kubernetes.groups), *even[bisect(even, kubernetes.groups) :][:1]]
        yield (
            ("kubernetes", "groups"),
            f"{workers} workers do not split into {kubernetes.groups} equal groups; nearest: {' or '.join(map(str, near))}",
        )
    if kubernetes.jobset and kind_of(spec) == "Job":
        yield (
            ("kubernetes", "jobset"),
            "the workers are carried by a Job: patch it with kubernetes.job, or give kind: JobSet",
        )
    for section, patch in (("pod", kubernetes.pod), ("job", kubernetes.job), ("jobset", kubernetes.jobset)):
        for key in patch:
            if key not in _PATCH_KEYS:
                yield (
                    ("kubernetes", section, key),
                    f"a patch over the {section} begins with metadata or spec; did you mean "
                    f'"kubernetes.{section}.spec.{key}"?',
                )
