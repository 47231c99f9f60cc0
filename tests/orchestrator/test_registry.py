"""Names of images, logins, and what a registry says, over real HTTP."""

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.image.credentials import Credentials
from orchestrator.image.name import is_loopback, parse_reference
from orchestrator.image.registry import (
    OCI_INDEX,
    ImageNotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnreachable,
    Repository,
    describe,
    sha256,
)
from tests.support_registry import Registry, serving
from trainer.errors import ConfigError


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry()) as running:
        yield running


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("trainer.retry.time.sleep", lambda _s: None)


def write_login(folder: Path, registry: str, user: str, password: str, **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}, **more}))


@pytest.mark.parametrize(
    "text, whole",
    [
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("acme/train", "docker.io/acme/train"),
        ("index.docker.io/acme/train", "docker.io/acme/train"),
        ("localhost/train", "localhost/train"),
        ("127.0.0.1:5000/a/b_c:1.0", "127.0.0.1:5000/a/b_c:1.0"),
        ("us-docker.pkg.dev/acme/train/digits", "us-docker.pkg.dev/acme/train/digits"),
        ("ghcr.io/a/b:v1@sha256:" + "0" * 64, "ghcr.io/a/b:v1@sha256:" + "0" * 64),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole


@pytest.mark.parametrize(
    "text", ["Python", "a//b", "x/y:", "x@sha256:12", "a b", "host:port/x", "-x/y", "x:" + "t" * 129]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no name of an image"):
        parse_reference(text)


def test_plain_http_is_for_this_machine_alone() -> None:
    assert all(map(is_loopback, ("localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]:5000")))
    assert not any(map(is_loopback, ("localhost.example.org", "registry:5000", "10.0.0.1:5000", "127.0.0.1.nip.io")))


def test_an_image_is_described_with_what_a_node_will_pull(registry: Registry) -> None:
    name = registry.image(
        "a/b", "1", layers=(b"12345", b"678"), config={"Labels": {"k": "v"}, "Entrypoint": ["python"]}
    )
    info = describe(f"{registry.address}/a/b:1")
    assert name.endswith(info.digest)
    assert (info.platforms, info.size_bytes, info.labels) == (("linux/amd64",), 8, {"k": "v"})
    assert info.entrypoint == ("python",)
    assert describe(name) == info


def test_an_index_is_described_by_its_platforms_and_the_size_of_the_one_asked_for(registry: Registry) -> None:
    entries = []
    for architecture, layer in (("arm64", b"123"), ("amd64", b"12345"), ("unknown", b"attestation")):
        digest = registry.image("a/b", architecture, layers=(layer,), architecture=architecture).partition("@")[2]
        system = "unknown" if architecture == "unknown" else "linux"
        entries.append({"digest": digest, "platform": {"os": system, "architecture": architecture}})
    raw = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    registry.manifest("a/b", "all", raw, OCI_INDEX)
    info = describe(f"{registry.address}/a/b:all")
    assert (info.digest, info.platforms, info.size_bytes) == (sha256(raw), ("linux/arm64", "linux/amd64"), 5)
    assert describe(f"{registry.address}/a/b:all", platform="linux/arm64").size_bytes == 3


def test_an_image_that_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(ImageNotFound, match=r"there is no 127\.0\.0\.1:\d+/a/b:2 in its registry"):
        describe(f"{registry.address}/a/b:2")


def test_a_registry_that_does_not_answer_is_told_apart(registry: Registry) -> None:
    registry.troubles += [("GET", "/manifests/", 503)] * 10
    with pytest.raises(RegistryUnreachable, match="503"):
        describe(f"{registry.address}/a/b:1")
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1:1 does not answer: .*refused"):
        describe("127.0.0.1:1/a/b:1")


def test_bytes_that_are_not_those_of_the_digest_are_refused(registry: Registry) -> None:
    repository, _, digest = registry.image("a/b").partition("/")[2].partition("@")
    registry.manifests[repository, digest] = ("application/vnd.oci.image.manifest.v1+json", b"{}")
    with pytest.raises(RegistryError, match="other bytes"):
        describe(f"{registry.address}/a/b@{digest}")


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_the_login_of_docker_opens_a_registry(scheme: str, tmp_path: Path) -> None:
    with serving(Registry(login=("ada", "s3cret"), scheme=scheme)) as registry:
        registry.image("a/b")
        with pytest.raises(RegistryDenied, match="without credentials") as refused:
            describe(f"{registry.address}/a/b")
        assert f"docker login {registry.address}" in refused.value.remedy
        write_login(tmp_path / "docker", registry.address, "ada", "wrong")
        with pytest.raises(RegistryDenied) as refused:
            describe(f"{registry.address}/a/b")
        assert "wrong" not in str(refused.value)
        write_login(tmp_path / "docker", registry.address, "ada", "s3cret")
        assert describe(f"{registry.address}/a/b").platforms == ("linux/amd64",)
        if scheme == "Bearer":
            assert set(registry.scopes) == {"repository:a/b:pull"}


def test_a_credential_helper_is_called_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin" / "docker-credential-tests"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\": \\"ada\\", \\"Secret\\": \\"s3cret\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(helper.parent), prepend=os.pathsep)
    with serving(Registry(login=("ada", "s3cret"))) as registry:
        registry.image("a/b")
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"credHelpers": {registry.address: "tests"}}))
        assert describe(f"{registry.address}/a/b").platforms == ("linux/amd64",)
        helper.write_text("#!/bin/sh\necho no session; exit 1\n")
        with pytest.raises(ConfigError, match=r"credentials for .* cannot be read"):
            describe(f"{registry.address}/a/b")


