"""An exported model is, for transformers, the model that was trained; what cannot be exported is one line."""

import json

import pytest
import torch
from typer.testing import CliRunner

import lgbench
from lgbench.cli import app
from lgbench.models.hub_config import Sizes, read_config, write_config
from lgbench.models.pretrained import load_pretrained
from lgbench.store import read

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


def run(folder, *options):
    words = ["run", "--preset", "smoke", "--device", "cpu", "--results", str(folder), "--train-steps", "2"]
    words += ["--batch-size", "2", "--d-model", "32", "--num-layers", "2", *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    rows = read([folder]).table.to_pylist()
    return {f"{r['method']} {r['backbone'].replace('[', ' ').split()[0]}": r["cell"] for r in rows}


def export(folder, cell, out, read_as="bytes"):
    words = ["export-checkpoint", cell, "--results", str(folder), "--out", str(out)]
    words += ["--data", "procedural", "--tokenizer", read_as]
    return CliRunner().invoke(app, words)


PASSKEY = ("--task", "passkey[data=procedural]", "--eval-lengths", "192", "--eval-items", "5")
KINDS = (
    "mamba[conv_width=0,dt_rank=3]",
    "mamba[mixer_norm_eps=1e-06,conv_width=2]",
    "mamba2[conv_width=4,groups=2,norm_eps=0.001]",
    "mamba2[conv_width=0]",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a cell of each kind, and the file of their tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["The pass key is 12345. Remember it."] * 3, trainer)
    made.save(str(folder / "small.json"))
    run(folder / "runs", *PASSKEY, "--tokenizer", str(folder / "small.json"), "--backbone", ",".join(KINDS))
    return folder / "runs", str(folder / "small.json")


@pytest.fixture(scope="module", params=KINDS)
def exported(request, trained, tmp_path_factory):
    """The trained model, transformers' of the exported folder, and the folder."""
    (runs, tokenizer), out = trained, tmp_path_factory.mktemp("out")
    (cell,) = {r["cell"] for r in read([runs]).table.to_pylist() if r["backbone"] == request.param}
    done = export(runs, cell[:8], out, tokenizer)
    assert done.exit_code == 0, done.output
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return lgbench.load(cell, runs, data="procedural", tokenizer=tokenizer), theirs.eval(), out


@torch.no_grad()
def test_transformers_loads_it_and_computes_the_same_logits_and_text(exported):
    ours, theirs, _ = exported
    vocabulary = ours.interface.embedding.num_embeddings
    tokens = torch.randint(vocabulary - 1, (2, 60), generator=torch.Generator().manual_seed(0))
    advanced = ours.backbone.advance(
        ours.interface.context({"tokens": tokens}), mode="prefill", intervention=ours.intervention
    )
    wanted = ours.interface.read(advanced.hidden)
    assert wanted.std() > 0.05
    torch.testing.assert_close(theirs(tokens).logits, wanted, atol=1e-4, rtol=0)
    state = ours.read_context({"tokens": tokens[:, :50]}, None, 50)
    text = ours.generate_from(state, {"tokens": tokens[:, 50:]}, 20, 50)
    theirs.generation_config.eos_token_id = None
    found = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    assert torch.equal(found[:, 60:], text)


def test_the_tokenizer_comes_with_it(exported):
    _, theirs, folder = exported
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    text = "The pass key is 48213. Remember it, naïve reader! ☃\n"
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert loaded.decode(ids) == text
    assert loaded.eos_token_id == theirs.config.eos_token_id
    assert max(ids) < theirs.config.vocab_size
    assert len(ids) < len(text.encode())


def test_what_was_exported_is_read_again(exported):
    ours, _, folder = exported
    again = load_pretrained(folder).state_dict
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_a_loaded_checkpoint_with_a_head_of_its_own_is_exported_as_it_was(tmp_path):
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=264, tie_word_embeddings=False
    )
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "given")
    options = ["--pretrained", str(tmp_path / "given"), "--train-steps", "0", "--tokenizer", "bytes"]
    words = ["run", *PASSKEY, *options, "--preset", "smoke", "--device", "cpu", "--results", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    done = export(tmp_path, "", tmp_path / "out")
    assert done.exit_code == 0, done.output
    one, other = (load_pretrained(tmp_path / name) for name in ("given", "out"))
    assert one.fingerprint == other.fingerprint
    text = "Naïve reader! ☃\n"
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert ids == list(text.encode()) and loaded.decode(ids) == text and loaded.eos_token_id == 256


@pytest.mark.parametrize("backbone", ["mamba", "mamba2"])
def test_the_written_configuration_reads_as_the_same_sizes(tmp_path, backbone):
    own = {"mamba": {"dt_rank": 3, "mixer_norm_eps": 1e-6}, "mamba2": {"head_dim": 8, "groups": 2}}[backbone]
    options = {"d_state": 5, "expand": 2, "conv_width": 4, "norm_eps": 1e-4} | own
    sizes = Sizes(backbone=backbone, d_model=32, num_layers=3, vocabulary=61, tied=False, options=options)
    (tmp_path / "config.json").write_text(json.dumps(write_config(sizes)))
    assert read_config(tmp_path) == sizes


def test_what_has_no_such_format_is_one_line(tmp_path):
    language = ("--tokenizer", "bytes", "--backbone", "decoder,mamba", "--method", "vanilla,prepended")
    cells = run(tmp_path, *PASSKEY, *language)
    cells |= run(tmp_path, "--task", "marked_recall", "--method", "truncated", "--eval-lengths", "32")
    refused = {
        "vanilla decoder": "is of the backbone 'decoder'; only mamba and mamba2 have",
        "prepended mamba": "method 'prepended' trains parameters of its own (trained",
        "truncated mamba": "task 'marked_recall' has no tokens",
    }
    for name, words in refused.items():
        done = export(tmp_path, cells[name], tmp_path / "out")
        assert done.exit_code == 2 and words in " ".join(done.output.split()), done.output
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over_and_a_cell_must_exist(trained, tmp_path):
    runs, tokenizer = trained
    done = export(runs, "", tmp_path / "out", tokenizer)
    assert done.exit_code == 2 and "no single cell ''" in done.output
    (tmp_path / "note").touch()
    cell = read([runs]).table["cell"][0].as_py()
    done = export(runs, cell, tmp_path, tokenizer)
    assert done.exit_code == 2 and "is not an empty folder" in done.output


def test_other_data_than_those_of_the_training_are_noticed(trained, tmp_path):
    cell = read([trained[0]]).table["cell"][0].as_py()
    done = export(trained[0], cell, tmp_path / "out", "bytes")
    assert done.exit_code == 2 and "are not those that the cell was trained on" in " ".join(
        done.output.split()
    )
