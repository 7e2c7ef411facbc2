"""Image reconstruction: see 4×4 patches of a handwritten character at random places, then paint it anywhere.

    context   (patch, place) × L        places uniform in 2..125 of a 128×128 image, with replacement
    queries   place × Q                 drawn by the same law, independently
    targets   the 4×4 patch at each queried place; error = mean squared difference on the [-1, 1] scale
    filler=f  a context token is, with probability f, a learned vector that shows neither patch nor place

More patches never hurt a reader with perfect memory: beyond about 4,096 they add nothing, so any rise of the
error there is the model's own. Source: Rathjens et al., "Probing Length Generalization in Mamba via Image
Reconstruction"; data: Lake et al., Science 350 (2015). Augmentation in training and evaluation, held-out
characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

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
from lgbench.tasks.omniglot.published import PUBLISHED
from lgbench.tasks.omniglot.recipes import RECIPES
from pydantic import Field, model_serializer, model_validator
from torch import Tensor, nn

from lgbench.models.patches import PatchInterface
from lgbench.task import Batch, Draw, Layout, Metric, Recipe, Task


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
        filler: float = Field(0.0, ge=0, lt=1, description="share of context tokens that show nothing")
        eval_filler: float | None = Field(
            None, ge=0, lt=1, description="the same in evaluation; null: as in training"
        )

        @model_validator(mode="after")
        def _known_filler(self):
            if self.eval_filler is not None and not self.filler:
                raise ValueError("eval_filler needs a model that has seen filler; give filler above 0 too")
            return self

        @model_serializer(mode="wrap")
        def _as_before_filler(self, dump: Any) -> dict[str, Any]:
            """Without filler the parameters, which tell boards of stored rows apart, are as before."""
            unused = {"filler", "eval_filler"} if not self.filler else set()
            return {name: value for name, value in dump(self).items() if name not in unused}

    metric = Metric(name="MSE", best=0.0, higher_is_better=False)
    published = PUBLISHED
    nested = True
    exchangeable = True
    data_params = frozenset({"data", "held_out"})
    eval_only = frozenset({"eval_filler"})
    horizon = 32.0
    context_means = "denser"

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
        self.characters = [data.characters[data.character_ids[at]] for at in data.eval]

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """Patch embedding, separator, queries and the sigmoid head."""
        position = self.params.position if layout == "causal" else "sinusoid"
        return PatchInterface(d_model, PATCH, layout, position, has_filler=self.params.filler > 0)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Augmented training images with `length` patches and `num_queries` queried places each."""
        return self.render(self.draw(num_items, length, num_queries, generator), length)

    def draw(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Draw:
        """Which images, under which maps, seen where; drawn on the generator's device."""
        like = dict(generator=generator, device=generator.device)
        chosen = torch.randint(len(self.train), (num_items,), **like)
        uniform = draw_uniform(num_items, generator)
        centres = torch.randint(FIRST, LAST + 1, (num_items, length + num_queries, 2), **like)
        tokens = {"centres": centres}
        if self.params.filler:
            tokens["filler"] = torch.rand(centres.shape[:2], **like) < self.params.filler
        return Draw(
            {"chosen": chosen.to(self.device), "uniform": uniform.to(self.device)},
            {name: drawn.to(self.device) for name, drawn in tokens.items()},
        )

    def render(self, drawn: Draw, length: int) -> Batch:
        """Cut the patches."""
        centres = drawn.tokens["centres"]
        affine = affine_of(drawn.items["uniform"], self.images.shape[-1])
        indices = self.train[drawn.items["chosen"]]
        patches, places = self._patches(indices, affine, centres), relative(centres)
        context = {"patches": patches[:, :length], "places": places[:, :length]}
        if self.params.filler:
            context["filler"] = drawn.tokens["filler"][:, :length]
        return Batch(context, {"places": places[:, length:]}, patches[:, length:])

    def eval_set(self, num_items: int, seed: int) -> ReconstructionItems:
        """Held-out characters under fixed affine maps, with one endless sequence of places each."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.eval), (num_items,), generator=generator)
        characters = [self.characters[at] for at in chosen.tolist()]
        affine = self._placed(draw_affine(num_items, self.images.shape[-1], generator))
        settings, filler = f"{self.data_fingerprint} {seed} {num_items} {self.params.augment}", None
        if self.params.filler:
            filler = self.params.filler if self.params.eval_filler is None else self.params.eval_filler
            settings += f" filler {filler}"
        views = self._views(self.eval[chosen.to(self.device)], affine)
        return ReconstructionItems(views, seed, settings, characters, filler)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of each patch `(batch, num_queries)`."""
        return nn.functional.mse_loss(predictions, targets, reduction="none").mean(dim=-1)

    score = loss

    def references(
        self, eval_set: ReconstructionItems, num_queries: int, metric: Metric
    ) -> Mapping[str, float]:
        """See `ReconstructionItems.references`."""
        return eval_set.references(num_queries)

    def _placed(self, affine: Affine) -> Affine:
        """The same maps on the device."""
        return Affine(*(part.to(self.device) for part in affine))

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
