"""The processes that train one run together: what they compute in parts, and what they agree on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnbench.data.shards import Shard
from cnnbench.engine.loop import ComputeLoss, weight_of
from cnnbench.metrics import Sums


@dataclass(frozen=True)
class World:
    """The processes that train one run together; mostly one, which has nobody to wait for.

    With more, torch's process group is there, and all of them call the same methods in the same
    order. Sums on the CPU go through its gloo backend.

    Args:
        rank: of this process, from 0.
        size: processes, >= 1.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The part of each batch that this process computes."""
        return Shard(self.rank, self.size)

    def in_parts(
        self,
        compute_loss: ComputeLoss,
        model: nn.Module,
        shard: Shard,
        *,
        class_weights: Tensor | None = None,
        has_unused: bool = False,
    ) -> ComputeLoss:
        """Return what computes the loss of a whole batch, of which each process has a part.

        The gradients become those of the whole batch too, whatever the sizes of the parts. All
        processes begin with the weights of the first. On CUDA batch norms are synchronised; on a
        CPU each process normalises its own part, and the running statistics are the first one's.

        Args:
            compute_loss: of one process, as ``fit`` takes it.
            model: the network that it is to be called with.
            shard: knows the size of the whole batch.
            class_weights: those that ``compute_loss`` weighs the mean by.
            has_unused: whether forward may leave parameters out.
        """
        if self.size == 1:
            return compute_loss
        if next(model.parameters()).is_cuda:
            # In place: the parameters stay the ones that the optimizer has.
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # A kernel of 1x1 lies the same in either layout; torch compares strides and copies.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        part = _Part(model, compute_loss, shard, class_weights)
        parallel = nn.parallel.DistributedDataParallel(
            part, find_unused_parameters=has_unused, gradient_as_bucket_view=True
        )

        def compute(_: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            loss, outputs = parallel(images, targets)
            return loss, outputs

        return compute

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's running statistics."""
        if self.size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def gather(self, part: Tensor, shard: Shard) -> Tensor:
        """Return the rows of all processes, in the order of the batch.

        Args:
            part: the rows of this process's part.
            shard: knows the size of the whole batch.
        """
        if self.size == 1:
            return part
        # All are of the size of the first one's, which is the largest.
        padded = part.new_zeros((Shard(0, self.size).rows(shard.total).stop, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(parts, padded)
        sizes = [Shard(index, self.size).rows(shard.total) for index in range(self.size)]
        return torch.cat([p[: s.stop - s.start] for p, s in zip(parts, sizes, strict=True)])

    def collect(self, sums: Sums) -> None:
        """Bring the sums of all processes to the first, which then has the whole; others get 0."""
        if self.size == 1:
            return
        state = sums.state_dict()
        device = next(value.device for value in state.values() if isinstance(value, Tensor))
        for name, value in state.items():
            whole = torch.as_tensor(value, dtype=torch.float64, device=device)
            torch.distributed.all_reduce(whole)
            state[name] = whole * self.is_first
        sums.load_state_dict(state)

    def largest(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return the largest that any process has of each number; each waits for all others."""
        if self.size == 1:
            return numbers
        most = torch.tensor(numbers, dtype=torch.int64)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        found: list[int] = most.tolist()
        return found

    def send(self, make: Callable[[], bytes]) -> bytes:
        """Return in all processes what the first one makes."""
        content = make() if self.is_first else b""
        if self.size == 1:
            return content
        [length] = self.largest([len(content)])
        shared = torch.frombuffer(bytearray(content.ljust(length, b"\0")), dtype=torch.uint8)
        torch.distributed.broadcast(shared, 0)
        return shared.numpy().tobytes()


class _Part(nn.Module):
    """The loss of a batch, of which this process computes a part."""

    def __init__(
        self,
        model: nn.Module,
        compute_loss: ComputeLoss,
        shard: Shard,
        class_weights: Tensor | None,
    ) -> None:
        super().__init__()
        self.model, self._compute_loss = model, compute_loss
        self._shard, self._class_weights = shard, class_weights

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with _DrawnByExample(self._shard):
            loss, outputs = self._compute_loss(self.model, images, targets)
        own = weight_of(targets, self._class_weights)
        share = torch.as_tensor(own, dtype=torch.float64, device=loss.device)
        whole = torch.stack([loss.detach() * share, share])
        torch.distributed.all_reduce(whole)
        mean, weight = whole[0] / whole[1], share * self._shard.count / whole[1]
        loss = _Whole.apply(loss, mean.to(loss.dtype), weight.to(loss.dtype))
        return loss, outputs


class _Whole(torch.autograd.Function):
    """The whole batch's loss in place of a part's; the gradient goes to the part, weighted.

    DistributedDataParallel takes the mean of the processes' gradients, which the weights make that
    of the batch.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, mean: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return mean.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [weight] = ctx.saved_tensors
        return grads[0] * weight, None, None


class _DrawnByExample(TorchFunctionMode):
    """While entered, layers that draw at random draw for the whole batch and use their part of it.

    So an image has the same draws in whatever process it is computed.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self._total, self._rows = shard.total, shard.rows(shard.total)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = _DRAWING.get(func)
        num_rows = self._rows.stop - self._rows.start
        if kind is None or not args or args[0].ndim == 0 or len(args[0]) != num_rows:
            return func(*args, **kwargs)
        x, *rest = args
        whole = x.new_ones((self._total, *x.shape[1:]))
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        if kind == "scale":
            drawn = func(whole, *rest, **{**kwargs, "inplace": False})[self._rows]
            return x.mul_(drawn) if kwargs.get("inplace") else x * drawn
        drawn = func(whole, *rest, **kwargs)[self._rows]
        return x.copy_(drawn) if kind == "fill" else drawn


# By what becomes of the tensor that comes first: it is scaled, filled, or only looked at.
_DRAWING: Mapping[Any, str] = {
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), "scale"),
    **dict.fromkeys((torch.Tensor.bernoulli_, torch.Tensor.uniform_, torch.Tensor.normal_), "fill"),
    **dict.fromkeys((torch.rand_like, torch.randn_like), "like"),
}
