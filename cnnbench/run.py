"""From a run config to a trained run directory: drives the loop, logs, saves, stops, goes on."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console as RichConsole
from torch import nn

from cnnbench import build
from cnnbench.build import RunData
from cnnbench.checkpoint import Checkpoints
from cnnbench.config import RunConfig, expand_path, run_key, to_tree
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
from cnnbench.errors import CnnbenchError, Interrupted, NonFiniteError, ResourceError, UsageError
from cnnbench.metrics import Scores, Sums
from cnnbench.rundir import RunDir, code_version
from cnnbench.seeds import derive_seed
from cnnbench.signals import StopRequest
from cnnbench.tracking import Console, JsonLines, TensorBoard, Trackers, format_seconds

_GRID_IMAGES = 32


def check(config: RunConfig) -> None:
    """Find what the config alone cannot show, before anything is read or written.

    Raises:
        UsageError: no such device, images too small for the network, arguments that do not fit.
    """
    device = resolve_device(config.device.name)
    build.check_names(config)
    network = build.describe_network(config)
    resolve_precision(config.device.precision, device, macs=network.macs)


def start(config: RunConfig, command: Sequence[str]) -> RunDir:
    """Train in a new run directory.

    Args:
        config: checked.
        command: the command line, for the record.

    Raises:
        CnnbenchError: as ``train_run``.
    """
    check(config)
    data = build.build_data(config, _warn)
    run = RunDir.create_new(config, expand_path(config.output_root))
    train_run(config, run, command, data)
    return run


def start_or_go_on(config: RunConfig, run: RunDir, command: Sequence[str]) -> None:
    """Train in a given directory, from its newest checkpoint where there is one.

    Raises:
        CnnbenchError: as ``train_run``.
    """
    check(config)
    data = build.build_data(config, _warn)
    if not run.path.exists():
        run = RunDir.create(run.path)
    train_run(config, run, command, data)


def train_run(config: RunConfig, run: RunDir, command: Sequence[str], data: RunData) -> None:
    """Train until the last epoch, then read the test set once and write the results.

    Args:
        config: checked.
        run: an existing directory; training goes on from its newest checkpoint.
        command: the command line, for the record.
        data: as ``build.build_data`` made it.

    Raises:
        Interrupted: a signal came, or ``max_seconds`` are over; the state is saved.
        NonFiniteError: the loss or a gradient is not finite; the checkpoint before stands.
        ResourceError: memory ran out, or a loader worker died.
        DiskError: a file cannot be written; the checkpoint before stands.
        CheckpointError: checkpoints were there and none is whole.
    """
    with run.lock(), StopRequest(config.max_seconds) as stop:
        training = Training(config, run, command, data, stop)
        training.write_info("running")
        try:
            training.train()
        except Interrupted as error:
            training.write_info("interrupted", str(error))
            raise
        except BaseException as error:
            plain = _plain_error(error, config)
            training.write_info("failed", str(plain or f"{type(error).__name__}: {error}"))
            if plain is not None and plain is not error:
                raise plain from error
            raise
        finally:
            training.close()


def _plain_error(error: BaseException, config: RunConfig) -> CnnbenchError | None:
    """Put torch's words for exhausted memory and dead workers into a sentence."""
    if isinstance(error, CnnbenchError):
        return error
    text = str(error)
    sizes = f"data.batch_size={config.data.batch_size} data.image_size={config.data.image_size}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return ResourceError(f"out of memory with {sizes}; lower one of them")
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return ResourceError(
            f"a loader worker died with {sizes} data.num_workers={config.data.num_workers}; "
            "lower one of them"
        )
    return None


