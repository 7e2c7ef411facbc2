"""The papers, and the models that their claims are judged on."""

from __future__ import annotations

from lgbench.claims.model import Model
from lgbench.claims.readings import Look

DECIMAMBA = "Ben-Kish et al., DeciMamba (arXiv:2406.14528)"
MAMBAEXTEND = "Azizi et al., MambaExtend (ICLR 2025)"
MODULATION = "MambaModulation (arXiv:2509.19633)"
LONGMAMBA = "LongMamba (arXiv:2504.16053)"
STATES = "Ruiz and Gu (arXiv:2507.02782)"
STUFFED = "Stuffed Mamba (arXiv:2410.07145)"

SMALL = "preset small: a model of our own of 2 to 3 million parameters, trained on bytes of books"
RECALL = "preset small: two layers that were trained from scratch to recall"
L_TRAIN = 2048

_FAR = tuple(256 << k for k in range(10))
_PASSKEY = Model(
    task="passkey",
    task_params=(("variant", "natural"), ("protocol", "clean")),
    metric="accuracy",
    train_length=L_TRAIN,
    train_steps=3000,
    num_layers=4,
    d_state=16,
    lm_weight=0.1,
    seeds=5,
    eval_lengths=_FAR,
)
_PERPLEXITY = Model(
    task="perplexity",
    task_params=(("protocol", "clean"),),
    metric="perplexity",
    train_length=L_TRAIN,
    train_steps=2000,
    num_layers=6,
    d_state=16,
    lm_weight=20.48,
)


def passkey(method: str = "vanilla", **changes: object) -> Model:
    """A Mamba of four layers that names five digits, of 3,000 steps; the grid ends at 64 L_train."""
    return _PASSKEY.change(method=method).change(**changes)


def short_passkey(method: str = "vanilla", **changes: object) -> Model:
    """The same of 2,000 steps; vanilla's grid ends at 512 L_train."""
    grid = () if method == "vanilla" else _FAR
    return passkey(method, train_steps=2000, seeds=3, eval_lengths=grid, words="2,000 steps").change(
        **changes
    )


def perplexity(method: str = "vanilla", **changes: object) -> Model:
    """A language model of six layers; the grid ends at 64 L_train."""
    return _PERPLEXITY.change(method=method, eval_lengths=_FAR).change(**changes)


DECIMATED = passkey("decimamba[layers=[[1]],l_base=1024,train_with=true]", own_training=True)
"""Trained with decimation in the second of four layers."""
EXTENDED = passkey("mambaextend")
MODULATED = passkey("mambamodulation")


def look(probe: str, model: Model, *multiples: int) -> Look:
    """A probe at these multiples of L_train."""
    return Look(probe=probe, model=model, lengths=tuple(L_TRAIN * k for k in multiples), items=8)
