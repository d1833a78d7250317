"""What methods must do whatever the experts are: closed forms, laws, and counted calls."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from dovetail.core.blur import blurred
from dovetail.core.chain import run
from dovetail.core.combine import Framewise, Guided, Windowed
from dovetail.core.denoiser import Denoiser, timeline
from dovetail.core.ladders import Mask, below, even, levels
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split
from dovetail.core.sampler import DPMSolver2M, Euler, Solver, UniPC, last, sample
from dovetail.core.schedules import VariancePreserving
from dovetail.core.stages import Done, Stage
from dovetail.methods.alternating import Alternating
from dovetail.methods.averaged import Averaged, BySNR
from dovetail.methods.bridge import SameIndex
from dovetail.methods.confiner import Coordinated
from dovetail.methods.consistent import Consistent
from dovetail.methods.fused import Fused
from dovetail.methods.only_spatial import only_spatial
from dovetail.methods.relayed import Relayed
from dovetail.methods.skipping import Skipping
from dovetail.methods.temporal_first import TemporalFirst

SD = VariancePreserving.betas("scaled_linear", 0.00085, 0.012)
LAVIE = VariancePreserving.betas("linear", 1e-4, 2e-2)
NOISE = Noise(5).of("refine")
FRAMES = timeline(12)
LADDER = below(SD, 100, 5)


@dataclass(frozen=True)
class Gaussian:
    """Exact for videos whose every value is normal: E[x0 | x] is affine in x."""

    mean: float
    std: float
    calls: list[int] = field(default_factory=list, compare=False, repr=False)

    def gain(self, t: float) -> float:
        return (1 - t) * self.std**2 / ((1 - t) ** 2 * self.std**2 + t**2)

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        self.calls.append(len(x))
        return split(x, self.mean + self.gain(t) * (x - (1 - t) * self.mean), t)


SPATIAL, TEMPORAL = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)

METHODS: dict[str, Callable[[Denoiser, Denoiser], Denoiser]] = {
    "coordinated, fixed": lambda s, t: Coordinated(s, t, NOISE, fresh=False),
    "coordinated, fresh": lambda s, t: Coordinated(s, t, NOISE, SameIndex(SD, LAVIE)),
    "alternating": lambda s, t: Alternating.of(s, t, LADDER, SD),
    "averaged": lambda s, t: Averaged(s, t, BySNR(4.0)),
    "relayed": lambda s, t: Relayed(s, t, NOISE, SameIndex(SD, LAVIE)),
    "relayed, derived": lambda s, t: Relayed(s, t, NOISE, derived=True),
    "temporal first": lambda s, t: TemporalFirst(s, t, NOISE),
    "fused": lambda s, t: Fused(s, t, 1.0),
    "skipping": lambda s, t: Skipping(s, t, NOISE, tau=0.3),
}
method = pytest.mark.parametrize("build", METHODS.values(), ids=METHODS.keys())


def latent(rows: int = 1, frames: int = 12, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


def close(one: Split, two: Split) -> None:
    torch.testing.assert_close(one.x0, two.x0, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(one.eps, two.eps, rtol=1e-5, atol=2e-5)


# The self-tests of the method's specification.


@pytest.mark.parametrize("fresh", [True, False])
def test_coordinated_among_equals_is_three_posterior_means(fresh: bool) -> None:
    """S = T, exact for one Gaussian: every look is x -> mean + gain (x - (1 - t) mean), so the whole is known."""
    t, g = LADDER.levels[0], SPATIAL.gain(LADDER.levels[0])
    x = mix(0.4 + 0.8 * latent(), latent(seed=1), t)
    seen = Coordinated(SPATIAL, SPATIAL, NOISE, fresh=fresh)(x, t, FRAMES)
    there = NOISE.like(x, FRAMES, "there", t) if fresh else NOISE.like(x, FRAMES, "start")
    back = NOISE.like(x, FRAMES, "back", t) if fresh else there
    keep = g * (1 - t)
    expected = 0.4 + keep**2 * g * (x - (1 - t) * 0.4) + keep * g * t * there + g * t * back
    torch.testing.assert_close(seen.x0, expected, rtol=1e-5, atol=1e-5)


def test_renoising_back_gives_the_variance_of_the_schedule() -> None:
    """Var of x after Eq. 11 is sigma^2 + alpha^2 Var(x0 seen by the temporal expert), with fresh noise."""
    t = below(SD, 300, 5).levels[0]
    alpha, sigma = SD.scale(t) * (1 - t), SD.scale(t) * t
    shown: list[Tensor] = []

    def spatial(x: Tensor, t: float, frames: Tensor) -> Split:
        shown.append(x)
        return SPATIAL(x, t, frames)

    x = mix(0.4 + 0.8 * latent(size=48), latent(size=48, seed=1), t)
    told: list[Tensor] = []

    def temporal(x: Tensor, t: float, frames: Tensor) -> Split:
        seen = TEMPORAL(x, t, frames)
        told.append(seen.x0)
        return seen

    Coordinated(spatial, temporal, NOISE)(x, t, FRAMES)
    assert alpha**2 + sigma**2 == pytest.approx(1)
    renoised = SD.scale(t) * shown[1]
    assert float(renoised.var()) == pytest.approx(sigma**2 + alpha**2 * float(told[0].var()), rel=0.02)


@pytest.mark.parametrize("t", [2e-3, 2e-4])
@pytest.mark.parametrize(
    "name", [name for name, build in METHODS.items() if "SameIndex" not in repr(build(SPATIAL, TEMPORAL))]
)
def test_without_noise_nothing_changes(name: str, t: float) -> None:
    """T_e -> 0 gives back the video of the control stage: what changes shrinks with T_e."""
    video = 0.4 + 0.1 * latent()
    stage = Stage("refine", METHODS[name](Framewise(SPATIAL), TEMPORAL), levels((t, t / 2, 0.0)))
    *_, done = run([stage], NOISE, FRAMES, (3, 6, 6), video)
    assert isinstance(done, Done)
    assert 0 < float((done.video - video).abs().max()) < 20 * t


# Laws.


@method
def test_answers_are_finite_of_the_latents_shape_and_repeat(build: Callable[..., Denoiser]) -> None:
    x, t = latent(2), LADDER.levels[0]
    denoise = build(Framewise(SPATIAL), TEMPORAL)
    once, twice = denoise(x, t, FRAMES.expand(2, -1)), denoise(x, t, FRAMES.expand(2, -1))
    assert once.x0.shape == once.eps.shape == x.shape
    assert bool(torch.isfinite(once.x0).all() and torch.isfinite(once.eps).all())
    assert torch.equal(once.x0, twice.x0)
    assert torch.equal(once.eps, twice.eps)


@method
def test_one_window_is_no_window_and_scale_one_is_no_guidance(build: Callable[..., Denoiser]) -> None:
    x, t = latent(), LADDER.levels[1]
    denoise = build(Framewise(SPATIAL), TEMPORAL)
    close(Windowed(denoise, 12, 12)(x, t, FRAMES), denoise(x, t, FRAMES))
    close(Guided(denoise, build(TEMPORAL, SPATIAL), 1.0)(x, t, FRAMES), denoise(x, t, FRAMES))


@method
def test_windows_and_frames_inside_do_not_change_framewise_experts(build: Callable[..., Denoiser]) -> None:
    """Gaussian experts see no neighbours, so cutting time for them, inside or outside, changes nothing."""
    x, t = latent(), LADDER.levels[1]
    whole = build(SPATIAL, TEMPORAL)(x, t, FRAMES)
    close(build(Framewise(SPATIAL), Windowed(TEMPORAL, 8, 4, "triangle"))(x, t, FRAMES), whole)
    inside = Guided(SPATIAL, Gaussian(0.0, 1.0), 1.0)
    close(build(Framewise(inside), Windowed(TEMPORAL, 5, 3))(x, t, FRAMES), whole)
    if build is not METHODS["skipping"]:  # which decides by whole rows
        close(Windowed(build(SPATIAL, TEMPORAL), 8, 4)(x, t, FRAMES), whole)


@method
def test_rows_do_not_know_each_other(build: Callable[..., Denoiser]) -> None:
    x, t = torch.cat([latent(seed=1), 3 * latent(seed=2)]), LADDER.levels[0]
    frames = torch.cat([FRAMES, FRAMES + 12])
    denoise = build(SPATIAL, TEMPORAL)
    both = denoise(x, t, frames)
    for i in range(2):
        close(both.map(lambda z, i=i: z[i : i + 1]), denoise(x[i : i + 1], t, frames[i : i + 1]))


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "skipping"])
def test_no_step_waits_for_the_device(name: str, solver: Solver) -> None:
    """On a device of which nothing can be read (meta), with frames on the CPU. Skipping has to read where experts
    disagree."""
    x = latent().to("meta")
    denoise = Windowed(METHODS[name](Framewise(SPATIAL), Windowed(TEMPORAL, 5, 3, "sine")), 8, 4)
    assert last(sample(denoise, x, FRAMES, LADDER.levels, solver)).seen.x0.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        METHODS["skipping"](SPATIAL, TEMPORAL)(x, 0.5, FRAMES)


@method
def test_methods_are_values(build: Callable[..., Denoiser]) -> None:
    """They compare, print and pickle; so a recipe can be told from another."""
    one, two = build(SPATIAL, TEMPORAL), build(Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5))
    assert one == two
    assert one != build(SPATIAL, Gaussian(0.0, 0.5))
    assert repr(one) == repr(two)
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("coordinated, fixed", (2, 1)),
        ("coordinated, fresh", (2, 1)),
        ("averaged", (1, 1)),
        ("relayed", (1, 1)),
        ("relayed, derived", (1, 1)),
        ("temporal first", (1, 1)),
        ("fused", (1, 1)),
    ],
)
def test_calls_per_step(name: str, calls: tuple[int, int]) -> None:
    spatial, temporal = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)
    last(sample(METHODS[name](spatial, temporal), latent(), FRAMES, LADDER.levels, Euler()))
    assert (len(spatial.calls), len(temporal.calls)) == (5 * calls[0], 5 * calls[1])


# Masks, clocks and the variants, one by one.


def test_a_mask_follows_the_nearest_level_not_the_equal_one() -> None:
    mask = Mask.of(LADDER, [True, False, True, False, False])
    for level, answer in zip(LADDER.levels[:-1], mask.answers, strict=True):
        assert mask(level) == mask(level + 1e-7) == mask(level - 1e-7) == answer
    with pytest.raises(ValueError, match="2 for 5 steps"):
        Mask.of(LADDER, [True, False])


def test_masked_steps_are_the_spatial_experts_alone() -> None:
    spatial, temporal = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)
    none = Coordinated(spatial, temporal, NOISE, steps=Mask.of(LADDER, [False] * 5))
    stage = only_spatial(spatial, SD)
    assert stage.ladder == LADDER
    x = mix(latent(), latent(seed=1), LADDER.levels[0])
    ours = last(sample(none, x, FRAMES, LADDER.levels, Euler()))
    alone = last(sample(stage.denoise, x, FRAMES, stage.ladder.levels, Euler()))
    assert torch.equal(ours.seen.x0, alone.seen.x0)
    assert not temporal.calls


def test_the_index_clock_keeps_the_timestep_and_changes_the_noise() -> None:
    clock = SameIndex(SD, LAVIE)
    for step in (19, 99, 299, 499):
        assert LAVIE.native(clock(SD.share(step))) == step
    assert clock(SD.share(499)) > SD.share(499) + 0.1  # sigma / alpha 3.4 against 1.6
    with pytest.raises(ValueError, match="1000 and 500"):
        SameIndex(SD, VariancePreserving.betas("linear", steps=500))


def test_fixed_noise_is_the_noise_of_the_hand_over() -> None:
    """With experts that change nothing, a fixed-noise step ends on the very line it began on."""

    def believes(video: Tensor) -> Denoiser:
        return lambda x, t, frames: split(x, video, t)

    video = latent()
    x = mix(video, NOISE.like(video, FRAMES, "start"), LADDER.levels[0])
    seen = Coordinated(believes(video), believes(video), NOISE, fresh=False)(x, LADDER.levels[0], FRAMES)
    close(seen, Split(video, NOISE.like(video, FRAMES, "start")))


def test_fixed_noise_is_that_which_windows_share() -> None:
    """Where a stage starts from shared noise, so that a step ends on the line that it began on there, too."""
    video, shared = latent(), Consistent(NOISE, 2, block=1)
    eps = shared.eps(video, FRAMES)
    assert not torch.equal(eps, NOISE.like(video, FRAMES, "start"))

    def believes(x: Tensor, t: float, frames: Tensor) -> Split:
        return split(x, video, t)

    x, t = mix(video, eps, LADDER.levels[0]), LADDER.levels[0]
    close(Coordinated(believes, believes, shared, fresh=False)(x, t, FRAMES), Split(video, eps))


def test_an_average_of_all_or_nothing_is_one_expert() -> None:
    x, t = latent(), 0.3
    close(Averaged(SPATIAL, TEMPORAL, 0.0)(x, t, FRAMES), SPATIAL(x, t, FRAMES))
    close(Averaged(SPATIAL, TEMPORAL, 1.0)(x, t, FRAMES), TEMPORAL(x, t, FRAMES))
    close(Averaged(SPATIAL, SPATIAL, 0.37)(x, t, FRAMES), SPATIAL(x, t, FRAMES))


def test_a_weight_by_snr_is_a_half_where_it_says_and_rises_with_noise() -> None:
    weight = BySNR(even=4.0, power=2.0)
    assert weight(1 / 3) == pytest.approx(0.5)  # ((1 - t) / t)^2 = 4
    rising = [weight(t / 20) for t in range(1, 21)]
    assert rising == sorted(rising)
    assert weight(1.0) == 1
    assert weight(1e-3) < 1e-6


def test_fused_takes_detail_from_one_expert_and_structure_from_the_other() -> None:
    """A checkerboard is all detail, a constant all structure."""
    board = torch.tensor([1.0, -1.0]).repeat(8)
    detail = (board[:, None] * board[None, :]).expand(1, 3, 12, 16, 16)
    x, flat = latent(size=16), torch.full((1, 3, 12, 16, 16), 0.7)
    fused = Fused(lambda x, t, f: split(x, detail - 0.5, t), lambda x, t, f: split(x, flat - detail, t), 1.5)
    inner = fused(x, 0.3, FRAMES).x0[..., 5:-5, 5:-5]
    torch.testing.assert_close(inner, (flat + detail)[..., 5:-5, 5:-5], atol=1e-3, rtol=0)


def test_a_blur_is_the_convolution_with_repeated_borders() -> None:
    frames, reach = torch.rand(2, 3, 4, 9, 14), torch.arange(-4, 5)
    kernel = torch.exp(-(reach**2) / (2 * 1.2**2))
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(frames.flatten(0, 2)[:, None], (4, 4, 4, 4), mode="replicate")
    expected = torch.nn.functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])
    torch.testing.assert_close(blurred(frames, 1.2), expected[:, 0].reshape(frames.shape), atol=1e-6, rtol=0)


def test_skipping_looks_again_only_where_experts_disagree() -> None:
    spatial, temporal = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)
    x, t = torch.cat([latent(seed=1), 9 + latent(seed=2)]), 0.3
    frames = torch.cat([FRAMES, FRAMES])
    a = spatial(x, t, frames).x0
    b = temporal(mix(a, NOISE.like(a, frames, "start"), t), t, frames).x0
    apart = ((a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).tolist()
    assert abs(apart[0] - apart[1]) > 0.05
    spatial.calls.clear()
    seen = Skipping(spatial, temporal, NOISE, tau=sum(apart) / 2)(x, t, frames)
    assert spatial.calls == [2, 1]
    whole, never = Coordinated(spatial, temporal, NOISE), Relayed(spatial, temporal, NOISE, derived=True)
    for i in range(2):
        expected = (whole if apart[i] == max(apart) else never)(x, t, frames)
        close(seen.map(lambda z, i=i: z[i]), expected.map(lambda z, i=i: z[i]))
    close(Skipping(spatial, temporal, NOISE, tau=0.0)(x, t, frames), whole(x, t, frames))
    close(Skipping(spatial, temporal, NOISE, tau=1e9)(x, t, frames), never(x, t, frames))


def test_temporal_first_is_coordinated_after_a_spatial_look_that_changes_nothing() -> None:
    """When the first spatial look already is what x holds, sparing it loses nothing."""
    t, noise = LADDER.levels[0], NOISE.like(latent(), FRAMES, "start")
    video = latent()
    looks: list[int] = []

    def spatial(x: Tensor, t: float, frames: Tensor) -> Split:
        looks.append(1)
        return split(x, video, t) if len(looks) == 1 else SPATIAL(x, t, frames)

    x = mix(video, noise, t)
    whole = Coordinated(spatial, TEMPORAL, NOISE, fresh=False)(x, t, FRAMES)
    close(TemporalFirst(SPATIAL, TEMPORAL, NOISE, fresh=False)(x, t, FRAMES), whole)


def test_alternating_takes_turns() -> None:
    spatial, temporal = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)
    ladder = even(4)
    denoise = Alternating.of(spatial, temporal, ladder, SD)
    turns = [denoise.turns(t) for t in ladder.levels[:-1]]
    assert turns == [False, True, False, True]  # k = 4, 3, 2, 1
