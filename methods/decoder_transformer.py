"""Decoder-only transformer: remembers every token, but must code positions that it never saw in training.

    rope          rotated queries and keys (Su et al., arXiv:2104.09864)
    alibi         a bias linear in the distance (Press et al., arXiv:2108.12409)
    sinusoidal    waves added to the input (Vaswani et al., arXiv:1706.03762)
    nope          nothing; the causal mask alone tells order (Kazemnejad et al., arXiv:2305.19466)

Source: the papers above; one model for all, so that the position code is the only difference.
"""

from typing import Any, Literal

from pydantic import Field

from lgbench.method import Method


class DecoderTransformer(Method):
    """Keys and values of the whole context are kept: one pass serves every prefix, at quadratic cost."""

    class Params(Method.Params):
        position: Literal["rope", "alibi", "nope", "sinusoidal"] = Field(
            "rope", description="how the model is told where a token stands"
        )

    backbone = "decoder"
    bound = True

    def backbone_options(self) -> dict[str, Any]:
        """The position code."""
        return {"position": self.params.position}
