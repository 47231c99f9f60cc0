"""What the sections of a job file must agree on: batch and replicas, names and paths used twice, patches and kinds.

Pure. Each disagreement names the field that is to blame, so that a reader of the file is led to its line.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.spec import JobSpec

Disagreement = tuple[tuple[str | int, ...], str]
"""Field and message."""

_OWN_MOUNTS = ("/tmp", "/home/trainer", "/etc/orch")
"""Where the pods have volumes of orch's own."""
_OWN_VOLUMES = ("orch-", "secret-")
"""How the names of those volumes begin."""
_PATCH_KEYS = {"metadata", "spec"}


def disagreements(spec: "JobSpec") -> list[Disagreement]:
    """All that does not fit together, in the order of the file's sections."""
    return [
        *_batch(spec),
        *_params(spec.train.params, ("train", "params")),
        *_environment(spec),
        *_names_and_mounts(spec),
        *_kubernetes(spec),
    ]


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


def _batch(spec: "JobSpec") -> Iterator[Disagreement]:
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


def _environment(spec: "JobSpec") -> Iterator[Disagreement]:
    seen = dict.fromkeys(spec.env, "env")
    for index, secret in enumerate(spec.secrets):
        for name in secret.env:
            if name in seen:
                yield ("secrets", index, "env", name), f"{name} is set twice, in {seen[name]} as well"
            seen.setdefault(name, f"secrets[{index}].env")


def _names_and_mounts(spec: "JobSpec") -> Iterator[Disagreement]:
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


def _kubernetes(spec: "JobSpec") -> Iterator[Disagreement]:
    hardware = spec.resources.hardware()
    if spec.kubernetes.kind == "Job" and hardware is not None and hardware.multi_host:
        yield ("kubernetes", "kind"), f"{hardware.name} has {hardware.hosts} hosts, replaced together: JobSet (or auto)"
    for section, patch in (("pod", spec.kubernetes.pod), ("job", spec.kubernetes.job)):
        for key in patch:
            if key not in _PATCH_KEYS:
                yield (
                    ("kubernetes", section, key),
                    f"a patch over the {section} begins with metadata or spec; did you mean "
                    f'"kubernetes.{section}.spec.{key}"?',
                )
