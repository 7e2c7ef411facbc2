"""A published checkpoint through `lgbench run`: zero-shot, fine-tuned, and what does not fit."""

from dataclasses import replace

import pytest
import torch

import lgbench
from lgbench.cli import app
from lgbench.models import pretrained
from lgbench.models.model import build_model
from lgbench.models.pretrained import keep, load_pretrained
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest
from lgbench.plugins.registry import METHODS
from lgbench.recipe import suggest
from lgbench.run.optimizer import adam_of
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
    row = read([tmp_path / "runs"]).table.to_pylist()[0]  # of the headline metric
    assert row["status"] == "ok" and row["train_steps"] == 0 and row["train_loss"] is None
    recipe = from_texts(dict(row["recipe"]))
    assert recipe["pretrained"] == load_pretrained(checkpoint).fingerprint
    assert (recipe["d_model"], recipe["num_layers"], row["d_state"]) == (16, 2, 4)
    (weights,) = (tmp_path / "runs" / "checkpoints").rglob("*.safetensors")
    from lgbench.run.checkpoint import load

    tensors, _ = load(weights)
    for name, weight in load_pretrained(checkpoint).state_dict.items():
        assert torch.equal(tensors[name], weight), name


def test_its_cell_is_loaded_in_a_process_that_has_never_seen_the_checkpoint(
    tmp_path, checkpoint, monkeypatch
):
    outcome = run(tmp_path, checkpoint, "--tokenizer", "bytes", "--train-steps", "0")
    assert outcome.exit_code == 0, outcome.output
    row = read([tmp_path / "runs"]).table.to_pylist()[0]  # of the headline metric
    wanted = load_pretrained(checkpoint).state_dict
    monkeypatch.setattr(pretrained, "_kept", {})
    model = lgbench.load(row["cell"], tmp_path / "runs", data="procedural", tokenizer="bytes")
    assert {name: len(v) for name, v in wanted.items()} == {
        name: len(v) for name, v in model.state_dict().items()
    }
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in wanted.items())


def test_fine_tuning_starts_from_the_checkpoint(tmp_path, checkpoint):
    outcome = run(tmp_path, checkpoint, "--tokenizer", "bytes", "--train-steps", "2")
    assert outcome.exit_code == 0, outcome.output
    row = read([tmp_path / "runs"]).table.to_pylist()[0]  # of the headline metric
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


def test_the_paper_preset_says_that_the_paper_fine_tunes_unless_it_does(tmp_path, checkpoint):
    told = "The paper fine-tunes state-spaces/mamba-130m-hf"
    options = ["--preset", "paper", "--dry-run", "--d-model", "16", "--num-layers", "1", "--batch-size", "1"]
    words = ["run", "--task", "passkey[data=procedural]", "--eval-lengths", "192", "--device", "cpu"]
    words += ["--results", str(tmp_path / "runs")]
    scratch = CliRunner().invoke(app, [*words, *options])
    assert told in " ".join(scratch.output.split()), scratch.output
    tuned = [*words, "--preset", "paper", "--dry-run", "--batch-size", "1", "--pretrained", str(checkpoint)]
    outcome = CliRunner().invoke(app, [*tuned, "--tokenizer", "bytes"])
    assert outcome.exit_code == 0 and told not in " ".join(outcome.output.split()), outcome.output
    small = CliRunner().invoke(app, [*words, "--preset", "smoke", "--dry-run"])
    assert told not in " ".join(small.output.split())


def test_an_untied_head_starts_as_the_embedding_and_is_trained_apart(tmp_path, checkpoint):
    task = load_task(PluginRequest("passkey", {"data": "procedural"}))
    task.prepare(torch.device("cpu"))
    task.vocabulary = SIZES["vocab_size"]
    loaded = load_pretrained(checkpoint)
    recipe = replace(
        task.recipe("paper", "causal"), pretrained=keep(loaded), d_model=16, num_layers=2,
        sizes=suggest(**loaded.sizes.options),
    )  # fmt: skip
    model = build_model(task, METHODS.load("vanilla")(), recipe, seed=0)
    interface = model.interface
    assert torch.equal(interface.head.weight, interface.embedding.weight)
    batch = task.sample(1, 200, 5, torch.Generator().manual_seed(0))
    model.answer(batch, mode="train", length=200).sum().backward()
    assert not torch.equal(interface.head.weight.grad, interface.embedding.weight.grad)
    optimizer = adam_of(model, recipe, torch.device("cpu"))
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["eps"]) == (0.1, 1e-8)
    assert len(group["params"]) == len(list(model.parameters()))
    tied = build_model(task, METHODS.load("vanilla")(), replace(recipe, untied=False), seed=0)
    assert "interface.head.weight" not in tied.state_dict()
    spared = adam_of(tied, replace(recipe, decay_all=False, adam_epsilon=1e-6), torch.device("cpu"))
    assert [group["weight_decay"] for group in spared.param_groups] == [0.1, 0.0]
