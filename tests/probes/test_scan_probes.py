"""Probes that read scans: exact values on scans that are small enough to know."""

import numpy as np
import pytest
import torch

from lgbench.ops.scan.selective_scan import selective_scan
from lgbench.ops.ssd.ssd import ssd
from lgbench.plugins.registry import PROBES
from lgbench.probes._attention import attention_matrix
from lgbench.probes._needle import needle_ranks
from lgbench.probes.mean_distance import mean_distance


def test_time_constants_are_one_over_delta_times_a(feed):
    probe = PROBES.load("memory_horizon")()
    recorder = probe.recorder((0,))
    recorder.train_tokens = 3
    feed(recorder, delta=torch.full((1, 4, 1), 0.5), A=torch.tensor([[-1.0, -0.25]]), cuts=(3,))
    found = probe.result(recorder)
    np.testing.assert_allclose(found.arrays["trained 4"][0], [[2.0, 8.0]])
    assert found.value("share beyond L_train", 4, group="trained") == 0.5
    assert found.value("longest time constant", 4, group="trained") == 8


def test_no_mode_outlasts_1024_tokens_at_initialisation(read_by):
    found = read_by("memory_horizon", lengths=(16,), num_items=2)
    assert 0 < found.value("longest time constant", 16, group="initial") < 1024
    assert {row.group for row in found.rows} == {"initial", "trained"}


def test_the_state_norm_is_that_of_each_channel_and_grows_as_it_does(feed):
    probe = PROBES.load("state_norm")()
    recorder = probe.recorder((0,))
    recorder.train_length = 2
    for length in (1, 2, 8):  # nothing decays: each token adds 0.5 to all four states of a channel
        feed(recorder, delta=torch.full((1, length, 2), 0.5), A=torch.full((2, 4), -1e-9))
    found = probe.result(recorder)
    assert found.curve("mean norm", 0) == ([1, 2, 8], pytest.approx([1.0, 2.0, 8.0]))
    assert found.value("standard deviation", 8, 0) == pytest.approx(0, abs=1e-6)
    assert found.value("growth of the norm") == pytest.approx(4)


def test_the_sum_of_delta_leaves_the_first_token_out_and_drift_is_against_l_train(feed):
    probe = PROBES.load("sum_delta")()
    recorder = probe.recorder((0,))
    recorder.train_length = 3
    feed(recorder, delta=torch.full((1, 3, 2), 0.5), A=torch.full((2, 1), -1.0))
    feed(recorder, delta=torch.full((1, 9, 2), 1.0), A=torch.full((2, 1), -1.0), cuts=(4,))
    found = probe.result(recorder)
    assert found.curve("sum of delta", 0) == ([3, 9], [1.0, 8.0])
    assert found.value("largest drift") == pytest.approx(2)
    assert found.value("largest growth exponent") == pytest.approx(np.log(8 / 1) / np.log(8 / 2))
    survived = found.value("survival of the first token", 3, 0, "quantile 0.5")
    assert survived == pytest.approx(np.exp(-1))


def test_the_attention_applied_to_the_scans_input_is_the_scans_output(random_scan):
    s = random_scan
    y, _ = selective_scan(s["x"], s["delta"], s["A"], s["B"], s["C"], torch.zeros(3), backend="reference")
    for item in range(2):
        matrix = attention_matrix(s["delta"][item], s["A"], s["B"][item], s["C"][item])
        torch.testing.assert_close(
            torch.einsum("cij,jc->ic", matrix, s["x"][item]), y[item], atol=1e-5, rtol=0
        )


def test_the_attention_of_mamba2_too(random_scan):
    s, heads = random_scan, torch.randn(2, 24, 3, 5, generator=torch.Generator().manual_seed(1))
    A = s["A"][:, 0]
    y, _ = ssd(heads, s["delta"], A, s["B"], s["C"], torch.zeros(3))
    matrix = attention_matrix(s["delta"][0], A, s["B"][0], s["C"][0])
    torch.testing.assert_close(torch.einsum("cij,jcp->icp", matrix, heads[0]), y[0], atol=1e-5, rtol=0)


def test_last_row_in_pieces_is_that_of_the_matrix_and_gives_the_scans_last_output(feed, random_scan):
    probe = PROBES.load("hidden_attention")()
    recorder = probe.recorder((0,))
    recorder.train_tokens = 20
    feed(recorder, passes=2, chosen=slice(0, 2), **random_scan)
    whole = recorder.whole[24, 0][-1]
    pieces = probe.recorder((0,))
    pieces.train_tokens = 20
    feed(pieces, passes=2, chosen=slice(0, 2), cuts=(7, 16), **random_scan)
    torch.testing.assert_close(torch.cat(pieces.last[24, 0]).float(), whole, atol=1e-5, rtol=1e-5)
    found = probe.result(pieces)
    assert found.value("error of the last row", 24) < 1e-5
    share = float(whole[:4].sum() / whole.sum())
    assert found.value("weight beyond L_train", 24) == pytest.approx(share, rel=1e-5)


def test_a_trained_models_last_row_gives_its_own_output_beyond_a_piece(read_by, monkeypatch):
    monkeypatch.setattr("lgbench.run.reading.PIECE", 24)
    found = read_by("hidden_attention", lengths=(16, 64), num_items=3, params={"full_up_to": 16})
    assert found.value("error of the last row", 16) < 1e-5 and found.value("error of the last row", 64) < 1e-5
    assert "matrix 16 0" in found.arrays and "matrix 64 0" not in found.arrays


