"""One process's work on one run: drives the loop, logs, saves, stops, goes on."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console as RichConsole
from torch import nn

from cnnbench.config.run_config import RunConfig, to_tree
from cnnbench.device.device import (
    autocast,
    configure,
    resolve_device,
    resolve_precision,
    synchronize,
)
from cnnbench.engine import Step, evaluate, profiled
from cnnbench.engine.finite import check_loss, check_step, check_weights
from cnnbench.engine.loop import ComputeLoss
from cnnbench.errors import Interrupted
from cnnbench.metrics import ConfusionMatrix, CurveCounts, Scores, Sums
from cnnbench.notices import guarded, warn
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.runs.directory import RunDir
from cnnbench.runs.provenance import check_same_data, provenance
from cnnbench.seeds import derive_seed
from cnnbench.tracking import Console, TensorBoard, Trackers, format_seconds
from cnnbench.training import data as build
from cnnbench.training import display as board
from cnnbench.training import estimates
from cnnbench.training import network as networks
from cnnbench.training import setup as steps
from cnnbench.training.data import RunData
from cnnbench.training.progress import Progress, epoch_name, restore
from cnnbench.training.stop import StopRequest

# With more classes, their pairs would be most of run.json.
_MAX_RECORDED_CLASSES = 200
# TensorBoard's profile page knows traces by this ending.
TRACE = "steps.pt.trace.json.gz"


class Training:
    """One process's work on one run.

    Args:
        config: checked.
        run: locked by the caller.
        command: the command line, for the record.
        data: splits and loaders.
        stop: asked after every step and evaluated batch.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDir,
        command: Sequence[str],
        data: RunData,
        stop: StopRequest,
    ) -> None:
        self.config, self.run, self.data, self.stop = config, run, data, stop
        self.command = list(command)
        self.device = resolve_device(config.device.name)
        self.in_force = configure(self.device, config.device.num_threads)
        self.network = networks.describe_network(config, data)
        self.precision = resolve_precision(
            config.device.precision, self.device, macs=self.network.macs
        )
        self.screen = Console(RichConsole(file=guarded(sys.stdout)))
        self.checkpoints = Checkpoints(run.checkpoints)
        self.progress = Progress()
        self.saved_at: tuple[int, int] | None = None
        before = run.info if (run.path / "run.json").exists() else {}
        check_same_data(before, name=config.data.name, sha256=data.sha256, source=data.source)
        self.earlier_test_reads = int(before.get("results", {}).get("test_reads", 0))
        # A count is kept where the run goes on; what it counted is measured again.
        reads = {"test_reads": self.earlier_test_reads} if self.earlier_test_reads else {}
        self.results: dict[str, Any] = reads
        self.confusion: list[list[int]] | None = None
        self.trackers = Trackers()
        self.board: TensorBoard | None = None
        self.provenance = provenance(
            before,
            config,
            command=self.command,
            data_fingerprint=data.fingerprint,
            in_force={**self.in_force, "precision": self.precision.name},
        )

    def _prepare(self) -> None:
        """Build what is trained, take over the newest checkpoint, and open the files."""
        config, run = self.config, self.run
        run.write_config(to_tree(config))
        for message in filter(None, (*self.data.warnings, self.precision.warning)):
            warn(message)
        torch.manual_seed(derive_seed(config.seed, "init"))
        model = networks.build_model(config, self.data)
        if not run.has_checkpoints and (note := networks.start(model, config, self.data)):
            self.screen.print(note)
        self.state, self.schedule = steps.place(
            config, model, self.data, self.device, self.precision
        )
        progress = restore(self.checkpoints, self.state, warn)
        if progress is not None:
            self.progress = progress
            self.saved_at = self._place()
            self.screen.print(
                f"goes on after epoch {self.state.epoch}, step {self.state.global_step}, "
                f"in {run.path}"
            )
        self._open_trackers()

    def _open_trackers(self) -> None:
        """Open the files of numbers without what will be measured again."""
        step, is_open = self.state.global_step, self.state.epoch > self.progress.ended_epoch
        metrics, self.board = board.open_trackers(self.run, step, is_epoch_open=is_open, warn=warn)
        self.trackers = Trackers(metrics, self.board)
        settings = board.settings_shown(
            self.config, device=self.device.type, precision=self.precision.name
        )
        self.board.session_start(settings, board.METRICS, step)

    def train(self) -> None:
        """Train the epochs that are left, then test."""
        self._prepare()
        if self.state.global_step == 0:
            self._introduce()
        if self.state.epoch > self.progress.ended_epoch:
            self._end_epoch()  # stopped while it was being evaluated
        loss = self._compiled_loss() if self.config.device.compile else None
        self._start_epoch()
        for step in self._steps(loss):
            self._log_step(step)
            if step.ends_epoch:
                synchronize(self.device)
                self._count_seconds()
                self._show_histograms()
                self._end_epoch()
                self._start_epoch()
            elif self._is_save_due():
                self._count_seconds()
                self._save(f"step_{self.state.global_step:08d}")
            self._stop_if_asked()
        self._finish()

    def _introduce(self) -> None:
        """Say what is about to happen, and show TensorBoard the network and its images."""
        data = self.data
        disk, memory = build.expected_bytes(self.config, self.state, self.network)
        shortages = estimates.shortages(self.run.path, self.device, disk=disk, memory=memory)
        for message in shortages:
            warn(message)
        seconds = steps.expected_epoch_seconds(self.state.model, data, self.network, self._autocast)
        computes = (
            f"{self.in_force['device_name']}, {self.precision.name}, "
            f"{self.in_force['num_threads']} threads"
        )
        self.screen.print(
            f"{board.introduction(self.config, data, self.network)}\n{computes}; "
            f"seed {self.config.seed}\nexpected: about {format_seconds(seconds)} per epoch, "
            f"up to {disk / 1e6:,.1f} MB of checkpoints\n"
            f"run: {self.run.path}"
        )
        board.show_start(self.trackers, self.state.model, data, self.config.seed)

    def _autocast(self) -> Any:
        return autocast(self.device, self.precision)

    def _compiled_loss(self) -> ComputeLoss:
        loss, seconds = steps.compile_loss(self.state.model, self.data, self.device, self.precision)
        self.screen.print(f"compiling took {seconds:.1f} s, which no epoch's time includes")
        self.provenance["processes"][-1]["compile_seconds"] = seconds
        self.write_info("running")
        return loss

    def _steps(self, compute_loss: ComputeLoss | None) -> Iterator[Step]:
        state, schedule, count = self.state, self.schedule, self.config.profile_steps
        run = steps.training_steps(
            self.config, self.data, state, schedule, self.device, self.precision, compute_loss
        )
        if count is None:
            return run
        return profiled(run, self.run.path / TRACE, count, self.device, self.screen.print)

    def _start_epoch(self) -> None:
        if self.state.epoch < self.config.num_epochs:
            self.screen.start(
                self.state.epoch + 1,
                self.config.num_epochs,
                self.data.steps_per_epoch,
                step=self.state.epoch_step,
            )
        self.clock = time.perf_counter()

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.epoch_seconds += now - self.clock
        self.progress.train_seconds += now - self.clock
        self.clock = now

    def _log_step(self, step: Step) -> None:
        count = self.state.global_step
        if count % self.config.log_every_steps and not step.ends_epoch:
            self.screen.step(self.config.data.batch_size)
            return
        loss, grad_norm = step.loss.item(), step.grad_norm.item()
        check_step(self.state, loss, grad_norm)
        self.screen.step(self.config.data.batch_size, loss=loss)
        if count % self.config.log_every_steps == 0:
            values = {"train/step_loss": loss, "optim/lr": step.lr, "optim/grad_norm": grad_norm}
            self.trackers.scalars({"epoch": step.epoch, **values}, count)

    def _show_histograms(self) -> None:
        every, state = self.config.histograms_every_epochs, self.state
        if self.board is not None and every is not None and state.epoch % every == 0:
            self.board.histograms(board.histograms(state.model), state.global_step)

    def _is_save_due(self) -> bool:
        every = self.config.save_every_steps
        return every is not None and self.state.global_step % every == 0

    def _end_epoch(self) -> None:
        """Evaluate, log and save the epoch that was just trained."""
        config, state, progress = self.config, self.state, self.progress
        train = state.sums.read()
        seconds = progress.epoch_seconds
        rate = train.count / seconds if seconds else 0.0
        values = {
            "train/loss": train.loss,
            "train/accuracy": train.accuracy,
            "perf/images_per_second": rate,
            "perf/epoch_seconds": seconds,
        }
        started = time.perf_counter()
        # So was the last one before extend_epochs, whatever eval_every_epochs says: that stays.
        is_last = state.epoch == config.num_epochs
        is_evaluated = is_last or state.epoch % config.eval_every_epochs == 0
        val = self._evaluate("val") if is_evaluated and self.data.num_val else None
        val_values = {"val/loss": val.loss, "val/accuracy": val.accuracy} if val else {}
        values |= val_values
        value = self._selection_value(val, is_evaluated, values)
        is_best = value is not None and value > progress.best_value
        if value is not None and is_best:
            progress.best_value, progress.best_epoch = value, state.epoch
            progress.best_val = val_values
        self.trackers.scalars({"epoch": state.epoch, **values}, state.global_step)
        progress.ended_epoch, progress.epoch_seconds = state.epoch, 0.0
        self._save(epoch_name(state.epoch), is_best=is_best)
        self.screen.epoch(
            state.epoch,
            config.num_epochs,
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
        if not is_evaluated:
            return None
        test = self._evaluate("test")
        self.progress.test_reads += 1
        values |= {"test/loss": test.loss, "test/accuracy": test.accuracy}
        return test.accuracy

    def _evaluate(self, split: str, *counted: ConfusionMatrix | CurveCounts) -> Scores:
        """Return the exact scores of the current weights on a split, and count what is asked."""
        sums = Sums(self.device)
        batches = evaluate(
            self.state.evaluated_model,
            self.data.batches(split, build.eval_batch_size(self.network.activation_bytes)),
            self.data.prepare,
            autocast=self._autocast,
        )
        for logits, targets in batches:
            loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
            sums.add(loss, logits, targets)
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
        if self.saved_at != self._place():
            if self.state.epoch_step:
                self._count_seconds()
            self._save(f"step_{self.state.global_step:08d}")
        raise Interrupted(
            f"{reason} after epoch {self.state.epoch}, step {self.state.global_step}; the state is "
            f"saved. Go on with:\ncnnbench train resume={shlex.quote(str(self.run.path))}",
            self.stop.signum,
            self.run.path,
        )

    def _place(self) -> tuple[int, int]:
        """Return what tells one state worth saving from another."""
        return self.state.global_step, self.progress.ended_epoch

    def _save(self, name: str, *, is_best: bool = False) -> None:
        check_weights(self.state)
        self.trackers.flush()  # a run that goes on from here finds its numbers up to here
        self.checkpoints.save(
            name,
            {
                "model": self.state.evaluated_model.state_dict(),
                "network": self.network.to_dict(),
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
        self.saved_at = self._place()

    def _finish(self) -> None:
        """Read the test set once, with the selected epoch's weights, and write the results."""
        self.screen.stop()
        best = self.checkpoints.load("best")
        self.state.evaluated_model.load_state_dict(best["model"])
        num_classes = self.data.num_classes
        confusion = ConfusionMatrix(num_classes, self.device)
        curves = CurveCounts(num_classes, self.device)
        test = self._evaluate("test", confusion, curves)
        self.progress.test_reads = max(self.progress.test_reads, self.earlier_test_reads) + 1
        epoch = self.progress.best_epoch
        self.results = {
            "test/accuracy": test.accuracy,
            "test/loss": test.loss,
            **self.progress.best_val,
            "best_epoch": epoch,
            "train_seconds": self.progress.train_seconds,
            "selection": self.config.selection,
            "test_reads": self.progress.test_reads,
        }
        self.trackers.scalars(
            {"epoch": epoch, "test/loss": test.loss, "test/accuracy": test.accuracy},
            self.state.global_step,
        )
        if num_classes <= _MAX_RECORDED_CLASSES:
            self.confusion = confusion.read().tolist()
        if self.board is not None:
            step = self.state.global_step
            board.show_test(self.board, confusion, curves, self.data.class_names, step)
            board.show_results(self.board, self.results, self.network.num_params, step)
        self.trackers.flush()
        self.write_info("done")
        self.screen.print(
            f"test accuracy {test.accuracy:.4f} [{test.correct}/{test.count}] with epoch {epoch}'s "
            f"weights, selected on {self.config.selection}; "
            f"trained for {format_seconds(self.progress.train_seconds)}"
        )

    def write_info(self, status: str, reason: str | None = None) -> None:
        """Replace ``run.json``, and tell TensorBoard how the run ended."""
        if self.board is not None and status != "running":
            self.board.session_end(status, self.state.global_step)
        self.run.write_info(
            {
                "status": status,
                **({"reason": reason} if reason else {}),
                "config": to_tree(self.config),
                "command": self.command,
                "seed": self.config.seed,
                "data": self.data.record(),
                "model": self.network.to_dict(),
                "results": self.results,
                **({"test_confusion": self.confusion} if self.confusion is not None else {}),
                "provenance": self.provenance,
            }
        )

    def close(self) -> None:
        """Take the bar off the screen and close the files."""
        self.screen.stop()
        self.trackers.close()
