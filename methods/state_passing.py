"""Start training sequences in states of long sequences, so that those are no surprise in evaluation.

    state          the final state of the previous batch, of unrelated sequences
    noise          N(0, sigma²), one sigma for all layers
    fitted_noise   N(mean, variance) of final states, for each layer and element of the state
    tbptt          each context is read in two halves; no gradient flows from the second into the first

Trained so, or only in the last steps; evaluated like vanilla, from the zero state, which is the point.
Source: Ruiz and Gu, arXiv:2507.02782. They post-train official checkpoints for 500 steps (`last_steps`);
optimiser, sigma, reset and the update of the statistics (here: a moving average) are not published. A final
state is that after all drawn queries, also of those that a captured step leaves out of its loss.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from lgbench.method import Method, Mode, ScanIntervention
from lgbench.models.model import Model, TrainingAnswer
from lgbench.task import Batch


class StatePassing(Method):
    """Changes training alone; a state after a convolution always starts empty."""

    class Params(Method.Params):
        source: Literal["state", "noise", "fitted_noise", "tbptt"] = Field(
            "state", description="where first states come from"
        )
        reset: float = Field(0.0, ge=0, le=1, description="share of steps that start in the zero state")
        last_steps: int | None = Field(
            None, ge=1, description="only in the last steps of the training; in all of them if not set"
        )
        sigma: float = Field(1.0, gt=0, description="standard deviation of noise")
        decay: float = Field(0.99, ge=0, lt=1, description="of the statistics of fitted_noise, a step")

        @model_validator(mode="after")
        def _have_effect(self):
            used = {"sigma": "noise", "decay": "fitted_noise"}
            for name, source in used.items():
                if getattr(self, name) != type(self).model_fields[name].default and self.source != source:
                    raise ValueError(f"{name} has no effect with source={self.source}")
            return self

    @property
    def train_eagerly(self) -> bool:
        """Two halves are two passes, which a graph for several lengths cannot be."""
        return self.params.source == "tbptt"

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """First states in training, and the memory of last ones."""
        kinds = {"state": _Passed, "noise": _Noise, "fitted_noise": _FittedNoise, "tbptt": _Schedule}
        return kinds[self.params.source](self.params)

    def training_answer(
        self,
        model: Model,
        batch: Batch,
        *,
        length: int | Tensor,
        context_mask: Tensor | None,
        query_mask: Tensor | None,
        read_tokens: bool,
    ) -> TrainingAnswer:
        """In one piece, or in two halves without a gradient between them."""
        if self.params.source != "tbptt" or not model.intervention.begun:
            return super().training_answer(
                model, batch, length=length, context_mask=context_mask, query_mask=query_mask,
                read_tokens=read_tokens,
            )  # fmt: skip
        return model.training_answer_in_halves(
            batch, read_tokens=read_tokens, passing=model.intervention.passing
        )


class _Schedule(ScanIntervention):
    """When first states are not zero. `begun`: the last steps have come; `passing`: and this is no reset."""

    def __init__(self, params: StatePassing.Params) -> None:
        self.params = params
        self.resting = True
        self.begun = self.passing = False
        self.share: Tensor | None = None

    def begin_training(self, backbone: nn.Module, batch_size: int, generator: Generator) -> dict[str, Tensor]:
        """Make room for states of all layers."""
        block = backbone.blocks[0]
        self.generator, device = generator, block.A_log.device
        self.shape = (len(backbone.blocks), batch_size, *block.state_shape)
        self.share = torch.zeros((), device=device)
        return {}

    def begin_step(self, seed: int, step: int, num_steps: int) -> None:
        """Decide by (seed, step) alone."""
        last = self.params.last_steps
        self.begun = last is None or step >= num_steps - last
        self.passing = self.begun and np.random.default_rng((seed, step, 1)).random() >= self.params.reset
        self.share.fill_(float(self.passing))

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Rest in evaluation, and until a training has made room."""
        self.resting = mode != "train" or self.share is None


class _Passed(_Schedule):
    def begin_training(self, backbone: nn.Module, batch_size: int, generator: Generator) -> dict[str, Tensor]:
        super().begin_training(backbone, batch_size, generator)
        self.states = torch.zeros(self.shape, device=self.share.device)
        return {"states": self.states}

    def initial_state(self, layer: int) -> Tensor:
        """Where the previous batch ended, or zero."""
        return self.share * self.states[layer]

    def final_state(self, layer: int, state: Tensor) -> None:
        """Keep it for the next batch, without its history."""
        self.states[layer, : len(state)].copy_(state.detach())


class _Noise(_Schedule):
    def initial_state(self, layer: int) -> Tensor:
        """Normal numbers, or zero."""
        return self.share * self.params.sigma * self._normal()

    def _normal(self) -> Tensor:
        return torch.randn(self.shape[1:], generator=self.generator, device=self.share.device)


class _FittedNoise(_Noise):
    def begin_training(self, backbone: nn.Module, batch_size: int, generator: Generator) -> dict[str, Tensor]:
        super().begin_training(backbone, batch_size, generator)
        layers, _, *state = self.shape
        self.mean, self.square = torch.zeros(2, layers, *state, device=self.share.device)
        return {"mean": self.mean, "square": self.square}

    def initial_state(self, layer: int) -> Tensor:
        """Normal numbers with the mean and variance of final states so far, or zero."""
        spread = (self.square[layer] - self.mean[layer].square()).clamp(min=0).sqrt()
        return self.share * (self.mean[layer] + spread * self._normal())

    def final_state(self, layer: int, state: Tensor) -> None:
        """Update the statistics over the batch."""
        state, weight = state.detach(), 1 - self.params.decay
        self.mean[layer].lerp_(state.mean(dim=0), weight)
        self.square[layer].lerp_(state.square().mean(dim=0), weight)
