"""How the trainers step: Muon for the networks' matrices, AdamW for all else.

Muon moves a weight matrix by its orthogonalised momentum (Jordan, 2024, kellerjordan.github.io/posts/muon), at the
size of AdamW's updates (Liu et al., 2025, arXiv:2502.16982). A convolution's kernel is seen as the matrix
"out (in k k)". What is no matrix, and tables that are looked up, stay with AdamW.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MUON, ADAMW = 1.2e-3, 1e-3
"""Rates; Muon's is matched to the size of AdamW's updates. At 3e-3 it lost to AdamW alone (docs/log.md)."""


def orthogonalised(matrices: Tensor) -> Tensor:
    """Wide matrices "n short long" with their singular values brought near 1, by five Newton-Schulz steps in bfloat16.

    The polynomial is steepest at 0 and settles between 0.7 and 1.2, not at 1: that is enough for a direction.
    """
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with Nesterov momentum and adjust_lr_fn="match_rms_adamw", which steps the same way.

    That one takes matrix after matrix, and most of a small network's are too small to keep a core busy: here all of
    one shape, upright or lying, are one batch. It reads the other's state_dict.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            slopes = [p.grad.flatten(1) for p in moved]
            for p, slope in zip(moved, slopes, strict=True):
                self.state[p].setdefault("momentum_buffer", torch.zeros_like(slope))
            held = [self.state[p]["momentum_buffer"] for p in moved]
            torch._foreach_lerp_(held, slopes, 1 - group["momentum"])
            aims = torch._foreach_lerp(slopes, held, group["momentum"])
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for p, aim in zip(moved, aims, strict=True):
                alike[tuple(sorted(aim.shape))].append((p, aim))
            for (_, long), members in alike.items():
                ways = orthogonalised(torch.stack([lying(aim) for _, aim in members]))
                for (p, aim), way in zip(members, ways, strict=True):
                    way = way.T if upright(aim) else way
                    p.add_(way.reshape(p.shape), alpha=-group["lr"] * 0.2 * long**0.5)


def upright(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def lying(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever is wide; in bfloat16, to be copied but once."""
    return (matrix.T if upright(matrix) else matrix).bfloat16()


class Optimizer:
    """Both optimisers over one network, stepped together."""

    def __init__(self, net: nn.Module) -> None:
        tables = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in net.parameters() if p.ndim >= 2 and id(p) not in tables]
        others = [p for p in net.parameters() if p.ndim < 2 or id(p) in tables]
        self.muon = Muon(matrices, MUON, weight_decay=0.01)
        self.adamw = torch.optim.AdamW(others, ADAMW, betas=(0.9, 0.99), weight_decay=0.01)

    def step(self, rate: float) -> None:
        """Step at a share of the full rates, and forget the gradients."""
        for optimizer, full in ((self.muon, MUON), (self.adamw, ADAMW)):
            for group in optimizer.param_groups:
                group["lr"] = rate * full
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
