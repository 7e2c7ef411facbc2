"""Which layer decimates matters."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.model import Model
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, DECIMATED, SMALL, passkey


def decimated_in(layer: int) -> Model:
    """Trained with decimation in this layer."""
    return passkey(f"decimamba[layers=[[{layer}]],l_base=1024,train_with=true]", own_training=True)


CLAIM = Claim(
    id="decimamba_layers",
    source=f"{DECIMAMBA}, ablation of layers",
    statement="Decimation in the middle carries farther than decimation in the first or in the last layer.",
    parts=(
        *(
            above(value(DECIMATED, 32768, "accuracy") - value(decimated_in(layer), 32768, "accuracy"))
            for layer in (0, 3)
        ),
    ),
    inferred="the second of four layers stands for the twelfth of 24",
    conditions=SMALL,
)
