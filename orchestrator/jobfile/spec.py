"""JobSpec: the whole job file, its sections (sections.py) in agreement (rules.py).

Reading the file is in load.py; turning what pydantic says into clear errors, in explain.py.
"""

from typing import Any, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from orchestrator.jobfile.rules import disagreements
from orchestrator.jobfile.sections import JobSections


class JobSpec(JobSections):
    """A job file."""

    def written(self) -> dict[str, Any]:
        """The same as a job file: what differs from the defaults, durations with their unit."""
        return self.model_dump(mode="json", exclude_defaults=True, context={"job_file": True})

    @model_validator(mode="before")
    @classmethod
    def _the_best_needs_evaluations(cls, data: Any) -> Any:
        export, train = (data.get("export"), data.get("train")) if isinstance(data, dict) else (None, None)
        if not isinstance(export, dict) or not isinstance(train, dict) or not export.get("best"):
            return data
        evaluate = train.get("evaluate") or {}
        if train.get("task") and isinstance(evaluate, dict) and evaluate.get("every") is None:
            return data | {"train": train | {"evaluate": evaluate | {"every": "epoch"}}}
        return data

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = disagreements(self)
        if problems:
            text = "; ".join(message for _, message in problems)
            raise PydanticCustomError("disagreements", "{text}", {"text": text, "problems": problems})
        return self
