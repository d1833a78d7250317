"""How SynCoS' second stage goes from a gradient in x0 to the next x0. Kim et al., 2025, arXiv:2503.08605.

    picard   x0 <- x0 - rate * g                               to the fixed point x0 = D(mix(x0, eps, t))
    adamw    x0 <- x0 - rate * m / (sqrt(v) + 1e-8)            Loshchilov & Hutter, 2019, arXiv:1711.05101, Alg. 2,
             m, v: means of g and g^2 over .9 and .999         without weight decay, which would draw x0 to gray

Written out, since torch.optim loads torch's compiler first.
"""

from collections.abc import Callable
from math import sqrt

from torch import Tensor

Moments = tuple[Tensor, Tensor, int]
"""Means of the gradients and of their squares so far, and how many there were."""

Descent = Callable[[Tensor, Tensor, float, Moments | None], tuple[Tensor, Moments | None]]


def picard(x0: Tensor, g: Tensor, rate: float, past: Moments | None) -> tuple[Tensor, Moments | None]:
    return x0 - rate * g, None


def adamw(x0: Tensor, g: Tensor, rate: float, past: Moments | None) -> tuple[Tensor, Moments | None]:
    """`past` is None at first, and then what the iteration before gave."""
    m, v, k = (0.1 * g, 0.001 * g.square(), 1) if past is None else _gone_on(g, *past)
    step = (m / (1 - 0.9**k)) / (v.sqrt() / sqrt(1 - 0.999**k) + 1e-8)
    return x0 - rate * step, (m, v, k)


def _gone_on(g: Tensor, m: Tensor, v: Tensor, k: int) -> Moments:
    return m.lerp(g, 0.1), v.lerp(g.square(), 0.001), k + 1


DESCENTS: dict[str, Descent] = {"picard": picard, "adamw": adamw}