@dataclass
class Progress:
    """What the driver itself remembers from checkpoint to checkpoint.

    Attributes:
        ended_epoch: the last epoch that was evaluated, logged and saved.
        train_seconds: spent in training steps, in all.
        epoch_seconds: of those, in the running epoch.
        best_epoch: the epoch whose weights are selected so far; 0 before the first.
        best_value: its value of what is selected on.
        test_reads: how often the test set was read.
    """

    ended_epoch: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -math.inf
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
        self.network = build.describe_network(config, data)
        self.precision = resolve_precision(
            config.device.precision, self.device, macs=self.network.macs
        )
        self.screen = Console(RichConsole(file=sys.stdout))
        self.checkpoints = Checkpoints(run.checkpoints)
        self.progress = Progress()
        self.results: dict[str, Any] = {}
        self.trackers = Trackers()
        self.provenance = self._provenance()

    def _prepare(self) -> None:
        """Build what is trained, take over the newest checkpoint, and open the files."""
        config, run = self.config, self.run
        run.write_config(to_tree(config))
        for message in (*self.data.warnings, self.precision.warning):
            if message:
                _warn(message)
        torch.manual_seed(derive_seed(config.seed, "init"))
        channels_last = resolve_channels_last(config.device.channels_last, self.device)
        model = build.build_model(config, self.data).to(self.device)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.data.to(self.device, channels_last=channels_last)
        self.state, self.schedule = build.build_state(
            config, model, self.device, grad_scaler(self.device, self.precision)
        )
        self._restore()
        metrics = JsonLines(run.metrics)
        metrics.truncate_after(self.state.global_step)
        was_used = any(run.path.glob("events.out.tfevents.*"))
        purge_step = self.state.global_step + 1 if was_used else None
        self.trackers = Trackers(metrics, TensorBoard(run.path, purge_step=purge_step, warn=_warn))

    def _restore(self) -> None:
        """Take over the newest whole checkpoint, if there is one."""
        loaded = self.checkpoints.load_newest()
        if loaded is None:
            return
        weights, state, messages = loaded
        for message in messages:
            _warn(message)
        self.state.load_state_dict(weights["model"], state["train_state"])
        self.progress = Progress(**state["progress"])
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
        config, data, network = self.config, self.data, self.network
        seconds = build.expected_epoch_seconds(self.state.model, data, network, self._autocast)
        args = config.model.args
        stem = f", stem {args['stem']}" if "stem" in args else ""
        size = config.data.image_size
        self.screen.print(
            f"{config.model.name} on {config.data.name}: {data.in_channels} x {size} x {size}{stem}"
            f", {network.num_params:,} parameters, {network.macs:,} MACs\n"
            f"train {data.num_train}, val {data.num_val}, test {data.num_test} images; "
            f"{self.in_force['device_name']}, {self.precision.name}, "
            f"{self.in_force['num_threads']} threads; seed {config.seed}\n"
            f"expected: about {format_seconds(seconds)} per epoch\n"
            f"run: {self.run.path}"
        )
        plain, augmented = data.sample_grids(_GRID_IMAGES, derive_seed(config.seed, "augment", 0))
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
        self._check_finite(step, loss, grad_norm)
        self.screen.step(self.config.data.batch_size, loss=loss)
        if count % self.config.log_every_steps == 0:
            values = {"train/step_loss": loss, "optim/lr": step.lr, "optim/grad_norm": grad_norm}
            self.trackers.scalars({"epoch": step.epoch, **values}, count)

    def _check_finite(self, step: Step, loss: float, grad_norm: float) -> None:
        """Stop where an update was skipped on the device; a loss scaler's own skips are normal."""
        scaler = self.state.scaler
        if scaler is not None and math.isfinite(loss):
            return
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NonFiniteError(
                f"epoch {step.epoch}, step {self.state.global_step}: the loss is {loss} and the "
                f"gradient norm {grad_norm} at learning rate {step.lr:g}. "
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
        if val is not None:
            values |= {"val/loss": val.loss, "val/accuracy": val.accuracy}
        value = self._selection_value(val, is_evaluated, values)
        if is_best := value is not None and value > progress.best_value:
            assert value is not None
            progress.best_value, progress.best_epoch = value, state.epoch
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
            self.data.batches(split, build.eval_batch_size(self.network)),
            self.data.prepare,
            autocast=self._autocast,
        )
        for logits, targets in batches:
            loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
            sums.add(loss, logits, targets)
            self._stop_if_asked()
        return sums.read()

    def _stop_if_asked(self) -> None:
        reason = self.stop.reason()
        if reason is None:
            return
        if self.state.epoch_step or self.progress.ended_epoch < self.state.epoch:
            self._save(f"step_{self.state.global_step:08d}")
        raise Interrupted(
            f"{reason} after epoch {self.state.epoch}, step {self.state.global_step}; the state is "
            f"saved. Go on with:\ncnnbench train resume={shlex.quote(str(self.run.path))}",
            self.stop.signum,
            self.run.path,
        )

    def _save(self, name: str, *, is_best: bool = False) -> None:
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

    def _finish(self) -> None:
        """Read the test set once, with the selected epoch's weights, and write the results."""
        self.screen.stop()
        best = self.checkpoints.load("best")
        self.state.evaluated_model.load_state_dict(best["model"])
        values: dict[str, Any] = {}
        if self.data.num_val:
            val = self._evaluate("val")
            values |= {"val/accuracy": val.accuracy, "val/loss": val.loss}
        test = self._evaluate("test")
        self.progress.test_reads += 1
        epoch = self.progress.best_epoch
        self.results = {
            "test/accuracy": test.accuracy,
            "test/loss": test.loss,
            **values,
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

    def _provenance(self) -> dict[str, Any]:
        """Return what made the results: the code, the run key, and each process's machine."""
        before: list[Any] = []
        if (self.run.path / "run.json").exists():
            before = self.run.info.get("provenance", {}).get("processes", [])
        process = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": self.command,
            "machine": describe_machine(),
            "in_force": {**self.in_force, "precision": self.precision.name},
        }
        key = run_key(
            self.config, data_fingerprint=self.data.fingerprint, code_version=code_version()
        )
        return {"code_version": code_version(), "run_key": key, "processes": [*before, process]}

    def close(self) -> None:
        """Take the bar off the screen and close the files."""
        self.screen.stop()
        self.trackers.close()


def _epoch_name(epoch: int) -> str:
    return f"epoch_{epoch:04d}"


def _warn(message: str) -> None:
    print(f"cnnbench: warning: {message}", file=sys.stderr, flush=True)


def resumed_config(run: RunDir, config: RunConfig) -> RunConfig:
    """Return the config with which a run goes on.

    Args:
        run: the run.
        config: its recorded config with what may change changed.

    Raises:
        UsageError: ``extend_epochs`` would change the learning rates of the epochs already run.
    """
    more = config.extend_epochs
    if more is None:
        return dataclasses.replace(config, resume=None)
    if build.build_schedule_of(config).depends_on_length:
        raise UsageError(
            f"extend_epochs={more}: scheduler={config.scheduler.name} spreads over the run's "
            f"{config.num_epochs} epochs, so a longer run is another one; "
            "only scheduler=constant without warm-up can be extended"
        )
    return dataclasses.replace(
        config, num_epochs=config.num_epochs + more, extend_epochs=None, resume=None
    )
