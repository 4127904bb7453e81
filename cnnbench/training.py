"""One process's work on one run: drives the loop, logs, saves, stops, goes on."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console as RichConsole
from torch import nn

from cnnbench import build, estimates, networks
from cnnbench.build import RunData
from cnnbench.checkpoint import Checkpoints
from cnnbench.config import RunConfig, run_key, to_tree
from cnnbench.device import (
    autocast,
    configure,
    describe_machine,
    grad_scaler,
    resolve_channels_last,
    resolve_device,
    resolve_precision,
)
from cnnbench.engine import Step, evaluate, fit
from cnnbench.errors import CheckpointError, DataError, Interrupted, NonFiniteError
from cnnbench.metrics import Scores, Sums
from cnnbench.rundir import RunDir, code_version, model_files
from cnnbench.seeds import derive_seed
from cnnbench.signals import StopRequest
from cnnbench.tracking import Console, JsonLines, TensorBoard, Trackers, format_seconds

_GRID_IMAGES = 32
_PLACES = ("epoch", "global_step")


@dataclass
class Progress:
    """What the driver itself remembers from checkpoint to checkpoint.

    Attributes:
        ended_epoch: the last epoch that was evaluated, logged and saved.
        train_seconds: spent in training steps, in all.
        epoch_seconds: of those, in the running epoch.
        best_epoch: the epoch whose weights are selected so far; 0 before the first.
        best_value: its value of what is selected on.
        best_val: its ``val/loss`` and ``val/accuracy``, where it was evaluated.
        test_reads: how often the test set was read.
    """

    ended_epoch: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -math.inf
    best_val: dict[str, float] = field(default_factory=dict)
    test_reads: int = 0


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
        self.screen = Console(RichConsole(file=sys.stdout))
        self.checkpoints = Checkpoints(run.checkpoints)
        self.progress = Progress()
        self.saved_at: tuple[int, int] | None = None
        before = run.info if (run.path / "run.json").exists() else {}
        recorded = before.get("data", {}).get("sha256", data.sha256)
        if recorded != data.sha256:
            raise DataError(
                f"{config.data.name}: {data.source} is not the data this run was started on "
                f"(SHA-256 {data.sha256[:12]}, recorded {str(recorded)[:12]})"
            )
        self.earlier_test_reads = int(before.get("results", {}).get("test_reads", 0))
        # A count is kept where the run goes on; what it counted is measured again.
        reads = {"test_reads": self.earlier_test_reads} if self.earlier_test_reads else {}
        self.results: dict[str, Any] = reads
        self.trackers = Trackers()
        self.provenance = self._provenance(before)

    def _prepare(self) -> None:
        """Build what is trained, take over the newest checkpoint, and open the files."""
        config, run = self.config, self.run
        run.write_config(to_tree(config))
        for message in (*self.data.warnings, self.precision.warning):
            if message:
                warn(message)
        torch.manual_seed(derive_seed(config.seed, "init"))
        channels_last = resolve_channels_last(config.device.channels_last, self.device)
        model = networks.build_model(config, self.data)
        if not run.has_checkpoints and (note := networks.start(model, config, self.data)):
            self.screen.print(note)
        model = model.to(self.device)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.data.to(self.device, channels_last=channels_last)
        self.state, self.schedule = build.build_state(
            config, model, self.device, grad_scaler(self.device, self.precision)
        )
        self._restore()
        self._open_trackers()

    def _open_trackers(self) -> None:
        """Open the files of numbers without what will be measured again."""
        path, step = self.run.path, self.state.global_step
        metrics = JsonLines(self.run.metrics)
        is_epoch_open = self.state.epoch > self.progress.ended_epoch
        redone = {"test/loss"} | ({"train/loss"} if is_epoch_open else set())
        standing = metrics.truncate_after(step, redone)
        was_used = any(path.glob("events.out.tfevents.*"))
        board = TensorBoard(path, purge_step=step if was_used else None, warn=warn)
        if was_used:
            for record in standing:
                board.scalars({k: v for k, v in record.items() if k not in _PLACES}, step)
        self.trackers = Trackers(metrics, board)

    def _restore(self) -> None:
        """Take over the newest whole checkpoint, if there is one."""
        loaded = self.checkpoints.load_newest()
        if loaded is None:
            return
        weights, state, messages = loaded
        for message in messages:
            warn(message)
        try:
            self.state.load_state_dict(weights["model"], state["train_state"])
            self.progress = Progress(**state["progress"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.checkpoints.directory}: holds the state of another run "
                f"({type(error).__name__}: {error})"
            ) from None
        self.saved_at = self._place()
        best = self.progress.best_epoch
        self.checkpoints.forget_after(self.state.global_step, _epoch_name(best) if best else None)
        self.screen.print(
            f"goes on after epoch {self.state.epoch}, step {self.state.global_step}, "
            f"in {self.run.path}"
        )

    def train(self) -> None:
        """Train the epochs that are left, then test."""
        self._prepare()
        if self.state.global_step == 0:
            self._introduce()
        if self.state.epoch > self.progress.ended_epoch:
            self._end_epoch()  # stopped while it was being evaluated
        config, data = self.config, self.data
        steps = fit(
            self.state,
            data.train_batches,
            data.prepare_train,
            self.schedule,
            num_epochs=config.num_epochs,
            steps_per_epoch=data.steps_per_epoch,
            seed=config.seed,
            device=self.device,
            autocast=functools.partial(autocast, self.device, self.precision),
        )
        self._start_epoch()
        for step in steps:
            self._log_step(step)
            if step.ends_epoch:
                self._synchronize()
                self._count_seconds()
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
        seconds = build.expected_epoch_seconds(self.state.model, data, self.network, self._autocast)
        computes = (
            f"{self.in_force['device_name']}, {self.precision.name}, "
            f"{self.in_force['num_threads']} threads"
        )
        self.screen.print(
            f"{introduction(self.config, data, self.network)}\n{computes}; "
            f"seed {self.config.seed}\nexpected: about {format_seconds(seconds)} per epoch, "
            f"up to {disk / 1e6:,.1f} MB of checkpoints\n"
            f"run: {self.run.path}"
        )
        seed = derive_seed(self.config.seed, "augment", 0)
        plain, augmented = data.sample_grids(_GRID_IMAGES, seed)
        self.trackers.images("train/images", plain, 0)
        self.trackers.images("train/augmented", augmented, 0)
        self.trackers.graph(self.state.model, data.example())

    def _autocast(self) -> Any:
        return autocast(self.device, self.precision)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

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
        self._check_finite(loss, grad_norm)
        self.screen.step(self.config.data.batch_size, loss=loss)
        if count % self.config.log_every_steps == 0:
            values = {"train/step_loss": loss, "optim/lr": step.lr, "optim/grad_norm": grad_norm}
            self.trackers.scalars({"epoch": step.epoch, **values}, count)

    def _check_finite(self, loss: float, grad_norm: float) -> None:
        """Stop where an update was skipped on the device; a loss scaler's own skips are normal."""
        scaler = self.state.scaler
        if scaler is not None and math.isfinite(loss):
            return
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise self._non_finite(f"loss is {loss} and the gradient norm {grad_norm}")

    def _non_finite(self, what: str) -> NonFiniteError:
        lr = self.state.optimizer.param_groups[0]["lr"]
        epoch = self.state.epoch + (self.state.epoch_step > 0)
        return NonFiniteError(
            f"epoch {epoch}, step {self.state.global_step}: the {what} at learning rate {lr:g}. "
            "Lower optimizer.lr or raise scheduler.warmup_fraction."
        )

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
        self.trackers.flush()
        progress.ended_epoch, progress.epoch_seconds = state.epoch, 0.0
        self._save(_epoch_name(state.epoch), is_best=is_best)
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

    def _evaluate(self, split: str) -> Scores:
        """Return the exact scores of the current weights on a split."""
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
            self._stop_if_asked()
        scores = sums.read()
        if not math.isfinite(scores.loss):
            raise self._non_finite(f"{split} loss is {scores.loss}")
        return scores

    def _stop_if_asked(self) -> None:
        reason = self.stop.reason()
        if reason is None:
            return
        if self.saved_at != self._place():
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
        self._check_weights()
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

    def _check_weights(self) -> None:
        """Refuse to save what the last update broke: the next one would only find it later."""
        state = self.state.evaluated_model.state_dict()
        if not all(bool(v.isfinite().all()) for v in state.values() if v.is_floating_point()):
            raise self._non_finite("weights are not finite")

    def _finish(self) -> None:
        """Read the test set once, with the selected epoch's weights, and write the results."""
        self.screen.stop()
        best = self.checkpoints.load("best")
        self.state.evaluated_model.load_state_dict(best["model"])
        test = self._evaluate("test")
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
        self.trackers.flush()
        self.write_info("done")
        self.screen.print(
            f"test accuracy {test.accuracy:.4f} [{test.correct}/{test.count}] with epoch {epoch}'s "
            f"weights, selected on {self.config.selection}; "
            f"trained for {format_seconds(self.progress.train_seconds)}"
        )

    def write_info(self, status: str, reason: str | None = None) -> None:
        """Replace ``run.json``."""
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
                "provenance": self.provenance,
            }
        )

    def _provenance(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return what made the results: the code, the run key, and each process's machine."""
        recorded = info.get("provenance", {})
        # What a run was started from may be gone by the time it goes on.
        files = recorded.get("model_files") or model_files(self.config)
        process = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": self.command,
            "machine": describe_machine(),
            "in_force": {**self.in_force, "precision": self.precision.name},
        }
        key = run_key(
            self.config,
            data_fingerprint=self.data.fingerprint,
            code_version=code_version(),
            model_files=files,
        )
        return {
            "code_version": code_version(),
            "run_key": key,
            "model_files": files,
            "processes": [*recorded.get("processes", []), process],
        }

    def close(self) -> None:
        """Take the bar off the screen and close the files."""
        self.screen.stop()
        self.trackers.close()


def _epoch_name(epoch: int) -> str:
    return f"epoch_{epoch:04d}"


def introduction(config: RunConfig, data: RunData, network: networks.Network) -> str:
    """Return two lines that say what is trained on what."""
    args, size = config.model.args, config.data.image_size
    stem = f", stem {args['stem']}" if "stem" in args else ""
    return (
        f"{config.model.name} on {config.data.name}: {data.in_channels} x {size} x {size}{stem}, "
        f"{network.num_params:,} parameters, {network.macs:,} MACs\n"
        f"train {data.num_train}, val {data.num_val}, test {data.num_test} images"
    )


def warn(message: str) -> None:
    """Tell the user of something that training survives."""
    print(f"cnnbench: warning: {message}", file=sys.stderr, flush=True)
