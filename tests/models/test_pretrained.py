"""Checkpoints in the Hugging Face format give the logits and texts of transformers, or a clear refusal."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lgbench.backbones.mamba import Mamba
from lgbench.errors import UserError
from lgbench.intervention import ScanIntervention
from lgbench.models.language import TokenInterface
from lgbench.models.model import Model
from lgbench.models.pretrained import load_pretrained, read_sizes

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "state_size": 5, "vocab_size": 61, "time_step_rank": 3}


def peer(**changes):
    """A random model of transformers whose states and convolutions matter, another ε than the usual one."""
    torch.manual_seed(0)
    sizes = SIZES | {"layer_norm_epsilon": 3e-4, "eos_token_id": None}  # texts end only where we say so
    config = transformers.MambaConfig(**sizes | changes)
    model = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def theirs():
    return peer()


@pytest.fixture(scope="module")
def saved(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mamba-hf")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def ours(saved):
    return built(load_pretrained(saved))


def built(pretrained, intervention=None):
    sizes = pretrained.sizes
    model = Model(
        TokenInterface(sizes.vocabulary, sizes.d_model),
        Mamba(d_model=sizes.d_model, num_layers=sizes.num_layers, **sizes.options),
        intervention or ScanIntervention(),
    )
    pretrained.install(model)
    return model.eval()


def prompt(length=50, batch=2):
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(1))


def logits(model, tokens, cuts=()):
    """Of all tokens, read in pieces with carried states."""
    state, found = None, []
    with torch.no_grad():
        for piece in tokens.tensor_split(cuts, dim=1):
            embedded = model.interface.context({"tokens": piece})
            part = model.backbone.advance(
                embedded, mode="prefill", state=state, intervention=model.intervention
            )
            found.append(model.interface.read(part.hidden))
            state = part.state
    return torch.cat(found, dim=1)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("cuts", [(), (20,), (1, 2, 3, 40), tuple(range(1, 50))], ids=str)
def test_logits_are_those_of_transformers_in_one_piece_and_with_carried_states(ours, theirs, cuts):
    tokens = prompt()
    with torch.no_grad():
        wanted = theirs(tokens).logits
    assert wanted.std() > 0.5
    torch.testing.assert_close(logits(ours, tokens, cuts), wanted, atol=1e-4, rtol=0)


def test_logits_continue_a_cache_of_transformers_as_they_continue_ours(ours, theirs):
    tokens = prompt(length=12)
    with torch.no_grad():
        found = [theirs(tokens[:, :8], use_cache=True)]
        for t in range(8, 12):
            cache = found[-1].cache_params
            found.append(theirs(tokens[:, t : t + 1], cache_params=cache, use_cache=True))
    wanted = torch.cat([out.logits for out in found], dim=1)
    torch.testing.assert_close(logits(ours, tokens, (8, 9, 10, 11)), wanted, atol=1e-4, rtol=0)


def test_200_generated_tokens_are_those_of_transformers(ours, theirs):
    tokens = prompt(length=20)
    options = {"max_new_tokens": 200, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        wanted = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[:, 20:]
        state = ours.read_context({"tokens": tokens[:, :15]}, None, 15)
        got = ours.generate_from(state, {"tokens": tokens[:, 15:]}, 200, 15)
    assert wanted.shape == (2, 200) and wanted.unique().numel() > 20
    assert torch.equal(got, wanted)


def test_sizes_come_from_the_configuration(saved):
    sizes = read_sizes(saved)
    assert sizes == load_pretrained(saved).sizes
    assert (sizes.backbone, sizes.d_model, sizes.num_layers, sizes.vocabulary) == ("mamba", 24, 3, 61)
    assert sizes.tied
    assert sizes.options == {"d_state": 5, "expand": 2, "dt_rank": 3, "conv_width": 4, "norm_eps": 3e-4}


def test_sizes_that_a_configuration_leaves_out_are_those_of_the_format(folder):
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    sizes, config = read_sizes(folder), transformers.MambaConfig()
    assert (sizes.d_model, sizes.num_layers) == (config.hidden_size, config.num_hidden_layers)
    assert sizes.vocabulary == config.vocab_size
    assert sizes.options == {
        "d_state": config.state_size,
        "conv_width": config.conv_kernel,
        "expand": config.expand,
        "dt_rank": config.time_step_rank,
        "norm_eps": config.layer_norm_epsilon,
    }


def test_every_file_layout_gives_the_same_weights_and_fingerprint(saved, theirs, tmp_path):
    wanted = load_pretrained(saved)
    shards, torch_file, torch_shards = (tmp_path / name for name in ("shards", "bin", "bin-shards"))
    theirs.save_pretrained(shards, max_shard_size="10KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    weights = theirs.state_dict()
    for folder in (torch_file, torch_shards):
        folder.mkdir()
        shutil.copy(saved / "config.json", folder)
    torch.save(weights, torch_file / "pytorch_model.bin")
    parts = {"a.bin": list(weights)[:10], "b.bin": list(weights)[10:]}
    for file, names in parts.items():
        torch.save({name: weights[name] for name in names}, torch_shards / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (torch_shards / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for folder in (shards, torch_file, torch_shards):
        got = load_pretrained(folder)
        assert got.fingerprint == wanted.fingerprint
        assert got.state_dict.keys() == wanted.state_dict.keys()
        assert all(torch.equal(t, wanted.state_dict[name]) for name, t in got.state_dict.items())


def test_another_weight_is_another_fingerprint(folder):
    before = load_pretrained(folder).fingerprint
    edit_weights(folder, lambda w: w["backbone.layers.1.mixer.D"][0].add_(1e-3))
    assert load_pretrained(folder).fingerprint != before


@pytest.mark.parametrize("residual_in_fp32", [True, False])
def test_half_precision_weights_are_computed_with_in_float32(tmp_path, residual_in_fp32):
    half = peer(residual_in_fp32=residual_in_fp32).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    model = built(load_pretrained(tmp_path))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        wanted = half.float()(prompt()).logits
    torch.testing.assert_close(logits(model, prompt()), wanted, atol=1e-4, rtol=0)


def test_the_names_of_the_oldest_checkpoints_are_understood(folder, ours):
    edit_weights(
        folder,
        lambda w: w.update({"backbone.embedding.weight": w.pop("backbone.embeddings.weight")}),
    )
    got = load_pretrained(folder).state_dict["interface.embedding.weight"]
    assert torch.equal(got, ours.interface.embedding.weight)


def test_parameters_of_a_method_are_left_as_they_are(saved):
    hook = ScanIntervention()
    hook.trained = nn.Linear(1, 24)
    before = hook.trained.weight.clone()
    model = built(load_pretrained(saved), hook)
    assert torch.equal(model.trained.weight, before)


def test_a_model_of_other_sizes_is_refused(saved):
    pretrained = load_pretrained(saved)
    model = Model(
        TokenInterface(257, 24),
        Mamba(d_model=24, num_layers=3, **pretrained.sizes.options),
        ScanIntervention(),
    )
    with pytest.raises(UserError, match=r"1 of another shape: interface.embedding.weight \[61, 24\] instead"):
        pretrained.install(model)


def test_missing_extra_and_misshaped_weights_are_named_all_at_once(folder):
    def spoil(weights):
        for layer in range(3):
            del weights[f"backbone.layers.{layer}.mixer.D"]
            del weights[f"backbone.layers.{layer}.norm.weight"]
        weights["backbone.layers.7.mixer.D"] = torch.zeros(48)
        weights["backbone.norm_f.weight"] = torch.ones(23)

    edit_weights(folder, spoil)
    with pytest.raises(UserError) as error:
        load_pretrained(folder)
    said = str(error.value)
    assert "6 missing: backbone.layers.0.norm.weight, backbone.layers.0.mixer.D," in said
    assert "and 2 more; 1 not expected: backbone.layers.7.mixer.D; " in said
    assert "1 of another shape: backbone.norm_f.weight [23] instead of [24]" in said


def test_a_head_of_its_own_that_the_configuration_denies_is_refused(folder):
    edit_weights(folder, lambda w: w.update({"lm_head.weight": w["backbone.embeddings.weight"].clone()}))
    load_pretrained(folder)
    edit_weights(folder, lambda w: w["lm_head.weight"][3, 3].add_(1))
    with pytest.raises(UserError, match=r"lm_head\.weight differs from backbone\.embeddings\.weight"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "a model of type 'gpt2'; only mamba, mamba2, falcon_mamba and"),
        ({"model_type": None}, "a model without a model_type"),
        ({"use_bias": True}, r"use_bias=true \(only false\)"),
        ({"use_conv_bias": False}, r"use_conv_bias=false \(only true\)"),
        ({"hidden_act": "gelu", "use_bias": True}, r"use_bias=true .*, hidden_act=gelu \(only silu\)"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide': Input should be a valid integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"expand": 1.5}, "expand = 1.5"),
    ],
    ids=str,
)
def test_configurations_that_our_model_cannot_follow_are_refused_by_name(folder, changes, words):
    edit_config(folder, **changes)
    for read in (read_sizes, load_pretrained):
        with pytest.raises(UserError, match=words):
            read(folder)


def test_what_is_no_checkpoint_is_said_to_be_none(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"it has no config\.json"):
        load_pretrained(empty)
    with pytest.raises(UserError, match="is a file; a checkpoint is the folder"):
        load_pretrained(folder / "config.json")
    for nothing in (tmp_path / "nothing", str(tmp_path / "nothing"), "./a/b", "mamba", ""):
        with pytest.raises(UserError, match=r"no checkpoint folder|no config\.json"):
            load_pretrained(nothing)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights: neither model\.safetensors nor pytorch_model\.bin"):
        load_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_torn_file_is_noticed(folder, theirs, name):
    path = folder / name
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read, it may be torn"):
        load_pretrained(folder)


def test_a_file_that_would_run_code_is_not_run(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": print}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        load_pretrained(folder)


def test_a_missing_shard_is_named(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(UserError, match=f"lacks {gone.name}, which model.safetensors.index.json names"):
        load_pretrained(tmp_path)


def test_a_hub_name_is_downloaded_without_the_files_that_are_not_needed(saved, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = load_pretrained("state-spaces/mamba-130m-hf")
    assert found.source == "state-spaces/mamba-130m-hf" and found.sizes == read_sizes(saved)
    assert asked == [
        ("state-spaces/mamba-130m-hf", ["config.json", "*.safetensors", "*.safetensors.index.json"])
    ]


def test_without_network_or_extra_a_hub_name_says_what_would_help(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, allow_patterns):
        raise LocalEntryNotFoundError("cannot find the files on the Hub\nand more lines")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", offline)
        with pytest.raises(UserError, match=r"cannot find the files on the Hub\. Check name and network, or"):
            read_sizes("state-spaces/mamba-130m-hf")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "lgbench\[hub\]"'):
        read_sizes("state-spaces/mamba-130m-hf")


def test_a_folder_is_read_without_transformers(saved, monkeypatch):
    for name in ("transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    assert load_pretrained(str(saved)).sizes.num_layers == 3
