"""Published Mamba weights in the Hugging Face format, from a folder or by hub name, for our own model.

    backbone.layers.N.mixer.conv1d.weight  →  backbone.blocks.N.conv.weight        and so on, one to one

Nothing is loaded that our model would compute differently, and no weight is left out or made up. A folder is
read without transformers; a hub name (`state-spaces/mamba-130m-hf`) needs the extra `hub`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from lgbench.errors import UserError
from lgbench.models.hub_files import find_folder, first_names, read_json, read_weights

_BLOCK = {
    "norm.weight": "norm.weight",
    "mixer.A_log": "A_log",
    "mixer.D": "D",
    "mixer.conv1d.weight": "conv.weight",
    "mixer.conv1d.bias": "conv.bias",
    "mixer.in_proj.weight": "in_proj.weight",
    "mixer.x_proj.weight": "x_proj.weight",
    "mixer.dt_proj.weight": "dt_proj.weight",
    "mixer.dt_proj.bias": "dt_proj.bias",
    "mixer.out_proj.weight": "out_proj.weight",
}
"""Their names within a layer, and ours within a block."""
_EMBEDDING, _HEAD = "backbone.embeddings.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaSizes:
    """What a checkpoint's `config.json` says of its model."""

    d_model: int
    num_layers: int
    d_state: int
    expand: int
    dt_rank: int
    conv_width: int
    norm_eps: float
    vocabulary: int

    def backbone_options(self) -> dict[str, Any]:
        """Parameters of the backbone `mamba`."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("d_model", "num_layers", "vocabulary")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """Weights by the names of `lgbench.models.model.Model` with a token interface, float32 on the CPU."""

    source: str
    sizes: MambaSizes
    state_dict: dict[str, Tensor]
    fingerprint: str
    """SHA-256 of sizes and weights, however they were spread over files."""

    def install(self, model: nn.Module) -> None:
        """Put the weights into a `Model`; a method's own trained parameters stay as they are.

        Raises:
            UserError: the model has other sizes, another vocabulary for instance.
        """
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


def read_sizes(source: str | Path) -> MambaSizes:
    """Sizes of a checkpoint, from its `config.json` alone.

    Raises:
        UserError: as in `load_pretrained`, weights aside.
    """
    return _read_config(find_folder(source, ["config.json"]))


def load_pretrained(source: str | Path) -> Pretrained:
    """Read a checkpoint.

    Weights are converted to float32, so `residual_in_fp32` holds whatever the configuration says.

    Args:
        source: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin` (or their shards
            and index), or a name on the Hugging Face hub.

    Raises:
        UserError: there is no such folder or hub name, it holds no Mamba or one that our model would compute
            differently, a file is missing or torn, or weights are missing, too many or of another shape.
    """
    folder = find_folder(source, ["config.json", "*.safetensors", "*.safetensors.index.json"])
    if not (folder / "model.safetensors").exists() and not list(folder.glob("*.safetensors*")):
        folder = find_folder(source, ["config.json", "*.bin", "*.bin.index.json"])
    sizes = _read_config(folder)
    found = read_weights(folder)
    if any(name.startswith("backbone.embedding.") for name in found):  # the hub's oldest checkpoints
        found[_EMBEDDING] = found.pop("backbone.embedding.weight")
    head = found.pop(_HEAD, None)
    problem = _differences(_expected_shapes(sizes), found)
    if not problem and head is not None and not torch.equal(head, found[_EMBEDDING]):
        problem = f"{_HEAD} differs from {_EMBEDDING}, which are one weight here"
    if problem:
        raise UserError(f"the checkpoint '{source}' does not fit its config.json: {problem}")
    names = our_names(sizes.num_layers)
    return Pretrained(
        source=str(source),
        sizes=sizes,
        state_dict={names[name]: weight.float() for name, weight in found.items()},
        fingerprint=_fingerprint(sizes, found),
    )


def our_names(num_layers: int) -> dict[str, str]:
    """The name in `Model` of every weight of a checkpoint."""
    names = {_EMBEDDING: "interface.embedding.weight", "backbone.norm_f.weight": "backbone.norm.weight"}
    for layer in range(num_layers):
        for theirs, ours in _BLOCK.items():
            names[f"backbone.layers.{layer}.{theirs}"] = f"backbone.blocks.{layer}.{ours}"
    return names


class _Config(BaseModel):
    """The part of `config.json` that matters here, with the defaults of the format."""

    hidden_size: int = Field(768, ge=1)
    num_hidden_layers: int = Field(32, ge=1)
    state_size: int = Field(16, ge=1)
    vocab_size: int = Field(50280, ge=1)
    conv_kernel: int = Field(4, ge=1)
    expand: int = Field(2, ge=1)
    time_step_rank: int | Literal["auto"] = "auto"
    layer_norm_epsilon: float = Field(1e-5, gt=0)
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    tie_word_embeddings: bool = True

    def lacking(self) -> list[str]:
        """What our model would compute differently, as `name=value (what it has)`."""
        ours = {"use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True}
        found = [
            f"{name}={str(getattr(self, name)).lower()} (only {str(value).lower()})"
            for name, value in ours.items()
            if getattr(self, name) != value
        ]
        if self.hidden_act not in ("silu", "swish"):
            found.append(f"hidden_act={self.hidden_act} (only silu)")
        return found


def _read_config(folder: Path) -> MambaSizes:
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"'{folder}' is no checkpoint in the Hugging Face format: it has no config.json")
    values = read_json(path)
    kind = values.get("model_type")
    if kind != "mamba":
        held = f"a model of type '{kind}'" if kind else "a model without a model_type"
        raise UserError(
            f"{path} describes {held}; only 'mamba' is loaded, for instance state-spaces/mamba-130m-hf"
        )
    try:
        config = _Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}: {'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}"
        ) from None
    if lacking := config.lacking():
        raise UserError(f"{path} asks for what this Mamba does not have: {', '.join(lacking)}")
    rank = config.time_step_rank
    return MambaSizes(
        d_model=config.hidden_size,
        num_layers=config.num_hidden_layers,
        d_state=config.state_size,
        expand=config.expand,
        dt_rank=math.ceil(config.hidden_size / 16) if rank == "auto" else rank,
        conv_width=config.conv_kernel,
        norm_eps=config.layer_norm_epsilon,
        vocabulary=config.vocab_size,
    )


def _expected_shapes(sizes: MambaSizes) -> dict[str, tuple[int, ...]]:
    d_model, d_inner, d_state, rank = (
        sizes.d_model,
        sizes.expand * sizes.d_model,
        sizes.d_state,
        sizes.dt_rank,
    )
    block = {
        "norm.weight": (d_model,),
        "mixer.A_log": (d_inner, d_state),
        "mixer.D": (d_inner,),
        "mixer.conv1d.weight": (d_inner, 1, sizes.conv_width),
        "mixer.conv1d.bias": (d_inner,),
        "mixer.in_proj.weight": (2 * d_inner, d_model),
        "mixer.x_proj.weight": (rank + 2 * d_state, d_inner),
        "mixer.dt_proj.weight": (d_inner, rank),
        "mixer.dt_proj.bias": (d_inner,),
        "mixer.out_proj.weight": (d_model, d_inner),
    }
    shapes = {_EMBEDDING: (sizes.vocabulary, d_model), "backbone.norm_f.weight": (d_model,)}
    for layer in range(sizes.num_layers):
        shapes |= {f"backbone.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


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


def _fingerprint(sizes: MambaSizes, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(asdict(sizes), sort_keys=True).encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
