"""Curricula of the trainer, and rows of tasks that generate answers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from lgbench.errors import UserError
from lgbench.launchers.local import run_plan
from lgbench.plan.cells import Axes, resolve_cells, task_key
from lgbench.plan.params import PluginRequest, expand, parse_plugins
from lgbench.plugins.registry import METHODS, TASKS
from lgbench.run import checkpoint
from lgbench.run.calibrate import CalibrationData
from lgbench.run.measure import wilson_interval
from lgbench.run.progress import Progress
from lgbench.run.schedule import draw_lengths, stage_lengths
from lgbench.run.train import STAGE_STEPS, Trainer, train_all
from lgbench.store import Store, read

STAGES = ((6, 1), (12, 2), (24, 3))


@pytest.fixture
def recall(toys):
    def make(*methods, ragged=False, seeds=(0,), axes=None, **numbers):
        task = TASKS.load("toy_recall")(TASKS.load("toy_recall").Params(ragged=ragged))
        task.prepare(torch.device("cpu"))
        cells = resolve_cells(
            [("toy_recall", task)],
            [one for text in methods for request in parse_plugins(text) for one in expand(request)],
            seeds=seeds, preset="smoke", axes=axes or Axes(), overrides=numbers,
        )  # fmt: skip
        return task, cells

    return make


@pytest.fixture
def trainer(recall, tmp_path):
    def make(folder="a", **numbers):
        task, (cell,) = recall("vanilla", stages=STAGES, **numbers)
        method = METHODS.load("vanilla")()
        return Trainer(cell.training, task, method, tmp_path / folder)

    return make


def test_a_stage_limits_the_lengths_and_old_stages_come_back(recall):
    _, (cell,) = recall("vanilla", stages=STAGES, revisit=0.25)
    draws = [draw_lengths(cell.training, step, 2) for step in range(4000)]
    shares = {stage: n / 4000 for stage, n in Counter(stage for _, _, stage in draws).items()}
    assert shares == pytest.approx({0: 0.125, 1: 0.125, 2: 0.75}, abs=0.03)
    for stage, highest in enumerate((6, 12, 24)):
        lengths = {length for length, _, of in draws if of == stage}
        assert (min(lengths), max(lengths)) == (4, highest)
    assert {stage for _, _, stage in (draw_lengths(cell.training, s, 0) for s in range(50))} == {0}


def test_stages_end_where_a_methods_training_range_ends(recall):
    _, (cell,) = recall("expanded", stages=STAGES)
    high = cell.training.high
    assert high > 24
    lengths = [draw_lengths(cell.training, step, 2)[0] for step in range(4000)]
    assert max(lengths) == high
    assert max(draw_lengths(cell.training, step, 0)[0] for step in range(500)) == round(6 * high / 24)


def test_no_stage_is_scaled_below_the_shortest_context(recall):
    _, (cell,) = recall("vanilla", stages=STAGES, axes=Axes(train_length=[8]))
    assert (cell.training.low, cell.training.high) == (4, 8)
    assert [stage_lengths(cell.training, stage) for stage in range(3)] == [(4, 4), (4, 4), (4, 8)]


def test_a_stage_that_is_shorter_than_the_shortest_context_stays_so_and_rows_say_it(recall, tmp_path):
    stages = ((2, 1), *STAGES)
    _, (cell,) = recall("vanilla", stages=stages)
    assert [stage_lengths(cell.training, stage)[0] for stage in range(4)] == [2, 4, 4, 4]
    _, rows = run(recall, tmp_path, "vanilla", stages=stages, train_steps=2)
    assert {row["train_low"] for row in rows} == {2}


def test_the_next_stage_comes_when_the_mean_accuracy_is_above_the_bar(trainer):
    some = trainer(train_steps=300, stage_accuracy=0.5)
    told = []
    draw = some.task.sample_stage
    some.task.sample_stage = lambda *asked: told.append(asked[-1]) or draw(*asked)
    accuracies = [0.4, 0.6, 0.9, 0.9]
    update = some.update

    def scripted(batch, length):
        loss, _ = update(batch, length)
        return loss, torch.tensor(accuracies[some.step // STAGE_STEPS])

    some.update = scripted
    for _ in range(4 * STAGE_STEPS):
        some.one_step()
    assert [told[k * STAGE_STEPS] for k in range(4)] == [STAGES[0], STAGES[0], STAGES[1], STAGES[2]]
    assert some.stage == 2


def test_early_stages_have_batches_of_several_times_the_size(recall, tmp_path):
    """Also where states of the batch before are passed on, which then are too many for later stages."""
    for method in ("vanilla", "state_passing[source=state,last_steps=40]", "state_passing[source=noise]"):
        task, (cell,) = recall(method, stages=STAGES, stage_batches=(3, 2, 1), batch_size=4, train_steps=80)
        kind = METHODS.load(cell.method)
        chosen = kind(kind.Params.model_validate_json(cell.method_params))
        some = Trainer(cell.training, task, chosen, tmp_path / method)
        sizes, tokens, update = [], [], some.update

        def seen(batch, length, update=update, sizes=sizes, tokens=tokens):
            sizes.append(len(batch.targets))
            tokens.append(len(batch.targets) * (length + 2))
            return update(batch, length)[0], torch.tensor(1.0)

        some.update = seen
        for _ in range(3 * STAGE_STEPS):
            some.one_step()
        assert sizes == [12] * STAGE_STEPS + [8] * STAGE_STEPS + [4] * STAGE_STEPS
        assert some.tokens == sum(tokens) and all(p.isfinite().all() for p in some.parameters)


def test_padding_does_not_count_as_tokens_of_a_training(recall, tmp_path):
    task, (cell,) = recall("vanilla", ragged=True)
    some = Trainer(cell.training, task, METHODS.load("vanilla")(), tmp_path / "f")
    batch = some.draw(20, 2, 0)
    present = batch.context["mask"].sum().item()
    assert present < batch.context["mask"].numel()
    assert some.tokens == present + len(batch.targets) * 2


def test_as_many_multiples_of_the_batch_as_stages_are_asked_for(recall):
    with pytest.raises(UserError, match="stage_batches has 2 numbers for 3 stages"):
        recall("vanilla", stages=STAGES, stage_batches=(2, 1))


def test_a_training_with_stages_is_the_same_when_interrupted(trainer):
    numbers = dict(train_steps=90, stage_accuracy=0.0, revisit=0.2)
    whole = trainer(**numbers)
    train_all([whole])
    first = trainer("b", **numbers)
    for _ in range(47):
        first.one_step()
    first.history.append((47, 0.0))
    first.save_resume()
    second = trainer("b", **numbers)
    assert second.resume() and (second.stage, second.stage_steps) == (first.stage, first.stage_steps)
    train_all([second])
    assert whole.stage == second.stage == 2
    for a, b in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)
    assert checkpoint.load(checkpoint.weights_path(whole.folder, 90))[1]["stage"] == 2


def run(recall, tmp_path, *methods, **numbers):
    import io

    from rich.console import Console

    task, cells = recall(*methods, **numbers)
    store = Store(tmp_path / "runs")
    outcome = run_plan(
        cells, {task_key(cell): task for cell in cells}, store, Progress(Console(file=io.StringIO()))
    )
    return outcome, read([tmp_path / "runs"]).table.to_pylist()


METHODS_FOR_TOKENS = [
    "vanilla",
    "prepended",
    "decoder_transformer",
    "decimamba[layers=1,l_base=6]",
    "last_window",
]
METHODS_FOR_TOKENS += ["mambaextend[steps=2]", "longmamba", "state_passing[source=tbptt]"]


@pytest.mark.parametrize("ragged", [False, True])
def test_generated_answers_have_a_row_for_each_metric_and_facts_of_their_items(recall, tmp_path, ragged):
    outcome, rows = run(recall, tmp_path, *METHODS_FOR_TOKENS, ragged=ragged)
    assert not outcome.failed, outcome.failed
    assert outcome.finished == len(METHODS_FOR_TOKENS)
    for row in rows:
        facts = dict(row["item_facts"])
        assert row["num_items"] == len(row["item_values"]) == len(facts["marker"])
        assert row["num_items"] == (6 if row["metric"] == "accuracy" else 3)
        assert set(row["item_values"]) <= {0.0, 1.0}
        low, high = wilson_interval(float(np.mean(row["item_values"])), row["num_items"])
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))
        assert row["context_tokens"] == row["eval_length"] and row["lm_weight"] == 0.1
    assert {(row["metric"], row["eval_length"]) for row in rows} == {
        (metric, length) for metric in ("accuracy", "first token") for length in (4, 9, 24)
    }


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("decimamba[layers=1,l_base=6,min_seq_len=2]", {4: [7, 7], 9: [12, 9], 24: [27, 9]}),
        ("last_window[factor=0.25]", {4: None, 9: [9, 9], 24: [9, 9]}),
    ],
)
def test_kept_tokens_of_generated_answers_count_prompt_and_answer(recall, tmp_path, method, kept):
    """The prompt's end is one token, of the answer two tokens are generated and the first is read again."""
    _, rows = run(recall, tmp_path, method)
    for row in rows:
        wanted = kept[row["eval_length"]]
        got = row["kept_tokens"]
        assert got == (None if wanted is None else [n - 1 for n in wanted]), row["eval_length"]


