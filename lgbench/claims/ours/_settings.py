"""Models that only claims of our own are about: recall over a distance."""

from __future__ import annotations

from lgbench.claims.model import Model

_SIZES = Model(task="marked_recall", metric="accuracy", seeds=5, train_length=256, num_layers=2, d_state=16)


def marked_recall(method: str = "vanilla", repeats: int = 0) -> Model:
    """Two layers that name the marked symbol; trained on up to 256 tokens. With `repeats` the mark recurs."""
    params = (("num_symbols", 8), ("repeats", repeats))
    words = f"repeats {repeats}" if repeats else ""
    return _SIZES.change(method=method, task_params=params, train_steps=4000, words=words)


def induction_heads(method: str = "vanilla") -> Model:
    """Two layers that complete the only bigram; trained on up to 256 tokens."""
    return _SIZES.change(
        task="induction_heads", method=method, task_params=(("vocabulary", 16),), train_steps=5000
    )


def mqar(method: str = "vanilla") -> Model:
    """Two layers that answer four keys; trained on up to 128 tokens."""
    return _SIZES.change(
        task="mqar",
        method=method,
        task_params=(("gap", None), ("pairs", 4), ("noise", "values"), ("vocabulary", 32)),
        train_length=128,
        train_steps=6000,
    )
