"""GoogLeNet's arguments, alone and in every pair."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnbench.models import create_model

VALUES = {
    "stem": ("small", "imagenet"),
    "norm": ("none", "conv", "block"),
    "factorize": ("none", "3x3", "asymmetric", "asymmetric_pad_first"),
    "factorize_stages": ((3, 4, 5), (4,)),
    "residual": (False, True),
    "residual_scale": (1.0, 0.2),
    "aux": (False, True),
    "aux_weight": (0.3, 1.0),
    "dropout": (0.0, 0.4),
    "pool_ceil_mode": (False, True),
    "width_multiplier": (0.0625, 0.125),
}


def pairs_of(row):
    return set(itertools.combinations(row.items(), 2))


def all_pairs():
    return {
        ((first, a), (second, b))
        for first, second in itertools.combinations(VALUES, 2)
        for a in VALUES[first]
        for b in VALUES[second]
    }


def covering_rows():
    """Choose rows so that every two values meet in one of them."""
    draw = random.Random(0)
    missing = all_pairs()
    rows = []
    while missing:
        drawn = [{key: draw.choice(values) for key, values in VALUES.items()} for _ in range(50)]
        best = max(drawn, key=lambda row: len(pairs_of(row) & missing))
        missing -= pairs_of(best)
        rows.append(best)
    return rows


ROWS = covering_rows()


def googlenet(**args):
    torch.manual_seed(0)
    return create_model("googlenet", in_channels=1, num_classes=5, image_size=32, args=args)


def test_rows_cover_every_pair_of_values():
    assert set().union(*map(pairs_of, ROWS)) == all_pairs()
    assert len(ROWS) < 25


@pytest.mark.parametrize("args", ROWS, ids=lambda row: "-".join(map(str, row.values())))
def test_each_pair_of_arguments_trains(args):
    module = googlenet(**args)
    images, targets = torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 2, 3])
    logits, aux_logits = module.forward_with_aux(images)
    assert [aux.shape for aux in aux_logits] == [(4, 5)] * (2 if args["aux"] else 0)
    loss = F.cross_entropy(logits, targets)
    for aux in aux_logits:
        loss = loss + module.aux_weight * F.cross_entropy(aux, targets)
    loss.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in module.parameters())
    module.eval()
    with torch.no_grad():
        assert torch.equal(module(images), module.forward_with_aux(images)[0])


def test_stem_has_a_relu_after_each_convolution():
    for norm in ("none", "conv", "block"):
        module = googlenet(norm=norm, width_multiplier=0.25)
        x = torch.randn(2, 1, 32, 32)
        for name, part in module.stem.named_children():
            x = part(x)
            assert (x >= 0).all()
            if name.startswith("conv"):
                assert (x == 0).any()


def test_norm_after_a_block_has_no_relu():
    module = googlenet(norm="block", width_multiplier=0.25)
    y = module.blocks["inception3a"](torch.rand(2, 48, 8, 8))
    assert (y < 0).any()
    assert y.mean((0, 2, 3)).abs().max() < 1e-5


def test_convolutions_have_a_bias_unless_a_norm_follows_each():
    for norm, has_bias in (("none", True), ("conv", False), ("block", True)):
        module = googlenet(norm=norm, aux=True)
        convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
        assert {conv.bias is not None for conv in convs} == {has_bias}


def test_factorize_changes_the_named_stages_only():
    module = googlenet(factorize="asymmetric", factorize_stages=(4,))
    for name, block in module.blocks.items():
        kernels = {part.kernel_size for part in block.modules() if isinstance(part, nn.Conv2d)}
        if name.startswith("inception"):
            assert kernels == (
                {(1, 1), (1, 3), (3, 1)} if "4" in name else {(1, 1), (3, 3), (5, 5)}
            )


def test_residual_block_adds_the_scaled_branches():
    module = googlenet(residual=True, residual_scale=0.5, norm="none")
    plain = googlenet(residual=True, residual_scale=1.0, norm="none")
    for name, is_identity in (("4b", True), ("4c", True), ("5a", True), ("3a", False)):
        block = module.blocks[f"inception{name}"]
        assert isinstance(block.shortcut, nn.Identity) is is_identity
    block, unscaled = module.blocks["inception4b"], plain.blocks["inception4b"]
    x = torch.randn(2, 512, 4, 4)
    kept = []
    unscaled.linear.register_forward_hook(lambda _, __, y: kept.append(y))
    unscaled(x)
    torch.testing.assert_close(block(x), torch.relu(x + 0.5 * kept[0]))


def test_aux_heads_read_4a_and_4d_and_average_to_4_by_4():
    with torch.device("meta"):
        module = create_model(
            "googlenet",
            in_channels=3,
            num_classes=7,
            image_size=224,
            args={"aux": True, "stem": "imagenet"},
        )
        assert module.aux_heads["inception4a"].conv.conv.in_channels == 512
        assert module.aux_heads["inception4d"].conv.conv.in_channels == 528
        for size in (224, 96, 320, 32):
            _, aux_logits = module.forward_with_aux(torch.empty(2, 3, size, size))
            assert [aux.shape for aux in aux_logits] == [(2, 7), (2, 7)]


def test_aux_head_pools_as_the_paper_at_14_pixels():
    module = googlenet(aux=True, norm="none").eval()
    head = module.aux_heads["inception4a"]
    x = torch.rand(1, 512, 14, 14)
    expected = head.conv(F.avg_pool2d(x, 5, 3)).flatten(1)
    expected = head.head(F.relu(head.hidden(expected)))
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_both_ways_of_pooling_give_the_papers_sizes(ceil_mode):
    with torch.device("meta"):
        module = create_model(
            "googlenet",
            in_channels=3,
            num_classes=7,
            image_size=224,
            args={"stem": "imagenet", "pool_ceil_mode": ceil_mode},
        )
        x = module.stem(torch.empty(1, 3, 224, 224))
        sides = [x.shape[-1]]
        for name, block in module.blocks.items():
            x = block(x)
            if name.startswith("pool"):
                sides.append(x.shape[-1])
    assert sides == [28, 14, 7]
