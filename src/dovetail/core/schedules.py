"""How each family of networks names a point on the path.

Native latents are alpha * x0 + sigma * eps. Dividing by alpha + sigma gives our path, with
t = sigma / (alpha + sigma); so a schedule is a clock (`native`, `share`) and a `scale`.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A clock and a scale. Times are Python floats."""

    def scale(self, t: float) -> float:
        """alpha + sigma at noise share t: native latent = scale * path latent."""
        ...

    def native(self, t: float) -> float:
        """The time to tell the network at noise share t."""
        ...

    def share(self, native: float) -> float:
        """The share of noise t at a native time."""
        ...


@dataclass(frozen=True)
class Flow:
    """Rectified flow: already the straight path. `whole` truncates times, as UniPC does for Wan."""

    ticks: float = 1000.0
    whole: bool = False

    def scale(self, t: float) -> float:
        return 1.0

    def native(self, t: float) -> float:
        return float(int(t * self.ticks)) if self.whole else t * self.ticks

    def share(self, native: float) -> float:
        return native / self.ticks


@dataclass(frozen=True)
class VariancePreserving:
    """DDPM: alpha^2 + sigma^2 = 1, tabulated at integer timesteps (zero-based).

    Between two timesteps `whole` takes the nearer one; else time is a line in log-SNR, as k-diffusion's
    samplers have it.

    >>> sd = VariancePreserving.betas("scaled_linear", 0.00085, 0.012)
    >>> round(sd.alphas_cumprod[99], 4)
    0.8955
    """

    alphas_cumprod: tuple[float, ...] = field(repr=False)
    whole: bool = True

    @classmethod
    def betas(
        cls,
        shape: str,
        start: float = 1e-4,
        end: float = 0.02,
        steps: int = 1000,
        *,
        trained: tuple[float, ...] | None = None,
        snr_shift_scale: float = 1.0,
        zero_terminal_snr: bool = False,
    ) -> "VariancePreserving":
        """The schedule of a beta curve: "linear", "scaled_linear", "squaredcos_cap_v2" or `trained` values.

        `snr_shift_scale` is CogVideoX's: abar / (s + (1 - s) * abar). `zero_terminal_snr` rescales
        sqrt(abar) so that the last timestep is pure noise (Lin et al., 2023, arXiv:2305.08891, Alg. 1).
        """
        beta = _betas(shape, start, end, steps, trained)
        signal = torch.cumprod(1 - beta, 0)
        signal = signal / (snr_shift_scale + (1 - snr_shift_scale) * signal)
        if zero_terminal_snr:
            root = signal.sqrt()
            signal = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
        return cls(tuple(signal.tolist()))

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """t at each timestep, rising."""
        return tuple(_share(signal) for signal in self.alphas_cumprod)

    def scale(self, t: float) -> float:
        return 1.0 / math.hypot(1.0 - t, t)

    def native(self, t: float) -> float:
        shares = self.shares
        # Where schedulers leave some signal in pure noise (`schedule_of`), the timestep before it may have less.
        if t == shares[-1]:
            return float(len(shares) - 1)
        above = bisect_left(shares, t)
        if above == 0 or above == len(shares):
            return float(min(above, len(shares) - 1))
        low, high = shares[above - 1], shares[above]
        if self.whole:
            return float(above - 1 if t - low <= high - t else above)
        return float(above) if t == high else above - 1 + (_snr(low) - _snr(t)) / (_snr(low) - _snr(high))

    def share(self, native: float) -> float:
        last = len(self.shares) - 1
        if not 0 <= native <= last:
            raise ValueError(f"this schedule has the timesteps 0..{last}; {native:g} is none of them")
        if self.whole or native == int(native):
            return self.shares[round(native)]
        low, high = _snr(self.shares[int(native)]), _snr(self.shares[int(native) + 1])
        return 1 / (1 + math.exp(low + (high - low) * (native - int(native))))


@dataclass(frozen=True)
class VarianceExploding:
    """EDM: alpha = 1, and time is sigma itself, at most sigma_max."""

    sigma_max: float = 80.0

    def scale(self, t: float) -> float:
        return 1.0 + self.native(t)

    def native(self, t: float) -> float:
        return min(t / (1.0 - t), self.sigma_max) if t < 1.0 else self.sigma_max

    def share(self, native: float) -> float:
        return native / (1.0 + native)


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """Read a schedule from a diffusers scheduler config (the content of scheduler_config.json).

    Flow configs (`FlowMatchEuler...`, or `use_flow_sigmas`) give `Flow`, `ScoreSdeVe` gives
    `VarianceExploding`, all others their betas. Raises ValueError when the config names none of these.
    """
    name = str(config.get("_class_name", ""))
    if "FlowMatch" in name or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        # The multistep schedulers hold flow timesteps as int64, which truncates them.
        return Flow(float(config.get("num_train_timesteps", 1000)), whole="FlowMatch" not in name)
    if "ScoreSdeVe" in name:
        return VarianceExploding(float(config.get("sigma_max", 1348.0)))
    if config.get("timestep_type") == "continuous":
        raise ValueError(
            f"this scheduler config ({name}) tells the network log(sigma) / 4 for time (timestep_type: continuous), "
            "which no schedule here speaks; write one with `scale`, `native` and `share`"
        )
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ValueError(
            f"no schedule in this scheduler config ({name or 'no _class_name'}): "
            "it has neither beta_schedule nor trained_betas, and is no flow config"
        )
    trained = config.get("trained_betas")
    schedule = VariancePreserving.betas(
        config.get("beta_schedule", "linear"),
        config.get("beta_start", 1e-4),
        config.get("beta_end", 0.02),
        config.get("num_train_timesteps", 1000),
        trained=None if trained is None else tuple(trained),
        snr_shift_scale=config.get("snr_shift_scale", 3.0 if "CogVideoX" in name else 1.0),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
    # Schedulers that step in sigma keep it finite: they leave this much signal in pure noise.
    sparked = schedule.alphas_cumprod[-1] == 0 and any(family in name for family in STEP_IN_SIGMA)
    signal = (*schedule.alphas_cumprod[:-1], 2.0**-24) if sparked else schedule.alphas_cumprod
    return VariancePreserving(signal, whole="Euler" not in name)


STEP_IN_SIGMA = ("Euler", "DPMSolver", "UniPC")


def _betas(shape: str, start: float, end: float, steps: int, trained: tuple[float, ...] | None) -> Tensor:
    exact = torch.float64
    if trained is not None:
        return torch.tensor(trained, dtype=exact)
    if shape == "linear":
        return torch.linspace(start, end, steps, dtype=exact)
    if shape == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=exact).square()
    if shape == "squaredcos_cap_v2":
        time = torch.linspace(0, 1, steps + 1, dtype=exact)
        bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    raise ValueError(f"unknown beta_schedule {shape!r}; known: linear, scaled_linear, squaredcos_cap_v2")


def _snr(t: float) -> float:
    """log(alpha / sigma) at noise share t."""
    return math.log((1 - t) / t) if t < 1 else -math.inf


def _share(signal: float) -> float:
    alpha, sigma = math.sqrt(signal), math.sqrt(1.0 - signal)
    return sigma / (alpha + sigma)
