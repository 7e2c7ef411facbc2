"""A verdict needs its interval on one side, all of its parts, and more than one seed."""

import numpy as np
import pytest
from scipy import special

from lgbench.claims.claim import Claim, above, below, within, within_percent
from lgbench.claims.quantities import reading, value
from lgbench.claims.verdicts import CONTRADICTED, HOLDS, NOT_RUN, UNDECIDED, judge, lost, missing_seeds


def claim(*parts):
    return Claim(id="toy", source="our own", statement="A toy.", parts=parts)


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        (lambda q: above(q, 0.4), HOLDS),
        (lambda q: below(q, 0.6), HOLDS),
        (lambda q: above(q, 0.6), CONTRADICTED),
        (lambda q: below(q, 0.4), CONTRADICTED),
        (lambda q: above(q, 0.5), UNDECIDED),
        (lambda q: within(q, 0.4, 0.6), HOLDS),
        (lambda q: within(q, 0.6, 0.8), CONTRADICTED),
        (lambda q: within(q, 0.4999, 0.5001), UNDECIDED),
    ],
    ids=[
        "above",
        "below",
        "not above",
        "not below",
        "at the limit",
        "flat",
        "not flat",
        "flat to within noise",
    ],
)
def test_the_whole_interval_decides(model, rows, cells, part, verdict):
    found = judge(claim(part(value(model, 64))), cells(rows(model, 0.5, spread=0.01)))
    assert found.verdict == verdict
    [judged] = found.parts
    assert judged.low < judged.mean < judged.high and judged.num_seeds == 5 and judged.num_clusters == 40


def test_a_conjunction_needs_all_its_parts(model, rows, cells):
    store = cells(rows(model, 0.5, spread=0.01))
    good, open_, bad = (above(value(model, 64), limit) for limit in (0.4, 0.5, 0.6))
    assert judge(claim(good, good), store).verdict == HOLDS
    assert judge(claim(good, open_), store).verdict == UNDECIDED
    assert judge(claim(good, open_, bad), store).verdict == CONTRADICTED


def test_one_of_many_parts_contradicts_only_beyond_what_chance_does(model, rows, cells):
    store = cells(rows(model, 0.5, spread=0.01))
    [alone] = judge(claim(above(value(model, 64), 0.5)), store).parts
    barely = above(value(model, 64), alone.high + 0.02 * (alone.high - alone.low))
    assert judge(claim(barely), store).verdict == CONTRADICTED
    among = judge(claim(barely, *[below(value(model, 64), 0.9)] * 19), store)
    assert among.verdict == UNDECIDED and "20 parts" in among.whys[0]


def test_a_contradicted_part_needs_no_other(model, rows, cells):
    other = model.change(method="absent")
    found = judge(claim(above(value(model, 64), 0.9), above(value(other, 64))), cells(rows(model, 0.5)))
    assert found.verdict == CONTRADICTED


@pytest.mark.parametrize("limit", [0.0, 0.9])
def test_one_seed_decides_nothing(model, rows, cells, limit):
    found = judge(claim(above(value(model, 64), limit)), cells(rows(model, 0.5, seeds=(0,))))
    assert found.verdict == UNDECIDED and found.parts[0].num_seeds == 1
    assert found.parts[0].mean == pytest.approx(0.5, abs=0.01) and np.isnan(found.parts[0].low)
    assert {seed for _, seed in found.missing} == {1, 2}


def test_seeds_must_not_be_chosen(model, rows, cells):
    found = judge(claim(above(value(model, 64))), cells(rows(model, 0.5, seeds=(0, 2, 3))))
    assert found.verdict == UNDECIDED and "without a gap" in found.whys[0]


def test_a_seed_that_diverged_is_not_left_out(model, rows, cells):
    gone = rows(model, 0.5, seeds=(2,), status="diverged", value=np.nan, item_values=None)
    found = judge(claim(above(value(model, 64))), cells(rows(model, 0.5, seeds=(0, 1, 3)), gone))
    assert found.verdict == UNDECIDED and "diverged" in found.whys[0]


