"""Running a network to learn something of it, so that it does not notice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """Base of what sees each operation of PyTorch, below autograd, in ``__torch_dispatch__``."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its compiler, for seconds, to keep out of what is not compiled.
        return False


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Bring back afterwards what a forward or backward pass changes, whatever happens inside.

    These are each submodule's mode, the buffers (such as the running statistics of batch norm),
    the gradients, and the random state of the CPU and of the module's device. Inside, the module
    has no gradients.

    Args:
        module: on one device.

    Example:
        >>> with undisturbed(model):
        ...     model.train()
        ...     model(images).sum().backward()
    """
    modes = {part: part.training for part in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    tensor = next(module.parameters(), None)
    devices = [] if tensor is None or tensor.device.type == "cpu" else [tensor.device]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices, device_type=devices[0].type if devices else "cuda"):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in buffers:  # else forward made it
                    buffer.copy_(buffers[name])
