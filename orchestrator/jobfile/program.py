"""What a person should know of a script or a command before it starts, by looking at its source. Nothing here is in the way."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.jobfile.command_source import looks_for_peers, program_of
from orchestrator.jobfile.own_trainer import PACKAGE, clash, own_trainer
from orchestrator.jobfile.script_source import calls_fit, script_sources
from trainer.config import TrainSection


@dataclass(frozen=True)
class ProgramNote:
    """One of them."""

    text: str
    remedy: str


def notes_on(train: TrainSection, folder: Path, workers: int) -> list[ProgramNote]:
    """All that can be said of the program of a job.

    Args:
        folder: the job file's, in which the code lies.
        workers: how many there will be.
    """
    if train.script is not None:
        return _on_script(train.script, folder)
    return _on_command(train.command, folder, workers) if train.command is not None else []


def _on_script(script: str, folder: Path) -> list[ProgramNote]:
    if calls_fit(script_sources(script, folder)):
        return []
    return [
        ProgramNote(
            f"{script} never calls fit, and fit is what orch trains, saves and goes on with",
            f"a program that trains in its own way is a command: train: {{command: [python, {script}]}}",
        )
    ]


def _on_command(command: list[str], folder: Path, workers: int) -> list[ProgramNote]:
    program = program_of(command, folder)
    if program is None:
        return []
    sources = program.sources(folder)
    name = str(program.path.relative_to(folder)) if program.path.is_relative_to(folder) else program.path.name
    notes = []
    if not program.module and program.path.parent.resolve() != folder.resolve() and own_trainer(folder) is not None:
        found = clash(sources, folder)
        if found is not None and own_trainer(program.path.parent) is None:
            module = name.removesuffix(".py").replace("/", ".")
            notes.append(
                ProgramNote(
                    found.partition("; ")[0],
                    f"start it as a module, and your {PACKAGE} comes first: python -m {module}",
                )
            )
    if workers > 1 and not looks_for_peers(command, program, folder):
        fits = calls_fit(sources)
        together = f"train: {{script: {name}}} trains its fit on all of them together; else " if fits else ""
        notes.append(
            ProgramNote(
                f"{name} never looks at TF_CONFIG: each of the {workers} workers {'trains' if fits else 'does'} the same, alone",
                f"{together}give it one worker, or tf.distribute.MultiWorkerMirroredStrategy",
            )
        )
    return notes
