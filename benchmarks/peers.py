"""cnnbench against what people use: the usual loop, PyTorch Lightning, timm and Keras.

    python benchmarks/peers.py                         the whole table; 2 cores: about 20 minutes
    python benchmarks/peers.py --works lenet-64 --repeats 5
    python benchmarks/peers.py --images 512 --repeats 1    whether it runs

Every contender trains the same network (its number of parameters is checked) on the same images of
Fashion-MNIST with AdamW, in a process of its own that sleeps while another one computes. They take
turns, one epoch each; the figures are medians over the turns, and ratios of medians. "Tuned" peers
hold normalised tensors in memory and choose, by a trial, the faster of float32 and bf16 and of zero
workers and one. Of Keras's backends, the fastest one stays after a trial of all. All at once want
more than 24 GiB for resnet18; `--contenders` runs some.

Needs the extra `peers`; a peer that cannot be imported is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from works import WORKS, Work

BACKENDS = ("tensorflow", "torch", "jax")
OURS = ("cnnbench", "bare", "cnnbench data")


class Contender:
    """A contender's process.

    Args:
        name: of ``CONTENDERS``.
        backend: of Keras, where it is Keras.
    """

    def __init__(self, name: str, backend: str | None = None) -> None:
        self.label = f"{name} ({backend})" if backend else name
        self.name, self.backend = name, backend
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if backend:
            environment["KERAS_BACKEND"] = backend
        # A file: nobody reads along, and a full pipe would stop whoever prints a progress bar.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contenders.py")), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )
        self.versions: dict[str, str] = {}

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        """Send a line and wait for the answer.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["no word"]
            raise RuntimeError(
                f"{self.label} ended with {self._process.wait()} (-9: often too little memory): "
                f"{said[-1]}"
            )
        answer: dict[str, Any] = json.loads(line)
        self.versions |= answer.get("versions", {})
        return answer

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has taken, where the system tells."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def start(names: list[str], keras_backends: list[str]) -> list[Contender]:
    """Start the processes; nothing is imported in them yet."""
    found = []
    for name in names:
        backends = keras_backends if name.startswith("Keras") else [None]
        found += [Contender(name, backend) for backend in backends]
    return found


def set_up(contenders: list[Contender], work: Work) -> dict[str, str]:
    """Build a work everywhere, each with an epoch that warms it up; drop who ends.

    Returns:
        By label, what each chose.
    """
    chosen = {}
    for contender in list(contenders):
        try:
            chosen[contender.label] = contender.ask({"work": asdict(work)})["chosen"]
        except RuntimeError as error:
            leave_out(contender, contenders, error)
    return chosen


def leave_out(contender: Contender, contenders: list[Contender], why: RuntimeError) -> None:
    """Continue without a contender, and say so."""
    print(f"left out: {why}", file=sys.stderr, flush=True)
    contenders.remove(contender)


def best_backends(contenders: list[Contender]) -> tuple[list[Contender], dict[str, float]]:
    """Return the contenders with Keras's fastest backend alone, and the trial's seconds."""
    trial = {c.label: c.ask({})["seconds"] for c in contenders if c.backend}
    kept = []
    for contender in contenders:
        rivals = [c for c in contenders if c.name == contender.name]
        if contender is min(rivals, key=lambda c: trial.get(c.label, 0.0)):
            kept.append(contender)
    return kept, trial


def take_turns(
    contenders: list[Contender], work: Work, repeats: int
) -> tuple[dict[str, list[float]], list[dict[str, float]], float]:
    """Let everybody train an epoch in turn, and measure the peak after cnnbench; drop who ends.

    Returns:
        Seconds by label; of each turn the work of an image and the peak; and the largest share of a
        core that idle processes took in a turn.
    """
    seconds: dict[str, list[float]] = {c.label: [] for c in contenders}
    peaks = []
    gauge = Contender("cnnbench")  # its own process: large products would disturb one that trains
    disturbed = 0.0
    for _ in range(repeats):
        for contender in list(contenders):
            idle = [c for c in contenders if c is not contender]
            before, started = sum(c.cpu_seconds() for c in idle), time.perf_counter()
            try:
                seconds[contender.label].append(contender.ask({})["seconds"])
            except RuntimeError as error:
                leave_out(contender, contenders, error)
                continue
            passed = time.perf_counter() - started
            taken = sum(c.cpu_seconds() for c in idle) - before
            if passed > 0.5:  # the clock of processes ticks a hundred times a second
                disturbed = max(disturbed, taken / passed)
            if contender.name == "cnnbench":
                peaks.append(gauge.ask({"peak": asdict(work)}))
    gauge.close()
    return seconds, peaks, disturbed


