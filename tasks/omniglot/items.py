"""Fixed evaluation items of image reconstruction: images, endless places, a dense grid to paint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from lgbench.tasks.omniglot.images import cut_patches
from torch import Tensor

from lgbench.task import EvalSet, Tensors

SIDE, PATCH, MIDDLE = 128, 4, 64
FIRST, LAST = 2, 125  # centres of patches, inclusive: pixel row and column 127 are never seen nor asked
BLOCK = 1024  # tokens are drawn in blocks, so that a longer grid extends a shorter one
GRID = (*range(2, 123, 4), 125)  # centres of the dense reconstruction, per axis


def relative(centres: Tensor) -> Tensor:
    """Centres of patches as float32 pixels from the middle of the image, -62 to 61."""
    return centres - float(MIDDLE)


class ReconstructionItems(EvalSet):
    """Fixed images with fixed sequences of places; shorter contexts are prefixes of longer ones.

    Args:
        images: `(num_items, 128, 128)` in [-1, 1] on the device.
        seed: of the places.
        settings: what else determines the items, for the fingerprint.
        filler: share of context tokens that show nothing, each drawn by itself; None for a task without them.
    """

    gallery_items = 4

    def __init__(self, images: Tensor, seed: int, settings: str, filler: float | None = None) -> None:
        self.images, self.num_items, self._seed, self._filler = images, len(images), seed, filler
        self._blocks: dict[tuple[str, int], Tensor] = {}
        first = self._block("context", 0)[:, :64].cpu().numpy().tobytes()
        self.fingerprint = hashlib.sha256(settings.encode() + first).hexdigest()[:16]

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Patches `(batch, stop - start, 16)`, their places `(…, 2)`, and which are filler, if any are."""
        centres = self._range("context", items, start, stop)
        patches = cut_patches(self.images[items], centres, PATCH)
        context = {"patches": patches, "places": relative(centres)}
        if self._filler is not None:
            context["filler"] = self._range("filler", items, start, stop).bool()
        return context

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """The same places at every length, and the patches there."""
        centres = self._range("queries", items, 0, num_queries)
        return {"places": relative(centres)}, cut_patches(self.images[items], centres, PATCH)

    def gallery_queries(self, items: slice) -> Tensors:
        """Places that cover the image, in a fixed random order (queries are causal too)."""
        order = torch.randperm(len(GRID) ** 2, generator=torch.Generator().manual_seed(0))
        self._order = order.to(self.images.device)
        grid = torch.cartesian_prod(torch.tensor(GRID), torch.tensor(GRID)).to(self.images.device)[
            self._order
        ]
        return {"places": relative(grid).expand(len(self.images[items]), -1, -1)}

    def gallery_images(self, predictions: Tensor) -> np.ndarray:
        """Assemble answers to `gallery_queries` into images `(batch, 127, 127)`."""
        canvas = predictions.new_ones(len(predictions), 127, 127)
        patches = predictions.unflatten(-1, (PATCH, PATCH))
        for cell, k in enumerate(self._order.argsort().tolist()):
            x, y = GRID[cell // len(GRID)] - 2, GRID[cell % len(GRID)] - 2
            canvas[:, y : y + PATCH, x : x + PATCH] = patches[:, k]
        return canvas.cpu().numpy()

    def gallery_truth(self, items: slice) -> np.ndarray:
        """The images themselves `(batch, 127, 127)`: pixel row and column 127 are never seen nor asked."""
        return self.images[items, :127, :127].cpu().numpy()

    def references(self, num_queries: int) -> dict[str, float]:
        """Errors of the best image-independent answers to the first `num_queries` queries of the items.

        "chance" is the per-location mean image; the others are weaker. A curve is worse than chance without
        qualification only above all three.
        """
        mean_image = self.images.mean(dim=0, keepdim=True)
        constant = self.mean_pixel(num_queries)
        answers = {"chance": mean_image, "best constant": constant, "all white": torch.ones_like(mean_image)}
        return {name: self.error_of(answer, num_queries) for name, answer in answers.items()}

    def mean_pixel(self, num_queries: int) -> Tensor:
        """Mean pixel over the patches of the first queries, as an image `(1, 128, 128)`."""
        total = [self.queries(chosen, 0, num_queries)[1].sum(dim=(1, 2)) for chosen in self._parts()]
        return (torch.cat(total).sum() / (self.num_items * num_queries * PATCH**2)).expand(1, SIDE, SIDE)

    def error_of(self, answer: Tensor, num_queries: int) -> float:
        """MSE of one fixed image `(1, 128, 128)` as the answer to the first queries of each item."""
        errors = []
        for chosen in self._parts():
            centres = self._range("queries", chosen, 0, num_queries)
            truth = cut_patches(self.images[chosen], centres, PATCH)
            guess = cut_patches(answer.expand(len(truth), -1, -1), centres, PATCH)
            errors.append((guess - truth).square().mean(dim=(1, 2)))
        return torch.cat(errors).mean().item()

    def _parts(self) -> Iterator[slice]:
        return (slice(k, min(k + 64, self.num_items)) for k in range(0, self.num_items, 64))

    def _range(self, part: str, items: slice, start: int, stop: int) -> Tensor:
        first, last = start // BLOCK, max(start, stop - 1) // BLOCK
        blocks = [self._block(part, k)[items] for k in range(first, last + 1)]
        return torch.cat(blocks, dim=1)[:, start - first * BLOCK : stop - first * BLOCK].long()

    def _block(self, part: str, block: int) -> Tensor:
        """One block, drawn on the CPU so that all devices see the same.

        Centres uint8 `(num_items, 1024, 2)`; of the part "filler", bool `(num_items, 1024)`.
        """
        if (part, block) not in self._blocks:
            name = f"{self._seed} {part} {block}".encode()
            generator = torch.Generator().manual_seed(
                int.from_bytes(hashlib.sha256(name).digest()[:7], "little")
            )
            if part == "filler":
                drawn = torch.rand(self.num_items, BLOCK, generator=generator) < self._filler
            else:
                shape = (self.num_items, BLOCK, 2)
                drawn = torch.randint(FIRST, LAST + 1, shape, generator=generator, dtype=torch.uint8)
            self._blocks[part, block] = drawn.to(self.images.device)
        return self._blocks[part, block]
