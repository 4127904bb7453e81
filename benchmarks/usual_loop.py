"""LeNet on Fashion-MNIST: cnnbench's training epoch against the usual loop.

The usual loop is what most repositories run: torchvision's ``FashionMNIST`` with ``ToTensor`` and
``Normalize`` in a ``DataLoader``, ``loss.item()`` at each step, the same network, optimizer and
batch size. Both train in the same process, one epoch each in turn; the figure is the ratio of the
medians of images per second. Run it on an idle machine:

    python benchmarks/usual_loop.py --repeats 5
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from cnnbench.analysis.bench import prepare
from cnnbench.compose import Composer
from cnnbench.device import configure, resolve_device
from cnnbench.models import create_model
from cnnbench.sweeps.expand import single_config

_SOURCE = Path("/usr/share/datasets/fashion-mnist")


def usual_epoch(root: Path, batch_size: int, limit: int) -> float:
    """Train one epoch the usual way and return images per second."""
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import FashionMNIST
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize((0.286,), (0.353,))])
    dataset = Subset(FashionMNIST(str(root), train=True, transform=transform), range(limit))
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    model = create_model("lenet", in_channels=1, num_classes=10, image_size=28).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    started = time.perf_counter()
    running_loss, correct = 0.0, 0
    for images, targets in loader:
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        correct += (logits.argmax(1) == targets).sum().item()
    return limit / (time.perf_counter() - started)


def make_cnnbench_epoch(batch_size: int, limit: int):
    """Return a function that trains one epoch with cnnbench's loop: images per second."""
    composer = Composer()
    settings = [
        "model=lenet",
        "data=fashion_mnist",
        f"data.batch_size={batch_size}",
        f"data.limit={limit}",
        "data.val_fraction=0",
        "selection=last",
    ]
    subject = prepare(single_config(composer, composer.parse(settings)))
    steps = subject.steps()

    def epoch() -> float:
        started = time.perf_counter()
        while not next(steps).ends_epoch:
            pass
        return subject.data.num_train / (time.perf_counter() - started)

    return epoch


def link_layout(root: Path) -> None:
    """Lay Debian's files out as torchvision wants them."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    import gzip

    for source in _SOURCE.glob("*.gz"):
        target = raw / source.stem
        if not target.exists():
            target.write_bytes(gzip.decompress(source.read_bytes()))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000, help="training images per epoch")
    parser.add_argument("--root", type=Path, default=Path.home() / ".cache/cnnbench/benchmarks")
    args = parser.parse_args()
    link_layout(args.root)
    configure(resolve_device("cpu"), None)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("batch  usual images/s  cnnbench images/s  ratio of medians  (min..max of the pairs)")
    for batch_size in (64, 256):
        epoch = make_cnnbench_epoch(batch_size, args.images)
        usual, ours = [], []
        for repeat in range(args.repeats + 1):
            pair = usual_epoch(args.root, batch_size, args.images), epoch()
            if repeat:  # the first warms up
                usual.append(pair[0])
                ours.append(pair[1])
        ratio = statistics.median(ours) / statistics.median(usual)
        pairs = [b / a for a, b in zip(usual, ours, strict=True)]
        print(
            f"{batch_size:5}  {statistics.median(usual):14,.0f}  {statistics.median(ours):17,.0f}"
            f"  {ratio:16.2f}  ({min(pairs):.2f}..{max(pairs):.2f})"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of the process: {peak:.2f} GB")


if __name__ == "__main__":
    main()
