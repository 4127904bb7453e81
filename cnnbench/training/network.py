"""The network of a config: measured, built, and given its first weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cnnbench.config.run_config import RunConfig
from cnnbench.data import Facts
from cnnbench.data.splits import Splits
from cnnbench.errors import UsageError
from cnnbench.files import expand_path
from cnnbench.losses import LOSSES
from cnnbench.models import MODELS, initialize
from cnnbench.models.build import Network, build_meta, create, measure_network
from cnnbench.models.init import first_convolution, whiten
from cnnbench.models.torchvision_models import TorchvisionModel, published_names
from cnnbench.seeds import derive_seed, seed_python
from cnnbench.training.initial_weights import (
    check_fit,
    fit,
    head_names,
    head_note,
    read_initial,
)

# So many images show the directions in which small patches vary.
_WHITEN_IMAGES = 1000


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


def has_batch_norm(config: RunConfig, network: Network) -> bool:
    """Tell whether a network has layers that normalise over the images of a batch."""
    module = build_meta(network.name, config.model.args, **network.sizes)
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


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

    It seeds the global generators of torch, Python and NumPy.

    Args:
        config: checked.
        network: as ``describe_network`` measured it.
    """
    seed = derive_seed(config.seed, "init")
    torch.manual_seed(seed)
    seed_python(seed)
    model = create(network.name, config.model.args, network.sizes)
    initialize(model, config.model.init, config.model.init_layers)
    return model


def check_initial_weights(config: RunConfig, network: Network, class_names: Sequence[str]) -> None:
    """Find out, before a run is made, whether it can begin with the weights that it names.

    Published weights that are not on this machine are fetched.

    Args:
        config: checked.
        network: as ``describe_network`` measured it.
        class_names: of the data.

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
        _initial_state(config, network, class_names)


def load_initial_weights(
    model: nn.Module, config: RunConfig, network: Network, class_names: Sequence[str]
) -> str | None:
    """Give a new network the weights that its config names, if any.

    Args:
        model: as ``build_model`` returned it.
        config: checked; ``model.pretrained`` or ``model.weights`` says which weights.
        network: as ``build_model`` had it.
        class_names: of the data; where the weights were made for others, the head stays random.

    Returns:
        What is worth telling the user, a line for each thing.

    Raises:
        CnnbenchError: as ``check_initial_weights``.
    """
    if isinstance(model, TorchvisionModel) and model.pretrained != "none":
        model.load_pretrained()
    if config.model.weights is None:
        return None
    state, notes = _initial_state(config, network, class_names)
    model.load_state_dict({**model.state_dict(), **state})
    return "\n".join(notes) or None


def _initial_state(
    config: RunConfig, network: Network, class_names: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of ``model.weights`` that are taken over, and what to say of them."""
    assert config.model.weights is not None
    path = expand_path(config.model.weights)
    more = {**network.sizes, "num_classes": network.num_classes + 1}
    expected, other = (
        build_meta(network.name, config.model.args, **sizes).state_dict()
        for sizes in (network.sizes, more)
    )
    weights = fit(read_initial(path), expected, partial(published_names, network.name))
    head = head_names(expected, other, network.num_classes)
    label = f"{path}: weights of another network than model={network.name}"
    check_fit(weights, expected, head, label)
    takes_head, note = head_note(weights, expected, head, class_names)
    state = {n: t for n, t in weights.state.items() if takes_head or n not in head}
    return state, [*weights.notes, *filter(None, (note,))]


def first_weights(
    model: nn.Module, config: RunConfig, network: Network, data: Splits
) -> str | None:
    """Give the network of a new run what it begins with beside what the seed draws.

    Args:
        model: as ``build_model`` returned it.
        config: checked.
        network: as ``describe_network`` measured it.
        data: of the run.

    Returns:
        What is worth telling the user, a line for each thing.

    Raises:
        CnnbenchError: as ``check_initial_weights``.
    """
    note = load_initial_weights(model, config, network, data.class_names)
    whiten_first(model, config, data)
    return note


def whiten_first(model: nn.Module, config: RunConfig, data: Splits) -> None:
    """Start the first convolution with filters that whiten the images, where the config says so."""
    if config.model.whiten:
        whiten(model, data.prepare(*data.spread_images(_WHITEN_IMAGES))[0].cpu())
