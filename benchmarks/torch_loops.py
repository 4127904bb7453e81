"""The contenders of ``peers.py`` that train with torch: the usual loop, Lightning and timm."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Any

from works import (
    LR,
    MEAN,
    ROOT,
    SOURCE,
    STD,
    WEIGHT_DECAY,
    Epoch,
    Work,
    bf16_choices,
    fastest,
    make_model,
)


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
    """Return torchvision's transforms for one image."""
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
        for bf16 in bf16_choices()
        for workers in (0, 1)
    }


def adamw(model: Any) -> Any:
    """Return torch's AdamW, as everybody calls it."""
    import torch

    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)


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


def torchvision_data(work: Work) -> tuple[str, Epoch]:
    """Torchvision's images in a DataLoader alone."""
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
