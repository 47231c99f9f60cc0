"""What must hold before a submit, asked of the cluster, the registry and the bucket: a list of checks, one line each.

Nothing is changed but a probe in the bucket. Errors stop a submit, warnings are said. What the cluster says of itself is
read in facts.py; the other modules hold one matter each, and declare their checks (check.py).
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from orchestrator.kube.client import Cluster
from orchestrator.preflight.check import Check, Declared, Level, errors, lines
from orchestrator.preflight.facts import look
from orchestrator.preflight.subject import JOB_CHECKS, Candidate, CheckedJob

__all__ = ["Check", "CheckedJob", "Level", "errors", "lines", "preflight", "summary_lines", "take"]

T = TypeVar("T")


def preflight(cluster: Cluster, job: CheckedJob, *, skip: Collection[str] = ()) -> list[Check]:
    """All checks but those to skip, in order; most of them are asked at the same time.

    What does not let itself be looked at is a line of its own, and an error where nothing else can be: all is collected, so
    that one run shows it all.

    Raises:
        ClusterUnreachable: the API server does not answer. Forbidden: it does not know the user.
    """
    return take(JOB_CHECKS.all(), Candidate(cluster, look(cluster), job), skip=skip)


def take(declared: Sequence[Declared[T]], subject: T, *, skip: Collection[str] = ()) -> list[Check]:
    """The basic checks, and where these hold all others but those to skip."""
    basic = [check(subject) for check in declared if check.basic]
    if errors(basic):
        return basic
    wanted = [check for check in declared if not check.basic and check.name not in skip and "all" not in skip]
    with ThreadPoolExecutor(8) as pool:
        return basic + list(pool.map(lambda check: check(subject), wanted))


def summary_lines(checks: Collection[Check]) -> Iterator[str]:
    """What a submit says of its checks: the warnings, and how many lines were in order."""
    for check in checks:
        if check.level is Level.WARNING:
            yield f"warning: {check.name}: {check.text}" + (f" -> {check.remedy}" if check.remedy else "")
    good = sum(check.level is Level.OK for check in checks)
    yield f"checked: {good} of {len(checks)} checks are ok"
