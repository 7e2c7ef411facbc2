"""Write a trained language model in the Hugging Face format, so that transformers and lm-eval can take it.

    FOLDER/config.json  model.safetensors  tokenizer.json  tokenizer_config.json

The weights are written as they are, in float32. A Mamba without convolution is written with one of a single
tap, which is 1: the same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lgbench.api import find_cell, prepared_task
from lgbench.data.paths import user_path
from lgbench.errors import CannotWrite, UserError
from lgbench.models.hub_config import Sizes, write_config
from lgbench.models.pretrained import BLOCK_NAMES, our_names
from lgbench.plan.cells import Cell, checkpoint_folder
from lgbench.plan.options import BASELINE
from lgbench.plugins.registry import BACKBONES
from lgbench.run import checkpoint
from lgbench.text.tokenizer import Tokenizer

_TIED, _UNTIED = {"interface.embedding.weight"}, {"interface.embedding.weight", "interface.head.weight"}


def export(cell: str, out: Path, results: Path, data_dir: Path | None = None, **data: str) -> list[str]:
    """Write the weights of a cell, its configuration and its tokenizer.

    Args:
        cell: key of the cell, or its beginning.
        out: the folder, empty or not there.
        results: the folder that has rows and checkpoints.
        data_dir: where the data of the task are looked for first.
        **data: parameters of the task by which its tokenizer is made again, `tokenizer="bytes"`.

    Returns:
        what was written, in lines.

    Raises:
        UserError: no such cell, its model has no such format, its weights are gone, or the folder is not
            empty or cannot be written.
    """
    found, folder = find_cell(cell, results), user_path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {out} is not an empty folder; nothing is written over")
    tensors = _tensors(found, results)
    tokenizer = prepared_task(found, data_dir, **data).tokenizer
    sizes = _sizes(found, tensors)
    if not sizes.options["conv_width"]:
        sizes.options["conv_width"] = 1
        tensors |= _one_tap(sizes)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.end)
    weights = {theirs: tensors[ours].contiguous() for theirs, ours in our_names(sizes).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", write_config(sizes) | ends)
        _write_tokenizer(folder, tokenizer)
    except OSError as error:
        raise CannotWrite(f"cannot write {error.filename or folder}: {error.strerror or error}") from None
    count = sum(t.numel() for t in weights.values())
    lines = [f"{folder}: {sizes.backbone} of {count:,} parameters, {sizes.vocabulary} tokens"]
    if found.method != BASELINE:
        lines.append(
            f"Note: method '{found.method}' acts where a model is used; the checkpoint has the weights alone"
        )
    return lines


def _tensors(cell: Cell, results: Path) -> dict[str, Tensor]:
    """The trained weights of a model that has this format."""
    training = cell.training
    if training.backbone not in BLOCK_NAMES:
        raise UserError(
            f"cell {cell.key} is of the backbone '{training.backbone}'; "
            f"only {' and '.join(BLOCK_NAMES)} have a Hugging Face format"
        )
    path = checkpoint.weights_path(checkpoint_folder(results, training), cell.step)
    loaded = checkpoint.load(path)
    if loaded is None:
        raise UserError(f"cell {cell.key}: no readable weights at {path}. Its training can be run again")
    tensors = loaded[0]
    if own := [name for name in tensors if name.startswith("trained.")]:
        raise UserError(
            f"method '{cell.method}' trains parameters of its own ({', '.join(own)}), "
            "for which the format has no place"
        )
    if {name for name in tensors if name.startswith("interface.")} not in (_TIED, _UNTIED):
        raise UserError(
            f"task '{cell.task}' has no tokens; only models of language tasks, such as passkey, are exported"
        )
    return tensors


def _sizes(cell: Cell, tensors: dict[str, Tensor]) -> Sizes:
    training = cell.training
    params = BACKBONES.load(training.backbone).Params.model_validate_json(training.backbone_params)
    asked = params.model_dump(exclude_none=True)
    vocabulary, d_model = tensors["interface.embedding.weight"].shape
    first = {name.removeprefix("backbone.blocks.0."): tuple(t.shape) for name, t in tensors.items()}
    common = {name: asked[name] for name in ("d_state", "expand", "conv_width", "norm_eps")}
    if training.backbone == "mamba":
        own: dict[str, Any] = {"dt_rank": first["dt_proj.weight"][1]}
        own |= {name: asked[name] for name in ("mixer_norm_eps",) if name in asked}
    else:
        own = {"head_dim": asked["expand"] * d_model // first["A_log"][0], "groups": asked["groups"]}
    return Sizes(
        backbone=training.backbone,
        d_model=d_model,
        num_layers=cell.recipe.num_layers,
        vocabulary=vocabulary,
        tied="interface.head.weight" not in tensors,
        options=common | own,
    )


def _one_tap(sizes: Sizes) -> dict[str, Tensor]:
    """A convolution that changes nothing, for every layer."""
    width = sizes.options["expand"] * sizes.d_model
    if sizes.backbone == "mamba2":
        width += 2 * sizes.options["groups"] * sizes.options["d_state"]
    one = {"weight": torch.ones(width, 1, 1), "bias": torch.zeros(width)}
    layers = range(sizes.num_layers)
    return {f"backbone.blocks.{k}.conv.{name}": t.clone() for k in layers for name, t in one.items()}


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    text, end = tokenizer.file()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**12,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
