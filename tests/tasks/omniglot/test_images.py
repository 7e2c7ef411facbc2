"""Affine maps, resizing and patches do to pixels what their names say."""

import math

import pytest
import torch
from lgbench.tasks.omniglot.images import Affine, apply_affine, cut_patches, draw_affine, resize

pytestmark = pytest.mark.usefixtures("no_outside")


def image(side=9, seed=0):
    """One image of grey levels, no two pixels alike, none white."""
    order = torch.randperm(side**2, generator=torch.Generator().manual_seed(seed))
    return order.to(torch.uint8).view(1, side, side)


def mapped(images, angle=0.0, shift=(0.0, 0.0), scale=1.0):
    numbers = (torch.tensor([float(n)]) for n in (angle, *shift, scale))
    return apply_affine(images, torch.tensor([0]), Affine(*numbers))


def test_the_map_that_does_nothing_changes_nothing():
    assert torch.equal(mapped(image()), image())


def test_half_a_turn_flips_both_axes_and_a_quarter_turn_turns():
    assert torch.equal(mapped(image(), angle=math.pi), image().flip(1, 2))
    assert torch.equal(mapped(image(), angle=-math.pi), image().flip(1, 2))
    quarter = mapped(image(), angle=math.pi / 2)
    assert torch.equal(quarter, image().rot90(1, (1, 2))) or torch.equal(quarter, image().rot90(-1, (1, 2)))
    assert torch.equal(mapped(quarter, angle=-math.pi / 2), image())


def test_a_shift_moves_right_and_down_and_leaves_white_behind():
    moved = mapped(image(), shift=(2, 3))
    assert torch.equal(moved[:, 3:, 2:], image()[:, :-3, :-2])
    assert (moved[:, :3] == 255).all() and (moved[:, :, :2] == 255).all()


def test_a_scale_magnifies_about_the_middle():
    dot = torch.full((1, 9, 9), 255, dtype=torch.uint8)
    dot[0, 4, 4] = 0
    large = mapped(dot, scale=3)
    assert (large[0, 3:6, 3:6] == 0).all() and (large == 0).sum() == 9
    small = mapped(torch.zeros(1, 9, 9, dtype=torch.uint8), scale=1 / 3)
    assert (small[0, 3:6, 3:6] == 0).all() and (small == 0).sum() == 9


def test_each_image_gets_its_own_map():
    images = torch.cat([image(), image(seed=1)])
    affine = Affine(torch.tensor([0.0, math.pi]), torch.zeros(2), torch.zeros(2), torch.ones(2))
    both = apply_affine(images, torch.tensor([1, 0]), affine)
    assert torch.equal(both[0], images[1]) and torch.equal(both[1], images[0].flip(0, 1))


def test_maps_are_drawn_from_the_published_ranges():
    affine = draw_affine(20_000, 105, torch.Generator().manual_seed(0))
    for values, low, high in (
        (affine.angle, -math.pi, math.pi),
        (affine.shift_x, -42, 42),
        (affine.shift_y, -42, 42),
        (affine.scale, 0.5, 1.5),
    ):
        assert values.shape == (20_000,)
        width = high - low
        assert low <= values.min() < low + 0.01 * width and high - 0.01 * width < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * width)
        assert values.std().item() == pytest.approx(width / math.sqrt(12), rel=0.03)
    assert torch.equal(affine.shift_x, affine.shift_x.round())
    assert torch.corrcoef(torch.stack(affine)).triu(1).abs().max() < 0.03


def test_bytes_become_numbers_from_black_to_white():
    levels = resize(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(2, 105, 105), 128)
    assert levels.shape == (2, 128, 128) and levels.dtype == torch.float32
    assert (levels[0] == -1).all() and (levels[1] == 1).all()


def test_resizing_is_bilinear_between_pixel_middles():
    step = torch.tensor([[[0, 255], [0, 255]]], dtype=torch.uint8)
    row = torch.tensor([-1.0, -0.5, 0.5, 1.0])  # middles of the new pixels lie at 1/4 and 3/4 of the way
    torch.testing.assert_close(resize(step, 4), row.expand(1, 4, 4))


def test_patches_are_cut_around_their_centres_row_by_row():
    pictures = torch.arange(2 * 12 * 12).float().view(2, 12, 12)
    centres = torch.tensor([[[2, 2], [9, 5]], [[4, 10], [2, 7]]])
    got = cut_patches(pictures, centres, 4)
    assert got.shape == (2, 2, 16)
    for n in range(2):
        for k, (x, y) in enumerate(centres[n].tolist()):
            assert torch.equal(got[n, k].view(4, 4), pictures[n, y - 2 : y + 2, x - 2 : x + 2])
