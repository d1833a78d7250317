"""How sure a comparison is: the prompt is the unit, seeds are repetitions within it.

A `Cells` holds one number per method, prompt and seed; every method saw the same prompts, seeds and
noise, so differences are taken within a cell. Intervals resample prompts, then seeds inside each
(treating all videos as independent makes intervals too narrow); tests flip the signs of prompts' means.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds that hold it with the stated confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class Cells:
    """Numbers "method prompt seed"; a prompt has `counts` seeds, and what lies beyond is not looked at."""

    methods: tuple[str, ...]
    values: Tensor
    counts: Tensor

    @classmethod
    def of(cls, rows: Mapping[str, Mapping[tuple[int, int], float]]) -> "Cells":
        """From method -> (prompt, seed) -> number, over the cells that every method has.

        Raises ValueError when they have none in common.
        """
        shared = sorted(set.intersection(*(set(cells) for cells in rows.values())))
        if not shared:
            raise ValueError(f"no prompt and seed has results of all of: {', '.join(rows)}")
        prompts = sorted({prompt for prompt, _ in shared})
        seeds = [[cell for cell in shared if cell[0] == prompt] for prompt in prompts]
        counts = torch.tensor([len(cells) for cells in seeds])
        values = torch.zeros(len(rows), len(prompts), int(counts.max()), dtype=torch.float64)
        for m, found in enumerate(rows.values()):
            for p, cells in enumerate(seeds):
                values[m, p, : len(cells)] = torch.tensor([found[cell] for cell in cells], dtype=torch.float64)
        return cls(tuple(rows), values, counts)

    @property
    def prompts(self) -> Tensor:
        """The mean over each prompt's seeds, "method prompt"."""
        there = torch.arange(self.values.shape[2]) < self.counts[:, None]
        return (self.values * there).sum(2) / self.counts

    @property
    def means(self) -> Tensor:
        """The mean of each method over prompts, "method"; a prompt counts once, however many seeds it has."""
        return self.prompts.mean(1)

    def resampled(self, draws: int = 2000, seed: int = 0) -> Tensor:
        """Means "draw method" of this many resamplings: prompts, then seeds within each, the same for all methods."""
        generator = torch.Generator().manual_seed(seed)
        _, prompts, seeds = self.values.shape
        p = torch.randint(prompts, (draws, prompts), generator=generator)
        count = self.counts[p][..., None]
        s = (torch.rand(draws, prompts, seeds, generator=generator) * count).long()
        there = torch.arange(seeds) < count
        picked = (self.values[:, p[..., None], s] * there).sum(-1) / count[..., 0]
        return picked.mean(-1).T

    def interval(self, statistic: Callable[[Tensor], Tensor], confidence: float = 0.95, draws: int = 2000) -> Interval:
        """A statistic of the methods' means ("... method" -> "..."), with its percentile interval."""
        value = float(statistic(self.means))
        tail = (1 - confidence) / 2
        bounds = statistic(self.resampled(draws)).nan_to_num(0.0).quantile(torch.tensor([tail, 1 - tail]).double())
        return Interval(value, float(bounds[0]), float(bounds[1]))

    def mean(self, method: str) -> Interval:
        """The mean of a method."""
        at = self.methods.index(method)
        return self.interval(lambda means: means[..., at])

    def difference(self, one: str, other: str) -> Interval:
        """One method minus the other, paired."""
        a, b = self.methods.index(one), self.methods.index(other)
        return self.interval(lambda means: means[..., a] - means[..., b])

    def differences(self, one: str, other: str) -> list[float]:
        """One method minus the other, for each prompt."""
        a, b = self.methods.index(one), self.methods.index(other)
        found: list[float] = (self.prompts[a] - self.prompts[b]).tolist()
        return found


def wilson(share: float, n: float, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a share of n independent trials. Wilson, 1927.

    >>> print(wilson(0.5, 10))
    0.500 [0.237, 0.763]
    """
    if n <= 0 or not 0 <= share <= 1:
        raise ValueError(f"a share lies in [0, 1] and needs trials, not {share} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def sign_flip(differences: Sequence[float], draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of "these differences are as likely negated", one per prompt.

    Exact up to 12 prompts; else by random signs, of which the observed ones are one.

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    if not differences:
        raise ValueError("a sign-flip test needs one difference or more")
    values = torch.tensor(differences, dtype=torch.float64)
    if len(values) <= 12:
        signs = torch.tensor(list(product([1.0, -1.0], repeat=len(values))), dtype=torch.float64)
    else:
        coins = torch.randint(2, (draws, len(values)), generator=torch.Generator().manual_seed(seed))
        signs = torch.cat([torch.ones(1, len(values)), coins * 2.0 - 1]).double()
    # Sums that are equal but for rounding are equal.
    extreme = (signs @ values).abs() >= values.sum().abs() - 1e-12 * values.abs().sum()
    return float(extreme.double().mean())


def holm(p: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted so that one false alarm in the whole family is as rare. Holm, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p[i] * (len(p) - rank)))
        adjusted[i] = highest
    return adjusted
