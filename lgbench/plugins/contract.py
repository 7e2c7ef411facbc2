"""What a backbone must keep, asked of a small model before anything is trained; `lgbench check` shows it.

Every check is a function that returns what it found in words, or raises `Broken` with what is wrong and what
to do. Numbers are compared in the widest type that the module computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lgbench.backbone import Backbone
from lgbench.intervention import HOOKS, ScanIntervention
from lgbench.run.failures import ANY

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}
"""Largest difference that is rounding, of hidden states of size 1."""

BATCH, LENGTH = 3, 41
LONG = 300
"""Tokens of a longer trial, since a model may read long sequences in another way."""


class Broken(Exception):
    """A plugin does not keep its contract; the message says how, and what to do."""


class Verdict(NamedTuple):
    """What one check found."""

    check: str
    kept: bool
    found: str
    note: str = ""
    """What a user should know of a backbone that keeps its contract."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What the checks of one backbone share."""

    kind: type[Backbone]
    params: Mapping[str, Any]
    device: torch.device
    d_model: int
    dtype: torch.dtype
    notes: list[str] = field(default_factory=list)

    def model(self, num_layers: int | None = None, seed: int = 0) -> Backbone:
        """A small model in the type of this trial."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self.kind(
                d_model=self.d_model, num_layers=num_layers or 2 * self.kind.layers_multiple_of, **self.params
            )
        return made.to(self.device, self.dtype).eval().requires_grad_(False)

    def tokens(self, length: int = LENGTH, seed: int = 1) -> Tensor:
        """Normal numbers `(batch, length, d_model)`, equal on every device."""
        drawn = torch.randn(BATCH, length, self.d_model, generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.device, self.dtype)

    def same(self, one: Tensor, other: Tensor, what: str) -> str:
        """The largest difference in words.

        Raises:
            Broken: it is more than rounding.
        """
        found = (one - other).abs().max().item() if one.numel() else 0.0
        allowed = TOLERANCE[self.dtype]
        name = str(self.dtype).removeprefix("torch.")
        if not found <= allowed:
            raise Broken(f"{what}: they differ by {found:.1e}, more than {allowed:.0e} in {name}")
        return f"differ by {found:.0e} in {name}, up to {allowed:.0e} is rounding"


Check = Callable[[Trial], str]


def check_backbone(
    kind: type[Backbone],
    params: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
    d_model: int = 32,
) -> list[Verdict]:
    """Ask a backbone everything that its contract says; the first entry is whether it can be used at all.

    Args:
        kind: the class of the plugin.
        params: parameters that differ from its defaults.
        device: where; the CPU if left out.
        d_model: width of the small models.
    """
    device = device or torch.device("cpu")
    try:
        trial = _widest(Trial(kind, params or {}, device, d_model, kind.widest))
    except ANY as error:  # the code of a plugin may fail in any way
        return [Verdict("it computes", False, explain(error) + _elsewhere(error, device))]
    found = []
    for name, check in {**_ALWAYS, **(_CAUSAL if kind.layout == "causal" else {})}.items():
        found.append(_verdict(name, check, trial))
        if name == "finite" and not found[-1].kept:
            break  # numbers that are none cannot be compared
    return found


def _verdict(name: str, check: Check, trial: Trial) -> Verdict:
    try:
        with torch.no_grad():
            found = check(trial)
        return Verdict(name, True, found, trial.notes.pop() if trial.notes else "")
    except ANY as error:
        return Verdict(name, False, explain(error))


def explain(error: BaseException) -> str:
    """An exception as a verdict's words."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, Broken) else f"{type(error).__name__}: {text}"


def _elsewhere(error: Exception, device: torch.device) -> str:
    """What to do where a module asks for a GPU and runs on the CPU; empty if that is not the reason."""
    words = str(error).lower()
    if device.type == "cuda" or not any(word in words for word in ("cuda", "nvidia", "triton")):
        return ""
    return "; it needs CUDA and was asked to run on the CPU: take --device cuda, or leave .cuda() out"


