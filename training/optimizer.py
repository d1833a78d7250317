"""How the trainers step: Muon for the networks' matrices, AdamW for all else.

Muon (torch.optim.Muon) moves a weight matrix by its orthogonalised momentum. A convolution's kernel
is seen as the matrix "out (in k k)". What is no matrix, and tables that are looked up, stay with AdamW.
"""

from typing import Any

import torch
from torch import nn

MUON, ADAMW = 1.2e-3, 1e-3
"""Rates; Muon's is matched to the size of AdamW's updates. At 3e-3 it lost to AdamW alone (docs/log.md)."""


class Optimizer:
    """Both optimisers over one network, stepped together."""

    def __init__(self, net: nn.Module) -> None:
        tables = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
        self.matrices = [p for p in net.parameters() if p.ndim >= 2 and id(p) not in tables]
        others = [p for p in net.parameters() if p.ndim < 2 or id(p) in tables]
        # Views of the same memory: an update of the view is an update of the parameter.
        self.views = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.matrices]
        self.muon = torch.optim.Muon(self.views, MUON, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, ADAMW, betas=(0.9, 0.99), weight_decay=0.01)

    def step(self, rate: float) -> None:
        """Step at a share of the full rates, and forget the gradients."""
        for optimizer, full in ((self.muon, MUON), (self.adamw, ADAMW)):
            for group in optimizer.param_groups:
                group["lr"] = rate * full
        for view, parameter in zip(self.views, self.matrices, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        self.muon.step()
        self.adamw.step()
        for parameter in self.matrices:
            parameter.grad = None
        self.adamw.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
