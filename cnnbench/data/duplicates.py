"""Images that occur twice, within and across the splits of a data set, and classes too small.

Equal means equal decoded pixels. Near means the same image up to a shift by a pixel, JPEG of
quality 75, 10 % of brightness, resizing to 3/4 and back or storing at another size, or mirroring
left to right: see ``near_duplicates``, which also says how the limits are set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnbench.data.arrays import Indices, Targets
from cnnbench.data.images import Images
from cnnbench.data.near_duplicates import MAX_SIDE, find_near_pairs

# A class of fewer images in a split is named as tiny.
TINY_CLASS = 10
_MIN_SIDE = 6
# Images from which the common size is taken.
_SIZED = 64


@dataclass(frozen=True, order=True)
class Member:
    """One image of a data set.

    Attributes:
        split: its split's name.
        index: its position in that split.
        target: its class.
    """

    split: str
    index: int
    target: int


@dataclass(frozen=True)
class Group:
    """Images that are one image.

    Attributes:
        kind: ``exact`` (all equal) or ``near`` (two, each perhaps standing for equal ones).
        members: at least two, in the order of the data set.
        score: how far apart they are, from 0 (equal) to 1 (just called near).
    """

    kind: str
    members: tuple[Member, ...]
    score: float = 0.0

    @property
    def has_different_targets(self) -> bool:
        """Whether the members bear more than one label."""
        return len({member.target for member in self.members}) > 1


@dataclass(frozen=True)
class SmallClass:
    """A class with few images or none in one split."""

    split: str
    target: int
    count: int


@dataclass(frozen=True)
class DuplicateReport:
    """What occurs twice and what hardly occurs.

    Attributes:
        counts: for each split, the images of each class.
        small_classes: those with fewer than ``TINY_CLASS`` images in a split, empty ones included.
        exact: groups of equal images.
        near: pairs of images that differ by small damage; an image that has equals is named once.
    """

    counts: dict[str, tuple[int, ...]]
    small_classes: tuple[SmallClass, ...]
    exact: tuple[Group, ...]
    near: tuple[Group, ...]

    @property
    def conflicts(self) -> tuple[Group, ...]:
        """Groups of equal images with different labels."""
        return tuple(group for group in self.exact if group.has_different_targets)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, ready for JSON."""
        return dataclasses.asdict(self)

    def duplicated_in(self, split: str, reference: str, *, near: bool = True) -> Indices:
        """Return which images of a split also occur in another.

        Args:
            split: the split to clean, such as ``test``.
            reference: the split whose images count as seen, such as ``train``.
            near: whether near duplicates count, or equal images only.

        Returns:
            Sorted positions in ``split``.

        Example:
            >>> seen = report.duplicated_in("test", "train")
            >>> kept = np.delete(np.arange(len(test)), seen)
        """
        # An image that occurs several times is one node of a near pair.
        equals = {member: group.members for group in self.exact for member in group.members}
        groups = [group.members for group in self.exact]
        if near:
            for pair in self.near:
                whole = (equals.get(member, (member,)) for member in pair.members)
                groups.append(tuple(itertools.chain.from_iterable(whole)))
        found: set[int] = set()
        for members in groups:
            if any(member.split == reference for member in members):
                found.update(member.index for member in members if member.split == split)
        return np.array(sorted(found), dtype=np.int64)


def find_duplicates(
    images: Mapping[str, Iterable[Images]],
    targets: Mapping[str, Targets],
    *,
    num_classes: int,
    near: bool = True,
) -> DuplicateReport:
    """Find the images that occur twice and the classes that hardly occur.

    Each image is read once; what is kept of it has at most ``MAX_SIDE`` pixels on a side.

    Args:
        images: for each split its images in order, as uint8: an array (N, C, H, W), or anything
            that yields chunks of that shape or single images (C, H, W). Sizes may differ.
        targets: for each split, (N,), the classes, in [0, num_classes).
        num_classes: how many classes there are.
        near: whether to look for near duplicates too, whose time grows with N squared.

    Returns:
        The report.

    Raises:
        ValueError: a split has more or fewer images than targets.

    Example:
        >>> report = find_duplicates(
        ...     {"train": train.chunks(), "test": test.chunks()},
        ...     {"train": train.targets, "test": test.targets},
        ...     num_classes=10,
        ... )
    """
    members = [
        Member(split, index, int(target))
        for split in images
        for index, target in enumerate(targets[split])
    ]
    counts = {
        split: tuple(np.bincount(targets[split], minlength=num_classes).tolist())
        for split in images
    }
    first, equals, kept, step = _read(images, counts)
    exact = [Group("exact", tuple(members[row] for row in rows)) for rows in equals]
    pairs = []
    if near and len(kept):
        found = find_near_pairs(kept, step)
        for (one, two), score in zip(found.pairs.tolist(), found.scores.tolist(), strict=True):
            pair = (members[first[one]], members[first[two]])
            pairs.append(Group("near", pair, round(score, 4)))
    return DuplicateReport(counts, _small_classes(counts), tuple(exact), tuple(pairs))


def _small_classes(counts: Mapping[str, Sequence[int]]) -> tuple[SmallClass, ...]:
    return tuple(
        SmallClass(split, target, count)
        for split, row in counts.items()
        for target, count in enumerate(row)
        if count < TINY_CLASS
    )


def _read(
    images: Mapping[str, Iterable[Images]], counts: Mapping[str, Sequence[int]]
) -> tuple[list[int], list[list[int]], Images, float]:
    """Return each distinct image's first row, the rows of equal ones, its copy, and the step."""
    rows_of: dict[bytes, list[int]] = {}
    kept: list[Images] = []
    first: list[int] = []
    row = 0
    splits = [(split, _singles(chunks)) for split, chunks in images.items()]
    ahead = list(itertools.islice(itertools.chain.from_iterable(s for _, s in splits[:1]), _SIZED))
    original = float(np.median([max(image.shape[1:]) for image in ahead] or [_MIN_SIDE]))
    side = int(np.clip(original, _MIN_SIDE, MAX_SIDE))
    for split, singles in splits:
        start = row
        for image in itertools.chain(ahead, singles):
            digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image).data)
            rows = rows_of.setdefault(digest.digest(), [])
            if not rows:
                first.append(row)
                kept.append(_to_side(image, side))
            rows.append(row)
            row += 1
        ahead = []
        if row - start != sum(counts[split]):
            raise ValueError(f"{split}: {row - start} images and {sum(counts[split])} targets")
    equals = [rows for rows in rows_of.values() if len(rows) > 1]
    copies = np.stack(kept) if kept else np.empty((0, 1, side, side), dtype=np.uint8)
    return first, equals, copies, min(1.0, side / original)


def _singles(chunks: Iterable[Images]) -> Iterator[Images]:
    for chunk in chunks:
        if chunk.ndim == 4:
            yield from chunk
        else:
            yield chunk


def _to_side(image: Images, side: int) -> Images:
    from PIL import Image

    if image.shape[1:] == (side, side):
        return np.array(image)
    method = Image.Resampling.BILINEAR
    planes = [np.asarray(Image.fromarray(plane).resize((side, side), method)) for plane in image]
    return np.stack(planes)
