"""Probes that read answers and paintings: exact values, and agreement with what an evaluation measures."""

import numpy as np
import pytest
import torch

import lgbench
from lgbench.plugins.registry import PROBES
from lgbench.probes._painting import as_bytes, contrast, correlation, from_bytes, halved, shares, sharpness
from lgbench.probes.effective_remembrance import distance
from lgbench.probes.image_switch import _crossing
from lgbench.probes.positionwise import stretches
from lgbench.probes.quadrants import _centres

TRUTH = np.ones((1, 4, 4))
TRUTH[0, 1, :] = -1


def test_a_perfect_painting_has_contrast_2_and_correlation_1():
    assert contrast(TRUTH, TRUTH)[0] == 2 and correlation(TRUTH, TRUTH)[0] == pytest.approx(1)
    assert contrast(0.5 * TRUTH, TRUTH)[0] == 1 and correlation(-TRUTH, TRUTH)[0] == pytest.approx(-1)
    blank = np.ones_like(TRUTH)
    assert correlation(blank, TRUTH)[0] == 0 and np.isnan(contrast(TRUTH, blank)[0])


def test_sharpness_does_not_change_with_contrast():
    assert sharpness(0.1 * TRUTH)[0] == pytest.approx(sharpness(TRUTH)[0])
    blurred = (TRUTH + np.roll(TRUTH, 1, axis=1)) / 2
    assert sharpness(blurred)[0] < sharpness(TRUTH)[0]


def test_pictures_that_no_length_repairs_are_broken_from_there_on():
    probe = PROBES.load("identical_tokens")()
    recorder = probe.recorder((0,))
    for length, r in ((4, 0.2), (8, 0.9), (16, 0.5), (32, 0.1), (64, 0.05)):
        for name in ("contrast", "correlation"):
            recorder.add(name, length, values=np.array([r, r]))
        recorder.add("pictures", length, values=halved(TRUTH[0]))
        recorder.kept["truth",] = [halved(TRUTH[0])]
    found = probe.result(recorder)
    assert found.value("best length") == 8 and found.value("breakdown length") == 32
    assert found.curve("contrast")[1] == pytest.approx([0.2, 0.9, 0.5, 0.1, 0.05])


def test_pictures_are_kept_as_bytes_and_halves_are_means():
    levels = np.linspace(-1, 1, 256)
    np.testing.assert_allclose(from_bytes(as_bytes(levels)), levels, atol=1e-6)
    assert as_bytes(np.array([-3.0, 3.0])).tolist() == [0, 255]
    assert halved(TRUTH)[0].tolist() == [[0, 0], [1, 1]] and halved(np.ones((5, 7))).shape == (2, 3)


def test_shares_of_two_pictures_are_found_again():
    other = TRUTH.transpose(0, 2, 1)
    np.testing.assert_allclose(
        shares(0.3 * TRUTH + 0.6 * other - 0.1, TRUTH, other), [[0.3, 0.6, -0.1]], atol=1e-9
    )


def test_the_half_adaptation_time_is_where_the_shares_cross():
    assert _crossing([0, 10, 20], np.array([1.0, 0.5, -0.5])) == 15
    assert _crossing([0, 10], np.array([1.0, 0.5])) == np.inf
    assert _crossing([0, 10], np.array([0.0, -1.0])) == 0


def test_after_a_switch_the_model_reads_the_next_items_tokens(trained, cell):
    from lgbench.probes.image_switch import _switched

    whole = torch.arange(12.0).reshape(2, 6)

    class Subject:
        def tokens(self, length, chosen):
            return lambda start, stop: {"patches": whole[:, start:stop]}

    read = _switched(Subject(), slice(0, 2), 3)
    assert read(0, 6)["patches"].tolist() == [[0, 1, 2, 9, 10, 11], [6, 7, 8, 3, 4, 5]]
    assert read(4, 6)["patches"].tolist() == [[10, 11], [4, 5]]


def test_errors_on_seen_patches_are_those_of_queries_at_their_places(read_by):
    found = read_by("seen_patches", lengths=(8, 16), num_items=2, params={"group": 8})
    assert found.value("error on all tokens so far", 8) == found.value("error on the first tokens", 8)
    assert found.value("error on the group", 8, group="up to 8") == found.value(
        "error on the first tokens", 8
    )
    matrix = found.arrays["matrix"]
    assert np.isnan(matrix[1, 0]) and np.isfinite(matrix[[0, 0, 1], [0, 1, 1]]).all()
    assert found.value("error on the latest tokens", 16) == pytest.approx(matrix[1, 1], rel=1e-6)
    both = (matrix[0, 1] + matrix[1, 1]) / 2  # groups of equal size
    assert found.value("error on all tokens so far", 16) == pytest.approx(both, rel=0.35)
    rise = found.value("error on the first tokens", 16) / found.value("error on the first tokens", 8)
    assert found.value("rise on the first tokens") == pytest.approx(rise, rel=1e-5)


