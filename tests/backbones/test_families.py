"""A family of backbones: `family:name`, sizes from a library, layers read through its cache behind a gate.

The library here is a stand-in with the interface of flash-linear-attention, whose kernels need a GPU:
`forward(hidden_states, past_key_values, use_cache) -> (o, None, cache)`, its cache changed in place.
"""

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.errors import UserError
from lgbench.intervention import ScanIntervention
from lgbench.plan.params import parse_plugins
from lgbench.plugins.contract import check_backbone
from lgbench.plugins.registry import BACKBONES, Registry
from lgbench.store import read


class Cache:
    """Layers of states by name, as the library's."""

    def __init__(self):
        self.layers = []

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, index):
        return self.layers[index].state

    def update(self, layer_idx, offset, **state):
        while len(self.layers) <= layer_idx:
            self.layers.append(types.SimpleNamespace(state=None, seen=0, zero=torch.tensor(0)))
        self.layers[layer_idx].state = state
        self.layers[layer_idx].seen += offset


class Leaky(nn.Module):
    """h_t = a h_(t-1) + W x_t, its state changed in place where there is one."""

    def __init__(
        self,
        hidden_size: int = 2048,
        num_heads: int = 4,
        expand: float = 1,
        use_bias: bool = False,
        floor: "float | None" = None,
        mode: "str" = "chunk",
        layer_idx: int | None = None,
        **kwargs,
    ):
        super().__init__()
        assert hidden_size % num_heads == 0, "heads do not divide"
        self.layer_idx, self.num_heads = layer_idx, num_heads
        self.inner, self.outer = (nn.Linear(hidden_size, hidden_size, bias=use_bias) for _ in range(2))
        self.rate = nn.Parameter(torch.randn(hidden_size))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        u, keep = self.inner(hidden_states), torch.sigmoid(self.rate)
        carried = None
        if past_key_values is not None and len(past_key_values) > self.layer_idx:
            carried = past_key_values[self.layer_idx]["recurrent_state"]
        h, rows = torch.zeros_like(u[:, 0]) if carried is None else carried[0], []
        for t in range(u.shape[1]):
            h = self.next(h, u[:, t], keep)
            rows.append(h)
        if carried is not None and not torch.is_grad_enabled():
            carried[0].copy_(h)
        if use_cache:
            past_key_values.update(self.layer_idx, u.shape[1], recurrent_state=(h,), conv_state=None)
        return self.outer(torch.stack(rows, dim=1)), None, past_key_values

    def next(self, h, u, keep):
        return keep * h + u


class Forgetful(Leaky):
    """Wrong where it continues several tokens: it drops the state."""

    def forward(self, hidden_states, past_key_values=None, **more):
        if past_key_values is not None and hidden_states.shape[1] > 1:
            past_key_values.layers.clear()
        return super().forward(hidden_states, past_key_values=past_key_values, **more)


class Stuck(Leaky):
    """Refuses to continue several tokens."""

    def forward(self, hidden_states, past_key_values=None, **more):
        if past_key_values and hidden_states.shape[1] > 1:
            raise NotImplementedError("single tokens only")
        return super().forward(hidden_states, past_key_values=past_key_values, **more)


class Sighted(Leaky):
    """Not causal."""

    def forward(self, hidden_states, **more):
        o, *others = super().forward(hidden_states, **more)
        return o + hidden_states.mean(dim=1, keepdim=True), *others


