"""The outer loop: run a block, agree, evaluate, save, stop? All deciding is in plan.py, all computing in steps.py.

Every worker goes through the same turns. What may differ between them (clocks, stop requests, answers of the writer) enters
only through `agree`.
"""

import logging
import time
from dataclasses import dataclass

from trainer import faults
from trainer.callbacks.hooks import Hooks
from trainer.checkpoint.state import TrainingState
from trainer.process.best import Best
from trainer.process.channel import Channel
from trainer.process.collective import Collective, Decision, data_differ
from trainer.process.evaluate import Evaluator
from trainer.process.plan import EarlyStopping, Pace, Plan, Progress
from trainer.process.saves import Saves
from trainer.process.tensorboard import TensorBoard
from trainer.program.logs import as_numbers
from trainer.program.steps import CompiledBlock
from trainer.wire.process import Block, Evaluated, Phase

log = logging.getLogger(__name__)

_CHIEFS_CALLBACK = "the chief's callback ended training"


@dataclass
class Loop:
    """Trains from `progress.step` to the end of the plan, or to a stop.

    Every worker has one. All arguments but `tensorboard` and `chief` are alike on all workers, and refer to the same model.
    """

    plan: Plan
    """The steps at which a block must end, and the last one."""
    pace: Pace
    """How long blocks are in between. It is told how long each took; the chief's answer counts."""
    block: CompiledBlock
    """Trains a number of steps in one call. Compiled before: the first call is no longer than others."""
    evaluator: Evaluator | None
    """Evaluates the model of `block`. None: the task has no evaluation_data, and `plan.evaluate_every` counts for nothing;
    `early` and `best`, which follow an evaluation, must then be None too."""
    state: TrainingState
    """All variables that a checkpoint holds. `saves` copies the same ones."""
    saves: Saves
    """Copies `state` for the writer when a save is due, one at a time. On the chief it knows what became of each."""
    collective: Collective
    """By it the workers agree between two blocks; all of them call it in the same order. Alone it answers at once."""
    hooks: Hooks
    """The task's callbacks; of a task that has none, an object that calls nothing."""
    early: EarlyStopping | None
    """Ends training by train.stop_when. None: training goes to its last step, unless a callback ends it."""
    best: Best | None
    """Hears of each evaluation, and keeps the best model by export.best. None: only the last model is exported."""
    channel: Channel
    """The way to this worker's agent: it is told phases, blocks and evaluations, and may ask training to stop."""
    tensorboard: TensorBoard | None
    """Takes the curves. The chief's; None on all other workers."""
    chief: bool
    """Whether this is worker 0, whose word counts for all but a stop."""
    progress: Progress
    """Where training begins, and from then on where it is: restored from a checkpoint, or as new."""
    stop_at_nan: bool = True
    """Whether a loss that is no finite number raises TaskError; False: the first one is told in the log, and training goes
    on."""

    _warned: bool = False
    _labels: int = 0
    """Checksum of the labels of the last block."""

    def run(self) -> bool:
        """Train. All workers call it, once.

        Returns:
            True when training is done, evaluated and saved; False when it was stopped, its state handed to the writer.

        Raises:
            ConfigError: the workers read different data.
            TaskError: the loss is no finite number, or a callback gives training up for that.
            SaveRefused: the last save failed for good.
            Superseded: a later attempt has begun.
            What the task's own code raises goes through.
        """
        at = self.progress
        self.hooks.begin()
        while True:
            turn = self.collective.agree(self._proposal(), chief=self.chief)
            if not turn.same_labels:
                raise data_differ("train_data()", f" up to step {at.step}")
            if turn.finish and at.step < self.plan.total_steps and not at.finished:
                at.finished = self.hooks.stop_reason or _CHIEFS_CALLBACK
            if turn.evaluate:
                if turn.stop:
                    return self._stop()  # callbacks are to see the evaluation, which the next start makes
                if not self._evaluate():
                    continue  # one of us is to stop: the next turn agrees on it
            ended = self.hooks.block_done(at.step, at.validation, done=turn.finish)
            finish = turn.finish or self._ends_early(evaluated=turn.evaluate, epoch_ended=ended)
            if turn.stop:
                return self._stop()
            if finish:
                return self._complete()
            if turn.save:
                self.saves.save(at.step, "interval")
            self._train(turn.next_steps)

    def _proposal(self) -> Decision:
        """What this worker would do now; of all but the chief, only `stop` counts."""
        at, plan = self.progress, self.plan
        stop = self.channel.stop_reason is not None
        done = at.step >= plan.total_steps or bool(at.finished or self.hooks.stop_reason)
        evaluation_due = self.evaluator is not None and (done or plan.evaluate_at(at.step)) and at.validation is None
        if not self.chief or done:
            return Decision(stop=stop, evaluate=evaluation_due, finish=done, labels=self._labels)
        return Decision(
            stop=stop,
            next_steps=1 if self.hooks.every_batch else self.pace.next_steps(plan.steps_until_cut(at.step)),
            save=self.saves.due(at.step, by_steps=plan.save_at(at.step)),
            evaluate=evaluation_due,
            labels=self._labels,
        )

    def _train(self, steps: int) -> None:
        at = self.progress
        self.channel.enter(Phase.TRAIN, at.step)
        self.hooks.batch_begin(at.step)
        began = time.monotonic()
        trained = self.block.run(at.step, steps)
        seconds = time.monotonic() - began
        if trained.not_finite_after is not None:
            self._not_finite(at.step + trained.not_finite_after + 1)
        at.step += trained.steps
        at.scores = trained.scores
        self._labels = trained.labels
        self.pace.observe(trained.steps, seconds)
        numbers = as_numbers(at.scores)
        done = Block(
            step=at.step,
            steps=trained.steps,
            seconds=seconds,
            total_steps=self.plan.total_steps,
            epoch=self.plan.calendar.epoch_of(at.step),
            replicas=self.block.replicas,
            metrics=numbers,
        )
        self.channel.send(done, droppable=True)
        if self.tensorboard is not None:
            self.tensorboard.scalars(at.step, numbers | {"steps_per_second": trained.steps / max(seconds, 1e-9)})
        self.hooks.batch_end(at.step, at.scores)
        faults.reach("process.block")

    def _not_finite(self, step: int) -> None:
        """The loss of `step` (from 1) is no finite number."""
        if self.stop_at_nan:
            raise self.saves.diverged(f"the loss of step {step} is not a finite number")
        if not self._warned:
            self._warned = True
            log.warning("the loss is not a finite number step=%d; going on, as train.on_nan says", step)

    def _evaluate(self, *, told: bool = True) -> bool:
        """Whether it came to its end: a stop cuts it short. `told`: callbacks and stop_when hear of it."""
        assert self.evaluator is not None
        at = self.progress
        self.channel.enter(Phase.EVALUATE, at.step)
        if told:
            self.hooks.test_begin()
        whole = told and self.hooks.whole_evaluations
        with self.state.mean_unsynchronised():
            result = self.evaluator.run(
                lambda: self.channel.stop_reason is not None and not whole,
                chief=self.chief,
                hooks=self.hooks if told else None,
            )
            if result is None:
                return False
            numbers = as_numbers(result.scores)
            if self.best is not None:
                self.channel.enter(Phase.EXPORT, at.step)
                self.best.observe(at.step, numbers, final=not told)
        if told:
            self.hooks.test_end({name.removeprefix("val_"): value for name, value in result.scores.items()})
        at.evaluation = {"step": at.step, "metrics": result.scores}
        if told and self.early is not None:
            self.early.observe(numbers[self.early.rule.metric])
        self.channel.send(Evaluated(step=at.step, examples=result.examples, seconds=result.seconds, metrics=numbers))
        if self.tensorboard is not None:
            self.tensorboard.scalars(at.step, numbers)
        faults.reach("process.evaluated")
        return True

    def _ends_early(self, *, evaluated: bool, epoch_ended: bool) -> bool:
        """Whether stop_when or a callback ends training here: the chief's word, asked where either may have one."""
        if not epoch_ended and not (evaluated and (self.early is not None or self.hooks.active)):
            return False
        reason = self.early.reason if self.early is not None and self.early.exhausted else self.hooks.stop_reason
        ends = self.collective.agree(Decision(finish=bool(reason)), chief=self.chief).finish
        if ends and not self.progress.finished:
            self.progress.finished = reason or _CHIEFS_CALLBACK
        return ends

    def _stop(self) -> bool:
        at = self.progress
        log.info("stopping step=%d reason=%s", at.step, self.channel.stop_reason or "another worker was asked to stop")
        unsaved = self.chief and not self.saves.is_handed_over(at.step)
        if self.collective.agree(Decision(save=unsaved), chief=self.chief).save:
            self.saves.save(at.step, "stop")
        return False

    def _complete(self) -> bool:
        at = self.progress
        if self.evaluator is not None and at.validation is None and not self._evaluate():
            return self._stop()
        self.hooks.block_done(at.step, at.validation, done=True)
        self.hooks.check_finite(at.step)
        self.channel.enter(Phase.SAVE, at.step, "last")
        unsaved = self.chief and not self.saves.is_saved(at.step)
        if self.collective.agree(Decision(save=unsaved), chief=self.chief).save:
            self.saves.save(at.step, "last")
        if self.chief:
            self.saves.wait_committed(at.step)
        faults.reach("process.last-saved")
        return self._end_hooks()

    def _end_hooks(self) -> bool:
        """The end of training for callbacks and optimizer. False where a stop cuts the evaluation within short.

        What was saved is what more steps would go on from. What is exported may be other weights (the best ones, averages),
        and then what is reported is an evaluation of these.
        """
        may_change = self.hooks.ends_with_other_weights and self.evaluator is not None
        before = self.state.weights_sha256() if may_change else ""
        self.hooks.end()
        if not before or self.state.weights_sha256() == before:
            return True
        return self._evaluate(told=False)
