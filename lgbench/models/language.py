"""Input and output layers of the language tasks: one embedding, which is also the head unless untied.

token → row of W          logits = W h          Source: Press and Wolf, arXiv:1608.05859 (tied weights).

After `untie` the head has a matrix of its own.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.ops.linear_cross_entropy import LARGE, cross_entropies, summed_cross_entropy
from lgbench.task import Tensors

INIT_STD = 0.02
"""Of the embedding, as in the released Mamba."""


FINE_TUNED = dict(weight_decay=0.1, decay_all=True, adam_epsilon=1e-8, untied=True, fixed_length=True)
"""Fields of recipes for the fine-tunings of DeciMamba (Ben-Kish et al., arXiv:2406.14528, released code)."""
PAPER_MODEL = "state-spaces/mamba-130m-hf"
"""What they start from."""


class TokenInterface(nn.Module):
    """Tokens in, logits out.

    Args:
        vocabulary: number of different tokens.
        d_model: width of the backbone.
    """

    def __init__(self, vocabulary: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.head: nn.Linear | None = None
        nn.init.normal_(self.embedding.weight, std=INIT_STD)

    def untie(self) -> None:
        """Have a head of its own, which begins as the embedding."""
        vocabulary, d_model = self.embedding.weight.shape
        self.head = nn.Linear(d_model, vocabulary, bias=False)
        self.head.load_state_dict(self.embedding.state_dict())

    def context(self, context: Tensors) -> Tensor:
        """Embed `tokens` int64 `(batch, length)`."""
        return self.embedding(context["tokens"])

    def queries(self, queries: Tensors) -> Tensor:
        """Embed `tokens` int64 `(batch, num_query_tokens)`."""
        return self.embedding(queries["tokens"])

    def read(self, hidden: Tensor) -> Tensor:
        """Logits `(batch, length, vocabulary)`."""
        return F.linear(hidden, (self.head or self.embedding).weight)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, float32, of logits `(…, vocabulary)` and labels `(…)`; 0 where one is IGNORE."""
    losses = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
    return losses.view(labels.shape)


def read_and_judge(
    interface: nn.Module, hidden: Tensor, labels: Tensor, num_targets: int
) -> tuple[Tensor, Tensor]:
    """Logits of the last `num_targets` rows of `hidden`, and the summed loss of all labels, for training.

    With a large vocabulary the other logits are never in memory all at once.
    """
    if (head := _large_head(interface)) is None:
        logits = interface.read(hidden)
        return logits[:, -num_targets:], token_losses(logits, labels).sum()
    return interface.read(hidden[:, -num_targets:]), summed_cross_entropy(hidden, head, labels)


def losses_of_tokens(interface: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """`token_losses` of what the interface reads, without gradients where the vocabulary is large."""
    if (head := _large_head(interface)) is None:
        return token_losses(interface.read(hidden), labels)
    return cross_entropies(hidden, head, labels)


def _large_head(interface: nn.Module) -> Tensor | None:
    """The weights of a head of so many words that its logits should not all be kept."""
    if type(interface) is not TokenInterface:
        return None
    weight = (interface.head or interface.embedding).weight
    return weight if len(weight) >= LARGE else None


def answer_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each target `(batch, num_targets)`, scaled so that its mean is that over targets that exist."""
    losses, there = token_losses(logits, targets), targets >= 0
    return losses * (there.numel() / there.sum().clamp(min=1))


def answer_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Log2-probability `(batch,)` of whole answers `(batch, num_targets)`; IGNORE is certain."""
    return -token_losses(logits, targets).sum(dim=1) / math.log(2)


def all_right(logits: Tensor, targets: Tensor) -> Tensor:
    """1 where every target of an item is the likeliest token, else 0, `(batch, 1)`; IGNORE is right."""
    right = (logits.argmax(dim=-1) == targets) | (targets < 0)
    return right.all(dim=1, keepdim=True).float()
