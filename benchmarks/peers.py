"""cnnbench against what people use: the usual loop, PyTorch Lightning, timm and Keras.

    python benchmarks/peers.py                         the whole table; 2 cores: about 20 minutes
    python benchmarks/peers.py --works lenet-64 --repeats 5
    python benchmarks/peers.py --images 512 --repeats 1    whether it runs

Every contender trains the same network (its number of parameters is checked) on the same images of
Fashion-MNIST with AdamW, in a process of its own that sleeps while another one computes. They take
turns, one epoch each; the figures are medians over the turns, and ratios of medians. "Tuned" peers
hold normalised tensors in memory and choose, by a trial, the faster of float32 and bf16 and of zero
workers and one. Of Keras's backends, the fastest one goes on after a trial of all.

Needs the extra `peers`; a peer that cannot be imported is named and left out.
"""

from __future__ import annotations

import argparse
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

from contenders import CONTENDERS, Work

WORKS = {
    "lenet-64": Work(("model=lenet",), 28, 64, 8192),
    "lenet-256": Work(("model=lenet",), 28, 256, 8192),
    "googlenet": Work(("model=googlenet", "model.stem=imagenet", "model.norm=none"), 96, 128, 640),
    "resnet18": Work(("model=resnet18", "model.stem=small"), 32, 128, 512),
}
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
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["ended without a word"]
            raise RuntimeError(f"{self.label}: {said[-1]}")
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
    """Build a work everywhere, each with an epoch that warms it up; drop who cannot.

    Returns:
        By label, what each chose.
    """
    chosen = {}
    for contender in list(contenders):
        try:
            chosen[contender.label] = contender.ask({"work": asdict(work)})["chosen"]
        except (RuntimeError, BrokenPipeError) as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            contenders.remove(contender)
    return chosen


def best_backends(contenders: list[Contender]) -> tuple[list[Contender], dict[str, float]]:
    """Return the contenders with Keras's fastest backend alone, and the trial's seconds."""
    trial = {c.label: c.ask({})["seconds"] for c in contenders if c.backend}
    kept = []
    for contender in contenders:
        rivals = [c for c in contenders if c.name == contender.name]
        if contender is min(rivals, key=lambda c: trial.get(c.label, 0.0)):
            kept.append(contender)
    return kept, trial


def take_turns(contenders: list[Contender], repeats: int) -> tuple[dict[str, list[float]], float]:
    """Let everybody train an epoch in turn.

    Returns:
        Seconds by label, and the largest share of a core that idle processes took in a turn.
    """
    seconds: dict[str, list[float]] = {c.label: [] for c in contenders}
    disturbed = 0.0
    for _ in range(repeats):
        for contender in contenders:
            idle = [c for c in contenders if c is not contender]
            before, started = sum(c.cpu_seconds() for c in idle), time.perf_counter()
            seconds[contender.label].append(contender.ask({})["seconds"])
            passed = time.perf_counter() - started
            taken = sum(c.cpu_seconds() for c in idle) - before
            if passed > 0.5:  # the clock of processes ticks a hundred times a second
                disturbed = max(disturbed, taken / passed)
    return seconds, disturbed


def measure(name: str, work: Work, contenders: list[Contender], repeats: int) -> dict[str, Any]:
    """Return the figures of one work."""
    chosen = set_up(contenders, work)
    racing, trial = best_backends(contenders)
    seconds, disturbed = take_turns(racing, repeats)
    rates = {label: [work.images / value for value in values] for label, values in seconds.items()}
    ours = next((c for c in racing if c.name == "cnnbench"), None)
    peak = ours.ask({"peak": asdict(work)}) if ours else {}
    base = statistics.median(rates["cnnbench"]) if ours else float("nan")
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
    if peak:
        found["peak_fraction"] = peak["flops_per_image"] * base / peak["peak_flops_per_second"]
        found |= peak
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

    from cnnbench.device import available_cores
    from cnnbench.device import device_name as name_of

    return f"{name_of(torch.device('cpu'))}, {available_cores()} cores, {platform.platform()}"


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
    contenders = start(args.contenders, args.backends)
    results: dict[str, Any] = {}
    print(f"# Peers\n\n{machine()}\n", flush=True)
    try:
        for name in args.works:
            work = WORKS[name]
            if args.images:
                work = replace(work, images=args.images)
            results[name] = measure(name, work, contenders, args.repeats)
            print(shown(name, work, results[name]), flush=True)
    finally:
        for contender in contenders:
            contender.close()
    versions = {name: v for c in contenders for name, v in c.versions.items()}
    print(", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    print(f"{args.repeats} repeats; {time.perf_counter() - started:.0f} s in all")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "versions": versions, "works": results}, indent=2)
        )


if __name__ == "__main__":
    main()
