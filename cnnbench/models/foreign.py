"""Networks that were not written here, made to behave like ours, and tried before they train."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.errors import UsageError
from cnnbench.layers.cpu.slices import use_slices
from cnnbench.layers.heads import AUX_WEIGHT_NAME, aux_outputs

_COMMON_SIZES = (28, 32, 64, 96, 224, 227)
AUX_WEIGHT = 0.3  # as in GoogLeNet's paper, for heads of which nothing is said


def with_first_output(module: nn.Module, aux_weight: float | None = None) -> nn.Module:
    """Let a module return logits alone, and give other logits to training.

    A ``forward`` may return several tensors, in a tuple, a named tuple or a dict: the first are the
    logits, the others those of auxiliary heads, which training reads by ``forward_with_aux``. Both
    ways compute what calling the module computes, with its hooks, a ``__call__`` of its own and a
    ``forward`` of the instance. The module keeps its state dict and stays an instance of its class.

    Args:
        module: in place; one that has ``forward_with_aux`` is left as it is.
        aux_weight: how much the loss of each other output counts; by default what the module says
            itself, or .3.
    """
    if hasattr(module, "forward_with_aux"):
        return module
    original = type(module)
    if aux_weight is None:
        own = getattr(module, "aux_weight", AUX_WEIGHT)
        aux_weight = float(own) if isinstance(own, (int, float)) else AUX_WEIGHT

    def call(self: nn.Module, *inputs: Any, **named: Any) -> Tensor:
        return output_tensors(original.__call__(self, *inputs, **named), self)[0]

    def forward_with_aux(self: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, *others = output_tensors(original.__call__(self, x), self)
        for other in others:
            if other.shape != logits.shape:
                raise UsageError(
                    f"{forward_line(self)} returns tensors of shapes {tuple(logits.shape)} and "
                    f"{tuple(other.shape)}: the first is the result, and each other one has to be "
                    "the logits of an auxiliary head, of the same shape; return the logits alone"
                )
        return logits, tuple(others)

    attributes = {
        "__call__": call,
        "forward_with_aux": forward_with_aux,
        # Not on the instance, where the name may be that of a parameter of the module's own.
        AUX_WEIGHT_NAME: aux_weight,
        "__module__": original.__module__,
        "__doc__": original.__doc__,
    }
    module.__class__ = type(original.__name__, (original,), attributes)
    return module


def check_plain(module: nn.Module, label: str) -> None:
    """Refuse a module that cannot be looked into or copied.

    Args:
        module: not trained yet.
        label: how the user named it, for messages.

    Raises:
        UsageError: it is compiled, or its ``forward`` was set to what copies of it would share.
    """
    for name, part in module.named_modules():
        where = f"{label}: its part {name}" if name else f"{label}:"
        if isinstance(part, torch.jit.ScriptModule):
            raise UsageError(
                f"{where} is a module of TorchScript, which cannot be looked into; expected the "
                "module itself, so leave torch.jit away"
            )
        if "_orig_mod" in part._modules:
            raise UsageError(
                f"{where} is compiled already; expected the module itself, so leave torch.compile "
                "away and set device.compile=true"
            )
    # A copy of a module, such as the average of its weights, has a copy of a bound method.
    own = vars(module).get("forward")
    if isinstance(own, FunctionType) or getattr(own, "__self__", module) is not module:
        raise UsageError(
            f"{label}: {forward_line(module)}: this forward was set on the module and refers to it "
            "from outside, so that copies of it would compute with its weights; write a class "
            "with this forward, or net.forward = types.MethodType(function, net)"
        )


def forward_line(module: nn.Module) -> str:
    """Return where a module's own ``forward`` stands: ``FILE, line 12, in forward``."""
    scopes = [vars(module), *map(vars, type(module).__mro__)]
    for scope in scopes:
        code = getattr(scope.get("forward"), "__code__", None)
        if code is not None:
            return f"{code.co_filename}, line {code.co_firstlineno}, in {code.co_name}"
    return f"forward of {type(module).__name__}"


