"""Augmentation of whole batches on their device, each image by its own draw.

All draws come from a generator that the caller seeds by (seed, step), so that a resumed run sees
the same images as one that was never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnbench.data.images import Images
from cnnbench.data.shards import draws_of
from cnnbench.data.transforms import resize
from cnnbench.errors import UsageError

# Random erasing's smallest share of an image and largest ratio of its sides (Zhong et al., 2020).
_ERASE_MIN_FRACTION = 0.02
_ERASE_MAX_RATIO = 3.3


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to training images, in this order; the defaults do nothing.

    Args:
        crop_padding: black pixels added on each side before a crop of the old size, which is the
            same as a shift by up to so many whole pixels each way, >= 0.
        flip: mirror left and right with probability 1/2; ``alternating``: half of the images in
            the first epoch, drawn once, and each image's other side in every other epoch (Jordan,
            2024, https://arxiv.org/abs/2404.00498).
        rotate_degrees: rotate by up to so many degrees each way, bilinearly, black beyond the
            edges, in [0, 180].
        brightness: the most that is added, either way, as a share of full brightness, in [0, 1].
        contrast: distances from the image's mean are scaled by 1 - contrast to 1 + contrast, in
            [0, 1].
        randaugment_ops: changes of torchvision's RandAugment (Cubuk et al., 2020), each image by
            its own draws; >= 0. They are made image by image on the CPU, about 0.2 ms each.
        randaugment_magnitude: of those changes, 0 to 30.
        erase_probability: of blacking out a rectangle (Zhong et al., 2020), in [0, 1].
        erase_fraction: the largest share of an image that is blacked out, in [0.02, 1].
        mixup_alpha: blend each image with another one by a share drawn from Beta(alpha, alpha)
            (Zhang et al., 2018); 0 for none.
        cutmix_alpha: paste a rectangle of another image, of an area drawn likewise
            (Yun et al., 2019); 0 for none.

    Raises:
        UsageError: both mixup and cutmix are asked for.
    """

    crop_padding: int = 0
    flip: bool | Literal["alternating"] = False
    rotate_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    randaugment_ops: int = 0
    randaugment_magnitude: int = 9
    erase_probability: float = 0.0
    erase_fraction: float = 0.33
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            raise UsageError("augment.mixup_alpha and augment.cutmix_alpha: expected one to be 0")

    @property
    def acts(self) -> bool:
        """Whether anything is done to images; how much is said of what is not done is nothing."""
        kept = {"erase_fraction", "randaugment_magnitude"}
        return self != Augment(**{name: getattr(self, name) for name in kept})

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another, and their targets with them."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def images(
        self, images: Tensor, generator: torch.Generator, *, epoch: int = 1, seed: int = 0
    ) -> Tensor:
        """Return a batch with each image changed by its own draw.

        Args:
            images: uint8, (N, C, S, S), at the size that is trained on.
            generator: where the draws come from.
            epoch: from 1; alternating flips depend on it.
            seed: of the run; alternating flips depend on it too.

        Returns:
            uint8, of the same shape.
        """
        if self.flip == "alternating":
            # Before a crop, which changes what tells an image from another.
            images = flip_where(images, _alternating(images, epoch, seed))
        if self.crop_padding:
            images = crop(images, self.crop_padding, generator)
        if self.flip is True:
            images = flip(images, generator)
        if self.rotate_degrees:
            images = rotate(images, self.rotate_degrees, generator)
        if self.brightness or self.contrast:
            images = shade(images, self.brightness, self.contrast, generator)
        if self.randaugment_ops:
            images = randaugment(
                images, self.randaugment_ops, self.randaugment_magnitude, generator
            )
        if self.erase_probability:
            images = erase(images, self.erase_probability, self.erase_fraction, generator)
        return images

    def mix(
        self, inputs: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix images with one another, and their targets with them.

        The targets stay (N,) classes where nothing is mixed, and become (N, num_classes)
        probabilities where something is. ``F.cross_entropy`` takes either, so a training step needs
        no case for it.

        Args:
            inputs: float, (N, C, S, S), normalised.
            targets: (N,), classes.
            num_classes: number of classes.
            generator: where the draws come from.
        """
        if self.mixup_alpha:
            return mixup(inputs, targets, num_classes, self.mixup_alpha, generator)
        if self.cutmix_alpha:
            return cutmix(inputs, targets, num_classes, self.cutmix_alpha, generator)
        return inputs, targets


def versions(
    images: Images, augment: Augment, *, image_size: int, seed: int, count: int
) -> list[Images]:
    """Return images at the size that is trained on, and so many augmented versions of them.

    Args:
        images: uint8, (N, C, H, W).
        augment: where it does nothing, there are no versions of them.
        image_size: pixels of a side.
        seed: of the draws.
        count: versions, >= 0.

    Returns:
        uint8 arrays (N, C, image_size, image_size), the plain one first.
    """
    plain = resize(torch.from_numpy(images), image_size)
    shown = [plain]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count if augment != Augment() else 0):
        changed = augment.images(plain, generator)
        # Normalisation is linear: pixels that are mixed before it look like those mixed after it.
        mixed, _ = augment.mix(changed.float(), torch.zeros(len(changed)).long(), 1, generator)
        shown.append(mixed.round().to(torch.uint8))
    return [part.numpy() for part in shown]


def _draw_integers(low: int, high: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return one whole number in [low, high] for each image, on the images' device."""
    count, rows = draws_of(len(like), generator)
    draws = torch.randint(low, high + 1, (count,), generator=generator, device=generator.device)
    return draws[rows].to(like.device)


def _draw_fractions(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return one number in [0, 1) for each image, on the images' device."""
    count, rows = draws_of(len(like), generator)
    draws = torch.rand(count, generator=generator, device=generator.device)
    return draws[rows].to(like.device)


def crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad with black on each side, then crop to the old size, each image at its own position."""
    down = _draw_integers(0, 2 * padding, images, generator)
    across = _draw_integers(0, 2 * padding, images, generator)
    return crop_at(images, padding, down, across)


def crop_at(images: Tensor, padding: int, down: Tensor, across: Tensor) -> Tensor:
    """Pad with black on each side, then crop to the old size at the positions given.

    Args:
        images: uint8, (N, C, H, W).
        padding: pixels, >= 0.
        down: row of each crop's upper left corner in the padded image, (N,), in [0, 2 * padding];
            ``padding`` leaves an image as it is.
        across: its column, likewise.
    """
    num_images, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    tall, wide = padded.shape[2:]
    # Every run of `width` bytes is a row of this view: whole rows are copied, not single bytes.
    runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    planes = torch.arange(num_images * channels, device=images.device).view(-1, channels)
    corners = (planes * tall + down[:, None]) * wide + across[:, None]
    rows = torch.arange(height, device=images.device) * wide
    starts = (corners[:, :, None] + rows).view(-1)
    return runs.index_select(0, starts).view(images.shape)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror about half of the images left and right."""
    return flip_where(images, _draw_integers(0, 1, images, generator))


def flip_where(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the images whose entry of ``chosen``, integers (N,), is 1, not 0."""
    chosen = chosen.to(torch.uint8).view(-1, 1, 1, 1)
    # Sums of bytes wrap around, so this is exact, and several times as fast as `where`.
    return images.flip(3).sub_(images).mul_(chosen).add_(images)


def _alternating(images: Tensor, epoch: int, seed: int) -> Tensor:
    """Return 0 or 1 for each image, drawn from its pixels and the seed, the other one each epoch.

    Pixels tell an image from another wherever it lies in a batch, so that no index is needed.
    """
    sums = images.flatten(1).sum(1, dtype=torch.int64)
    drawn = ((sums + seed % 2**31) * 2654435761) >> 16
    return (drawn + epoch) & 1


def shade(images: Tensor, brightness: float, contrast: float, generator: torch.Generator) -> Tensor:
    """Change the brightness of each image and its contrast about its mean."""
    added, scaled = (2 * _draw_fractions(images, generator) - 1 for _ in range(2))
    pixels = images.float()
    means = pixels.mean((1, 2, 3), keepdim=True)
    scale = (1 + contrast * scaled).view(-1, 1, 1, 1)
    shift = (255 * brightness * added).view(-1, 1, 1, 1)
    return ((pixels - means) * scale + means + shift).round_().clamp_(0, 255).to(torch.uint8)


def randaugment(images: Tensor, num_ops: int, magnitude: int, generator: torch.Generator) -> Tensor:
    """Change each image by its own draws of torchvision's RandAugment."""
    from torchvision.transforms.v2 import RandAugment  # type: ignore[attr-defined]

    transform = RandAugment(num_ops, magnitude)
    seeds = _draw_integers(0, 2**62 - 1, images, generator).tolist()
    changed = []
    # torchvision draws from the global generator, which belongs to dropout.
    with torch.random.fork_rng(devices=[]):
        for seed, image in zip(seeds, images.cpu().contiguous(), strict=True):
            torch.default_generator.manual_seed(seed)
            changed.append(transform(image))
    return torch.stack(changed).to(images.device)


def rotate(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turn each image about its centre by an angle drawn from [-degrees, degrees]."""
    return rotate_by(
        images, (2 * _draw_fractions(images, generator) - 1) * (degrees * torch.pi / 180)
    )


def rotate_by(images: Tensor, angles: Tensor) -> Tensor:
    """Turn each image about its centre, bilinearly, black beyond the edges.

    Args:
        images: uint8, (N, C, S, S).
        angles: in radians, counter-clockwise, (N,).
    """
    cosines, sines = angles.cos(), angles.sin()
    zeros = torch.zeros_like(angles)
    matrices = torch.stack([cosines, -sines, zeros, sines, cosines, zeros], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    rotated = F.grid_sample(images.float(), grid, align_corners=False)
    return rotated.round_().clamp_(0, 255).to(torch.uint8)


def erase(
    images: Tensor, probability: float, max_fraction: float, generator: torch.Generator
) -> Tensor:
    """Black out a rectangle in some images, of an area and ratio of sides of their own."""
    height, width = images.shape[2:]
    chosen = _draw_fractions(images, generator) < probability
    low = min(_ERASE_MIN_FRACTION, max_fraction)
    area = low + (max_fraction - low) * _draw_fractions(images, generator)
    # Uniform in the logarithm, so that wide and tall are equally likely.
    ratio = _ERASE_MAX_RATIO ** (2 * _draw_fractions(images, generator) - 1)
    tall = (height * (area * ratio).sqrt()).round().clamp(1, height)
    wide = (width * (area / ratio).sqrt()).round().clamp(1, width)
    return images * (1 - _boxes(images, tall * chosen, wide, generator))


def _boxes(images: Tensor, tall: Tensor, wide: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 (N, 1, H, W): 1 within a box in each image, anywhere it fits, 0 elsewhere."""
    height, width = images.shape[2:]
    rows = _span(height, tall, _draw_fractions(images, generator))
    columns = _span(width, wide, _draw_fractions(images, generator))
    return rows.view(-1, 1, height, 1) * columns.view(-1, 1, 1, width)


def _span(length: int, extent: Tensor, position: Tensor) -> Tensor:
    """Return uint8 (N, length): ``extent`` ones in a row, at a position in [0, 1)."""
    start = (position * (length - extent + 1)).floor()
    offsets = torch.arange(length, device=extent.device) - start[:, None]
    return ((offsets >= 0) & (offsets < extent[:, None])).to(torch.uint8)


def mixup(
    inputs: Tensor, targets: Tensor, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with one other of the batch by a share of its own."""
    partners, share = _partners(inputs, generator), _draw_beta(inputs, alpha, generator)
    weight = share.view(-1, 1, 1, 1).to(inputs.dtype)
    mixed = torch.lerp(inputs[partners], inputs, weight)
    return mixed, _blend(targets, partners, share, num_classes)


def cutmix(
    inputs: Tensor, targets: Tensor, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste into each image a box of one other of the batch; the box's area sets the targets."""
    height, width = inputs.shape[2:]
    partners = _partners(inputs, generator)
    sides = (1 - _draw_beta(inputs, alpha, generator)).sqrt()
    tall, wide = (height * sides).round(), (width * sides).round()
    inside = _boxes(inputs, tall, wide, generator).to(inputs.dtype)
    kept = 1 - tall * wide / (height * width)
    mixed = inputs[partners].mul_(inside).add_(inputs * (1 - inside))
    return mixed, _blend(targets, partners, kept, num_classes)


def _partners(like: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(like), generator=generator, device=generator.device)
    return order.to(like.device)


def _draw_beta(like: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """Return one number from Beta(alpha, alpha) for each image, on the images' device."""
    concentration = torch.full((len(like), 2), alpha, device=generator.device)
    # torch.distributions would draw from the global generator.
    gammas = torch._standard_gamma(concentration, generator=generator)
    return (gammas[:, 0] / gammas.sum(dim=1)).to(like.device)


def _blend(targets: Tensor, partners: Tensor, share: Tensor, num_classes: int) -> Tensor:
    first = F.one_hot(targets, num_classes).to(share.dtype)
    return torch.lerp(first[partners], first, share.view(-1, 1))