def test_tokens_of_a_calibration_do_not_count_padding(recall):
    task, (cell,) = recall("vanilla", ragged=True)
    data = CalibrationData(task, METHODS.load("vanilla")(), cell.recipe, 0, {})
    batch = data.draw("calibration", 5, 20)
    present = batch.context["mask"].sum().item()
    assert present < 5 * 20 and data.tokens == present + 5 * 2


def test_a_token_loss_and_a_checkpoint_are_refused_where_there_are_no_tokens(toy_cells):
    with pytest.raises(UserError, match=r"--lm-weight 0\.1: this task has no tokens"):
        toy_cells("vanilla", lm_weight=[0.1])


def test_halves_are_those_of_the_batch_whatever_length_it_is_told_to_have(recall, tmp_path, monkeypatch):
    """A length may count documents, whose tokens differ from the nominal number."""
    task, (cell,) = recall("state_passing[source=tbptt]")
    monkeypatch.setattr(task, "context_tokens", lambda length: 10 * length)
    method = METHODS.load("state_passing")(METHODS.load("state_passing").Params(source="tbptt"))
    some = Trainer(cell.training, task, method, tmp_path / "e")
    read = []
    advance = some.model.backbone.advance
    monkeypatch.setattr(
        some.model.backbone,
        "advance",
        lambda tokens, **how: read.append(tokens.shape[1]) or advance(tokens, **how),
    )
    some.model.intervention.begin_step(0, 0, 12)
    some.update(some.draw(9, 2, 0), task.context_tokens(9))
    assert read == [4, 5 + 2]


