"""From a config or a checkpoint to a network: built, measured, and given its first weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from cnnbench.config.run_config import RunConfig
from cnnbench.data import describe
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import expand_path
from cnnbench.models import initialize
from cnnbench.models.build import Network, build_meta, create, measure_network
from cnnbench.models.torchvision_models import TorchvisionModel
from cnnbench.runs.network import read_weights


class Facts(Protocol):
    """What a network must know of its images."""

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes to tell apart."""
        ...


def facts_of(config: RunConfig) -> Facts:
    """Return what is known of a config's data without reading its pictures.

    Raises:
        DataError: ``data=folder`` is not laid out as it must be.
    """
    root = expand_path(config.data.root)
    return describe(config.data.name, root, config.data.args)


def describe_network(config: RunConfig, data: Facts | None = None) -> Network:
    """Measure the network of a config on the meta device, which takes no memory.

    Args:
        config: checked.
        data: the data, where it was read; else what is known of it without reading.

    Raises:
        UsageError: an argument is impossible, or the images are too small.
        DataError: ``data=folder`` is not laid out as it must be.
    """
    facts = data if data is not None else facts_of(config)
    model = config.model
    return measure_network(
        model.name,
        model.args,
        in_channels=facts.in_channels,
        num_classes=facts.num_classes,
        image_size=config.data.image_size,
    )


def build_model(config: RunConfig, data: Facts) -> nn.Module:
    """Return the network with its initial weights, from torch's global generator."""
    sizes = {
        "in_channels": data.in_channels,
        "num_classes": data.num_classes,
        "image_size": config.data.image_size,
    }
    model = create(config.model.name, config.model.args, sizes)
    initialize(model, config.model.init, config.model.init_layers)
    return model


def check_start(config: RunConfig) -> None:
    """Find out, before a run is made, whether it can start from the weights it names.

    Published weights that are not on this machine are fetched.

    Raises:
        CheckpointError: the weights are damaged or of another network.
        DataError: published weights are neither here nor to be had, or damaged.
        UsageError: there is no such file or run.
    """
    model, facts = config.model, facts_of(config)
    if model.args.get("pretrained", "none") != "none":
        network = build_meta(
            model.name,
            model.args,
            in_channels=facts.in_channels,
            num_classes=facts.num_classes,
            image_size=config.data.image_size,
        )
        assert isinstance(network, TorchvisionModel)
        network.pretrained_state()
    if model.weights is not None:
        _start_weights(config, facts)


def start(model: nn.Module, config: RunConfig, data: Facts) -> str | None:
    """Give a new network the weights that its config starts from, if any.

    Args:
        model: as ``build_model`` made it.
        config: checked; ``model.pretrained`` or ``model.weights`` says which weights.
        data: as ``build_model`` had it.

    Returns:
        What is worth saying, in one line.

    Raises:
        CnnbenchError: as ``check_start``.
    """
    if isinstance(model, TorchvisionModel) and model.pretrained != "none":
        model.load_pretrained()
    if config.model.weights is None:
        return None
    came, num_classes = _start_weights(config, data)
    own = model.state_dict()
    head = [name for name, tensor in own.items() if came[name].shape != tensor.shape]
    model.load_state_dict({**came, **{name: own[name] for name in head}})
    if not head:
        return None
    return f"model.weights: made for {num_classes} classes; starts anew: {', '.join(head)}"


def _start_weights(config: RunConfig, data: Facts) -> tuple[dict[str, Tensor], int]:
    """Return the tensors that ``model.weights`` names, and the classes they were made for."""
    assert config.model.weights is not None
    path = expand_path(config.model.weights)
    if path.is_dir() and not (path / "checkpoints" / "manifest.json").exists():
        raise UsageError(f"model.weights={path}: no run with checkpoints")
    payload, _ = read_weights(path)
    try:
        came: dict[str, Tensor] = payload["model"]
        num_classes = int(payload["network"]["num_classes"])
        shapes = _shapes(came)
        # What the same network has for the other classes tells its head from another network.
        peer = build_meta(
            config.model.name,
            config.model.args,
            in_channels=data.in_channels,
            num_classes=num_classes,
            image_size=config.data.image_size,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of ours: {error}") from None
    expected = _shapes(peer.state_dict())
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    if wrong:
        differences = "; ".join(
            f"{name} is {shapes.get(name, 'absent')}, here {expected.get(name, 'absent')}"
            for name in wrong[:3]
        )
        raise CheckpointError(
            f"{path}: weights of another network than model={config.model.name}: {differences}"
        )
    return came, num_classes


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