def test_the_login_of_podman_counts_also_for_a_part_of_a_registry(tmp_path: Path) -> None:
    with serving(Registry(login=("ada", "s3cret"))) as registry:
        registry.image("team/b")
        folder = tmp_path / "config" / "containers"
        write_login(folder, f"{registry.address}/team", "ada", "s3cret")
        (folder / "config.json").rename(folder / "auth.json")
        assert describe(f"{registry.address}/team/b").platforms == ("linux/amd64",)


def test_no_secret_is_in_what_is_printed_of_credentials() -> None:
    assert "s3cret" not in repr(Credentials("ada", "s3cret", "s3cret"))


def test_credentials_that_cannot_be_read_are_not_quoted(tmp_path: Path) -> None:
    with serving(Registry(login=("ada", "s3cret"))) as registry:
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": "s3cret!"}}}))
        with pytest.raises(ConfigError, match=r"config\.json") as error:
            describe(f"{registry.address}/a/b")
        assert "s3cret" not in str(error.value)


def push(registry: Registry, data: bytes) -> list[int]:
    sent: list[int] = []
    with Repository(parse_reference(f"{registry.address}/mine"), writes=True) as repository:
        repository.upload(sha256(data), len(data), lambda: contextlib.closing(io.BytesIO(data)), sent.append)
    return sent


@pytest.mark.parametrize("status", [0, 429, 500, 503])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_upload_that_breaks_off_is_sent_again_whole(registry: Registry, method: str, status: int) -> None:
    data = os.urandom(3 << 20)
    registry.troubles += [(method, "/uploads/", status)] * 2
    assert push(registry, data)[-1] == len(data)
    assert registry.blobs["mine", sha256(data)] == data
    assert registry.count(f"{method} /v2/mine/blobs/uploads/") == 3


def test_an_upload_that_is_refused_is_not_tried_again(registry: Registry) -> None:
    registry.troubles.append(("PUT", "/uploads/", 400))
    with pytest.raises(RegistryError, match="400"):
        push(registry, b"x")
    assert registry.count("PUT") == 1


def test_a_blob_of_another_repository_is_mounted_and_not_sent(tmp_path: Path) -> None:
    with serving(Registry(login=("ada", "s3cret"))) as registry:
        write_login(tmp_path / "docker", registry.address, "ada", "s3cret")
        digest = registry.blob("base", b"layer")
        with Repository(parse_reference(f"{registry.address}/mine"), writes=True) as repository:
            assert not repository.has_blob(digest)
            assert repository.mount(digest, parse_reference(f"{registry.address}/base"))
            assert repository.has_blob(digest)
            assert not repository.mount(sha256(b"nowhere"), parse_reference(f"{registry.address}/base"))
        assert registry.count("PUT") == 0
        assert set(registry.scopes) == {"repository:mine:pull,push", "repository:base:pull"}
