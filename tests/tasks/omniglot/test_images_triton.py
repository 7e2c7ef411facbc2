"""The kernel for patches of mapped images is the plain path, in Triton's interpreter, in its own process."""

import math
import os

import pytest
import torch
from lgbench.tasks.omniglot.images import Affine, apply_affine, cut_patches, draw_affine, resize

pytestmark = pytest.mark.usefixtures("no_outside")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_of_this_file_hold_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def largest_error(affine, centres, source=105, side=128, patch=4):
    """The largest difference to the plain path on noise, where no two neighbours are alike."""
    from lgbench.tasks.omniglot.images_triton import mapped_patches

    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (5, source, source), generator=generator, dtype=torch.uint8)
    indices = torch.randint(5, (len(centres),), generator=generator)
    got = mapped_patches(images, indices, affine, centres, side, patch)
    wanted = cut_patches(resize(apply_affine(images, indices, affine), side), centres, patch)
    assert got.shape == wanted.shape == (*centres.shape[:2], patch**2) and got.dtype == torch.float32
    return (got - wanted).abs().max().item() if got.numel() else 0.0


def one_map(angle=0.0, shift=(0.0, 0.0), scale=1.0):
    return Affine(*(torch.tensor([float(n)]) for n in (angle, *shift, scale)))


def every_place(low=2, high=125, step=1):
    line = torch.arange(low, high + 1, step)
    return torch.cartesian_prod(line, line).unsqueeze(0)


@interpreted
@pytest.mark.parametrize(("batch", "places"), [(16, 80), (3, 1), (1, 33), (2, 0), (0, 4)])
def test_random_maps_give_what_the_plain_path_gives(batch, places):
    generator = torch.Generator().manual_seed(places)
    affine = draw_affine(batch, 105, generator)
    centres = torch.randint(2, 126, (batch, places, 2), generator=generator)
    assert largest_error(affine, centres) < 1e-6


@interpreted
def test_all_places_up_to_the_borders_agree():
    assert largest_error(one_map(0.7, (-42, 31), 0.5), every_place(step=5)) < 1e-6
    assert largest_error(one_map(), every_place(step=5)) < 1e-6
    corners = torch.tensor([[[2, 2], [2, 126], [126, 2], [126, 126]]])
    assert largest_error(one_map(-2.0, (5, 0), 1.5), corners) < 1e-6


@interpreted
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-3, 4)])
def test_halfway_between_two_pixels_both_take_the_even_one(shift):
    assert largest_error(one_map(shift=shift, scale=2.0), every_place(step=5)) < 1e-6


@interpreted
@pytest.mark.parametrize(("source", "side", "patch"), [(28, 64, 2), (10, 8, 4), (9, 40, 8)])
def test_other_sizes_agree(source, side, patch):
    centres = every_place(patch // 2, side - patch // 2)
    assert largest_error(one_map(math.pi / 3, (1, -2), 0.9), centres, source, side, patch) < 1e-6


@interpreted
def test_centres_may_be_a_part_of_a_larger_array():
    centres = torch.randint(2, 126, (2, 40, 2), generator=torch.Generator().manual_seed(0))[:, 5:17]
    affine = draw_affine(2, 105, torch.Generator().manual_seed(0))
    assert largest_error(affine, centres) < 1e-6
