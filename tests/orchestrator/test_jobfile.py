"""Job files: what is wrong is told in one error, with file, line, field, what is allowed, and what was probably meant."""

import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.jobfile.load import LoadedJob, load
from orchestrator.jobfile.resolve import resolve_for_cluster, resolve_for_local
from trainer.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden" / "job-errors.txt"
"""All texts of errors, to be read by people. Written anew by `make golden`."""

TASK = """\
from elsewhere import Imported
import other.thing as Other
class Digits: pass
def digits(): pass
Alias = Digits
if True:
    class Inner: pass
try:
    from fast import Fast
except ImportError:
    Fast = None
"""

JOB = """\
name: digits
train:
  task: task.py:Digits
  params: {hidden: [32, 32], learning_rate: 1e-3}
  steps: 2000
  global_batch_size: 128
  evaluate: {every: 500}
  stop_when: {metric: val_loss, patience: 5}
  seed: 17
image: {ref: registry.example/digits:1}
run: {directory: gs://acme-train/digits}
checkpoint: {every: 200, keep: 3}
resources:
  workers: 4
  cpu: 8
  memory: 32Gi
env: {LOG_LEVEL: info}
secrets: [{name: wandb, env: {WANDB_API_KEY: key}}]
volumes: [{name: data, mount: /data, claim: data}]
"""

SCRIPT_INSTEAD = JOB[JOB.index("task:") : JOB.index("\nimage:")]
"""A task and all that is for one."""
BEST = "  script: train.py\nexport: {best: val_loss}\n"

