"""Data sets: readers, splits, the batched loader and batch transforms.

``table`` has the data sets by name, ``readers/`` a file for each source or format, ``splits`` the
three parts as batches. Which data set a run reads belongs to ``training.data``: nothing here sees a
config. Nothing loads torch but ``loader``, ``splits``, ``augment`` and ``transforms``, which are
imported by name. Imports the ground: ``errors``, ``files``, ``registry``, ``seeds``.
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
