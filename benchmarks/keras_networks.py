"""The networks of ``peers.py`` in Keras, layer by layer, and how Keras trains them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from works import LR, MEAN, SOURCE, STD, WEIGHT_DECAY, Epoch, Work

from cnnbench.models.googlenet import ROWS


def lenet(x: Any) -> Any:
    """LeNet-5 with ReLU and max pooling."""
    x = layers.Conv2D(6, 5, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(16, 5, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(120, activation="relu")(x)
    return layers.Dense(84, activation="relu")(x)


def googlenet(x: Any) -> Any:
    """GoogLeNet with the 7x7/2 stem and without norms."""

    def conv(x: Any, channels: int, kernel: int, strides: int = 1) -> Any:
        return layers.Conv2D(channels, kernel, strides, padding="same", activation="relu")(x)

    def pool(x: Any, strides: int = 2) -> Any:
        return layers.MaxPooling2D(3, strides, padding="same")(x)

    x = pool(conv(x, 64, 7, 2))
    x = pool(conv(conv(x, 64, 1), 192, 3))
    for name, row in ROWS.items():
        if name in ("4a", "5a"):
            x = pool(x)
        x = layers.Concatenate()(
            [
                conv(x, row.ch1x1, 1),
                conv(conv(x, row.ch3x3[0], 1), row.ch3x3[1], 3),
                conv(conv(x, row.ch5x5[0], 1), row.ch5x5[1], 5),
                conv(pool(x, 1), row.ch_pool, 1),
            ]
        )
    return layers.GlobalAveragePooling2D()(x)


def resnet18(x: Any) -> Any:
    """ResNet-18 with the 3x3/1 stem."""

    def unit(x: Any, channels: int, kernel: int, strides: int = 1, relu: bool = True) -> Any:
        x = layers.Conv2D(channels, kernel, strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        return layers.ReLU()(x) if relu else x

    x = unit(x, 64, 3)
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            y = unit(unit(x, channels, 3, strides), channels, 3, relu=False)
            shortcut = unit(x, channels, 1, strides, relu=False) if strides == 2 else x
            x = layers.ReLU()(layers.Add()([y, shortcut]))
    return layers.GlobalAveragePooling2D()(x)


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "model=lenet": lenet,
    "model=googlenet": googlenet,
    "model=resnet18": resnet18,
}


def arrays(work: Work) -> tuple[Any, Any]:
    """Return the images as Keras takes them, (N, H, W, 1), normalised, and their targets."""
    import torch

    from cnnbench.data.readers.idx import read_idx
    from cnnbench.data.transforms import resize

    images = read_idx(SOURCE / "train-images-idx3-ubyte.gz", (60_000, 28, 28))[: work.images]
    targets = read_idx(SOURCE / "train-labels-idx1-ubyte.gz", (60_000,))[: work.images]
    sized = resize(torch.from_numpy(images.copy())[:, None], work.image_size).numpy()
    pixels = (sized.transpose(0, 2, 3, 1).astype(np.float32) / 255 - MEAN) / STD
    return pixels, targets.astype(np.int64)


def make_epoch(work: Work, *, bf16: bool, num_params: int, jit: bool | None = None) -> Epoch:
    """Return an epoch of ``Model.fit``, timed from its first batch to its last.

    Args:
        work: what is trained.
        bf16: compute in bfloat16, with weights in float32.
        num_params: that the network must have to be the same.
        jit: whether the step is compiled; None leaves it to Keras.
    """
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if bf16 else "float32")
    inputs = keras.Input((work.image_size, work.image_size, 1))
    features = NETWORKS[work.model[0]](inputs)
    model = keras.Model(inputs, layers.Dense(10, dtype="float32")(features))
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert count == num_params, f"Keras has {count} parameters, cnnbench {num_params}"
    model.compile(
        optimizer=keras.optimizers.AdamW(LR, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile="auto" if jit is None else jit,
    )
    images, targets = arrays(work)

    class Timer(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        seconds = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds = time.perf_counter() - self.started

    timer = Timer()

    def epoch() -> float:
        model.fit(images, targets, batch_size=work.batch_size, epochs=1, callbacks=[timer])
        return timer.seconds

    return epoch
