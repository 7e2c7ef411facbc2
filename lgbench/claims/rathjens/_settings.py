"""The models that these claims are judged on, and in what they differ from the paper's."""

from __future__ import annotations

from lgbench.claims.model import Model
from lgbench.claims.readings import Look

PAPER = 'Rathjens et al., "Probing Length Generalization in Mamba via Image Reconstruction"'
GRID = tuple(2**k for k in range(4, 16))
SHORT_GRID = tuple(2**k for k in range(16))
LENGTHS = (128, 256, 512)
"""Training lengths of the long trainings."""

LONG = (
    "preset small, 260,000 of about 4,800,000 steps, 64 queries in training instead of 1,024, L_train 128 to "
    "512, two small sets of characters"
)
SHORT = "preset small, 20,000 of about 4,800,000 steps, 256 queries in training, two small sets of characters"
ENCODER_DECODER = "preset small, 20,000 steps, two small sets of characters"

_OMNIGLOT = Model(
    task="omniglot", task_params=(("augment", True), ("position", "concat")), metric="MSE", train_length=1024
)
_MAMBA = _OMNIGLOT.change(num_layers=8, d_state=8)


def long_trained(train_length: int, method: str = "vanilla", **changes: object) -> Model:
    """A Mamba of 260,000 steps, evaluated on `GRID`; at L_train 1,024 of 90,000 steps."""
    return _MAMBA.change(
        method=method,
        train_length=train_length,
        train_steps=90_000 if train_length == 1024 else 260_000,
        learning_rate=1e-3,
        train_queries=64,
        eval_lengths=GRID,
    ).change(**changes)


def short_trained(method: str = "vanilla", **changes: object) -> Model:
    """A Mamba of 20,000 steps at L_train 1,024, evaluated on `SHORT_GRID`."""
    return _MAMBA.change(
        method=method,
        train_steps=20_000,
        learning_rate=2e-3,
        train_queries=256,
        eval_lengths=SHORT_GRID,
        words="20,000 steps",
    ).change(**changes)


def transformer(train_length: int = 128, num_layers: int = 8) -> Model:
    """The paper's encoder-decoder of 20,000 steps, evaluated to 16 times its L_train."""
    return _OMNIGLOT.change(
        method="transformer",
        own_training=True,
        backbone="encoder_decoder",
        train_length=train_length,
        train_steps=20_000,
        num_layers=num_layers,
        words="" if num_layers == 8 else f"{num_layers} layers",
        eval_lengths=tuple(2**k for k in range((16 * train_length).bit_length())),
    )


def painted(model: Model) -> Look:
    """Paintings after 32 to 32,768 tokens, the same ones for all models."""
    return Look(probe="identical_tokens", model=model, lengths=tuple(2**k for k in range(5, 16)), items=64)


def by_quadrant(model: Model) -> Look:
    """Paintings while four quadrants are read, 256 tokens each."""
    return Look(probe="quadrants", model=model, lengths=(1024,), items=64)


def switched(model: Model) -> Look:
    """512 tokens of one image, then 512 of another."""
    return Look(probe="image_switch", model=model, lengths=(512,), items=64)


def seen(model: Model) -> Look:
    """Errors on patches that were seen, after 16 tokens to 16 times L_train."""
    lengths = tuple(2**k for k in range(4, (16 * model.train_length).bit_length()))
    return Look(probe="seen_patches", model=model, lengths=lengths, items=64)


def time_steps(model: Model) -> Look:
    """Norms of the time steps of the first 128 tokens, of 128 to 1,024 in all."""
    return Look(probe="delta_norm", model=model, lengths=(128, 256, 512, 1024), items=32)
