"""A step of Adam without what torch looks up anew at each step: for a small network on a CPU that is most of it.

It calls the kernel of ``torch.optim.Adam(fused=True)`` with the same numbers: the weights are equal to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Prepared:
    """The lists that the kernel takes, made once.

    Args:
        optimizer: An Adam or AdamW that ``simple`` approves of, after its first step.
    """

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self.optimizer, (self.group,) = optimizer, optimizer.param_groups
        self.params: list[Tensor] = self.group["params"]
        states = [optimizer.state[p] for p in self.params]
        self.averages, self.squares = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq"))
        # counts of steps in one place, each a view of it: one addition serves them all
        self.steps = torch.stack([state["step"] for state in states])
        self.views = list(self.steps.unbind())
        for state, view in zip(states, self.views, strict=True):
            state["step"] = view
        # torch 2.6 has no such key
        decoupled = self.group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
        self.kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_

    def holds(self) -> bool:
        """Whether the optimizer's state is still the one that was prepared."""
        state = self.optimizer.state.get(self.params[0], {})
        return state.get("step") is self.views[0] and state.get("exp_avg") is self.averages[0]

    @torch.no_grad()
    def step(self) -> None:
        """The weights' update by their present gradients."""
        group, (beta1, beta2) = self.group, self.group["betas"]
        self.steps += 1
        self.kernel(
            self.params,
            [p.grad for p in self.params],  # type: ignore[misc]
            self.averages,
            self.squares,
            [],
            self.views,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


def simple(optimizer: Any) -> bool:
    """Whether its step is that one kernel: plain, fused, on a CPU, one group of weights, and nobody listens to it."""
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or len(optimizer.param_groups) != 1:
        return False
    group, listeners = (
        optimizer.param_groups[0],
        (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks),
    )
    return (
        group["fused"] is True
        and not (group["amsgrad"] or group["capturable"] or group["differentiable"] or isinstance(group["lr"], Tensor))
        and not any(listeners)
        and "step" not in vars(optimizer)  # a scheduler that counts its steps
        and all(p.grad is not None and p.dtype == torch.float32 and p.device.type == "cpu" for p in group["params"])
        and len(optimizer.state) == len(group["params"])
    )
