"""A published checkpoint through `lgbench run`: zero-shot, fine-tuned, and what does not fit."""

import pytest
import torch

from lgbench.cli import app
from lgbench.models.pretrained import load_pretrained
from lgbench.store import from_texts, read

transformers = pytest.importorskip("transformers")
from typer.testing import CliRunner  # noqa: E402

SIZES = dict(hidden_size=16, num_hidden_layers=2, state_size=4, conv_kernel=4, vocab_size=264)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "checkpoint"
    config = transformers.MambaConfig(**SIZES)
    transformers.MambaForCausalLM(config).save_pretrained(folder)
    return folder


def run(tmp_path, checkpoint, *options):
    words = ["run", "--task", "passkey[data=procedural]", "--method", "vanilla", "--preset", "smoke"]
    words += ["--device", "cpu", "--results", str(tmp_path / "runs"), "--pretrained", str(checkpoint)]
    words += ["--eval-lengths", "192", "--eval-items", "5", *options]
    return CliRunner().invoke(app, words)


def test_no_training_steps_measure_the_published_model_as_it_is(tmp_path, checkpoint):
    outcome = run(tmp_path, checkpoint, "--tokenizer", "bytes", "--train-steps", "0")
    assert outcome.exit_code == 0, outcome.output
    (row,) = read([tmp_path / "runs"]).table.to_pylist()
    assert row["status"] == "ok" and row["train_steps"] == 0 and row["train_loss"] is None
    recipe = from_texts(dict(row["recipe"]))
    assert recipe["pretrained"] == load_pretrained(checkpoint).fingerprint
    assert (recipe["d_model"], recipe["num_layers"], row["d_state"]) == (16, 2, 4)
    (weights,) = (tmp_path / "runs" / "checkpoints").rglob("*.safetensors")
    from lgbench.run.checkpoint import load

    tensors, _ = load(weights)
    for name, weight in load_pretrained(checkpoint).state_dict.items():
        assert torch.equal(tensors[name], weight), name


def test_fine_tuning_starts_from_the_checkpoint(tmp_path, checkpoint):
    outcome = run(tmp_path, checkpoint, "--tokenizer", "bytes", "--train-steps", "2")
    assert outcome.exit_code == 0, outcome.output
    (row,) = read([tmp_path / "runs"]).table.to_pylist()
    assert row["train_steps"] == 2 and row["train_loss"] > 0
    assert row["num_parameters"] == sum(v.numel() for v in load_pretrained(checkpoint).state_dict.values())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "tokenizer.json"),
        (["--tokenizer", "bytes", "--num-layers", "3"], "--num-layers has no effect with --pretrained"),
        (["--tokenizer", "bytes", "--train-steps", "-1"], "--train-steps must be at least 1, got -1"),
        (["--task", "omniglot", "--tokenizer", "bytes"], "one of the tasks has no tokens"),
        (
            ["--backbone", "mamba2", "--tokenizer", "bytes"],
            "holds weights of the backbone mamba, not of mamba2",
        ),
    ],
)
def test_what_does_not_fit_a_checkpoint_is_one_line(tmp_path, checkpoint, options, complaint):
    outcome = run(tmp_path, checkpoint, *options)
    assert outcome.exit_code == 2 and complaint in outcome.output, outcome.output


def test_a_method_of_another_model_is_left_out_beside_a_checkpoint(tmp_path, checkpoint):
    options = ["--method", "decoder_transformer,vanilla", "--tokenizer", "bytes", "--train-steps", "0"]
    outcome = run(tmp_path, checkpoint, *options)
    assert outcome.exit_code == 0 and "does not run on the backbone 'mamba'" in outcome.output
    rows = read([tmp_path / "runs"]).table.to_pylist()
    assert {(r["method"], r["status"]) for r in rows} == {
        ("decoder_transformer", "skipped"), ("vanilla", "ok")
    }  # fmt: skip