def test_every_quadrant_gets_its_own_places():
    top_left, top_right, bottom_left, bottom_right = _centres(slice(0, 3), 50)
    for places, (x, y) in (
        (top_left, (2, 2)), (top_right, (64, 2)), (bottom_left, (2, 64)), (bottom_right, (64, 64)),
    ):  # fmt: skip
        assert places.shape == (3, 50, 2)
        assert places[..., 0].min() >= x and places[..., 0].max() <= x + 61
        assert places[..., 1].min() >= y and places[..., 1].max() <= y + 61


def test_characters_stand_in_the_top_left_quadrant_alone(read_by):
    found = read_by("quadrants", lengths=(16,), num_items=2)
    truth = from_bytes(found.arrays["truth"])
    assert (truth[64:] == 1).all() and (truth[:, 64:] == 1).all() and (truth[:64, :64] < 0).any()
    assert found.arrays["pictures 16 A"].shape == (4, 127, 127)
    four, one = (found.value("contrast", 16, group=f"order A after {n}") for n in (16, 4))
    assert found.value("contrast after four / after one", 16) == pytest.approx(four / one)


def test_the_total_variation_of_disjoint_answers_is_1():
    one, other = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 0.5, 0.5]]])
    assert distance(one, other, classes=True).item() == 1 and distance(one, one, classes=True).item() == 0
    assert distance(one, other, classes=False).item() == pytest.approx(2 / 3)


def test_nothing_is_lost_with_no_token_and_more_with_more(read_by):
    asked = dict(lengths=(64,), num_items=2, params={"shares": (0.25, 0.5, 0.9)})
    found = read_by("effective_remembrance", **asked)
    assert found.arrays["cuts 64"].tolist() == [16, 32, 58]
    assert (found.arrays["distances 64"] > 0).all()
    half = found.value("distance", 64, group="without 32")
    assert found.value("distance without the first half", 64) == pytest.approx(half)


def test_scores_by_query_are_those_that_an_evaluation_measures(read_by, trained):
    found = read_by("query_index", lengths=(16,), num_items=4, params={"queries": 16})
    rows = lgbench.rows(trained)
    row = rows[(rows["task"] == "omniglot") & (rows["method"] == "vanilla") & (rows["axis"] == "context")]
    measured = float(row[row["eval_length"] == 16]["value"].iloc[0])
    assert found.arrays["scores 16"][:8].mean() == pytest.approx(measured, rel=1e-5)
    late, early = found.arrays["scores 16"][-4:].mean(), found.arrays["scores 16"][:4].mean()
    assert found.value("last quarter / first quarter", 16) == pytest.approx(late / early, rel=1e-5)


def test_only_a_false_length_changes_the_answers(read_by, trained):
    asked = dict(lengths=(16,), num_items=4, params={"factors": (0.5, 2.0), "queries": 8})
    found = read_by("wrong_length", method="prepended", **asked)
    rows = lgbench.rows(trained)
    row = rows[(rows["method"] == "prepended") & (rows["axis"] == "context") & (rows["eval_length"] == 16)]
    true = found.value("score", 16, group="1 of the length")
    assert true == pytest.approx(float(row["value"].iloc[0]), rel=1e-5)
    twice = found.value("score", 16, group="2 of the length")
    assert twice != true and found.value("score at twice / score at true", 16) == pytest.approx(twice / true)


def test_stretches_of_positions_are_half_an_octave_wide_and_end_at_the_length():
    assert stretches(100) == [16, 23, 32, 45, 64, 91, 100] and stretches(8) == [8]


def test_losses_by_position_add_up_to_those_of_the_whole_text(read_by, monkeypatch):
    whole = read_by("positionwise", task="perplexity", lengths=(128,), num_items=2)
    monkeypatch.setattr("lgbench.probes.positionwise.PIECE", 50)
    pieces = read_by("positionwise", task="perplexity", lengths=(128,), num_items=3)
    np.testing.assert_allclose(whole.arrays["losses 128"], pieces.arrays["losses 128"][:2], rtol=1e-4)
    ends = whole.arrays["ends 128"]
    assert ends[-1] == 127  # the last token has no next one
    first = whole.arrays["losses 128"][:, 0].mean()
    assert whole.value("loss", int(ends[0]), group="of 128") == pytest.approx(first, rel=1e-6)
    assert whole.value("perplexity", int(ends[0]), group="of 128") == pytest.approx(np.exp(first), rel=1e-5)
