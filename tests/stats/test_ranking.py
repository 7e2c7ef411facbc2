"""A ranking that cannot be won by failing: each test lost with the ranking by effective length and area."""

import numpy as np
import pandas as pd
import pytest

from lgbench.stats.ceiling import recovered
from lgbench.stats.ranking import fixed_clusters, rank
from lgbench.task import Task

LONG = [1024 << k for k in range(6)]


def falls(level, loss=0.05, spread=0.0):
    """`level` up to 1,024 tokens, `loss` less with each octave beyond; seeds differ by `spread`."""
    return lambda length, seed: level - loss * max(0.0, np.log2(length / 1024)) + spread * (seed - 1)


def flat(level):
    return lambda length, seed: level


def ranking(panel):
    return rank(panel).set_index("series")


def test_order_is_by_long_score_and_better_ones_are_counted(arrange, rows):
    (panel,) = arrange(
        *(rows(falls(0.9, loss, 0.01), method=name, noise=0.05)
          for name, loss in (("vanilla", 0.1), ("better", 0.05), ("twin", 0.05), ("worst", 0.15)))
    )  # fmt: skip
    table = rank(panel)
    assert table["series"].tolist() == ["better", "twin", "vanilla", "worst"]
    assert table["rank"].tolist() == [1, 1, 3, 4]
    assert table.set_index("series").at["better", "baseline_delta"] == pytest.approx(0.05 * 2.5)


@pytest.mark.parametrize(("level", "why"), [(0.02, "counts as learned"), (0.0, "not above chance")])
def test_who_learned_nothing_is_not_ranked_however_flat_the_curve(arrange, rows, level, why):
    """A passkey scorer right 2 % of the time at every length, and a transformer at chance, were first."""
    (panel,) = arrange(rows(falls(0.95, 0.1), method="vanilla"), rows(flat(level), method="nothing"))
    table = ranking(panel)
    assert table.at["vanilla", "rank"] == 1
    assert np.isnan(table.at["nothing", "rank"]) and why in table.at["nothing", "reason"]


def test_little_learned_gains_nothing_even_above_the_threshold(arrange, rows):
    (panel,) = arrange(rows(falls(0.95, 0.1), method="vanilla"), rows(flat(0.3), method="flat"))
    assert rank(panel)["series"].tolist() == ["vanilla", "flat"]
    assert ranking(panel)["rank"].tolist() == [1, 2]


def test_marking_bad_seeds_diverged_moves_a_method_down(arrange, rows, missing):
    """Two of vanilla's three seeds marked diverged beyond L_train moved it from rank 5 to rank 1."""
    others = [rows(falls(0.9, 0.06, 0.01), method=name, noise=0.05) for name in ("b", "c")]
    bad = rows(falls(0.9, 0.1, 0.01), noise=0.05)
    honest = ranking(arrange(bad, *others)[0])
    kept = bad[(bad["seed"] == 0) | (bad["eval_length"] <= 1024)]
    lost = [missing("vanilla", seed, "diverged", LONG[1:]) for seed in (1, 2)]
    marked = ranking(arrange(kept, *others, missing=lost)[0])
    assert marked.at["vanilla", "long"] < honest.at["vanilla", "long"]
    assert marked.at["vanilla", "rank"] >= honest.at["vanilla", "rank"] == 3
    assert marked.at["vanilla", "num_seeds"] == 3


def test_a_training_that_diverged_counts_as_zero_at_every_length(arrange, rows, missing):
    good = rows(flat(0.9), seeds=(0, 1))
    (panel,) = arrange(good, missing=[missing("vanilla", 2, "diverged")])
    assert ranking(panel).at["vanilla", "long"] == pytest.approx(0.6)


@pytest.mark.parametrize("kept", [(1, 2, 3), (0, 2, 3), (0, 1)])
def test_deleting_bad_seeds_does_not_pay(arrange, rows, kept):
    (panel,) = arrange(rows(falls(0.9), seeds=kept, method="picked"), rows(falls(0.7)))
    table = ranking(panel)
    assert np.isnan(table.at["picked", "rank"]) and "seed" in table.at["picked", "reason"]


def test_a_failed_seed_is_a_missing_one(arrange, rows, missing):
    (panel,) = arrange(rows(falls(0.9)), missing=[missing("vanilla", 3, "failed")])
    assert ranking(panel).at["vanilla", "reason"] == "seed 3 of 0 to 3 is missing"