# What is replaced in JOB (old -> new), by the name of the promise that it breaks.
BROKEN: dict[str, tuple[str, str]] = {
    "unknown key": ("  steps: 2000", "  stepz: 2000"),
    "unknown key of another section": ("name: digits", "name: digits\nworkers: 2"),
    "unknown key in camel case": ("  global_batch_size: 128", "  globalBatchSize: 128"),
    "unknown key unlike any": ("env:", "zzz: 1\nenv:"),
    "unknown key in a list": ("claim: data}", "clam: data}"),
    "name missing": ("name: digits\n", ""),
    "train missing": (JOB[JOB.index("train:") : JOB.index("image:")], ""),
    "section empty": ("checkpoint: {every: 200, keep: 3}", "checkpoint:"),
    "text for a number": ("  steps: 2000", "  steps: many"),
    "quoted number": ("  steps: 2000", '  steps: "2000"'),
    "exponent for a whole number": ("  steps: 2000", "  steps: 1e3"),
    "fraction for a whole number": ("  steps: 2000", "  steps: 1.5"),
    "bool for a number": ("  seed: 17", "  seed: true"),
    "number for text": ("LOG_LEVEL: info", "LOG_LEVEL: 3"),
    "bool for text": ("LOG_LEVEL: info", "LOG_LEVEL: true"),
    "word that YAML readers dispute": ("LOG_LEVEL: info", "LOG_LEVEL: on"),
    "octal number": ("  seed: 17", "  seed: 017"),
    "number with underscores": ("  steps: 2000", "  steps: 2_000"),
    "list for a mapping": ("checkpoint: {every: 200, keep: 3}", "checkpoint: [every, 200]"),
    "text for a mapping": ("checkpoint: {every: 200, keep: 3}", "checkpoint: often"),
    "mapping for a list": ("secrets: [{name: wandb, env: {WANDB_API_KEY: key}}]", "secrets: {name: wandb}"),
    "text for a bool": ("  seed: 17", '  deterministic: "yes"'),
    "key given twice": ("  seed: 17", "  seed: 17\n  steps: 5"),
    "tag": ("name: digits", "name: !!python/name:os.system x"),
    "bad YAML": ("  seed: 17", "  seed: 17\n seed: 18"),
    "tabs": ("  seed: 17", "\tseed: 17"),
    "two documents": ("volumes:", "---\nvolumes:"),
    "steps 0": ("  steps: 2000", "  steps: 0"),
    "steps negative": ("  steps: 2000", "  steps: -1"),
    "steps and epochs": ("  steps: 2000", "  steps: 2000\n  epochs: 2"),
    "neither steps nor epochs": ("  steps: 2000\n", ""),
    "task and command": ("  seed: 17", "  command: [python, train.py]"),
    "task and script": ("  seed: 17", "  script: train.py"),
    "script file missing": (SCRIPT_INSTEAD, "script: trian.py"),
    "script that is a folder": (SCRIPT_INSTEAD, "script: folder.py"),
    "script that is no Python file": (SCRIPT_INSTEAD, "script: train.sh"),
    "script with its arguments": (SCRIPT_INSTEAD, "script: train.py --epochs 3"),
    "script with a syntax error": (SCRIPT_INSTEAD, "script: broken.py"),
    "script that cannot be compiled": (SCRIPT_INSTEAD, "script: returns.py"),
    "script and steps": (SCRIPT_INSTEAD, "script: train.py\n  steps: 5"),
    "script and epochs": (SCRIPT_INSTEAD, "script: train.py\n  epochs: 5"),
    "script and the default batch": (SCRIPT_INSTEAD, "script: train.py\n  global_batch_size: 64"),
    "script and remainder": (SCRIPT_INSTEAD, "script: train.py\n  remainder: drop"),
    "script and evaluate": (SCRIPT_INSTEAD, "script: train.py\n  evaluate: {every: 5}"),
    "script and stop_when": (SCRIPT_INSTEAD, "script: train.py\n  stop_when: {metric: val_loss}"),
    "script and class_weight": (SCRIPT_INSTEAD, 'script: train.py\n  class_weight: {"0": 1.0}'),
    "script and params": (SCRIPT_INSTEAD, "script: train.py\n  params: {units: 3}"),
    "script and compile": (SCRIPT_INSTEAD, "script: train.py\n  compile: xla"),
    "script and replica_masks": (SCRIPT_INSTEAD, "script: train.py\n  replica_masks: same"),
    "script and the best export": (JOB[JOB.index("  task:") : JOB.index("env:")], BEST),
    "args of a task": ("  seed: 17", "  args: [--epochs, 3]"),
    "args of a command": (SCRIPT_INSTEAD, "command: [python, train.py]\n  args: [--epochs, 3]"),
    "args that are switches": (SCRIPT_INSTEAD, "script: train.py\n  args: [--fast, true]"),
    "neither task nor command": ("  task: task.py:Digits\n", ""),
    "every 0": ("{every: 200, keep: 3}", "{every: 0, keep: 3}"),
    "every without a unit": ("{every: 200, keep: 3}", "{every: 1.5, keep: 3}"),
    "every in a unit that is none": ("{every: 200, keep: 3}", "{every: 5min, keep: 3}"),
    "keep 1": ("{every: 200, keep: 3}", "{every: 200, keep: 1}"),
    "duration without a unit": ("env:", "restarts: {start_timeout: 900}\nenv:"),
    "duration or auto": ("env:", "preemption: {grace: automatic}\nenv:"),
    "batch not divisible": ("  workers: 4", "  workers: 3"),
    "batch not divisible by GPUs": ("  workers: 4", "  workers: 10\n  accelerator: nvidia-l4:8"),
    "name in upper case": ("name: digits", "name: Digits_2"),
    "name with a digit first": ("name: digits", "name: 2digits"),
    "name too long": ("name: digits", "name: " + "d" * 41),
    "name is a number": ("name: digits", "name: 17"),
    "unknown scheme": ("gs://acme-train/digits", "s3://acme-train/digits"),
    "scheme misspelt": ("gs://acme-train/digits", "gs:/acme-train/digits"),
    "bucket without a prefix": ("gs://acme-train/digits", "gs://acme-train"),
    "bucket that cannot be": ("gs://acme-train/digits", "gs://Acme/digits"),
    "relative run directory": ("gs://acme-train/digits", "runs/digits"),
    "TPU that does not exist": ("  workers: 4", "  accelerator: v5litepod-12"),
    "topology that does not exist": ("  workers: 4", "  accelerator: v5litepod-16\n  topology: 2x8"),
    "topology without a TPU": ("  workers: 4", "  topology: 2x8"),
    "two slices": ("  workers: 4", "  accelerator: v5litepod-16\n  slices: 2"),
    "workers against the slice": ("  workers: 4", "  accelerator: v5litepod-16\n  workers: 3"),
    "TPU7x": ("  workers: 4", "  accelerator: tpu7x-8"),
    "unknown GPU": ("  workers: 4", "  accelerator: l4:2"),
    "memory in a unit that is none": ("memory: 32Gi", "memory: 32GB"),
    "memory as a number": ("memory: 32Gi", "memory: 32"),
    "cpu as a quantity": ("cpu: 8", "cpu: 500m"),
    "capacity misspelt": ("  workers: 4", "  workers: 4\n  capacity: spott"),
    "reservation without a name": ("  workers: 4", "  workers: 4\n  capacity: reservation"),
    "reservation on other capacity": ("  workers: 4", "  workers: 4\n  reservation: mine"),
    "task without a class": ("task.py:Digits", "task.py"),
    "task file missing": ("task.py:Digits", "tasks.py:Digits"),
    "task folder missing": ("task.py:Digits", "src/task.py:Digits"),
    "task class missing": ("task.py:Digits", "task.py:Digit"),
    "task is a function": ("task.py:Digits", "task.py:digits"),
    "task file with a syntax error": ("task.py:Digits", "broken.py:Digits"),
    "task file without classes": ("task.py:Digits", "empty.py:Digits"),
    "module of ours missing": ("task.py:Digits", "trainer.tasks.nothing:Digits"),
    "class name that cannot be": ("task.py:Digits", "task.py:2"),
    "variable name that cannot be": ("LOG_LEVEL: info", "LOG-LEVEL: info"),
    "variable of orch itself": ("LOG_LEVEL: info", "TF_CONFIG: x"),
    "variable set twice": ("LOG_LEVEL: info", "WANDB_API_KEY: x"),
    "secret listed twice": ("env: {WANDB_API_KEY: key}}]", "env: {A: key}}, {name: wandb, mount: /secret}]"),
    "secret not used": (", env: {WANDB_API_KEY: key}}]", "}]"),
    "relative mount": ("mount: /data", "mount: data"),
    "mount with dots": ("mount: /data", "mount: /data/../etc"),
    "mount over our own": ("mount: /data", "mount: /tmp"),
    "mounted twice": ("claim: data}]", "claim: data}, {name: more, mount: /data, claim: more}]"),
    "volume listed twice": ("claim: data}]", "claim: data}, {name: data, mount: /more, claim: more}]"),
    "volume with two sources": ("claim: data}]", "claim: data, empty_dir: 1Gi}]"),
    "volume without a source": (", claim: data}]", "}]"),
    "stop on a metric of training": ("metric: val_loss", "metric: loss"),
    "infinity in params": ("learning_rate: 1e-3", "learning_rate: .inf"),
    "patch that misses spec": ("env:", "kubernetes: {pod: {nodeSelector: {a: b}}}\nenv:"),
    "image given twice": ("{ref: registry.example/digits:1}", "{ref: registry.example/digits:1, build: .}"),
    "image as a URL": ("ref: registry.example/digits:1", "ref: https://registry.example/digits:1"),
    "several at once": (
        "  steps: 2000\n  global_batch_size: 128",
        "  stepz: 2000\n  global_batch_size: 0\n  seeds: 1\n  compile: jit\n  deterministic: 1\n  task2: x\n  a: 1",
    ),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    Path("task.py").write_text(TASK)
    Path("broken.py").write_text("class Digits:\n    def model(self:\n")
    Path("empty.py").write_text("x = 1\n")
    Path("train.py").write_text("model.fit(x)\n")
    Path("returns.py").write_text("x = 1\nreturn x\n")
    Path("folder.py").mkdir()


def write(text: str) -> Path:
    path = Path("job.yaml")
    path.write_text(text)
    return path


def loaded(text: str = JOB, *overrides: str) -> LoadedJob:
    return load(write(text), overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(text, *overrides)
    return str(caught.value)


def test_errors_are_those_that_people_have_read() -> None:
    texts = []
    for promise, (old, new) in BROKEN.items():
        assert old in JOB, promise
        text = refusal(JOB.replace(old, new, 1)).replace(os.getcwd(), "/job")
        texts.append(f"== {promise}\n{text}\n")
    found = "\n".join(texts)
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), "the texts of errors changed: `make golden`, and read the difference"


@pytest.mark.parametrize("promise", BROKEN)
def test_one_error_with_file_line_and_field_and_no_jargon(promise: str) -> None:
    old, new = BROKEN[promise]
    changed = JOB.replace(old, new, 1)
    lines = refusal(changed).splitlines()
    assert len(lines) <= 20
    for line in lines:
        match = re.match(r"job\.yaml:(\d+): ", line)
        assert match or line.startswith("... and"), line
        assert not match or int(match[1]) <= changed.count("\n")
    text = "\n".join(lines)
    for jargon in ("Traceback", "pydantic", "validation error", "Input should be", "type=", "NoneType", "Extra inputs"):
        assert jargon not in text


def test_the_line_is_that_of_the_culprit() -> None:
    for promise, wrong in (("steps 0", "steps: 0"), ("keep 1", "keep: 1"), ("unknown scheme", "s3://")):
        old, new = BROKEN[promise]
        text = JOB.replace(old, new, 1)
        line = next(number for number, row in enumerate(text.splitlines(), 1) if wrong in row)
        assert refusal(text).startswith(f"job.yaml:{line}: ")


def test_the_example_of_the_documentation_loads() -> None:
    spec = loaded(JOB).spec
    assert spec.train.params == {"hidden": [32, 32], "learning_rate": 0.001}
    assert spec.checkpoint.every_steps == 200


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n", "---\n"])
def test_an_empty_file_is_said_to_be_empty(text: str) -> None:
    assert "the file is empty" in refusal(text)


@pytest.mark.parametrize("text, kind", [("- a\n", "a list"), ("job\n", "a single value"), ("5", "a single value")])
def test_a_file_that_is_no_mapping(text: str, kind: str) -> None:
    assert re.match(rf"job.yaml:1: a job file is a mapping .* {kind}", refusal(text))


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_file_that_is_not_utf_8(codec: str) -> None:
    Path("job.yaml").write_bytes(JOB.replace("info", "infó").encode(codec))
    with pytest.raises(ConfigError, match=r"job.yaml:\d+: the file is not UTF-8") as caught:
        load("job.yaml")
    assert caught.value.remedy == "Save it as UTF-8."


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    Path("job.yaml").write_bytes(b"\xef\xbb\xbf" + JOB.replace("\n", "\r\n").encode())
    assert load("job.yaml").spec.name == "digits"


def test_files_that_are_no_job_files(tmp_path: Path) -> None:
    write(JOB)
    for path, words in (
        ("jobs.yaml", 'no such file; did you mean "job.yaml"'),
        ("nowhere/job.yaml", "no such file"),
        (".", "is a folder"),
        ("big", "larger than 1 MiB"),
    ):
        Path("big").write_bytes(b"x" * (2 << 20))
        with pytest.raises(ConfigError, match=re.escape(words)):
            load(path)


def test_a_file_without_permission_is_said_to_be_unreadable() -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    write(JOB).chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load("job.yaml")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_the_answer_is_one_short_error(content: bytes) -> None:
    Path("any.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load("any.yaml")
    assert 1 <= len(str(caught.value).splitlines()) <= 20


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "on", "5m", "auto", "/x", "é", "a b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["every", "name", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = """
name image image.ref train train.task train.params train.steps train.evaluate train.evaluate.every
train.stop_when train.deterministic run run.directory checkpoint checkpoint.every resources resources.workers
resources.cpu resources.memory resources.accelerator restarts.hang_timeout preemption.grace scheduling
scheduling.tolerations env env.X secrets volumes volumes.0 volumes.0.name kubernetes.pod nothing train.nothing
""".split()  # noqa: SIM905


@given(st.sampled_from(FIELDS), values)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_field_is_set_to_it_is_taken_or_told_in_one_short_error(field: str, value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    write(JOB)
    try:
        load("job.yaml", [f"{field}={text}"])
    except ConfigError as error:
        shown = str(error)
        assert len(shown.splitlines()) <= 20
        assert "Input should" not in shown


def test_overrides_replace_what_the_file_says() -> None:
    job = loaded(JOB, "train.params.hidden=[64]", "resources={workers: 2}", "env.NEW='1'", "volumes.0.mount=/elsewhere")
    assert job.spec.train.params == {"hidden": [64], "learning_rate": 0.001}
    assert job.spec.resources.workers == 2
    assert job.spec.resources.memory is None
    assert job.spec.env == {"LOG_LEVEL": "info", "NEW": "1"}
    assert job.spec.volumes[0].mount == "/elsewhere"
    assert job.where("resources.workers") == "--set resources={workers: 2}"
    assert job.where("train.steps") == "job.yaml:5"
    assert job.where("volumes.0.mount") == "--set volumes.0.mount=/elsewhere"


def test_the_last_override_of_a_field_wins() -> None:
    assert loaded(JOB, "train.steps=5", "train.steps=6").spec.train.steps == 6


def test_an_override_of_epochs_replaces_the_files_steps_and_the_other_way_round() -> None:
    train = loaded(JOB, "train.epochs=3").spec.train
    assert (train.steps, train.epochs) == (None, 3)
    train = loaded(JOB.replace("steps: 2000", "epochs: 2"), "train.steps=3").spec.train
    assert (train.steps, train.epochs) == (3, None)
    assert "not both" in refusal(JOB, "train.steps=3", "train.epochs=3")


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.stepz=5", 'unknown key; did you mean "steps"'),
        ("steps=5", 'did you mean "train.steps"'),
        ("train.steps", "write --set KEY=VALUE"),
        ("=5", "write --set KEY=VALUE"),
        ("train..steps=5", "write --set KEY=VALUE"),
        ("train.steps=[", "not YAML"),
        ("train.seed=", "is empty; it must be a whole number"),
        ("train.steps=0", "at least 1"),
        ("resources.cpu=250m", "did you mean 0.25?"),
        ("env.X=on", 'write true or "on"'),
        ("env.X=5", 'put it in quotes: "5"'),
        ("env.1=a", "no name of an environment variable"),
        ("name.x=5", "single value"),
        ("secrets.7.name=x", "no place in it"),
        ("secrets.x=1", "no place in it"),
        ("resources.workers=3", "nearest: 126 or 129"),
        ("run.directory=ftp://x/y", "allowed: gs://"),
    ],
)
def test_an_error_in_an_override_names_the_override(override: str, words: str) -> None:
    text = refusal(JOB, override)
    assert words in text
    if override != "resources.workers=3":
        assert text.startswith(f"--set {override}")


@pytest.mark.parametrize("name", ["Digits", "Imported", "Other", "Alias", "Inner", "Fast"])
def test_names_that_a_task_file_binds_in_any_way_count(name: str) -> None:
    assert loaded(JOB, f"train.task=task.py:{name}").spec.train.task == f"task.py:{name}"


def test_a_task_file_is_read_and_not_run() -> None:
    Path("task.py").write_text("raise SystemExit('ran')\nclass Digits: pass\n")
    assert loaded().spec.train.task == "task.py:Digits"


def test_import_star_and_module_getattr_may_bring_any_name() -> None:
    for text in ("from elsewhere import *\n", "def __getattr__(name): ...\n"):
        Path("task.py").write_text(text)
        loaded()


def test_a_task_of_a_module_is_looked_for_beside_the_job_file() -> None:
    Path("mine").mkdir()
    Path("mine/tasks.py").write_text("class Digits: pass\n")
    text = JOB.replace("ref: registry.example/digits:1", "repository: registry.example/digits, build: .")
    loaded(text, "train.task=mine.tasks:Digits")
    assert 'did you mean "Digits"' in refusal(text, "train.task=mine.tasks:Digit")
    assert "neither beside the job file" in refusal(text, "train.task=other.tasks:Digits")
    # In a finished image there may be modules that this machine does not have.
    loaded(JOB, "train.task=other.tasks:Digits")


def test_a_users_own_package_called_trainer_is_loaded_by_its_files() -> None:
    Path("trainer").mkdir()
    Path("trainer/__init__.py").write_text("")
    Path("trainer/mine.py").write_text("class Digits: pass\n")
    Path("trainer/task.py").write_text("class Digits: pass\n")
    for module in ("mine", "task"):
        text = refusal(JOB, f"train.task=trainer.{module}:Digits")
        assert "trainer is orch's own package, and comes before yours" in text
        assert text.endswith(f"name the file: trainer/{module}.py:Digits")
        loaded(JOB, f"train.task=trainer/{module}.py:Digits")
    loaded(JOB, "train.task=trainer.tasks.digits:Digits")


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("from trainer import model", "write `import model`"),
        ("from trainer import model as own", "write `import model as own`"),
        ("from trainer.model import build", "write `from model import build`"),
        ("import trainer.model", "import what lies beside it by its own name"),
        ("from trainer.task import Other", "write `from task import Other`"),
    ],
)
def test_what_imports_a_users_own_package_called_trainer_is_told_which_it_would_get(line: str, remedy: str) -> None:
    Path("trainer").mkdir()
    Path("trainer/model.py").write_text("def build(): pass\n")
    Path("trainer/task.py").write_text(f"from trainer.task import Task\n{line}\nclass Mine(Task): pass\nOther = 1\n")
    for override in ("train.task=trainer/task.py:Mine", "train={script: trainer/task.py}"):
        text = refusal(JOB, override)
        assert f"trainer/task.py:2: `{line}` gets orch's own package trainer" in text
        assert f"{remedy}, or call your package something else" in text
    assert text.endswith("or run the script as train.command: [python, -m, trainer.task], to which yours comes first")
    Path("train.py").write_text(line)
    assert "train.command: [python, train.py], to which" in refusal(JOB, "train={script: train.py}")
    Path("trainer/task.py").write_text("from trainer.task import Task\nimport model\nclass Mine(Task): pass\n")
    loaded(JOB, "train.task=trainer/task.py:Mine")


def test_the_job_file_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(JOB).resolve().parent
    monkeypatch.chdir("/")
    job = load(folder / "job.yaml")
    assert resolve_for_local(job, directory="/runs/digits").task_root == str(folder)


def test_a_command_needs_no_length_and_no_batch() -> None:
    job = loaded("name: script\ntrain:\n  command: [python, train.py]\nresources: {workers: 3}\n")
    assert job.spec.train.command == ["python", "train.py"]


SCRIPT = "name: script\ntrain:\n  script: train.py\n"


def test_a_script_needs_no_length_and_no_batch() -> None:
    job = loaded(f"{SCRIPT}  args: [--lr, 1e-3, --epochs, 3, 1.50]\n  seed: 3\nresources: {{workers: 3}}\n")
    assert job.spec.train.script == "train.py"
    assert job.spec.train.args == ["--lr", "1e-3", "--epochs", "3", "1.50"], "numbers as they are written"
    config = resolve_for_local(job, directory="/runs/script", workers=3)
    assert config.train.seed == 3
    assert type(config).model_validate_json(config.model_dump_json()) == config
    again = type(job.spec).model_validate(job.spec.written(), context={"job_file": True})
    assert again == job.spec


def test_a_script_is_read_and_not_run() -> None:
    Path("train.py").write_text("import nothing.of.the.kind\nraise SystemExit('ran')\n'\\d'\n")
    assert loaded(SCRIPT).spec.train.script == "train.py"


def test_a_script_may_lie_in_a_folder_or_be_named_by_its_whole_path() -> None:
    Path("src").mkdir()
    Path("src/train.py").write_text("model.fit(x)\n")
    for name in ("src/train.py", str(Path("src/train.py").resolve())):
        assert loaded(SCRIPT, f"train.script={name}").spec.train.script == name


def test_an_override_of_the_program_replaces_the_one_of_the_file() -> None:
    command = "name: x\ntrain:\n  command: [python, train.py]\n"
    assert loaded(command, "train.script=train.py").spec.train.command is None
    train = loaded(f"{SCRIPT}  args: [a]\n", "train.command=[python, train.py]").spec.train
    assert (train.script, train.args) == (None, [])
    train = loaded(f"{SCRIPT}  args: [a]\n", "train.task=task.py:Digits", "train.steps=3").spec.train
    assert (train.task, train.script, train.args) == ("task.py:Digits", None, [])
    train = loaded(command, "train.script=train.py", "train.args=[7, 1e-3]").spec.train
    assert train.args == ["7", "1e-3"]


def test_stop_when_without_evaluations_evaluates_every_epoch() -> None:
    job = loaded(JOB.replace("  evaluate: {every: 500}\n", ""))
    assert job.spec.train.evaluate.every == "epoch"


def test_resolved_for_the_cluster() -> None:
    config = resolve_for_cluster(loaded(JOB, "resources.capacity=spot").spec)
    assert config.run_directory == "gs://acme-train/digits"
    assert config.workers == 4
    assert config.memory_limit_bytes == 32 * 2**30
    assert config.cpu_limit == 8
    assert config.grace_s == 15
    assert config.task_root is None
    assert not config.log_all_workers
    assert resolve_for_cluster(loaded().spec).grace_s == 60
    assert resolve_for_cluster(loaded(JOB, "preemption.grace=40s").spec).grace_s == 40


def test_workers_follow_from_the_slice() -> None:
    text = JOB.replace("  workers: 4\n", "")
    assert resolve_for_cluster(loaded(text, "resources.accelerator=v5litepod-16").spec).workers == 4
    assert resolve_for_cluster(loaded(text, "resources.accelerator=nvidia-l4:2").spec).workers == 1


def test_the_cluster_needs_a_run_directory_and_this_machine_does_not() -> None:
    job = loaded(JOB.replace("run: {directory: gs://acme-train/digits}\n", ""))
    with pytest.raises(ConfigError, match=r"run\.directory is missing"):
        resolve_for_cluster(job.spec)
    config = resolve_for_local(job, directory="/runs/digits")
    assert (config.workers, config.run_directory) == (1, "/runs/digits")
    assert config.memory_limit_bytes is None
    assert config.log_all_workers


def test_a_batch_that_does_not_divide_by_the_local_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"job.yaml:6: train.global_batch_size: 128 does not divide by 3 replicas"):
        resolve_for_local(loaded(), directory="/runs/digits", workers=3)


def test_a_resolved_config_survives_its_json(tmp_path: Path) -> None:
    for overrides in ([], ["checkpoint.every=5m"], ["train.epochs=2"], ["restarts.hang_timeout=30s"]):
        config = resolve_for_cluster(loaded(JOB, *overrides).spec)
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        assert type(config).load(path) == config
