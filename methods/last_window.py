"""Read only the last L_train tokens: how much of a remedy is merely not reading too much?

Nothing longer than a training context is ever processed, so nothing can go wrong with length; what came
before the window is lost. The baseline that the papers on remedies leave out. Source: our own.
"""

from pydantic import Field

from lgbench.method import Method


class LastWindow(Method):
    """Vanilla on the end of the context; trains like vanilla."""

    class Params(Method.Params):
        factor: float = Field(1.0, gt=0, le=1024, description="tokens read, as a multiple of L_train")

    trains_like = "vanilla"
    prefix_exact = False
    needs_length = True

    def first_token(self, length: int, train_length: int) -> int:
        """Where the window begins; 0 where the whole context fits into it."""
        return max(0, length - max(1, round(self.params.factor * train_length)))
