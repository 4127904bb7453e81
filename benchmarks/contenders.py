"""The contenders of ``peers.py``: each trains the same network on the same images, its own way.

``python benchmarks/contenders.py NAME`` is one contender in a process of its own. It reads a line
of JSON, sets a work up or trains one epoch of it, and answers with a line of JSON. Between two
lines it sleeps in a read.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

Epoch = Callable[[], float]  # trains one epoch and returns its seconds

SOURCE = Path("/usr/share/datasets/fashion-mnist")
ROOT = Path.home() / ".cache/cnnbench/benchmarks"
MEAN, STD = 0.286, 0.353
LR, WEIGHT_DECAY = 1e-3, 0.01

if TYPE_CHECKING:
    import torch

    from cnnbench.device.device import Precision


@dataclass(frozen=True)
class Work:
    """What is trained: a network on the first images of Fashion-MNIST, for one epoch.

    Attributes:
        model: the settings that name the network.
        image_size: pixels of a side; the pictures have 28.
        batch_size: images in a batch.
        images: in an epoch.
    """

    model: tuple[str, ...]
    image_size: int
    batch_size: int
    images: int


# ---- what the torch contenders share


def make_config(work: Work, *more: str) -> Any:
    """Compose cnnbench's config of a work."""
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer

    composer = Composer()
    settings = [
        *work.model,
        "data=fashion_mnist",
        f"data.batch_size={work.batch_size}",
        f"data.image_size={work.image_size}",
        f"data.limit={work.images}",
        "data.val_fraction=0",
        "selection=last",
        *more,
    ]
    return single_config(composer, composer.parse(settings))


def make_model(work: Work) -> Any:
    """Build cnnbench's network, which all torch contenders train."""
    from cnnbench.training import network as networks

    config = make_config(work)
    return networks.build_model(config, networks.facts_of(config)).train()


def make_dataset(work: Work, transform: Any) -> Any:
    """Return torchvision's Fashion-MNIST, cut to the work's number of images."""
    from torchvision.datasets import FashionMNIST

    raw = ROOT / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for source in SOURCE.glob("*.gz"):
        if not (raw / source.stem).exists():
            (raw / source.stem).write_bytes(gzip.decompress(source.read_bytes()))
    dataset = FashionMNIST(str(ROOT), train=True, transform=transform)
    dataset.data, dataset.targets = dataset.data[: work.images], dataset.targets[: work.images]
    return dataset


def make_transform(work: Work) -> Any:
    """Return torchvision's transforms for one picture."""
    from torchvision.transforms import Compose, Normalize, Resize, ToTensor

    resize = [] if work.image_size == 28 else [Resize(work.image_size)]
    return Compose([*resize, ToTensor(), Normalize((MEAN,), (STD,))])


def ready_tensors(work: Work) -> tuple[Any, Any]:
    """Return all images of a work as normalised float tensors in memory, and their targets."""
    import torch

    pairs = list(make_dataset(work, make_transform(work)))
    return torch.stack([image for image, _ in pairs]), torch.tensor([target for _, target in pairs])


def memory_loader(work: Work, num_workers: int) -> Any:
    """Return a loader of whole batches from tensors in memory."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    images, targets = ready_tensors(work)
    dataset = TensorDataset(images.contiguous(memory_format=torch.channels_last), targets)
    sampler = BatchSampler(RandomSampler(dataset), work.batch_size, drop_last=False)
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def fastest(options: dict[str, Callable[[], Epoch]]) -> tuple[str, Epoch]:
    """Return the option whose second epoch is the fastest, after one that warms it up."""
    best: tuple[float, str, Epoch] | None = None
    for name, make in options.items():
        epoch = make()
        epoch()
        seconds = epoch()
        if best is None or seconds < best[0]:
            best = seconds, name, epoch
    assert best is not None
    return best[1], best[2]


def torch_epoch(work: Work, loader: Any, optimizer_of: Any, *, bf16: bool, tuned: bool) -> Epoch:
    """Return an epoch of the loop that most repositories have."""
    import torch
    from torch import nn

    model = make_model(work)
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model)
    criterion = nn.CrossEntropyLoss()

    def epoch() -> float:
        started = time.perf_counter()
        running_loss, correct = 0.0, 0
        for images, targets in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                logits = model(images)
                loss = criterion(logits, targets)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            correct += (logits.argmax(1) == targets).sum().item()
        return time.perf_counter() - started

    return epoch


def tuned_options(make: Callable[[bool, int], Epoch]) -> dict[str, Callable[[], Epoch]]:
    """Return the settings among which a tuned torch contender takes the fastest."""
    return {
        f"{'bf16' if bf16 else 'fp32'}, {workers} workers": lambda b=bf16, w=workers: make(b, w)
        for bf16 in (False, True)
        for workers in (0, 1)
    }


def adamw(model: Any) -> Any:
    """Return torch's AdamW, as everybody calls it."""
    import torch

    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)


