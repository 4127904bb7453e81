"""How a config's training images look, augmented ones included."""

from __future__ import annotations

from pathlib import Path

from cnnbench.config.run_config import RunConfig
from cnnbench.data import manage, read_dataset
from cnnbench.data.augment import versions
from cnnbench.data.table import refuse_tables
from cnnbench.files import expand_path
from cnnbench.notices import notice
from cnnbench.rendering.figures import plain, style
from cnnbench.training.data import build_augment

_NUM_IMAGES = 10
_NUM_VERSIONS = 3


def draw_samples(config: RunConfig, path: Path) -> None:
    """Save a row of training images, one of each class and ten at most, their versions below.

    Args:
        config: its data, augmentation and seed count.
        path: an image file, which is replaced.

    Raises:
        UsageError: the file's ending is no image's.
        DataError: the data is missing or damaged.
        DiskError: the file cannot be written.
    """
    data, augment = config.data, build_augment(config)
    refuse_tables(data.name, "data show draws images")
    arrays = read_dataset(
        data.name,
        root=expand_path(data.root),
        args=data.args,
        image_size=data.image_size,
        report=notice,
    )
    images, names = manage.samples(arrays, _NUM_IMAGES)
    rows = versions(
        images, augment, image_size=data.image_size, seed=config.seed, count=_NUM_VERSIONS
    )
    with style():
        manage.save_samples(rows, [plain(name) for name in names], path)
