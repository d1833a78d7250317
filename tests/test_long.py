"""ConFiner-Long: its equations written out, its laws, and long video in constant memory."""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.core import chain
from dovetail.core.chain import run
from dovetail.core.combine import Windowed
from dovetail.core.denoiser import predicts_eps, predicts_flow, timeline
from dovetail.core.exact import Gaussian, spoken
from dovetail.core.excerpts import Reach
from dovetail.core.hold import Hold, alike, frame, middle
from dovetail.core.ladders import even, levels, timesteps
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split
from dovetail.core.sampler import Ancestral, DPMSolver2M, Euler, State, UniPC, last, sample
from dovetail.core.schedules import Flow, VariancePreserving
from dovetail.core.stages import Done, Seen, Segment, Stage
from dovetail.errors import NetworkError, RecipeError
from dovetail.methods.coherent import Coherent
from dovetail.methods.confiner import Coordinated
from dovetail.methods.consistent import Consistent
from dovetail.methods.freenoise import rescheduled
from dovetail.methods.onward import Onward
from dovetail.methods.reinjected import Reinjected
from dovetail.methods.renoised import Renoised
from dovetail.recipe.build import build
from dovetail.recipe.planning import Known, plan
from dovetail.run import Cast, End, Piece, Step, finished, folder_of, keep, load, play, resume
from dovetail.run.watching import watched
from dovetail.sprites import exact
from dovetail.sprites.exact import PixelCodec
from dovetail.video import Video, read

L, SHAPE, NOISE = 8, (2, 3, 3), Noise(11)
VP = VariancePreserving.betas("linear", 0.00085, 0.012)


@dataclass(frozen=True)
class Smeared:
    """A denoiser that looks over time: the video it sees is the latent's mean with both neighbours."""

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        wide = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
        return split(x, (wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]) * (1 - t) / 3, t)


def pieces(events):
    done = [event for event in events if isinstance(event, Done)]
    return torch.cat([event.frames for event in done], 1), torch.cat([event.video for event in done], 2)


def video_of(*stages, frames=3 * L, given=None):
    found, video = pieces(run(stages, NOISE, timeline(frames), SHAPE, given))
    assert torch.equal(found, timeline(frames))
    return video


EVEN = even(4)


def control(denoise=Smeared(), ladder=EVEN, **options):
    return Stage("structure", denoise, ladder, window=L, **options)


def refine(**options):
    return Stage("refine", Smeared(), levels([0.5, 0.3, 0.1, 0.0]), **options)


def start(**options):
    return Consistent(NOISE.of("structure"), L, **options)


# --- the paper's equations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.05, 0.2, 0.5])
def test_equation_12_as_printed(gamma):
    """DDIM in the paper's alphas and sigmas, Eq. 2-4, with the gradient of Eq. 12 taken by autograd."""
    times = [799, 549, 299, 99]
    expert = spoken(Smeared(), VP, predicts_eps)
    guided = Coherent(expert.given(""), 2 * gamma, "literal", below=0.99, renormalised=False)
    video = video_of(control(guided, timesteps(VP, times)))

    abars = [float(VP.alphas_cumprod[time]) for time in times] + [1.0]
    before: list[Tensor] = []
    for n in range(3):
        frames = timeline(L, n * L)
        x, after = NOISE.of("structure").like(torch.empty(1, *SHAPE[:1], L, *SHAPE[1:]), frames, "start"), []
        for k, (here, there) in enumerate(pairwise(abars)):
            alpha, sigma = here**0.5, (1 - here) ** 0.5
            eps = expert.network(x, times[k], [None], frames).requires_grad_()
            if n:
                (gradient,) = torch.autograd.grad((eps - before[k]).square().sum(), eps)
                eps = eps - gamma * gradient
            eps = eps.detach()
            after.append(eps)
            x0 = (x - sigma * eps) / alpha
            x = there**0.5 * x0 + (1 - there) ** 0.5 * eps
        before = after
        torch.testing.assert_close(video[:, :, n * L : (n + 1) * L], x, atol=2e-4, rtol=2e-4)


