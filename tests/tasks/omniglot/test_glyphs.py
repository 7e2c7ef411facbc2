"""The embedded glyphs are the same for everyone and resemble Omniglot where it matters for the task."""

import hashlib

import numpy as np
import pytest
from lgbench.tasks.omniglot import glyphs

pytestmark = pytest.mark.usefixtures("no_outside")


@pytest.fixture(scope="module")
def drawn() -> tuple[list[str], np.ndarray]:
    return glyphs.draw()


def test_layout_is_alphabet_character_drawer(drawn):
    keys, strokes = drawn
    assert strokes.shape == (8 * 15 * 20, 105, 105) and strokes.dtype == bool
    assert keys == sorted(set(keys)) and len(keys) == len(strokes)
    assert keys[0] == "Procedural_01/character01/0001.png"


def test_the_same_bytes_are_drawn_everywhere(drawn):
    # A change of this number changes the results of everyone who runs on glyphs.
    assert hashlib.sha256(np.packbits(drawn[1])).hexdigest()[:16] == "8fd66c2b797bf07e"


def test_another_seed_draws_other_glyphs(drawn):
    _, strokes = glyphs.draw(num_alphabets=1, seed=1)
    assert strokes.shape == (300, 105, 105)
    assert not np.array_equal(strokes, drawn[1][:300])


def test_ink_and_size_are_those_of_omniglot(drawn):
    # Small background sets: ink 8.1 % (5th to 95th percentile 4.4 to 12.4), height 60, width 61 pixels.
    strokes = drawn[1]
    ink = strokes.mean((1, 2))
    assert 0.075 < ink.mean() < 0.09
    assert np.percentile(ink, 5) > 0.035 and np.percentile(ink, 95) < 0.14
    for axis in (1, 2):
        extent = strokes.any(axis).sum(1)
        assert 45 < np.median(extent) < 70


def test_drawers_differ_and_yet_write_the_same_character(drawn):
    # Half of the drawers identify the other half's characters by blurred likeness. The same measure on 120
    # characters of the small Omniglot sets gives 0.38 to 0.49; chance is 1/120.
    strokes = drawn[1].reshape(120, 20, -1)
    assert len({image.tobytes() for image in drawn[1]}) == len(drawn[1]), "no two images are equal"
    blurred = strokes.reshape(120, 20, 21, 5, 21, 5).mean((3, 5)).reshape(120, 20, -1)
    blurred -= blurred.mean(2, keepdims=True)
    blurred /= np.linalg.norm(blurred, axis=2, keepdims=True)
    first, second = blurred[:, :10].mean(1), blurred[:, 10:].mean(1)
    similarity = first @ second.T
    assert (similarity.argmax(1) == np.arange(120)).mean() > 0.5
