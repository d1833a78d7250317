"""How windows share what they doubt: Stein variational gradients, as collaborative score distillation has them.

    d_ij = |x_i - x_j|^2,    gamma = ln(n + 1) / median d,    k_ij = exp(-gamma d_ij)
    G_i  = sum_j k_ij r_j - 2 gamma t sum_j k_ij (x_i - x_j)

Kim et al., 2023, arXiv:2307.04787, after Liu & Wang, 2016, arXiv:1608.04471; SynCoS' second stage (arXiv:2503.08605).
The second sum keeps windows apart. Readings of sign, median and units: docs/methods/syncos.md.
"""

from math import log

import torch
from einops import einsum
from torch import Tensor

KERNELS = ("stein", "mean", "common", "identity")


def couple(
    kernel: str, views: Tensor, doubts: Tensor, apart: float = 0.0, normalised: bool = True, bandwidth: float = 1.0
) -> Tensor:
    """What each of n windows is told to change: its own doubt and, by the kernel, the others'. "n c f h w".

    kernel: "stein"; "mean", all windows the same; "identity", each its own; "common" (ours), the mean over their frames as
    "mean" has it, and what departs from that each its own. views: the noisy windows, doubts: by how
    much x0 departs from what is seen in them, both "n c f h w". apart: weight of what keeps windows apart, their noise
    share. normalised: a window's weights add up to 1; else they are k_ij / n, as published. bandwidth: of a
    Stein kernel, as a multiple of the median rule's.
    """
    if kernel == "identity":
        return doubts
    if kernel == "mean":
        return doubts.mean(0, keepdim=True).expand_as(doubts)
    if kernel == "common":
        still = doubts.mean(2, keepdim=True)
        return doubts - still + still.mean(0, keepdim=True)
    k, gamma = stein(views, bandwidth)
    shared = einsum(k, doubts, "n m, m ... -> n ...")
    if apart:
        away = einsum(k.sum(1), views, "n, n ... -> n ...") - einsum(k, views, "n m, m ... -> n ...")
        shared = shared - 2 * apart * gamma * away
    return shared / (k.sum(1)[:, None, None, None, None] if normalised else len(k))


def stein(views: Tensor, bandwidth: float = 1.0) -> tuple[Tensor, Tensor]:
    """Radial kernel "n n" of the windows "n c f h w", and its gamma.

    The median is that of all n * n distances. Up to two windows have too many zeros among them for that: there it is the
    distance itself, which leaves k = 1 / (n + 1) off the diagonal, about what it is for any n. bandwidth: multiplies the median; a large one shares alike,
    a small one keeps to itself. Where the median is 0, as of windows that are all the same, all share alike.

    >>> stein(torch.randn(2, 4, 8, 4, 4))[0]
    tensor([[1.0000, 0.3333],
            [0.3333, 1.0000]])
    """
    rows = views.flatten(1)
    # Beyond 25 rows torch would go by a product, by which a row is apart from itself.
    square = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    median = square.median() if len(views) > 2 else square.max()
    if not median:
        return torch.ones_like(square), torch.zeros_like(median)
    gamma = log(len(views) + 1) / (bandwidth * median).clamp_min(torch.finfo(square.dtype).tiny)
    return torch.exp(-gamma * square), gamma
