"""The escape hatch of the job file: merge patches (RFC 7386) over the rendered Job, and what they may not break."""

import copy
from typing import Any

from orchestrator.jobfile.sections import KubernetesSection
from orchestrator.kube.objects import Manifest
from trainer.errors import ConfigError

_CONTAINER = "trainer"
_REPEAT = "repeat the container trainer as `orch render` shows it, and add to it"

# What the agents and the other commands rely on, and the field of the job file that changes it instead.
_FIXED_IN_JOB = {
    ("apiVersion",): "",
    ("kind",): "",
    ("metadata", "name"): "name",
    ("metadata", "namespace"): "scheduling.namespace",
    ("spec", "completionMode"): "",
    ("spec", "completions"): "resources.workers",
    ("spec", "parallelism"): "resources.workers",
    ("spec", "podReplacementPolicy"): "",
    ("spec", "podFailurePolicy"): "",
}
_FIXED_IN_JOBSET = {
    ("apiVersion",): "",
    ("kind",): "",
    ("metadata", "name"): "name",
    ("metadata", "namespace"): "scheduling.namespace",
    ("spec", "replicatedJobs"): "kubernetes.job, kubernetes.pod or kubernetes.groups",
    ("spec", "network"): "",
    ("spec", "successPolicy"): "",
    ("spec", "failurePolicy"): "restarts.max",
}
_FIXED_IN_POD = {("spec", "subdomain"): "name", ("spec", "restartPolicy"): "restarts"}


def merge_patch(target: Any, patch: Any) -> Any:
    """`patch` over `target` as RFC 7386 has it: mappings merge, null removes, all else (lists too) is replaced."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def apply_patches(carrier: Manifest, patches: KubernetesSection) -> Manifest:
    """The rendered Job or JobSet with kubernetes.pod, kubernetes.job and kubernetes.jobset applied, in this order.

    Raises:
        ConfigError: a patch takes away what orch needs to run or to find the job again.
    """
    if carrier["kind"] == "Job":
        return _patched_job(carrier, patches)
    (replicated,) = carrier["spec"]["replicatedJobs"]
    child = _patched_job(replicated["template"], patches)
    whole = carrier | {"spec": carrier["spec"] | {"replicatedJobs": [replicated | {"template": child}]}}
    patched: Manifest = merge_patch(whole, patches.jobset)
    for path, instead in _FIXED_IN_JOBSET.items():
        _check_same("kubernetes.jobset", whole, patched, path, instead)
    _check_marks_kept(whole, patched)
    return patched


def _patched_job(job: Manifest, patches: KubernetesSection) -> Manifest:
    patched: Manifest = merge_patch(merge_patch(job, {"spec": {"template": patches.pod}}), patches.job)
    for path, instead in _FIXED_IN_JOB.items():
        _check_same("kubernetes.job", job, patched, path, instead)
    before, after = _get(job, ("spec", "template")), _get(patched, ("spec", "template"))
    for path, instead in _FIXED_IN_POD.items():
        _check_same("kubernetes.pod", before, after, path, instead)
    _check_marks_kept(job, patched)
    _check_marks_kept(before, after)
    _check_list_kept(before, after, "volumes", "the volumes: section of the job file adds some")
    _check_list_kept(before, after, "tolerations", "scheduling.tolerations adds some")
    _check_list_kept(before, after, "containers", _REPEAT, whole=False)
    _check_container(before, after)
    return patched


def _get(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _check_same(section: str, before: Any, after: Any, path: tuple[str, ...], instead: str) -> None:
    if _get(before, path) != _get(after, path):
        remedy = f"set {instead} of the job file" if instead else "leave it out of the patch"
        raise ConfigError(f"{section}: {'.'.join(path)} cannot be patched, orch relies on it", remedy=remedy)


def _check_list_kept(before: Any, after: Any, name: str, remedy: str, *, whole: bool = True) -> None:
    """A merge patch replaces a list whole: what orch put into it must still be there."""
    kept = _get(after, ("spec", name))
    for item in before["spec"][name]:
        same = [other for other in kept or [] if other == item or (not whole and other.get("name") == item["name"])]
        if not same:
            raise ConfigError(
                f"kubernetes.pod: spec.{name} replaces the whole list (RFC 7386) and drops orch's own entry "
                f"{item.get('name') or item.get('key')}",
                remedy=remedy,
            )


def _check_marks_kept(before: Manifest, after: Manifest) -> None:
    """Labels and annotations of orch's own; others may be changed."""
    for label, value in before.get("metadata", {}).get("labels", {}).items():
        if _get(after, ("metadata", "labels", label)) != value:
            raise ConfigError(f"kubernetes: a patch changes the label {label}, by which orch finds the job again")
    for annotation, value in before.get("metadata", {}).get("annotations", {}).items():
        if annotation.startswith("orch/") and _get(after, ("metadata", "annotations", annotation)) != value:
            raise ConfigError(f"kubernetes: a patch changes the annotation {annotation}, which orch reads")


def _check_container(before: Manifest, after: Manifest) -> None:
    """The agent must still be what runs, and be told what it needs to know."""
    own, patched = (
        next(item for item in template["spec"]["containers"] if item["name"] == _CONTAINER)
        for template in (before, after)
    )
    if patched.get("command") != own["command"] or patched.get("args"):
        raise ConfigError(
            "kubernetes.pod: the container trainer must run orch's agent",
            remedy="leave command and args as they are; what is to be trained is said by train.task or train.command",
        )
    for name, needed in (("env", "ORCH_"), ("volumeMounts", "orch-")):
        kept = patched.get(name) or []
        for item in own[name]:
            if item["name"].startswith(needed) and item not in kept:
                raise ConfigError(
                    f"kubernetes.pod: the {name} of the container trainer lack orch's own entry {item['name']}",
                    remedy=_REPEAT,
                )