def test_what_is_not_in_the_store_is_not_run(model, rows, cells):
    other = model.change(method="absent")
    found = judge(claim(above(value(model, 64) - value(other, 64))), cells(rows(model, 0.5)))
    assert found.verdict == NOT_RUN and found.missing == ((other, 0), (other, 1), (other, 2))
    beyond = judge(claim(above(value(model, 4096))), cells(rows(model, 0.5)))
    assert beyond.verdict == NOT_RUN and "4,096" in beyond.whys[0] and len(beyond.missing) == 3


def test_what_a_probe_reads_waits_for_it(model, rows, cells, look, readings):
    part = above(reading(look, "bones", 64))
    weights = [f"{model.training()} {seed}" for seed in range(3)]
    found = judge(claim(part), cells(rows(model, 0.5, seeds=(0, 1, 2)), weights=weights))
    assert found.verdict == NOT_RUN and found.probes == ("xray",) and found.missing == ()
    assert found.unread == ((look, 0), (look, 1), (look, 2)) and "seed 0" in found.whys[0]
    some = [readings(seed, 1.0) for seed in (0, 1)]
    found = judge(claim(part), cells(rows(model, 0.5, seeds=(0, 1, 2)), weights=weights, readings=some))
    assert found.verdict == NOT_RUN and found.unread == ((look, 2),)


def test_what_a_probe_read_is_judged_by_the_interval_over_seeds(model, rows, cells, look, readings):
    read = [readings(seed, value) for seed, value in enumerate((0.9, 1.0, 1.1))]
    store = cells(rows(model, 0.5, seeds=(0, 1, 2)), readings=read)
    half = special.stdtrit(2, 0.975) * 0.1 / 3**0.5
    [part] = judge(claim(above(reading(look, "bones", 64), 1 - half - 0.01)), store).parts
    assert (part.verdict, part.num_seeds) == (HOLDS, 3)
    assert (part.low, part.high) == (pytest.approx(1 - half), pytest.approx(1 + half))
    assert judge(claim(above(reading(look, "bones", 64), 1 - half + 0.01)), store).verdict == UNDECIDED
    assert judge(claim(below(reading(look, "bones", 64), 0.5)), store).verdict == CONTRADICTED


@pytest.mark.parametrize(
    "facts",
    [{"lengths": [64]}, {"items": 3}, {"layers": [0]}, {"probe_label": "xray[soft=true]"}, {"label": "other"},
     {"training": "another"}],
    ids=lambda facts: next(iter(facts)),
)  # fmt: skip
def test_readings_that_were_made_in_another_way_are_not_used(model, rows, cells, look, readings, facts):
    read = [readings(seed, 1.0, **(facts if seed == 1 else {})) for seed in range(3)]
    found = judge(
        claim(above(reading(look, "bones", 64))), cells(rows(model, 0.5, seeds=(0, 1, 2)), readings=read)
    )
    assert found.verdict == NOT_RUN and found.unread == ((look, 1),)


def test_the_newest_readings_count_and_what_is_no_number_is_not_left_out(model, rows, cells, look, readings):
    def verdict(*last):
        read = [readings(seed, 1.0 + seed / 100) for seed in range(3)]
        store = cells(rows(model, 0.5, seeds=(0, 1, 2)), readings=[*read, *last])
        return judge(claim(above(reading(look, "bones", 64), 0.5)), store)

    assert verdict(readings(2, -9.0, created_at="2025-01-01")).verdict == HOLDS
    assert verdict(readings(2, -9.0, created_at="2027-01-01")).verdict == UNDECIDED
    never = verdict(readings(2, float("inf"), created_at="2027-01-01"))
    assert never.verdict == UNDECIDED and "bones is inf" in never.whys[0]
    gone = verdict(readings(2, 1.0, name="teeth", created_at="2027-01-01"))
    assert gone.verdict == UNDECIDED and "no reading bones" in gone.whys[0]


