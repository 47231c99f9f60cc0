"""Images made of a user's folder: what goes in, what the layers are, and what is sent, over real HTTP to a registry."""

import gzip
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from orchestrator.image import parts as imageparts
from orchestrator.image.base import ENTRYPOINT, BaseFiles
from orchestrator.image.builders import Context, commands, find_builder
from orchestrator.image.files import collect
from orchestrator.image.layers import ArchiveEntry, code_entries, write_layer
from orchestrator.image.model import LABEL_TRAINER, Packaged, code_parts
from orchestrator.image.package import environment_on, layout, package
from orchestrator.image.registry import describe, sha256
from orchestrator.jobfile.load import load
from orchestrator.manifests.yaml_writer import to_yaml
from tests.support_registry import Registry, serving
from trainer.errors import ConfigError

JOB = """
name: mine
image: {{repository: {address}/mine, build: ., base: "{address}/base:1"}}
train: {{task: "task.py:Mine", steps: 10}}
run: {{directory: gs://bucket/mine}}
"""
KEY = "-----BEGIN PRIVATE KEY-----\n" + "A" * 64 + "\n"
ENCRYPTED = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n{'A' * 64}\n"
PGP = f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n{'A' * 64}\n"
KUBECONFIG = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [{"name": "me", "user": {"token": "x"}}]}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(Registry()) as running:
        yield running


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "task.py").write_text("class Mine: pass\n")
    return folder


def paths(folder: Path) -> set[str]:
    return {file.path for file in collect(folder).files}


def packed(registry: Registry, folder: Path, say: Callable[[str], None] = lambda text: None) -> Packaged:
    (folder / "job.yaml").write_text(JOB.format(address=registry.address))
    return package(load(folder / "job.yaml"), say=say)


def manifest_of(registry: Registry, made: Packaged) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads(registry.manifests["mine", made.ref.partition("@")[2]][1])
    return found


def trainer_base(registry: Registry) -> None:
    layer = gzip.compress(b"\0" * 10240)
    registry.image("base", "1", layers=(layer,), config={"Entrypoint": ENTRYPOINT, "User": "1000:1000", "Env": ["A=b"]})


@pytest.mark.parametrize(
    "path, content",
    [
        (".env", "TOKEN=x"),
        ("conf/.env.production", "TOKEN=x"),
        ("tls/server.pem", "x"),
        ("id_ed25519", "x"),
        (".ssh/config", "x"),
        (".kube/config", "x"),
        ("kubeconfig", "x"),
        ("innocent.txt", KEY),
        ("innocent.txt", ENCRYPTED),
        ("innocent.txt", PGP),
        ("innocent.json", json.dumps({"tls": ENCRYPTED})),
        ("account.json", json.dumps({"type": "service_account", "private_key": "x"})),
        ("adc", json.dumps({"type": "authorized_user", "refresh_token": "x"}, indent=2)),
        ("dockerconfig", json.dumps({"auths": {"a": {}, "ghcr.io": {"auth": "eDp5"}}})),
        ("team", to_yaml([KUBECONFIG])),
        ("team.json", json.dumps(KUBECONFIG)),
        ("prod.env", "TOKEN=x"),
        (".envrc", "export TOKEN=x"),
        ("kaggle.json", "{}"),
        (".boto", "x"),
        (".s3cfg", "x"),
        (".streamlit/secrets.toml", "x"),
        ("secrets.yaml", "x"),
        ("store.jks", "x"),
        ("login.ppk", "x"),
        ("store.p12", "x"),
        ("store.pfx", "x"),
    ],
)
def test_secrets_stay_out_and_are_named(code: Path, path: str, content: str) -> None:
    (code / path).parent.mkdir(parents=True, exist_ok=True)
    (code / path).write_text(content)
    # No exception in .dockerignore brings one back.
    (code / ".dockerignore").write_text(f"!{path}\n")
    found = collect(code)
    assert path not in {file.path for file in found.files}
    assert any(path.startswith(secret.partition(" ")[0]) for secret in found.secrets)


