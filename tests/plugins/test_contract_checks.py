"""Every built-in and shown backbone keeps the contract, and each way to break it is named before training."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lgbench.backbone import Backbone
from lgbench.cli import app
from lgbench.plugins import registry
from lgbench.plugins.contract import check_backbone
from lgbench.plugins.contract_parts import check_task
from lgbench.plugins.registry import BACKBONES, TASKS

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


class Silent(Backbone):
    def mixer(self, d_model, layer):
        return _Nothing()


class _Nothing(nn.Module):
    def forward(self, x):
        return None


class Mixed(Backbone):
    """The order of dimensions was forgotten: time runs over the items."""

    def mixer(self, d_model, layer):
        return nn.LSTM(d_model, d_model)


class Elsewhere(_Linear):
    def mixer(self, d_model, layer):
        return _Do(lambda x: x.cuda())


class LongSighted(Backbone):
    def mixer(self, d_model, layer):
        return _LongSight(d_model)


class _LongSight(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        y = self.out(x)
        return y + x[:, -1:] if x.shape[1] > 64 else y


def test_weights_that_do_not_depend_on_the_seed_are_said_and_allowed():
    found = {v.check: v for v in check_backbone(Undrawn)}
    assert found["same seed, same weights"].kept
    assert "do not depend on the seed" in found["same seed, same weights"].found


def test_nothing_is_compared_where_numbers_are_none():
    assert check_backbone(Poisoned)[-1].check == "finite"


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (Shorter, "it computes", "as many tokens"),
        (Silent, "it computes", "gave NoneType, expected a tensor"),
        (Mixed, "items apart", "batch_first"),
        (LongSighted, "causal", "of 300 tokens under two futures"),
        (Poisoned, "finite", "NaN"),
        (Elsewhere, "it computes", "it needs CUDA and was asked to run on the CPU: take --device cuda"),
        (Anticausal, "causal", "a token may see earlier ones only"),
        (Shallow, "depth respected", "use num_layers"),
        (InPlace, "state not changed in place", "copy, then change"),
        (Forgetful, "pieces = whole", "see `step`"),
        (Misspelt, "hooks exist and act", "no hook is called timesteps"),
        (Deaf, "hooks exist and act", "names decay in `hooks` and never calls it"),
    ],
)
def test_a_broken_contract_is_named(kind, check, words):
    found = {v.check: v for v in check_backbone(kind)}
    assert not found[check].kept and words in found[check].found, found


BROKEN = '''"""Looks ahead."""

import torch
from lgbench.backbone import Backbone


class Ahead(Backbone):
    def mixer(self, d_model, layer):
        return torch.nn.GRU(d_model, d_model // 2, batch_first=True, bidirectional=True)
'''


def test_check_shows_every_plugin_of_a_file_and_ends_with_status_1_where_one_is_broken(tmp_path):
    path = tmp_path / "ahead.py"
    path.write_text(BROKEN)
    done = CliRunner().invoke(app, ["check", "--plugin", str(path), "--device", "cpu"])
    assert done.exit_code == 1 and "backbone ahead" in done.output
    assert next(line.split()[1] for line in done.output.splitlines() if line.startswith("BAD")) == "causal"
    shown = ["first_token", "half_clock", "gla", "gru"]
    plugins = [word for name in shown for word in ("--plugin", str(EXAMPLES / f"{name}.py"))]
    done = CliRunner().invoke(app, ["check", *plugins, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert done.output.count("chance right") == done.output.count("hooks exist  ") == 1
    done = CliRunner().invoke(app, ["check", "--backbone", "decoder[position=nope]", "--device", "cpu"])
    assert done.exit_code == 0 and "backbone decoder" in done.output


def test_a_broken_backbone_is_refused_in_one_line_before_training(toy_options, tmp_path):
    path = tmp_path / "ahead.py"
    path.write_text(BROKEN)
    asked = [*toy_options, "--backbone", str(path), "--results", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2 and "breaks its contract, causal" in done.output
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_file_that_cannot_be_a_backbone_is_one_line_that_says_what_to_do(toy_options, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    cases = {
        tmp_path / "empty.py": ("x = 1\n", "it needs one, such as: class Mine(Backbone)"),
        tmp_path / "pair.py": (BROKEN + BROKEN.replace("Ahead", "Behind"), "found Ahead, Behind"),
        folder / "mamba.py": (BROKEN, "Rename one: a plugin has the name of its file"),
        tmp_path / "gone.py": (None, "expected the path of a Python file"),
    }
    for path, (text, words) in cases.items():
        if text is not None:
            path.write_text(text)
        asked = [*toy_options, "--backbone", str(path), "--results", str(tmp_path / "runs")]
        done = CliRunner().invoke(app, asked)
        said = " ".join(done.output.split())
        assert done.exit_code == 2 and words in said and "Traceback" not in said, said
    assert not (tmp_path / "runs").exists()


def test_a_task_whose_draws_have_equal_items_is_named():
    class Fixed(TASKS.load("marked_recall")):
        """Says that its items are others, and draws the same ones."""

        def eval_set(self, num_items, seed):
            items = super().eval_set(num_items, 0)
            items.fingerprint += str(seed)
            return items

    broken = [verdict for verdict in check_task(Fixed) if not verdict.kept]
    assert ["--eval-draw asks for others" in verdict.found for verdict in broken] == [True]
    assert all(verdict.kept for verdict in check_task(TASKS.load("marked_recall")))
