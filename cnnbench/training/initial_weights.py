"""Weights that a run begins with, from a run or a file that anyone may have written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import read_regular
from cnnbench.models.torchvision_models import fit_channels
from cnnbench.runs.checkpoint import read_foreign
from cnnbench.runs.network import read_weights

# Where people keep a state dict among other things; more than one of them is looked through.
_NESTED = ("model", "net", "state_dict", "model_state_dict", "network", "weights")
# What torch's wrappers put before names.
_WRAPPERS = ("module.", "_orig_mod.")
_COUNTER = "num_batches_tracked"
_DEPTH = 3
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class InitialWeights:
    """Tensors to begin with.

    Attributes:
        state: by name; after ``fit`` by the names of the network.
        class_names: that it was trained on; None where the file does not say.
        notes: what was done to make it fit.
    """

    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_initial(path: Path) -> InitialWeights:
    """Read a run's selected weights, one of our checkpoints, or anyone's state dict.

    Args:
        path: a run directory; or a file that ``torch.save`` wrote, or ``.safetensors``.

    Raises:
        CheckpointError: it is damaged, holds code, or no weights.
        UsageError: there is no such file or run, or safetensors is not installed.
    """
    if path.is_dir():
        if not (path / "checkpoints" / "manifest.json").exists():
            raise UsageError(f"model.weights={path}: no run with checkpoints")
        payload: Mapping[str, Any] = read_weights(path)[0]
    else:
        try:
            payload = read_foreign(read_regular(path), path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    state = _state_dict(payload)
    if state is None:
        keys = ", ".join(map(str, list(payload)[:5])) or "nothing"
        raise CheckpointError(
            f"{path}: holds no weights, but {keys}; expected a run, a file like epoch_0001.pt, or "
            f"a state dict, alone or under {', '.join(_NESTED[:4])}"
        )
    names = payload.get("class_names")
    is_named = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return InitialWeights(state, tuple(names) if is_named and names else None)


def _state_dict(payload: Mapping[Any, Any], depth: int = _DEPTH) -> dict[str, Tensor] | None:
    """Return the state dict in what a file holds; None where there is none."""
    tensors = {
        name: value
        for name, value in payload.items()
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    }
    if tensors and len(tensors) == len(payload):
        return tensors
    for key in _NESTED if depth else ():
        inner = payload.get(key)
        if isinstance(inner, Mapping) and (found := _state_dict(inner, depth - 1)) is not None:
            return found
    return None


def fit(
    weights: InitialWeights,
    expected: Mapping[str, Tensor],
    published: Callable[[], Iterable[Sequence[str]]],
) -> InitialWeights:
    """Give tensors the names that a network has for them, as far as wrappers explain the others.

    Args:
        weights: as ``read_initial`` returned them.
        expected: of the network, on any device.
        published: gives for each torchvision network that may be this one its names in its order;
            asked where the names do not fit.
    """
    state = _unwrapped(weights.state, expected.keys())
    notes = weights.notes
    counters = {name for name in expected if name.endswith(_COUNTER)}
    most = len(state.keys() & expected.keys())
    for names in published() if state.keys() | counters != expected.keys() else ():
        # Old files count no batches, and write DenseNet's names with one point more.
        theirs = {_DENSE.sub(r"\1\2.", name): tensor for name, tensor in weights.state.items()}
        theirs = _unwrapped(theirs, names)
        # Where some are missing or too many, the others' names make the refusal precise.
        num_shared = len(theirs.keys() & {*names})
        if num_shared <= most or len(names) != len(expected):
            continue
        most = num_shared
        renamed = dict(zip(names, expected, strict=True))
        state = {renamed.get(name, name): tensor for name, tensor in theirs.items()}
        state, note = _with_channels(state, expected)
        notes = (*weights.notes, "model.weights: torchvision's names, matched by their order")
        notes += note
    for name, tensor in expected.items():
        if name.endswith(_COUNTER) and name not in state:
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return replace(weights, state=state, notes=notes)


def _unwrapped(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Return a state dict under the names of which most are expected."""
    # An average of weights counts its updates.
    names = {name: name for name in state if name != "n_averaged"}
    forms = [names]
    plain = {name: _without_wrappers(name) for name in names}
    forms.append(plain)
    while len(heads := {name.partition(".")[0] for name in plain.values()}) == 1:
        head = f"{heads.pop()}."
        if not all(name.startswith(head) for name in plain.values()):
            break
        plain = {old: name.removeprefix(head) for old, name in plain.items()}
        forms.append(plain)
    heads = {name.partition(".")[0] for name in expected}
    if len(heads) == 1:
        head = f"{heads.pop()}."
        forms += [{old: head + name for old, name in form.items()} for form in list(forms)]
    best = max(forms, key=lambda form: len(set(form.values()) & set(expected)))
    return {new: state[old] for old, new in best.items()}


