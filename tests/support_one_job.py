"""A cluster that holds one Job of orch's, and no pods."""

from typing import Any


class OneJob:
    """What orch asks a cluster for, of one Job that is called digits."""

    def __init__(self, directory: str, **spec: Any) -> None:
        """`directory` is the job's run directory."""
        self.job: dict[str, Any] = {
            "kind": "Job",
            "metadata": {
                "name": "digits",
                "uid": "own",
                "labels": {"app.kubernetes.io/managed-by": "orch"},
                "annotations": {"orch/run-directory": directory},
            },
            "spec": spec,
            "status": {},
        }

    def find(self, kind: str, name: str) -> dict[str, Any]:
        return self.job

    def select(self, kind: str, **by: str) -> list[dict[str, Any]]:
        return []
