"""A loop that is ready to run, and what is to be done after it: the export and the result, or the last events of a stop."""

from dataclasses import dataclass

from trainer import faults
from trainer.export.exporter import Exporter, load_line
from trainer.process.loop import Loop
from trainer.program.logs import as_numbers
from trainer.wire.process import Phase, Result

_LAST_EVENTS_S = 2.0
"""For the events after a stop, out of the grace period."""


@dataclass
class Training:
    """A loop, and what is to be done after it."""

    loop: Loop
    exporter: Exporter | None
    """The chief's."""
    patience_s: float
    """How long the export is tried while the store makes trouble."""

    def stop(self) -> None:
        """After a stop, all workers call it: what is left of the chief's events, where the store takes it at once."""
        if self.loop.tensorboard is not None:
            self.loop.tensorboard.close(_LAST_EVENTS_S)

    def finish(self) -> None:
        """Export and report, once the loop is done. All workers call it; the chief writes."""
        loop = self.loop
        loop.channel.enter(Phase.EXPORT, loop.progress.step)
        loop.saves.release_memory()
        digest = loop.state.weights_sha256()
        with loop.state.mean_unsynchronised():
            if not loop.chief:
                return
            evaluation = loop.progress.evaluation or {"metrics": {}}
            metrics = as_numbers(loop.progress.scores | evaluation["metrics"])
            assert self.exporter is not None
            exported = self.exporter.write("model", loop.progress.step, metrics, patience_s=self.patience_s)
            self.exporter.point(exported, loop.best.publish() if loop.best is not None else None)
            faults.reach("process.exported")
        if loop.tensorboard is not None:
            loop.tensorboard.close()
        loop.channel.send(
            Result(
                step=loop.progress.step,
                total_steps=loop.plan.total_steps,
                metrics=metrics,
                weights_sha256=digest,
                export=exported.url,
                load=load_line(exported),
                reason=loop.progress.finished,
            )
        )
        faults.reach("process.reported")
