"""Changed pictures, each kind against a plain one of another library, picture by picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torchvision.transforms import functional as plain

from cnnbench.analysis.evaluate.plots import UNITS
from cnnbench.analysis.evaluate.robustness import KINDS

COUNT = 40


def pictures(channels: int = 3, size: int = 11) -> torch.Tensor:
    """Return smooth pictures with edges: noise alone would hide errors of a pixel."""
    draw = np.random.default_rng(0).normal(size=(COUNT, channels, size, size))
    smooth = ndimage.gaussian_filter(draw, (0, 0, 1.5, 1.5))
    low, high = smooth.min((2, 3), keepdims=True), smooth.max((2, 3), keepdims=True)
    return torch.from_numpy(np.rint(255 * (smooth - low) / (high - low)).astype(np.uint8))


def changed(kind: str, level: float, images: torch.Tensor) -> np.ndarray:
    result = KINDS[kind].apply(images, level, range(len(images)))
    assert result.dtype == torch.uint8
    return result.numpy()


def test_every_kind_has_rising_levels_and_a_unit() -> None:
    assert list(UNITS) == list(KINDS)
    for kind in KINDS.values():
        assert list(kind.levels) == sorted(set(kind.levels))
        assert kind.levels[0] > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_level_zero_changes_nothing_and_higher_ones_do(kind: str, channels: int) -> None:
    images = pictures(channels)
    before = images.clone()
    assert np.array_equal(changed(kind, 0, images), before)
    for level in KINDS[kind].levels:
        assert not np.array_equal(changed(kind, level, images), before)
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_depends_on_the_place_alone(kind: str) -> None:
    """Networks evaluated in batches of other sizes are asked about the same pictures."""
    images = pictures()
    apply, level = KINDS[kind].apply, KINDS[kind].levels[2]
    whole = apply(images, level, range(COUNT))
    torch.manual_seed(1)
    parts = [
        apply(images[a:b], level, range(a, b)) for a, b in ((0, 1), (1, 17), (17, 24), (24, COUNT))
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("level", [*KINDS["translation"].levels, 11, 15])
def test_translation_is_by_whole_pixels_one_of_four_ways(level: int) -> None:
    images = pictures().numpy()
    ways = Counter()
    for image, result in zip(images, changed("translation", level, pictures()), strict=True):
        expected = {
            (down, across): ndimage.shift(image, (0, down, across), order=0, cval=0)
            for down, across in ((level, 0), (-level, 0), (0, level), (0, -level))
        }
        found = [way for way, moved in expected.items() if np.array_equal(moved, result)]
        assert found
        ways[found[0]] += 1
    assert level >= 11 or len(ways) == 4


@pytest.mark.parametrize("level", KINDS["rotation"].levels)
@pytest.mark.parametrize("size", [8, 11])
def test_rotation_agrees_with_torchvision(level: float, size: int) -> None:
    images = pictures(size=size)
    signs = Counter()
    for image, result in zip(images, changed("rotation", level, images), strict=True):
        gaps = {}
        for sign in (1, -1):
            turned = plain.rotate(
                image.float(), sign * level, interpolation=plain.InterpolationMode.BILINEAR
            )
            gaps[sign] = np.abs(turned.numpy() - result).max()
        best = min(gaps, key=gaps.__getitem__)
        assert gaps[best] <= 0.51
        signs[best] += 1
    assert min(signs[1], signs[-1]) > 5


@pytest.mark.parametrize("level", KINDS["noise"].levels)
def test_noise_is_gaussian_of_its_deviation_and_of_each_picture_its_own(level: float) -> None:
    grey = torch.full((COUNT, 1, 20, 20), 128, dtype=torch.uint8)
    noise = changed("noise", level, grey).astype(float) - 128
    inside = np.abs(noise) < 127
    assert (noise[~inside] != 0).all()
    # Where nothing was cut off, the cumulative distribution is that of the normal one.
    for edge in (-100.5, -30.5, -5.5, 0.5, 12.5, 60.5):
        expected = stats.norm(scale=255 * level).cdf(edge)
        deviation = np.sqrt(expected * (1 - expected) / noise.size)
        assert (noise < edge).mean() == pytest.approx(expected, abs=4 * deviation + 1e-9)
    assert len({picture.tobytes() for picture in noise}) == COUNT
    # The same draws at each level: twice the level, twice the noise.
    weak = changed("noise", 0.01, grey).astype(float) - 128
    strong = changed("noise", 0.02, grey).astype(float) - 128
    assert np.abs(strong - 2 * weak).max() <= 1.5 + 1e-6


@pytest.mark.parametrize("level", [*KINDS["blur"].levels, 0.1])
@pytest.mark.parametrize("size", [5, 11])
def test_blur_agrees_with_scipy(level: float, size: int) -> None:
    images = pictures(size=size)
    for image, result in zip(images.numpy(), changed("blur", level, images), strict=True):
        expected = ndimage.gaussian_filter(image.astype(float), (0, level, level), mode="nearest")
        assert np.abs(result - expected).max() <= 0.51


@pytest.mark.parametrize("level", KINDS["contrast"].levels)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_contrast_shrinks_towards_each_channels_mean(level: float, channels: int) -> None:
    images = pictures(channels)
    for image, result in zip(images, changed("contrast", level, images), strict=True):
        for channel, ours in zip(image.numpy(), result, strict=True):
            mean = channel.mean()
            assert np.abs(ours - (mean + (1 - level) * (channel - mean))).max() <= 0.51
        if channels == 1:
            theirs = plain.adjust_contrast(image, 1 - level).numpy().astype(int)
            assert np.abs(theirs - result).max() <= 1