def _widest(wide: Trial) -> Trial:
    """The trial itself where the module takes its type, else one in float32."""
    try:
        with torch.no_grad():
            _answer(wide.model(), wide.tokens())
        return wide
    except ANY:
        narrow = replace(wide, dtype=torch.float32)
        with torch.no_grad():
            _answer(narrow.model(), narrow.tokens())
        return narrow


def _answer(model: Backbone, tokens: Tensor, asked: int = 4, **more: Any) -> Tensor:
    change = more.pop("intervention", None) or ScanIntervention()
    context, queries = tokens[:, : tokens.shape[1] - asked], tokens[:, tokens.shape[1] - asked :]
    return model.answer(context, queries, mode="score", intervention=change, **more)


def _advance(model: Backbone, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> Any:
    return model.advance(tokens, mode="prefill", state=state, mask=mask, intervention=ScanIntervention())


def _shape(trial: Trial) -> str:
    for length in (5, LENGTH):
        tokens = trial.tokens(length)
        hidden = _answer(trial.model(), tokens)
        if hidden.shape != tokens[:, :4].shape:
            raise Broken(
                f"{length} tokens, 4 of them read, gave {list(hidden.shape)} instead of "
                f"{[BATCH, 4, trial.d_model]}; a mixer gives as many tokens, of the same width, as it takes"
            )
    return "as many tokens as it takes, of the same width"


def _finite(trial: Trial) -> str:
    hidden = _answer(trial.model(), trial.tokens())
    if not hidden.isfinite().all():
        raise Broken(
            f"{int((~hidden.isfinite()).sum())} hidden numbers of a fresh model are NaN or infinite; "
            "look for divisions, logarithms and exponentials that need a limit, and for weights never set"
        )
    return "no NaN"


def _seed(trial: Trial) -> str:
    first, again, other = (trial.model(seed=seed).state_dict() for seed in (1, 1, 2))
    moved = [name for name in first if not torch.equal(first[name], again[name])]
    if moved:
        raise Broken(f"{moved[0]} differs between two models of one seed; draw from torch's generator alone")
    if all(torch.equal(first[name], other[name]) for name in first):
        return f"{len(first)} tensors, which do not depend on the seed"
    return f"{len(first)} tensors"


def _apart(trial: Trial) -> str:
    model, tokens = trial.model(), trial.tokens()
    other = torch.cat([trial.tokens(seed=2)[:1], tokens[1:]])
    one, two = (_answer(model, t)[1:] for t in (tokens, other))
    return trial.same(
        one, two, "the same items beside another first one; tensors are (batch, length, d_model): batch_first"
    )


def _depth(trial: Trial) -> str:
    step = trial.kind.layers_multiple_of
    counts = [sum(p.numel() for p in trial.model(step * n).parameters()) for n in (2, 3)]
    if counts[0] >= counts[1]:
        raise Broken(
            f"{2 * step} and {3 * step} layers have {counts[0]:,} and {counts[1]:,} parameters; "
            "use num_layers"
        )
    return f"{counts[0]:,} parameters with {2 * step}, {counts[1]:,} with {3 * step} layers"


def _device(trial: Trial) -> str:
    model = trial.model()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    wrong = [name for name, t in tensors if t.device.type != trial.device.type]
    if wrong:
        raise Broken(f"{wrong[0]} is not on {trial.device}; make it a parameter or a buffer")
    _answer(model, trial.tokens())
    return str(trial.device)


def _hooks(trial: Trial) -> str:
    unknown = trial.kind.hooks - {*HOOKS}
    if unknown:
        raise Broken(f"no hook is called {', '.join(sorted(unknown))}; there are {', '.join(HOOKS)}")
    model, silent = trial.model(), []
    for hook in sorted(trial.kind.hooks - {"state"}):
        heard = _listener(hook)
        _answer(model, trial.tokens(), intervention=heard)
        if not heard.heard:
            silent.append(hook)
    if silent:
        raise Broken(f"it names {', '.join(silent)} in `hooks` and never calls it")
    return ", ".join(sorted(trial.kind.hooks)) or "none"


def _listener(hook: str) -> Any:
    """An intervention that overrides one hook, changes nothing and notes that it was called."""
    original = getattr(ScanIntervention, hook)

    def listen(self: Any, *given: Any, **named: Any) -> Any:
        self.heard = True
        return original(self, *given, **named)

    return type("Listener", (ScanIntervention,), {hook: listen, "heard": False})()


def _reports(trial: Trial) -> str:
    model = trial.model()
    _answer(model, trial.tokens())
    name = model.backend_name(trial.tokens(1), frozenset())
    if not isinstance(name, str) or not name:
        raise Broken(f"backend_name gave {name!r}, expected a word such as 'torch'")
    if trial.kind.layout == "causal":
        _advance(model, trial.tokens())
        if not isinstance(model.processed, tuple) or {*model.processed} != {LENGTH}:
            raise Broken(f"processed is {model.processed!r}, expected a number of tokens for each layer")
    return f"back end {name}"


def _causal(trial: Trial) -> str:
    model, found = trial.model(), ""
    for length in (LENGTH, LONG):
        tokens, cut = trial.tokens(length), length // 2
        other = torch.cat([tokens[:, :cut], trial.tokens(length, seed=2)[:, cut:]], dim=1)
        one, two = (_advance(model, t).hidden[:, :cut] for t in (tokens, other))
        found = trial.same(
            one,
            two,
            f"the first {cut} of {length} tokens under two futures; a token may see earlier ones only",
        )
    return found


def _pieces(trial: Trial) -> str:
    model, tokens = trial.model(), trial.tokens()
    whole, state, rows = _answer(model, tokens, asked=LENGTH), None, []
    for start, stop in ((0, 1), (1, 18), (18, 20), (20, LENGTH)):
        out = _advance(model, tokens[:, start:stop], state)
        rows, state = [*rows, out.hidden], out.state
    if model.notice:
        trial.notes.append(model.notice)
    return trial.same(torch.cat(rows, dim=1), whole, "the whole, and the same in pieces; see `step`")


def _masked(trial: Trial) -> str:
    model, tokens = trial.model(), trial.tokens()
    mask = (torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(3)) > 0.4).to(trial.device)
    found = _advance(model, tokens, None, mask)
    asked, alone = trial.tokens(4, seed=4), []
    after = _advance(model, asked, found.state).hidden
    for row in range(BATCH):
        real = tokens[row : row + 1, mask[row]]
        alone.append(_advance(model, asked[row : row + 1], _advance(model, real).state).hidden)
    return trial.same(after, torch.cat(alone), "with masked tokens, and without these tokens")


def _kept(trial: Trial) -> str:
    model, tokens = trial.model(), trial.tokens()
    state = _advance(model, tokens).state
    first = _advance(model, trial.tokens(7, seed=5), state).hidden
    _advance(model, trial.tokens(9, seed=6), state)
    again = _advance(model, trial.tokens(7, seed=5), state).hidden
    if not torch.equal(first, again):
        raise Broken(
            "a state that was continued once gives something else the second time: copy, then change"
        )
    return "a state may be continued again"


_ALWAYS: dict[str, Check] = {
    "length kept": _shape,
    "finite": _finite,
    "same seed, same weights": _seed,
    "items apart": _apart,
    "depth respected": _depth,
    "device": _device,
    "hooks exist and act": _hooks,
    "reports": _reports,
}
_CAUSAL: dict[str, Check] = {
    "causal": _causal,
    "pieces = whole": _pieces,
    "masked = absent": _masked,
    "state not changed in place": _kept,
}