def test_one_seed_is_not_ranked_and_is_compared_with_the_same_seed_of_the_baseline(arrange, rows):
    """One good seed ranked above vanilla although worse than the same seed of vanilla at all lengths."""
    vanilla = rows(falls(0.8, 0.02, spread=-0.1))
    (panel,) = arrange(vanilla, rows(falls(0.85, 0.02), method="lucky", seeds=(0,)))
    lucky = ranking(panel).loc["lucky"]
    assert lucky["long"] > ranking(panel).at["vanilla", "long"]
    assert lucky["baseline_delta"] == pytest.approx(-0.05)
    assert np.isnan(lucky["baseline_half"]) and lucky["reason"] == "1 seed, at least 3 are needed"


def test_a_series_with_a_short_grid_changes_nobody_else(arrange, rows):
    """One series evaluated to 4× changed everybody's area and the order."""
    parts = [rows(falls(0.9, 0.1), noise=0.02), rows(falls(0.85, 0.02), method="b", noise=0.02)]
    alone = ranking(arrange(*parts)[0])
    (panel,) = arrange(*parts, rows(flat(0.95), method="short", lengths=[512, 1024, 2048, 4096]))
    table = ranking(panel)
    pd.testing.assert_frame_equal(table.loc[alone.index, ["rank", "long"]], alone[["rank", "long"]])
    assert table.at["short", "reason"] == "evaluated to 4×, the horizon is 32×"


def test_where_a_grid_ends_beyond_the_horizon_does_not_matter(arrange, rows):
    """ "≥ 16×" ranked below "≥ 32×" only because its grid ended."""
    far = [*LONG, 65536, 131072]
    (panel,) = arrange(
        rows(flat(0.9), method="near", lengths=LONG), rows(flat(0.9), method="far", lengths=far)
    )
    assert ranking(panel)["rank"].tolist() == [1, 1]
    assert ranking(panel)["long"].tolist() == pytest.approx([0.9, 0.9])


def test_a_coarse_grid_is_refused_and_never_stands_for_the_training_length(arrange, rows):
    """A grid 2, 4096, … took 2 tokens as the score at L_train."""
    coarse = [2, 4096, 8192, 16384, 32768]
    (panel,) = arrange(rows(falls(0.9)), rows(flat(0.95), method="coarse", lengths=coarse))
    coarse = ranking(panel).loc["coarse"]
    assert "gap above 2.5×" in coarse["reason"] and np.isnan(coarse["long"])


def test_an_error_at_the_training_length_alone_costs_long_score(arrange, rows):
    """35 % worse at L_train alone lifted a method from 8× to at least 32×."""
    dented = lambda length, seed: 0.6 if length == 1024 else falls(0.9, 0.05)(length, seed)  # noqa: E731
    (panel,) = arrange(rows(falls(0.9, 0.05)), rows(dented, method="dented"))
    table = ranking(panel)
    assert table.at["dented", "long"] < table.at["vanilla", "long"]
    assert table.at["dented", "effective"] <= table.at["vanilla", "effective"]


def test_seeds_that_disagree_do_not_lift_a_method_above_one_with_a_higher_score(arrange, rows):
    steady = [rows(falls(level, 0.01, 0.001), method=name, noise=0.01)
              for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]  # fmt: skip
    (panel,) = arrange(*steady, rows(falls(0.65, 0.01, 0.3), method="wild", noise=0.01))
    table = ranking(panel)
    assert table["rank"].tolist() == [1, 2, 3, 3]
    assert table.index[-1] == "wild"


def test_equal_training_lengths_alone_are_compared(arrange, rows):
    short, long = arrange(rows(falls(0.9)), rows(falls(0.9), method="short", train_length=512))
    assert (short.train_length, long.train_length) == (512, 1024)
    assert short.series == ["short"] and long.series == ["vanilla"]


def test_out_of_memory_within_the_horizon_is_named(arrange, rows, missing):
    part = rows(falls(0.9), lengths=[512, 1024, 2048])
    (panel,) = arrange(part, missing=[missing("vanilla", 0, "out_of_memory", [4096])])
    assert ranking(panel).at["vanilla", "reason"] == "out of memory at 4096"


def test_other_items_and_doubled_cells_are_not_ranked(arrange, rows):
    (panel,) = arrange(
        rows(falls(0.9)), rows(falls(0.9), method="b"), rows(flat(0.99), method="c", items_hash="easy"),
        rows(flat(0.99), method="d", doubled="seed 0, abc, def"), rows(flat(0.99), method="e", num_items=7),
    )  # fmt: skip
    table = ranking(panel)
    assert (
        "items of the others" in table.at["c", "reason"] and "items of the others" in table.at["e", "reason"]
    )
    assert "abc, def" in table.at["d", "reason"]
    assert table.loc[["vanilla", "b"], "rank"].tolist() == [1, 1]


def test_letters_come_with_five_seeds(arrange, rows):
    for num, shown in ((4, ["", ""]), (5, ["a", "b"])):
        parts = [rows(falls(level, 0.05, 0.001), method=name, seeds=range(num), noise=0.02)
                 for name, level in (("vanilla", 0.9), ("b", 0.6))]  # fmt: skip
        assert rank(arrange(*parts)[0])["letters"].tolist() == shown


