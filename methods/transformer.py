"""Encoder-decoder transformer: no recurrent state, so nothing that could drift with length.

Source: the baseline of Rathjens et al.; recipe per task (on omniglot it is trained on at most 128 tokens).
"""

from lgbench.method import Method
from lgbench.task import Task


class Transformer(Method):
    """Queries see one another, so every length needs its own pass."""

    backbones = ("encoder_decoder",)
    prefix_exact = False

    def unsupported(self, task: Task) -> str | None:
        """Where queries are generated, one must not see the next."""
        if not task.generates and task.lm_metric is None:
            return None
        return (
            "its decoder lets queries see one another, which are tokens of the answer here; "
            "see decoder_transformer"
        )