@pytest.mark.parametrize(
    "path, content",
    [
        ("keys.py", 'PEM = "-----BEGIN PRIVATE KEY-----"\nPGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----"\n'),
        ("keys.md", f"-----BEGIN RSA PRIVATE KEY-----\\n...\\n and then it goes on, {'word ' * 20}\n"),
        ("server.py", f"CONFIG = {KUBECONFIG!r}\nLOGIN = {{'type': 'authorized_user'}}\n"),
        ("login.py", 'def test(): assert read() == {"type": "authorized_user", "private_key": "x"}\n'),
        ("skaffold.yaml", "apiVersion: skaffold/v4beta11\nkind: Config\nbuild: {}\n"),
        ("docker.json", '{"auths": {"ghcr.io": {}}, "credsStore": "desktop"}'),
        ("example.env", "TOKEN=\n"),
        ("secrets.py", "import os\n"),
    ],
)
def test_code_that_speaks_of_secrets_goes_in(code: Path, path: str, content: str) -> None:
    (code / path).write_text(content)
    assert path in paths(code)
    assert collect(code).secrets == ()


def test_what_tools_leave_stays_out(code: Path) -> None:
    for path in (".git/HEAD", "__pycache__/task.pyc", "env/pyvenv.cfg", "old/attempts/1.json", "runs/x", "data/x"):
        (code / path).parent.mkdir(parents=True, exist_ok=True)
        (code / path).write_text("")
    found = collect(code, leave_out=[code / "runs"])
    assert {file.path for file in found.files} == {"task.py", "data", "data/x"}
    assert found.left_out == (".git/", "__pycache__/", "env/", "old/", "runs/")


def test_dockerignore_is_read_as_docker_reads_it(code: Path) -> None:
    for path in ("a.csv", "keep.csv", "deep/b.csv", "out/x", "out/keep/y"):
        (code / path).parent.mkdir(parents=True, exist_ok=True)
        (code / path).write_text("")
    (code / ".dockerignore").write_text("# data\n**/*.csv\n!keep.csv\nout\n!out/keep\n")
    assert paths(code) == {"task.py", "keep.csv", "deep", "out", "out/keep", "out/keep/y"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "sub/../../secret"])
def test_links_that_lead_out_are_refused(code: Path, target: str) -> None:
    (code / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="out of"):
        collect(code)


def test_links_within_the_folder_stay_links(code: Path) -> None:
    (code / "link.py").symlink_to("task.py")
    assert [(file.path, file.link) for file in collect(code).files] == [("link.py", "task.py"), ("task.py", None)]


def test_a_layer_is_the_same_whoever_makes_it_and_when(code: Path, tmp_path: Path) -> None:
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o700)
    (code / "large").write_bytes(os.urandom(9 << 20))
    first = write_layer(code_entries(collect(code).files, "app"), tmp_path / "1")
    copy = tmp_path / "copy"
    shutil.copytree(code, copy)
    for path in copy.rglob("*"):
        path.chmod(0o777 if path.name == "run.sh" else 0o666)
        os.utime(path, (0, 0))
    second = write_layer(reversed(code_entries(collect(copy).files, "app")), tmp_path / "2")
    assert (first.digest, first.diff_id) == (second.digest, second.diff_id)
    raw = gzip.decompress(first.file.read_bytes())
    assert (sha256(raw), sha256(first.file.read_bytes())) == (first.diff_id, first.digest)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        members = {item.name: item for item in archive}
    assert {name: oct(item.mode) for name, item in members.items()} == {
        "app/large": "0o644",
        "app/run.sh": "0o755",
        "app/task.py": "0o644",
    }
    assert {(item.uid, item.mtime) for item in members.values()} == {(0, 315532800)}


