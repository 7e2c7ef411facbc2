"""Batched image operations on the device: random affine maps, resizing, cutting patches.

Everything is plain indexing over whole batches, so it runs inside a captured CUDA graph and never leaves the
device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Affine(NamedTuple):
    """Parameters of one affine map an image, each `(batch,)` float32."""

    angle: Tensor
    """Radians."""
    shift_x: Tensor
    shift_y: Tensor
    """Whole pixels of the source image."""
    scale: Tensor


def draw_affine(num_images: int, side: int, generator: torch.Generator) -> Affine:
    """Rotation U(-180°, 180°), shift U(-0.4, 0.4) of the side rounded to pixels, scale U(0.5, 1.5).

    Source: the augmentation of Rathjens et al.
    """
    return affine_of(draw_uniform(num_images, generator), side)


def draw_uniform(num_images: int, generator: torch.Generator) -> Tensor:
    """The numbers in [0, 1) of `affine_of`, `(num_images, 4)`."""
    return torch.rand(4, num_images, generator=generator, device=generator.device).t()


def affine_of(uniform: Tensor, side: int) -> Affine:
    """Maps as `draw_affine` has them, from numbers in [0, 1), `(num_images, 4)`."""
    u = uniform.t().contiguous()
    shift = ((2 * u[1:3] - 1) * 0.4 * side).round()
    return Affine((2 * u[0] - 1) * torch.pi, shift[0], shift[1], 0.5 + u[3])


def apply_affine(images: Tensor, indices: Tensor, affine: Affine) -> Tensor:
    """Rotate, scale and shift images about their centre; nearest neighbour, white outside.

    Args:
        images: uint8 `(num_images, side, side)`, the whole data set.
        indices: int64 `(batch,)`, which images.
        affine: one map a row.

    Returns:
        uint8 `(batch, side, side)`.
    """
    side = images.shape[-1]
    middle = (side - 1) / 2
    line = torch.arange(side, device=images.device, dtype=torch.float32) - middle
    dx = line[None, None, :] - affine.shift_x[:, None, None]
    dy = line[None, :, None] - affine.shift_y[:, None, None]
    cos = (affine.angle.cos() / affine.scale)[:, None, None]
    sin = (affine.angle.sin() / affine.scale)[:, None, None]
    x = (cos * dx + sin * dy + middle).round().long()
    y = (cos * dy - sin * dx + middle).round().long()
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    where = indices[:, None, None] * side**2 + y.clamp(0, side - 1) * side + x.clamp(0, side - 1)
    white = images.new_full((), 255)
    return torch.where(inside, images.flatten()[where], white)


def resize(images: Tensor, side: int) -> Tensor:
    """uint8 `(batch, height, width)` to float32 `(batch, side, side)` in [-1, 1], white is 1; bilinear."""
    values = images.unsqueeze(1).float() / 127.5 - 1
    return F.interpolate(values, size=(side, side), mode="bilinear", align_corners=False).squeeze(1)


def cut_patches(images: Tensor, centres: Tensor, patch: int) -> Tensor:
    """Patches around centres.

    Args:
        images: `(batch, side, side)`.
        centres: int64 `(batch, num_patches, 2)` as (column, row); a patch covers `centre - patch / 2` to
            `centre + patch / 2 - 1` in each direction.
        patch: side of a patch in pixels, even.

    Returns:
        `(batch, num_patches, patch²)`, row by row.
    """
    side = images.shape[-1]
    line = torch.arange(patch, device=images.device) - patch // 2
    offsets = (line[:, None] * side + line[None, :]).flatten()
    pixels = centres[..., 1] * side + centres[..., 0]
    where = (pixels.unsqueeze(-1) + offsets).flatten(1)
    return images.flatten(1).gather(1, where).unflatten(1, (centres.shape[1], patch**2))
