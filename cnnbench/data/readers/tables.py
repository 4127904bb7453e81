"""Tables that come along: three rows of ours, and two that scikit-learn carries in its package."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import DatasetArrays
from cnnbench.data.readers.rows import Rows, table_arrays
from cnnbench.errors import DataError

_HOURS = ((1.0, "0"), (2.0, "0"), (3.0, "1"))
_TUMOUR = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
)


def hours_to_pass() -> tuple[Rows, Rows]:
    """Return three students' hours of study, and who passed; the same rows test."""
    values = np.array([[hours] for hours, _ in _HOURS])
    rows = Rows("hours", ("hours",), "passed", values, tuple(p for _, p in _HOURS), (1, 2, 3))
    return rows, rows


def breast_cancer() -> tuple[Rows, None]:
    """Return scikit-learn's copy of the Wisconsin table: 569 tumours, 30 measurements."""
    table = _from_scikit_learn("breast_cancer.csv", skip=1)
    names = tuple(f"{kind} {name}" for kind in ("mean", "error of", "worst") for name in _TUMOUR)
    kinds = ("malignant", "benign")
    targets = tuple(kinds[int(value)] for value in table[:, -1])
    return _rows("breast_cancer", names, "tumour", table[:, :-1], targets), None


def diabetes() -> tuple[Rows, None]:
    """Return scikit-learn's diabetes table: 442 patients, 10 measurements, and the progression."""
    names = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    values = _from_scikit_learn("diabetes_data_raw.csv.gz")
    targets = _from_scikit_learn("diabetes_target.csv.gz")[:, 0]
    return _rows("diabetes", names, "progression", values, tuple(map(repr, targets.tolist()))), None


def _rows(
    where: str,
    columns: tuple[str, ...],
    target: str,
    values: NDArray[np.float64],
    targets: tuple[str, ...],
) -> Rows:
    return Rows(where, columns, target, values, targets, tuple(range(1, len(values) + 1)))


def _from_scikit_learn(name: str, skip: int = 0) -> NDArray[np.float64]:
    """Return a table of numbers that scikit-learn carries, without importing it.

    Raises:
        DataError: scikit-learn is not installed, or its file is damaged.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("scikit-learn carries this table and is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / name
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("ascii")
        lines = text.replace(",", " ").splitlines()[skip:]
        return np.array([line.split() for line in lines], dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}. Reinstall scikit-learn.") from None


TABLES = {"hours_to_pass": hours_to_pass, "breast_cancer": breast_cancer, "diabetes": diabetes}


@lru_cache(maxsize=len(TABLES) * 2)
def read_table(name: str, is_number: bool) -> DatasetArrays:
    """Read one of ``TABLES``.

    Args:
        name: a key of it.
        is_number: whether its target is taken for a number.
    """
    rows, test = TABLES[name]()
    return table_arrays(rows, test, is_number=is_number, source=f"comes along: {name}")


def table_fingerprint(arrays: DatasetArrays) -> str:
    """Return an identity of a table's contents and names."""
    named = json.dumps([arrays.sha256, arrays.columns, arrays.class_names])
    return hashlib.sha256(named.encode()).hexdigest()
