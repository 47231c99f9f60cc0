"""The command line before any training: help, errors, init, schema, render."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main as cli
from orchestrator.cli.output import print_error
from orchestrator.jobfile.load import load
from orchestrator.jobfile.program import notes_on
from trainer.errors import ConfigError, StoreUnavailable
from trainer.exit_codes import ExitCode

ORCH = [sys.executable, "-m", "orchestrator.cli.main"]
FOR_THE_CLUSTER = ["--set", "run.directory=gs://bucket/x", "--set", "image.ref=registry.example/train:1"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "My First_Job!"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


def orch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*ORCH, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_a_render_imports_nothing_of_a_job_that_runs(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: a\nimage: {ref: r/a}\ntrain: {command: [x]}\nrun: {directory: gs://bucket/a}\n"
    )
    program = "import sys; from orchestrator.cli.main import run; code = run(['render', 'job.yaml', '-n', 'x']); "
    program += "print(code, sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.startswith("0 ")
    for heavy in ("trainer.rundir.attempts", "trainer.wire.coordinator", "kubernetes", "orchestrator.kube.client"):
        assert f"'{heavy}'" not in done.stderr


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "orchestrator.cli.main", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert entry.help in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "click" in imported
    for heavy in ("pydantic", "yaml", "rich", "numpy", "kubernetes", "importlib.metadata", "orchestrator.cli.jobfile"):
        assert heavy not in imported


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_commands_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    assert f"  orch {command}" in capsys.readouterr().out


def test_the_version() -> None:
    assert orch("--version").stdout.startswith("orch 0.")


def test_a_misspelt_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rendr", "job.yaml"]) == 2
    assert 'Did you mean "render"?' in capsys.readouterr().err


def test_init_writes_a_job_that_is_valid_and_divides_by_two_and_four(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["job.yaml", "task.py"]
    assert "orch run job.yaml" in capsys.readouterr().out
    spec = load("job.yaml").spec
    assert spec.name == "my-first-job"
    assert spec.train.steps is not None
    assert spec.train.stop_when is None
    assert spec.train.global_batch_size % 4 == 0
    compile(Path("task.py").read_text(), "task.py", "exec")


def test_the_commented_part_of_the_starter_is_valid_too() -> None:
    cli.run(["init"])
    text = Path("job.yaml").read_text()
    before, _, after = text.partition("#\n# image:")
    Path("job.yaml").write_text(before + "image:" + after.replace("\n# ", "\n"))
    spec = load("job.yaml").spec
    assert spec.image.ref is not None
    assert spec.resources.accelerator == "nvidia-l4:1"


def test_init_overwrites_nothing_unless_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    Path("task.py").write_text("mine")
    assert cli.run(["init"]) == ExitCode.CONFIGURATION
    assert "error: task.py exists already" in capsys.readouterr().err
    assert Path("task.py").read_text() == "mine"
    assert not Path("job.yaml").exists()
    assert cli.run(["init", "--force"]) == 0
    assert "class Moons" in Path("task.py").read_text()


def test_init_writes_a_job_for_a_script_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("src").mkdir()
    for name in ("mine.py", "src/mine.py", "my #1.py"):
        Path(name).write_text("model.fit(x)")
        assert cli.run(["init", "--script", name, "--force"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == "wrote job.yaml"
        assert Path(name).read_text() == "model.fit(x)"
        spec = load("job.yaml").spec
        assert (spec.name, spec.train.script, spec.train.args) == ("my-first-job", name, [])
        assert not Path("task.py").exists()
    assert cli.run(["init", "--script", "mine.py"]) == ExitCode.CONFIGURATION
    assert "error: job.yaml exists already" in capsys.readouterr().err


def test_init_writes_a_script_that_is_not_there_and_a_job_that_can_go_to_a_cluster() -> None:
    assert cli.run(["init", "--script", "train.py"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["job.yaml", "train.py"]
    text = Path("job.yaml").read_text()
    before, _, after = text.partition("#\n# image:")
    Path("job.yaml").write_text(before.replace("# args:", "args:") + "image:" + after.replace("\n# ", "\n"))
    spec = load("job.yaml").spec
    assert (spec.image.build, spec.resources.workers, spec.train.args) == (".", 2, ["--epochs", "20"])
    assert notes_on(spec.train, Path(), 2) == []


@pytest.mark.parametrize("name", ["train.sh", "/tmp/train.py", "../train.py"])
def test_init_writes_no_script_that_is_elsewhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init", "--script", name]) == ExitCode.CONFIGURATION
    assert f"error: {name} is no Python file of this folder" in capsys.readouterr().err
    assert not Path("job.yaml").exists()


def test_init_does_not_write_through_a_link_that_leads_nowhere() -> None:
    Path("job.yaml").symlink_to("elsewhere.yaml")
    assert cli.run(["init"]) == ExitCode.CONFIGURATION
    assert not Path("elsewhere.yaml").exists()


def test_schema_is_json_schema_and_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["name"]["description"]
    assert cli.run(["schema", "--format", "markdown"]) == 0
    assert "## `checkpoint`" in capsys.readouterr().out


def test_render_prints_objects_that_yaml_readers_agree_about(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["init"])
    capsys.readouterr()
    values = ["--set", "env={A: 'on', B: 'N', C: '1e3', D: '0o17', E: '12:30', F: ''}"]
    assert cli.run(["render", "job.yaml", *FOR_THE_CLUSTER, *values, "-n", "research"]) == 0
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    (job,) = [item for item in objects if item["kind"] == "Job"]
    assert {item["metadata"]["namespace"] for item in objects} == {"research"}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert [env[name] for name in "ABCDEF"] == ["on", "N", "1e3", "0o17", "12:30", ""]


def test_render_of_a_thousand_workers_is_no_longer_than_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["init"])
    capsys.readouterr()
    lengths = []
    for workers in ("1", "1000"):
        sets = ["--set", f"resources.workers={workers}", "--set", "train.global_batch_size=1000"]
        assert cli.run(["render", "job.yaml", *FOR_THE_CLUSTER, *sets]) == 0
        lengths.append(len(capsys.readouterr().out.splitlines()))
    assert lengths[0] == lengths[1]


def test_render_takes_the_namespace_from_the_kubectl_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"current-context": "a", "contexts": [{"name": "a", "context": {"namespace": "team"}}, {"name": "b"}]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}{os.pathsep}{tmp_path / 'kubeconfig'}")
    cli.run(["init"])
    capsys.readouterr()

    def namespace(*more: str) -> str:
        assert cli.run(["render", "job.yaml", *FOR_THE_CLUSTER, *more]) == 0
        first = next(yaml.safe_load_all(capsys.readouterr().out))
        return str(first["metadata"]["namespace"])

    assert namespace() == "team"
    assert namespace("--set", "scheduling.namespace=mine") == "mine"
    assert namespace("--set", "scheduling.namespace=mine", "-n", "other") == "other"


def test_a_users_mistake_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("name: x\ntrain: {task: t.py:X, stepz: 5}\n")
    assert cli.run(["render", "job.yaml"]) == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: job.yaml:2: train.stepz: unknown key; did you mean")
    assert len(err.splitlines()) == 1


def test_several_mistakes_stand_one_a_line_as_editors_read_them(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("name: X\ntrain: {task: t.py:X, stepz: 5}\n")
    assert cli.run(["render", "job.yaml"]) == ExitCode.CONFIGURATION
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: 2 problems"
    assert [line.split(": ")[0] for line in lines] == ["job.yaml:1", "job.yaml:2"]


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr("orchestrator.jobfile.starter.write_starter", fail)


@pytest.mark.parametrize(
    "error, code, text",
    [
        (ConfigError("no good", remedy="do better"), 78, "error: no good\ndo better\n"),
        (StoreUnavailable("no answer"), 75, "error: no answer\n"),
        (KeyError("x"), 70, "error: KeyError: 'x'\nThis is a bug of orch. Run it again with --debug"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError("a socket's"), 70, "error: RuntimeError: a pipe or a connection broke: a socket's"),
    ],
)
def test_every_end_has_its_code_and_its_line(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    raising(error, monkeypatch)
    assert cli.run(["init"]) == code
    err = capfd.readouterr().err
    assert err.startswith(text)
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--debug", "init"], ["init", "--debug"]])
def test_debug_shows_the_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(ConfigError("no good"), monkeypatch)
    assert cli.run(arguments) == 78
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: no good\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*ORCH, "schema"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writer)
    assert result.returncode == cli.EXIT_BROKEN_PIPE
    assert result.stderr == ""


def test_no_colour_where_no_terminal_is() -> None:
    result = orch("render", "nothing.yaml")
    assert result.returncode == 78
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(("cut", "count"), [(False, "2 problems"), (True, "several problems")])
def test_an_error_of_several_lines_counts_them_unless_there_are_more(
    cut: bool, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_error(ConfigError("job.yaml:1: a\n... and what follows", cut=cut))
    assert capsys.readouterr().err == f"error: {count}\njob.yaml:1: a\n... and what follows\n"
