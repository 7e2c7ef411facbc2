"""Decimation keeps what it says, for each sample alone, and is vanilla where nothing is dropped."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lgbench.errors import UserError
from lgbench.intervention import Composed, ScanIntervention, active_hooks
from lgbench.models.language import TokenInterface
from lgbench.models.model import Model
from lgbench.plugins import registry
from lgbench.probes.mean_distance import mean_distance
from lgbench.run.calibrate import CalibrationData
from lgbench.store import read
from lgbench.task import Batch

DECI = "decimamba[layers=[[1,3]],l_base=8,min_seq_len=2]"


class Watch(ScanIntervention):
    """Notes what every layer processes."""

    def __init__(self):
        self.x, self.delta = {}, {}

    def record(self, layer, *, x, delta, **others):
        self.x[layer], self.delta[layer] = x, delta


def whole(bench, length):
    queries, targets = bench.items.queries(slice(None), length, 8)
    return Batch(bench.items.context(slice(None), 0, length, length), queries, targets)


def watched(bench, length):
    """Tokens that each layer processes, and where the rows of the output stood."""
    watch, seen = Watch(), {}
    bench.model.intervention = Composed([bench.model.intervention, watch])
    advance = bench.model.backbone.advance

    def listen(tokens, **options):
        seen["out"] = advance(tokens, **options | {"read": None})
        return seen["out"]

    bench.model.backbone.advance = listen
    with torch.no_grad():
        bench.model.answer(whole(bench, length), mode="score", length=length)
    return watch, seen["out"]


@pytest.mark.parametrize(
    "method",
    [
        "decimamba[layers=[[]]]",
        "decimamba[layers=[[1,3]],l_base=1000000]",
        "decimamba[layers=[[1,3]],l_base=96]",
        "decimamba[layers=[[0,1,2,3,4,5]],l_base=8,min_seq_len=48]",
        "decimamba[layers=[[1,3]],count=top_k_percent,percent=100]",
        "decimamba[layers=[[1,3]],score=random,l_base=200]",
        "decimamba[layers=[[1,3]],score=max_norm,l_base=200]",
        "decimamba[num_layers=2]",
    ],
)
def test_where_nothing_is_dropped_it_is_vanilla(bench, method):
    vanilla, deci = bench("vanilla", eval_batch=6), bench(method)
    with torch.no_grad():
        for length in (5, 48):
            wanted = vanilla.model.answer(whole(vanilla, length), mode="score", length=length)
            assert torch.equal(deci.answer(length), wanted)


def test_beta_below_one_drops_tokens_already_at_l_base(bench):
    assert not torch.equal(
        bench("decimamba[layers=[[1,3]],l_base=48]").answer(48), bench("vanilla").answer(48)
    )


@pytest.mark.parametrize("score", ["l2", "mean", "random", "max_norm"])
def test_kept_tokens_are_counted_ordered_and_contain_every_protected_one(bench, score):
    deci = bench(f"decimamba[layers=[[1,3]],l_base=8,min_seq_len=2,score={score}]")
    watch, out = watched(deci, 48)
    protected = 9  # separator and queries
    counts = [48 + protected, 8 + protected, 8 + protected, 4 + protected, 4 + protected, 4 + protected]
    assert [watch.x[layer].shape[1] for layer in range(6)] == counts
    assert out.hidden.shape[1] == out.positions.shape[1] == counts[-1] == deci.model.backbone.processed[-1]
    assert (out.positions.diff(dim=1) > 0).all()
    assert (out.positions[:, -protected:] == torch.arange(48, 57)).all()


def test_top_k_percent_keeps_a_share_and_never_less_than_the_minimum(bench):
    deci = bench("decimamba[layers=[[0,1,2]],count=top_k_percent,percent=25,min_seq_len=5]")
    assert [watched(deci, 48)[0].x[layer].shape[1] - 9 for layer in range(4)] == [12, 5, 5, 5]


def test_a_sequence_shorter_than_the_minimum_stays_whole(bench):
    deci = bench("decimamba[layers=1,l_base=8,min_seq_len=20]")
    deci.answer(5)
    assert deci.model.backbone.processed == (14,) * 6
    deci.answer(48)
    assert deci.model.backbone.processed == (57, *(29,) * 5)


def test_the_kept_tokens_are_those_of_largest_score_and_ties_go_to_the_earlier(bench):
    deci = bench("decimamba[layers=0,l_base=3,score=mean,min_seq_len=1]").model.intervention
    deci.begin("score", 6, 1)
    delta = torch.tensor([[1.0, 5, 2, 5, 2, 2, 9], [3, 3, 3, 3, 3, 3, 0]]).unsqueeze(-1).expand(-1, -1, 4)
    assert deci.keep(0, delta, delta).tolist() == [[1, 2, 3, 6], [0, 1, 2, 6]]
    assert deci.keep(1, delta, delta) is None
    deci.params = deci.params.model_copy(update={"score": "l2"})
    assert deci.keep(0, delta, delta).tolist() == [[1, 2, 3, 6], [0, 1, 2, 6]]


def test_the_scores_are_the_norm_or_mean_of_the_steps_or_the_norm_of_the_input(bench):
    delta = torch.tensor([[[3.0, 0], [2, 2], [1, 1]]])
    x = torch.tensor([[[0.0, 1], [0, 2], [0, 9]]])
    first = {}
    for score in ("l2", "mean", "max_norm"):
        deci = bench(f"decimamba[layers=0,l_base=1,min_seq_len=1,score={score}]").model.intervention
        deci.begin("score", 3, 0)
        first[score] = deci.keep(0, delta, x).item()
    assert first == {"l2": 0, "mean": 1, "max_norm": 2}


def test_dropped_tokens_get_no_gradient_in_their_layer(bench):
    deci = bench("decimamba[layers=2,l_base=8,min_seq_len=2]")
    intervention, kept = deci.model.intervention, {}
    choose = intervention.keep

    def listen(layer, delta, x):
        x.retain_grad()
        kept[layer] = (choose(layer, delta, x), x)
        return kept[layer][0]

    intervention.keep = listen
    deci.model.answer(whole(deci, 48), mode="score", length=48).square().sum().backward()
    indices, x = kept[2]
    dropped = torch.ones(x.shape[:2], dtype=torch.bool).scatter(1, indices, False)
    assert dropped.sum(dim=1).tolist() == [40] * 6
    # x feeds Δ, B and C too, and all of them are cut with it
    assert (x.grad[dropped] == 0).all() and (x.grad[~dropped] != 0).any()


@pytest.mark.parametrize("score", ["l2", "mean", "random", "max_norm"])
def test_a_batch_of_different_samples_equals_the_loop_over_them(bench, score):
    deci = bench(f"decimamba[layers=[[1,3]],l_base=8,min_seq_len=2,score={score}]")
    together = deci.answer(48)
    for k in range(6):
        torch.testing.assert_close(deci.answer(48, slice(k, k + 1))[0], together[k], atol=1e-5, rtol=1e-5)


def test_samples_choose_their_own_tokens(bench):
    _, out = watched(bench(DECI), 48)
    assert len({tuple(row) for row in out.positions.tolist()}) > 1


def test_it_rests_where_nothing_would_be_dropped_and_acts_beyond(bench):
    model = bench("decimamba[layers=[[1,3]],l_base=32,min_seq_len=2]").model
    for length, hooks in ((16, set()), (17, {"keep"})):
        model.intervention.begin("score", length, 9)
        assert active_hooks(model.intervention, "score") == hooks


def test_auto_takes_the_layers_that_look_back_farthest(bench, toy_task):
    deci = bench("decimamba[num_layers=2]", eval_batch=2)
    data = CalibrationData(toy_task, deci.method, deci.recipe, 0, {})
    found = deci.method.calibrate(deci.model, data, 16)["keep_layers"]
    assert set(data.digests) == {16, 32, 64} and found.tolist() == sorted(found.tolist()) and len(found) == 2
    watch = Watch()
    distance = torch.zeros(6)
    for length in (16, 32, 64):
        batch = CalibrationData(toy_task, deci.method, deci.recipe, 0, {}).draw("validation", 8, length)
        watch = _Everything()
        vanilla = bench("vanilla")
        vanilla.model.intervention = watch
        with torch.no_grad():
            vanilla.model.answer(batch, mode="score", length=length)
        for layer in range(6):
            distance[layer] += mean_distance(*watch.seen[layer]).mean() / length
    assert set(found.tolist()) == set(distance.topk(2).indices.tolist())


def test_distances_count_relative_to_the_length_that_they_were_seen_at(bench, monkeypatch):
    """12 of 16 tokens is farther than 20 of 64."""

    class Seen(ScanIntervention):
        def by_layer(self):
            return {0: 12.0 * (lengths[-1] == 16), 1: 20.0 * (lengths[-1] == 64)}

    class Data:
        train_length = 16

        def draw(self, part, num_items, length):
            lengths.append(length)

        def loss(self, model, batch, trial):
            pass

    lengths, deci = [], bench("decimamba", num_layers=2)
    monkeypatch.setattr(sys.modules[type(deci.method).__module__], "MeanDistance", Seen)
    assert deci.method.calibrate(deci.model, Data(), 16)["keep_layers"].tolist() == [0]
    assert lengths == [16, 32, 64]


class _Everything(ScanIntervention):
    def __init__(self):
        self.seen = {}

    def record(self, layer, *, delta, A, B, C, **others):
        self.seen[layer] = (delta, A, B, C)


def test_mean_distance_is_that_of_the_hidden_attention_and_has_its_limits():
    rng = torch.Generator().manual_seed(0)
    delta = torch.rand(2, 7, 3, generator=rng, dtype=torch.float64)
    A = -torch.rand(3, 4, generator=rng, dtype=torch.float64)
    B, C = (torch.randn(2, 7, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    wanted = torch.zeros(2, 3, dtype=torch.float64)
    for b in range(2):
        for e in range(3):
            alpha = [
                delta[b, j, e]
                * sum(
                    C[b, 6, n] * math.exp(A[e, n] * delta[b, j + 1 :, e].sum()) * B[b, j, n] for n in range(4)
                )
                for j in range(7)
            ]
            weight = torch.stack(alpha).abs()
            wanted[b, e] = (weight * torch.arange(6, -1, -1)).sum() / weight.sum()
    torch.testing.assert_close(mean_distance(delta, A, B, C), wanted)
    ones = torch.ones(1, 9, 2)
    local = mean_distance(100 * ones, -torch.ones(2, 3), torch.ones(1, 9, 3), torch.ones(1, 9, 3))
    uniform = mean_distance(1e-6 * ones, -torch.ones(2, 3), torch.ones(1, 9, 3), torch.ones(1, 9, 3))
    assert local.max() < 1e-6 and torch.allclose(uniform, torch.tensor(4.0), atol=1e-3)


def test_trained_with_it_has_its_own_training_and_rows_say_what_was_kept(toy_cells, run_toy):
    given = "layers=1,l_base=8,min_seq_len=2"
    extra = ("", ",train_with=true", ",train_with=true,train_l_base=4")
    methods = [f"decimamba[{given}{more}]" for more in extra]
    cells = toy_cells("vanilla", *methods, train_steps=[3], query_grid=())
    keys = [cell.training.key for cell in cells]
    assert keys[0] == keys[1] and len(set(keys)) == 3
    outcome, store = run_toy(cells)
    assert not outcome.failed
    rows = {(r["label"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    row = rows[cells[1].label, 48]
    assert row["kept_tokens"] == [48 + 9, 8 + 9] and row["needs_length"] and row["assumed_length"] == 48
    assert rows[cells[1].label, 5]["kept_tokens"] == [14, 14]
    assert row["value"] != rows["vanilla", 48]["value"]
    np.testing.assert_allclose(rows[cells[1].label, 5]["value"], rows["vanilla", 5]["value"], rtol=1e-4)
    assert row["num_fitted"] == 0


def test_as_released_has_the_layer_and_l_base_of_the_released_code_unless_others_are_given(bench):
    deci = bench("decimamba[protocol=as_released]", num_layers=14)
    intervention = deci.model.intervention
    assert deci.method.protocol == "as_released" and deci.method.calibration_length(48, 16) is None
    assert intervention.layers == (12,) and not intervention.apply_to_generated
    intervention.num_read = 9
    intervention.begin("score", 2100, 9)
    delta = torch.rand(1, 2100, 4)
    assert intervention.keep(11, delta, delta) is None
    assert intervention.keep(12, delta, delta).shape == (1, 2000 + 9)
    given = bench("decimamba[protocol=as_released,layers=[[1,3]],l_base=8]").model.intervention
    plain = bench("decimamba[layers=[[1,3]],l_base=8]").model.intervention
    for one in (given, plain):
        one.num_read = 9
        one.begin("score", 48, 9)
        assert one.keep(3, delta[:, :48], delta[:, :48]).shape == (1, 20 + 9)
    assert bench("decimamba[l_base=8]").method.calibration_length(48, 16) == 16
    trained = bench("decimamba[protocol=as_released,train_with=true]", num_layers=13)
    assert trained.method.trains_like is None


def test_as_released_protects_what_answers_are_read_from_alone(bench):
    """The last token of a prompt; of a training sequence the labels, so that prompts lose tokens there."""
    text = "decimamba[protocol=as_released,layers=1,l_base=20,min_seq_len=2]"
    kept, model = [], bench(text, num_layers=3).model
    choose = model.intervention.keep
    model.intervention.keep = lambda *given: kept.append(choose(*given)) or kept[-1]
    model.interface = _Embedded()
    context, prompt = ({"hidden": torch.randn(2, n, 16)} for n in (30, 5))
    with torch.no_grad():
        model.generate(context, prompt, 1, 30)
        model.answer(Batch(context, prompt, torch.zeros(2, 3)), mode="train", length=30)
    generated, trained = (indices for indices in kept if indices is not None)
    assert generated.shape == (2, 20 + 1) and (generated[:, -1] == 34).all()
    assert trained.shape == (2, 20 + 3) and (trained[:, -3:] == torch.arange(32, 35)).all()


class _Embedded(torch.nn.Module):
    """Takes hidden states for tokens."""

    def context(self, given):
        return given["hidden"]

    queries = context

    def read(self, hidden):
        return hidden


def test_as_released_decimates_in_training_where_the_prompt_alone_is_longer_than_l_base(bench):
    """A context of L_base tokens loses none where the prompt is protected; in the release it did."""
    for protocol, dropped in (("as_released", True), ("clean", False)):
        deci = bench(f"decimamba[protocol={protocol},layers=1,l_base=30,train_with=true]").model.intervention
        deci.num_read = 3
        deci.begin("train", 30, 5)
        delta = torch.rand(1, 35, 4)
        assert (deci.keep(1, delta, delta) is not None) == dropped and deci.resting != dropped


def test_as_released_learns_texts_in_two_chunks():
    """Own arithmetic: halves of a window of 20 tokens, the first whole; then 6 of 10 are kept."""
    made = released_text_model()
    window = torch.randint(7, (2, 20), generator=torch.Generator().manual_seed(0))
    batch = Batch({"tokens": window[:, :15]}, {"tokens": window[:, 15:-1]}, window[:, 16:])
    options = dict(length=15, context_mask=None, query_mask=None, read_tokens=True)
    found = made.method.training_answer(made.model, batch, **options)
    model, deci = made.model, made.model.intervention

    def logits(tokens, protected):
        deci.num_read = protected
        deci.begin("train", 15, protected)
        embedded = model.interface.context({"tokens": tokens})
        advanced = model.backbone.advance(embedded, mode="train", intervention=deci)
        return model.interface.read(advanced.hidden), advanced.positions

    first, positions = logits(window[:, :10], 10)
    assert positions.shape == (2, 10)
    second, positions = logits(window[:, :19], 9)
    assert positions.shape == (2, 6 + 9)
    losses = [
        torch.nn.functional.cross_entropy(a.flatten(0, 1), b.flatten())
        for a, b in ((first[:, :9], window[:, 1:10]), (second[:, -9:], window[:, 11:]))
    ]
    torch.testing.assert_close(found.loss, sum(losses) / 2)
    torch.testing.assert_close(found.predictions, second[:, -4:])


def released_text_model():
    torch.manual_seed(0)
    kind = registry.METHODS.load("decimamba")
    given = dict(protocol="as_released", layers=1, l_base=6, min_seq_len=2, train_with=True)
    method, backbone = kind(kind.Params(**given)), registry.BACKBONES.load("mamba")(d_model=16, num_layers=2)
    return SimpleNamespace(
        method=method, model=Model(TokenInterface(7, 16), backbone, method.intervention(15, 16))
    )


def test_rows_say_which_protocol_was_followed(toy_cells, run_toy):
    cells = toy_cells(
        "decimamba[layers=1,l_base=8,protocol=[as_released,clean]]", train_steps=[1], query_grid=()
    )
    outcome, store = run_toy(cells)
    assert not outcome.failed
    rows = read([store.root]).table.to_pylist()
    assert {(r["protocol"], r["apply_in_decode"]) for r in rows} == {("as_released", False), ("clean", True)}


def test_l_base_may_change_after_a_training_that_has_its_own(toy_cells):
    one, other = (
        toy_cells(f"decimamba[layers=1,l_base={n},train_with=true,train_l_base=8]")[0] for n in (8, 12)
    )
    assert one.training == other.training and one.key != other.key


@pytest.mark.parametrize(
    "text, message",
    [
        ("decimamba[layers=7]", "layers=\\[7\\], but the model has layers 0 to 1"),
        ("decimamba[num_layers=3]", "num_layers=3, but the model has 2 layers"),
        ("decimamba[l_base=7]", "l_base=7 is below the 8 protected positions"),
        ("decimamba[layers=[[1,0]]]", "layers must increase from 0 on, got \\[1, 0\\]"),
        ("decimamba[layers=-1]", "layers must increase from 0 on"),
        ("decimamba[train_with=true]", "train_with=true needs layers"),
        ("decimamba[layers=1,train_l_base=9]", "has no effect without train_with=true"),
        ("decimamba[beta=0]", "beta must be above 0"),
        ("decimamba[protocol=as_released]", "layers=\\[12\\], but the model has layers 0 to 1"),
        (
            "decimamba[protocol=as_released,layers=1,score=mean]",
            "the released code has score=l2 and count=top_p alone",
        ),
    ],
)
def test_bad_parameters_give_one_clear_line(toy_cells, text, message):
    with pytest.raises(UserError, match=message) as error:
        toy_cells(text)
    assert "\n" not in str(error.value)


def test_removing_it_leaves_the_weights_bit_for_bit(bench):
    vanilla, deci = bench("vanilla"), bench(DECI)
    deci.answer(48)
    deci.model.intervention = registry.METHODS.load("vanilla")().intervention(16, 16)
    for length in (5, 48):
        assert torch.equal(deci.answer(length), vanilla.answer(length))


def test_hooks_act_in_the_decimating_layers_alone_so_that_others_may_be_fused(bench):
    model = bench("decimamba[layers=[[1]],l_base=4,min_seq_len=1]").model
    model.intervention.begin("score", 40, 2)
    found = [active_hooks(model.intervention, "score", layer) for layer in range(3)]
    assert found == [frozenset(), {"keep"}, frozenset()]
    assert active_hooks(model.intervention, "score") == {"keep"}
    both = Composed([model.intervention, ScanIntervention()])
    assert active_hooks(both, "score", 0) == frozenset() and active_hooks(both, "score", 1) == {"keep"}