# ---- contenders: a work to what was chosen, and an epoch


def usual(work: Work) -> tuple[str, Epoch]:
    """The loop of PyTorch's tutorials: torchvision transforms, a DataLoader, float32."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        make_dataset(work, make_transform(work)), batch_size=work.batch_size, shuffle=True
    )
    return "fp32", torch_epoch(work, loader, adamw, bf16=False, tuned=False)


def usual_tuned(work: Work) -> tuple[str, Epoch]:
    """The same with tensors in memory, whole batches, channels_last, bf16 where it is faster."""

    def make(bf16: bool, workers: int) -> Epoch:
        return torch_epoch(work, memory_loader(work, workers), adamw, bf16=bf16, tuned=True)

    return fastest(tuned_options(make))


def lightning(work: Work) -> tuple[str, Epoch]:
    """PyTorch Lightning as its README has it."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        make_dataset(work, make_transform(work)), batch_size=work.batch_size, shuffle=True
    )
    return "fp32", lightning_epoch(work, loader, {}, tuned=False)


def lightning_tuned(work: Work) -> tuple[str, Epoch]:
    """PyTorch Lightning without logger, bar and checkpoints, and with all of usual_tuned."""

    def make(bf16: bool, workers: int) -> Epoch:
        options = {
            "precision": "bf16-mixed" if bf16 else "32-true",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return lightning_epoch(work, memory_loader(work, workers), options, tuned=True)

    return fastest(tuned_options(make))


def lightning_epoch(work: Work, loader: Any, options: dict[str, Any], *, tuned: bool) -> Epoch:
    """Return an epoch of Lightning's Trainer, timed from its first batch to its last."""
    import lightning as lightning_package
    import torch
    from torch.nn import functional as F

    model = make_model(work)

    class Module(lightning_package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model.to(memory_format=torch.channels_last) if tuned else model
            self.seconds = 0.0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, targets = batch
            loss = F.cross_entropy(self.model(images), targets)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return adamw(self)

        def on_train_epoch_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds = time.perf_counter() - self.started

    module = Module()

    def epoch() -> float:
        trainer = lightning_package.Trainer(max_epochs=1, accelerator="cpu", **options)
        trainer.fit(module, loader)
        return module.seconds

    return epoch


def timm(work: Work) -> tuple[str, Epoch]:
    """Timm's create_loader and create_optimizer_v2, around its plain step."""
    from timm.data import create_loader

    loader = create_loader(
        make_dataset(work, None),
        input_size=(1, work.image_size, work.image_size),
        batch_size=work.batch_size,
        is_training=True,
        no_aug=True,
        use_prefetcher=False,
        mean=(MEAN,),
        std=(STD,),
    )
    return "fp32", torch_epoch(work, loader, timm_adamw, bf16=False, tuned=False)


def timm_tuned(work: Work) -> tuple[str, Epoch]:
    """Timm's optimizer with all of usual_tuned; its loader takes no tensors in memory."""

    def make(bf16: bool, workers: int) -> Epoch:
        return torch_epoch(work, memory_loader(work, workers), timm_adamw, bf16=bf16, tuned=True)

    return fastest(tuned_options(make))


def timm_adamw(model: Any) -> Any:
    """Return timm's AdamW."""
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)


def keras(work: Work) -> tuple[str, Epoch]:
    """Keras: compile and fit, its arrays in memory."""
    from keras_networks import make_epoch

    return "fp32", make_epoch(work, bf16=False, num_params=count_params(work))


def keras_tuned(work: Work) -> tuple[str, Epoch]:
    """Keras with bf16 where it is faster, and a compiled step where its backend can."""
    from keras_networks import make_epoch

    num_params = count_params(work)
    return fastest(
        {
            f"{'bf16' if bf16 else 'fp32'}{', jit' if jit else ''}": (
                lambda b=bf16, j=jit: make_epoch(work, bf16=b, num_params=num_params, jit=j)
            )
            for bf16 in (False, True)
            for jit in ((False, True) if os.environ["KERAS_BACKEND"] != "torch" else (False,))
        }
    )


def count_params(work: Work) -> int:
    """Return the number of parameters that every contender's network must have."""
    from cnnbench.training import network as networks

    return networks.describe_network(make_config(work)).num_params


def cnnbench(work: Work) -> tuple[str, Epoch]:
    """The steps of ``cnnbench train``, with its defaults and its log."""
    from cnnbench.analysis.bench import Log, prepare

    subject = prepare(make_config(work))
    log = Log(Path(tempfile.mkdtemp()), subject.config.log_every_steps)
    steps = subject.steps()

    def epoch() -> float:
        started = time.perf_counter()
        for step in steps:
            log.step(step, subject.state.global_step)
            if step.ends_epoch:
                break
        return time.perf_counter() - started

    return subject.precision.name, epoch


def bare(work: Work) -> tuple[str, Epoch]:
    """Cnnbench's network, optimizer and precision in a step written by hand, on ready tensors."""
    import torch
    from torch.nn import functional as F

    from cnnbench.analysis.bench import prepare
    from cnnbench.device.device import autocast

    subject = prepare(make_config(work))
    generator = torch.Generator().manual_seed(0)
    batches = [
        subject.data.prepare_train(*raw, generator) for raw in subject.data.train_batches(1, 0)
    ]
    model, optimizer = subject.state.model.train(), subject.state.optimizer

    def epoch() -> float:
        started = time.perf_counter()
        for images, targets in batches:
            optimizer.zero_grad()
            with autocast(subject.device, subject.precision):
                loss = F.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return subject.precision.name, epoch


def cnnbench_data(work: Work) -> tuple[str, Epoch]:
    """Cnnbench's batches alone, up to the network's input."""
    import torch

    from cnnbench.analysis.bench import prepare

    data = prepare(make_config(work)).data
    generator = torch.Generator().manual_seed(0)

    def epoch() -> float:
        started = time.perf_counter()
        for images, targets in data.train_batches(1, 0):
            data.prepare_train(images, targets, generator)
        return time.perf_counter() - started

    return "in memory", epoch


def torchvision_data(work: Work) -> tuple[str, Epoch]:
    """Torchvision's pictures in a DataLoader alone."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        make_dataset(work, make_transform(work)), batch_size=work.batch_size, shuffle=True
    )

    def epoch() -> float:
        started = time.perf_counter()
        for _ in loader:
            pass
        return time.perf_counter() - started

    return "one by one", epoch


CONTENDERS: dict[str, Callable[[Work], tuple[str, Epoch]]] = {
    "cnnbench": cnnbench,
    "bare": bare,
    "cnnbench data": cnnbench_data,
    "torchvision data": torchvision_data,
    "usual loop": usual,
    "Lightning": lightning,
    "timm": timm,
    "usual loop, tuned": usual_tuned,
    "Lightning, tuned": lightning_tuned,
    "timm, tuned": timm_tuned,
    "Keras": keras,
    "Keras, tuned": keras_tuned,
}


def share_of_peak(work: Work) -> dict[str, float]:
    """Return the work of one image and the machine's peak in cnnbench's precision, per second."""
    from cnnbench.analysis.bench import peak_flops_per_second

    flops, device, precision = work_of_an_image(work)
    return {
        "flops_per_image": flops,
        "peak_flops_per_second": peak_flops_per_second(device, precision, 2.0),
    }


@functools.cache
def work_of_an_image(work: Work) -> tuple[float, torch.device, Precision]:
    """Return an image's floating-point operations in training, and where and how they are done."""
    from cnnbench.analysis.bench import flops_per_image, prepare

    subject = prepare(make_config(work))
    return flops_per_image(subject), subject.device, subject.precision


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


if __name__ == "__main__":
    main()
