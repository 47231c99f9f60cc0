"""The escape hatch of the job file: merge patches (RFC 7386) over the rendered Job, and what they may not break."""

import copy
from typing import Any

from orchestrator.spec import KubernetesSection
from trainer.errors import ConfigError

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


def apply_patches(job: dict[str, Any], patches: KubernetesSection) -> dict[str, Any]:
    """The rendered Job with kubernetes.pod and kubernetes.job applied, in this order.

    Raises:
        ConfigError: a patch takes away what orch needs to run or to find the job again.
    """
    patched: dict[str, Any] = merge_patch(merge_patch(job, {"spec": {"template": patches.pod}}), patches.job)
    for path, instead in _FIXED_IN_JOB.items():
        _check_same("kubernetes.job", job, patched, path, instead)
    before, after = _get(job, ("spec", "template")), _get(patched, ("spec", "template"))
    for path, instead in _FIXED_IN_POD.items():
        _check_same("kubernetes.pod", before, after, path, instead)
    for holder_before, holder_after in ((job, patched), (before, after)):
        for label, value in holder_before["metadata"]["labels"].items():
            if _get(holder_after, ("metadata", "labels", label)) != value:
                raise ConfigError(f"kubernetes: a patch changes the label {label}, by which orch finds the job again")
    _check_list_kept(before, after, "volumes", "the volumes: section of the job file adds some")
    _check_list_kept(before, after, "tolerations", "scheduling.tolerations adds some")
    _check_list_kept(
        before,
        after,
        "containers",
        "repeat the container trainer as `orch render` shows it, and add to it",
        whole=False,
    )
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
