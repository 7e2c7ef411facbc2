"""Train on longer sequences too: how much does training on longer sequences help?

Source: Rathjens et al., the expanded variant. Their maximum is lost; four times L_train is our reading (4,096
at L_train 1,024). `train_length` stays that of vanilla, so multiples of it mean the same for both.
"""

from pydantic import Field

from lgbench.method import Method


class Expanded(Method):
    """Vanilla with the training range widened upwards."""

    class Params(Method.Params):
        factor: float = Field(
            4.0, gt=1, le=64, description="largest context in training, as a multiple of L_train"
        )

    def train_lengths(self, train_length: int) -> tuple[int, int]:
        """From 1 to `factor` times the training length."""
        return 1, round(self.params.factor * train_length)
