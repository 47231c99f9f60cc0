"""The folder of compiled programs, and which processes are told of it."""

import shutil
from pathlib import Path

import pytest

from trainer.agent import compiled
from trainer.exit_codes import ExitCode, code_of_exception


def test_a_process_keeps_its_programs_beside_the_users_own_flags() -> None:
    with compiled.new_folder() as folder:
        environment = compiled.named(folder)
        cache = f"--tf_xla_persistent_cache_directory={folder} --tf_xla_persistent_cache_device_types=CPU"
        assert compiled.flags(environment) == {"TF_XLA_FLAGS": cache}
        assert compiled.flags(environment | {"TF_XLA_FLAGS": "--one"}) == {"TF_XLA_FLAGS": f"--one {cache}"}
        assert compiled.flags(environment | {"TF_XLA_FLAGS": "--tf_xla_persistent_cache_directory=/mine"}) == {}
        assert compiled.flags({}) == {}
    assert compiled.flags(environment) == {}, "the folder is gone"


def test_nothing_is_kept_where_space_is_short_or_a_flag_would_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a folder").mkdir()
    assert compiled.flags(compiled.named(str(tmp_path / "a folder"))) == {}
    total, used, _ = shutil.disk_usage(tmp_path)
    usage = type(shutil.disk_usage(tmp_path))(total, used, compiled.FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert compiled.flags(compiled.named(str(tmp_path))) == {}


@pytest.mark.tf219
def test_a_compiler_without_space_is_no_fault_of_the_task() -> None:
    errors = pytest.importorskip("tensorflow").errors
    said = "/tmp/x/xla_compile_cache__1__2__XLA_CPU_JIT.pb.tmp; No space left on device"
    full = errors.ResourceExhaustedError(None, None, said)
    assert code_of_exception(full) == ExitCode.LOST_PEER
    assert code_of_exception(errors.ResourceExhaustedError(None, None, "OOM")) == ExitCode.TASK_ERROR
