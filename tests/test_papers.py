"""ConFiner as the paper prints it, beside ours.

The left side of every comparison is written in the paper's symbols (DDPM latents, alphas, sigmas,
integer timesteps, networks that predict eps) and uses nothing of the library but its noise.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dovetail.core.chain import run
from dovetail.core.combine import Framewise
from dovetail.core.denoiser import Expert, Prompted, predicts_eps, timeline
from dovetail.core.ladders import Mask, below, trailing
from dovetail.core.noise import Noise
from dovetail.core.schedules import VariancePreserving
from dovetail.core.stages import Done, Seen, Stage
from dovetail.methods.alternating import Alternating
from dovetail.methods.averaged import Averaged, BySNR
from dovetail.methods.bridge import SameIndex, SameSNR
from dovetail.methods.confiner import Coordinated
from dovetail.methods.only_temporal import only_temporal
from dovetail.methods.relayed import Relayed

NOISE = Noise(11)
FRAMES = timeline(6)
SHAPE = (2, 4, 4)
EMPTY = torch.zeros(1, 2, 6, 4, 4)

BETAS = {
    "spatial": torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square(),
    "control": torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64),
    "temporal": torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64),
}
ABAR = {name: torch.cumprod(1 - betas, 0) for name, betas in BETAS.items()}


def spatial_net(x: Tensor, time: float) -> Tensor:
    """eps of an image network: every frame by itself, neither linear nor symmetric, and it reads the time."""
    return torch.tanh(1.3 * x + 0.4 * x.roll(1, -1) - 0.2 * x.flip(1) + time / 700)


def temporal_net(x: Tensor, time: float) -> Tensor:
    """eps of a video network: it mixes frames."""
    return torch.sin(0.8 * x + 0.5 * x.roll(1, 2) + time / 300) + 0.1 * x


def control_net(x: Tensor, time: float) -> Tensor:
    return torch.cos(0.7 * x - 0.3 * x.roll(2, 2) + time / 400)


def expert(name: str, net: Callable[[Tensor, float], Tensor], trained: str | None = None) -> Prompted:
    schedule = VariancePreserving(tuple(ABAR[trained or name].tolist()))
    return Expert(name, schedule, predicts_eps, lambda x, time, conditions, frames: net(x, time)).given("")


SPATIAL, CONTROL = expert("spatial", spatial_net), expert("control", control_net)
TEMPORALS = {"same betas": expert("temporal", temporal_net, "spatial"), "own betas": expert("temporal", temporal_net)}
"""As ModelScope beside Stable Diffusion, and as LaVie beside Stable Diffusion."""


def alpha(abar: Tensor, t: int) -> float:
    return 1.0 if t < 0 else float(abar[t]) ** 0.5


def sigma(abar: Tensor, t: int) -> float:
    return 0.0 if t < 0 else (1 - float(abar[t])) ** 0.5


def denoising(
    net: Callable[[Tensor, float], Tensor], x: Tensor, abar: Tensor, t: int, to: int
) -> tuple[Tensor, Tensor]:
    """`Denoising(theta, x_t, t, S)`, Eq. 2-4: the clean estimate and the next latent."""
    eps = net(x, t)
    x0 = (x - sigma(abar, t) * eps) / alpha(abar, t)
    return x0, alpha(abar, to) * x0 + sigma(abar, to) * eps


def literal_control(steps: int = 4) -> Tensor:
    x = NOISE.of("control").like(EMPTY, FRAMES, "start")
    times = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    for t, to in zip(times, [*times[1:], -1], strict=True):
        _, x = denoising(control_net, x, ABAR["control"], t, to)
    return x


def addressed(way: str, t: int, fresh: bool) -> Tensor:
    """Our noise for the paper's eps; the address of a step is its level on the straight path."""
    noise = NOISE.of("refine")
    share = sigma(ABAR["spatial"], t) / (sigma(ABAR["spatial"], t) + alpha(ABAR["spatial"], t))
    level = min(SPATIAL.expert.schedule.shares, key=lambda s: abs(s - share))  # type: ignore[attr-defined]
    return noise.like(EMPTY, FRAMES, way, level) if fresh else noise.like(EMPTY, FRAMES, "start")


