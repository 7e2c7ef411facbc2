"""Methods combine where they change different hooks, and say in one line where they cannot."""

import pytest
import torch

from lgbench.errors import UserError
from lgbench.intervention import Composed, ScanIntervention, active_hooks, overridden_hooks
from lgbench.method import Method
from lgbench.plan.cells import load_method
from lgbench.plan.params import expand, label, parse_plugins
from lgbench.plugins.compose import RULES, compose
from lgbench.plugins.registry import METHODS, TASKS
from lgbench.run.calibrate import fit_lengths
from lgbench.store import read

BOTH = "decimamba[layers=1,l_base=8,min_seq_len=2]+mambamodulation[steps=2,items=3]"


def test_a_combination_is_read_labelled_and_read_again(toy_cells):
    (cell,) = toy_cells("decimamba[layers=1,l_base=9]+mambamodulation[map=power]")
    assert cell.method == "decimamba+mambamodulation"
    assert cell.label == "decimamba[layers=[[1]],l_base=9]+mambamodulation[map=power]"
    assert toy_cells(cell.label) == [cell]
    method = load_method(cell.method, cell.method_params)
    assert [name for name, _ in method.parts("")] == ["decimamba", "mambamodulation"]
    assert method.parts("")[0][1].params.layers == (1,) and method.parts("")[1][1].params.map == "power"
    assert label(cell.method, method.params) == cell.label


def test_a_released_part_makes_the_combination_as_released(toy_cells):
    (cell,) = toy_cells("decimamba[layers=1,l_base=9,protocol=as_released]+mambamodulation")
    assert load_method(cell.method, cell.method_params).protocol == "as_released"


def test_grids_of_each_part_span_the_product():
    (request,) = parse_plugins("decimamba[beta=[0.5,1]]+mambamodulation[map=[linear,power]]")
    assert [tuple(r.params.values()) for r in expand(request)] == [
        (0.5, "linear"), (0.5, "power"), (1, "linear"), (1, "power"),
    ]  # fmt: skip


def test_it_trains_as_the_part_that_needs_a_training_of_its_own(toy_cells):
    vanilla, prepended, free, told = toy_cells("vanilla", "prepended", BOTH, "slow_clock+prepended[tell=2]")
    assert free.training == vanilla.training and told.training == prepended.training
    assert len({c.key for c in (vanilla, prepended, free, told)}) == 4