def test_baseline_of_a_method_is_the_one_on_its_backbone_and_trained_like_it(arrange, rows):
    like = {"noise": 0.01}
    (panel,) = arrange(
        rows(falls(0.9), series="v1", **like), rows(falls(0.8), series="v2", lm_weight=0.1, **like),
        rows(falls(0.7), series="v3", backbone="mamba2", **like),
        rows(falls(0.75), method="a", lm_weight=0.1, **like),
        rows(falls(0.75), method="b", backbone="mamba2", **like),
    )  # fmt: skip
    table = ranking(panel)
    assert table.loc[["a", "b"], "baseline"].tolist() == ["v2", "v3"]
    assert table.loc[["a", "b"], "baseline_delta"].tolist() == pytest.approx([-0.05, 0.05])


def test_harm_is_the_largest_loss_at_any_length_in_range_too(arrange, rows):
    broken = lambda length, seed: 0.5 if length == 512 else 0.95  # noqa: E731
    (panel,) = arrange(rows(flat(0.9)), rows(broken, method="broken"))
    entry = ranking(panel).loc["broken"]
    assert (entry["harm"], entry["harm_at"]) == (pytest.approx(0.4), 512)
    assert ranking(panel).at["vanilla", "harm"] == 0


def test_worse_than_chance_shows_beside_the_rank_though_scores_are_clipped(arrange, rows):
    below = lambda length, seed: 0.9 if length <= 1024 else -1.0  # noqa: E731
    (panel,) = arrange(rows(below))
    entry = ranking(panel).loc["vanilla"]
    assert entry["long"] > 0 > entry["retention"]
    assert entry["gain"] == 0


def test_items_share_the_clusters_of_the_rows_and_few_are_fixed(arrange, rows):
    books = rows(falls(0.9), noise=0.1)
    books["item_clusters"] = [[str(k % 2) for k in range(40)]] * len(books)
    (panel,) = arrange(books)
    assert fixed_clusters(panel) == 2
    (independent,) = arrange(rows(falls(0.9), noise=0.1))
    assert fixed_clusters(independent) is None


def test_perplexities_are_scored_in_nats(arrange, rows):
    part = rows(lambda length, seed: np.log(10.0), combine="exp_mean", best=1.0, chance=100.0,
                higher_is_better=False)  # fmt: skip
    part["value"] = np.exp(part["value"])
    (panel,) = arrange(part)
    assert ranking(panel).at["vanilla", "long"] == pytest.approx(0.5)


def test_long_score_is_the_mean_of_what_its_items_say(arrange, rows):
    (panel,) = arrange(rows(falls(0.3, 0.1), noise=0.2))
    weights = panel.weights(0, 1024, 32 * 1024)
    items = panel.item_means(weights[None])
    assert items[0].mean() == pytest.approx(ranking(panel).at["vanilla", "long"])


def ceilings(rows, level, spread=0.0):
    return rows(lambda length, seed: level + spread * (seed - 1), series="ceiling", train_length=4096,
                batch_size=2, lengths=[1024, 2048, 4096, 8192], noise=0.01)  # fmt: skip


def test_recovered_fraction_is_the_way_from_the_control_to_the_ceiling(arrange, rows):
    window, method = rows(flat(0.5), method="last_window"), rows(flat(0.7), method="remedy")
    found = recovered(arrange(rows(flat(0.4)), window, method, ceilings(rows, 0.9)))
    found = found.set_index("series")
    assert set(found["length"]) == {4096} and set(found["ceiling"]) == {"ceiling"}
    assert found.loc[["remedy", "vanilla"], "fraction"].tolist() == pytest.approx([0.5, -0.25])


def test_recovered_fraction_is_undefined_where_the_ceiling_is_hardly_above_the_control(arrange, rows):
    window, method = rows(flat(0.5), method="last_window"), rows(flat(0.7), method="remedy")
    found = recovered(arrange(window, method, ceilings(rows, 0.52, spread=0.2)))
    assert found["fraction"].isna().all() and len(found) == 1


def test_a_ceiling_with_more_training_tokens_is_none(arrange, rows):
    window, method = rows(flat(0.5), method="last_window"), rows(flat(0.7), method="remedy")
    richer = ceilings(rows, 0.9).assign(batch_size=8)
    assert recovered(arrange(window, method, richer)).empty


def test_defaults_for_rows_without_the_columns_are_those_of_a_task():
    from lgbench.stats.rows import CONTEXT_MEANS, HORIZON, LEARNED

    assert (Task.horizon, Task.learned, Task.context_means) == (HORIZON, LEARNED, CONTEXT_MEANS)
