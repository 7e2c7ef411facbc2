"""Image reconstruction: see 4×4 patches of a handwritten character at random places, then paint it anywhere.

    context   (patch, place) × L        places uniform in 2..125 of a 128×128 image, with replacement
    queries   place × Q                 drawn by the same law, independently
    targets   the 4×4 patch at each queried place; error = mean squared difference on the [-1, 1] scale

More patches never hurt a reader with perfect memory: beyond about 4,096 they add nothing, so any rise of the
error there is the model's own. Source: Rathjens et al., "Probing Length Generalization in Mamba via Image
Reconstruction"; data: Lake et al., Science 350 (2015). Augmentation in training and evaluation, held-out
characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from lgbench.tasks.omniglot import dataset as omniglot
from lgbench.tasks.omniglot.images import (
    Affine,
    affine_of,
    apply_affine,
    cut_patches,
    draw_affine,
    draw_uniform,
    resize,
)
from lgbench.tasks.omniglot.items import FIRST, LAST, PATCH, SIDE, ReconstructionItems, relative
from pydantic import Field
from torch import Tensor, nn

from lgbench.models.patches import PatchInterface
from lgbench.task import Batch, Draw, Layout, Metric, Recipe, Task


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(2**k for k in range(low, high + 1))


_MAMBA = dict(d_model=16, num_layers=8, d_state=8, batch_size=64)
_SMALL = dict(_MAMBA, learning_rate=2e-3, warmup_steps=200, decay_from=0.5, train_steps=20_000,
              eval_queries=256, eval_items=512, eval_batch=256)  # fmt: skip
_SMOKE = dict(_MAMBA, num_layers=2, batch_size=16, learning_rate=3e-3, warmup_steps=50, decay_from=0.5,
              train_length=64, train_queries=(64, 64), train_steps=1_200, eval_queries=64, eval_items=128,
              eval_batch=64)  # fmt: skip
_PAPER = dict(_MAMBA, learning_rate=3e-4, train_steps=4_816_000, eval_items=5_000, eval_batch=50)

RECIPES: dict[tuple[str, Layout], Recipe] = {
    ("smoke", "causal"): Recipe(**_SMOKE, eval_lengths=_powers(0, 11), query_grid=_powers(0, 8)),
    ("smoke", "encoder_decoder"): Recipe(**_SMOKE, eval_lengths=_powers(0, 11), query_grid=_powers(0, 8)),
    ("small", "causal"): Recipe(
        **_SMALL, train_length=1024, train_queries=(256, 256), eval_lengths=_powers(0, 15),
        query_grid=_powers(0, 12),
    ),
    ("small", "encoder_decoder"): Recipe(
        **_SMALL, train_length=128, train_queries=(1, 100), eval_lengths=_powers(0, 12),
        query_grid=_powers(0, 11),
    ),
    ("paper", "causal"): Recipe(
        **_PAPER, train_length=1024, train_queries=(1024, 1024), eval_queries=1024, query_grid=_powers(0, 15),
        eval_lengths=tuple(sorted({*_powers(0, 15), *(3 * n // 2 for n in _powers(9, 14))})),
    ),
    ("paper", "encoder_decoder"): Recipe(
        **_PAPER, train_length=128, train_queries=(1, 100), eval_queries=100, query_grid=_powers(0, 11),
        eval_lengths=_powers(0, 11),
    ),
}  # fmt: skip


class Omniglot(Task):
    """Memory of places and strokes in a fixed-size state, with an error that is zero for perfect memory."""

    class Params(Task.Params):
        data: Literal["auto", "omniglot", "procedural"] = Field(
            "auto", description="real Omniglot, embedded glyphs, or whichever is there"
        )
        augment: bool = Field(
            True, description="random rotation, shift and scale; off in one published script"
        )
        held_out: tuple[str, ...] | None = Field(
            None, description="alphabets to evaluate on where only the small sets are there"
        )
        position: Literal["concat", "sinusoid"] = Field(
            "concat", description="how Mamba learns a patch's place; the transformer always adds a sinusoid"
        )

    metric = Metric(name="MSE", best=0.0, higher_is_better=False)
    nested = True
    exchangeable = True
    data_params = frozenset({"data", "held_out"})

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` is the published recipe, `small` takes minutes on a GPU."""
        if (preset, layout) not in RECIPES:
            raise LookupError(f"omniglot has no preset '{preset}'. It has: smoke, small, paper")
        return RECIPES[preset, layout]

    def prepare(self, device: torch.device, data_dir: Path | None = None) -> None:
        """Put all images on the device as bytes."""
        super().prepare(device, data_dir)
        data = omniglot.load(self.params.data, data_dir, self.params.held_out)
        self.data_source, self.data_fingerprint, self.notice = data.source, data.fingerprint, data.notice
        self.images = torch.from_numpy(data.images).to(device)
        self.train, self.eval = (torch.from_numpy(ids).to(device) for ids in (data.train, data.eval))

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """Patch embedding, separator, queries and the sigmoid head."""
        position = self.params.position if layout == "causal" else "sinusoid"
        return PatchInterface(d_model, PATCH, layout, position)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Augmented training images with `length` patches and `num_queries` queried places each."""
        return self.render(self.draw(num_items, length, num_queries, generator), length)

    def draw(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Draw:
        """Which images, under which maps, seen where."""
        chosen = torch.randint(len(self.train), (num_items,), generator=generator, device=self.device)
        uniform = draw_uniform(num_items, generator)
        centres = torch.randint(
            FIRST, LAST + 1, (num_items, length + num_queries, 2), generator=generator, device=self.device
        )
        return Draw({"chosen": chosen, "uniform": uniform}, {"centres": centres})

    def render(self, drawn: Draw, length: int) -> Batch:
        """Cut the patches."""
        centres = drawn.tokens["centres"]
        affine = affine_of(drawn.items["uniform"], self.images.shape[-1])
        indices = self.train[drawn.items["chosen"]]
        patches, places = self._patches(indices, affine, centres), relative(centres)
        context = {"patches": patches[:, :length], "places": places[:, :length]}
        return Batch(context, {"places": places[:, length:]}, patches[:, length:])

    def eval_set(self, num_items: int, seed: int) -> ReconstructionItems:
        """Held-out characters under fixed affine maps, with one endless sequence of places each."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.eval), (num_items,), generator=generator).to(self.device)
        affine = Affine(
            *(t.to(self.device) for t in draw_affine(num_items, self.images.shape[-1], generator))
        )
        settings = f"{self.data_fingerprint} {seed} {num_items} {self.params.augment}"
        return ReconstructionItems(self._views(self.eval[chosen], affine), seed, settings)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of each patch `(batch, num_queries)`."""
        return nn.functional.mse_loss(predictions, targets, reduction="none").mean(dim=-1)

    score = loss

    def references(
        self, eval_set: ReconstructionItems, num_queries: int, metric: Metric
    ) -> Mapping[str, float]:
        """Errors of the best image-independent answers to the first `num_queries` queries of the items.

        "chance" is the per-location mean image; the others are weaker. A curve is worse than chance without
        qualification only above all three.
        """
        mean_image = eval_set.images.mean(dim=0, keepdim=True)
        constant = eval_set.mean_pixel(num_queries)
        answers = {"chance": mean_image, "best constant": constant, "all white": torch.ones_like(mean_image)}
        return {name: eval_set.error_of(answer, num_queries) for name, answer in answers.items()}

    def _patches(self, indices: Tensor, affine: Affine, centres: Tensor) -> Tensor:
        """Patches `(batch, num_patches, 16)` of views; on CUDA one kernel draws them without the views."""
        by_kernel = self.device.type == "cuda" and find_spec("triton") is not None
        if not by_kernel or not self.params.augment:
            return cut_patches(self._views(indices, affine), centres, PATCH)
        from lgbench.tasks.omniglot.images_triton import mapped_patches

        return mapped_patches(self.images, indices, affine, centres, SIDE, PATCH)

    def _views(self, indices: Tensor, affine: Affine) -> Tensor:
        """Images `(batch, 128, 128)` in [-1, 1]."""
        raw = apply_affine(self.images, indices, affine) if self.params.augment else self.images[indices]
        return resize(raw, SIDE)
