"""What changed beyond noise, and what could not be compared."""

import numpy as np
import pytest

from lgbench.answers.compare import WHOLE, compare, render
from lgbench.answers.selection import read_selection
from lgbench.errors import UserError


def sides(first, second, of_first="", of_second=""):
    return compare(read_selection(f"{first}{of_first}"), read_selection(f"{second}{of_second}"))


def noisy(seed, size=0.02):
    return size * np.random.default_rng(seed).normal()


@pytest.fixture
def base(tmp_path, store):
    """A store of three seeds at 0.6, which differ by about 0.02."""
    return store(tmp_path / "a", lambda length, seed: 0.6 + noisy(seed))


def test_a_store_equals_itself_in_every_item(base):
    found = sides(base, base)
    assert found.changes and all(change.is_equal for change in found.changes)
    assert not any(change.is_beyond_noise for change in found.changes) and not found.unpaired


def test_a_loss_on_the_same_seeds_is_found_though_seeds_differ_by_more(tmp_path, base, store):
    b = store(tmp_path / "b", lambda length, seed: 0.59 + noisy(seed) + 0.001 * noisy(seed + 9))
    (whole,) = [change for change in sides(base, b).changes if change.at == WHOLE]
    assert whole.is_beyond_noise and whole.delta == pytest.approx(-0.01, abs=1e-3)


def test_another_draw_of_seeds_is_within_noise(tmp_path, base, store):
    b = store(tmp_path / "b", lambda length, seed: 0.6 + noisy(seed + 50))
    assert not any(change.is_beyond_noise for change in sides(base, b).changes)


def test_a_change_at_one_length_alone_is_found_there(tmp_path, base, store):
    b = store(
        tmp_path / "b", lambda length, seed: 0.6 + noisy(seed) - (0.2 + noisy(seed, 0.002)) * (length == 256)
    )
    beyond = {change.at for change in sides(base, b).changes if change.is_beyond_noise}
    assert "256" in beyond and not beyond & {"32", "64", "128"}


def test_one_common_seed_is_not_judged(tmp_path, store):
    a = store(tmp_path / "a", lambda length, seed: 0.6, seeds=[0])
    b = store(tmp_path / "b", lambda length, seed: 0.3, seeds=[0])
    found = sides(a, b)
    assert all(np.isnan(change.p) and not change.is_beyond_noise for change in found.changes)
    assert any("cannot be judged" in str(part) for part in render(found))


def test_two_methods_of_one_folder_are_paired_by_selections(base, store):
    store(base, lambda length, seed: 0.8 + noisy(seed), method="other")
    found = sides(base, base, "@method=vanilla", "@method=other")
    (whole,) = [change for change in found.changes if change.at == WHOLE]
    assert whole.series == "vanilla → other" and whole.delta == pytest.approx(0.2) and whole.is_beyond_noise


def test_training_lengths_are_compared_at_equal_lengths(base, store):
    store(base, lambda length, seed: 0.7 + noisy(seed), train_length=128, train_high=128)
    found = sides(base, base, "@train_length=64", "@train_length=128")
    assert {change.at for change in found.changes} == {WHOLE, "32", "64", "128", "256"}


def test_what_has_no_partner_is_named(tmp_path, base, store):
    store(base, lambda length, seed: 0.6, method="gone")
    b = store(tmp_path / "b", lambda length, seed: 0.6 + noisy(seed), seeds=(1, 2, 3), lengths=(32, 64, 128))
    store(b, lambda length, seed: 0.6, method="new")
    text = " ".join(sides(base, b).unpaired)
    assert "gone: in A alone" in text and "new: in B alone" in text
    assert "seeds 0, 3" in text and "lengths 256" in text


def test_other_items_are_not_paired(tmp_path, base, store):
    b = store(tmp_path / "b", lambda length, seed: 0.6, items_hash="others")
    with pytest.raises(UserError, match="not evaluated on the same items"):
        sides(base, b)


def test_ambiguous_pairs_are_named_with_both_sides(base, store):
    store(base, lambda length, seed: 0.6, method="other")
    store(base, lambda length, seed: 0.6, method="third")
    with pytest.raises(UserError, match=r"A has other, third; B has vanilla.*select more narrowly"):
        sides(base, base, "@method=other|third", "@method=vanilla")


def test_a_selection_without_rows_is_one_line(base):
    with pytest.raises(UserError, match="selects no measured rows"):
        sides(base, base, "@method=nobody")


def test_a_torn_file_is_named_and_the_rest_compared(base):
    path = sorted(base.rglob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:500])
    found = sides(base, base)
    assert found.changes and any("Could not read" in sentence for sentence in found.unpaired)


def test_many_equal_series_raise_no_alarm_and_holm_is_over_all(tmp_path, store):
    """Twenty pairs of equal truth: without a correction one of them would pass 5 % in most draws."""
    for k in range(20):
        for side, shift in (("a", 0), ("b", 1000)):
            store(tmp_path / side, lambda length, seed, k=k, shift=shift: 0.5 + noisy(100 * k + seed + shift),
                  method=f"m{k}", seeds=range(5))  # fmt: skip
    assert not any(change.is_beyond_noise for change in sides(tmp_path / "a", tmp_path / "b").changes)
