"""Which of many images are one image up to small damage.

A pair is near when, over the family of mirroring, shifts by a pixel, resizing and brightness, what
remains between the two is no more than what JPEG does to the image itself. So the limit adapts to
the data: an 8x8 digit and a photograph are measured against their own damage.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnnbench.data.duplicate_candidates import (
    CHUNK,
    Floats,
    Rows,
    find_candidates,
    resize,
    resizings,
    strongest_resizings,
    to_grey,
)
from cnnbench.data.images import Images

MAX_SIDE = 32
JPEG_QUALITY = 75
# Of what remains between two images, over what JPEG does to one: at full resolution, of the means
# of 2x2 and of 4x4 pixels. Set between damaged and other images of digits and Fashion-MNIST.
LIMITS = ((1, 1.9), (2, 1.9), (4, 2.5))
# Below this standard deviation (levels of 0..255) an image is too flat to recognise.
MIN_CONTRAST = 5.0
# Few pixels look alike by chance more often.
_SMALL_SIDE = 14
_SMALL_FACTOR = 0.84
_GAINS = (0.87, 1.15)
_MAX_OFFSET = 30.0
# Levels that JPEG leaves of noise in a smooth image once it is blurred.
_BLURRED_NOISE = 1.5
# No resizing explains more than this many times the limit.
_HOPELESS = 10.0
# Up to this many times the limit, the same JPEG encoding may explain what remains.
_NEARLY = 1.6


@dataclass(frozen=True)
class NearPairs:
    """Pairs of rows that hold the same image up to small damage.

    Attributes:
        pairs: (M, 2), rows, the smaller first, sorted.
        scores: (M,), what remains between the two over what is allowed, in [0, 1].
    """

    pairs: Rows
    scores: Floats


def find_near_pairs(images: Images, step: float = 1.0) -> NearPairs:
    """Find the pairs among distinct images that differ by small damage only.

    Found after one of: a shift by a pixel, JPEG of quality 75, 10 % of brightness, resizing to 3/4
    and back, mirroring left to right, and mostly after two of them. The time grows with N squared.

    Args:
        images: uint8, (N, C, S, S), no two alike, 6 <= S <= MAX_SIDE.
        step: the pixels of ``images`` in one pixel of the originals, in (0, 1].

    Returns:
        The pairs, each once.

    Example:
        >>> find_near_pairs(np.stack([image, image[:, :, ::-1]])).pairs.tolist()
        [[0, 1]]
    """
    rows = np.flatnonzero(_per_image(images, _contrast)).astype(np.int64)
    pairs = find_candidates(images, rows) if len(rows) > 1 else np.empty((0, 3), dtype=np.int64)
    if len(pairs) == 0:
        return NearPairs(pairs[:, :2], np.empty(0, dtype=np.float32))
    blurred = _per_image(images, _blurred_change)
    jpeg = np.full((len(images), len(_scales(images.shape[-1] - 2))), np.nan, dtype=np.float32)
    aligned = [
        _align(images, pairs[start : start + CHUNK], blurred, step)
        for start in range(0, len(pairs), CHUNK)
    ]
    pairs, shifts = (np.concatenate(parts) for parts in zip(*aligned, strict=True))
    wanted = np.unique(pairs[:, :2])
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        jpeg[part] = _jpeg_change(images[part])
    scores = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), CHUNK):
        chunk = slice(start, start + CHUNK)
        scores[chunk] = _compare(images, pairs[chunk], shifts[chunk], jpeg, step)
    return _distinct(pairs[scores <= 1, :2], scores[scores <= 1])


def _distinct(pairs: Rows, scores: Floats) -> NearPairs:
    order = np.lexsort((scores, pairs[:, 1], pairs[:, 0]))
    pairs, scores = pairs[order], scores[order]
    first = np.ones(len(pairs), dtype=bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return NearPairs(pairs[first], scores[first])


def _per_image(images: Images, measure: Callable[[Images], Floats]) -> Floats:
    starts = range(0, len(images), CHUNK)
    values = [measure(images[start : start + CHUNK]) for start in starts]
    return np.concatenate(values) if values else np.empty(0, dtype=np.float32)


def _contrast(images: Images) -> Floats:
    """Return (N,): 1 where the inside of an image has something to recognise."""
    inside = to_grey(images)[:, 1:-1, 1:-1].reshape(len(images), -1)
    return np.asarray(inside.std(axis=1) >= MIN_CONTRAST, dtype=np.float32)


def _windows(images: Floats, step: float, index: int) -> Floats:
    """Return the inside of images (..., S, S) moved by one of nine shifts; 4 is none."""
    for axis, move in ((-2, (index // 3 - 1) * step), (-1, (index % 3 - 1) * step)):
        whole = int(np.floor(move))
        part = move - whole
        length = images.shape[axis] - 2
        start = [slice(None)] * images.ndim
        start[axis] = slice(1 + whole, 1 + whole + length)
        moved = images[tuple(start)]
        if part:
            start[axis] = slice(2 + whole, 2 + whole + length)
            moved = (1 - part) * moved + part * images[tuple(start)]
        images = moved
    return images


def _blur(grey: Floats) -> Floats:
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    tall = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return np.asarray((tall[:, :, :-2] + 2 * tall[:, :, 1:-1] + tall[:, :, 2:]) / 16)


def _unit(images: Floats) -> Floats:
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.sqrt(np.einsum("mf,mf->m", flat, flat) + 1)[:, None])


def _blurred_change(images: Images) -> Floats:
    """Return (N,): how far resizing and noise move the blurred image, 0 (nothing) to 1."""
    grey = to_grey(images)
    inside = _blur(grey)[:, 2:-2, 2:-2]
    own = _unit(inside)
    noise = np.float32(_BLURRED_NOISE**2) / (inside.var(axis=(1, 2)) + 1)
    change = np.zeros(len(grey), dtype=np.float32)
    # Resizing is the damage that leaves most in a blurred image.
    for matrix in strongest_resizings(grey.shape[-1]):
        resized = _unit(_blur(resize(grey, matrix))[:, 2:-2, 2:-2])
        change = np.maximum(change, 1 - np.einsum("mf,mf->m", own, resized))
    return np.asarray(change + noise)


def _align(images: Images, pairs: Rows, allowed: Floats, step: float) -> tuple[Rows, Rows]:
    """Return the pairs that deserve a closer look and their best two shifts, (M, 2)."""
    one = _blur(to_grey(images[pairs[:, 0]]))
    two = _blur(to_grey(images[pairs[:, 1]]))
    mirrored = pairs[:, 2] == 1
    two[mirrored] = two[mirrored][..., ::-1]
    # A blurred image of some size is told by every other pixel.
    stride = 2 if one.shape[-1] >= 16 else 1
    target = _unit(two[:, 2:-2:stride, 2:-2:stride])
    columns = []
    for index in range(9):
        moved = _windows(one, step, index)[:, 1:-1:stride, 1:-1:stride]
        columns.append(np.einsum("mf,mf->m", _unit(moved), target))
    likeness = np.stack(columns, axis=1)
    limit = 1.2 * np.maximum(allowed[pairs[:, 0]], allowed[pairs[:, 1]]) + 0.003
    kept = 1 - likeness.max(axis=1) <= limit
    return pairs[kept], np.argsort(-likeness[kept], axis=1)[:, :2]


def _compare(images: Images, pairs: Rows, shifts: Rows, jpeg: Floats, step: float) -> Floats:
    """Return (M,): the least score of each pair over the family, either image the original."""
    first, second = _oriented(images[pairs[:, 0]], images[pairs[:, 1]], pairs[:, 2])
    scores = np.full(len(pairs), np.inf, dtype=np.float32)

    def improve(left: Rows, one: Floats, two: Floats, matrix: Floats) -> None:
        sides = ((one, second, 0, shifts), (two, first, 1, 8 - shifts))
        for originals, copies, row, moves in sides:
            moved = np.clip(resize(originals, matrix), 0, 255)
            for column in range(moves.shape[1]):
                change = _remainder(moved, copies[left], moves[left, column], step)
                score = (change / jpeg[pairs[left, row]]).max(axis=1)
                scores[left] = np.minimum(scores[left], score)

    identity, *others = resizings(images.shape[-1])
    improve(np.arange(len(pairs)), first, second, identity)
    left = np.flatnonzero((scores > 1) & (scores < _NEARLY))
    if len(left):
        one, two = (np.stack([_jpeg(image) for image in images[pairs[left, i]]]) for i in (0, 1))
        improve(left, *_oriented(one, two, pairs[left, 2]), identity)
    for matrix in others:
        left = np.flatnonzero((scores > 1) & (scores < _HOPELESS))
        if len(left):
            improve(left, first[left], second[left], matrix)
    return scores


def _oriented(first: Images, second: Images, mirrored: Rows) -> tuple[Floats, Floats]:
    turned = second.astype(np.float32)
    turned[mirrored == 1] = turned[mirrored == 1][..., ::-1]
    return first.astype(np.float32), turned


def _remainder(images: Floats, targets: Floats, shifts: Rows, step: float) -> Floats:
    """Return (M, scales): what remains after the shift and the best gain and offset."""
    inside = targets[:, :, 1:-1, 1:-1]
    moved = np.empty_like(inside)
    for index in np.unique(shifts):
        chosen = shifts == index
        moved[chosen] = _windows(images[chosen], step, int(index))
    flat = inside.reshape(len(inside), -1)
    brightened = _brighten(moved.reshape(flat.shape), flat)
    return _changes((flat - brightened).reshape(inside.shape))


def _brighten(images: Floats, targets: Floats) -> Floats:
    """Return (M, F) images under the gain and offset that bring them closest to the targets."""
    # Clipped levels say nothing of the gain.
    weights = ((targets > 0) & (targets < 255)).astype(np.float32)
    total = weights.sum(axis=1)
    few = total < 0.05 * weights.shape[1]
    weights[few], total[few] = 1, weights.shape[1]
    mean = np.einsum("mf,mf->m", images, weights) / total
    target_mean = np.einsum("mf,mf->m", targets, weights) / total
    spread = (images - mean[:, None]) * weights
    product = np.einsum("mf,mf->m", spread, targets - target_mean[:, None])
    gain = np.clip(product / (np.einsum("mf,mf->m", spread, spread) + 1e-3), *_GAINS)
    offset = np.clip(target_mean - gain * mean, -_MAX_OFFSET, _MAX_OFFSET)
    return np.asarray(np.clip(gain[:, None] * images + offset[:, None], 0, 255))


def _scales(side: int) -> list[tuple[int, float]]:
    """Return those of ``LIMITS`` with at least three cells on a side, and what they allow."""
    strict = _SMALL_FACTOR if side < _SMALL_SIDE else 1.0
    return [(scale, strict * limit) for scale, limit in LIMITS if scale == 1 or side // scale >= 3]


def _changes(difference: Floats) -> Floats:
    """Return (M, scales): the root mean square of the difference at each scale."""
    side = difference.shape[-1]
    changes = []
    for scale, _ in _scales(side):
        cells, length = difference, side // scale * scale
        edge = (side - length) // 2
        for axis in (2, 3):
            slices = []
            for first in range(edge, edge + scale):
                index = [slice(None)] * 4
                index[axis] = slice(first, edge + length, scale)
                slices.append(cells[tuple(index)])
            cells = np.asarray(sum(slices[1:], slices[0]) / np.float32(scale))
        flat = cells.reshape(len(cells), -1)
        changes.append(np.sqrt(np.einsum("mf,mf->m", flat, flat) / flat.shape[1]))
    return np.stack(changes, axis=1)


def _jpeg_change(images: Images) -> Floats:
    """Return (M, scales): what may remain, from what JPEG does to the images."""
    # A shift leaves a foreign border, which would cost JPEG more than the image does.
    images = np.pad(images[:, :, 1:-1, 1:-1], ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    changed = np.stack([_jpeg(image) for image in images]).astype(np.float32)
    changes = _changes((changed - images)[:, :, 1:-1, 1:-1])
    limits = np.array([limit for _, limit in _scales(images.shape[-1] - 2)], dtype=np.float32)
    # Half a level is lost by rounding alone.
    return np.asarray(limits * np.sqrt(changes**2 + 0.25))


def _jpeg(image: Images) -> Images:
    from PIL import Image

    colour = len(image) == 3
    pixels = image.transpose(1, 2, 0) if colour else image.reshape(-1, image.shape[-1])
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=JPEG_QUALITY)
    decoded = np.asarray(Image.open(file, formats=("JPEG",)))
    return decoded.transpose(2, 0, 1) if colour else decoded.reshape(image.shape)
