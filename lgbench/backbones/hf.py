"""A causal model of transformers, by the folder of its config.json or its name on the hub.

It reads our embedded tokens through `inputs_embeds`; its own embedding and head are left out, its norms and
residuals stay. `d_model` and `num_layers` are those of the run, other sizes those of the configuration.
"hf:FOLDER[pretrained=true]" starts from the weights of its first layers.
Source: Wolf et al., arXiv:1910.03771.
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lgbench.backbone import Backbone
from lgbench.data.paths import user_path
from lgbench.errors import UserError
from lgbench.models.borrowed import Borrowed, params_of, put_together, taken_apart
from lgbench.models.hub_files import find_folder, read_json

REQUIRES = ("transformers",)

WEIGHTS = ("*.safetensors", "*.bin")
OURS = frozenset(
    {"hidden_size", "num_hidden_layers", "vocab_size", "use_cache", "model_type", "transformers_version"}
    | {"dtype", "torch_dtype", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"}
)
"""What of a configuration is no parameter: decided by the run, or without effect here."""


class Hf(Borrowed):
    """A family: `member` gives the backbone of one configuration."""

    class Params(Backbone.Params):
        """Of every member; the numbers of its configuration come with them."""

        pretrained: bool = Field(False, description="whether to start from the weights of the folder")

    library: ClassVar[str] = "transformers"
    folder: ClassVar[Path]
    source: ClassVar[str]

    @classmethod
    def member(cls, name: str) -> type[Backbone]:
        """The backbone of a configuration, whose numbers are its parameters.

        Raises:
            ValueError: there is none, or transformers does not know it.
        """
        if not name:
            raise ValueError('is a family, name a folder or a model of the hub: "hf:FOLDER"')
        try:
            folder = find_folder(name, ["config.json"])
            values = read_json(folder / "config.json")
            config = _configuration(values, name)
        except UserError as error:
            raise ValueError(f"cannot use '{name}': {error}") from None
        alias = {theirs: common for common, theirs in config.attribute_map.items()}
        known = {key: v for key, v in values.items() if key[0] != "_" and alias.get(key, key) not in OURS}
        params = params_of("HfParams", known, cls.Params, f"{config.model_type} of transformers")
        content = _digest(folder) if user_path(name).is_dir() else f"{name} {folder.name}"
        made = {"folder": folder, "source": name, "Params": params, "content": content}
        return type("HfMember", (cls,), made)

    def stack(self, d_model: int, num_layers: int) -> nn.Module:
        """The trunk of the model.

        Raises:
            ValueError: transformers cannot make it in these sizes.
        """
        from transformers import AutoModel

        changed = {key: v for key, v in self.params if v != type(self.params).model_fields[key].default}
        pretrained = changed.pop("pretrained", False)
        values = read_json(self.folder / "config.json")
        own = _configuration(values, self.source)
        if pretrained and changed:
            raise ValueError(f"{', '.join(changed)} cannot be changed with pretrained=true")
        if pretrained and (own.hidden_size != d_model or own.num_hidden_layers < num_layers):
            raise ValueError(
                f"the weights of '{self.source}' have width {own.hidden_size} and {own.num_hidden_layers} "
                f"layers: give --d-model {own.hidden_size} and --num-layers, at most {own.num_hidden_layers}"
            )
        for key, value in values.items():  # one entry a layer, such as its type
            if isinstance(value, list) and len(value) == own.num_hidden_layers:
                values[key] = (value * num_layers)[:num_layers]
        own_names = {key: own.attribute_map.get(key, key) for key in ("hidden_size", "num_hidden_layers")}
        sizes = {own_names["hidden_size"]: d_model, own_names["num_hidden_layers"]: num_layers}
        config = _configuration({**values, **changed, **sizes}, self.source)
        try:
            if pretrained:
                folder = find_folder(self.source, ["*.json", *WEIGHTS])
                model = AutoModel.from_pretrained(folder, config=config)
            else:
                model = AutoModel.from_config(config)
        except Exception as error:  # whatever a model says of its sizes
            raise ValueError(f"transformers cannot make '{self.source}': {_line(error)}") from error
        model.set_input_embeddings(nn.Identity())
        return _Trunk(model.float())

    def step(self, mixer: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Continue from a cache that was taken apart; the library may change its copy in place."""
        given = {} if state is None else {mixer.cache: put_together(state)}
        out = mixer.model(inputs_embeds=x, use_cache=True, **given)
        return out.last_hidden_state, taken_apart(getattr(out, mixer.cache))


class _Trunk(nn.Module):
    """`(batch, length, d_model)` to the same; `cache` is what its forward calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        taken = inspect.signature(model.forward).parameters
        self.cache = "cache_params" if "cache_params" in taken else "past_key_values"

    def forward(self, x: Tensor) -> Tensor:
        return self.model(inputs_embeds=x, use_cache=False).last_hidden_state


def _configuration(values: dict[str, Any], name: str) -> Any:
    """The configuration as transformers knows it; code that a folder brings along is not run."""
    from transformers import AutoConfig

    try:
        kind = values["model_type"]
        return AutoConfig.for_model(kind, **{key: v for key, v in values.items() if key != "model_type"})
    except KeyError:
        raise UserError("its config.json names no model_type") from None
    except Exception as error:  # an unknown type, or numbers that do not go together
        raise UserError(f"transformers refuses its config.json: {_line(error)}") from None


def _digest(folder: Path) -> str:
    """SHA-256 of configuration and weights, 16 hex digits, and the version of what computes them."""
    import transformers

    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(p for pattern in WEIGHTS for p in folder.glob(pattern))]:
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{digest.hexdigest()[:16]} transformers {transformers.__version__}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