def test_models_without_weights_are_missing_until_a_probe_has_read_them(model, rows, cells, look, readings):
    part, table = above(reading(look, "bones", 64)), rows(model, 0.5, seeds=(0, 1, 2))
    here = [f"{model.training()} {seed}" for seed in (0, 1)]
    assert missing_seeds(claim(part), cells(table, weights=here)) == ((model, 2),)
    assert lost(claim(part), cells(table, weights=here)) == ((model, 2),)
    read = cells(table, weights=here, readings=[readings(2, 1.0)])
    assert missing_seeds(claim(part), read) == () == lost(claim(part), read)


def test_models_with_different_numbers_of_items_are_not_compared(model, rows, cells):
    other = model.change(method="other")
    store = cells(rows(model, 0.5), rows(other, 0.9, num_items=20))
    found = judge(claim(above(value(other, 64) - value(model, 64))), store)
    assert found.verdict == UNDECIDED and "different numbers of items" in found.whys[0]


def test_seeds_are_paired(model, rows, cells):
    """Both vary by 0.1 from seed to seed; their difference of 0.02 does not."""
    other = model.change(method="other")
    level = {seed: 0.5 + 0.1 * np.random.default_rng(seed).normal() for seed in range(5)}
    parts = [rows(model, level[seed], seeds=(seed,)) for seed in level]
    parts += [rows(other, level[seed] + 0.02, seeds=(seed,)) for seed in level]
    assert judge(claim(above(value(other, 64) - value(model, 64))), cells(*parts)).verdict == HOLDS
    assert judge(claim(above(value(other, 64), 0.5)), cells(*parts)).verdict == UNDECIDED


def test_items_of_one_cluster_are_not_independent(model, rows, cells):
    clusters = [str(item // 4) for item in range(40)]
    apart = judge(claim(above(value(model, 64))), cells(rows(model, 0.5)))
    together = judge(claim(above(value(model, 64))), cells(rows(model, 0.5, item_clusters=clusters)))
    assert (apart.parts[0].num_clusters, together.parts[0].num_clusters) == (40, 10)


def test_shares_that_agree_exactly_are_not_certain(model, rows, cells):
    right = model.change(metric="accuracy")
    store = cells(rows(right, 1.0, spread=0, best=1.0, chance=0.0, higher_is_better=True))
    [part] = judge(claim(above(value(right, 64), 0.99)), store).parts
    assert part.verdict == UNDECIDED and part.low == pytest.approx(1 - 3.84 / 43.84, abs=1e-3)
    assert judge(claim(above(value(right, 64), 0.9)), store).verdict == HOLDS


def test_errors_that_are_equal_to_the_last_bit_are(model, rows, cells):
    same = model.change(method="same")
    store = cells(rows(model, 0.5), rows(same, 0.5))
    assert judge(claim(within_percent(value(same, 64), value(model, 64), 0.001)), store).verdict == HOLDS


def test_intervals_cover_what_is_true(model, rows, cells):
    """Of 200 made-up stores with 3 seeds, 95 % of intervals hold the true mean; 91 % is the least allowed."""
    covered = 0
    for trial in range(200):
        drawn = np.random.default_rng(trial)
        parts = [
            rows(model, 0.5 + 0.02 * drawn.normal(), seeds=(seed,), lengths=(64,), spread=0.0,
                 item_clusters=None)
            for seed in range(3)
        ]  # fmt: skip
        for part in parts:
            part["item_values"] = [items + 0.02 * drawn.normal(size=40) for items in part["item_values"]]
        [judged] = judge(claim(above(value(model, 64))), cells(*parts)).parts
        covered += judged.low < 0.5 < judged.high
    assert covered >= 182
