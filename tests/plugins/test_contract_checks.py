"""Every built-in and shown backbone keeps the contract, and each way to break it is named before training."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lgbench.backbone import Backbone
from lgbench.plugins import registry
from lgbench.plugins.contract import check_backbone
from lgbench.plugins.registry import BACKBONES

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mamba", {}),
        ("mamba", {"conv_width": 4, "d_state": 16}),
        ("mamba2", {"conv_width": 4}),
        ("decoder", {}),
        ("decoder", {"position": "alibi"}),
        ("encoder_decoder", {}),
        ("gru", {}),
        ("gla", {}),
    ],
)
def test_built_in_and_shown_backbones_keep_the_contract(name, params):
    for example in ("gru", "gla"):
        registry.add_file(EXAMPLES / f"{example}.py")
    verdicts = check_backbone(BACKBONES.load(name), params)
    assert [v for v in verdicts if not v.kept] == [] and len(verdicts) >= 7


class _Linear(Backbone):
    def mixer(self, d_model, layer):
        return nn.Linear(d_model, d_model)


class Shorter(_Linear):
    def mixer(self, d_model, layer):
        return _Do(lambda x: x[:, 1:])


class Poisoned(_Linear):
    def mixer(self, d_model, layer):
        return _Do(lambda x: x * torch.nan)


class Anticausal(_Linear):
    def mixer(self, d_model, layer):
        return _Do(lambda x: x.flip(1).cumsum(dim=1))


class Shallow(Backbone):
    def stack(self, d_model, num_layers):
        return nn.GRU(d_model, d_model, batch_first=True)


class Undrawn(_Linear):
    def mixer(self, d_model, layer):
        made = nn.Linear(d_model, d_model)
        nn.init.ones_(made.weight), nn.init.ones_(made.bias)
        return made


class InPlace(Backbone):
    def mixer(self, d_model, layer):
        return nn.GRU(d_model, d_model, batch_first=True)

    def step(self, mixer, x, state):
        y, h = mixer(x, None if state is None else state.transpose(0, 1).contiguous())
        if state is None:
            return y, h.transpose(0, 1)
        return y, state.copy_(h.transpose(0, 1))


class Forgetful(Backbone):
    def mixer(self, d_model, layer):
        return nn.GRU(d_model, d_model, batch_first=True)

    def step(self, mixer, x, state):
        return mixer(x)[0], x[:, :0]


class Misspelt(_Linear):
    hooks = frozenset({"sequence", "timesteps"})


class Deaf(_Linear):
    hooks = frozenset({"sequence", "decay"})

    def step(self, mixer, x, state, seam):
        return mixer(x), None


class _Do(nn.Module):
    def __init__(self, do):
        super().__init__()
        self.do, self.out = do, nn.Linear(32, 32)

    def forward(self, x):
        return self.out(self.do(x))


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (Shorter, "it computes", "size of tensor"),
        (Poisoned, "finite", "NaN"),
        (Anticausal, "causal", "a token may see earlier ones only"),
        (Shallow, "depth respected", "use num_layers"),
        (Undrawn, "same seed, same weights", "two seeds give the same"),
        (InPlace, "state not changed in place", "copy, then change"),
        (Forgetful, "pieces = whole", "see `step`"),
        (Misspelt, "hooks exist and act", "no hook is called timesteps"),
        (Deaf, "hooks exist and act", "names decay in `hooks` and never calls it"),
    ],
)
def test_a_broken_contract_is_named(kind, check, words):
    found = {v.check: v for v in check_backbone(kind)}
    assert not found[check].kept and words in found[check].found, found
