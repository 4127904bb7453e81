"""The types of the arguments that only some choices of a group have, each with its marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cnnbench.config.roles import CONTENT, MOVABLE_CONTENT, Before
from cnnbench.config.schema import (
    Count,
    Fraction,
    IsPath,
    OpenArgs,
    PathText,
    Positive,
    Probability,
    Range,
    RatioNumber,
    Seed,
    Size,
)


@dataclass(frozen=True)
class Only:
    """Marks an argument of which some choices take other values than the rest.

    Attributes:
        choices: patterns of their names, joined by ``|``.
        kind: the type of what they take.
    """

    choices: str
    kind: Any


_CODE = IsPath("FILE.py:NAME, code of your own")

# The types of the arguments that only some choices of a group have. One name has one meaning
# throughout a group; a test holds the choices' YAML and constructors to these rows.
ARGUMENTS: dict[tuple[str, str], Any] = {
    ("augment", "brightness"): Annotated[float, Range(ge=0, le=1), Before(0.0)],
    ("augment", "contrast"): Annotated[float, Range(ge=0, le=1), Before(0.0)],
    ("augment", "crop_padding"): Size,
    ("augment", "cutmix_alpha"): Annotated[float, Range(ge=0)],
    ("augment", "erase_fraction"): Annotated[float, Range(ge=0.02, le=1)],
    ("augment", "erase_probability"): Fraction,
    ("augment", "flip"): bool | Literal["alternating"],
    ("augment", "mixup_alpha"): Annotated[float, Range(ge=0)],
    ("augment", "randaugment_magnitude"): Annotated[int, Range(ge=0, le=30), Before(9)],
    ("augment", "randaugment_ops"): Annotated[Size, Before(0)],
    ("augment", "rotate_degrees"): Annotated[float, Range(ge=0, le=180)],
    ("data", "args"): OpenArgs,
    ("data", "data_seed"): Seed,
    ("data", "delimiter"): Literal["auto", "comma", "semicolon", "tab", "pipe"],
    ("data", "header"): bool | Literal["auto"],
    ("data", "in_channels"): Count,
    ("data", "native_size"): Count,
    ("data", "num_classes"): Annotated[int, Range(ge=2)],
    ("data", "num_test"): Count,
    ("data", "num_train"): Count,
    # Folders were divided by position before there was a choice.
    ("data", "split"): Literal["letters", "balanced"],
    ("data", "split_by"): Annotated[Literal["path", "position"], Before("position", "folder")],
    ("loss", "class_weights"): Literal["none", "balanced"],
    ("loss", "label_smoothing"): Probability,
    ("data", "path"): Annotated[str, _CODE, CONTENT],
    ("data", "target"): Count | str | None,
    ("data", "test_root"): Annotated[PathText | None, MOVABLE_CONTENT],
    ("model", "activation"): Literal["relu", "tanh", "sigmoid", "none"],
    ("model", "arch"): str,
    ("model", "args"): OpenArgs,
    ("model", "aux"): bool,
    ("model", "aux_weight"): Annotated[float, Range(ge=0), Before(0.3, "custom|googlenet")],
    ("model", "conv_channels"): tuple[Count, ...],
    ("model", "dilation"): Annotated[Count, Before(1, "basic_cnn")],
    ("model", "dropout"): Probability,
    ("model", "dropout_position"): Annotated[Literal["after", "before"], Before("after", "vgg*")],
    ("model", "factorize"): Literal["none", "3x3", "asymmetric", "asymmetric_pad_first"],
    ("model", "factorize_stages"): tuple[Literal[3, 4, 5], ...],
    ("model", "final_relu"): Annotated[bool, Before(False, "nin_cifar")],
    ("model", "freeze"): Literal["none", "backbone"],
    ("model", "groups"): Literal[1, 2],
    ("model", "growth_rate"): Count,
    ("model", "head"): Annotated[
        Literal["linear", "gap", "conv1x1", "replace", "append"],
        Only("alexnet*|vgg*", Literal["linear", "gap", "conv1x1"]),
        Only("torchvision", Literal["replace", "append"]),
        Before("linear", "vgg*"),
    ],
    ("model", "head_size"): Count,
    ("model", "hidden"): tuple[Count, ...],
    # GoogLeNet always recorded its norm; other networks had none at first.
    ("model", "norm"): Annotated[
        Literal["none", "conv", "block", "hidden", "all"],
        Only("googlenet", Literal["none", "conv", "block"]),
        Only("lenet", Literal["none", "conv", "hidden", "all"]),
        Only("mlp", Literal["none", "hidden"]),
        Only("vgg*", Literal["none", "conv"]),
        Before("none", "lenet|mlp|vgg*"),
    ],
    ("model", "padding"): Annotated[Size, Before(2, "lenet")],
    ("model", "path"): Annotated[str, _CODE, CONTENT],
    ("model", "pool"): Literal["max", "avg"],
    ("model", "pool_ceil_mode"): Annotated[bool, Before(False, "resne*|wide_resnet*")],
    ("model", "pretrained"): str,
    ("model", "residual"): bool,
    ("model", "residual_scale"): Positive,
    ("model", "stem"): Literal["imagenet", "small"],
    ("model", "stem_stride"): Count,
    ("model", "stride_in_1x1"): bool,
    ("model", "width_multiplier"): RatioNumber,
    ("model", "widths"): tuple[Count, ...],
    ("model", "zero_init"): bool,
    ("optimizer", "alpha"): Probability,
    ("optimizer", "betas"): tuple[Probability, ...],
    ("optimizer", "centered"): bool,
    ("optimizer", "decoupled_weight_decay"): Annotated[bool, Before(False, "sgd*")],
    ("optimizer", "eps"): Positive,
    ("optimizer", "momentum"): Probability,
    ("scheduler", "final_factor"): Fraction,
    ("scheduler", "gamma"): Fraction,
    ("scheduler", "milestones"): tuple[Fraction, ...],
    ("scheduler", "peak_fraction"): Fraction,
    ("scheduler", "start_factor"): Fraction,
}
