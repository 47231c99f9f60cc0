"""Which worker am I, and who are the others: from the environment to an identity, from an attempt's members to TF_CONFIG.

Free of TensorFlow. The variables are listed in docs/architecture.md.
"""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import ConfigError
from trainer.rundir.attempts import Member


@dataclass(frozen=True)
class Identity:
    """One agent's place in the job, for as long as it lives."""

    index: int
    uid: str
    launch: str
    coordinator: tuple[str, int]
    """Host and port of worker 0's agent."""
    address: str
    """Where peers reach this worker."""
    port: int
    """The port of this agent's HTTP server."""
    token: str
    node: str
    fresh: bool
    """The first attempt of this launch starts from nothing."""


def identity(environment: Mapping[str, str] = os.environ) -> Identity:
    """This agent's identity, from the environment.

    Raises:
        ConfigError: a variable is missing or makes no sense.
    """
    index = _number(environment, "ORCH_INDEX", "JOB_COMPLETION_INDEX")
    if environment.get("ORCH_GROUP"):
        # In a JobSet the index counts within the group: the groups before this one hold the workers before these.
        index += _number(environment, "ORCH_GROUP") * _number(environment, "ORCH_GROUP_WORKERS")
    host, _, port = _required(environment, "ORCH_COORDINATOR").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f'ORCH_COORDINATOR is "{environment["ORCH_COORDINATOR"]}", not host:port')
    token_file = _required(environment, "ORCH_TOKEN_FILE")
    try:
        with open(token_file, encoding="ascii") as file:
            token = file.read().strip()
    except OSError as error:
        raise ConfigError(f"the token of the agents cannot be read: {error}") from None
    return Identity(
        index=index,
        uid=environment.get("ORCH_UID") or secrets.token_hex(8),
        launch=_required(environment, "ORCH_LAUNCH"),
        coordinator=(host, int(port)),
        address=_required(environment, "ORCH_ADDRESS"),
        port=int(environment.get("ORCH_PORT", "8471")),
        token=token,
        node=environment.get("ORCH_NODE") or socket.gethostname(),
        fresh=environment.get("ORCH_FRESH") == "1",
    )


def _number(environment: Mapping[str, str], *names: str) -> int:
    text = _required(environment, *names)
    if not text.isdecimal():
        raise ConfigError(f'{names[0]} is "{text}", not a number')
    return int(text)


def _required(environment: Mapping[str, str], *names: str) -> str:
    for name in names:
        if environment.get(name):
            return environment[name]
    raise ConfigError(f"{names[0]} is not set", remedy="Agents are started by `orch run` or by the rendered Job.")


def tf_config(members: list[Member], index: int) -> str | None:
    """TF_CONFIG for worker `index`, or None when it is the only one.

    Every worker has the type "worker"; TensorFlow takes index 0 for the chief.
    """
    if len(members) < 2:
        return None
    workers = [f"{member.address}:{member.port}" for member in sorted(members, key=lambda member: member.index)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
