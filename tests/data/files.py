"""Small published data sets for the tests: files in the real formats, of a size made for speed."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cnnbench.data.arrays import ImageArrays, hash_parts
from cnnbench.data.readers.cifar import CIFAR10_BATCHES, Batches, decode_cifar
from cnnbench.data.readers.idx import decode_idx
from cnnbench.data.readers.sources import Facts, Published, PublishedFile

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIDE = 6


def idx_bytes(values: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def small_idx() -> tuple[Facts, Published, dict[str, bytes]]:
    """Return facts, publication and the four unpacked files of 30 + 20 images in 10 classes."""
    draw = np.random.default_rng(0)
    arrays = []
    for count in (30, 20):
        arrays.append(draw.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8))
        arrays.append((np.arange(count) % 10).astype(np.uint8))
    parts = [ImageArrays(arrays[i][:, None], arrays[i + 1].astype(np.int64)) for i in (0, 2)]
    facts = Facts(
        num_classes=10,
        in_channels=1,
        image_size=SIDE,
        class_names=tuple("abcdefghij"),
        mean=(0.5,),
        std=(0.3,),
        train_counts=(3,) * 10,
        test_counts=(2,) * 10,
        part_sha256=hash_parts(parts[0], parts[1]),
    )
    raw = {name: idx_bytes(values) for name, values in zip(IDX_NAMES, arrays, strict=True)}
    packed = {name: gzip.compress(data, mtime=0) for name, data in raw.items()}
    published = Published(
        folder="Small/raw",
        files=tuple(
            PublishedFile(f"{n}.gz", hashlib.md5(d).hexdigest(), len(d)) for n, d in packed.items()
        ),
        mirrors=(),
        layouts=(
            tuple(f"Small/raw/{n}.gz" for n in IDX_NAMES),
            tuple(f"Small/raw/{n}" for n in IDX_NAMES),
        ),
        decode=decode_idx,
        system_folder="small",
        debian_package="dataset-small",
    )
    return facts, published, raw


def write_idx(folder: Path, raw: dict[str, bytes], *, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in raw.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)


CIFAR_FACTS = Facts(
    num_classes=10,
    in_channels=3,
    image_size=32,
    class_names=tuple("abcdefghij"),
    mean=(0.5, 0.5, 0.5),
    std=(0.3, 0.3, 0.3),
    train_counts=(10,) * 10,
    test_counts=(2,) * 10,
)
CIFAR_PUBLISHED = Published(
    folder="",
    files=(PublishedFile("cifar-10-python.tar.gz", "0" * 32, 10**9),),
    mirrors=(),
    layouts=CIFAR10_BATCHES.layouts,
    decode=partial(decode_cifar, CIFAR10_BATCHES),
)


def cifar_arrays(per_class_train: int = 10, per_class_test: int = 2) -> dict[str, ImageArrays]:
    draw = np.random.default_rng(1)
    batches = {}
    for name in CIFAR10_BATCHES.names:
        count = 2 * per_class_train if name != "test_batch" else 10 * per_class_test
        images = draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        batches[name] = ImageArrays(images, np.arange(count, dtype=np.int64) % 10)
    return batches


def python3_batch(batch: ImageArrays, *, key: bytes = b"labels") -> bytes:
    return pickle.dumps(
        {
            "data": batch.images.reshape(len(batch), -1),
            key.decode(): batch.targets.tolist(),
            "batch_label": "a batch",
            "filenames": [f"{i}.png" for i in range(len(batch))],
        },
        protocol=2,
    )


def python2_batch(batch: ImageArrays, *, fortran: bool = False, key: bytes = b"labels") -> bytes:
    """Write what Python 2's cPickle wrote: strings of bytes, numpy's old names."""

    def text(value: bytes) -> bytes:
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    pixels = batch.images.reshape(len(batch), -1)
    shape = integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += integer(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
    raw = pixels.tobytes("F" if fortran else "C")
    array += b"(" + integer(1) + shape + dtype + (b"\x88" if fortran else b"\x89")
    array += text(raw) + b"tb"
    labels = b"](" + b"".join(integer(label) for label in batch.targets.tolist()) + b"e"
    body = text(b"batch_label") + text(b"training batch 1 of 5") + text(key) + labels
    return b"\x80\x02}(" + body + text(b"data") + array + b"u."


def write_cifar(
    root: Path, files: dict[str, bytes], *, packed: bool = False, batches: Batches = CIFAR10_BATCHES
) -> None:
    folder = root / batches.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    if packed:
        with tarfile.open(root / batches.archive, "w:gz") as archive:
            archive.add(folder, batches.folder)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def with_mirror(published: Published, *addresses: str) -> Published:
    return replace(published, mirrors=addresses)
