"""What a training leaves on disk: weights at its milestones, and a state to go on from, bit for bit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lgbench.errors import CannotWrite
from lgbench.run import checkpoint, provenance
from lgbench.run.failures import one_line
from lgbench.store.losses import write_losses

if TYPE_CHECKING:
    from lgbench.run.train import Trainer


class NotSaved(Exception):
    """Weights that were trained cannot be saved, for another reason than the disk."""


def save_weights(trainer: Trainer) -> None:
    """Keep the weights of this step, with loss, time and speed, and the losses of all steps beside them.

    Raises:
        CannotWrite: the folder cannot be written or the disk is full.
        NotSaved: anything else; a state is left, if that can be saved, so that the training is not lost.
    """
    try:
        _save_weights(trainer)
    except CannotWrite:
        raise
    except Exception as error:
        with suppress(Exception):
            save_resume(trainer, trainer.folder)
        raise NotSaved(
            f"trained, but the weights after step {trainer.step:,} cannot be saved: {one_line(error)}"
        ) from error
    trainer.kept = trainer.step
    if trainer.finished:
        checkpoint.resume_path(trainer.folder).unlink(missing_ok=True)


def _save_weights(trainer: Trainer) -> None:
    facts = {
        "training": asdict(trainer.training),
        "scan_backend": trainer.model.backend_name(trainer.device, trainer.recipe.d_model),
        "step": trainer.step,
        "train_loss": trainer.history[-1][1] if trainer.history else None,
        "stage": trainer.stage,
        "train_wall_s": trainer.wall_s,
        "train_tokens_per_s": trainer.tokens / max(trainer.wall_s, 1e-9),
        "history": trainer.history,
        "device": provenance.device_name(trainer.device),
    }
    checkpoint.save(checkpoint.weights_path(trainer.folder, trainer.step), trainer.model.state_dict(), facts)
    write_losses(trainer.folder, trainer.history)


def save_resume(trainer: Trainer, folder: Path) -> None:
    """Keep in a folder everything that a resumed run needs to end with the same numbers."""
    tensors = {f"model.{name}": t for name, t in trainer.model.state_dict().items()}
    for k, parameter in enumerate(trainer.parameters):
        for name, value in trainer.optimizer.state[parameter].items():
            tensors[f"optimizer.{k}.{name}"] = value
    tensors |= {f"carried.{name}": t for name, t in trainer.carried.items()}
    tensors |= {"generator": trainer.generator.get_state(), "log": trainer.log, "accuracy": trainer.accuracy}
    facts = {
        "step": trainer.step,
        "wall_s": trainer.wall_s,
        "tokens": trainer.tokens,
        "history": trainer.history,
    }
    facts |= {"stage": trainer.stage, "stage_steps": trainer.stage_steps}
    checkpoint.save(checkpoint.resume_path(folder), tensors, facts)


def resume(trainer: Trainer) -> bool:
    """Go on from a saved state if there is a whole one that does not skip a missing milestone."""
    found = checkpoint.load(checkpoint.resume_path(trainer.folder))
    if found is None:
        return False
    tensors, facts = found
    passed = {m for m in trainer.milestones if m <= facts["step"]}
    if facts["step"] == trainer.recipe.train_steps:
        passed.discard(facts["step"])  # its weights are those of the state
    if not all(checkpoint.weights_path(trainer.folder, m).exists() for m in passed):
        return False
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    trainer.model.load_state_dict(weights)
    for k, parameter in enumerate(trainer.parameters):
        for name, value in trainer.optimizer.state[parameter].items():
            value.copy_(tensors[f"optimizer.{k}.{name}"])
    for name, value in trainer.carried.items():
        value.copy_(tensors[f"carried.{name}"])
    trainer.generator.set_state(tensors["generator"])
    trainer.log.copy_(tensors["log"])
    trainer.accuracy.copy_(tensors["accuracy"])
    trainer.stage, trainer.stage_steps = facts["stage"], facts["stage_steps"]
    trainer.step, trainer.wall_s = facts["step"], facts["wall_s"]
    trainer.kept = max(passed, default=0)
    trainer.counted = facts["tokens"]
    trainer.drawn_tokens.zero_()
    trainer.history = [tuple(pair) for pair in facts["history"]]
    return True
