"""What `config.json` of a published Mamba says: four formats, one description of sizes.

    model_type mamba, falcon_mamba         our backbone mamba
    model_type mamba2                      our backbone mamba2
    d_model, n_layer, ssm_cfg              either of them, in the original format of state-spaces

What our models would compute differently is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lgbench.errors import UserError
from lgbench.models.hub_files import read_json

Auto = Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a checkpoint's `config.json` says of its model."""

    backbone: str
    """The plugin that computes it."""
    d_model: int
    num_layers: int
    vocabulary: int
    tied: bool
    """Whether the embedding is also the head."""
    options: dict[str, Any]
    """Parameters of the backbone."""

    def numbers(self) -> dict[str, Any]:
        """All of it in one dictionary, which for a tied Mamba is that of the first version."""
        flat = {"d_model": self.d_model, "num_layers": self.num_layers, "vocabulary": self.vocabulary}
        untied = {} if self.tied else {"tied": False}
        other = {} if self.backbone == "mamba" else {"backbone": self.backbone}
        return flat | self.options | untied | other


def read_config(folder: Path) -> Sizes:
    """Sizes of the model that a folder holds.

    Raises:
        UserError: there is no `config.json`, it describes another family, or what ours computes differently.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"'{folder}' is no checkpoint: it has no config.json")
    values = read_json(path)
    kind = values.get("model_type")
    if kind is None and "d_model" in values and "n_layer" in values:
        return _read(_Original, values, path).sizes()
    if kind not in _KINDS:
        held = f"a model of type '{kind}'" if kind else "a model without a model_type"
        raise UserError(
            f"{path} describes {held}; only {', '.join(_KINDS)} and the original format of state-spaces are "
            "loaded. Models of other families run as a backbone: see docs/models.md"
        )
    return _read(_KINDS[kind], values, path).sizes()


def write_config(sizes: Sizes) -> dict[str, Any]:
    """The `config.json` in the Hugging Face format that `read_config` reads as these sizes."""
    options = sizes.options
    config = {
        "hidden_size": sizes.d_model,
        "num_hidden_layers": sizes.num_layers,
        "vocab_size": sizes.vocabulary,
        "state_size": options["d_state"],
        "expand": options["expand"],
        "conv_kernel": options["conv_width"],
        "layer_norm_epsilon": options["norm_eps"],
        "tie_word_embeddings": sizes.tied,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "torch_dtype": "float32",
    }
    if sizes.backbone == "mamba2":
        heads = options["expand"] * sizes.d_model // options["head_dim"]
        own = {"num_heads": heads, "head_dim": options["head_dim"], "n_groups": options["groups"]}
        return {"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"]} | config | own
    config |= {"time_step_rank": options["dt_rank"], "intermediate_size": options["expand"] * sizes.d_model}
    if "mixer_norm_eps" not in options:
        return {"model_type": "mamba", "architectures": ["MambaForCausalLM"]} | config
    kind = {"model_type": "falcon_mamba", "architectures": ["FalconMambaForCausalLM"]}
    return kind | config | {"mixer_rms_eps": options["mixer_norm_eps"]}


class _Config(BaseModel):
    """The part of `config.json` that all three have, with the defaults of the format."""

    model_config = ConfigDict(extra="ignore")

    hidden_size: int = Field(768, ge=1)
    num_hidden_layers: int = Field(32, ge=1)
    state_size: int = Field(16, ge=1)
    vocab_size: int = Field(50280, ge=1)
    conv_kernel: int = Field(4, ge=1)
    expand: int = Field(2, ge=1)
    layer_norm_epsilon: float = Field(1e-5, gt=0)
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    tie_word_embeddings: bool = True

    def lacking(self) -> list[str]:
        """What our models compute differently, as `name=value (what they have)`."""
        ours = {"use_bias": False, "use_conv_bias": True}
        found = [
            f"{name}={str(getattr(self, name)).lower()} (only {str(value).lower()})"
            for name, value in ours.items()
            if getattr(self, name) != value
        ]
        if self.hidden_act not in ("silu", "swish"):
            found.append(f"hidden_act={self.hidden_act} (only silu)")
        return found

    def _sizes(self, backbone: str, **options: Any) -> Sizes:
        common = {
            "d_state": self.state_size,
            "expand": self.expand,
            "conv_width": self.conv_kernel,
            "norm_eps": self.layer_norm_epsilon,
        }
        return Sizes(
            backbone=backbone,
            d_model=self.hidden_size,
            num_layers=self.num_hidden_layers,
            vocabulary=self.vocab_size,
            tied=self.tie_word_embeddings,
            options=common | options,
        )


class _Mamba(_Config):
    time_step_rank: int | Auto = "auto"

    def sizes(self) -> Sizes:
        return self._sizes("mamba", dt_rank=_rank(self.time_step_rank, self.hidden_size))


class _FalconMamba(_Mamba):
    mixer_rms_eps: float = Field(1e-6, gt=0)

    def sizes(self) -> Sizes:
        rank = _rank(self.time_step_rank, self.hidden_size)
        return self._sizes("mamba", dt_rank=rank, mixer_norm_eps=self.mixer_rms_eps)


class _Mamba2(_Config):
    hidden_size: int = Field(4096, ge=1)
    num_hidden_layers: int = Field(64, ge=1)
    state_size: int = Field(128, ge=1)
    vocab_size: int = Field(32768, ge=1)
    tie_word_embeddings: bool = False
    num_heads: int = Field(128, ge=1)
    head_dim: int = Field(64, ge=1)
    n_groups: int = Field(8, ge=1)
    time_step_limit: tuple[float, float] = (0.0, math.inf)

    def lacking(self) -> list[str]:
        found = super().lacking() + _limits("time_step_limit", self.time_step_limit)
        if self.num_heads * self.head_dim != self.expand * self.hidden_size:
            found.append(
                f"num_heads={self.num_heads} of head_dim={self.head_dim} "
                f"(only expand × hidden_size = {self.expand * self.hidden_size} together)"
            )
        if self.num_heads % self.n_groups:
            found.append(f"n_groups={self.n_groups} (only a divisor of num_heads={self.num_heads})")
        return found

    def sizes(self) -> Sizes:
        return self._sizes("mamba2", head_dim=self.head_dim, groups=self.n_groups)


class _Layer(BaseModel):
    """`ssm_cfg`: arguments of the released layers, with their defaults."""

    model_config = ConfigDict(extra="forbid")

    layer: Literal["Mamba1", "Mamba2"] = "Mamba1"
    d_state: int | None = Field(None, ge=1)
    d_conv: int = Field(4, ge=1)
    expand: int = Field(2, ge=1)
    dt_rank: int | Auto = "auto"
    headdim: int = Field(64, ge=1)
    ngroups: int = Field(1, ge=1)
    D_has_hdim: bool = False
    rmsnorm: bool = True
    norm_before_gate: bool = False
    bias: bool = False
    conv_bias: bool = True
    dt_limit: tuple[float, float] = (0.0, math.inf)
    # What follows is of the start of a training, or of how something is computed, and changes no number.
    chunk_size: int = 256
    use_fast_path: bool = True
    use_mem_eff_path: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init: str = "random"
    dt_scale: float = 1.0
    dt_init_floor: float = 1e-4
    A_init_range: tuple[float, float] = (1, 16)

    def lacking(self) -> list[str]:
        ours = {
            "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False, "bias": False, "conv_bias": True,
        }  # fmt: skip
        found = [
            f"ssm_cfg.{name}={str(getattr(self, name)).lower()} (only {str(value).lower()})"
            for name, value in ours.items()
            if getattr(self, name) != value
        ]
        return found + _limits("ssm_cfg.dt_limit", self.dt_limit)


class _Original(BaseModel):
    """`config.json` as the released models of state-spaces have it."""

    model_config = ConfigDict(extra="ignore")

    d_model: int = Field(ge=1)
    n_layer: int = Field(ge=1)
    vocab_size: int = Field(50277, ge=1)
    pad_vocab_size_multiple: int = Field(8, ge=1)
    ssm_cfg: _Layer = _Layer()
    attn_layer_idx: list[int] = []
    d_intermediate: int = 0
    rms_norm: bool = True
    tie_embeddings: bool = True

    def lacking(self) -> list[str]:
        found = self.ssm_cfg.lacking()
        if self.attn_layer_idx:
            found.append(f"attention in layers {self.attn_layer_idx} (none here)")
        if self.d_intermediate:
            found.append(f"d_intermediate={self.d_intermediate} (only 0: no MLP)")
        if not self.rms_norm:
            found.append("rms_norm=false (only true)")
        return found

    def sizes(self) -> Sizes:
        layer = self.ssm_cfg
        second = layer.layer == "Mamba2"
        options = {
            "d_state": layer.d_state or (128 if second else 16),
            "expand": layer.expand,
            "conv_width": layer.d_conv,
            "norm_eps": 1e-5,
        }
        own = (
            {"head_dim": layer.headdim, "groups": layer.ngroups}
            if second
            else {"dt_rank": _rank(layer.dt_rank, self.d_model)}
        )
        padding = -self.vocab_size % self.pad_vocab_size_multiple
        return Sizes(
            backbone="mamba2" if second else "mamba",
            d_model=self.d_model,
            num_layers=self.n_layer,
            vocabulary=self.vocab_size + padding,
            tied=self.tie_embeddings,
            options=options | own,
        )


_KINDS: dict[str, type[_Config]] = {"mamba": _Mamba, "mamba2": _Mamba2, "falcon_mamba": _FalconMamba}

_Kind = TypeVar("_Kind", _Config, _Original)


def _read(kind: type[_Kind], values: dict[str, Any], path: Path) -> _Kind:
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}: {'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}"
        ) from None
    if lacking := config.lacking():
        raise UserError(f"{path} asks for what our model does not have: {', '.join(lacking)}")
    return config


def _rank(asked: int | Auto, d_model: int) -> int:
    return math.ceil(d_model / 16) if asked == "auto" else asked


def _limits(name: str, limits: tuple[float, float]) -> list[str]:
    """Where Δ is cut off, which is nowhere here."""
    if limits[0] <= 0 and limits[1] == math.inf:
        return []
    return [f"{name}={list(limits)} (only [0, inf])"]