def test_the_encoder_decoder_is_skipped_where_answers_are_generated(recall, tmp_path):
    outcome, (row,) = run(recall, tmp_path, "transformer")
    assert row["status"] == "skipped" and "decoder_transformer" in row["reason"]
    assert not outcome.failed


def test_the_weight_of_the_token_loss_is_an_axis_of_its_own_trainings(recall):
    _, cells = recall("vanilla", axes=Axes(lm_weight=[0.0, 0.1]))
    assert [cell.recipe.lm_weight for cell in cells] == [0.0, 0.1]
    assert len({cell.training.key for cell in cells}) == 2


def test_a_token_loss_trains_what_an_answer_loss_alone_leaves(trainer, recall, tmp_path):
    """With weight w the loss is (answer + w others) / (1 + w)."""
    task, (cell,) = recall("vanilla", lm_weight=3.0)
    some = Trainer(cell.training, task, METHODS.load("vanilla")(), tmp_path / "c")
    batch = some.draw(9, 2, 0)
    answer = some.model.training_answer(batch, length=9, read_tokens=True)
    wanted = (task.loss(answer.predictions, batch.targets).mean() + 3 * answer.token_loss) / 4
    loss, _ = some.update(batch, 9)
    torch.testing.assert_close(loss, wanted.detach())


def test_wilsons_interval_is_that_of_the_textbook():
    low, high = wilson_interval(32 / 35, 35)
    assert (low, high) == pytest.approx((0.776, 0.970), abs=5e-4)
    assert wilson_interval(1.0, 20)[0] == pytest.approx(0.839, abs=5e-4)
    assert wilson_interval(1.0, 20)[1] == 1.0


def test_backbones_are_an_axis_and_a_method_refuses_those_it_does_not_run_on(recall):
    _, cells = recall(
        "vanilla", axes=Axes(backbone=[PluginRequest("mamba", {}), PluginRequest("mamba2", {})])
    )
    assert [cell.training.backbone for cell in cells] == ["mamba", "mamba2"]
    with pytest.raises(UserError, match="'decoder_transformer' does not run on the backbone 'mamba2'"):
        recall("decoder_transformer", axes=Axes(backbone=[PluginRequest("mamba2", {})]))


def test_weight_decay_spares_vectors_and_the_logarithms_of_A(recall, tmp_path):
    task, (cell,) = recall("vanilla", weight_decay=0.1)
    some = Trainer(cell.training, task, METHODS.load("vanilla")(), tmp_path / "d")
    names = {id(p): name for name, p in some.model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in some.optimizer.param_groups)
    assert {group["weight_decay"] for group in some.optimizer.param_groups} == {0.1, 0.0}
    assert "interface.embedding.weight" in decayed and "backbone.blocks.0.A_log" in spared
    assert "backbone.norm.weight" in spared and decayed | spared == set(names.values())
    assert replace(cell.recipe, weight_decay=0.0).weight_decay == 0
