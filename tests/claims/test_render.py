"""The scorecard is that of the published rows, and shows no verdict without its numbers."""

import re
from pathlib import Path

import pytest

from lgbench.claims import all_claims
from lgbench.claims.cells import Cells
from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading, value
from lgbench.claims.render import details, line, num_seeds, records, render, verdicts_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published():
    """Verdicts on the rows of the repository."""
    return verdicts_of(all_claims(), Cells.read([ROOT / "results"]))


def judged(cells, *parts, id="toy"):
    [verdict] = verdicts_of([Claim(id=id, source="our own", statement="A toy.", parts=parts)], cells)
    return verdict


def test_the_published_scorecard_is_current(published):
    """If it is not: lgbench claims --out results/claims.md"""
    assert (ROOT / "results" / "claims.md").read_text(encoding="utf-8") == render(
        published, [Path("results")]
    )


def test_no_verdict_without_its_numbers_and_seeds(published):
    decided = [one for one in published if one.finding.verdict in ("holds", "contradicted")]
    assert len(decided) >= 10
    for one in decided:
        assert re.search(r" = −?[\d.e−]+ \[−?[\d.e−]+, −?[\d.e−]+\], claimed ", line(one)["numbers"])
        assert min(part.num_seeds for part in one.finding.parts) >= 2 and num_seeds(one)


def test_what_is_not_decided_says_what_would_decide_it(published):
    for one in published:
        if one.finding.verdict in ("undecided", "not run"):
            ways = rf"`lgbench claims --run {one.claim.id}( --seeds \d+)?( --results runs)?` \(.+\)"
            assert re.fullmatch(ways, one.remedy), one.remedy
        else:
            assert one.remedy == ""


def test_minutes_are_those_of_what_is_missing(model, rows, cells):
    other = model.change(method="other", own_training=True)
    part = above(value(model, 64) - value(other, 64))
    one = judged(cells(rows(model, 0.5, train_wall_s=600.0, eval_wall_s=60.0)), part)
    assert one.remedy == "`lgbench claims --run toy` (about 33 GPU minutes)"
    nothing = judged(cells(rows(model, 0.5, device="cpu")), part)
    assert "no estimate" in nothing.remedy and "other, L_train 64" in nothing.remedy


def test_an_undecided_claim_asks_for_twice_the_seeds(model, rows, cells):
    one = judged(cells(rows(model, 0.5, seeds=(0, 1, 2))), above(value(model, 64), 0.5))
    assert one.remedy.startswith("`lgbench claims --run toy --seeds 6` (about ")


def test_a_claim_that_waits_for_a_probe_says_the_command_that_looks(model, rows, cells, look):
    part = above(reading(look, "bones", 64))
    weights = [f"{model.training()} {seed}" for seed in range(3)]
    assert judged(cells(rows(model, 0.5), weights=weights), part).remedy == (
        "`lgbench claims --run toy` (probe xray)"
    )
    closed = judged(cells(rows(model, 0.5, train_wall_s=600.0, eval_wall_s=60.0)), part)
    assert closed.remedy == "`lgbench claims --run toy --results runs` (probe xray, about 33 GPU minutes)"


def test_the_line_of_a_contradicted_claim_shows_the_part_that_contradicts(model, rows, cells):
    store = cells(rows(model, 0.5, spread=0.01))
    one = judged(store, above(value(model, 64), 0.1), above(value(model, 128), 0.9))
    shown = line(one)["numbers"]
    assert shown.startswith("E(vanilla, L_train 64; 128) = ") and "claimed > 0.9" in shown


def test_markdown_keeps_commands_as_they_are_typed(model, rows, cells):
    one = judged(cells(rows(model, 0.5, seeds=(0,))), above(value(model, 64)), id="two_words")
    text = "\n".join(details(one))
    assert "`lgbench claims --run two_words`" in text and "### two\\_words: undecided" in text


def test_records_are_complete_and_have_no_nan(model, rows, cells):
    [record] = records([judged(cells(rows(model, 0.5, seeds=(0,))), above(value(model, 64)))])
    [part] = record["parts"]
    assert (record["id"], record["verdict"]) == ("toy", "undecided")
    assert (part["low"], part["seeds"], part["claimed"]) == (None, 1, "> 0")
