"""Evaluation items are fixed, nested, endless, and can be painted."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from lgbench.tasks.omniglot.images import cut_patches
from lgbench.tasks.omniglot.items import GRID, MIDDLE, ReconstructionItems

pytestmark = pytest.mark.usefixtures("no_outside")

ALL = slice(None)


def items(num_items=3, seed=0, settings="x"):
    images = torch.rand(num_items, 128, 128, generator=torch.Generator().manual_seed(7)) * 2 - 1
    return ReconstructionItems(images, seed, settings)


def test_patches_are_those_of_the_image_at_their_places():
    fixed = items()
    context = fixed.context(ALL, 0, 50, 50)
    queries, targets = fixed.queries(ALL, 50, 20)
    for places, patches in ((context["places"], context["patches"]), (queries["places"], targets)):
        centres = (places + MIDDLE).long()
        assert centres.min() >= 2 and centres.max() <= 125
        assert torch.equal(patches, cut_patches(fixed.images, centres, 4))


def test_places_are_uniform_over_both_limits_and_differ_between_items_and_parts():
    fixed = items(num_items=8)
    places = fixed.context(ALL, 0, 4096, 4096)["places"]
    counts = torch.bincount((places + MIDDLE).long().flatten(), minlength=126)
    assert (counts[:2] == 0).all() and len(counts) == 126
    assert (counts[2:] - 65536 / 124).abs().max() < 5 * (65536 / 124) ** 0.5
    assert not torch.equal(places[0], places[1])
    queries, _ = fixed.queries(ALL, 64, 64)
    assert not torch.equal(queries["places"], places[:, :64])
    assert torch.corrcoef(places.flatten(0, 1).T)[0, 1].abs() < 0.03


def test_a_shorter_context_is_a_prefix_of_a_longer_one_in_any_pieces():
    fixed = items()
    whole = fixed.context(ALL, 0, 3000, 3000)
    for cuts in ((0, 1024, 2048, 3000), (0, 1, 1000, 1100, 2999, 3000), (0, 64, 3000)):
        pieces = [fixed.context(ALL, a, b, b) for a, b in pairwise(cuts)]
        for name, tensor in whole.items():
            assert torch.equal(torch.cat([piece[name] for piece in pieces], dim=1), tensor)


def test_fewer_queries_are_a_prefix_of_more_and_do_not_depend_on_the_length():
    fixed = items()
    many, targets = fixed.queries(ALL, 8, 1500)
    few, fewer_targets = fixed.queries(ALL, 4096, 5)
    assert torch.equal(few["places"], many["places"][:, :5]) and torch.equal(fewer_targets, targets[:, :5])


def test_a_batch_of_items_is_a_slice_of_all():
    fixed = items()
    part, whole = fixed.context(slice(1, 3), 0, 9, 9), fixed.context(ALL, 0, 9, 9)
    assert torch.equal(part["patches"], whole["patches"][1:3])


def test_the_fingerprint_names_the_items():
    again = items()
    assert items().fingerprint == again.fingerprint
    assert torch.equal(again.context(ALL, 0, 9, 9)["places"], items().context(ALL, 0, 9, 9)["places"])
    others = {items(seed=1).fingerprint, items(num_items=4).fingerprint, items(settings="y").fingerprint}
    assert len(others | {again.fingerprint}) == 4


def test_painting_the_true_patches_gives_the_image():
    fixed = items()
    places = fixed.gallery_queries(slice(0, 2))["places"]
    assert places.shape == (2, 1024, 2) and set((places + MIDDLE).unique().tolist()) == set(GRID)
    truth = cut_patches(fixed.images[:2], (places + MIDDLE).long(), 4)
    np.testing.assert_array_equal(fixed.gallery_images(truth), fixed.gallery_truth(slice(0, 2)))
    assert fixed.gallery_truth(ALL).shape == (3, 127, 127)


def test_the_grid_has_no_place_that_training_has_not():
    assert len(GRID) == 32 and min(GRID) == 2 and max(GRID) == 125


def test_the_error_of_a_fixed_answer_is_its_mean_over_items_and_queries():
    fixed = items(num_items=70)
    answer = torch.rand(1, 128, 128)
    queries, targets = fixed.queries(ALL, 1, 1024)
    centres = (queries["places"] + MIDDLE).long()
    errors = [
        (cut_patches(answer, centres[n : n + 1], 4) - targets[n]).square().mean().item() for n in range(70)
    ]
    assert abs(fixed.error_of(answer, 1024) - np.mean(errors)) < 1e-5
    assert abs(fixed.mean_pixel(1024)[0, 0, 0].item() - targets.mean().item()) < 1e-5