def measure(name: str, work: Work, contenders: list[Contender], repeats: int) -> dict[str, Any]:
    """Return the figures of one work."""
    chosen = set_up(contenders, work)
    racing, trial = best_backends(contenders)
    seconds, peaks, disturbed = take_turns(racing, work, repeats)
    rates = {c.label: [work.images / value for value in seconds[c.label]] for c in racing}
    base = statistics.median(rates["cnnbench"]) if "cnnbench" in rates else float("nan")
    rows = [
        {
            "work": name,
            "contender": c.label,
            "chosen": chosen[c.label],
            "images_per_second": statistics.median(rates[c.label]),
            "min": min(rates[c.label]),
            "max": max(rates[c.label]),
            "cnnbench_ratio": base / statistics.median(rates[c.label]),
        }
        for c in racing
    ]
    found: dict[str, Any] = {
        "rows": rows,
        "keras_trial_seconds": trial,
        "idle_share_of_a_core": disturbed,
    }
    if peaks:
        peak = statistics.median(turn["peak_flops_per_second"] for turn in peaks)
        found["flops_per_image"] = peaks[0]["flops_per_image"]
        found["peak_flops_per_second"] = peak
        found["peak_fraction"] = found["flops_per_image"] * base / peak
    own = {c.name: statistics.median(seconds[c.label]) for c in racing}
    if {"cnnbench", "bare"} <= own.keys():
        found["over_bare_step"] = own["cnnbench"] / own["bare"] - 1
    if {"cnnbench data", "torchvision data"} <= own.keys():
        found["data_ratio"] = own["torchvision data"] / own["cnnbench data"]
    return found


def shown(name: str, work: Work, found: dict[str, Any]) -> str:
    """Return one work's figures as Markdown."""
    lines = [
        f"## {name}: {' '.join(work.model)}, {work.image_size} pixels, batch {work.batch_size}, "
        f"{work.images} images an epoch",
        "",
        "| contender | computes in | images/s | min..max | cnnbench is |",
        "|---|---|---:|---:|---:|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['contender']} | {row['chosen']} | {row['images_per_second']:,.0f} | "
            f"{row['min']:,.0f}..{row['max']:,.0f} | {row['cnnbench_ratio']:.2f} times |"
        )
    lines.append("")
    if "over_bare_step" in found:
        lines.append(f"- epochs over their own bare step: {found['over_bare_step']:+.1%}")
    if "data_ratio" in found:
        lines.append(f"- data path alone: {found['data_ratio']:.1f} times torchvision's loader")
    if "peak_fraction" in found:
        lines.append(
            f"- share of the peak: {found['peak_fraction']:.1%} of "
            f"{found['peak_flops_per_second'] / 1e9:,.0f} Gflop/s"
        )
    if found["keras_trial_seconds"]:
        trial = ", ".join(f"{k} {v:.2f} s" for k, v in found["keras_trial_seconds"].items())
        lines.append(f"- Keras's backends in the trial: {trial}")
    lines.append(f"- idle processes took at most {found['idle_share_of_a_core']:.1%} of a core")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Return the processor's name and its number of cores."""
    import torch

    from cnnbench.device.device import device_name
    from cnnbench.device.machine import available_cores

    return f"{device_name(torch.device('cpu'))}, {available_cores()} cores, {platform.platform()}"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, help="in an epoch of every work")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args()
    started = time.perf_counter()
    results: dict[str, Any] = {}
    versions: dict[str, str] = {}
    print(f"# Peers\n\n{machine()}\n", flush=True)
    for name in args.works:
        work = WORKS[name]
        if args.images:
            work = replace(work, images=args.images)
        # New ones for each work: memory of the one before would stay with them.
        contenders = start(args.contenders, args.backends)
        try:
            results[name] = measure(name, work, list(contenders), args.repeats)
        finally:
            for contender in contenders:
                contender.close()
                versions |= contender.versions
        print(shown(name, work, results[name]), flush=True)
    print(", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    print(f"{args.repeats} repeats; {time.perf_counter() - started:.0f} s in all")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "versions": versions, "works": results}, indent=2)
        )


if __name__ == "__main__":
    main()
