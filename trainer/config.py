"""What an agent and a training process need to know, and the sections of the job file that they share with it.

`TrainConfig` is the resolved form: one JSON file, named by ORCH_CONFIG, the same for all workers. Durations are seconds here,
and "90s", "5m", "12h" or "7d" in a job file. Free of TensorFlow.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration(value: object) -> object:
    """Seconds of "90s", "1.5m", "12h", "7d", "250ms"; other values are returned as they are, for pydantic to judge.

    Raises:
        ValueError: a text that is no duration.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError(f'"{value}" is no duration; write a number and a unit: 30s, 5m, 12h, 7d')
    return float(match[1]) * _UNITS[match[2]]


def _seconds(value: object, info: ValidationInfo) -> object:
    # In a job file a bare number is a slip: 30 may have been meant as minutes. In our own JSON it is seconds.
    if isinstance(value, bool) or (info.context and info.context.get("job_file") and isinstance(value, int | float)):
        raise ValueError(f"{value} has no unit; write a number and a unit: 30s, 5m, 12h, 7d")
    return parse_duration(value)


def _written(value: float, info: SerializationInfo) -> float | str:
    # The same the other way round: a job file gets its unit back, our own JSON stays as it is.
    if not (info.context and info.context.get("job_file")):
        return value
    return f"{int(value) if value.is_integer() else value}s"


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    PlainSerializer(_written, when_used="json"),
    Field(gt=0, allow_inf_nan=False),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$", "examples": ["30s", "5m", "12h"]}),
]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def misfit(field: str, message: str) -> PydanticCustomError:
    """What a validator of a whole section raises: `field` of the section is to blame. Readers of job files find its line."""
    return PydanticCustomError("misfit", "{message}", {"field": field, "message": message})


class Section(BaseModel):
    """A mapping of the job file: unknown keys are errors, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EvaluateConfig(Section):
    """When to evaluate on held-out data. It is always evaluated at the end as well."""

    every: Annotated[int, Field(gt=0, strict=True)] | Literal["epoch"] | None = None
    """Steps between evaluations, or "epoch". Default: only at the end; with stop_when, every epoch."""
    batch_size: Annotated[int, Field(gt=0, strict=True)] | None = None
    """Examples of one evaluation step over all replicas. Default: train.global_batch_size."""


class StopWhen(Section):
    """Stop early when a metric of the evaluation no longer improves."""

    metric: str = Field(pattern=r"^val_[A-Za-z0-9_]+$")
    """The metric of the evaluation, with `val_` before its name: val_loss, val_accuracy."""
    patience: Annotated[int, Field(ge=0, strict=True)] = 3
    """Evaluations without improvement before training stops."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether smaller or larger is better. auto: max for names with acc, auc, precision, recall or f1, else min."""
    min_delta: float = Field(default=0.0, ge=0, strict=True, allow_inf_nan=False)
    """The least change that counts as an improvement."""


TASK_ONLY = ("params", "stop_when", "class_weight")
"""Fields of `train` that a job with train.command must not give. Whatever else it gives is for the program to read."""

WITH_SCRIPT = ("seed", "on_nan", "deterministic")
"""Fields of `train` that count for a job with train.script, beside its args. All others are refused: the script has them."""
_IN_THE_SCRIPT = {
    "params": "give the script train.args",
    "steps": "the script has them: model.fit(epochs=..., steps_per_epoch=...)",
    "epochs": "the script has them: model.fit(epochs=...)",
    "global_batch_size": "the script has it: model.fit(batch_size=...), or its dataset's batch()",
    "remainder": "the script has it: its dataset's batch(drop_remainder=...)",
    "class_weight": "the script has it: model.fit(class_weight=...)",
    "stop_when": "the script has it: model.fit(callbacks=[keras.callbacks.EarlyStopping(...)])",
    "evaluate": "the script has it: model.fit(validation_data=..., validation_freq=...)",
    "compile": "the script has it: model.compile(jit_compile=..., run_eagerly=...)",
    "replica_masks": "a script's random layers draw as Keras has them draw",
}
"""Where."""


