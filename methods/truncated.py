"""Train on long sequences only: what does a model lose that never sees a short one?

Source: Rathjens et al., the truncated variant (512 to 1,024 tokens where L_train is 1,024).
"""

from pydantic import Field

from lgbench.errors import UserError
from lgbench.method import Method


class Truncated(Method):
    """Vanilla with the lower part of the training range cut off."""

    class Params(Method.Params):
        low: int | None = Field(
            None, ge=1, description="smallest context in training, tokens; L_train / 2 if not set"
        )

    def train_lengths(self, train_length: int) -> tuple[int, int]:
        """From `low` to the training length.

        Raises:
            UserError: `low` is above the training length.
        """
        low = self.params.low if self.params.low is not None else max(1, train_length // 2)
        if low > train_length:
            raise UserError(
                f"truncated: low={low} is above the training length {train_length}. "
                f"Choose low in 1..{train_length}, or a larger --train-length."
            )
        return low, train_length
