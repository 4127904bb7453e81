"""The network of a config: measured, built, and given its first weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cnnbench.config.run_config import RunConfig
from cnnbench.data import Facts
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import expand_path
from cnnbench.losses import LOSSES
from cnnbench.models import MODELS, initialize
from cnnbench.models.build import Network, build_meta, create, measure_network
from cnnbench.models.init import first_convolution
from cnnbench.models.torchvision_models import TorchvisionModel
from cnnbench.runs.network import read_weights
from cnnbench.seeds import derive_seed


def describe_network(config: RunConfig, facts: Facts) -> Network:
    """Measure the network of a config on the meta device, which takes no memory.

    Args:
        config: checked.
        facts: of its data.

    Raises:
        UsageError: an argument is impossible, or the images are too small.
    """
    if facts.columns and config.model.name in MODELS and not MODELS[config.model.name].takes_rows:
        names = ", ".join(name for name, row in MODELS.items() if row.takes_rows)
        raise UsageError(
            f"model={config.model.name}: looks at images, and data={config.data.name} has rows of "
            f"{len(facts.columns)} numbers; expected one of {names}, or custom"
        )
    return measure_network(config.model.name, config.model.args, **network_sizes(config, facts))


def network_sizes(config: RunConfig, facts: Facts) -> dict[str, int]:
    """Return what a network's constructor must know of its data, and of its loss.

    Args:
        config: checked.
        facts: of its data.
    """
    return {
        "in_channels": facts.in_channels,
        "num_classes": LOSSES[config.loss.name].width(facts.num_classes),
        "image_size": config.data.image_size,
    }


def build_model(config: RunConfig, network: Network) -> nn.Module:
    """Return the network with its initial weights, drawn from the config's seed.

    It seeds torch's global generator.

    Args:
        config: checked.
        network: as ``describe_network`` measured it.
    """
    torch.manual_seed(derive_seed(config.seed, "init"))
    model = create(network.name, config.model.args, network.sizes)
    initialize(model, config.model.init, config.model.init_layers)
    return model


def check_initial_weights(config: RunConfig, network: Network) -> None:
    """Find out, before a run is made, whether it can begin with the weights that it names.

    Published weights that are not on this machine are fetched.

    Raises:
        CheckpointError: the weights are damaged or of another network.
        DataError: published weights are neither here nor to be had, or damaged.
        UsageError: there is no such file or run, or no layer that ``model.init`` sets.
    """
    if config.model.whiten:
        first_convolution(build_meta(network.name, config.model.args, **network.sizes))
    if config.model.init != "default":
        module = build_meta(network.name, config.model.args, **network.sizes)
        initialize(module, config.model.init, config.model.init_layers)
    if config.model.args.get("pretrained", "none") != "none":
        module = build_meta(network.name, config.model.args, **network.sizes)
        assert isinstance(module, TorchvisionModel)
        module.pretrained_state()
    if config.model.weights is not None:
        _read_initial_weights(config, network)


def load_initial_weights(model: nn.Module, config: RunConfig, network: Network) -> str | None:
    """Give a new network the weights that its config names, if any.

    Args:
        model: as ``build_model`` returned it.
        config: checked; ``model.pretrained`` or ``model.weights`` says which weights.
        network: as ``build_model`` had it.

    Returns:
        What is worth telling the user, in one line.

    Raises:
        CnnbenchError: as ``check_initial_weights``.
    """
    if isinstance(model, TorchvisionModel) and model.pretrained != "none":
        model.load_pretrained()
    if config.model.weights is None:
        return None
    loaded, num_classes = _read_initial_weights(config, network)
    random = model.state_dict()
    head = [name for name, tensor in random.items() if loaded[name].shape != tensor.shape]
    model.load_state_dict({**loaded, **{name: random[name] for name in head}})
    if not head:
        return None
    names = ", ".join(head)
    return f"model.weights: made for {num_classes} classes; starts from random weights: {names}"


def _read_initial_weights(config: RunConfig, network: Network) -> tuple[dict[str, Tensor], int]:
    """Return the tensors that ``model.weights`` names, and the classes they were made for."""
    assert config.model.weights is not None
    path = expand_path(config.model.weights)
    if path.is_dir() and not (path / "checkpoints" / "manifest.json").exists():
        raise UsageError(f"model.weights={path}: no run with checkpoints")
    payload, _ = read_weights(path)
    try:
        loaded: dict[str, Tensor] = payload["model"]
        num_classes = int(payload["network"]["num_classes"])
        shapes = _shapes(loaded)
        # What the same network has for the other classes tells its head from another network.
        sizes = {**network.sizes, "num_classes": num_classes}
        expected = _shapes(build_meta(network.name, config.model.args, **sizes).state_dict())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of ours: {error}") from None
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    if wrong:
        differences = "; ".join(
            f"{name} is {shapes.get(name, 'absent')}, here {expected.get(name, 'absent')}"
            for name in wrong[:3]
        )
        raise CheckpointError(
            f"{path}: weights of another network than model={network.name}: {differences}"
        )
    return loaded, num_classes


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