class TrainSection(Section):
    """What to train, how long, and in which order."""

    task: str | None = None
    """The Task to train: `file.py:Class` (the path is relative to the job file) or `package.module:Class`."""
    script: str | None = None
    """Instead of a task: a Python program that calls `model.fit`, as it is: `train.py`. The path is relative to the job file. Its
    fit is trained, saved and resumed as a task is; see docs/fit.md."""
    args: list[Annotated[str, WithJsonSchema({"type": ["string", "number"]})]] = []
    """Arguments of the script: `[--lr, 0.001]`. Numbers are handed on as they are written."""
    command: Annotated[list[str], Field(min_length=1)] | None = None
    """Instead of either: a program to run, as a list of arguments. It gets TF_CONFIG, restarts and logs; what it saves, and how
    it goes on, is its own. `python` is the one that runs orch."""
    params: dict[str, Any] = {}
    """Arguments for the task's constructor."""
    steps: Annotated[int, Field(gt=0, strict=True)] | None = None
    """Optimizer updates to train for. Give steps or epochs, not both."""
    epochs: Annotated[int, Field(gt=0, strict=True)] | None = None
    """Passes over the training data. Give steps or epochs, not both."""
    global_batch_size: Annotated[int, Field(gt=0, strict=True)] = 64
    """Examples of one step over all replicas. It must divide by the number of replicas."""
    remainder: Literal["carry", "drop", "keep"] = "carry"
    """What becomes of an epoch's last examples where they fill no batch. carry: the batch is filled from the next epoch; drop:
    they are left out; keep: the last batch is smaller, as in Keras' fit. Data that comes in batches keeps its own way."""
    class_weight: Annotated[dict[int, Weight], Field(min_length=1)] | None = None
    """Weights of the classes in the training loss, by class number; a class that is missing counts 1. As Keras' fit has it,
    with a single output and no sample_weight. Evaluations are not weighted."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When to evaluate."""
    stop_when: StopWhen | None = None
    """Stop early. Default: never."""
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    """Seeds the weights, the order of the data and Keras' random layers; of a script, what it leaves unseeded."""
    compile: Literal["auto", "xla", "graph", "eager"] = "auto"
    """How steps are compiled: xla (a block of steps is one XLA program), graph (tf.function), eager (none, for debugging).
    auto: xla where it is known to be faster, else graph."""
    on_nan: Literal["stop", "go-on"] = "stop"
    """What a loss that is not a finite number does: stop ends the job (exit code 70), go-on warns once."""
    replica_masks: Literal["differ", "same"] = "differ"
    """Whether Dropout and other random layers draw anew for each replica's part of the batch, or (as Keras) alike for all."""
    deterministic: Annotated[bool, Field(strict=True)] = False
    """Pin the CPU instruction set, turn on op determinism and refuse unseeded ops."""

    @model_validator(mode="before")
    @classmethod
    def _stopping_early_needs_evaluations(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("stop_when"):
            return data
        evaluate = data.get("evaluate") or {}
        if isinstance(evaluate, dict) and evaluate.get("every") is None:
            return data | {"evaluate": evaluate | {"every": "epoch"}}
        return data

    @model_validator(mode="after")
    def _one_program(self) -> Self:
        given = [field for field in ("task", "script", "command") if getattr(self, field) is not None]
        if not given:
            raise misfit(
                "task",
                "what to train is missing: give train.task (file.py:Class), train.script (train.py) or train.command",
            )
        if len(given) > 1:
            raise misfit(given[-1], f"give train.{given[0]} or train.{given[-1]}, not both")
        if self.task is not None and not all(self.task.rpartition(":")):
            raise misfit("task", f'"{self.task}" names no class; write file.py:Class or package.module:Class')
        if self.script is not None and not self.script.endswith(".py"):
            raise misfit(
                "script", f'"{self.script}" is no Python file; write train.py, and its arguments as train.args'
            )
        if self.args and self.script is None:
            own = "a task has train.params" if self.task is not None else "a command has its own in its list"
            raise misfit("args", f"train.args are for a script; {own}")
        return self

    @model_validator(mode="after")
    def _what_goes_with_it(self, info: ValidationInfo) -> Self:
        if self.steps is not None and self.epochs is not None and self.script is None:
            raise misfit("epochs", "give train.steps or train.epochs, not both")
        if self.task is not None and self.steps is None and self.epochs is None:
            raise misfit("steps", "how long to train is missing: give train.steps or train.epochs")
        given = [field for field in TASK_ONLY if getattr(self, field)]
        if self.command is not None and given:
            raise misfit(given[0], f"train.{given[0]} is for a task; a command gets all it needs as arguments")
        in_job_file = bool(info.context and info.context.get("job_file"))
        given = [field for field in _of_a_task() if self._gives(field, whatever=in_job_file)]
        if self.script is not None and given:
            where = _IN_THE_SCRIPT.get(given[0])
            raise misfit(given[0], f"train.{given[0]} is for a task" + (f"; {where}" if where else ""))
        return self

    def _gives(self, field: str, *, whatever: bool) -> bool:
        """Whether a field was given: `whatever` its value, else another one than its default, for our own JSON holds all."""
        default = type(self).model_fields[field].default
        return field in self.model_fields_set and (whatever or getattr(self, field) != default)


def _of_a_task() -> list[str]:
    """Fields of `train` that a script has itself. One that is new is refused with a script until it is known what it means."""
    own = {"task", "script", "args", "command", *WITH_SCRIPT}
    known = [field for field in _IN_THE_SCRIPT if field in TrainSection.model_fields]
    return known + [field for field in TrainSection.model_fields if field not in own and field not in known]


class CheckpointSection(Section):
    """When the state is saved, and how much of it is kept."""

    every: Annotated[int, Field(gt=0, strict=True)] | Seconds = 60.0
    """Steps between saves (200), or a duration ("5m"). A last save is always made at the end."""
    keep: Annotated[int, Field(ge=2, strict=True)] = 3
    """How many verified checkpoints are kept. At least 2: the newest may turn out damaged."""
    shard_size_mb: Annotated[int, Field(ge=1, le=2048, strict=True)] = 128
    """The size of one shard, in MB."""
    last_save_timeout: Seconds = 900.0
    """How long the save at the end of training is tried while the store makes trouble; then the job ends with 74."""

    @property
    def every_steps(self) -> int | None:
        """Steps between saves, or None when saves go by the clock."""
        return self.every if isinstance(self.every, int) else None

    @property
    def every_s(self) -> float | None:
        """Seconds between saves, or None when saves go by steps."""
        return self.every if isinstance(self.every, float) else None


class ExportSection(Section):
    """What is exported beside the model as training ends with it."""

    best: str | None = Field(default=None, pattern=r"^val_[A-Za-z0-9_]+$")
    """Keep the best model by this metric of the evaluation too (val_loss, val_accuracy): export/attempt-K/best.keras. Default:
    none. With it, evaluate.every is epoch where it is not given."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether smaller or larger is better, as in train.stop_when."""


class RestartsSection(Section):
    """How much trouble a job may have before it gives up."""

    max: Annotated[int, Field(ge=0, strict=True)] = 20
    """Restarts that count against the budget of one launch; those after which steps were committed are free."""
    hang_timeout: Literal["auto"] | Seconds = "auto"
    """A worker without a finished block for so long hangs. auto: 10 times the longest of the last 20 blocks, at least 10 s; for
    the first block, of one step, 2 min; for the task's own code (data, callbacks) 30 min."""
    start_timeout: Seconds = 900.0
    """How long the first assembly of all workers of a launch may take."""


class TrainConfig(Section):
    """The resolved configuration of one job, the same for every worker. In JSON, named by ORCH_CONFIG."""

    name: str
    """The job's name."""
    train: TrainSection
    checkpoint: CheckpointSection = CheckpointSection()
    export: ExportSection = ExportSection()
    restarts: RestartsSection = RestartsSection()
    run_directory: str
    """An absolute local path or gs://bucket/prefix."""
    workers: Annotated[int, Field(gt=0)] = 1
    """Number of workers (processes of TensorFlow)."""
    grace_s: float = 30.0
    """Seconds from SIGTERM to SIGKILL."""
    memory_limit_bytes: int | None = None
    """The memory limit of one worker, where there is one."""
    cpu_limit: float | None = None
    """The CPU limit of one worker in cores; TensorFlow's own thread pools follow it."""
    log_all_workers: bool = True
    """Whether workers other than 0 write their output to the run directory at once, or on failure only."""
    tpu: bool = False
    """Train on this host's TPU. Never chosen by itself."""
    task_root: str | None = None
    """The folder of the job file: what file.py in train.task and train.script is relative to, and where training processes
    start. Default: the agent's working directory, in a pod that of the image."""

    @classmethod
    def load(cls, path: str | Path) -> "TrainConfig":
        """Read the JSON file that ORCH_CONFIG names."""
        return cls.model_validate_json(Path(path).read_bytes())