def test_equation_13_as_printed():
    """Window n is the second half of structure n and the first half of structure n + 1, noised by Eq. 6."""
    structures = [torch.randn(1, SHAPE[0], L, *SHAPE[1:]) for _ in range(4)]
    joined = [torch.cat([a[:, :, L // 2 :], b[:, :, : L // 2]], 2) for a, b in pairwise(structures)]
    stage = refine(window=L, offset=L // 2)
    video = video_of(stage, frames=4 * L, given=torch.cat(structures, 2))
    for n, window in enumerate(joined):
        frames = timeline(L, n * L + L // 2)
        x = mix(window, NOISE.of("refine").like(window, frames, "start"), 0.5)
        expected = last(sample(Smeared(), x, frames, stage.ladder.levels, Euler())).seen.x0
        assert torch.equal(video[:, :, frames[0]], expected)


# --- consistency initialisation ----------------------------------------------------------------------------------


def noise_of(begin, frames=4 * L, first=0):
    shown = timeline(frames, first)
    return begin.eps(torch.empty(1, SHAPE[0], frames, *SHAPE[1:]), shown)


def test_every_segment_starts_from_the_frames_of_the_base_each_once():
    base, *others = noise_of(start()).split(L, 2)
    assert torch.equal(base, NOISE.of("structure").like(base, timeline(L), "start")), "the first is not permuted"
    for segment in others:
        places = [[torch.equal(a, b) for b in base.unbind(2)].index(True) for a in segment.unbind(2)]
        assert sorted(places) == list(range(L))
        assert places != list(range(L))
    assert not torch.equal(others[0], others[1])


def test_the_base_gives_way_to_fresh_noise_and_keeps_its_variance():
    begin = Consistent(NOISE, 32, strength=0.9, turn=0.3)
    x = torch.empty(1, 4, 7 * 32, 16, 16)
    noise, base = begin.eps(x, timeline(7 * 32)), replace(begin, strength=1.0, turn=0.0).eps(x, timeline(7 * 32))
    kept = [float((a * b).mean()) for a, b in zip(noise.split(32, 2), base.split(32, 2), strict=True)]
    thetas = [0.0, *(min(math.acos(0.9) + 0.3 * n, math.pi / 2) for n in range(6))]
    assert kept == pytest.approx([math.cos(theta) for theta in thetas], abs=0.02)
    assert all(segment.var() == pytest.approx(1, abs=0.03) for segment in noise.split(32, 2))
    mixed = [begin.share(n) ** 2 + (1 - begin.share(n) ** 2) for n in range(9)]
    assert mixed == pytest.approx([1] * 9)
    assert begin.share(6) == 0, "by then nothing of the base is left"


def test_means_of_the_base_are_shared_and_all_else_is_each_frame_s_own():
    """Each block's mean is the base's by cos(theta), frames are independent, and their variance is 1."""
    begin = Consistent(NOISE, 16, strength=0.7, block=8, shared="means")
    x = torch.empty(1, 4, 64, 64, 64)
    noise, own = begin.eps(x, timeline(64)), NOISE.like(x, timeline(64), "start")
    assert torch.equal(noise[:, :, :16], own[:, :, :16]), "the first is the base"
    means = noise[0].unflatten(1, (8, 8)).mean(2).transpose(0, 1).flatten(1)
    alike = torch.corrcoef(means)
    for n in range(2, 8):
        assert alike[n, n % 2] == pytest.approx(0.7, abs=0.04), "of the base's blocks, each one's own"
        assert alike[n, 1 - n % 2] == pytest.approx(0, abs=0.04)
    assert noise.var() == pytest.approx(1, abs=0.01)
    frames = torch.corrcoef(noise[0].transpose(0, 1).flatten(1))
    for n in range(16, 64, 8):
        assert frames[n : n + 16, n : n + 16].fill_diagonal_(0).abs().max() < 0.04, "in a window none is like another"
    assert frames[16:, :16].max() < 0.7 / 8 + 0.04, "and what is shared with the first one is an eighth of it"


def test_without_strength_it_is_the_stage_s_own_noise():
    own = NOISE.of("structure").like(torch.empty(1, SHAPE[0], 4 * L, *SHAPE[1:]), timeline(4 * L), "start")
    assert torch.equal(noise_of(start(strength=0.0)), own)
    assert torch.equal(noise_of(start(strength=0.0, shared="means")), own)
    assert torch.equal(video_of(control(start=start(strength=0.0))), video_of(control()))
    assert not torch.equal(video_of(control(start=start())), video_of(control()))


@pytest.mark.parametrize(
    "begin",
    [
        start(),
        start(strength=0.7, turn=0.1),
        start(strength=0.7, block=L // 2, shared="means"),
        rescheduled(NOISE, 8, 2),
    ],
)
def test_where_noise_comes_from_does_not_hang_on_how_it_is_asked_for(begin):
    whole = noise_of(begin)
    parts = [noise_of(begin, b - a, a) for a, b in pairwise([0, 3, 8, 9, 31, 32])]
    assert torch.equal(whole, torch.cat(parts, 2))


def test_freenoise_shuffles_blocks_of_what_lies_a_window_earlier():
    """Block by block the same frames come back, a window later, and within the window there are no two alike."""
    frames = rescheduled(NOISE, 8, 2).source(timeline(48))[0]
    assert frames[:8].tolist() == list(range(8))
    for i in range(8, 48, 2):
        assert sorted(frames[i : i + 2].tolist()) == sorted(frames[i - 8 : i - 6].tolist())
    assert any(frames[i] > frames[i + 1] for i in range(8, 48, 2)), "some are shuffled"


@pytest.mark.parametrize("options", [{"strength": 1.1}, {"strength": -0.1}, {"turn": -1.0}, {"block": 3}])
def test_noise_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match=r"strength lies|take a divisor"):
        start(**options)


# --- coherence guidance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", ["aligned", "literal", "mean"])
def test_no_strength_is_no_guidance_to_the_bit(align):
    guided = Coherent(Smeared(), 0.0, align, start())
    assert torch.equal(video_of(control(guided, start=start())), video_of(control(start=start())))


@pytest.mark.parametrize("align", ["aligned", "literal", "mean"])
def test_it_moves_later_segments_and_leaves_the_first(align):
    plain = video_of(control(start=start()))
    guided = video_of(control(Coherent(Smeared(), 0.2, align, start()), start=start()))
    assert torch.equal(guided[:, :, :L], plain[:, :, :L])
    assert not torch.allclose(guided[:, :, L:], plain[:, :, L:])


@pytest.mark.parametrize("renormalised", [True, False])
def test_all_of_it_and_the_same_noise_is_the_segment_before(renormalised):
    """In the order of the permutation, whatever the denoiser sees: x and eps say what x0 is."""
    guided = Coherent(Smeared(), 1.0, "aligned", start(), below=0.99, renormalised=False)
    first, *others = video_of(control(guided, levels([0.98, 0.6, 0.3, 0.0]), start=start())).split(L, 2)
    for n, segment in enumerate(others, 1):
        order = start().source(timeline(L, n * L))[0]
        torch.testing.assert_close(segment, first[:, :, order], atol=1e-4, rtol=1e-4)
    # A denoiser without a view over time gives that by itself, and guidance has nothing to change.
    alone = Coherent(Gaussian(0.5, 0.3), 1.0, "aligned", start(), renormalised=renormalised)
    torch.testing.assert_close(
        video_of(control(alone, start=start())), video_of(control(Gaussian(0.5, 0.3), start=start()))
    )


def states_of(segment, strength=0.3, **options):
    """One look at t = 0.5 in view of a segment before; (what was seen without, with)."""
    x, before = torch.randn(1, 2, 4, 3, 3), segment
    guided = Coherent(Smeared(), strength, **options)
    return Smeared()(x, 0.5, timeline(4, 4)), guided.after(before)(x, 0.5, timeline(4, 4)), x


def before(eps):
    return Segment(timeline(4), (State(0.5, eps, Split(torch.zeros_like(eps), eps)),))


def test_the_latent_stays_and_the_noise_keeps_its_deviation():
    other = torch.randn(1, 2, 4, 3, 3)
    plain, guided, x = states_of(before(other))
    torch.testing.assert_close(guided.mix(0.5), x)
    torch.testing.assert_close(guided.eps.std(), plain.eps.std())
    _, bare, _ = states_of(before(other), renormalised=False)
    plain, kept, x = states_of(before(other), direction=True)
    assert torch.equal(kept.x0, plain.x0)
    assert not torch.allclose(kept.mix(0.5), x)
    assert bare.eps.std() < 0.95 * plain.eps.std(), "two independent noises, mixed, are less than one"


def test_means_meet_and_the_rest_stays():
    other = torch.randn(1, 2, 4, 3, 3)
    plain, guided, _ = states_of(before(other), 1.0, align="mean", renormalised=False)
    torch.testing.assert_close(guided.eps.mean(2), other.mean(2))
    torch.testing.assert_close(guided.eps - guided.eps.mean(2, True), plain.eps - plain.eps.mean(2, True))


@pytest.mark.parametrize("hold", [0.4, 1.0])
def test_what_stands_still_is_held_and_what_moves_is_free(hold):
    """At any level, pure noise too, where Eq. 12 has nothing to say."""
    other = torch.randn(1, 2, 4, 3, 3)
    for t in (1.0, 0.5):
        segment = Segment(timeline(4), (State(t, other, Split(other, torch.zeros_like(other))),))
        x = torch.randn(1, 2, 4, 3, 3)
        plain, held = (d(x, t, timeline(4, 4)) for d in (Smeared(), Coherent(Smeared(), 0.0, hold=hold).after(segment)))
        torch.testing.assert_close(held.mix(t), x)
        torch.testing.assert_close(held.x0.mean(2), plain.x0.mean(2).lerp(other.mean(2), hold))
        torch.testing.assert_close(held.x0 - held.x0.mean(2, True), plain.x0 - plain.x0.mean(2, True))


def test_a_held_stage_has_one_mean_frame_in_all_its_segments():
    held = Coherent(Smeared(), 0.0, hold=1.0)
    first, *others = video_of(control(held, start=start())).split(L, 2)
    assert others
    for segment in others:
        torch.testing.assert_close(segment.mean(2), first.mean(2), atol=1e-5, rtol=1e-4)


def test_it_is_active_only_in_its_range():
    other = torch.randn(1, 2, 4, 3, 3)
    for options in ({"above": 0.5}, {"below": 0.49}):
        plain, guided, _ = states_of(before(other), **options)
        assert torch.equal(guided.eps, plain.eps)
        assert torch.equal(guided.x0, plain.x0)
    plain, guided, _ = states_of(before(other), above=0.49, below=0.5)
    assert not torch.equal(guided.eps, plain.eps)


def test_aligned_frames_started_from_the_same_noise():
    begin = Consistent(NOISE, 4)
    theirs, ours = (begin.source(timeline(4, first))[0].tolist() for first in (4, 8))
    marked = torch.arange(4.0)[None, None, :, None, None].expand(1, 2, 4, 3, 3).clone()
    segment = replace(before(marked), frames=timeline(4, 4))
    drawn = Coherent(Smeared(), 1.0, "aligned", begin, renormalised=False).after(segment)
    seen = drawn(torch.randn(1, 2, 4, 3, 3), 0.5, timeline(4, 8))
    assert [theirs[int(place)] for place in seen.eps[0, 0, :, 0, 0]] == ours


def test_guidance_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="below must be less than 1; or set direction"):
        Coherent(Smeared(), 0.1, below=1.0)
    assert Coherent(Smeared(), 0.1, below=1.0, direction=True)
    with pytest.raises(ValueError, match="align is one of aligned, literal, mean, not 'alined'"):
        Coherent(Smeared(), 0.1, "alined")


# --- all three, and none -----------------------------------------------------------------------------------------


def test_all_three_off_is_plain_concatenation():
    """Each segment by itself, from its own noise, through both stages."""
    chained = [
        control(Coherent(Smeared(), 0.0, "aligned", start(strength=0.0)), start=start(strength=0.0)),
        refine(window=L, offset=0),
    ]
    video = video_of(*chained)
    for n in range(3):
        frames = timeline(L, n * L)
        alone = pieces(run([control(), refine()], NOISE, frames, SHAPE))[1]
        assert torch.equal(video[:, :, n * L : (n + 1) * L], alone)


@pytest.mark.parametrize("window", [{"offset": 4}, {"offset": 4, "ends": "full"}, {"hop": 3, "weights": "triangle"}])
def test_the_beginning_does_not_know_how_long_the_video_is(window):
    """What is made of the first frames is the same for any length, but near the end and in the last segment."""
    stages = [control(Coherent(Smeared(), 0.2, "aligned", start()), start=start()), refine(window=L, **window)]
    short, long = video_of(*stages, frames=4 * L), video_of(*stages, frames=7 * L)
    assert torch.equal(short[:, :, : 2 * L], long[:, :, : 2 * L])


# --- overlapping windows: the wavefront --------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Euler(), Ancestral(noise=NOISE), DPMSolver2M(), UniPC()], ids=repr)
@pytest.mark.parametrize(("hop", "weights"), [(4, "flat"), (3, "triangle"), (7, "sine"), (1, "pyramid")])
@pytest.mark.parametrize("frames", [5, 8, 29])
@pytest.mark.parametrize(
    "hold",
    [
        None,
        Hold(0.6),
        Hold(0.6, within=2.0, below=0.4),
        Hold(within=2.0, objects=0.7),
        Hold(within=2.0, below=0.4, objects=0.7, frames=0.7),
    ],
    ids=repr,
)
def test_a_wavefront_is_windowed_denoising_of_the_whole(solver, hop, weights, frames, hold):
    """One window at a time, levels skewed, or everything at every level: one video."""
    front = refine(window=L, hop=hop, weights=weights, solver=solver, hold=hold)
    whole = replace(refine(solver=solver), denoise=Windowed(Smeared(), L, hop, weights, hold=hold))
    given = torch.randn(2, SHAPE[0], frames, *SHAPE[1:])
    shown = timeline(frames).expand(2, -1)
    one, two = (pieces(run([stage], NOISE, shown, SHAPE, given))[1] for stage in (front, whole))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hold", [None, Hold(0.6), Hold(within=2.0, objects=0.7)], ids=repr)
def test_held_windows_that_are_noised_anew_keep_what_the_hold_moved(hold):
    """Their noise does not follow from what was seen: if it did, the way on would lead back to where the hold began."""
    front = refine(window=L, hop=3, weights="triangle", hold=hold)
    whole = Windowed(Smeared(), L, 3, "triangle", hold=hold)
    stages = (
        replace(front, denoise=Renoised(Smeared(), NOISE, 0.3)),
        replace(refine(), denoise=Renoised(whole, NOISE, 0.3)),
    )
    given, shown = torch.randn(2, SHAPE[0], 29, *SHAPE[1:]), timeline(29).expand(2, -1)
    one, two, plain = (pieces(run([stage], NOISE, shown, SHAPE, given))[1] for stage in (*stages, front))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    assert not one.allclose(plain, atol=1e-2)


def test_a_run_of_held_windows_that_are_noised_anew_is_the_joint_one():
    """As above, by recipes: whatever watches a stage in a run has to leave as it leaves."""
    base, hold = recipes.load("sprites-syncos-exact"), {"within": 2.0}
    front, whole = (
        recipes.changed(base, {"video.frames": 40, "experts.video.candidates": 16} | changes)
        for changes in (
            {
                "chain.video.denoise": {"renoised": {"of": "video", "floor": 0.9}},
                "chain.video.window": 16,
                "chain.video.hop": 8,
                "chain.video.hold": hold,
            },
            {
                "chain.video.denoise": {
                    "renoised": {
                        "of": {"windowed": {"of": "video", "size": 16, "stride": 8, "hold": hold}},
                        "floor": 0.9,
                    }
                }
            },
        )
    )
    one, two = (finished(play(recipe)).pixels for recipe in (front, whole))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_a_stage_that_leaves_along_noise_of_its_own_says_at_which_step_a_network_failed():
    def fails(x, t, frames):
        raise NetworkError("video", 700.0)

    stage = watched(replace(refine(window=L, hop=4), denoise=Renoised(fails, NOISE, 0.3)))
    with pytest.raises(NetworkError, match="stage 'refine', step 1"):
        pieces(run([stage], NOISE, timeline(16), SHAPE, torch.randn(1, SHAPE[0], 16, *SHAPE[1:])))


def test_windows_that_are_held_keep_the_first_ones_middle_and_their_own_motion():
    """A background that fades, and a square that moves over it: held, the background stays and the square goes on."""
    fading = torch.linspace(0, 2, 16)[None, None, :, None, None].repeat(1, 1, 1, 8, 8)
    for f in range(16):
        fading[:, :, f, 2:4, f % 8] += 5

    class Shown:
        def __call__(self, x, t, frames):
            return split(x, fading[:, :, frames[0]], t)

    def made(hold):
        stages = [Stage("fade", Shown(), even(3), window=4, hop=2, weights="triangle", hold=hold)]
        return pieces(run(stages, NOISE, timeline(16), (1, 8, 8)))[1]

    torch.testing.assert_close(made(None), fading)
    grounds = [made(hold)[0, 0, :, 6:].mean((1, 2)) for hold in (None, Hold(0.5), Hold())]
    faded = [float(ground[-2:].mean() - ground[:2].mean()) for ground in grounds]
    within = 4 / 15  # from the first two frames of a window to its last two, which is nobody's to hold
    assert faded == pytest.approx([28 / 15, (28 / 15 + within) / 2, within], abs=1e-5)
    squares = made(Hold())[0, 0] - grounds[2][:, None, None]
    assert [int(square[2:4].mean(0).argmax()) for square in squares] == [f % 8 for f in range(16)]


def ground(slip: float) -> Tensor:
    """A window of four frames, "1 1 4 8 8": stripes that stand still and have slipped."""
    stripes = torch.tensor([-1.0, 1.0]).repeat(4).expand(1, 1, 4, 8, 8)
    return stripes + slip * torch.tensor([-1.0, 1.0]).repeat_interleave(4)[:, None]


def squared(video: Tensor, x: int) -> Tensor:
    """The window with a square that stands at x."""
    video[..., 2:4, x : x + 2] = 9.0
    return video


@pytest.mark.parametrize(("t", "left"), [(0.5, 1 - (1 - 1 / 9) ** 2), (0.9, 1.0)])
def test_places_are_held_where_they_differ_as_most_do(t, left):
    """A ground that has slipped slips back; a square stays where it stands, and nothing comes where another stood."""
    hold, first, slipped = Hold(within=3.0, below=0.8), squared(ground(0.0), 0), squared(ground(0.1), 5)
    x = torch.randn(1, 1, 4, 8, 8)
    seen, same = (hold(split(x, z, t), x, t, hold.of(first)).x0 for z in (slipped, first))
    assert not alike(torch.zeros(1, 1, 1, 4, 4, dtype=torch.float16), 2.0).any(), "in half precision too"
    torch.testing.assert_close(same, first)
    colour = 0.1  # the median of the ground that has slipped is that much lower
    torch.testing.assert_close((seen - first)[..., 4:, :], (0.1 + colour) * left * torch.ones(1, 1, 4, 4, 8))
    torch.testing.assert_close((seen - slipped)[..., 2:4, [0, 1, 5, 6]], torch.full((1, 1, 4, 2, 4), colour))


WHITE, YELLOW = torch.tensor([9.0, 9.0]), torch.tensor([9.0, -9.0])


def scene(colour: Tensor, places: Sequence[int]) -> Tensor:
    """A window of a frame for each place, "1 2 f 8 8": a square of this colour at these places, over stripes; beyond 8
    it is out of sight."""
    video = torch.tensor([-1.0, -1.0, 1.0]).repeat(3)[:8].expand(1, 2, len(places), 8, 8).clone()
    for f, x in enumerate(places):
        video[:, :, f, 2:4, x : x + 2] = colour[:, None, None]
    return video


@pytest.mark.parametrize("places", [(0, 2, 4, 6), (5, 5, 5, 5), (6, 6, 6, 4)], ids=["goes", "stands", "lingers"])
@pytest.mark.parametrize("begins", [(0, 2, 4, 6), (1, 1, 1, 5)], ids=["goes", "lingers"])
def test_what_stands_out_takes_the_first_ones_colour(begins, places):
    """Where it is, nowhere else, and also where a median frame shows it, of either window."""
    hold, x = Hold(within=2.0, objects=1.0), torch.randn(1, 2, 4, 8, 8)
    first, other, wanted = scene(YELLOW, begins), scene(WHITE, places), scene(YELLOW, places)
    seen = hold(split(x, other, 0.5), x, 0.5, hold.of(first)).x0
    torch.testing.assert_close(seen, wanted, atol=0.05, rtol=0.0)
    half = Hold(within=2.0, objects=0.5)(split(x, other, 0.5), x, 0.5, hold.of(first)).x0
    torch.testing.assert_close(half, (seen + other) / 2)
    again = hold(split(x, first, 0.5), x, 0.5, hold.of(first)).x0
    torch.testing.assert_close(again, first, atol=0.05, rtol=0.0)


@pytest.mark.parametrize("frames", [0.0, 1.0])
def test_what_is_not_there_is_not_painted(frames):
    """Frames, windows and a first window without an object stay as they are, in noise as well."""
    x, noise = torch.randn(3, 4, 8, 8, 8), 0.2 * torch.randn(3, 4, 8, 8, 8)
    (with_one, other, rare), bare = (
        (torch.cat([scene(colour, places)] * 2, 1) for colour, places in [
            (YELLOW, (0, 2, 4, 6, 0, 2, 4, 6)), (WHITE, (6, 4, 2, 0, 6, 4, 2, 0)), (WHITE, (6, 4, 9, 9, 9, 9, 2, 0)),
        ]),
        torch.cat([scene(WHITE, (9,) * 8)] * 2, 1),
    )  # fmt: skip
    first, seen = torch.cat([with_one, with_one, bare]), torch.cat([rare, bare, other]) + noise
    plain = Hold(within=2.0, frames=frames)
    hold, of = replace(plain, objects=1.0), Hold(within=2.0, objects=1.0).of(first + noise)
    held, left = (each(split(x, seen, 0.5), x, 0.5, of).x0 for each in (hold, plain))
    rows = torch.cat([first + noise, seen])
    aside = hold.to_first(split(torch.cat([x, x]), rows, 0.5), torch.cat([x, x]), 0.5, 3).x0[3:]
    torch.testing.assert_close(aside, held, msg="side by side the first window is what it is without its frames held")
    assert (held - left)[0, :, [2, 3, 4, 5]].abs().max() < 1.0, "nothing is there in these frames"
    assert (held - left)[0, 1, [0, 1, 6, 7]].abs().max() > 15, "and in these it is"
    torch.testing.assert_close(held[1:], left[1:])


def test_objects_are_held_where_places_are():
    first, other, x = scene(YELLOW, (0, 2, 4, 6)), scene(WHITE, (6, 4, 2, 0)), torch.randn(1, 2, 4, 8, 8)
    hold = Hold(within=2.0, below=0.4, objects=1.0)
    assert torch.equal(hold(split(x, other, 0.5), x, 0.5, hold.of(first)).x0, other), "above the level it is not"
    early = replace(hold, below=0.9)(split(x, other, 0.6), x, 0.6, hold.of(first)).x0
    torch.testing.assert_close(early, other, msg="nor where none is drawn yet")
    half = Hold(0.5, within=2.0, objects=1.0)(split(x, other + 0.2, 0.3), x, 0.3, hold.of(first)).x0
    torch.testing.assert_close(half, scene(YELLOW, (6, 4, 2, 0)) + 0.1, atol=0.2, rtol=0.0)
    for flat in (0 * first, 0 * first.half()):
        assert hold(split(x.to(flat), flat, 0.3), x.to(flat), 0.3, hold.of(flat)).x0.isfinite().all()
    with pytest.raises(ValueError, match="without within none are"):
        Hold(objects=1.0)
    with pytest.raises(ValueError, match="frames are held in places, and without within none are"):
        Hold(frames=1.0)


def flashing(places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A window of a yellow square, two of whose frames are lighter, one of these not evenly around it; and by
    how much they are."""
    video = scene(YELLOW, places)
    added = torch.zeros_like(video)
    added[:, :, 1] = 0.5
    added[:, :, 2] = 0.5 + torch.tensor([-0.1, 0.0, 0.1]).repeat(3)[:8] * (video[:, :, 2].abs() < 5)
    return video + added, added


def test_frames_are_held_to_their_windows_median_frame():
    """A flash is taken back, of the first window too, and what differs in places; a square goes on its way."""
    hold, x = Hold(within=3.0, frames=1.0, below=0.8), torch.randn(1, 2, 7, 8, 8)
    (first, one), (other, two) = flashing((0, 2, 4, 6, 9, 9, 9)), flashing((6, 4, 2, 0, 9, 9, 9))
    of = hold.of(hold(split(x, first, 0.5), x, 0.5).x0)
    for video, added, to in ((first, one, None), (other, two, of)):
        seen = hold(split(x, video, 0.5), x, 0.5, to).x0
        torch.testing.assert_close(seen, video - added, atol=0.03, rtol=0.0)
        half = replace(hold, frames=0.5)(split(x, video, 0.5), x, 0.5, to).x0
        torch.testing.assert_close(half, video - added / 2, atol=0.03, rtol=0.0)
        above = hold(split(x, video, 0.9), x, 0.9, to).x0
        torch.testing.assert_close(above, video)
    seen = Hold(within=3.0)(split(x, first, 0.5), x, 0.5)
    assert torch.equal(seen.x0, first), "the first window is held to nothing"
    alone = hold.to_first(split(x, first, 0.5), x, 0.5, len(x)).x0
    torch.testing.assert_close(alone, first - one, atol=0.03, rtol=0.0, msg="and where there is no other")


@pytest.mark.parametrize("frames", [5, L, 29])
@pytest.mark.parametrize(
    "hold", [Hold(), Hold(within=2.0, below=0.4), Hold(within=2.0, objects=0.7, frames=0.7)], ids=repr
)
def test_held_windows_leave_along_one_noise(hold, frames):
    """Coordinated denoising answers the noise it drew anew, a hold that of the window's own latent. Were the first window's
    left as it is, two noises would be averaged where others overlap it."""
    fresh = Coordinated(Smeared(), Smeared(), NOISE)
    given, shown = torch.randn(2, SHAPE[0], frames, *SHAPE[1:]), timeline(frames).expand(2, -1)
    free, seen = (Windowed(fresh, L, 3, "triangle", hold=way)(given, 0.3, shown) for way in (None, hold))
    assert not free.mix(0.3).allclose(given, atol=0.1)
    torch.testing.assert_close(seen.mix(0.3), given)
    front = refine(window=L, hop=3, weights="triangle", hold=hold)
    whole = Windowed(fresh, L, 3, "triangle", hold=hold)
    stages = (replace(front, denoise=fresh), replace(refine(), denoise=whole))
    one, two = (pieces(run([stage], NOISE, shown, SHAPE, given))[1] for stage in stages)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_a_pulse_is_no_flicker():
    """What grows and shrinks in its place keeps its sizes, though it covers two fifths of some frames."""
    video = ground(0.0).repeat(1, 1, 2, 1, 1)
    for f, side in enumerate((1, 2, 4, 5, 5, 4, 2, 1)):
        video[:, :, f, 1 : 1 + side, 1 : 1 + side] = 9.0
    hold, x = Hold(within=2.0, frames=1.0), torch.randn(video.shape)
    torch.testing.assert_close(hold(split(x, video, 0.5), x, 0.5).x0, video)


def test_a_wavefront_starts_from_pure_noise_too():
    front, whole = control(hop=4), Stage("structure", Windowed(Smeared(), L, 4), even(4))
    torch.testing.assert_close(video_of(front), video_of(whole), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("upstream", [1, 5, 8, 24, None])
@pytest.mark.parametrize("window", [{"offset": 4}, {"offset": 4, "ends": "full"}, {"hop": 3}])
def test_results_do_not_hang_on_how_the_timeline_is_cut(upstream, window):
    """The stage before hands over pieces of any length: an elementwise one makes the same of each."""
    draft = Stage("draft", Gaussian(0.0, 0.7), even(2), window=upstream)
    one = video_of(draft, refine(window=L, **window))
    assert torch.equal(one, video_of(replace(draft, window=None), refine(window=L, **window)))


@pytest.mark.parametrize("window", [{}, {"offset": 4}, {"offset": 4, "ends": "full"}, {"hop": 5}])
def test_what_is_pulled_is_all_that_is_made(window):
    """Whoever stops early has the same frames, and nothing was made that these do not need."""
    stages = [control(), refine(window=L, **window)]
    first = next(event for event in run(stages, NOISE, timeline(64), SHAPE) if isinstance(event, Done))
    assert torch.equal(first.video, video_of(*stages, frames=64)[:, :, first.frames[0]])
    events = run(stages, NOISE, timeline(64), SHAPE)
    segments = set()
    for event in events:
        if isinstance(event, Done):
            break
        segments |= {int(event.frames[0, 0])} if event.stage.name == "structure" else set()
    assert max(segments) <= 4 * L, "a window and a step or two ahead, not the whole"


# --- windows -----------------------------------------------------------------------------------------------------


def looked_at(stage, frames):
    """Which frames each window shows to the denoiser, and how often each frame is made."""
    shown, made = [], torch.zeros(frames, dtype=torch.int64)

    def watch(x, t, seen):
        shown.append(seen[0].tolist())
        return Smeared()(x, t, seen)

    for event in run([replace(stage, denoise=watch, ladder=levels([0.5, 0.0]))], NOISE, timeline(frames), SHAPE):
        if isinstance(event, Done):
            made[event.frames[0]] += 1
    return shown, made


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 8, 11, 12, 13, 20, 33])
@pytest.mark.parametrize("window", [{}, {"offset": 4}, {"offset": 1}, {"offset": 4, "ends": "full"}, {"hop": 3}])
def test_every_frame_is_made_once(frames, window):
    shown, made = looked_at(refine(window=L, **window), frames)
    assert made.tolist() == [1] * frames
    if "hop" not in window and "ends" not in window:
        assert sorted(frame for row in shown for frame in row) == list(range(frames)), "and looked at in one window"
    if "hop" in window or "ends" in window:
        assert {len(row) for row in shown} == {min(L, frames)}, "every window is whole"


def test_ends_are_half_windows_or_whole_ones_of_which_half_is_kept():
    half, _ = looked_at(refine(window=L, offset=4), 24)
    assert [(row[0], row[-1]) for row in half] == [(0, 3), (4, 11), (12, 19), (20, 23)]
    full, _ = looked_at(refine(window=L, offset=4, ends="full"), 24)
    assert [(row[0], row[-1]) for row in full] == [(0, 7), (4, 11), (12, 19), (16, 23)]


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ({"hop": 9}, r"hop in 1\.\.8"),
        ({"hop": 0}, r"hop in 1\.\.8"),
        ({"offset": 8}, r"offset in 0\.\.7"),
        ({"hop": 4, "offset": 2}, "take one of the two"),
    ],
)
def test_windows_that_leave_gaps_are_refused(window, says):
    with pytest.raises(ValueError, match=says):
        video_of(refine(window=L, **window))


# --- the baseline that begins with the tail ----------------------------------------------------------------------


def test_a_reinjected_tail_stays_and_the_next_window_is_made_around_it():
    stage = control(Reinjected(Smeared(), NOISE.of("structure")), hop=5)
    states = {}
    for event in run([stage], NOISE, timeline(18), SHAPE):
        if isinstance(event, Seen):
            states[int(event.frames[0, 0])] = event.state.seen.x0
    assert list(states) == [0, 5, 10]
    assert torch.equal(states[5][:, :, :3], states[0][:, :, 5:])
    assert torch.equal(states[10][:, :, :3], states[5][:, :, 5:])
    video = video_of(stage, frames=18)
    assert torch.equal(video, torch.cat([states[0], states[5][:, :, 3:], states[10][:, :, 3:]], 2))
    assert not torch.equal(video[:, :, 8:], video_of(control(hop=None), frames=18)[:, :, 8:])


# --- windows that go on -------------------------------------------------------------------------------------------


class Moving:
    """Sees a square that goes right by one place a frame, on the way along which all frames are brightest."""

    def __init__(self):
        self.asked = []

    def __call__(self, x, t, frames):
        self.asked.append((int(frames[0, 0]), t))
        size, steps = x.shape[4], torch.arange(x.shape[2])
        ways = (torch.arange(size)[:, None] + steps) % size
        places = ways[x[0, 0, steps, 0, ways].sum(1).argmax()]
        return split(x, 30.0 * torch.nn.functional.one_hot(places, size)[None, None, :, None].expand_as(x), t)


@pytest.mark.parametrize(("sequel", "goes_on"), [(Reinjected, False), (Onward, True)])
def test_what_moves_goes_on_where_new_frames_are_first_looked_at_beside_known_ones(sequel, goes_on):
    """At pure noise the noise says where the square is; below, what each frame began as, of which 3 in 8 are known."""
    moving = Moving()
    ladder = levels((0.999, 0.8, 0.4, 0.0))
    stage = Stage("structure", sequel(moving, NOISE.of("structure")), ladder, window=8, hop=5)
    video = pieces(run([stage], NOISE, timeline(23), (1, 8, 8)))[1]
    places = video[0, 0, :, 0].argmax(-1)
    ways = (places[1:] - places[:-1]) % 8
    assert bool((ways == 1).all()) == goes_on
    assert sorted({t for start, t in moving.asked if start > 0}) == [0.4, 0.8] + [0.999] * (not goes_on)
    assert sorted({t for start, t in moving.asked if start == 0}) == [0.4, 0.8, 0.999]


def test_what_is_new_begins_as_what_stood_still():
    states = {}
    stage = control(Onward(Smeared(), NOISE.of("structure"), below=0.8), hop=5, hold=Hold(within=2.0))
    for event in run([stage], NOISE, timeline(18), SHAPE):
        if isinstance(event, Seen) and event.state.t > 0.8:
            states[int(event.frames[0, 0])] = event.state.seen.x0
    assert list(states) == [0, 5, 10]
    for start in (5, 10):
        new = states[start][:, :, 3:]
        torch.testing.assert_close(new, new[:, :, :1].expand_as(new))


def test_windows_in_turn_are_held_to_the_first_one():
    def made(hold):
        stage = control(Onward(Smeared(), NOISE.of("structure")), hop=5, hold=hold)
        return [event.video for event in run([stage], NOISE, timeline(23), SHAPE) if isinstance(event, Done)]

    free, held = made(None), made(Hold())
    torch.testing.assert_close(free[0], held[0])
    steady = made(Hold(within=2.0, frames=1.0))

    def flickers(video):
        return (frame(video) - video).flatten(3).median(3).values.abs().mean()

    torch.testing.assert_close(steady[0], free[0])
    assert all(flickers(now) < 0.5 * flickers(then) for now, then in zip(steady[1:], free[1:], strict=True))
    first = middle(free[0])
    assert (middle(held[-1]) - first).abs().mean() < 0.5 * (middle(free[-1]) - first).abs().mean()


@pytest.mark.parametrize("below", [0.0, 1.0])
def test_going_on_needs_levels_above_and_below(below):
    with pytest.raises(ValueError, match="below lies between 0 and 1"):
        Onward(Smeared(), NOISE, below)


# --- constant memory ---------------------------------------------------------------------------------------------


def frames_held():
    """Frames of all latents that are alive, each storage counted once."""
    kept = {}
    for thing in gc.get_objects():
        if type(thing) is Tensor and thing.ndim == 5 and thing.untyped_storage().nbytes() > 4:
            kept[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes() // (4 * 4)
    return sum(kept.values())


LONG = {
    "staggered": {"offset": 8},
    "whole ends": {"offset": 8, "ends": "full"},
    "overlapping": {"hop": 6, "weights": "triangle", "solver": UniPC()},
}


@pytest.mark.parametrize("window", LONG.values(), ids=LONG)
@pytest.mark.parametrize("longer", [960, pytest.param(6400, marks=pytest.mark.slow)])
def test_frames_held_do_not_grow_with_length(window, longer):
    """All strategies on; 2x2 latents of one channel, so a frame is 16 bytes."""
    noise, begin = Noise(3), Consistent(Noise(3).of("structure"), 16, strength=0.9, turn=0.01)
    stages = [
        Stage("structure", Coherent(Gaussian(), 0.2, start=begin), even(4), window=16, start=begin),
        Stage("refine", Gaussian(0.0, 0.5), levels([0.4, 0.3, 0.2, 0.1, 0.0]), **{"window": 16, **window}),
    ]
    gc.collect()
    gc.freeze()  # what is there already need not be looked at
    most, made = {}, 0
    for length in (240, longer):
        most[length] = 0
        for i, event in enumerate(chain.run(stages, noise, timeline(length), (1, 2, 2))):
            made += event.video.shape[2] if isinstance(event, Done) else 0
            # Every so many events of the long run, in step with neither stage.
            if i % (1 if length == 240 else 7) == 0:
                most[length] = max(most[length], frames_held())
    gc.unfreeze()
    assert made == 240 + longer
    # A level of a wavefront holds about a window of its latent, of two states with three latents each, and of sums; the
    # piece in hand remembers where each level stood.
    assert 16 <= most[longer] <= most[240] <= 72 * 16


# --- recipes -----------------------------------------------------------------------------------------------------

SMALL = {f"experts.{name}.candidates": 16 for name in ("control", "spatial", "temporal")} | {
    "chain.structure.ladder.trailing.steps": 3,
    "chain.refine.ladder.below.steps": 2,
}
EXACT = recipes.load("sprites-long-exact")


def small(**changes):
    return recipes.changed(EXACT, SMALL | {"video.frames": 40} | changes)


def refused(*changes):
    with pytest.raises(RecipeError) as caught:
        dovetail.plan(EXACT, overrides=changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            ["chain.refine.hop=17", "chain.refine.offset=0"],
            "chain.refine: hop 17 leaves gaps between windows of 16; take 16",
        ),
        (["chain.refine.hop=8"], "chain.refine: an offset staggers windows that stand side by side"),
        (["chain.refine.offset=16"], "chain.refine: offset 16 is no part of a window of 16; half of it is 8"),
        (
            ["chain.refine.window=null"],
            "chain.refine: hop, offset, weights, ends and hold are said of windows; add a window",
        ),
        (["chain.refine.weights=sine"], "chain.refine: weights are those of averaged windows"),
        (
            ["chain.refine.hold=1"],
            "in windows that overlap; these do not, so take a hop below 16 as well, or say hold: null",
        ),
        (
            ["chain.structure.hold=1", "chain.structure.hop=8"],
            "in windows that overlap; coherent has a hold of its own",
        ),
        (["chain.refine.hold=2"], "chain.refine.hold.share: 2 (a number) came"),
        (["chain.refine.hold.below=0.5"], "chain.refine.hold: below says at which levels places are held"),
        (
            ["chain.refine.hold.objects=1"],
            "chain.refine.hold: objects are what stands out of places that are held; add within",
        ),
        (["chain.refine.hold.frames=1"], "chain.refine.hold: frames are held in places; add within, as in within: 2"),
        (["chain.refine.hold={withn: 2}"], "chain.refine.hold.withn: unknown key; did you mean 'within'?"),
        (
            ["chain.refine.window=null", "chain.refine.offset=0", "chain.refine.hold=1"],
            "ends and hold are said of windows",
        ),
        (
            ["chain.structure.weights=sine", "chain.structure.hop=8"],
            "chain.structure: weights are those of averaged windows",
        ),
        (["chain.structure.window=null"], "coherent draws each window to the one before, and without a window"),
        (
            ["chain.structure.window=null", "chain.structure.denoise=control"],
            "consistent repeats the noise of the first window, and without a window",
        ),
        (
            [
                "chain.structure.denoise={windowed: {of: {renoised: {of: control}}, size: 8, stride: 4, hold: 1}}",
                "chain.structure.hop=16",
            ],
            "the noise that renoised draws anew would not be heard inside of what is held; put renoised around",
        ),
        (
            [
                "chain.structure.denoise={coupled: {of: control, size: 8, stride: 4}}",
                "chain.structure.hop=8",
                "chain.structure.hold=1",
            ],
            "that coupled draws anew would not be heard inside of what is held; coupled has a hold of its own",
        ),
        (
            [
                "chain.structure.denoise={onward: {of: {renoised: {of: control}}}}",
                "chain.structure.hop=8",
                "chain.structure.hold=1",
            ],
            "the noise that renoised draws anew would not be heard inside of what is held; put renoised around",
        ),
        (["chain.structure.denoise={reinjected: control}"], "so they overlap; take a hop below 16, as in hop: 12"),
        (
            [
                "chain.refine.denoise={probing: {large: control, small: temporal}}",
                "chain.refine.offset=0",
                "chain.refine.hop=8",
            ],
            "probing goes by what whole windows showed",
        ),
        (
            ["chain.refine.noise={consistent: {}}"],
            "chain.refine.noise: noise is what a stage starts from that is given no video",
        ),
        (["start.video=a.mp4"], "chain.structure.noise: noise is what a stage starts from"),
        (
            ["chain.structure.noise={consistnt: {}}"],
            "chain.structure.noise.consistnt: unknown noise; did you mean 'consistent'",
        ),
        (["chain.structure.noise={rescheduled: {block: 5}}"], "blocks of 5 frames do not fill 16; take a divisor"),
        (
            ["chain.structure.noise={consistent: {block: 5}}"],
            "blocks of 5 frames do not fill a window of 16; take a divisor",
        ),
        (
            ["chain.structure.noise.consistent.strength=2"],
            "chain.structure.noise.consistent.strength: 2 (a number) came",
        ),
        (["chain.structure.denoise.coherent.align=alined"], "unknown value 'alined'; did you mean 'aligned'?"),
        (["chain.structure.denoise.coherent.below=1"], "pure noise says nothing of the video"),
        (["chain.structure.denoise.coherent.above=0.9"], "above 0.9 and below 0.833 leave no level between them"),
        (
            ["chain.refine.denoise={windowed: {of: {coherent: {of: temporal, strength: 0.1}}, size: 8, stride: 8}}"],
            "coherent goes by the window before",
        ),
        (["chain.refine.denoise={framewise: {reinjected: spatial}}"], "reinjected goes by the window before"),
        (["chain.structure.denoise={onward: {of: control}}"], "onward windows begin with the end of the one before"),
        (["chain.structure.denoise={onward: {of: control, below: 1.0}}", "chain.structure.hop=8"], "less than 1"),
        (["chain.structure.denoise={onward: {below: 0.8}}", "chain.structure.hop=8"], "onward.of: "),
        (
            ["chain.structure.denoise={onward: {of: control, below: 0.2}}", "chain.structure.hop=8"],
            "below 0.2 leaves out every level, so new frames would stand still",
        ),
        (
            [
                "chain.structure.denoise={onward: control}",
                "chain.structure.hop=8",
                "chain.structure.ladder={below: {of: control, timestep: 499, steps: 2}}",
            ],
            "no level lies above below 0.9, since the ladder begins at",
        ),
        (["chain.refine.denoise=spatial"], "sees at most 1 frames at once, not 8; wrap it in framewise"),
    ],
)
def test_recipes_that_cannot_be_say_what_fits(changes, says):
    assert says in refused(*changes)


def test_too_many_frames_name_the_recipe_for_long_video():
    with pytest.raises(RecipeError, match="made for long video, as sprites-long"):
        dovetail.plan("sprites", frames=600)
    short = {name: Known(exact.SCHEDULES[name], longest=16 if name == "temporal" else None) for name in EXACT.experts}
    whole = recipes.changed(EXACT, {"chain.refine.window": None, "chain.refine.offset": 0})
    with pytest.raises(RecipeError, match=r"at most 16 frames at once, not 64; .* window: 16 on its stage"):
        plan(recipes.changed(whole, {"chain.refine.denoise": "temporal"}), short)


def test_what_a_recipe_says_is_what_is_built():
    (structure, refine), noise = build(EXACT, load(EXACT).experts), Noise(0).of("structure")
    start = Consistent(noise, 16, 1.0, 0.02)
    assert structure.start == structure.denoise.start == start
    assert (structure.window, structure.hop, refine.window, refine.offset) == (16, None, 16, 8)
    assert structure.denoise.strength == 0.1
    last, before = structure.ladder.levels[3], structure.ladder.levels[2]
    assert last < structure.denoise.above < before, "not at the last step"


def test_windows_that_overlap_see_one_noise():
    """Permuted within blocks, all of it is in every window that begins with a block."""
    recipe = recipes.load("sprites-long-control")
    stage = build(recipe, load(EXACT).experts)[0]
    assert (stage.window, stage.hop, stage.fuses, stage.start.block) == (16, 8, True, 8)
    orders = [stage.start.source(torch.arange(w.start, w.stop)[None])[0].tolist() for w in stage.windows(128)]
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(16))}
    assert len({tuple(order) for order in orders}) > 10


def test_levels_are_left_along_what_the_start_shares():
    shared = {"consistent": {"block": 8, "shared": "means", "strength": 0.8}}
    renoised = {"renoised": {"of": "control", "floor": 0.8}}
    recipe = recipes.load("sprites-long-control")
    changed = {"chain.structure.noise": shared, "chain.structure.denoise": renoised}
    stage = build(recipes.changed(recipe, changed), load(EXACT).experts)[0]
    assert (stage.start.shared, stage.start.strength) == ("means", 0.8)
    assert stage.denoise.start == stage.start
    assert build(recipe, load(EXACT).experts)[0].start.shared == "frames"
    assert recipes.load("sprites-long").chain[0].denoise.floor == 0.9


def test_a_plan_counts_segments_and_windows():
    ahead = dovetail.plan("sprites-long-control", frames=600)
    assert len(list(ahead.stages[0].windows(600))) == 74, "they overlap by half"
    assert len(list(ahead.stages[1].windows(600))) == 50, "and these by a quarter"
    counts = {name: count.calls for name, count in ahead.counts.items()}
    assert counts == {"control": 74 * 4, "spatial": 50 * 10, "temporal": 50 * 5}
    straddling = dovetail.plan("sprites-long-paper", frames=600)
    assert len(list(straddling.stages[1].windows(600))) == 38
    assert ahead.passes("control") == 4 * 74 * 16 / 600, "asked without guidance"
    side_by_side = dovetail.plan("sprites-long-plain", frames=600)
    assert side_by_side.passes("control") == 4, "no frame is made in two segments"


@pytest.mark.parametrize(
    "name",
    [
        "sprites-long",
        "sprites-long-control",
        "sprites-long-fast",
        "sprites-long-paper",
        "sprites-long-plain",
        "sprites-freenoise",
        "sprites-gen-l-video",
    ],
)
def test_recipes_over_trained_experts_can_be_of_any_length(name):
    for frames in (1, 15, 601):
        steps = dovetail.plan(name, frames=frames).steps
        assert {stage for stage, *_ in steps} == {"structure", "refine"}


# --- runs --------------------------------------------------------------------------------------------------------


def test_frames_come_while_later_ones_are_still_to_be_made():
    events = list(play(small()))
    order = [event.stage if isinstance(event, Step) else type(event) for event in events]
    first, last = order.index(Piece), len(order) - 1 - order[::-1].index("structure")
    assert first < last, "the first piece is finished before the last segment is begun"
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [(piece.first, len(piece.frames)) for piece in pieces] == [(0, 8), (8, 16), (24, 16)]
    assert isinstance(events[-1], End)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.frames for step in steps if step.stage == "structure"][::3] == [(0, 15), (16, 31), (32, 39)]
    assert [step.share for step in steps] == sorted(step.share for step in steps)
    assert steps[-1].share == 1
    assert all(step.step <= step.steps for step in steps)


def test_what_is_streamed_is_what_is_generated():
    streamed = np.concatenate(list(dovetail.stream(recipe=small())))
    video = finished(play(small()))
    assert (streamed == video.frames).all()
    assert video.latent.shape[2] == len(video.frames) == 40
    assert video.settings["calls"] == {"control": 9, "spatial": 12, "temporal": 6}
    assert (finished(play(recipes.checked(dict(video.settings["recipe"])))).frames == video.frames).all()


@dataclass(frozen=True, eq=False)
class Blurred(PixelCodec):
    """A video codec that looks both ways: the first latent frame is one frame, each other four, of it, the one before
    and the `ahead` after."""

    space = replace(PixelCodec().space, compression=4)
    ahead: int = 0

    @property
    def reach(self):
        return Reach(1, self.ahead)

    def decode(self, latent):
        places = torch.arange(latent.shape[2])
        around = [latent[:, :, (places + i).clamp(0, latent.shape[2] - 1)] for i in range(-1, self.ahead + 1)]
        return super().decode((sum(around) / len(around)).repeat_interleave(4, 2)[:, :, 3:])

    def part(self, latent, asked, trail):
        assert asked.start - asked.first == min(asked.start, 1), "no more is shown than it looks at"
        yield self.decode(latent)[:, asked.frames(4)]


@pytest.mark.parametrize("ahead", [0, 3, 20])
def test_a_codec_that_looks_around_joins_the_pieces(ahead):
    """Decoded piece by piece, each when what it looks at is there, it is what the whole would be."""
    codec = Blurred(ahead=ahead)
    events = list(play(small(**{"video.frames": 4 * 39 + 1}), Cast(load(small()).experts, codec)))
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [(piece.first, len(piece.frames)) for piece in pieces] == [(0, 29), (29, 64), (93, 64)]
    assert [piece.latent.shape[2] for piece in pieces] == [8, 16, 16]
    order = [type(event) for event in events if not isinstance(event, End)]
    assert order[-3:] == {0: [Step, Step, Piece], 3: [Step, Piece, Piece], 20: [Piece] * 3}[ahead]
    video = finished(events)
    assert (video.frames == Video.of(codec.decode(video.latent), 8.0).frames).all()


@pytest.mark.parametrize("ahead", [0, 3, 20])
def test_a_codec_that_looks_ahead_takes_its_turns(ahead):
    """A turn of decoding that makes nothing yet is a turn nonetheless, and nobody is told of it."""
    cast, length = Cast(load(small()).experts, Blurred(ahead=ahead)), {"video.frames": 4 * 39 + 1}
    ours, theirs = (list(play(small(residency=how, **length), cast)) for how in ("turns", "all"))
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    assert (finished(ours).frames == finished(theirs).frames).all()


def test_a_kept_run_of_such_a_codec_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 32)
    recipe, cast = small(**{"video.frames": 4 * 39 + 1}), Cast(load(small()).experts, Blurred(ahead=3))
    list(keep(recipe, tmp_path / "whole.mp4", cast=cast))
    for stop in (9, 14, 16):
        out = tmp_path / f"{stop}.mp4"
        events = keep(recipe, out, cast=cast)
        for _ in range(stop):
            next(events)
        events.close()
        list(resume(folder_of(out), cast))
        assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    film = folder_of(out) / "video.mp4"
    film.write_bytes(film.read_bytes()[:-1])
    out.unlink()
    pieces = [event for event in resume(folder_of(out), cast) if isinstance(event, Piece)]
    assert [piece.first for piece in pieces] == [93]
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_stream_begins_at_once_whatever_its_length():
    long = small(**{"video.frames": 4000})
    assert (next(dovetail.stream(recipe=long)) == next(dovetail.stream(recipe=small()))).all()
    first, short = (next(i for i, event in enumerate(play(one)) if isinstance(event, Piece)) for one in (long, small()))
    assert first == short < 20, "as many steps before the first frames"


def made(recipe, frames):
    """What the recipe's chain makes with experts that see every latent anew, not one of a few renders."""
    experts = {name: spoken(Smeared(), exact.SCHEDULES[name], predicts_eps, name) for name in recipe.experts}
    if recipe.experts["control"].schedule == "flow":
        experts["control"] = spoken(Smeared(), Flow(), predicts_flow, "control")
    return pieces(run(build(recipe, experts), Noise(0), timeline(frames), SHAPE))[1]


FLOW_CONTROL = {
    "experts.control.schedule": "flow",
    "chain.structure.ladder": {"shifted": {"steps": 3, "shift": 3.0}},
    "chain.structure.denoise.coherent.below": 0.9,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"chain.refine.denoise.coordinated.clock": "index"},
        FLOW_CONTROL,
        {"chain.refine.offset": 0, "chain.refine.hop": 12, "chain.refine.weights": "triangle"},
        {"chain.structure.noise": {"rescheduled": {}}, "chain.structure.hop": 4, "chain.structure.denoise": "control"},
        {"chain.structure.denoise": {"reinjected": "control"}, "chain.structure.hop": 12},
    ],
    ids=["index clock", "flow control", "overlapping", "freenoise", "reinjected"],
)
def test_strategies_nest_as_all_else_does(changes):
    """Whatever is joined: the frames are not the recipe's own, and they do not hang on the video's length."""
    latent = made(small(**changes), 40)
    assert latent.shape[2] == 40
    assert not torch.allclose(latent, made(small(), 40))
    assert torch.equal(made(small(**changes), 72)[:, :, :8], latent[:, :, :8])


def test_segments_of_a_flow_control_expert_are_guided():
    """Not only held: the strength tells."""
    strength = "chain.structure.denoise.coherent.strength"
    assert not torch.allclose(made(small(**FLOW_CONTROL), 40), made(small(**FLOW_CONTROL, **{strength: 0.0}), 40))


@pytest.mark.parametrize("changes", [{"below": 0.833}, {"below": 0.95, "above": 0.9}], ids=["below", "above"])
def test_guidance_that_no_level_would_have_is_refused(changes):
    asked = small(**FLOW_CONTROL | {f"chain.structure.denoise.coherent.{key}": value for key, value in changes.items()})
    with pytest.raises(
        RecipeError, match=r"no segment would be guided; the levels .* never guided, are 1, 0\.857: take"
    ):
        dovetail.plan(asked)
    assert dovetail.plan(recipes.changed(asked, {"chain.structure.denoise.coherent.strength": 0.0}))


def test_each_strategy_has_a_switch_and_none_of_them_is_concatenation():
    off = {
        "chain.structure.noise.consistent.strength": 0.0,
        "chain.structure.denoise.coherent.strength": 0.0,
        "chain.structure.denoise.coherent.hold": 0.0,
        "chain.refine.offset": 0,
    }
    plain = {"chain.structure.noise": None, "chain.structure.denoise": "control", "chain.refine.offset": 0}
    bare = made(small(**plain), 40)
    assert torch.equal(made(small(**off), 40), bare)
    for path in off:
        alone = made(small(**{key: value for key, value in off.items() if key != path}), 40)
        assert not torch.allclose(alone, bare), path


def command(*words):
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_plans_segments_and_windows():
    said = command("plan", "sprites-long-exact", "--frames", 600)
    assert (
        "  38 windows of 16 latent frames, side by side, at the ends 8; starts from noise that is consistent, turn 0.02\n"
        in said
    )
    assert "  38 windows of 16 latent frames, straddling those before, at the ends 8\n" in said
    assert "\n  coherent, strength 0.1, hold 1.0\n    control\n" in said
    other = ["--set", "chain.structure.hop=12", "--set", "chain.structure.denoise={reinjected: control}"]
    mean = ["--set", "chain.refine.offset=0", "--set", "chain.refine.hop=4", "--set", "chain.refine.weights=pyramid"]
    said = command("plan", "sprites-long-exact", "--frames", 32, *other, *mean)
    assert "  3 windows of 16 latent frames, one every 12, in turn; starts from noise that is cons" in said
    assert "  5 windows of 16 latent frames, one every 4, averaged at each step (pyramid)\n" in said
    said = command("plan", "sprites-long-exact", "--frames", 32, *mean, "--set", "chain.refine.hold=0.5")
    assert "averaged at each step (pyramid), held to the first one (colours by 0.5)\n" in said
    onward = ("--set", "chain.structure.denoise={onward: {of: control}}", "--set", "chain.structure.noise=null")
    said = command("plan", "sprites-long-control", *onward, "--set", "chain.structure.weights=flat")
    assert "  15 windows of 16 latent frames, one every 8, in turn, held to the first one (colours by 1, places" in said
    assert "changes from one step's experts" not in said, "a level at which nobody is asked changes nothing"
    assert "control          46" in said, "4 looks of the first window, 3 of each of 14"
    places = ["--set", "chain.refine.hold={within: 2.0, below: 0.8}"]
    said = command("plan", "sprites-long-exact", "--frames", 32, *mean, *places)
    assert "(pyramid), held to the first one (colours by 1, places within 2 medians where t <= 0.8)\n" in said
    more = ["--set", "chain.refine.hold={within: 2.0, below: 0.8, objects: 0.9, frames: 0.7}"]
    said = command("plan", "sprites-long-exact", "--frames", 32, *mean, *more)
    assert (
        "what stands out in its colour by 0.9 where t <= 0.5, frames to their windows by 0.7 where t <= 0.8)\n" in said
    )
    assert "  1 window of 12" in command("plan", "sprites-long-exact", "--frames", 12, *mean[:2])


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ("{within: 2, below: 0.7, objects: 0.9, frames: 0.8}", Hold(1.0, 2.0, 0.7, objects=0.9, frames=0.8)),
        ("{share: 0, within: 2, frames: 1}", Hold(0.0, within=2.0, frames=1.0)),
        ("{share: 0, within: 2}", None),
    ],
)
def test_a_recipe_says_how_windows_are_held(asked, held):
    assert dovetail.plan("sprites-story", overrides=[f"chain.refine.hold={asked}"]).stages[1].hold == held


def test_the_command_writes_what_is_generated(tmp_path):
    changes = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]
    said = command("generate", "-r", "sprites-long-exact", "--frames", 40, "-o", tmp_path / "a.npz", *changes)
    assert said.startswith("calls: control 9, spatial 12, temporal 6 · ")
    assert (read(tmp_path / "a.npz").frames == finished(play(small())).frames).all()
