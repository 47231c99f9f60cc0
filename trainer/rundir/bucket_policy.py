"""What a bucket does with objects behind our back: soft delete, lifecycle rules, retention, versions.

Each has surprised somebody: checkpoints billed long after they were deleted, or deleted while a job still needed them.
gcs_store.py reads the policy; `notices`, which is pure, says what it means; preflight and worker 0's agent pass that on.
"""

from dataclasses import dataclass

_DAY_S = 86_400
# What a job cannot go on without. A rule for logs or metrics alone is nobody's trouble.
_NEEDED = ("checkpoints/", "attempts/")
_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True)
class DeleteRule:
    """A lifecycle rule that deletes live objects."""

    age_days: int | None
    """None: by a date, not by age."""
    prefixes: tuple[str, ...] = ()
    """Names in the bucket that it is for; none: all."""
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BucketPolicy:
    """What is known of a bucket."""

    soft_delete_s: int = 0
    """How long deleted objects are kept; 0: not at all."""
    delete_rules: tuple[DeleteRule, ...] = ()
    retention_s: int = 0
    """How long no object may be deleted or replaced; 0: no such policy."""
    held: bool = False
    """Whether new objects are put on hold."""
    versioned: bool = False


def notices(policy: BucketPolicy, bucket: str, prefix: str) -> list[str]:
    """What the owner of a run directory gs://bucket/prefix should know, a sentence or two each. Empty where all is well."""
    said = [_of_rule(rule, bucket) for rule in policy.delete_rules if _hits(rule, prefix)]
    if policy.retention_s:
        said.append(
            f"bucket {bucket} has a retention policy of {_days(policy.retention_s)}: until then no old checkpoint can be "
            "deleted (all are kept and billed, whatever checkpoint.keep says), and logs and metrics cannot be continued. Use a "
            "bucket without one."
        )
    if policy.held:
        said.append(
            f"bucket {bucket} puts new objects on hold: no old checkpoint can be deleted. "
            f"`gcloud storage buckets update gs://{bucket} --no-default-event-based-hold` turns that off."
        )
    if policy.soft_delete_s:
        days = _days(policy.soft_delete_s)
        said.append(
            f"bucket {bucket} keeps deleted objects for {days} (soft delete): each checkpoint that is deleted is billed for "
            f"{days} more. `gcloud storage buckets update gs://{bucket} --clear-soft-delete` turns that off."
        )
    if policy.versioned:
        said.append(
            f"bucket {bucket} keeps versions of deleted objects: each checkpoint that is deleted is billed on. "
            f"`gcloud storage buckets update gs://{bucket} --no-versioning` turns that off."
        )
    return said


def unknown(bucket: str, why: str) -> str:
    """The notice where nothing could be read."""
    return (
        f"whether bucket {bucket} keeps deleted checkpoints, or deletes some by rules of its own, is not known: {why}. "
        f"`gcloud storage buckets describe gs://{bucket}` shows it to whoever may look."
    )


def _of_rule(rule: DeleteRule, bucket: str) -> str:
    when = "by a date" if rule.age_days is None else f"after {_days(rule.age_days * _DAY_S)}"
    where = f" under {', '.join(rule.prefixes)}" if rule.prefixes else ""
    return (
        f"a lifecycle rule of bucket {bucket} deletes objects{where} {when}: it would delete checkpoints and records of a job "
        "that lives longer. Change the rule, or use another bucket or prefix."
    )


def _hits(rule: DeleteRule, prefix: str) -> bool:
    base = f"{prefix}/" if prefix else ""
    if rule.suffixes and not any(ours.endswith(suffix) for ours in _SUFFIXES for suffix in rule.suffixes):
        return False
    return not rule.prefixes or any(
        needed.startswith(theirs) or theirs.startswith(needed)
        for needed in (base + part for part in _NEEDED)
        for theirs in rule.prefixes
    )


def _days(seconds: int) -> str:
    if seconds % _DAY_S:
        return f"{seconds / 3600:.0f} hours"
    days = seconds // _DAY_S
    return f"{days} day{'' if days == 1 else 's'}"
