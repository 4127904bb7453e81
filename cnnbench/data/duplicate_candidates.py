"""Which pairs of many images may be one image: a search that leaves few for a close look.

Near pairs lie close in a descriptor that hardly feels shifts (Fourier magnitudes of the windowed
image) and is whitened by what known damages do to these very images (linear discriminant analysis,
Fisher 1936). How close is close is set for each image by what the damages do to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.images import Images

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

CHUNK = 1024
_DIMENSIONS = 32
_SAMPLE = 1000
_MIN_NEIGHBOURS = 6
_MAX_PAIRS = 2**19
_COMPARE_ALL = 300
_RADIUS_SLACK = 1.2
# Levels that JPEG leaves of noise in a smooth image.
_NOISE = 3.0


def to_grey(images: Images) -> Floats:
    """Return (N, H, W): the mean of the channels, in levels of 0..255."""
    return np.asarray(images.mean(axis=1, dtype=np.float32))


@lru_cache(maxsize=8)
def resizings(side: int) -> list[Floats]:
    """Return square matrices: none, then 3/4 and back by each method, then 4/3 and back.

    Most libraries average when they make an image smaller; some only interpolate.
    """
    from PIL import Image

    def matrix(scale: float, method: Image.Resampling) -> Floats:
        there = Image.fromarray(identity).resize((side, round(side * scale)), method)
        return np.asarray(there.resize((side, side), method), dtype=np.float32)

    identity = np.eye(side, dtype=np.float32)
    ways = Image.Resampling
    less = [matrix(0.75, way) for way in (ways.BOX, ways.BILINEAR, ways.BICUBIC, ways.LANCZOS)]
    small = round(side * 0.75)
    interpolated = _interpolation(small, side) @ _interpolation(side, small)
    return [identity, *less, interpolated.astype(np.float32), matrix(4 / 3, ways.BILINEAR)]


def _interpolation(side: int, new_side: int) -> Floats:
    centres = (np.arange(new_side) + 0.5) * side / new_side - 0.5
    columns = [np.interp(centres, np.arange(side), column) for column in np.eye(side)]
    return np.stack(columns, axis=1)


def strongest_resizings(side: int) -> list[Floats]:
    """Return those of ``resizings`` that change an image most."""
    _, box, bilinear, bicubic, _, interpolated, _ = resizings(side)
    return [box, bilinear, bicubic, interpolated]


def resize(images: Floats, matrix: Floats) -> Floats:
    """Return images (..., S, S) resized along both sides by one of ``resizings``."""
    return np.asarray(np.matmul(np.matmul(matrix, images), matrix.T))


class _Descriptor:
    """Fourier magnitudes of the grey image: a shift hardly changes them.

    Whitened by ``learn`` so that a distance of 1 is what damages do.
    """

    def __init__(self, side: int) -> None:
        side -= 2
        count = min(8, side * 5 // 8)
        frequencies = np.arange(-count, count + 1) / (1.5 * side)
        waves = np.exp(-2j * np.pi * frequencies[:, None] * np.arange(side)).astype(np.complex64)
        edge = np.arange(side) + 0.5
        self._window = np.minimum(1, np.minimum(edge, edge[::-1]) / 2).astype(np.float32)
        self._rows, self._columns = waves[count:], waves
        self._projection: Floats | None = None

    def __call__(self, grey: Floats) -> Floats:
        # A shift leaves foreign pixels at the border.
        inside = grey[:, 1:-1, 1:-1]
        centred = inside - inside.mean(axis=(1, 2), keepdims=True)
        centred *= self._window[:, None] * self._window
        centred /= np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True) + 1)
        waves = np.matmul(np.matmul(self._rows, centred), self._columns.T)
        features = np.abs(waves).reshape(len(grey), -1)
        return np.asarray(features if self._projection is None else features @ self._projection)

    def learn(self, grey: Floats) -> None:
        """Keep the directions in which images differ most relative to their damaged copies."""
        features = self(grey)
        damaged = _damage(grey)
        within = np.zeros((features.shape[1],) * 2, dtype=np.float64)
        for copies in damaged:
            change = (self(copies) - features).astype(np.float64)
            within += change.T @ change / (len(grey) * len(damaged))
        levels, axes = np.linalg.eigh(within)
        whiten = axes / np.sqrt(levels + 1e-3 * levels.max() + 1e-9)
        _, axes = np.linalg.eigh(whiten.T @ np.cov(features.T) @ whiten)
        self._projection = (whiten @ axes[:, ::-1][:, :_DIMENSIONS]).astype(np.float32)


def _damage(grey: Floats) -> list[Floats]:
    """Return damaged copies that move a descriptor furthest: shifted, resized, and noisy."""
    shifted = []
    for down, right in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        copies = np.roll(grey, (down, right), axis=(1, 2))
        copies[:, 0 if down > 0 else -1] = 0
        copies[:, :, 0 if right > 0 else -1] = 0
        shifted.append(copies)
    resized = [resize(grey, matrix) for matrix in strongest_resizings(grey.shape[-1])]
    noise = np.random.default_rng(0).normal(0, _NOISE, grey.shape[1:])
    return [*shifted, *resized, grey + noise.astype(np.float32)]


def find_candidates(images: Images, rows: Rows) -> Rows:
    """Return (M, 3): two rows, the smaller first, and whether one is to be mirrored."""
    if len(rows) <= _COMPARE_ALL:
        first, second = np.triu_indices(len(rows), 1)
        both = np.stack([rows[first], rows[second]], axis=1)
        return np.concatenate([np.insert(both, 2, mirrored, axis=1) for mirrored in (0, 1)])
    descriptor = _Descriptor(images.shape[-1])
    descriptor.learn(to_grey(images[rows[np.linspace(0, len(rows) - 1, _SAMPLE, dtype=np.int64)]]))
    plain, mirrored, radii = [], [], []
    for start in range(0, len(rows), CHUNK):
        grey = to_grey(images[rows[start : start + CHUNK]])
        plain.append(descriptor(grey))
        mirrored.append(descriptor(grey[:, :, ::-1]))
        moved = [((descriptor(copies) - plain[-1]) ** 2).sum(axis=1) for copies in _damage(grey)]
        radii.append(_RADIUS_SLACK * np.max(moved, axis=0))
    radius = np.concatenate(radii)
    # The larger radius of a pair counts: in this order it is that of the first.
    order = np.argsort(-radius)
    keys, radius, rows = np.concatenate(plain)[order], radius[order], rows[order]
    found = []
    for flag, others in ((0, keys), (1, np.concatenate(mirrored)[order])):
        for pairs in _neighbours(keys, others, radius):
            found.append(np.insert(np.sort(rows[pairs], axis=1), 2, flag, axis=1))
    pairs = np.concatenate(found)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.asarray(np.unique(pairs, axis=0))


def _neighbours(keys: Floats, others: Floats, radius: Floats) -> Iterator[Rows]:
    """Yield, for blocks of ``keys``, the pairs with the nearest later others within its radius."""
    ones = np.ones(len(keys), dtype=np.float32)
    # One product gives radius minus squared distance.
    left = np.concatenate([2 * keys, np.stack([-ones, radius - (keys**2).sum(axis=1)], axis=1)], 1)
    right = np.concatenate([others, np.stack([(others**2).sum(axis=1), ones], axis=1)], axis=1).T
    neighbours = max(_MIN_NEIGHBOURS, _MAX_PAIRS // len(others))
    block = max(1, 2**24 // len(others))
    for start in range(0, len(keys), block):
        slack = left[start : start + block] @ right[:, start:]
        near, other = np.divmod(np.flatnonzero(slack > 0), slack.shape[1])
        order = np.lexsort((-slack[near, other], near))
        near, other = near[order], other[order]
        rank = np.arange(len(near)) - np.searchsorted(near, near)
        kept = rank <= neighbours
        yield np.stack([near[kept], other[kept]], axis=1) + start
