"""Encoder-decoder transformer: no recurrent state, so nothing that could drift with length.

Source: the baseline of Rathjens et al.; recipe per task (on omniglot it is trained on at most 128 tokens).
"""

from lgbench.method import Method


class Transformer(Method):
    """Queries see one another, so every length needs its own pass."""

    backbone = "encoder_decoder"
    bound = True
    prefix_exact = False