def literal_confiner(
    abar_t: Tensor, clock: str, fresh: bool, te: int = 100, n2: int = 5, coordinated: tuple[int, ...] = (1, 2, 3, 4, 5)
) -> Tensor:
    """Alg. 1 with one-based timesteps t_k = T_e k / n2; tables are zero-based, hence t_k - 1."""
    abar_s = ABAR["spatial"]
    v0 = literal_control()
    x = alpha(abar_s, te - 1) * v0 + sigma(abar_s, te - 1) * NOISE.of("refine").like(EMPTY, FRAMES, "start")  # Eq. 6
    for k in range(n2, 0, -1):
        t, to = te * k // n2 - 1, te * (k - 1) // n2 - 1
        if k in coordinated:
            a, _ = denoising(spatial_net, x, abar_s, t, to)  # Eq. 8
            if clock == "index":
                told, alpha_t, sigma_t = t, alpha(abar_t, t), sigma(abar_t, t)
            else:  # the temporal expert's timestep nearest in noise, at the spatial expert's alpha and sigma
                ratio = (1 - abar_t).sqrt() / ((1 - abar_t).sqrt() + abar_t.sqrt())
                told = int((ratio - sigma(abar_s, t) / (sigma(abar_s, t) + alpha(abar_s, t))).abs().argmin())
                alpha_t, sigma_t = alpha(abar_s, t), sigma(abar_s, t)
            y = alpha_t * a + sigma_t * addressed("there", t, fresh)  # Eq. 9
            b = (y - sigma_t * temporal_net(y, told)) / alpha_t  # Eq. 10
            x = alpha(abar_s, t) * b + sigma(abar_s, t) * addressed("back", t, fresh)  # Eq. 11
        _, x = denoising(spatial_net, x, abar_s, t, to)
    return x


def refined(stage: Stage) -> Tensor:
    control = Stage("control", CONTROL, trailing(CONTROL.expert.schedule, 4))
    *_, done = run([control, stage], NOISE, FRAMES, SHAPE)
    assert isinstance(done, Done)
    return done.video


def apart(ours: Tensor, paper: Tensor) -> float:
    return float((ours - paper).norm() / paper.norm())


def clock_of(name: str, temporal: Prompted) -> SameIndex | SameSNR:
    return SameIndex(SPATIAL.expert.schedule, temporal.expert.schedule) if name == "index" else SameSNR()  # type: ignore[arg-type]


@pytest.mark.parametrize("betas", TEMPORALS)
@pytest.mark.parametrize("clock", ["index", "snr"])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(("te", "n2"), [(100, 5), (300, 10)])
def test_coordinated_denoising_is_the_papers(betas: str, clock: str, fresh: bool, te: int, n2: int) -> None:
    temporal = TEMPORALS[betas]
    ladder = below(SPATIAL.expert.schedule, te, n2)
    denoise = Coordinated(Framewise(SPATIAL), temporal, NOISE.of("refine"), clock_of(clock, temporal), fresh)
    paper = literal_confiner(
        ABAR["spatial" if betas == "same betas" else "temporal"], clock, fresh, te, n2, tuple(range(n2 + 1))
    )
    assert apart(refined(Stage("refine", denoise, ladder)), paper) <= 1e-5


def test_the_readings_differ_where_they_should() -> None:
    """Else the comparisons above could not tell them apart."""
    own, same = ABAR["temporal"], ABAR["spatial"]
    base = literal_confiner(own, "index", True)
    assert apart(literal_confiner(own, "index", False), base) > 1e-2
    assert apart(literal_confiner(own, "snr", True), base) > 1e-3
    assert apart(literal_confiner(same, "index", True), literal_confiner(same, "snr", True)) < 1e-9


def test_a_mask_leaves_the_other_steps_to_the_spatial_expert() -> None:
    ladder = below(SPATIAL.expert.schedule, 100, 5)
    temporal = TEMPORALS["own betas"]
    mask = Mask.of(ladder, [True, False, True, False, False])  # t_5 .. t_1
    denoise = Coordinated(Framewise(SPATIAL), temporal, NOISE.of("refine"), clock_of("index", temporal), True, mask)
    paper = literal_confiner(ABAR["temporal"], "index", True, coordinated=(5, 3))
    assert apart(refined(Stage("refine", denoise, ladder)), paper) <= 1e-5


def test_alternating_is_equation_7() -> None:
    """Even k: spatial, odd k: temporal; one schedule, the spatial expert's, for both."""
    ladder = below(SPATIAL.expert.schedule, 100, 5)
    abar = ABAR["spatial"]
    x = alpha(abar, 99) * literal_control() + sigma(abar, 99) * NOISE.of("refine").like(EMPTY, FRAMES, "start")
    for k in range(5, 0, -1):
        _, x = denoising(spatial_net if k % 2 == 0 else temporal_net, x, abar, 20 * k - 1, 20 * (k - 1) - 1)
    denoise = Alternating.of(Framewise(SPATIAL), TEMPORALS["own betas"], ladder, SPATIAL.expert.schedule)
    assert apart(refined(Stage("refine", denoise, ladder)), x) <= 1e-5