@pytest.fixture
def fla(monkeypatch):
    """The stand-in in place of the library."""
    layers, models = types.ModuleType("fla.layers"), types.ModuleType("fla.models.utils")
    for kind in (Leaky, Forgetful, Stuck, Sighted):
        setattr(layers, kind.__name__, kind)
    models.Cache = Cache
    for name, module in {
        "fla": types.ModuleType("fla"), "fla.layers": layers, "fla.models": types.ModuleType("fla.models"),
        "fla.models.utils": models,
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(BACKBONES, "_members", {})
    monkeypatch.setattr(BACKBONES, "_failed", {})


def test_a_member_keeps_the_contract_and_streams_though_the_library_changes_its_cache_in_place(fla):
    kind = BACKBONES.load("fla:Leaky")
    verdicts = check_backbone(kind, {"num_heads": 8})
    assert [v for v in verdicts if not v.kept] == [] and not any(v.note for v in verdicts)
    model = kind(d_model=32, num_layers=2)
    model.advance(torch.randn(2, 9, 32), mode="prefill", intervention=ScanIntervention())
    assert model.backend_name(torch.empty(1, 1, 32), frozenset()) == "fla"
    assert model.step is not None


@pytest.mark.parametrize(
    ("layer", "words"),
    [("Forgetful", "pieces differ from the whole by"), ("Stuck", "NotImplementedError: single tokens only")],
)
def test_a_layer_whose_pieces_differ_from_the_whole_is_read_whole_and_says_so(fla, layer, words):
    verdicts = check_backbone(BACKBONES.load(f"fla:{layer}"))
    assert [v for v in verdicts if not v.kept] == []
    (note,) = [v.note for v in verdicts if v.note]
    assert words in note and "read whole" in note
    assert "back end fla, read whole" in [v.found for v in verdicts]


def test_gradients_flow_through_a_carried_cache(fla):
    model = BACKBONES.load("fla:Leaky")(d_model=32, num_layers=2)
    x, off = torch.randn(2, 9, 32, requires_grad=True), ScanIntervention()
    state = model.advance(x, mode="prefill", intervention=off).state
    model.advance(
        torch.randn(2, 3, 32), mode="prefill", state=state, intervention=off
    ).hidden.sum().backward()
    assert x.grad[:, 0].abs().max() > 0 and model.training


def test_the_parameters_are_the_arguments_of_the_layer(fla):
    params = BACKBONES.load("fla:Leaky").Params
    assert {name: field.default for name, field in params.model_fields.items()} == {
        "num_heads": 4, "expand": 1, "use_bias": False, "floor": None, "mode": "chunk"
    }  # fmt: skip
    assert params(expand=0.5, floor=0.1).expand == 0.5
    for wrong in ({"hidden_size": 3}, {"num_heads": "many"}, {"use_bias": 3.5}):
        with pytest.raises(ValueError):
            params(**wrong)


def run(tmp_path, backbone, *options):
    words = ["run", "--task", "marked_recall", "--preset", "smoke", "--device", "cpu", "--train-steps", "2"]
    words += ["--eval-lengths", "32", "--num-layers", "1", "--results", str(tmp_path), "--backbone", backbone]
    return CliRunner().invoke(app, [*words, *options])


def test_a_run_trains_members_and_its_rows_say_which(fla, tmp_path):
    done = run(tmp_path, "fla:Leaky[num_heads=[2,4]],fla:Stuck", "--method", "vanilla,last_window,slow_clock")
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "backbone 'fla:Stuck': it does not continue several tokens" in text
    assert "'slow_clock' does not run on the backbone 'fla:Leaky', which has no hook" in text
    rows = [r for r in read([tmp_path]).table.to_pylist() if r["status"] == "ok"]
    assert {r["backbone"] for r in rows} == {"fla:Leaky[num_heads=2]", "fla:Leaky[num_heads=4]", "fla:Stuck"}
    assert {r["backbone_identity"].split()[:2][1] for r in rows} == {"Leaky", "Stuck"}
    assert "Finished already" in run(tmp_path, "fla:Stuck").output


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (
            "fla",
            "'fla' is a family, name one of its layers, such as fla:GatedDeltaNet. There are: Forgetful,",
        ),
        ("fla:Leeky", "has no layer 'Leeky', such as fla:GatedDeltaNet. There are: Leaky"),
        ("fla:Leaky[num_head=2]", "has no parameter 'num_head'. It has: num_heads (int, default 4)"),
        ("fla:Leaky[num_heads=7]", "fla's Leaky refuses d_model 32: heads do not divide"),
        ("fla:Sighted", "breaks its contract, causal"),
        ("fla:", "expected a name after 'fla:'"),
        ("mamba:Leaky", "backbone 'mamba' is no family"),
    ],
)
def test_what_is_no_member_is_one_line_before_training(fla, tmp_path, backbone, words):
    done = run(tmp_path, backbone)
    assert done.exit_code == 2 and words in " ".join(done.output.split()), done.output
    assert not list(tmp_path.rglob("*.parquet"))


def test_kernels_that_need_a_gpu_are_refused_on_a_cpu(fla, tmp_path, monkeypatch):
    from lgbench.backbones import fla as family

    monkeypatch.setattr(family, "_has_kernels", lambda: True)
    done = run(tmp_path, "fla:Leaky")
    assert done.exit_code == 2 and "need a GPU; run it with --device cuda" in " ".join(done.output.split())


def test_without_the_library_the_family_is_listed_with_how_to_get_it():
    if "fla" in sys.modules or BACKBONES.problem("fla") is None:
        pytest.skip("flash-linear-attention is installed")
    done = CliRunner().invoke(app, ["list", "backbones"])
    (line,) = [line for line in done.output.splitlines() if "fla:NAME" in line]
    assert "needs fla, which is not installed. pip install" in line and "flash-linear-attention" in line
    with pytest.raises(UserError, match="needs fla, which is not installed"):
        BACKBONES.load("fla:GatedDeltaNet")


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("fla:GatedDeltaNet[num_heads=4]", "fla:GatedDeltaNet", {"num_heads": 4}),
        ("hf:./models/a-b_c[x=1]", "hf:./models/a-b_c", {"x": 1}),
        ('hf:"a [b]"', "hf:a [b]", {}),
        ("hf: state-spaces/mamba-130m-hf ", "hf:state-spaces/mamba-130m-hf", {}),
    ],
)
def test_the_name_of_a_member_is_taken_as_it_is(text, name, params):
    (request, other) = parse_plugins(f"{text},mamba")
    assert (request.name, dict(request.params), other.name) == (name, params, "mamba")


FAMILY = """
from typing import ClassVar
from torch import nn
from lgbench.backbone import Backbone

class Cells(Backbone):
    kind: ClassVar[str]

    @classmethod
    def member(cls, name):
        if name not in ("GRU", "RNN"):
            raise ValueError("has GRU and RNN")
        return type(name, (cls,), {"kind": name, "content": name})

    def mixer(self, d_model, layer):
        return getattr(nn, self.kind)(d_model, d_model, batch_first=True)
"""


def test_a_file_of_ones_own_may_be_a_family(tmp_path: Path):
    path = tmp_path / "cells.py"
    path.write_text(FAMILY)
    registry = Registry("backbone", "lgbench.backbones")
    registry.add_file(path)
    assert "cells" in registry.families() and "cells" not in registry.names()
    assert registry.load("cells:GRU") is registry.load("cells:GRU")
    gru, rnn = (registry.identity(f"cells:{name}") for name in ("GRU", "RNN"))
    assert gru.endswith(" GRU") and rnn.endswith(" RNN") and gru.split()[0] == rnn.split()[0]
    with pytest.raises(UserError, match="backbone 'cells' has GRU and RNN"):
        registry.load("cells:LSTM")
    assert all(v.kept for v in check_backbone(registry.load("cells:RNN")))
