"""`hf:FOLDER`: causal models of transformers through `inputs_embeds`, keyed by what the folder holds."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.intervention import ScanIntervention
from lgbench.plugins.contract import check_backbone
from lgbench.plugins.registry import BACKBONES
from lgbench.store import read

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 61}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
CONFIGS = {
    "Llama": SMALL | HEADS,
    "Mistral": SMALL | HEADS | {"sliding_window": 16},
    "Gemma3Text": SMALL | HEADS | {"head_dim": 8, "sliding_window": 16},
    "GPT2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 61, "bos_token_id": 0, "eos_token_id": 0},
    "Mamba": SMALL | {"state_size": 4},
    "Mamba2": SMALL | {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "FalconMamba": SMALL | {"state_size": 4},
    "Rwkv": SMALL | {"context_length": 512},
}
READ_WHOLE = {"Mamba", "FalconMamba", "Rwkv"}
"""Of transformers 5.23: what it continues by several tokens from a cache is not what it computes whole."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a configuration alone; the registry forgets it afterwards."""
    monkeypatch.setattr(BACKBONES, "_members", {})

    def make(name, **changes):
        place = tmp_path / name
        getattr(transformers, f"{name}Config")(**CONFIGS[name] | changes).save_pretrained(place)
        return place

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_a_causal_model_keeps_the_contract_in_pieces_or_is_read_whole(name, folder):
    kind = BACKBONES.load(f"hf:{folder(name)}")
    verdicts = check_backbone(kind)
    assert [v for v in verdicts if not v.kept] == []
    notes = [v.note for v in verdicts if v.note]
    if transformers.__version__.startswith("5.23."):
        assert bool(notes) == (name in READ_WHOLE)
    assert all("read whole" in note for note in notes)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(CONFIGS, "Bert", SMALL | {"num_attention_heads": 4, "intermediate_size": 48})
    (broken, *_) = [v for v in check_backbone(BACKBONES.load(f"hf:{folder('Bert')}")) if not v.kept]
    assert broken.check == "causal"


def test_numbers_of_the_configuration_are_parameters_and_sizes_are_those_of_the_run(folder):
    kind = BACKBONES.load(f"hf:{folder('Llama')}")
    assert {"num_attention_heads", "intermediate_size", "rms_norm_eps"} <= kind.Params.model_fields.keys()
    assert not {"hidden_size", "vocab_size", "num_hidden_layers"} & kind.Params.model_fields.keys()
    model = kind(d_model=16, num_layers=5, intermediate_size=20)
    names = dict(model.named_parameters())
    assert names["trunk.model.layers.4.mlp.up_proj.weight"].shape == (20, 16)
    assert not any("embed" in name for name in names)


def test_weights_of_the_folder_are_taken_when_asked_for(folder, tmp_path):
    place = folder("Llama")
    torch.manual_seed(5)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIGS["Llama"])).eval()
    theirs.save_pretrained(place)
    kind = BACKBONES.load(f"hf:{place}")
    ours = kind(d_model=32, num_layers=3, pretrained=True).eval()
    tokens = torch.randint(61, (2, 30), generator=torch.Generator().manual_seed(0))
    embedded = theirs.model.embed_tokens(tokens)
    found = ours.advance(embedded, mode="prefill", intervention=ScanIntervention()).hidden
    torch.testing.assert_close(found, theirs.model(tokens).last_hidden_state)
    fresh = kind(d_model=32, num_layers=3).eval()
    assert not torch.allclose(fresh.trunk(embedded), found, atol=1e-2)
    shallow = kind(d_model=32, num_layers=1, pretrained=True)
    first = "trunk.model.layers.0.mlp.up_proj.weight"
    assert torch.equal(shallow.state_dict()[first], ours.state_dict()[first])
    with pytest.raises(ValueError, match="have width 32 and 3 layers: give --d-model 32 and --num-layers"):
        kind(d_model=16, num_layers=3, pretrained=True)
    with pytest.raises(ValueError, match="intermediate_size cannot be changed with pretrained=true"):
        kind(d_model=32, num_layers=3, pretrained=True, intermediate_size=20)


def test_the_key_is_the_content_of_the_folder_not_its_place(folder, tmp_path):
    place = folder("Llama")
    copy = shutil.copytree(place, tmp_path / "elsewhere")
    one, other = (BACKBONES.identity(f"hf:{path}") for path in (place, copy))
    assert one == other
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"intermediate_size": 20}))
    BACKBONES._members.clear()
    assert BACKBONES.identity(f"hf:{copy}") != one
    (place / "model.safetensors").write_bytes(b"weights")
    BACKBONES._members.clear()
    assert BACKBONES.identity(f"hf:{place}") != one


def run(tmp_path, backbone):
    words = ["run", "--task", "marked_recall", "--preset", "smoke", "--device", "cpu", "--train-steps", "2"]
    words += ["--eval-lengths", "32", "--num-layers", "1", "--results", str(tmp_path), "--backbone", backbone]
    return CliRunner().invoke(app, words)


def test_a_run_trains_it_and_finds_it_finished_under_another_path(folder, tmp_path):
    place = folder("Llama")
    done = run(tmp_path / "runs", f"hf:{place}[num_key_value_heads=4]")
    assert done.exit_code == 0, done.output
    assert {r["status"] for r in read([tmp_path / "runs"]).table.to_pylist()} == {"ok"}
    shutil.move(place, tmp_path / "moved")
    again = run(tmp_path / "runs", f"hf:{tmp_path / 'moved'}[num_key_value_heads=4]")
    assert again.exit_code == 0 and "Finished already" in again.output, again.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no checkpoint folder"),
        ("", "cannot be read as JSON"),
        ("{}", "its config.json names no model_type"),
        ('{"model_type": "nothing"}', "transformers refuses its config.json: Unrecognized model identifier"),
        ('{"model_type": "llama", "num_attention_heads": 5}', "transformers refuses its config.json"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path, content, words):
    place = tmp_path / "model"
    if content is not None:
        place.mkdir()
        (place / "config.json").write_text(content)
    done = run(tmp_path / "runs", f"hf:{place}")
    assert done.exit_code == 2 and words in " ".join(done.output.split()), done.output