def test_only_temporal_keeps_the_temporal_schedule() -> None:
    temporal, abar = TEMPORALS["own betas"], ABAR["temporal"]
    x = alpha(abar, 99) * literal_control() + sigma(abar, 99) * NOISE.of("refine").like(EMPTY, FRAMES, "start")
    for k in range(5, 0, -1):
        _, x = denoising(temporal_net, x, abar, 20 * k - 1, 20 * (k - 1) - 1)
    assert apart(refined(only_temporal(temporal, temporal.expert.schedule)), x) <= 1e-5


@pytest.mark.parametrize("weight", [0.5, BySNR(even=4.0)])
def test_average_of_x0(weight: float | BySNR) -> None:
    abar = ABAR["spatial"]
    x = alpha(abar, 99) * literal_control() + sigma(abar, 99) * NOISE.of("refine").like(EMPTY, FRAMES, "start")
    for k in range(5, 0, -1):
        t, to = 20 * k - 1, 20 * (k - 1) - 1
        a, _ = denoising(spatial_net, x, abar, t, to)
        b, _ = denoising(temporal_net, x, abar, t, to)
        snr = alpha(abar, t) ** 2 / sigma(abar, t) ** 2
        w = weight if isinstance(weight, float) else 4.0 / (4.0 + snr)
        x0 = (1 - w) * a + w * b
        x = alpha(abar, to) * x0 + sigma(abar, to) * (x - alpha(abar, t) * x0) / sigma(abar, t)
    ladder = below(SPATIAL.expert.schedule, 100, 5)
    ours = refined(Stage("refine", Averaged(Framewise(SPATIAL), TEMPORALS["same betas"], weight), ladder))
    assert apart(ours, x) <= 1e-5


@pytest.mark.parametrize("derived", [False, True])
def test_relayed_is_the_sandwich_without_its_second_spatial_look(derived: bool) -> None:
    abar, abar_t = ABAR["spatial"], ABAR["temporal"]
    x = alpha(abar, 99) * literal_control() + sigma(abar, 99) * NOISE.of("refine").like(EMPTY, FRAMES, "start")
    for k in range(5, 0, -1):
        t, to = 20 * k - 1, 20 * (k - 1) - 1
        a, _ = denoising(spatial_net, x, abar, t, to)
        y = alpha(abar_t, t) * a + sigma(abar_t, t) * addressed("there", t, True)
        b, _ = denoising(temporal_net, y, abar_t, t, to)
        eps = (x - alpha(abar, t) * b) / sigma(abar, t) if derived else addressed("back", t, True)
        x = alpha(abar, to) * b + sigma(abar, to) * eps
    temporal = TEMPORALS["own betas"]
    denoise = Relayed(Framewise(SPATIAL), temporal, NOISE.of("refine"), clock_of("index", temporal), True, derived)
    assert apart(refined(Stage("refine", denoise, below(SPATIAL.expert.schedule, 100, 5))), x) <= 1e-5


@pytest.mark.parametrize(("te", "n2"), [(50, 5), (100, 5), (100, 10), (200, 4), (500, 10)])
def test_refinement_steps_lie_at_te_k_over_n2(te: int, n2: int) -> None:
    schedule = SPATIAL.expert.schedule
    ladder = below(schedule, te, n2)
    assert [schedule.native(t) + 1 for t in ladder.levels[:-1]] == [te * k / n2 for k in range(n2, 0, -1)]
    assert ladder.levels[-1] == 0


def test_the_hand_over_lies_exactly_on_the_first_level() -> None:
    """Eq. 6 on the spatial schedule at T_e = 100: abar .8955, and the spatial expert is told timestep 99 there."""
    told = []

    def spy(x: Tensor, time: float) -> Tensor:
        told.append((time, x))
        return spatial_net(x, time)

    stage = Stage("refine", Framewise(expert("spatial", spy)), below(SPATIAL.expert.schedule, 100, 5))
    control = Stage("control", CONTROL, trailing(CONTROL.expert.schedule, 4))
    events = list(run([control, stage], NOISE, FRAMES, SHAPE))
    first = next(event for event in events if isinstance(event, Seen) and event.stage.name == "refine")
    eps = NOISE.of("refine").like(EMPTY, FRAMES, "start")
    assert told[0][0] == 99
    assert round(float(ABAR["spatial"][99]), 4) == 0.8955
    native = first.state.x * SPATIAL.expert.schedule.scale(first.state.t)
    paper = 0.8955**0.5 * literal_control() + (1 - 0.8955) ** 0.5 * eps
    assert apart(native, paper) < 1e-4  # abar has four digits here
