"""Falcon Mamba, Mamba-2, heads of their own and the original format: logits and texts of transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lgbench.backbones.mamba import Mamba
from lgbench.backbones.mamba2 import Mamba2
from lgbench.errors import UserError
from lgbench.intervention import ScanIntervention
from lgbench.models.language import TokenInterface
from lgbench.models.model import Model
from lgbench.models.pretrained import load_pretrained, read_sizes

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 24, "num_hidden_layers": 3, "state_size": 5, "vocab_size": 61, "eos_token_id": None,
    "layer_norm_epsilon": 3e-4,
}  # fmt: skip
HEADS = {"num_heads": 6, "head_dim": 8, "chunk_size": 16}
KINDS = {
    "mamba": ("Mamba", {}),
    "mamba-untied": ("Mamba", {"tie_word_embeddings": False}),
    "falcon_mamba": ("FalconMamba", {"mixer_rms_eps": 2e-3}),
    "falcon_mamba-untied": ("FalconMamba", {"tie_word_embeddings": False}),
    "mamba2": ("Mamba2", HEADS | {"n_groups": 1, "tie_word_embeddings": True}),
    "mamba2-untied": ("Mamba2", HEADS | {"n_groups": 1}),
    "mamba2-groups": ("Mamba2", HEADS | {"n_groups": 3}),
}


def peer(kind, **changes):
    """A random model of transformers in which every weight matters."""
    name, own = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | own | changes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def built(pretrained):
    sizes = pretrained.sizes
    kind = {"mamba": Mamba, "mamba2": Mamba2}[sizes.backbone]
    backbone = kind(d_model=sizes.d_model, num_layers=sizes.num_layers, **sizes.options)
    model = Model(TokenInterface(sizes.vocabulary, sizes.d_model), backbone, ScanIntervention())
    pretrained.install(model)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """Ours and theirs."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = peer(request.param)
    theirs.save_pretrained(folder)
    return built(load_pretrained(folder)), theirs


def prompt(length=50):
    return torch.randint(61, (2, length), generator=torch.Generator().manual_seed(1))


def logits(model, tokens, cuts=()):
    state, found = None, []
    for piece in tokens.tensor_split(cuts, dim=1):
        embedded = model.interface.context({"tokens": piece})
        part = model.backbone.advance(embedded, mode="prefill", state=state, intervention=model.intervention)
        found.append(model.interface.read(part.hidden))
        state = part.state
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("cuts", [(), (1, 2, 3, 40), tuple(range(1, 50))], ids=["whole", "pieces", "tokens"])
def test_logits_are_those_of_transformers_in_one_piece_and_with_carried_states(pair, cuts):
    ours, theirs = pair
    wanted = theirs(prompt()).logits
    assert wanted.std() > 0.3
    torch.testing.assert_close(logits(ours, prompt(), cuts), wanted, atol=1e-4, rtol=0)


def test_200_generated_tokens_are_those_of_transformers(pair):
    (ours, theirs), tokens = pair, prompt(20)
    options = {"max_new_tokens": 200, "do_sample": False, "pad_token_id": 0}
    wanted = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[:, 20:]
    state = ours.read_context({"tokens": tokens[:, :15]}, None, 15)
    got = ours.generate_from(state, {"tokens": tokens[:, 15:]}, 200, 15)
    assert wanted.shape == (2, 200) and wanted.unique().numel() > 3
    assert torch.equal(got, wanted)


def original(folder, theirs, config, **renamed):
    """The same weights as the released programs save them: other names, and the head beside the embedding."""
    folder.mkdir(exist_ok=True)
    weights = {name: t.clone() for name, t in theirs.state_dict().items()}
    weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
    torch.save(weights | renamed, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))