def test_paths_mean_in_the_image_what_they_mean_beside_the_job_file(tmp_path: Path) -> None:
    assert layout(tmp_path, ".").prefix == "/app"
    below = layout(tmp_path, "src")
    assert (below.prefix, below.workdir) == ("/app/src", "/app")
    above = layout(tmp_path / "jobs", "..")
    assert (above.prefix, above.workdir) == ("/app", "/app/jobs")


def test_on_a_base_with_the_trainer_the_code_alone_is_added(registry: Registry, code: Path) -> None:
    trainer_base(registry)
    said: list[str] = []
    (code / ".env").write_text("TOKEN=x")
    made = packed(registry, code, said.append)
    assert [(item.name, item.state) for item in made.layers] == [("base", "mounted"), ("code", "sent")]
    assert any(line.startswith("not packed: .env (") for line in said)
    manifest = manifest_of(registry, made)
    config = json.loads(registry.blobs["mine", manifest["config"]["digest"]])  # type: ignore[call-overload]
    assert config["config"]["WorkingDir"] == "/app"
    assert config["config"]["User"] == "1000:1000"
    assert config["config"]["Env"] == ["A=b"]
    with tarfile.open(fileobj=io.BytesIO(registry.blobs["mine", manifest["layers"][-1]["digest"]])) as archive:
        assert archive.getnames() == ["app", "app/task.py"]


