"""Files of a checkpoint in the Hugging Face format: the folder, its `config.json`, its tensors."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lgbench.data.paths import user_path
from lgbench.errors import UserError

NAMED_AT_MOST = 4
"""Names listed in an error; the others are counted."""

_POINTER = b"version https://git-lfs"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(source: str | Path, patterns: list[str]) -> Path:
    """The folder itself, or the files of a hub name that match the patterns, in the hub's cache.

    Raises:
        UserError: it is neither, or the hub cannot be asked.
    """
    folder = user_path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"'{source}' is a file; a checkpoint is the folder that holds config.json")
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(source):
        raise UserError(
            f"no checkpoint folder '{source}', and not a name on the Hugging Face hub such as "
            "state-spaces/mamba-130m-hf"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"no folder '{source}'; to download it by that name from the Hugging Face hub: "
            'pip install "lgbench[hub]"'
        ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise UserError(
            f"no folder '{source}', and the Hugging Face hub does not give it: {_line(error)}. "
            "Check name and network, or download it elsewhere and give the folder"
        ) from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by their names there, on the CPU.

    Raises:
        UserError: there are no weights, a shard is missing or a file is torn.
    """
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{whole}.index.json"
        if (folder / whole).exists():
            return _read_file(folder / whole)
        if index.exists():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
                raise UserError(f"{index} has no 'weight_map' from weights to files")
            shards = sorted({Path(place).name for place in places.values()})
            missing = [name for name in shards if not (folder / name).exists()]
            if missing:
                raise UserError(f"'{folder}' lacks {first_names(missing)}, which {index.name} names")
            found: dict[str, Tensor] = {}
            for name in shards:
                found |= _read_file(folder / name)
            return found
    raise UserError(
        f"'{folder}' has no weights: neither model.safetensors nor pytorch_model.bin, nor an index of shards"
    )


def first_names(names: list[str]) -> str:
    """A few of them, and how many there are besides."""
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _read_file(path: Path) -> dict[str, Tensor]:
    _refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read, it may be torn: {_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise UserError(f"{path} holds no dictionary of weights")
    return found


def _refuse_pointer(path: Path) -> None:
    """Git without its LFS extension leaves three lines of text in place of a large file."""
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(
                f"{path} is a Git LFS pointer, not the weights themselves. Get them: "
                f"git lfs install && git -C {path.parent} lfs pull"
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_hook=_number)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return values


def _number(found: dict[str, Any]) -> Any:
    """transformers writes infinity, which JSON does not have, as `{"__float__": "Infinity"}`."""
    return float(found["__float__"]) if [*found] == ["__float__"] else found


def _line(error: Exception) -> str:
    """First line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
