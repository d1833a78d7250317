"""Ladders out of diffusers' scheduler configs: the levels a stock pipeline would visit.

Only a scheduler's plan is read, never its `step`: most of them keep hidden state there.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from difflib import get_close_matches
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import Any

import diffusers
import numpy

from dovetail.core.ladders import Ladder
from dovetail.core.schedules import Flow, Schedule, schedule_of
from dovetail.errors import RecipeError
from dovetail.experts.soundness import making

BY_TIMESTEP = frozenset(
    [
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMScheduler",
        "DDPMScheduler",
        "LCMScheduler",
        "PNDMScheduler",
        "TCDScheduler",
    ]
)
"""Schedulers whose plan is a list of timesteps. PNDM visits one twice; its ladder has it once."""

BY_SIGMA = frozenset(
    [
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "UniPCMultistepScheduler",
    ]
)
"""Schedulers whose plan is a list of sigmas: shares of noise in a flow, else sigma / alpha."""

IN_SIGMA = frozenset(["EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"])
"""Schedulers whose latents are x0 + sigma * eps."""


def ladder_of(
    config: Mapping[str, Any],
    steps: int,
    *,
    shift: float | None = None,
    mu: float | None = None,
    tokens: int | None = None,
    even: bool = False,
) -> Ladder:
    """The ladder that a pipeline with this scheduler config walks in so many steps.

    config: the content of scheduler_config.json, or `dict(scheduler.config)` with `_class_name`.
    shift: replaces a flow config's `shift` or `flow_shift`. mu: the log shift of a config with
    `use_dynamic_shifting`, which its pipeline computes from the size of the latent; or `tokens`, that
    size, which `mu_of` makes it from. even: the pipeline (LTX-Video's is one) gives the scheduler the
    sigmas 1, .., 2 / steps, 1 / steps to shift, and does not leave their spacing to it.

    The first latent is what the pipeline makes of unit noise: `init_noise_sigma` times it, in the
    family's latents. A last level above 0 (`set_alpha_to_one: false`, `final_sigmas_type:
    sigma_min`) is the noise that such a pipeline leaves in its result; where it would make a last step
    to the level it stands on, the ladder ends at 0 instead.
    Raises ValueError for a scheduler or a plan that cannot be read, and for shifts it does not know; WeightsError for a
    config of which diffusers makes no scheduler.
    """
    if steps < 1:
        raise ValueError(f"a ladder has one step or more, not {steps}")
    name = _readable(config)
    schedule = schedule_of(config)
    if mu is None and tokens is not None and config.get("use_dynamic_shifting"):
        with _making(name):
            mu = mu_of(config, tokens)
    scheduler = _planned(name, config, steps, shift, mu, even)
    times = [float(time) for time in scheduler.timesteps]
    if name in BY_TIMESTEP:
        # For some counts of steps, 61 for one, trailing timesteps run on to -1, which is none.
        shares = [schedule.share(time) for time, _ in groupby(times) if time >= 0]
        rest = 0.0 if getattr(scheduler, "final_alpha_cumprod", 1.0) == 1 else schedule.share(0)
    else:
        *shares, rest = (_share(schedule, float(sigma)) for sigma in scheduler.sigmas)
        shares = [_heard(schedule, t, time) for t, time in zip(shares, times, strict=True) if time >= 0]
    start = shares[0]
    # Euler's latents are x0 + sigma * eps, whatever the network is shown.
    scale = 1 / (1 - start) if name in IN_SIGMA else schedule.scale(start)
    first = float(getattr(scheduler, "init_noise_sigma", 1.0)) / scale
    return Ladder((*shares, rest if rest < shares[-1] else 0.0), first)


def mu_of(config: Mapping[str, Any], tokens: int) -> float:
    """The log shift for a latent of so many tokens: a line through the config's two sizes, as LTXPipeline draws it.

    >>> mu_of({"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096}, 4096)
    2.05
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - base) / (high - low)
    return float(tokens * slope + (base - slope * low))


def _readable(config: Mapping[str, Any]) -> str:
    """The scheduler's class name, if its plan is one that we can read."""
    name, known = str(config.get("_class_name", "")), sorted(BY_TIMESTEP | BY_SIGMA)
    if not name:
        raise ValueError("this scheduler config has no _class_name, so its plan is unknown; known: " + ", ".join(known))
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no ladder can be read from a {name}{hint}; known: " + ", ".join(known))
    if config.get("invert_sigmas"):
        raise ValueError(f"this {name} counts noise backwards (invert_sigmas), which no schedule here speaks")
    if name == "PNDMScheduler" and not config.get("skip_prk_steps"):
        raise ValueError("a PNDMScheduler that begins with Runge-Kutta steps (skip_prk_steps: false) goes up and down")
    return name


def _planned(
    name: str, config: Mapping[str, Any], steps: int, shift: float | None, mu: float | None, even: bool
) -> Any:
    """The scheduler with its timesteps set."""
    changes = {}
    if shift is not None:
        key = "shift" if "FlowMatch" in name else "flow_shift"
        if not isinstance(schedule_of(config), Flow) or config.get("use_dynamic_shifting"):
            raise ValueError(f"shift fits a flow config with a static shift, which this {name} is not")
        changes[key] = shift
    dynamic = bool(config.get("use_dynamic_shifting"))
    if dynamic != (mu is not None):
        wants = "needs mu, the log of its shift" if dynamic else "takes no mu: it does not shift dynamically"
        raise ValueError(f"this {name} {wants} (use_dynamic_shifting is {str(dynamic).lower()})")
    kind = getattr(diffusers, name)
    told: dict[str, Any] = {} if mu is None else {"mu": mu}
    if even and "sigmas" not in signature(kind.set_timesteps).parameters:
        raise ValueError(f"a {name} spaces its levels itself, but this expert's pipeline does so for its scheduler")
    if even:
        told["sigmas"] = numpy.linspace(1, 1 / steps, steps)
    with _making(name):
        try:
            scheduler = kind.from_config(dict(config), **changes)
        except ImportError as error:  # use_beta_sigmas is scipy's.
            raise RecipeError(f"this {name} asks for more than is installed: {error}") from error
        try:
            scheduler.set_timesteps(steps, **told)
        except ValueError as error:  # More steps than it was trained on are one.
            raise RecipeError(f"this {name} has no {steps} steps: {error}") from error
    return scheduler


def _making(name: str) -> AbstractContextManager[None]:
    return making(name, Path("scheduler/scheduler_config.json"), "Take the one that came with the weights")


def _share(schedule: Schedule, sigma: float) -> float:
    return sigma if isinstance(schedule, Flow) else sigma / (1 + sigma)


def _heard(schedule: Schedule, t: float, time: float) -> float:
    """The same level free of float32's rounding, so that `schedule.native` tells the network `time`."""
    if isinstance(schedule, Flow):
        exact = min(max(t, (time + 1e-6) / schedule.ticks), (time + 1 - 1e-6) / schedule.ticks) if schedule.whole else t
    else:
        exact = schedule.share(time)
    return exact if abs(exact - t) < 1e-6 else t
