"""Stands here until a script's fit is trained by orch: the script runs as `python train.py` runs it, and saves nothing."""

import logging
import runpy
import sys
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.process.channel import Channel
from trainer.wire.process import Phase, Start

log = logging.getLogger(__name__)


def run(channel: Channel, start: Start, config: TrainConfig, strategy: Any) -> ExitCode:
    """The script of the job as `__main__`.

    Raises:
        ConfigError: there is no such file. Whatever else the script raises.
    """
    assert config.train.script is not None
    path = (Path(config.task_root or ".") / config.train.script).resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", remedy="train.script is relative to the job file's folder.")
    channel.enter(Phase.TRAIN)
    log.warning("nothing of this script is saved: scripts are not gone on with yet")
    sys.argv = [config.train.script, *config.train.args]
    sys.path.insert(0, str(path.parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    return ExitCode.DONE
