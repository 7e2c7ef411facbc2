"""Published weights of Mamba, Falcon Mamba and Mamba-2, from a folder or by hub name, for our own models.

    backbone.layers.N.mixer.conv1d.weight  →  backbone.blocks.N.conv.weight        and so on, one to one

Read are the Hugging Face format and the original one of state-spaces. Nothing is loaded that our model would
compute differently, and no weight is left out or made up. A folder is read without transformers; a hub name
(`state-spaces/mamba-130m-hf`) needs the extra `hub`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgbench.errors import UserError
from lgbench.models.hub_config import Sizes, read_config
from lgbench.models.hub_files import find_folder, first_names, read_weights

_MIXER = {
    "norm.weight": "norm.weight",
    "mixer.A_log": "A_log",
    "mixer.D": "D",
    "mixer.conv1d.weight": "conv.weight",
    "mixer.conv1d.bias": "conv.bias",
    "mixer.in_proj.weight": "in_proj.weight",
    "mixer.out_proj.weight": "out_proj.weight",
}
BLOCK_NAMES = {
    "mamba": _MIXER
    | {
        "mixer.x_proj.weight": "x_proj.weight",
        "mixer.dt_proj.weight": "dt_proj.weight",
        "mixer.dt_proj.bias": "dt_proj.bias",
    },
    "mamba2": _MIXER | {"mixer.dt_bias": "dt_bias", "mixer.norm.weight": "gated_norm.weight"},
}
"""For each of our backbones: names within a layer of a checkpoint, and ours within a block."""
EMBEDDING, HEAD = "backbone.embeddings.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """Weights by the names of `lgbench.models.model.Model` with a token interface, float32 on the CPU."""

    source: str
    sizes: Sizes
    state_dict: dict[str, Tensor]
    fingerprint: str
    """SHA-256 of sizes and weights, however they were spread over files."""

    def install(self, model: nn.Module) -> None:
        """Put the weights into a `Model`; a method's own trained parameters stay as they are.

        A head of its own is given to the interface, which begins with that of the embedding.

        Raises:
            UserError: the model has other sizes, another vocabulary for instance.
        """
        if not self.sizes.tied:
            model.interface.untie()
        own = {name: t for name, t in model.state_dict().items() if not name.startswith("trained.")}
        problem = _differences({name: t.shape for name, t in own.items()}, self.state_dict)
        if problem:
            raise UserError(f"the weights of '{self.source}' do not fit this model: {problem}")
        model.load_state_dict(self.state_dict, strict=False)


_kept: dict[str, Pretrained] = {}


def keep(checkpoint: Pretrained) -> str:
    """Have a checkpoint at hand in this process; returns its fingerprint, by which plans name it."""
    _kept[checkpoint.fingerprint] = checkpoint
    return checkpoint.fingerprint


def kept(fingerprint: str) -> Pretrained:
    """The checkpoint that `keep` was given.

    Raises:
        LookupError: there is none of this fingerprint.
    """
    return _kept[fingerprint]


def read_sizes(source: str | Path) -> Sizes:
    """Sizes of a checkpoint, from its `config.json` alone.

    Raises:
        UserError: as in `load_pretrained`, weights aside.
    """
    return read_config(find_folder(source, ["config.json"]))


def load_pretrained(source: str | Path) -> Pretrained:
    """Read a checkpoint.

    Weights are converted to float32, so `residual_in_fp32` holds whatever the configuration says.

    Args:
        source: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin` (or their shards
            and index), or a name on the Hugging Face hub.

    Raises:
        UserError: there is no such folder or hub name, it holds another family or a model that ours would
            compute differently, a file is missing, torn or only a pointer, or weights are missing, too many
            or of another shape.
    """
    folder = find_folder(source, ["config.json", "*.safetensors", "*.safetensors.index.json"])
    if not (folder / "model.safetensors").exists() and not list(folder.glob("*.safetensors*")):
        folder = find_folder(source, ["config.json", "*.bin", "*.bin.index.json"])
    sizes = read_config(folder)
    found = read_weights(folder)
    if "backbone.embedding.weight" in found:  # the original format, and the hub's oldest checkpoints
        found[EMBEDDING] = found.pop("backbone.embedding.weight")
    head = found.pop(HEAD, None) if sizes.tied else None
    problem = _differences(_expected_shapes(sizes), found)
    if not problem and head is not None and not torch.equal(head, found[EMBEDDING]):
        problem = f"{HEAD} differs from {EMBEDDING}, and config.json says that they are one"
    if problem:
        raise UserError(f"the checkpoint '{source}' does not fit its config.json: {problem}")
    names = our_names(sizes)
    return Pretrained(
        source=str(source),
        sizes=sizes,
        state_dict={names[name]: weight.float() for name, weight in found.items()},
        fingerprint=_fingerprint(sizes, found),
    )


def our_names(sizes: Sizes) -> dict[str, str]:
    """The name in `Model` of every weight of a checkpoint."""
    names = {EMBEDDING: "interface.embedding.weight", "backbone.norm_f.weight": "backbone.norm.weight"}
    if not sizes.tied:
        names[HEAD] = "interface.head.weight"
    for layer in range(sizes.num_layers):
        for theirs, ours in BLOCK_NAMES[sizes.backbone].items():
            names[f"backbone.layers.{layer}.{theirs}"] = f"backbone.blocks.{layer}.{ours}"
    return names


def _expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    d_model, options = sizes.d_model, sizes.options
    block = {"norm.weight": (d_model,)} | (_mamba if sizes.backbone == "mamba" else _mamba2)(d_model, options)
    shapes = {EMBEDDING: (sizes.vocabulary, d_model), "backbone.norm_f.weight": (d_model,)}
    if not sizes.tied:
        shapes[HEAD] = (sizes.vocabulary, d_model)
    for layer in range(sizes.num_layers):
        shapes |= {f"backbone.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _mamba(d_model: int, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d_inner, d_state, rank = options["expand"] * d_model, options["d_state"], options["dt_rank"]
    return {
        "mixer.A_log": (d_inner, d_state),
        "mixer.D": (d_inner,),
        "mixer.conv1d.weight": (d_inner, 1, options["conv_width"]),
        "mixer.conv1d.bias": (d_inner,),
        "mixer.in_proj.weight": (2 * d_inner, d_model),
        "mixer.x_proj.weight": (rank + 2 * d_state, d_inner),
        "mixer.dt_proj.weight": (d_inner, rank),
        "mixer.dt_proj.bias": (d_inner,),
        "mixer.out_proj.weight": (d_model, d_inner),
    }


def _mamba2(d_model: int, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d_inner = options["expand"] * d_model
    heads, width = d_inner // options["head_dim"], d_inner + 2 * options["groups"] * options["d_state"]
    return {
        "mixer.A_log": (heads,),
        "mixer.D": (heads,),
        "mixer.dt_bias": (heads,),
        "mixer.conv1d.weight": (width, 1, options["conv_width"]),
        "mixer.conv1d.bias": (width,),
        "mixer.in_proj.weight": (d_inner + width + heads, d_model),
        "mixer.norm.weight": (d_inner,),
        "mixer.out_proj.weight": (d_model, d_inner),
    }


def _differences(expected: dict[str, Any], found: dict[str, Tensor]) -> str:
    """What is missing, too much or of another shape; empty if nothing is."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    shaped = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    kinds = {"missing": missing, "not expected": extra, "of another shape": shaped}
    return "; ".join(f"{len(names)} {kind}: {first_names(names)}" for kind, names in kinds.items() if names)


def _fingerprint(sizes: Sizes, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(sizes.numbers(), sort_keys=True).encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
