"""Sizes, training and evaluation of image reconstruction: one recipe for each preset and layout.

Source of `paper`: Rathjens et al. and their public code.
"""

from __future__ import annotations

from lgbench.task import Layout, Recipe


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(2**k for k in range(low, high + 1))


_MAMBA = dict(d_model=16, num_layers=8, batch_size=64)
_SMALL = dict(_MAMBA, learning_rate=2e-3, warmup_steps=200, decay_from=0.5, train_steps=20_000,
              eval_queries=256, eval_items=512, eval_batch=256)  # fmt: skip
_SMOKE = dict(_MAMBA, num_layers=2, batch_size=16, learning_rate=3e-3, warmup_steps=50, decay_from=0.5,
              train_length=64, train_queries=(64, 64), train_steps=1_200, eval_queries=64, eval_items=128,
              eval_batch=64)  # fmt: skip
_PAPER = dict(_MAMBA, learning_rate=3e-4, train_steps=4_816_000, eval_items=5_000, eval_batch=50)

RECIPES: dict[tuple[str, Layout], Recipe] = {
    ("smoke", "causal"): Recipe(**_SMOKE, eval_lengths=_powers(0, 11), query_grid=_powers(0, 8)),
    ("smoke", "encoder_decoder"): Recipe(**_SMOKE, eval_lengths=_powers(0, 11), query_grid=_powers(0, 8)),
    ("small", "causal"): Recipe(
        **_SMALL, train_length=1024, train_queries=(256, 256), eval_lengths=_powers(0, 15),
        query_grid=_powers(0, 12),
    ),
    ("small", "encoder_decoder"): Recipe(
        **_SMALL, train_length=128, train_queries=(1, 100), eval_lengths=_powers(0, 12),
        query_grid=_powers(0, 11),
    ),
    ("paper", "causal"): Recipe(
        **_PAPER, train_length=1024, train_queries=(1024, 1024), eval_queries=1024, query_grid=_powers(0, 15),
        eval_lengths=tuple(sorted({*_powers(0, 15), *(3 * n // 2 for n in _powers(9, 14))})),
    ),
    ("paper", "encoder_decoder"): Recipe(
        **_PAPER, train_length=128, train_queries=(1, 100), eval_queries=100, query_grid=_powers(0, 11),
        eval_lengths=_powers(0, 11),
    ),
}  # fmt: skip
