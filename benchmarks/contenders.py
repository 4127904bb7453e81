"""The contenders of ``peers.py``: each trains the same network on the same images, its own way.

``python benchmarks/contenders.py NAME`` is one contender in a process of its own. It reads a line
of JSON, sets a work up or trains one epoch of it, and answers with a line of JSON. Between two
lines it sleeps in a read.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch_loops
from works import Epoch, Work, bf16_choices, fastest, make_plan, make_setup

_LOGS = ExitStack()  # closed when the process ends
_ENDLESS = 1_000_000_000  # steps: more than any benchmark takes


def keras(work: Work) -> tuple[str, Epoch]:
    """Keras: compile and fit, its arrays in memory."""
    from keras_networks import make_epoch

    num_params = make_plan(work).network.num_params
    return "fp32", make_epoch(work, bf16=False, num_params=num_params)


def keras_tuned(work: Work) -> tuple[str, Epoch]:
    """Keras with bf16 where it is faster, and a compiled step where its backend can."""
    from keras_networks import make_epoch

    num_params = make_plan(work).network.num_params
    return fastest(
        {
            f"{'bf16' if bf16 else 'fp32'}{', jit' if jit else ''}": (
                lambda b=bf16, j=jit: make_epoch(work, bf16=b, num_params=num_params, jit=j)
            )
            for bf16 in bf16_choices()
            for jit in ((False, True) if os.environ["KERAS_BACKEND"] != "torch" else (False,))
        }
    )


def cnnbench(work: Work) -> tuple[str, Epoch]:
    """The steps of ``cnnbench train``, with its defaults and its log."""
    from cnnbench.analysis.bench import open_log

    setup = make_setup(work)
    log = _LOGS.enter_context(open_log(setup, setup.plan.config.log_every_steps))
    # Those of the run would end with its last epoch, and each further turn in no time.
    steps = setup.steps(_ENDLESS)

    def epoch() -> float:
        started = time.perf_counter()
        for step in steps:
            log(step)
            if step.ends_epoch:
                break
        return time.perf_counter() - started

    return setup.plan.precision.name, epoch


def bare(work: Work) -> tuple[str, Epoch]:
    """Cnnbench's network, optimizer and precision in a step written by hand, on ready tensors."""
    import torch
    from torch.nn import functional as F

    setup = make_setup(work)
    generator = torch.Generator().manual_seed(0)
    batches = [setup.data.prepare_train(*raw, generator) for raw in setup.data.train_batches(1, 0)]
    model, optimizer = setup.state.model.train(), setup.state.optimizer

    def epoch() -> float:
        started = time.perf_counter()
        for images, targets in batches:
            optimizer.zero_grad()
            with setup.plan.autocast():
                loss = F.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return setup.plan.precision.name, epoch


def cnnbench_data(work: Work) -> tuple[str, Epoch]:
    """Cnnbench's batches alone, up to the network's input."""
    import torch

    data = make_setup(work).data
    generator = torch.Generator().manual_seed(0)

    def epoch() -> float:
        started = time.perf_counter()
        for images, targets in data.train_batches(1, 0):
            data.prepare_train(images, targets, generator)
        return time.perf_counter() - started

    return "in memory", epoch


# Each takes a work and returns what it chose, and an epoch.
CONTENDERS: dict[str, Callable[[Work], tuple[str, Epoch]]] = {
    "cnnbench": cnnbench,
    "bare": bare,
    "cnnbench data": cnnbench_data,
    "torchvision data": torch_loops.torchvision_data,
    "usual loop": torch_loops.usual,
    "Lightning": torch_loops.lightning,
    "timm": torch_loops.timm,
    "usual loop, tuned": torch_loops.usual_tuned,
    "Lightning, tuned": torch_loops.lightning_tuned,
    "timm, tuned": torch_loops.timm_tuned,
    "Keras": keras,
    "Keras, tuned": keras_tuned,
}


def share_of_peak(work: Work) -> dict[str, float]:
    """Return the work of one image and the machine's peak in cnnbench's precision, per second."""
    from cnnbench.analysis.bench import peak_flops_per_second

    plan = make_plan(work)
    return {
        "flops_per_image": flops_of_an_image(work),
        "peak_flops_per_second": peak_flops_per_second(plan.device, plan.precision, 2.0),
    }


@functools.cache
def flops_of_an_image(work: Work) -> float:
    """Return the floating-point operations of an image in training."""
    from cnnbench.analysis.bench import flops_per_image

    return flops_per_image(make_setup(work))


def versions() -> dict[str, str]:
    """Return the versions of what this process has imported and compares."""
    packages = ("torch", "torchvision", "lightning", "timm", "keras", "tensorflow", "jax")
    return {name: str(sys.modules[name].__version__) for name in packages if name in sys.modules}


def answers(name: str, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield an answer to each line that the process reads."""
    epoch: Epoch | None = None
    for line in lines:
        asked = json.loads(line)
        if "work" in asked:
            epoch = None  # the last work's memory is given back first
            work = Work(**{**asked["work"], "model": tuple(asked["work"]["model"])})
            chosen, epoch = CONTENDERS[name](work)
            epoch()
            yield {"chosen": chosen, "versions": versions()}
        elif "peak" in asked:
            yield share_of_peak(Work(**{**asked["peak"], "model": tuple(asked["peak"]["model"])}))
        else:
            assert epoch is not None
            yield {"seconds": epoch()}


def main() -> None:
    """Answer until standard input ends; whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.chdir(tempfile.mkdtemp())
    for answer in answers(sys.argv[1], iter(sys.stdin.readline, "")):
        print(json.dumps(answer), file=out, flush=True)
    _LOGS.close()


if __name__ == "__main__":
    main()
