"""Orders of convergence, measured on exact Gaussian experts, whose runs have closed-form answers."""

import math

import pytest
import torch

from dovetail.core.denoiser import timeline
from dovetail.core.exact import Gaussian
from dovetail.core.ladders import even
from dovetail.core.noise import Noise
from dovetail.core.sampler import Ancestral, DPMSolver2M, Euler, UniPC, last, sample

FRAMES = timeline(8)
EPS = Noise(5).like(torch.empty(1, 4, 8, 6, 6, dtype=torch.float64), FRAMES, "start")
EXPERTS = [Gaussian(2.0, 0.5), Gaussian(0.0, 1.0), Gaussian(-1.0, 0.2)]


def uniform(steps, high=0.9, low=0.1):
    """Equal steps of log-SNR, in which the second-order solvers extrapolate."""
    start, end = math.log((1 - high) / high), math.log((1 - low) / low)
    return [1 / (1 + math.exp(start + (end - start) * i / steps)) for i in range(steps + 1)]


def reached(denoise, x, ladder, solver, frames=FRAMES):
    walk = sample(denoise, x, frames, ladder, solver)
    while True:
        try:
            next(walk)
        except StopIteration as end:
            return end.value


def slope(expert, solver, ladder, steps=(16, 32, 64, 128, 256)):
    """The order: least squares of log error over log steps."""
    points = []
    for n in steps:
        levels = ladder(n)
        x = EPS * levels[0] + (1 - levels[0]) * expert.mean
        exact = expert.flow(x, levels[0], levels[-1])
        points.append((math.log(n), math.log(float((reached(expert, x, levels, solver) - exact).abs().max()))))
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    return -sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


@pytest.mark.parametrize("expert", EXPERTS, ids=repr)
def test_euler_is_of_first_order(expert):
    assert 0.85 < slope(expert, Euler(), uniform) < 1.15


@pytest.mark.parametrize("expert", EXPERTS, ids=repr)
def test_dpm_solver_is_of_second_order(expert):
    assert slope(expert, DPMSolver2M(), uniform) > 1.7


@pytest.mark.parametrize("expert", EXPERTS, ids=repr)
def test_unipc_gains_an_order_by_correcting(expert):
    """UniPC-p converges with order p + 1 (arXiv:2302.04867); ours is UniPC-2."""
    assert slope(expert, UniPC(), uniform) > 2.7


@pytest.mark.parametrize("expert", EXPERTS, ids=repr)
def test_at_equal_calls_unipc_is_closer_than_dpm_and_dpm_than_euler(expert):
    x = EPS * 0.9 + 0.1 * expert.mean
    exact, ladder = expert.flow(x, 0.9, 0.1), uniform(16)
    euler, dpm, unipc = (
        float((reached(expert, x, ladder, solver) - exact).abs().max()) for solver in (Euler(), DPMSolver2M(), UniPC())
    )
    assert unipc < dpm < euler


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
def test_whole_runs_from_noise_to_video_converge(solver):
    expert = Gaussian(2.0, 0.5)
    exact = expert.flow(EPS, 1.0, 0.0)
    errors = [float((last(sample(expert, EPS, FRAMES, even(n).levels, solver)).seen.x0 - exact).abs().max())
              for n in (8, 32, 128)]  # fmt: skip
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_closed_form_is_a_flow():
    """There and back, and in two steps as in one; so the reference of the tests above is sound."""
    expert = Gaussian(2.0, 0.5)
    torch.testing.assert_close(expert.flow(expert.flow(EPS, 0.9, 0.2), 0.2, 0.9), EPS)
    torch.testing.assert_close(expert.flow(expert.flow(EPS, 0.9, 0.5), 0.5, 0.2), expert.flow(EPS, 0.9, 0.2))
    # and dx/dt = eps - x0, the path's own velocity
    seen = expert(EPS, 0.5, FRAMES)
    velocity = (expert.flow(EPS, 0.5, 0.5 + 1e-6) - expert.flow(EPS, 0.5, 0.5 - 1e-6)) / 2e-6
    torch.testing.assert_close(seen.eps - seen.x0, velocity, rtol=1e-7, atol=1e-7)


def test_the_exact_denoiser_is_the_conditional_mean():
    """By Monte Carlo: among videos whose latent falls near x, x0 has the mean that the denoiser answers."""
    expert, t = Gaussian(2.0, 0.5), 0.4
    draw = torch.Generator().manual_seed(0)
    x0 = 2.0 + 0.5 * torch.randn(400_000, generator=draw, dtype=torch.float64)
    x = x0.lerp(torch.randn(400_000, generator=draw, dtype=torch.float64), t)
    for centre in (0.8, 1.2, 1.6):
        near = (x - centre).abs() < 0.02
        answer = float(expert(torch.tensor([[[[[centre]]]]]), t, timeline(1)).x0)
        deviation = float(x0[near].std() / near.sum().sqrt())
        assert abs(float(x0[near].mean()) - answer) < 4 * deviation


def test_ancestral_sampling_ends_with_the_right_variance():
    """From pure noise to N(mean, std^2), but for what finite steps lose (about 0.8 % of std in 400 of them)."""
    expert, frames = Gaussian(2.0, 0.5), timeline(64)
    eps = Noise(6).like(torch.empty(1, 4, 64, 16, 16), frames, "start")
    end = last(sample(expert, eps, frames, even(400).levels, Ancestral(Noise(7)))).seen.x0
    assert float(end.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(end.std()) == pytest.approx(0.5, rel=0.02)


def test_an_ancestral_step_has_the_variance_of_its_formula():
    """One step from the true marginal of a unit Gaussian: what is kept, what is fresh, what a finite step loses."""
    expert, frames = Gaussian(0.0, 1.0), timeline(64)
    eps = Noise(8).like(torch.empty(1, 4, 64, 16, 16, dtype=torch.float64), frames, "start")
    for t, to in [(0.9, 0.6), (0.5, 0.45), (0.3, 0.05)]:
        x = eps * math.hypot(1 - t, t)
        after = reached(expert, x, [t, to], Ancestral(Noise(9)), frames)
        # In sigma, where x / alpha = x0 + sigma * eps: the slope of the mean, then the fresh part.
        start, sigma = t / (1 - t), to / (1 - to)
        down = sigma**2 / start
        kept = (1 + down * start) / math.sqrt(1 + start**2)
        variance = (kept**2 + sigma**2 - down**2) * (1 - to) ** 2
        assert float(after.var()) == pytest.approx(variance, rel=0.02)


def test_ancestral_noise_is_fresh_at_each_step_and_addressed():
    expert, ladder = Gaussian(0.0, 1.0), even(4).levels
    one, again, other = (
        last(sample(expert, EPS, FRAMES, ladder, Ancestral(Noise(seed)))).seen.x0 for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    part = last(sample(expert, EPS[:, :, 3:], FRAMES[:, 3:], ladder, Ancestral(Noise(1)))).seen.x0
    assert torch.equal(part, one[:, :, 3:])
