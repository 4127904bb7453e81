"""Corrupted images, each corruption against a plain one of another library, image by image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torchvision.transforms import functional as plain

from cnnbench.analysis.evaluate.plots import UNITS
from cnnbench.analysis.evaluate.robustness import CORRUPTIONS

COUNT = 40


def smooth_images(channels: int = 3, size: int = 11) -> torch.Tensor:
    """Return smooth images with edges: noise alone would hide errors of a pixel."""
    draw = np.random.default_rng(0).normal(size=(COUNT, channels, size, size))
    smooth = ndimage.gaussian_filter(draw, (0, 0, 1.5, 1.5))
    low, high = smooth.min((2, 3), keepdims=True), smooth.max((2, 3), keepdims=True)
    return torch.from_numpy(np.rint(255 * (smooth - low) / (high - low)).astype(np.uint8))


def changed(corruption: str, severity: float, images: torch.Tensor) -> np.ndarray:
    result = CORRUPTIONS[corruption].apply(images, severity, range(len(images)))
    assert result.dtype == torch.uint8
    return result.numpy()


def test_every_corruption_has_rising_severities_and_a_unit() -> None:
    assert list(UNITS) == list(CORRUPTIONS)
    for corruption in CORRUPTIONS.values():
        assert list(corruption.severities) == sorted(set(corruption.severities))
        assert corruption.severities[0] > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_severity_zero_changes_nothing_and_higher_ones_do(corruption: str, channels: int) -> None:
    images = smooth_images(channels)
    before = images.clone()
    assert np.array_equal(changed(corruption, 0, images), before)
    for severity in CORRUPTIONS[corruption].severities:
        assert not np.array_equal(changed(corruption, severity, images), before)
    assert torch.equal(images, before)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_change_depends_on_the_index_alone(corruption: str) -> None:
    """Networks evaluated in batches of other sizes are asked about the same images."""
    images = smooth_images()
    apply, severity = CORRUPTIONS[corruption].apply, CORRUPTIONS[corruption].severities[2]
    whole = apply(images, severity, range(COUNT))
    torch.manual_seed(1)
    parts = [
        apply(images[a:b], severity, range(a, b))
        for a, b in ((0, 1), (1, 17), (17, 24), (24, COUNT))
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("severity", [*CORRUPTIONS["translation"].severities, 11, 15])
def test_translation_is_by_whole_pixels_one_of_four_ways(severity: int) -> None:
    images = smooth_images().numpy()
    ways = Counter()
    for image, result in zip(
        images, changed("translation", severity, smooth_images()), strict=True
    ):
        expected = {
            (down, across): ndimage.shift(image, (0, down, across), order=0, cval=0)
            for down, across in ((severity, 0), (-severity, 0), (0, severity), (0, -severity))
        }
        found = [way for way, moved in expected.items() if np.array_equal(moved, result)]
        assert found
        ways[found[0]] += 1
    assert severity >= 11 or len(ways) == 4


@pytest.mark.parametrize("severity", CORRUPTIONS["rotation"].severities)
@pytest.mark.parametrize("size", [8, 11])
def test_rotation_agrees_with_torchvision(severity: float, size: int) -> None:
    images = smooth_images(size=size)
    signs = Counter()
    for image, result in zip(images, changed("rotation", severity, images), strict=True):
        gaps = {}
        for sign in (1, -1):
            rotated = plain.rotate(
                image.float(), sign * severity, interpolation=plain.InterpolationMode.BILINEAR
            )
            gaps[sign] = np.abs(rotated.numpy() - result).max()
        best = min(gaps, key=gaps.__getitem__)
        assert gaps[best] <= 0.51
        signs[best] += 1
    assert min(signs[1], signs[-1]) > 5


@pytest.mark.parametrize("severity", CORRUPTIONS["noise"].severities)
def test_noise_is_gaussian_of_its_deviation_and_differs_by_image(severity: float) -> None:
    grey = torch.full((COUNT, 1, 20, 20), 128, dtype=torch.uint8)
    noise = changed("noise", severity, grey).astype(float) - 128
    inside = np.abs(noise) < 127
    assert (noise[~inside] != 0).all()
    # Where nothing was cut off, the cumulative distribution is that of the normal one.
    for edge in (-100.5, -30.5, -5.5, 0.5, 12.5, 60.5):
        expected = stats.norm(scale=255 * severity).cdf(edge)
        deviation = np.sqrt(expected * (1 - expected) / noise.size)
        assert (noise < edge).mean() == pytest.approx(expected, abs=4 * deviation + 1e-9)
    assert len({image.tobytes() for image in noise}) == COUNT
    # The same draws at each severity: twice the severity, twice the noise.
    weak = changed("noise", 0.01, grey).astype(float) - 128
    strong = changed("noise", 0.02, grey).astype(float) - 128
    assert np.abs(strong - 2 * weak).max() <= 1.5 + 1e-6


@pytest.mark.parametrize("severity", [*CORRUPTIONS["blur"].severities, 0.1])
@pytest.mark.parametrize("size", [5, 11])
def test_blur_agrees_with_scipy(severity: float, size: int) -> None:
    images = smooth_images(size=size)
    for image, result in zip(images.numpy(), changed("blur", severity, images), strict=True):
        expected = ndimage.gaussian_filter(
            image.astype(float), (0, severity, severity), mode="nearest"
        )
        assert np.abs(result - expected).max() <= 0.51


@pytest.mark.parametrize("severity", CORRUPTIONS["contrast"].severities)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_contrast_shrinks_towards_each_channels_mean(severity: float, channels: int) -> None:
    images = smooth_images(channels)
    for image, result in zip(images, changed("contrast", severity, images), strict=True):
        for channel, ours in zip(image.numpy(), result, strict=True):
            mean = channel.mean()
            assert np.abs(ours - (mean + (1 - severity) * (channel - mean))).max() <= 0.51
        if channels == 1:
            theirs = plain.adjust_contrast(image, 1 - severity).numpy().astype(int)
            assert np.abs(theirs - result).max() <= 1