ORIGINALS = {
    "mamba": {"ssm_cfg": {"d_state": 5}},
    "mamba-untied": {"ssm_cfg": {"d_state": 5}, "tie_embeddings": False},
    "mamba2": {"ssm_cfg": {"layer": "Mamba2", "d_state": 5, "headdim": 8}, "pad_vocab_size_multiple": 4},
    "mamba2-groups": {
        "ssm_cfg": {"layer": "Mamba2", "d_state": 5, "headdim": 8, "ngroups": 3}, "tie_embeddings": False,
    },
}  # fmt: skip
OTHERS = {"d_model": 24, "n_layer": 3, "vocab_size": 61, "rms_norm": True, "fused_add_norm": True}


@pytest.mark.parametrize("kind", ORIGINALS)
def test_the_original_format_gives_the_same_logits(kind, tmp_path):
    theirs = peer(kind, vocab_size=64, layer_norm_epsilon=1e-5)  # 61, filled up to a multiple
    original(tmp_path, theirs, OTHERS | ORIGINALS[kind])
    ours = built(load_pretrained(tmp_path))
    wanted = theirs(prompt()).logits
    torch.testing.assert_close(logits(ours, prompt(), (17,)), wanted, atol=1e-4, rtol=0)


def test_one_model_has_one_fingerprint_in_both_formats(tmp_path):
    theirs = peer("mamba", vocab_size=64, layer_norm_epsilon=1e-5)
    theirs.save_pretrained(tmp_path / "hub")
    original(tmp_path / "original", theirs, OTHERS | ORIGINALS["mamba"])
    one, other = (load_pretrained(tmp_path / name).fingerprint for name in ("hub", "original"))
    assert one == other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attn_layer_idx": [1]}, r"attention in layers \[1\] \(none here\)"),
        ({"d_intermediate": 48}, "d_intermediate=48"),
        ({"rms_norm": False}, "rms_norm=false"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "ssm_cfg.layer = 'Mamba3'"),
        ({"ssm_cfg": {"bias": True}}, r"ssm_cfg.bias=true \(only false\)"),
        ({"ssm_cfg": {"headdims": 8}}, "ssm_cfg.headdims = 8: Extra inputs"),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0.1, 1.0]}}, r"ssm_cfg.dt_limit=\[0.1, 1.0\]"),
        ({"n_layer": 0}, "n_layer = 0"),
    ],
    ids=str,
)
def test_an_original_configuration_that_ours_cannot_follow_is_refused_by_name(tmp_path, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(OTHERS | changes))
    with pytest.raises(UserError, match=words):
        read_sizes(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_step_limit": [0.01, 0.1]}, r"time_step_limit=\[0.01, 0.1\] \(only \[0, inf\]\)"),
        ({"n_groups": 4}, "n_groups=4"),
        ({"head_dim": 7}, "num_heads=6 of head_dim=7"),
        ({"use_bias": True}, "use_bias=true"),
    ],
    ids=str,
)
def test_a_mamba2_that_ours_cannot_follow_is_refused_by_name(tmp_path, changes, words):
    values = {"model_type": "mamba2"} | SMALL | HEADS | {"n_groups": 3} | changes
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        read_sizes(tmp_path)


@pytest.mark.parametrize("kind", ["falcon_mamba", "mamba2-groups"])
def test_missing_extra_and_misshaped_weights_are_named(kind, tmp_path):
    peer(kind).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["backbone.layers.2.mixer.A_log"]
    weights["backbone.layers.0.mixer.gate"] = torch.zeros(2)
    weights["backbone.layers.1.mixer.D"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_pretrained(tmp_path)
    assert "1 missing: backbone.layers.2.mixer.A_log; 1 not expected: backbone.layers.0.mixer.gate; " in str(
        error.value
    )
    assert "1 of another shape: backbone.layers.1.mixer.D [3] instead of [" in str(error.value)


def test_a_missing_head_is_named(tmp_path):
    peer("mamba-untied").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 missing: lm_head\.weight"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_called_one(tmp_path, name):
    peer("mamba").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 516567560\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(
        UserError, match=rf"{name} is a Git LFS pointer.* git lfs install && git -C .* lfs pull"
    ):
        load_pretrained(tmp_path)