def test_the_image_says_of_which_orch_its_trainer_is(
    registry: Registry, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a base without the trainer, orch adds it; what else it adds takes minutes to fetch.
    registry.image("base", "1", layers=(gzip.compress(b"\0" * 10240),))
    monkeypatch.setattr(
        "orchestrator.image.package.read_files", lambda *_, **__: BaseFiles("/usr/bin/python3.11", "", "")
    )
    for name in ("wheels_layer", "trainer_layer"):
        monkeypatch.setattr(imageparts, name, lambda *_: write_layer([ArchiveEntry("x", b"")], code.parent / "x"))
    described = describe(packed(registry, code).ref)
    assert described.labels[LABEL_TRAINER] == version("orch")
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    assert re.findall(r"^LABEL (.+)$", dockerfile, re.MULTILINE) == [f"{LABEL_TRAINER}={version('orch')}"]
    # With the trainer in the base, what the base says stays.
    labels = {LABEL_TRAINER: "0.0.9"}
    registry.image(
        "base", "1", layers=(gzip.compress(b"\0" * 10240),), config={"Entrypoint": ENTRYPOINT, "Labels": labels}
    )
    assert describe(packed(registry, code).ref).labels[LABEL_TRAINER] == "0.0.9"


def test_the_same_code_gives_the_same_image_and_sends_nothing(registry: Registry, code: Path) -> None:
    trainer_base(registry)
    first = packed(registry, code)
    os.utime(code / "task.py", (0, 0))
    second = packed(registry, code)
    assert second.ref == first.ref
    assert second.pushed_bytes == 0
    assert {item.state for item in second.layers} == {"there"}


def test_a_change_of_the_code_sends_the_layer_of_code_alone(registry: Registry, code: Path) -> None:
    trainer_base(registry)
    first = packed(registry, code)
    (code / "task.py").write_text("class Mine: pass  # changed\n")
    second = packed(registry, code)
    assert second.ref != first.ref
    assert [(item.name, item.state) for item in second.layers] == [("base", "there"), ("code", "sent")]
    assert second.pushed_bytes == second.layers[-1].size_bytes < 1000


def test_without_a_push_the_registry_is_asked_for_the_base_and_nothing_else(registry: Registry, code: Path) -> None:
    trainer_base(registry)
    (code / "job.yaml").write_text(JOB.format(address=registry.address))
    made = package(load(code / "job.yaml"), say=lambda text: None, pushes=False)
    assert not made.pushed
    assert (registry.count("PUT"), registry.count("POST")) == (0, 0)
    assert packed(registry, code).ref == made.ref


def test_a_task_that_is_left_out_is_told_before_anything_is_sent(registry: Registry, code: Path) -> None:
    trainer_base(registry)
    (code / ".dockerignore").write_text("*.py\n")
    with pytest.raises(ConfigError, match=r"task\.py does not go into the image"):
        packed(registry, code)
    assert registry.count("PUT") == 0


def test_so_is_a_script(registry: Registry, code: Path) -> None:
    trainer_base(registry)
    (code / "train.py").write_text("model.fit(x)\n")
    text = JOB.format(address=registry.address)
    train = text[text.index("train:") :].splitlines()[0]
    (code / "job.yaml").write_text(text.replace(train, "train: {script: train.py}"))
    assert package(load(code / "job.yaml"), say=lambda text: None).pushed
    whole = load(code / "job.yaml", [f"train.script={code / 'train.py'}"])
    with pytest.raises(ConfigError, match="does not go into the image") as caught:
        package(whole, say=lambda text: None)
    assert "relative to the job file" in caught.value.remedy
    (code / ".dockerignore").write_text("train.py\n")
    with pytest.raises(ConfigError, match=r"train\.script: train\.py does not go into the image"):
        package(load(code / "job.yaml"), say=lambda text: None)


def test_a_user_and_a_virtual_environment_are_what_the_dockerfile_makes() -> None:
    base = BaseFiles(
        "/usr/local/bin/python3.11", "root:x:0:0::/root:/bin/sh\nold:x:1000:1000::/:/bin/sh\n", "root:x:0:\n"
    )
    entries = {entry.path: entry for entry in imageparts.system_entries(base)}
    users = "root:x:0:0::/root:/bin/sh\ntrainer:x:1000:1000::/home/trainer:/usr/sbin/nologin\n"
    assert entries["etc/passwd"].content == users.encode()
    assert entries["etc/group"].content == b"root:x:0:\ntrainer:x:1000:\n"
    assert (entries["app"].owner, entries["home/trainer"].owner) == (1000, 1000)
    assert entries["opt/venv/bin/python3.11"] == ArchiveEntry(
        "opt/venv/bin/python3.11", link="/usr/local/bin/python3.11"
    )
    assert b"home = /usr/local/bin\n" in entries["opt/venv/pyvenv.cfg"].content  # type: ignore[operator]


def test_the_image_is_set_as_the_dockerfile_sets_it() -> None:
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    environment = environment_on({"PATH": "$PATH"})
    for name, value in environment.items():
        assert f"{name}={value}" in text
    assert f"ENTRYPOINT {json.dumps(ENTRYPOINT)}" in text


def test_the_layers_of_a_base_are_shown_as_one() -> None:
    from orchestrator.image.model import Sent

    shown = code_parts([Sent("base", 1, "there"), Sent("base", 2, "sent"), Sent("code", 3, "sent")])
    assert shown == [Sent("base", 3, "sent"), Sent("code", 3, "sent")]


@pytest.mark.parametrize(
    "program, wanted",
    [
        ("docker", [["docker", "build"], ["docker", "push", "r/a:1"]]),
        ("podman", [["podman", "build"], ["podman", "push", "--tls-verify=false", "r/a:1"]]),
        ("buildah", [["buildah", "bud"], ["buildah", "push", "--tls-verify=false", "r/a:1"]]),
    ],
)
def test_each_builder_is_called_in_its_own_words(program: str, wanted: list[list[str]]) -> None:
    built, pushed = commands(program, Context(Path("/c"), Path("/c/Dockerfile")), "r/a:1", pushes=True, plain=True)
    assert [built[:2], pushed] == wanted
    assert built[-1] == "/c"
    assert "--platform=linux/amd64" in built


def test_builders_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="docker is not installed; podman is not installed; buildah is not installed"):
        find_builder(None)
