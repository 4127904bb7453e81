"""Networks of runs and checkpoints, which a stranger may have written: nothing in them can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnbench.data.images import ON_WHITE, Decoding
from cnnbench.data.transforms import InputTransform, RowTransform
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import code_sha256, read_regular
from cnnbench.losses import CROSS_ENTROPY, LOSSES, Loss
from cnnbench.models import known_models
from cnnbench.models.build import arguments_of, build_meta, create
from cnnbench.models.custom import load_custom
from cnnbench.runs.checkpoint import Checkpoints, read_tensors
from cnnbench.runs.directory import RunDir

# Of targets that are numbers, and their values where they are not scaled.
_SCALE = {"target_mean": 0.0, "target_std": 1.0}
# What facts of a stranger's may raise where they are used.
_MALFORMED = (
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class LoadedNetwork:
    """A trained network with what it needs to predict, on the CPU.

    Attributes:
        module: in evaluation mode.
        transform: from uint8 images to its input.
        in_channels: channels of its images.
        class_names: the name of each class; of the number, where that is predicted.
        loss: what it was trained towards, which says what its outputs mean.
        columns: of a table's network, the names of the columns it takes; empty for images.
        target_mean: what was taken from numbers to make targets.
        target_std: what they were divided by.
        border: how bright the borders of the training images were, from 0 to 1; None where an
            older version did not record it.
        decoding: how image files are read for it: as those that it was trained on, where it was,
            else with the brighter or darker background that its training images have.
    """

    module: nn.Module
    transform: InputTransform | RowTransform
    in_channels: int
    class_names: tuple[str, ...]
    border: float | None = None
    loss: Loss = CROSS_ENTROPY
    columns: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_std: float = 1.0
    decoding: Decoding = ON_WHITE

    def check_images(self) -> None:
        """Refuse to look at images with a network of rows.

        Raises:
            UsageError: it was trained on a table.
        """
        if self.columns:
            raise UsageError(
                f"this run was trained on rows of {len(self.columns)} numbers, not on images; "
                "train, evaluate, predict and compare take such runs"
            )

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return logits of the classes, (N, num_classes), or predicted numbers, (N,), in float32.

        Args:
            inputs: as the transform gives them.
        """
        return self.loss.outputs(self.module(inputs).float())


