"""An agent from its environment: its configuration, its log, its exit code."""

import logging
import os
import sys
from collections.abc import Mapping

from trainer.agent.main import Agent
from trainer.cluster import identity
from trainer.config import TrainConfig
from trainer.errors import OrchError
from trainer.exit_codes import ExitCode
from trainer.lifeline import die_with_parent
from trainer.wire.termination import UNREAD_CONFIG


class _LogHandler(logging.Handler):
    """The agent's own lines go where its processes' lines go."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    def emit(self, record: logging.LogRecord) -> None:
        line = (self.format(record) + "\n").encode(errors="replace")
        self._agent.write_log(line)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run an agent as the environment says; returns its exit code."""
    die_with_parent()
    try:
        who = identity(environment)
        path = environment.get("ORCH_CONFIG", "")
        agent = Agent(who, TrainConfig.load(path), path, environment)
    except OrchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (OSError, ValueError) as error:
        print(f"error: {UNREAD_CONFIG}: {error}", file=sys.stderr)
        return ExitCode.CONFIGURATION
    handler = _LogHandler(agent)
    handler.setFormatter(logging.Formatter(f"worker={who.index} %(levelname)s %(message)s"))
    level = environment.get("LOG_LEVEL", "info").upper()
    logging.basicConfig(level=level if level in logging.getLevelNamesMapping() else "INFO", handlers=[handler])
    for noisy in ("google", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return agent.run()
