"""On a real device the kernel draws the training items of the plain path, also in a captured graph."""

import pytest
import torch
from lgbench.tasks.omniglot import Omniglot
from lgbench.tasks.omniglot.images import apply_affine, cut_patches, draw_affine, resize

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from lgbench.tasks.omniglot.images_triton import mapped_patches


def plain(images, indices, affine, centres, side, patch):
    return cut_patches(resize(apply_affine(images, indices, affine), side), centres, patch)


def far_off(got, wanted):
    """The share of pixels that differ by more than rounding: another pixel of the source was nearest."""
    return ((got - wanted).abs() > 1e-5).float().mean().item()


def arguments(batch, places):
    generator = torch.Generator("cuda").manual_seed(places)
    like = dict(generator=generator, device="cuda")
    images = torch.randint(256, (50, 105, 105), dtype=torch.uint8, **like)
    indices, affine = torch.randint(50, (batch,), **like), draw_affine(batch, 105, generator)
    return images, indices, affine, torch.randint(2, 126, (batch, places, 2), **like), 128, 4


@pytest.mark.parametrize(("batch", "places"), [(64, 1536), (256, 100), (3, 1), (1, 20_000)])
def test_random_maps_of_noise_give_what_the_plain_path_gives(batch, places):
    values = arguments(batch, places)
    got, wanted = mapped_patches(*values), plain(*values)
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    assert far_off(got, wanted) <= 1e-5


@pytest.mark.parametrize(("batch", "places"), [(2, 0), (0, 4)])
def test_nothing_asked_gives_nothing(batch, places):
    assert mapped_patches(*arguments(batch, places)).shape == (batch, places, 16)


def test_a_seed_draws_the_same_items_as_with_the_plain_path(monkeypatch):
    task = Omniglot(Omniglot.Params(data="procedural"))
    task.prepare(torch.device("cuda"))
    fast = task.sample(64, 512, 1024, torch.Generator("cuda").manual_seed(3))
    monkeypatch.setattr(
        task,
        "_patches",
        lambda indices, affine, centres: plain(task.images, indices, affine, centres, 128, 4),
    )
    slow = task.sample(64, 512, 1024, torch.Generator("cuda").manual_seed(3))
    assert torch.equal(fast.context["places"], slow.context["places"])
    assert torch.equal(fast.queries["places"], slow.queries["places"])
    assert far_off(fast.context["patches"], slow.context["patches"]) <= 1e-5
    assert far_off(fast.targets, slow.targets) <= 1e-5
    assert fast.targets.std() > 0.1


def test_a_captured_graph_draws_patches_of_what_it_is_given_anew():
    values, others = arguments(8, 300), arguments(8, 301)
    mapped_patches(*values)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = mapped_patches(*values)
    for static, new in zip(
        (values[1], *values[2], values[3]), (others[1], *others[2], others[3][:, 1:]), strict=True
    ):
        static.copy_(new)
    graph.replay()
    assert far_off(got, plain(*values)) <= 1e-5


def test_an_image_beyond_2_to_the_31_bytes_is_found():
    images = torch.full((2**31 // 105**2 + 2, 105, 105), 255, dtype=torch.uint8, device="cuda")
    _, _, affine, centres, side, patch = arguments(1, 64)
    images[-1] = torch.randint(256, (105, 105), device="cuda")
    index = torch.tensor([len(images) - 1], device="cuda")
    got = mapped_patches(images, index, affine, centres, side, patch)
    assert got.std() > 0.1
    assert torch.equal(got, mapped_patches(images[-1:], index * 0, affine, centres, side, patch))
