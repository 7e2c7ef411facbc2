"""Adam as the published recipes have it, with moments made in advance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgbench.task import Recipe


def adam_of(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """`adam` of a model; weight decay spares vectors and the logarithms of A, as in the released Mamba.

    With `decay_all` it spares nothing, as in the fine-tunings of DeciMamba.
    """
    parameters = list(model.parameters())
    groups: list[dict] = [{"params": parameters}]
    if recipe.weight_decay and recipe.decay_all:
        groups[0]["weight_decay"] = recipe.weight_decay
    elif recipe.weight_decay:
        spared = {id(p) for name, p in model.named_parameters() if p.ndim < 2 or name.endswith("A_log")}
        groups = [
            {"params": [p for p in parameters if id(p) not in spared], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if id(p) in spared]},
        ]
    return adam(groups, recipe, device)


def adam(groups: list[dict], recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """Adam with ε outside the root and decoupled weight decay.

    Args:
        groups: as PyTorch's optimisers take them.
        recipe: its learning rate and ε.
        device: of the parameters.
    """
    cuda = device.type == "cuda"
    lr = torch.tensor(recipe.learning_rate, device=device) if cuda else recipe.learning_rate
    optimizer = torch.optim.AdamW(
        groups, lr=lr, betas=(0.9, 0.999), eps=recipe.adam_epsilon, weight_decay=0.0, fused=True,
        capturable=cuda,
    )  # fmt: skip
    for group in groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with zero gradients: makes the moments, leaves the weights
    optimizer.zero_grad(set_to_none=True)
    for state in optimizer.state.values():
        state["step"].zero_()
    return optimizer


def set_rate(optimizer: torch.optim.AdamW, rate: float) -> None:
    """The learning rate of the next step, also where it is part of a captured graph."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
