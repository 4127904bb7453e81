"""Data sets: readers, splits, the batched loader and batch transforms.

Nothing here loads torch but ``loader``, ``augment`` and ``transforms``, which are imported by name.
"""

from __future__ import annotations

from cnnbench.data.arrays import DatasetArrays, ImageArrays, ImageFiles
from cnnbench.data.images import decode_image, sample_grid
from cnnbench.data.notes import split_notes
from cnnbench.data.readers.sources import Facts, data_root
from cnnbench.data.split import split_train, stratified_sample, stratified_split
from cnnbench.data.table import (
    DATASETS,
    DatasetRow,
    check_augment,
    describe,
    fingerprint,
    read_dataset,
)

__all__ = [
    "DATASETS",
    "DatasetRow",
    "Facts",
    "check_augment",
    "describe",
    "fingerprint",
    "read_dataset",
    "data_root",
    "DatasetArrays",
    "ImageArrays",
    "ImageFiles",
    "split_notes",
    "split_train",
    "stratified_sample",
    "stratified_split",
    "decode_image",
    "sample_grid",
]
