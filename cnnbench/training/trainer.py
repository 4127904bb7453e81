"""One process's work on one run: drives the loop, logs, evaluates, saves, stops, resumes."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console as RichConsole

from cnnbench.config.run_config import to_tree
from cnnbench.data.splits import Splits
from cnnbench.device.device import effective_settings, synchronize
from cnnbench.device.machine import describe_machine
from cnnbench.engine import Progress, Step, TrainState, profiled
from cnnbench.engine.finite import check_loss, check_weights
from cnnbench.errors import Interrupted
from cnnbench.metrics import ConfusionMatrix, CurveCounts, Scores
from cnnbench.notices import guarded, warn
from cnnbench.runs.directory import RunDir
from cnnbench.runs.predictions import Outputs
from cnnbench.runs.provenance import check_same_data, provenance, resume_warning
from cnnbench.runs.record import PRUNED, DataRecord, RunRecord, Status
from cnnbench.tracking import Console, TensorBoard, Trackers, format_seconds
from cnnbench.training import display, estimates
from cnnbench.training.clock import Clock
from cnnbench.training.data import data_fingerprint
from cnnbench.training.display import log_step
from cnnbench.training.distributed import resume_command
from cnnbench.training.kernels import recorded_ways
from cnnbench.training.network import build_model, first_weights
from cnnbench.training.restore import SharedCheckpoints, epoch_name, restore
from cnnbench.training.setup import Plan, Setup, as_before, precision_warning, set_up
from cnnbench.training.stop import StopRequest

# With more classes, their pairs would be most of run.json.
_MAX_RECORDED_CLASSES = 200
# TensorBoard's profile page knows traces by this ending.
TRACE = "steps.pt.trace.json.gz"


class Training:
    """One process's work on one run.

    Args:
        plan: of the run's config.
        data: as ``launch.read`` read it for the plan.
        run: locked by the caller.
        command: the command line, for the record.
        stop: asked after every step and evaluated batch.

    Attributes:
        setup: what trains; from the beginning of ``train`` on.
        progress: what is remembered from checkpoint to checkpoint.
        beside: tells which other jobs ran on this machine in the meantime.
        is_pruned: tells whether a search gave the run up; asked after each epoch.
    """

    setup: Setup
    beside: Callable[[], Sequence[str]] = tuple
    is_pruned: Callable[[], bool] = bool
    ended_by: str | None = None

    def __init__(
        self, plan: Plan, data: Splits, run: RunDir, command: Sequence[str], stop: StopRequest
    ) -> None:
        before = run.record if run.has_record else None
        if before is not None:
            check_same_data(before, sha256=data.sha256, source=data.source)
            plan = as_before(plan, before)
        self.plan, self.data, self.run, self.stop = plan, data, run, stop
        self.config, self.network, self.command = plan.config, plan.network, list(command)
        self.effective = {
            **effective_settings(plan.device),
            "precision": plan.precision.name,
            "channels_last": plan.channels_last,
            "winograd": plan.winograd,
            "world_size": plan.world.size,
        }
        self.screen = Console(RichConsole(file=guarded(sys.stdout)))
        self.clock = Clock(stop)
        self.checkpoints = SharedCheckpoints(run.checkpoints, plan.world)
        self.progress = Progress()
        self.saved_at: tuple[int, int] | None = None
        config = plan.config
        self.earlier_test_reads = before.test_reads if before is not None else 0
        # A count is kept where the run is resumed; what it counted is measured again.
        reads = {"test_reads": self.earlier_test_reads} if self.earlier_test_reads else {}
        self.results: dict[str, Any] = reads
        self.confusion: tuple[tuple[int, ...], ...] | None = None
        self.trackers = Trackers()
        self.tensorboard: TensorBoard | None = None
        self.provenance = provenance(
            before,
            config,
            command=self.command,
            data_fingerprint=data_fingerprint(config),
            machine=describe_machine(),
            effective=self.effective,
        )

    @property
    def state(self) -> TrainState:
        """What training changes."""
        return self.setup.state

    def _prepare(self) -> None:
        """Build what is trained, take over the newest checkpoint, and open the files."""
        config, run = self.config, self.run
        run.write_config(to_tree(config))
        warnings = (*self.data.warnings, precision_warning(self.plan))
        for message in filter(None, (*warnings, resume_warning(self.provenance))):
            warn(message)
        model = build_model(config, network := self.network)
        if not run.has_checkpoints and (note := first_weights(model, config, network, self.data)):
            self.screen.print(note)
        self.setup = set_up(self.plan, self.data, model, recorded_ways(self.provenance))
        if ways := dict(self.setup.kernel_ways):
            self.provenance = self.provenance.noting(effective={**self.effective, "kernels": ways})
            self.write_record("running")
        progress = restore(self.checkpoints, self.state)
        if progress is not None:
            self.progress = progress
            self.setup.num_steps = progress.num_steps or self.setup.num_steps
            self.saved_at = self._position()
            self.screen.print(
                f"resumed after epoch {self.state.epoch}, step {self.state.global_step}, "
                f"in {run.path}"
            )
        is_open = self.state.epoch > self.progress.ended_epoch
        self.trackers, self.tensorboard = display.open_trackers(
            run, self.plan, self.state.global_step, is_epoch_open=is_open, warn=warn
        )

    def train(self) -> None:
        """Train the epochs that are left, then test."""
        self._prepare()
        self._fix_steps()
        if self.state.global_step == 0:
            display.introduce(self.setup, self.effective, self.run, self.screen, self.trackers)
        if self.state.epoch > self.progress.ended_epoch:
            self._end_epoch()  # stopped while it was being evaluated
        if self.config.device.compile:
            self._compile()
        self._start_epoch()
        for step in () if self._is_over() else self._steps():
            self.clock.step()
            log_step(
                step, self.state, self.screen, self.trackers, every=self.config.log_every_steps
            )
            if step.ends_epoch:
                synchronize(self.plan.device)
                self._count_seconds()
                self._show_histograms()
                self._end_epoch()
                if self._is_over():
                    break
                self._start_epoch()
            elif self._is_save_due():
                self._count_seconds()
                self._save(f"step_{self.state.global_step:08d}")
            self._stop_if_asked()
        self._finish()

    def _fix_steps(self) -> None:
        """Turn a budget of seconds into a number of steps, once in the life of a run."""
        seconds = self.config.budget.seconds
        if seconds is not None and not self.progress.num_steps:
            self.progress.num_steps = estimates.affordable_steps(self.setup, seconds)
            self.setup.num_steps = self.progress.num_steps

    def _is_over(self) -> bool:
        """Return whether the run ends before its last epoch, for want of a better one."""
        patience, ended = self.config.patience, self.progress.ended_epoch
        can_end = self.progress.best_epoch > 0 and ended < self.setup.num_epochs
        if can_end and self.is_pruned():
            self.ended_by = PRUNED
            return True
        # An epoch that was not evaluated might have been the better one.
        is_evaluated = ended > 0 and ended % self.config.eval_every_epochs == 0
        return (
            patience is not None and is_evaluated and ended - self.progress.best_epoch >= patience
        )

    def _compile(self) -> None:
        seconds = self.setup.compile()
        self.screen.print(f"compiling took {seconds:.1f} s, which no epoch's time includes")
        self.provenance = self.provenance.noting(compile_seconds=seconds)
        self.write_record("running")

    def _steps(self) -> Iterator[Step]:
        steps, count = self.setup.steps(), self.config.profile_steps
        if count is None or not self.run.writes:
            return steps
        return profiled(steps, self.run.path / TRACE, count, self.plan.device, self.screen.print)

    def _start_epoch(self) -> None:
        state, num_epochs, num_steps = self.state, self.setup.num_epochs, self.data.steps_per_epoch
        if state.epoch < num_epochs:
            self.screen.start_bar(state.epoch + 1, num_epochs, num_steps, step=state.epoch_step)
        self.clock.restart()

    def _count_seconds(self) -> None:
        seconds = self.clock.read()
        self.progress.epoch_seconds += seconds
        self.progress.data_seconds += min(seconds, self.setup.data_clock.read())
        self.progress.train_seconds += seconds

    def _show_histograms(self) -> None:
        every, state = self.config.histograms_every_epochs, self.state
        if self.tensorboard is not None and every is not None and state.epoch % every == 0:
            self.tensorboard.histograms(display.histograms(state.model), state.global_step)

    def _is_save_due(self) -> bool:
        every = self.config.save_every_steps
        return every is not None and self.state.global_step % every == 0

    def _end_epoch(self) -> None:
        """Evaluate, log and save the epoch that was just trained."""
        config, state, progress = self.config, self.state, self.progress
        self.plan.world.collect(state.sums)
        train, seconds = state.sums.read(), progress.epoch_seconds
        rate = train.count / seconds if seconds else 0.0
        values = {
            **train.named("train"),
            "perf/images_per_second": rate,
            "perf/epoch_seconds": seconds,
            "perf/data_seconds": progress.data_seconds,
        }
        started = time.perf_counter()
        # So was the last one before extend_epochs, whatever eval_every_epochs says: that stays.
        is_last = state.epoch == self.setup.num_epochs
        is_evaluated = is_last or state.epoch % config.eval_every_epochs == 0
        val = self._evaluate("val") if is_evaluated and self.data.num_val else None
        val_values = val.named("val") if val else {}
        values |= val_values
        value = self._selection_value(val, is_evaluated, values)
        is_best = value is not None and value > progress.best_value
        if value is not None and is_best:
            progress.best_value, progress.best_epoch = value, state.epoch
            progress.best_val = val_values
        if state.epoch == 1:
            # Not before: tracing takes a second, in which nobody would see training begin;
            # nor before the epoch is evaluated, which a stop would make a resumed run repeat.
            self.trackers.graph(state.model, self.setup.example(), state.global_step)
        self.trackers.scalars({"epoch": state.epoch, **values}, state.global_step)
        progress.ended_epoch, progress.epoch_seconds, progress.data_seconds = state.epoch, 0.0, 0.0
        self._save(epoch_name(state.epoch), is_best=is_best)
        self.screen.epoch(
            state.epoch,
            self.setup.num_epochs,
            train=train,
            val=val,
            seconds=seconds + time.perf_counter() - started,
            images_per_second=rate,
        )

    def _selection_value(
        self, val: Scores | None, is_evaluated: bool, values: dict[str, float]
    ) -> float | None:
        """Return what this epoch is selected by; None where it is no candidate."""
        if self.config.selection == "last":
            return float(self.state.epoch)
        if self.config.selection == "val/accuracy":
            return val.accuracy if val is not None else None
        if self.config.selection == "val/loss":
            return -val.loss if val is not None else None
        if not is_evaluated:
            return None
        test = self._evaluate("test")
        self.progress.test_reads += 1
        values |= test.named("test")
        return test.metrics[self.plan.loss.metric]

    def _evaluate(self, split: str, *counted: ConfusionMatrix | CurveCounts | Outputs) -> Scores:
        """Return the exact scores of the current weights on a split, and fill what else counts."""
        sums = self.setup.sums()
        batches = self.setup.evaluate(split, sums)
        for logits, targets in self.screen.counted(batches, split, len(self.data.parts[split])):
            for counts in counted:
                counts.add(logits, targets)
            self._stop_if_asked()
        scores = sums.read()
        check_loss(self.state, split, scores.loss)
        return scores

    def _stop_if_asked(self) -> None:
        reason = self.stop.reason()
        if reason is None:
            return
        if self.saved_at != self._position():
            if self.state.epoch_step:
                self._count_seconds()
            self._save(f"step_{self.state.global_step:08d}")
        raise Interrupted(
            f"{reason} after epoch {self.state.epoch}, step {self.state.global_step}; the state is "
            f"saved. Resume with:\n{resume_command(self.run.path)}",
            self.stop.signum,
            self.run.path,
        )

    def _position(self) -> tuple[int, int]:
        """Return what tells one state worth saving from another."""
        return self.state.global_step, self.progress.ended_epoch

    def _save(self, name: str, *, is_best: bool = False) -> None:
        check_weights(self.state)
        self.plan.world.collect(self.state.sums)
        self.trackers.flush()  # a run resumed from here finds its numbers up to here
        self.checkpoints.save(
            name,
            {
                "model": self.state.evaluated_model.state_dict(),
                "network": self.network.to_dict(),
                "loss": self.config.loss.name,
                **self.data.preprocessing(),
            },
            {
                "train_state": self.state.state_dict(),
                "progress": dataclasses.asdict(self.progress),
            },
            epoch=self.state.epoch,
            global_step=self.state.global_step,
            is_best=is_best,
            keep_last=self.config.checkpoint.keep_last,
        )
        self.saved_at = self._position()

    def _finish(self) -> None:
        """Write the results: of the selected epoch, with one reading of the test set or fold."""
        self.screen.stop_bar()
        progress, config, step = self.progress, self.config, self.state.global_step
        self.state.evaluated_model.load_state_dict(self.checkpoints.load("best")["model"])
        progress.test_reads = max(progress.test_reads, self.earlier_test_reads)
        split = self.data.measured
        test = self._test(split) if config.evaluate_test or split == "val" else None
        self.results = {
            **(dict(reversed(test.named(split).items())) if test else {}),
            **progress.best_val,
            "best_epoch": progress.best_epoch,
            "train_seconds": progress.train_seconds,
            "train_tflop": self.setup.tflop(step),
            "selection": config.selection,
            "test_reads": progress.test_reads,
            **{f"tuning_{key}": value for key, value in vars(config.tuning).items() if value},
        }
        if self.tensorboard is not None:
            display.show_results(self.tensorboard, self.results, self.network.num_params, step)
        self.trackers.flush()
        self.write_record("done", self.ended_by)
        self.screen.print(
            f"{f'{split} {test.text(4)}' if test else 'the test images stay unread:'} "
            f"with epoch {progress.best_epoch}'s weights, selected on {config.selection}; "
            f"trained for {format_seconds(progress.train_seconds)}"
        )

    def _test(self, split: str) -> Scores:
        """Read the test set, or the fold that stands for it, and keep what was predicted."""
        counted, outputs, num_classes = None, Outputs(), self.data.num_classes
        if not self.plan.loss.is_number:
            device = self.plan.device
            counted = ConfusionMatrix(num_classes, device), CurveCounts(num_classes, device)
        test = self._evaluate(split, *((*counted, outputs) if counted else ()))
        if split == "test":  # of a fold that validates, the epoch's numbers are there already
            self.progress.test_reads += 1
            step = self.state.global_step
            self.trackers.scalars({"epoch": self.progress.best_epoch, **test.named(split)}, step)
            if counted is not None and num_classes <= _MAX_RECORDED_CLASSES:
                self.confusion = tuple(map(tuple, counted[0].read().tolist()))
            if self.tensorboard is not None and counted is not None:
                display.show_test(self.tensorboard, *counted, self.data.class_names, step)
        if self.run.writes:
            outputs.write(self.run.path, self.data.measured_sha256)
        return test

    def write_record(self, status: Status, reason: str | None = None) -> None:
        """Replace ``run.json``, and tell TensorBoard how the run ended."""
        if self.tensorboard is not None and status != "running":
            self.tensorboard.session_end(status, self.state.global_step)
        self.provenance = self.provenance.noting(beside=tuple(self.beside()))
        record = RunRecord(
            status=status,
            reason=reason,
            config=to_tree(self.config),
            command=tuple(self.command),
            seed=self.config.seed,
            data=DataRecord.of(self.data.record()),
            model=self.network.to_dict(),
            results=self.results,
            test_confusion=self.confusion,
            provenance=self.provenance,
        )
        self.run.write_record(record)

    def close(self) -> None:
        """Take the bar off the screen and close the files."""
        self.screen.stop_bar()
        self.trackers.close()