def test_the_mean_distance_in_pieces_is_that_of_the_whole(feed, random_scan):
    probe = PROBES.load("mean_distance")()
    recorder = probe.recorder((0,))
    recorder.train_length = 12
    feed(recorder, passes=2, chosen=slice(0, 2), cuts=(5, 6, 20), **random_scan)
    s = random_scan
    whole = float(mean_distance(s["delta"], s["A"], s["B"], s["C"]).mean())
    found = probe.result(recorder)
    assert found.value("mean distance", 24, 0) == pytest.approx(whole, rel=1e-5)
    assert found.value("distance / length", 24, 0) == pytest.approx(whole / 24, rel=1e-5)
    assert found.value("distance / training length", 24) == pytest.approx(whole / 12, rel=1e-5)


def test_equal_weights_have_a_mean_distance_of_half_the_length(feed):
    probe = PROBES.load("mean_distance")()
    recorder = probe.recorder((0,))
    recorder.train_length = 9
    feed(recorder, passes=2, delta=torch.full((1, 9, 2), 1e-6), A=torch.full((2, 3), -1.0))
    assert probe.result(recorder).value("mean distance", 9) == pytest.approx(4, rel=1e-4)


def test_the_norm_of_delta_is_over_channels(feed):
    probe = PROBES.load("delta_norm")(PROBES.load("delta_norm").Params(first=3))
    recorder = probe.recorder((0,))
    for length in (4, 6):
        feed(
            recorder,
            delta=torch.tensor([3.0, 4.0]).expand(2, length, 2),
            A=torch.full((2, 1), -1.0),
            cuts=(2,),
        )
    found = probe.result(recorder)
    np.testing.assert_allclose(found.arrays["norms of layer 0"], np.full((2, 3), 5.0))
    assert found.value("spread between lengths") == 0
    assert found.value("slope of the first block") == pytest.approx(0, abs=1e-6)


def test_slope_is_of_the_first_block_and_separation_of_deeper_ones(feed):
    """Norms of the first block go from 1 to 3 in each length; those of the second differ by 1 a length."""
    probe = PROBES.load("delta_norm")(PROBES.load("delta_norm").Params(first=3))
    recorder = probe.recorder((0, 1))
    for index, length in enumerate((4, 6)):
        rising = torch.arange(1.0, length + 1).reshape(1, length, 1).expand(2, length, 1)
        scan = dict(A=-torch.ones(1, 1), B=torch.ones(2, length, 1), C=torch.ones(2, length, 1))
        recorder.start(length, slice(0, 2), 0)
        recorder.record(0, delta=rising, x=rising, state=rising, **scan)
        items = torch.tensor([1.0, 3.0]).reshape(2, 1, 1).expand(2, length, 1) + index
        recorder.record(1, delta=items, x=items, state=items, **scan)
    found = probe.result(recorder)
    assert found.value("slope of the first block") == pytest.approx(2 / 2)
    assert found.value("spread in standard errors") == pytest.approx(1 / (1 / 2**0.5))


def test_delta_does_not_know_the_length_unless_it_is_given(read_by):
    asked = dict(lengths=(16, 64, 128), num_items=2, params={"first": 12})
    default, prepended = read_by("delta_norm", **asked), read_by("delta_norm", method="prepended", **asked)
    assert default.value("spread between lengths") < 1e-5 < prepended.value("spread between lengths")
    assert default.value("tokens in front") == 0 and prepended.value("tokens in front") == 1
    assert prepended.arrays["norms of layer 0"].shape == (3, 13)


def test_the_needles_rank_is_the_share_of_tokens_above_it():
    scores = np.array([[5.0, 1, 4, 2, 3], [1.0, 2, 3, 4, 5]])
    rank, kept, few = needle_ranks(scores, [(0, 2), (3, 5)], keep=3)
    # item 0: places 0 and 4 of 5; item 1: places 1 and 0
    assert (rank, kept, few) == (pytest.approx((0.4 + 0.1) / 2), (0.5 + 1) / 2, (0.5 + 1) / 2)
    assert needle_ranks(scores[:1], [(-4, -1)], keep=3) == (1, 0, 0)  # a window left it out


def test_delta_maps_of_text_mark_the_needle(read_by):
    found = read_by("delta_map", task="passkey", lengths=(256,), num_items=5)
    first, stop = found.arrays["needle 256"]
    assert 0 <= first < stop <= 256
    assert 0 <= found.value("best rank of the needle", 256) <= 1
    assert found.value("best recall at L_train", 256) == 1  # all 256 tokens are among the 256 largest


def test_a_constant_delta_has_one_eigenvalue_a_state(feed):
    probe = PROBES.load("spectrum")()
    recorder = probe.recorder((0,))
    feed(recorder, delta=torch.full((1, 6, 2), 0.1), A=torch.tensor([[-1.0, -1e-3]]).expand(2, 2))
    found = probe.result(recorder)
    assert found.value("share of slow eigenvalues", 6) == 0.5
    assert found.value("effective eigenvalue", 6, 0, "quantile 0.1") == pytest.approx(np.exp(-0.1), rel=0.01)
    assert found.value("static eigenvalue", None, 0, "quantile 0.01") == pytest.approx(np.exp(-1), rel=0.05)
