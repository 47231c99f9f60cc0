"""`orch exec` and `orch tensorboard`: looking into a job from here."""

import signal
from types import FrameType

import click

from orchestrator.cli.output import cluster_options, say


@click.command()
@click.argument("name", metavar="JOB")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.option(
    "--worker", type=click.IntRange(0), default=0, show_default=True, metavar="I", help="In this worker's pod."
)
@cluster_options
def exec(name: str, command: tuple[str, ...], worker: int, context: str | None, namespace: str | None) -> int:
    """Run a command in a worker's pod.

    In a terminal, the command gets one too. Its stdin, stdout, stderr and exit code are this one's. No shell is involved:
    COMMAND is run as it stands.

    \b
    Examples:
      orch exec digits -- nvidia-smi
      orch exec digits --worker 3 -- bash
      orch exec digits -- tar c /tmp/profile > profile.tar
    """
    from orchestrator.jobs import exec as terminal
    from orchestrator.kube.client import Cluster

    # Silent but for the command: its output may go on to another program.
    cluster = Cluster(context, namespace)
    return terminal.run(cluster, terminal.pod_of(cluster, name, worker), list(command))


@click.command()
@click.argument("target")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: 6006, or the next that is free.")
@cluster_options
def tensorboard(target: str, port: int | None, context: str | None, namespace: str | None) -> int:
    """Show the curves of a run in TensorBoard, on this machine.

    TARGET is as for `orch status`: a job of the cluster or a run directory. Each attempt is a run in TensorBoard. Events in a
    bucket are copied to a temporary folder here, again and again while this runs. Only this machine can reach the page.

    \b
    Examples:
      orch tensorboard digits
      orch tensorboard runs/digits --port 7000
    """
    from orchestrator.cli.watch import directory_of
    from orchestrator.runs import tensorboard as showing

    showing.program()
    directory, _ = directory_of(target, context, namespace)
    signal.signal(signal.SIGTERM, _leave)
    with showing.event_folder(directory, say) as folder:
        return showing.serve(folder, port, say)


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the program in order: what it started and wrote goes with it."""
    raise SystemExit(128 + number)