def _without_wrappers(name: str) -> str:
    name = name.replace("._orig_mod.", ".")
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _with_channels(
    state: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fit the first convolution's weights of three colours to the images' channels."""
    first = next((name for name, tensor in expected.items() if tensor.ndim == 4), None)
    if first is None or first not in state:
        return state, ()
    found, wanted = state[first].shape, expected[first].shape
    if found[1] != 3 or wanted[1] == 3 or found[0] != wanted[0] or found[2:] != wanted[2:]:
        return state, ()
    fitted = fit_channels(state[first], wanted[1])
    return {**state, first: fitted}, (f"model.weights: {first} is summed over the colours",)


def head_names(
    state: Mapping[str, Tensor], other: Mapping[str, Tensor], num_classes: int
) -> dict[str, tuple[int, ...]]:
    """Return the tensors that a network has for its classes, with the sides that do not count them.

    Args:
        state: of the network.
        other: of the same network with one class more.
        num_classes: of the network.
    """
    head = {
        name: tuple(
            dim
            for dim, pair in enumerate(zip(tensor.shape, other[name].shape, strict=True))
            if pair[0] == pair[1]
        )
        for name, tensor in state.items()
        if tensor.shape != other[name].shape
    }
    if head:
        return head
    # Code that is made for one number of classes: its last layer, if it gives as many logits.
    weight = next(reversed([n for n, t in state.items() if t.ndim > 1]), "")
    layer = weight.rpartition(".")[0]
    return {
        name: tuple(range(1, tensor.ndim))
        for name, tensor in state.items()
        if weight and name.rpartition(".")[0] == layer and tensor.shape[:1] == (num_classes,)
    }


def check_fit(
    weights: InitialWeights,
    expected: Mapping[str, Tensor],
    head: Mapping[str, tuple[int, ...]],
    label: str,
) -> None:
    """Refuse weights that differ from a network in more than the head.

    Args:
        weights: as ``fit`` returned them.
        expected: of the network.
        head: as ``head_names`` returned it.
        label: file and network, for the message.

    Raises:
        CheckpointError: what fits and what does not.
    """

    def fits(name: str) -> bool:
        if name not in weights.state or name not in expected:
            return False
        found, wanted = weights.state[name], expected[name]
        if found.is_floating_point() != wanted.is_floating_point():
            return False
        if name not in head or found.ndim != wanted.ndim:
            return found.shape == wanted.shape
        return all(found.shape[dim] == wanted.shape[dim] for dim in head[name])

    wrong = [name for name in {**expected, **weights.state} if not fits(name)]
    if not wrong:
        return
    shown = "; ".join(
        f"{name} is {_shape(weights.state, name)}, here {_shape(expected, name)}"
        for name in wrong[:3]
    )
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    num_fitting = sum(map(fits, expected))
    raise CheckpointError(
        f"{label}: {num_fitting} of {len(expected)} tensors fit; these do not: {shown}{more}"
    )


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def head_note(
    weights: InitialWeights,
    expected: Mapping[str, Tensor],
    head: Collection[str],
    class_names: Sequence[str],
) -> tuple[bool, str]:
    """Tell whether the head is taken over, and what to say of it; nothing where that is empty.

    The names of the classes decide, in their order: ten digits lend ten kinds of clothes nothing.

    Args:
        weights: that passed ``check_fit``.
        expected: of the network.
        head: names of the head's tensors.
        class_names: of the data.
    """
    names = weights.class_names
    is_shaped = all(weights.state[name].shape == expected[name].shape for name in head)
    random = f"starts from random weights: {', '.join(head)}"
    if names is None:
        if is_shaped:
            return True, (
                "model.weights: the file does not name its classes, so that its last layer is "
                f"taken as it is: {', '.join(head)}"
            )
        counts = {max(weights.state[name].shape) for name in head if expected[name].ndim == 1}
        made_for = f"{counts.pop()} classes" if len(counts) == 1 else "other classes"
        return False, f"model.weights: made for {made_for}; {random}"
    if len(names) != len(class_names) or not is_shaped:
        return False, f"model.weights: made for {len(names)} classes; {random}"
    if names == tuple(class_names):
        return True, ""
    at = next(n for n, name in enumerate(names) if name != class_names[n])
    what = (
        "the same classes in another order" if set(names) == set(class_names) else "other classes"
    )
    return False, (
        f"model.weights: made for {what} (class {at} was {names[at]!r} and is "
        f"{class_names[at]!r}); {random}"
    )