def read_weights(path: Path) -> tuple[dict[str, Any], Path]:
    """Return the weights of a run's selected epoch, or of one checkpoint file.

    Args:
        path: a run directory, or a file like ``epoch_0001.pt``.

    Returns:
        What the file holds, as data alone: ``model`` (the state dict), ``network``, ``class_names``
        and ``preprocessing``; and the file, for messages.

    Raises:
        CheckpointError: it is damaged or none of ours.
        UsageError: there is no such file, or the run has no checkpoint.
    """
    if path.is_dir():
        checkpoints = Checkpoints(path / "checkpoints")
        manifest = checkpoints.manifest()
        name = manifest["best"] or manifest["last"]
        return checkpoints.load(name), checkpoints.directory / f"{name}.pt"
    try:
        payload = read_tensors(read_regular(path), path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if not {"model", "network"} <= payload.keys():
        raise CheckpointError(f"{path}: holds no weights; expected a file like epoch_0001.pt")
    return payload, path


def load_run(run: RunDir, model_path: str | None = None) -> LoadedNetwork:
    """Return a run's network with the selected epoch's weights, on the CPU.

    Args:
        run: an existing run; its data set is not needed.
        model_path: ``FILE:CLASS`` of a custom network, whose code no run may name itself.

    Raises:
        UsageError: the network is custom, and ``model_path`` is missing or cannot be used.
        CheckpointError: there is no checkpoint, or it is damaged or foreign.
    """
    weights, file = read_weights(run.path)
    return load_network(weights, file, model_path)


def load_network(
    weights: Mapping[str, Any], source: Path, model_path: str | None = None
) -> LoadedNetwork:
    """Build the network of a checkpoint.

    Nothing in the checkpoint decides more than sizes: the name must be registered, the arguments
    must fit, and all shapes are compared on the meta device before memory is taken. The code of a
    custom network comes from the caller, and must be what the run was trained with.

    Args:
        weights: as ``Checkpoints.load`` returned them.
        source: for messages.
        model_path: ``FILE:CLASS`` of a custom network, from the person at the keyboard.

    Raises:
        CheckpointError: it does not fit a network of ours, or the file is not the recorded one.
        UsageError: ``model_path`` is missing, or cannot be used.
    """
    try:
        facts, preprocessing = weights["network"], weights["preprocessing"]
        sizes = {name: facts[name] for name in ("in_channels", "num_classes", "image_size")}
        name, args = facts["name"], recorded_args(facts, source, model_path)
        meta = build_meta(name, args, **sizes)
        expected = {k: (v.shape, v.dtype) for k, v in meta.state_dict().items()}
        came = {k: (v.shape, v.dtype) for k, v in weights["model"].items()}
        if expected != came:
            wrong = [k for k in {**expected, **came} if expected.get(k) != came.get(k)]
            raise UsageError(f"the weights are of another network: {', '.join(wrong[:3])}")
        module = create(name, args, sizes)
        module.load_state_dict(weights["model"])
        columns = tuple(map(str, preprocessing.get("columns", ())))
        constants = {"mean": preprocessing["mean"], "std": preprocessing["std"]}
        transform = (
            RowTransform(**constants)
            if columns
            else InputTransform(image_size=preprocessing["image_size"], **constants)
        )
        if columns and len(columns) != sizes["in_channels"]:
            raise UsageError("it has not one name for each column")
        scale = {of: float(preprocessing.get(of, one)) for of, one in _SCALE.items()}
        if preprocessing["image_size"] != sizes["image_size"] or not all(
            len(preprocessing[name]) == sizes["in_channels"] for name in ("mean", "std")
        ):
            raise UsageError("its preprocessing is of other images than its network's")
        class_names = tuple(map(str, weights["class_names"]))
        loss = _recorded_loss(weights.get("loss"), len(class_names))
        if loss.width(len(class_names)) != sizes["num_classes"]:
            raise UsageError("it has not one name for each class")
        border = preprocessing.get("border")
        if border is not None and not 0 <= border <= 1:
            raise UsageError("the brightness of its borders is no fraction")
        is_dark = border is not None and border < 0.5
        decoding = Decoding(**preprocessing.get("decoding", {"background": 0 if is_dark else 255}))
    except CodeNeededError:
        raise
    except (*_MALFORMED, RuntimeError) as error:
        raise CheckpointError(f"{source}: not a checkpoint of ours: {error}") from None
    return LoadedNetwork(
        module.eval(),
        transform,
        sizes["in_channels"],
        class_names,
        border,
        loss,
        columns,
        decoding=decoding,
        **scale,
    )


def _recorded_loss(name: Any, num_classes: int) -> Loss:
    """Return the loss that a checkpoint names; before there was a choice, none was named.

    Raises:
        UsageError: there is no such loss, or not for so many classes.
    """
    loss = CROSS_ENTROPY if name is None else LOSSES[str(name)]
    if loss.has_one_output and num_classes != (1 if loss.is_number else 2):
        raise UsageError(f"its loss is {loss.name} and its classes are {num_classes}")
    return loss


def load_meta(
    facts: Mapping[str, Any], source: Path, model_path: str | None
) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build a recorded network without its weights, and say which images it takes.

    Args:
        facts: as ``Network.to_dict`` gave them, perhaps from a stranger.
        source: for messages.
        model_path: as ``recorded_args`` takes it.

    Raises:
        CheckpointError: the facts do not fit a network of ours.
        UsageError: the network is custom, and ``model_path`` is missing or cannot be used.
    """
    try:
        sizes = {name: int(facts[name]) for name in ("in_channels", "num_classes", "image_size")}
        args = recorded_args(facts, source, model_path)
        module = build_meta(facts["name"], args, **sizes)
    except CodeNeededError:
        raise
    except _MALFORMED as error:
        raise CheckpointError(f"{source}: not a network of ours: {error}") from None
    return module, (sizes["in_channels"], sizes["image_size"], sizes["image_size"])


class CodeNeededError(UsageError):
    """A run of a custom network, whose code only its owner may name."""


def recorded_args(facts: Mapping[str, Any], source: Path, model_path: str | None) -> dict[str, Any]:
    """Return the arguments of a recorded network, with the code that the caller names.

    Args:
        facts: as ``Network.to_dict`` gave them, perhaps from a stranger.
        source: for messages.
        model_path: ``FILE:CLASS``, needed where the network is custom and useless elsewhere.

    Raises:
        CodeNeededError: the network is custom and ``model_path`` is missing or cannot be used.
        CheckpointError: the network is unknown, or the file is not the recorded one.
    """
    args: dict[str, Any] = arguments_of(facts["args"])
    if facts["name"] != "custom":
        if facts["name"] not in known_models():
            raise CheckpointError(
                f"{source}: the network '{facts['name']}' is unknown; if a package gives it, "
                "install that"
            )
        return args
    recorded = str(facts.get("file_sha256"))
    if model_path is None:
        raise CodeNeededError(
            f"{source}: a network of someone's own ({args.get('path')}, SHA-256 {recorded[:12]}). "
            "Code that a run names is not run; name it yourself: --model-path FILE:CLASS"
        )
    try:
        digest = code_sha256("model.path", model_path)
        if digest != recorded:
            raise CheckpointError(
                f"--model-path {model_path}: not the file this run was trained with "
                f"(SHA-256 {digest[:12]}, recorded {recorded[:12]})"
            )
        load_custom(model_path)
    except UsageError as error:
        raise CodeNeededError(str(error)) from None
    return {**args, "path": model_path}