def output_tensors(output: Any, module: nn.Module) -> list[Tensor]:
    """Return what a module gave as tensors, heads that are switched off left out.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(output, Tensor):
        return [output]
    if output is None:
        raise UsageError(
            f"{forward_line(module)} returns None: it lacks its return; expected logits: end it "
            "with return x"
        )
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        found = [value for value in output if value is not None]
        if found and all(isinstance(value, Tensor) for value in found):
            return found
    raise UsageError(
        f"{forward_line(module)} returns {type(output).__name__}, expected a tensor of "
        "logits, or several: those of the network first, then those of auxiliary heads"
    )


def try_step(module: nn.Module, shape: tuple[int, int, int], num_classes: int) -> tuple[bool, bool]:
    """Train a module on two random images, once for each way that they can lie in memory.

    Args:
        module: of no use afterwards: its gradients and statistics have changed.
        shape: of one image.
        num_classes: logits to expect.

    Returns:
        Whether it trains with images laid out channels last too, and whether it has auxiliary
        outputs.

    Raises:
        UsageError: it gives something else than two rows of logits, nothing learns, or forward
            makes weights.
        Exception: what the module raises where images lie as torch lays them out.
    """
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    # As it will train: torch's own kernels for these may crash.
    use_slices(module)
    module.train()
    known = module.state_dict(keep_vars=True)
    has_aux = _step(module, images, num_classes)
    _check_grown(module, known)
    try:
        module.to(memory_format=torch.channels_last)
        _step(module, images.contiguous(memory_format=torch.channels_last), num_classes)
    except RuntimeError:
        return False, has_aux
    return True, has_aux


def _check_grown(module: nn.Module, known: Mapping[str, Tensor]) -> None:
    """Refuse weights that forward makes: the optimizer and who loads a checkpoint look before it.

    Args:
        module: after its first forward pass.
        known: its state dict before that, with the parameters themselves.

    Raises:
        UsageError: it has others now.
    """
    made = [
        name
        for name, tensor in module.state_dict(keep_vars=True).items()
        if name not in known or (isinstance(tensor, nn.Parameter) and tensor is not known[name])
    ]
    if made:
        raise UsageError(
            f"{forward_line(module)}: forward makes {made[0]}, which would never train, as the "
            "optimizer takes the weights that are there before it; make layers and buffers in "
            "__init__, or take nn.LazyLinear(...) and the like, which find their sizes in forward"
        )


def _step(module: nn.Module, images: Tensor, num_classes: int) -> bool:
    """Make a forward and a backward pass, and tell whether there are auxiliary outputs."""
    others: tuple[Tensor, ...] = ()
    with_aux = getattr(module, "forward_with_aux", None)
    if callable(with_aux):
        logits, others = aux_outputs(module, with_aux(images))
    else:
        logits = module(images)
    check_rows(logits, len(images), num_classes)
    total = sum((other.float().sum() for other in others), logits.float().sum())
    if any(parameter.requires_grad for parameter in module.parameters()):
        if not total.requires_grad:
            raise UsageError(
                "no parameter gets a gradient: forward cuts the logits off from the weights; look "
                "for .data, .detach(), torch.no_grad(), .numpy() or torch.tensor(...) in it"
            )
        total.backward()
    return bool(others)


def check_rows(logits: Tensor, num_images: int, num_classes: int) -> None:
    """Refuse what is not one row of logits for each image.

    Raises:
        UsageError: it has another shape, or is complex.
    """
    if logits.is_complex():
        raise UsageError(
            "gives complex numbers, expected real logits: return their .abs() or .real"
        )
    shape = tuple(logits.shape)
    if shape == (num_images, num_classes):
        return
    if len(shape) == 2 and shape[1] == num_classes:
        rows = f"{shape[0]} row{'s' * (shape[0] != 1)}"
        raise UsageError(
            f"gives {rows} of logits for {num_images} images: forward folds the batch into the "
            "features, as x.view(-1, n) does with a wrong n; expected x.flatten(1), and a next "
            "layer that takes as many features as that gives"
        )
    raise UsageError(
        f"gives {shape} for {num_images} images, expected ({num_images}, {num_classes}): a row for "
        "each image, with one logit for each class"
    )


def images_that_fit(module: nn.Module, shape: tuple[int, int, int]) -> str:
    """Return the end of a sentence with images that a module takes; empty where none is found.

    Args:
        module: made for one shape.
        shape: (C, H, W) of the images that it refused.
    """
    channels, side, _ = shape
    module.eval()
    for count in dict.fromkeys((channels, 1, 3)):
        for size in dict.fromkeys((side, *_COMMON_SIZES)):
            try:
                with torch.no_grad():
                    rows = len(module(torch.zeros(2, count, size, size)))
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: S112 - whatever it raises: it does not take this one
                continue
            if rows == 2:
                also = f", so set data.image_size={size}" if count == channels else ""
                return f"; it takes images of {count} x {size} x {size}{also}"
    return ""