def test_it_measures_both_changes_at_once(toy_cells, run_toy):
    cells = toy_cells(*BOTH.split("+"), BOTH, train_steps=[2], query_grid=())
    outcome, store = run_toy(cells)
    assert not outcome.failed
    rows = {(r["method"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    both, deci = rows["decimamba+mambamodulation", 48], rows["decimamba", 48]
    assert both["kept_tokens"] == deci["kept_tokens"] == [57, 17]
    assert both["num_fitted"] == rows["mambamodulation", 48]["num_fitted"] == 2
    assert both["assumed_length"] == 48 and both["needs_length"] and both["apply_in_decode"]
    assert (
        len({rows[m, 48]["value"] for m in ("decimamba", "mambamodulation", "decimamba+mambamodulation")})
        == 3
    )


def test_a_part_without_effect_leaves_the_other_bit_for_bit(bench):
    alone, both = bench("slow_clock"), bench("slow_clock+mambamodulation[scale=1]")
    for length in (5, 48):
        assert torch.equal(alone.answer(length), both.answer(length))


def test_each_part_rests_or_acts_on_its_own(bench):
    made = bench("slow_clock+mambamodulation[scale=0.5,apply_in_decode=false]").model.intervention
    assert overridden_hooks(made) == {"timestep", "transition"}
    made.begin("prefill", 16, 0)
    assert active_hooks(made, "prefill") == {"transition"} and active_hooks(made, "decode") == frozenset()
    made.begin("prefill", 48, 0)
    assert active_hooks(made, "prefill") == {"timestep", "transition"}
    assert active_hooks(made, "decode") == {"timestep"}


def test_later_parts_are_fitted_with_earlier_ones_in_place(bench, toy_task, tmp_path):
    text = "mambaextend[steps=2,items=3]+mambamodulation[steps=2,items=3]"

    def fit(text):
        made = bench(text, num_layers=2, eval_lengths=(48,))
        return fit_lengths(
            made.model, toy_task, made.method, made.recipe, name=text, seed=0, folder=tmp_path / text[:15]
        )[48]

    both, extend, modulation = fit(text), fit(text.split("+")[0]), fit(text.split("+")[1])
    assert torch.equal(both.values["timestep_scale"], extend.values["timestep_scale"])
    assert not torch.equal(both.values["transition_scale"], modulation.values["transition_scale"])
    assert both.num_fitted == 4 and both.tokens == extend.tokens + modulation.tokens


def test_a_fit_is_used_again_only_where_all_that_it_depends_on_is_equal(bench, toy_task, tmp_path):
    def fit(**changes):
        given = {"l_base": 8, "fit_at": 1, "num_layers": 1} | changes
        text = (
            "decimamba[items=2,min_seq_len=2,l_base={l_base},num_layers={num_layers}]"
            "+mambamodulation[steps=1,items=2,fit_at={fit_at}]"
        ).format(**given)
        made = bench(text, num_layers=2, eval_lengths=(48,))
        fit_lengths(made.model, toy_task, made.method, made.recipe, name="both", seed=0, folder=tmp_path)
        return len(list(tmp_path.iterdir()))

    assert fit() == 2 and fit() == 2
    assert fit(l_base=12) == 3, "layers are chosen as before, but scales see other tokens"
    assert fit(fit_at=2) == 5, "another length of the second part is part of the question to both"


@pytest.mark.parametrize(
    "text, message",
    [
        ("mambaextend+longmamba", "both mambaextend and longmamba change 'timestep'"),
        ("mambamodulation+slow_clock[on=A]", "both mambamodulation and slow_clock change 'transition'"),
        ("transformer+decimamba", "transformer runs on the backbone encoder_decoder, decimamba on mamba"),
        ("state_passing+prepended", "state_passing and prepended each need a training of their own"),
        ("truncated+expanded", "truncated and expanded each need a training of their own"),
        ("mambaextend+mambaextend", "has the same part twice"),
        ("mambaextend+mambamodulatin", "no method 'mambamodulatin'. Did you mean 'mambamodulation'"),
        ("mambaextend[scale=0]+vanilla", "method 'mambaextend' got scale=0; scale must be above 0"),
        ("mambaextend[low=0]+vanilla", "method 'mambaextend' has no parameter 'low'"),
        ("decimamba[layers=9]+mambaextend", "layers=\\[9\\], but the model has layers 0 to 1"),
        ("decimamba+mambaextend[apply_in_decode=false]", "set its apply_in_decode=true"),
        ("mambaextend+", "expected the name of a plugin"),
    ],
)
def test_what_cannot_be_combined_is_one_clear_line(toy_cells, text, message):
    with pytest.raises(UserError, match=message) as error:
        toy_cells(text)
    assert "\n" not in str(error.value)


def test_a_range_of_training_lengths_goes_with_another_training_and_both_orders_share_it(toy_cells, run_toy):
    deci = "decimamba[layers=1,l_base=8,min_seq_len=2,train_with=true,train_l_base=4]"
    cells = toy_cells(
        f"truncated[low=12]+{deci}", f"{deci}+truncated[low=12]", deci, "truncated[low=12]", train_steps=[2],
        query_grid=(),
    )  # fmt: skip
    both, swapped, one, other = (cell.training for cell in cells)
    assert both == swapped and len({both.key, one.key, other.key}) == 3
    assert (both.low, both.high) == (12, 16) and both.method == "decimamba+truncated"
    outcome, store = run_toy(cells)
    assert not outcome.failed
    rows = {(r["label"], r["eval_length"]): r for r in read([store.root]).table.to_pylist()}
    assert rows[cells[0].label, 48]["kept_tokens"] == [48 + 9, 8 + 9]
    assert len({rows[cell.label, 48]["value"] for cell in (cells[0], cells[2], cells[3])}) == 3


def test_tasks_cannot_be_combined():
    with pytest.raises(UserError, match="tasks cannot be combined, got 'omniglot\\+omniglot'"):
        TASKS.load("omniglot+omniglot")


def test_names_are_spelt_as_everywhere():
    assert METHODS.canonical("slow-clock+vanilla") == "slow_clock+vanilla"


def public(contract):
    return {name for name in {*vars(contract), *contract.__annotations__} if not name.startswith("_")}


def test_every_member_of_a_method_has_a_rule_for_combinations():
    assert set(RULES) == public(Method) - {"Params"}
    written = {name for name, rule in RULES.items() if rule == "written"}
    made_in_init = {"backbone", "protocol"}
    assert written - made_in_init <= set(vars(compose([("a", Method)]).__mro__[1]))


def test_every_hook_of_an_intervention_is_forwarded_by_a_composed_one_or_is_about_training_alone():
    in_training = {"begin_training", "begin_step"}
    of_each_part = {"layers", "resting", "num_read"}  # the last is handed on by `begin`
    made = Composed([ScanIntervention()])
    forwarded = {name for name in vars(Composed) if not name.startswith("_")} | set(vars(made))
    assert public(ScanIntervention) - forwarded == in_training | of_each_part


class Base(Method):
    trains_like = "vanilla"


class Eager(Method):
    train_eagerly = True
    prefix_exact = False
    eval_only = frozenset({"size"})

    class Params(Method.Params):
        size: int = 1

    def train_lengths(self, train_length):
        return 3, 2 * train_length

    def backbone_options(self):
        return {"heads": self.params.size}


class Wide(Base):
    needs_length = True
    calibration_free = frozenset({"heads"})

    class Params(Method.Params):
        heads: int = 1

    def backbone_options(self):
        return {"heads": self.params.heads, "depth": 2}


def test_members_of_a_combination_follow_their_rules():
    both = compose([("base", Base), ("eager", Eager), ("wide", Wide)])()
    assert not both.prefix_exact and both.needs_length and not both.bound
    assert both.trains_like is None and both.train_eagerly and both.train_lengths(8) == (3, 16)
    assert both.backbone_options() == {"heads": 1, "depth": 2}
    assert both.eval_only == {"eager.size"} and both.calibration_free == {"wide.heads"}
    alike = compose([("base", Base), ("wide", Wide)])()
    assert alike.trains_like == "vanilla" and not alike.train_eagerly and alike.train_lengths(8) == (1, 8)


def test_parts_that_decide_one_size_differently_are_refused():
    made = compose([("eager", Eager), ("wide", Wide)])
    with pytest.raises(UserError, match="eager decides heads=1 of the backbone, wide heads=2"):
        made(made.Params.model_validate({"wide.heads": 2}))


def test_what_is_asked_of_the_parts_is_never_answered_by_the_whole():
    both = compose([("base", Base), ("wide", Wide)])()
    for name in ("calibration_length", "drawn_lengths", "calibrate"):
        with pytest.raises(TypeError, match="asked of the parts"):
            getattr(both, name)
