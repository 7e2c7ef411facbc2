"""Triton kernel for patches of augmented images: from the bytes of the data set to the pixels asked for.

A pixel of a patch is the weighted mean of four pixels of the mapped image, each of which is white or one of
the source. A program has BLOCK places of one image. What selects a pixel rounds as the plain path does: one
operation at a time, never a fused multiply-add. Addresses of images and patches are 64 bit.
"""

import torch
import triton
import triton.language as tl
from lgbench.tasks.omniglot.images import Affine
from torch import Tensor

BLOCK = 32
ROUNDER, ROUNDER_BITS = tl.constexpr(1.5 * 2**23), tl.constexpr(0x4B400000)
"""A float32 so large that added to one below 2^22 it rounds it, half to even, and its bits as an integer."""
STEP = tl.constexpr(1 / 127.5)


def mapped_patches(
    images: Tensor, indices: Tensor, affine: Affine, centres: Tensor, side: int, patch: int
) -> Tensor:
    """Map images by `apply_affine`, `resize` them and `cut_patches`, without an image in between.

    Args:
        images: uint8 `(num_images, height, height)`, the whole data set, contiguous.
        indices: int64 `(batch,)`, which images.
        affine: one map a row.
        centres: int64 `(batch, num_patches, 2)` as (column, row) in the resized image.
        side: of the resized images.
        patch: side of a patch in pixels, 2, 4, 8, ...

    Returns:
        float32 `(batch, num_patches, patch²)` in [-1, 1], row by row.
    """
    batch, places = centres.shape[:2]
    out = torch.empty(batch, places, patch**2, device=images.device)
    if out.numel() == 0:
        return out
    cos, sin = affine.angle.cos() / affine.scale, affine.angle.sin() / affine.scale
    tensors = (images, indices, cos, sin, affine.shift_x, affine.shift_y, centres.contiguous(), out)
    with torch.cuda.device_of(images):
        _mapped_patches_kernel[(batch * triton.cdiv(places, BLOCK),)](
            *tensors, places, images.shape[-1], side, patch, BLOCK, num_warps=4, enable_fp_fusion=False
        )
    return out


@triton.jit(do_not_specialize=["places"])
def _mapped_patches_kernel(
    images, indices, cos, sin, shift_x, shift_y, centres, out, places,
    SOURCE: tl.constexpr, SIDE: tl.constexpr, PATCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A lane is a pixel of a patch: the columns of its first row, then the next row, then the next patch."""
    chunks = tl.cdiv(places, BLOCK)
    item = (tl.program_id(0) // chunks).to(tl.int64)
    lane = tl.arange(0, BLOCK * PATCH * PATCH)
    place = tl.program_id(0) % chunks * BLOCK + lane // (PATCH * PATCH)
    ok = place < places
    row = item * places + place
    image = images + tl.load(indices + item) * SOURCE * SOURCE
    c, s = tl.load(cos + item), tl.load(sin + item)
    to_x, to_y = tl.load(shift_x + item), tl.load(shift_y + item)
    across = tl.load(centres + 2 * row, mask=ok, other=0).to(tl.int32) - PATCH // 2 + lane % PATCH
    down = tl.load(centres + 2 * row + 1, mask=ok, other=0).to(tl.int32) - PATCH // 2 + lane // PATCH % PATCH
    left, right, right_share = _taps(across, SOURCE, SIDE)
    upper, lower, lower_share = _taps(down, SOURCE, SIDE)
    left, right = left - (SOURCE - 1) / 2 - to_x, right - (SOURCE - 1) / 2 - to_x
    upper, lower = upper - (SOURCE - 1) / 2 - to_y, lower - (SOURCE - 1) / 2 - to_y
    left_share, upper_share = 1.0 - right_share, 1.0 - lower_share
    first = left_share * _pixel(image, c, s, left, upper, ok, SOURCE)
    first += right_share * _pixel(image, c, s, right, upper, ok, SOURCE)
    second = left_share * _pixel(image, c, s, left, lower, ok, SOURCE)
    second += right_share * _pixel(image, c, s, right, lower, ok, SOURCE)
    value = upper_share * first + lower_share * second
    tl.store(out + row * PATCH * PATCH + lane % (PATCH * PATCH), value, mask=ok)


@triton.jit
def _taps(at, SOURCE: tl.constexpr, SIDE: tl.constexpr):
    """The two lines of the source, as floats, around a line of the resized image; the share of the second."""
    where = tl.maximum((at.to(tl.float32) + 0.5) * (SOURCE / SIDE) - 0.5, 0.0)
    first = where.to(tl.int32).to(tl.float32)
    return first, tl.minimum(first + 1.0, SOURCE - 1.0), where - first


@triton.jit
def _pixel(image, c, s, dx, dy, ok, SOURCE: tl.constexpr):
    """What the mapped image has at (dx, dy) from its shifted middle, in [-1, 1]; white is 1."""
    x = _nearest(c * dx + s * dy + (SOURCE - 1) / 2)
    y = _nearest(c * dy - s * dx + (SOURCE - 1) / 2)
    inside = (x >= 0) & (x < SOURCE) & (y >= 0) & (y < SOURCE)
    return tl.load(image + y * SOURCE + x, mask=inside & ok, other=255).to(tl.float32) * STEP - 1.0


@triton.jit
def _nearest(value):
    """`round` as an integer, in fewer and faster instructions."""
    return (value + ROUNDER).to(tl.int32, bitcast=True) - ROUNDER_BITS
