"""Identities of the algebra: what must hold for any denoiser."""

import copy
import pickle
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from einops import rearrange

from dovetail.core.combine import Framewise, Guided, Windowed
from dovetail.core.denoiser import TARGETS, Condition, Expert, Prompted, Timeline, predicts_flow, timeline
from dovetail.core.exact import Gaussian
from dovetail.core.ladders import Ladder, below, even, karras, levels, shifted
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split
from dovetail.core.sampler import DPMSolver2M, Euler, State, UniPC, last, sample
from dovetail.core.schedules import Flow, VarianceExploding, VariancePreserving
from dovetail.core.tree import rewrite, walk
from dovetail.core.windows import WEIGHTS, tile
from dovetail.methods.bridge import SameIndex
from dovetail.methods.confiner import Coordinated

SD = VariancePreserving.betas("scaled_linear", 0.00085, 0.012)
LINEAR = VariancePreserving.betas("linear", 1e-4, 2e-2)
FRAMES = torch.cat([timeline(11), timeline(11, 40)])
X = Noise(1).like(torch.empty(2, 4, 11, 3, 5), FRAMES, "x")
SHARES = [1.0, 0.9, 0.5, 0.1, 0.02]


@dataclass(frozen=True)
class Painted:
    """A nonlinear denoiser that looks at each element, the time and the global frame, and at nothing else."""

    hue: float = 1.0

    def __call__(self, x, t, frames):
        when = rearrange(frames, "b f -> b 1 f 1 1")
        return split(x, torch.sin(self.hue * x + t) + 0.1 * when, t)


@dataclass(frozen=True)
class Log:
    """A denoiser, and the shapes and frames it was shown."""

    of: object
    shown: list = field(default_factory=list, compare=False)

    def __call__(self, x, t, frames):
        self.shown.append((tuple(x.shape), frames.tolist()))
        return self.of(x, t, frames)


def close(one: Split, two: Split, tolerance=1e-5):
    torch.testing.assert_close(one.x0, two.x0, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.eps, two.eps, rtol=tolerance, atol=tolerance)


# the path


@pytest.mark.parametrize("t", SHARES)
def test_split_undoes_mix(t):
    x0, eps = X.sin(), X.flip(1)
    seen = split(mix(x0, eps, t), x0, t)
    torch.testing.assert_close(seen.eps, eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", SHARES)
def test_mix_undoes_split(t):
    torch.testing.assert_close(split(X, X.sin(), t).mix(t), X)


def test_the_ends_of_the_path_are_exact():
    x0, eps = X.sin(), X.flip(1)
    assert torch.equal(mix(x0, eps, 0.0), x0)
    assert torch.equal(mix(x0, eps, 1.0), eps)


def test_a_video_has_no_noise_to_find():
    with pytest.raises(ZeroDivisionError):
        split(X, X, 0.0)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("schedule", [Flow(), SD, VarianceExploding()], ids=["flow", "vp", "ve"])
def test_an_expert_is_understood_whatever_it_predicts(schedule, target):
    """A network that answers a x0 + b eps is heard to say (x0, eps)."""
    t = schedule.share(schedule.native(0.6))
    x0, eps = X.sin(), split(X, X.sin(), t).eps
    a, b = target(schedule.scale(t) * (1 - t), schedule.scale(t) * t)
    expert = Expert("known", schedule, target, lambda x, time, conditions, frames: a * x0 + b * eps)
    close(expert.given("")(X, t, FRAMES), Split(x0, eps))


# one denoiser, combined with itself or with nothing, is that denoiser


@pytest.mark.parametrize("t", SHARES)
def test_guidance_at_scale_one_is_the_positive_and_at_zero_the_negative(t):
    yes, no = Painted(1.0), Painted(2.0)
    close(Guided(yes, no, 1.0)(X, t, FRAMES), yes(X, t, FRAMES))
    close(Guided(yes, no, 0.0)(X, t, FRAMES), no(X, t, FRAMES))
    close(Guided(yes, yes, 7.5)(X, t, FRAMES), yes(X, t, FRAMES))


def test_guidance_is_the_textbook_formula():
    yes, no = Painted(1.0)(X, 0.5, FRAMES), Painted(2.0)(X, 0.5, FRAMES)
    seen = Guided(Painted(1.0), Painted(2.0), 7.5)(X, 0.5, FRAMES)
    torch.testing.assert_close(seen.eps, no.eps + 7.5 * (yes.eps - no.eps), rtol=1e-5, atol=1e-4)
    # x0 and eps still make up the latent: guidance stays on the path.
    torch.testing.assert_close(seen.mix(0.5), X, rtol=1e-5, atol=1e-5)


def listening(name="reader"):
    """An expert that paints what its prompts' lengths say."""

    def network(x, time, conditions, frames):
        said = torch.tensor([float(len(condition.text)) for condition in conditions])
        return x.sin() * rearrange(said, "b -> b 1 1 1 1") + rearrange(frames, "b f -> b 1 f 1 1") / 10

    return Expert(name, Flow(), predicts_flow, network)


def test_joint_guidance_is_guidance_in_one_call():
    expert = listening()
    log = Log(expert.network)
    counted = replace(expert, network=lambda x, *rest: log.shown.append(len(x)) or log.of(x, *rest))
    yes, no = counted.given("a red circle"), counted.given("")
    apart = Guided(yes, no, 5.0)(X, 0.7, FRAMES)
    assert log.shown == [2, 2]
    close(Guided(yes, no, 5.0, joint=True)(X, 0.7, FRAMES), apart)
    assert log.shown == [2, 2, 4]


def test_joint_guidance_of_two_experts_is_refused():
    one, other = listening("one").given("a"), listening("other").given("")
    with pytest.raises(ValueError, match=r"'one' and 'other'.*joint=False"):
        Guided(one, other, 5.0, joint=True)
    with pytest.raises(TypeError, match=r"Windowed.*joint=False"):
        Guided(Windowed(one, 4, 2), one, 5.0, joint=True)
    with pytest.raises(TypeError, match="Gaussian"):
        Guided(one, Gaussian(), 5.0, joint=True)
    Guided(one, Gaussian(), 5.0)  # apart, anything goes


@pytest.mark.parametrize("t", SHARES)
def test_framewise_is_the_denoiser_that_looks_at_single_frames(t):
    close(Framewise(Painted())(X, t, FRAMES), Painted()(X, t, FRAMES))


def test_framewise_shows_every_frame_as_a_video_of_one():
    log = Log(Painted())
    Framewise(log)(X, 0.5, FRAMES)
    assert log.shown == [((22, 4, 1, 3, 5), [[f] for row in FRAMES.tolist() for f in row])]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("size", "stride"), [(4, 4), (4, 3), (5, 2), (3, 1), (7, 5), (1, 1), (11, 4), (16, 8)])
def test_windows_of_one_denoiser_are_that_denoiser(weights, size, stride):
    close(Windowed(Painted(), size, stride, weights)(X, 0.5, FRAMES), Painted()(X, 0.5, FRAMES))


def test_windows_travel_on_the_batch_axis_with_their_frames():
    log = Log(Painted())
    Windowed(log, 4, 3)(X, 0.5, FRAMES)
    ((shape, frames),) = log.shown
    starts = [0, 3, 6, 7]
    assert shape == (8, 4, 4, 3, 5)
    assert frames == [[row + i for i in range(s, s + 4)] for s in starts for row in (0, 40)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_overlaps_are_weighted_means(weights):
    """Against the sum written out, with a denoiser that sees which place in its window a frame has."""

    def placed(x, t, frames):
        place = torch.arange(x.shape[2], dtype=x.dtype)
        return split(x, x * 0 + rearrange(place, "f -> f 1 1"), t)

    seen = Windowed(placed, 4, 3, weights)(X, 0.5, FRAMES)
    weight = WEIGHTS[weights](4)
    for f in range(11):
        parts = [(weight[f - s], f - s) for s in (0, 3, 6, 7) if 0 <= f - s < 4]
        mean = sum(w * place for w, place in parts) / sum(w for w, _ in parts)
        torch.testing.assert_close(seen.x0[:, :, f], torch.full_like(X[:, :, f], float(mean)))


@pytest.mark.parametrize("frames", range(1, 20))
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (4, 1), (4, 3), (4, 4), (16, 5)])
def test_tiles_cover_every_frame_and_end_with_the_video(frames, size, stride):
    windows = tile(frames, size, stride)
    assert {f for w in windows for f in range(w.start, w.stop)} == set(range(frames))
    assert windows[-1].stop == frames
    assert {w.stop - w.start for w in windows} == {min(size, frames)}
    assert len({w.start for w in windows}) == len(windows)


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(ValueError, match=r"1\.\.4"):
        tile(10, 4, 5)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_window_weights_are_positive_and_symmetric(weights, size):
    weight = WEIGHTS[weights](size)
    assert weight.shape == (size,)
    assert bool((weight > 0).all())
    torch.testing.assert_close(weight, weight.flip(0))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("clock", [None, SameIndex(SD, LINEAR)], ids=["snr", "index"])
def test_experts_that_know_the_video_coordinate_at_once(clock, fresh):
    """Two exact experts of one video agree on it; what is left is the noise it was last seen through."""
    knows, noise = Gaussian(2.0, 0.0), Noise(4)
    method = Coordinated(knows, knows, noise, fresh=fresh)
    method = method if clock is None else replace(method, clock=clock)
    seen = method(X, 0.5, FRAMES)
    eps = noise.like(X, FRAMES, "back", 0.5) if fresh else noise.like(X, FRAMES, "start")
    close(seen, Split(torch.full_like(X, 2.0), eps))


def test_combinators_nest():
    d = Painted()
    nested = Windowed(Guided(Framewise(d), Windowed(d, 2, 1), 3.0), 5, 3, "sine")
    close(nested(X, 0.5, FRAMES), d(X, 0.5, FRAMES))


@dataclass(frozen=True)
class Social:
    """A denoiser in which every element of a row hangs on all the others."""

    def __call__(self, x, t, frames):
        return split(x, torch.sin(x) * x.mean((1, 2, 3, 4), keepdim=True) + 0.1 * frames.sum() / frames.numel(), t)


def listened(x, t, frames):
    """One row at a time, by construction."""
    seen = [Social()(x[i : i + 1], t, frames[i : i + 1]) for i in range(len(x))]
    return Split(torch.cat([s.x0 for s in seen]), torch.cat([s.eps for s in seen]))


@pytest.mark.parametrize(
    "combined",
    [
        lambda d: Guided(d, Painted(), 3.0),
        Framewise,
        lambda d: Windowed(d, 4, 3, "sine"),
        lambda d: Windowed(Framewise(d), 4, 3, "pyramid"),
        lambda d: Coordinated(Framewise(d), Windowed(d, 4, 4), Noise(2)),
    ],
    ids=["guided", "framewise", "windowed", "windowed-framewise", "coordinated"],
)
def test_rows_of_a_batch_do_not_see_each_other(combined):
    both = combined(listened)(X, 0.5, FRAMES)
    for i in range(2):
        row = slice(i, i + 1)
        alone = combined(listened)(X[row], 0.5, FRAMES[row])
        close(Split(both.x0[row], both.eps[row]), alone)


def test_framewise_and_windowed_are_idempotent_where_they_must_be():
    close(Framewise(Framewise(listened))(X, 0.5, FRAMES), Framewise(listened)(X, 0.5, FRAMES))
    close(Windowed(Framewise(listened), 4, 3)(X, 0.5, FRAMES), Framewise(listened)(X, 0.5, FRAMES))
    tiled = Windowed(listened, 4, 4)
    close(Windowed(tiled, 4, 4)(X, 0.5, FRAMES), tiled(X, 0.5, FRAMES))


def test_disjoint_windows_are_the_parts_put_together():
    x, frames = X[:, :, :8], FRAMES[:, :8]
    seen = Windowed(listened, 4, 4)(x, 0.5, frames)
    for part in (slice(0, 4), slice(4, 8)):
        alone = listened(x[:, :, part], 0.5, frames[:, part])
        close(Split(seen.x0[:, :, part], seen.eps[:, :, part]), alone)


def test_shapes_survive():
    x, frames = torch.randn(3, 2, 7, 4, 6), timeline(7).repeat(3, 1)
    for denoise in [Painted(), Guided(Painted(), Painted(), 2.0), Framewise(Painted()), Windowed(Painted(), 3, 2)]:
        seen = denoise(x, 0.5, frames)
        assert seen.x0.shape == seen.eps.shape == x.shape
        assert seen.x0.dtype == x.dtype


# samplers


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
def test_one_video_is_reached_on_any_ladder(solver):
    end = last(sample(Gaussian(2.0, 0.0), X, FRAMES, [1.0, 0.7, 0.1, 0.0], solver)).seen.x0
    torch.testing.assert_close(end, torch.full_like(X, 2.0))


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
@pytest.mark.parametrize("k", range(1, 9))
def test_resuming_anywhere_is_the_same_run_to_the_bit(solver, k):
    ladder = shifted(9, 3.0).levels
    states = list(sample(Painted(), X, FRAMES, ladder, solver))
    before = states[max(k - 1 - solver.memory, 0) : k - 1]
    x = solver.predict(before, states[k - 1], ladder[k], FRAMES)
    rest = list(sample(Painted(), x, FRAMES, ladder[k:], solver, before=states[max(k - solver.memory, 0) : k]))
    assert len(rest) == len(states) - k
    assert all(torch.equal(a.x, b.x) for a, b in zip(states[k:], rest, strict=True))
    assert torch.equal(states[-1].seen.x0, rest[-1].seen.x0)


def test_a_solvers_memory_is_all_it_needs():
    """With one state fewer than it asks for, the run differs; so the law above can fail."""
    ladder, solver = shifted(9, 3.0).levels, UniPC()
    states = list(sample(Painted(), X, FRAMES, ladder, solver))
    x = solver.predict(states[2:4], states[4], ladder[5], FRAMES)
    rest = last(sample(Painted(), x, FRAMES, ladder[5:], solver, before=states[4:5]))
    assert not torch.equal(states[-1].seen.x0, rest.seen.x0)


def test_pure_noise_lies_infinitely_far_away():
    """What was seen there is no guide to the slope of x0, so the second step extrapolates nothing."""
    euler, dpm = (list(sample(Painted(), X, FRAMES, even(5).levels, solver)) for solver in (Euler(), DPMSolver2M()))
    torch.testing.assert_close(dpm[2].x, euler[2].x, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(dpm[3].x, euler[3].x, rtol=1e-3, atol=1e-3)


def test_a_caller_may_send_a_changed_latent():
    walk = sample(Painted(), X, FRAMES, even(3).levels, Euler())
    next(walk)
    state = walk.send(X.flip(2))
    assert torch.equal(state.x, X.flip(2))
    assert torch.equal(state.seen.x0, Painted()(X.flip(2), state.t, FRAMES).x0)
    after = next(walk)
    assert torch.equal(after.x, state.seen.mix(after.t))


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
def test_a_sent_latent_is_not_undone(solver):
    """By a corrector, which repeats the step to it. Of this one video it has nothing to correct."""
    walk = sample(Gaussian(2.0, 0.0), X, FRAMES, shifted(6, 2.0).levels, solver)
    for _ in range(3):
        next(walk)
    torch.testing.assert_close(walk.send(X + 9).x, X + 9)


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
def test_a_method_may_leave_from_another_latent_than_it_was_given(solver):
    """Every solver goes on from the pair that was answered, on its line through the latent or not."""
    eps = X.flip(2)
    first = State(0.9, X, Split(X.sin(), eps))
    torch.testing.assert_close(solver.predict((), first, 0.6, FRAMES), first.seen.mix(0.6), rtol=1e-4, atol=1e-5)
    states = sample(lambda x, t, frames: Split(x * 0 + 2, eps), X, FRAMES, even(5, 0.9).levels, solver)
    for state in list(states)[1:]:
        torch.testing.assert_close(state.x, mix(X * 0 + 2, eps, state.t), rtol=1e-4, atol=1e-5)


def test_sampling_returns_the_latent_at_the_last_level():
    def whole(levels):
        return (yield from sample(Painted(), X, FRAMES, levels, Euler()))

    walk, states = whole([1.0, 0.5, 0.25]), []
    while True:
        try:
            states.append(next(walk))
        except StopIteration as end:
            x = end.value
            break
    assert [state.t for state in states] == [1.0, 0.5]
    assert torch.equal(x, states[-1].seen.mix(0.25))


def test_no_graph_is_kept():
    x = X.clone().requires_grad_()
    assert not last(sample(Painted(), x, FRAMES, even(2).levels, Euler())).seen.x0.requires_grad
    assert torch.is_grad_enabled()


# schedules and ladders


@pytest.mark.parametrize("vp", [SD, replace(SD, whole=False)], ids=["whole", "fractional"])
def test_every_timestep_is_found_again(vp):
    assert [vp.native(vp.share(step)) for step in range(1000)] == [float(step) for step in range(1000)]


def test_between_timesteps_time_is_a_line_in_log_snr():
    vp = replace(SD, whole=False)
    for native in (0.25, 17.5, 500.75, 998.5):
        low, high = int(native), int(native) + 1
        assert vp.share(low) < vp.share(native) < vp.share(high)
        assert vp.native(vp.share(native)) == pytest.approx(native, abs=1e-9)
    assert SD.native(vp.share(500.4)) == 500.0
    assert SD.native(vp.share(500.6)) == 501.0


def test_beyond_its_ends_a_schedule_takes_the_nearest_timestep():
    for vp in (SD, replace(SD, whole=False)):
        assert vp.native(1.0) == 999.0
        assert vp.native(1e-6) == 0.0


@pytest.mark.parametrize("native", [-1, 1000, 1e6])
def test_a_timestep_off_the_table_is_refused(native):
    with pytest.raises(ValueError, match=r"0\.\.999"):
        SD.share(native)


def test_equal_shares_are_equal_snr_on_any_schedule():
    for native in (10, 300, 900):
        signal = SD.alphas_cumprod[native]
        t = SD.share(native)
        assert (1 - t) / t == pytest.approx((signal / (1 - signal)) ** 0.5)
        assert SD.scale(t) ** 2 * ((1 - t) ** 2 + t**2) == pytest.approx(1)
    assert VarianceExploding().native(VarianceExploding().share(3.5)) == pytest.approx(3.5)
    assert VarianceExploding().scale(0.75) * (1 - 0.75) == pytest.approx(1)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_its_start():
    zero = VariancePreserving.betas("scaled_linear", 0.00085, 0.012, zero_terminal_snr=True)
    assert zero.share(999) == 1.0
    assert zero.share(0) == pytest.approx(SD.share(0))


def test_unknown_betas_are_refused():
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        VariancePreserving.betas("cosine")


def test_ladders_of_known_form():
    assert shifted(4, 1.0) == even(4)
    assert shifted(4, 3.0).levels == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0))
    sigmas = [t / (1 - t) for t in karras(5, 0.1, 10.0).levels[:-1]]
    roots = [sigma ** (1 / 7) for sigma in sigmas]
    assert (sigmas[0], sigmas[-1]) == pytest.approx((10.0, 0.1))
    assert [a - b for a, b in pairwise(roots)] == pytest.approx([(roots[0] - roots[-1]) / 4] * 4)
    assert [SD.native(t) for t in below(SD, 100, 5).levels[:-1]] == [99, 79, 59, 39, 19]
    assert below(SD, 100, 5).first == SD.share(99)


@pytest.mark.parametrize("bad", [(1.0,), (0.5, 0.5, 0.0), (0.2, 0.4, 0.0), (1.1, 0.0), (0.5, -0.1)])
def test_what_does_not_fall_is_no_ladder(bad):
    with pytest.raises(ValueError, match="each below the one before"):
        Ladder(bad, 1.0)


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ValueError, match=r"1\.\.3 steps, not 5"):
        below(SD, 3, 5)
    with pytest.raises(ValueError, match=r"0\.\.999"):
        below(SD, 2000, 5)


def test_the_last_level_need_not_be_the_video():
    assert levels([0.8, 0.4]).steps == 1


# prompts


def test_a_timeline_answers_with_what_rules_the_centre():
    story = Timeline(((0, Condition("right")), (4, Condition("down"))))
    assert [story.at(torch.tensor([f])).text for f in (0, 3, 4, 9)] == ["right", "right", "down", "down"]
    assert story.at(torch.arange(0, 4)).text == "right"  # centre 2
    assert story.at(torch.arange(2, 6)).text == "down"  # centre 4


def test_rows_are_prompted_by_their_own_frames():
    asked = []
    story = Timeline(((0, Condition("right")), (40, Condition("down"))))
    expert = replace(listening(), network=lambda x, t, conditions, frames: asked.extend(conditions) or x)
    expert.given(story)(X, 0.5, FRAMES)
    assert asked == [Condition("right"), Condition("down")]


# the tree


def test_denoisers_are_values():
    make = lambda: Windowed(Guided(listening().given("a"), listening().given(""), 3.0, joint=True), 4, 2)  # noqa: E731
    assert make() == make()
    assert hash(make()) == hash(make())
    assert "network" not in repr(make())
    assert "reader" in repr(make())
    tree = Windowed(Framewise(Gaussian(1.0, 0.5)), 4, 2, "sine")
    assert pickle.loads(pickle.dumps(tree)) == copy.deepcopy(tree) == tree
    assert eval(repr(tree)) == tree


def test_a_tree_can_be_walked():
    tree = Windowed(Guided(listening("one").given("a"), Framewise(listening("two").given("b")), 3.0), 4, 2)
    assert [part.expert.name for part in walk(tree) if isinstance(part, Prompted)] == ["one", "two"]
    assert next(iter(walk(tree))) is tree


def test_a_tree_can_be_rewritten():
    one, two = listening("one"), listening("two")
    tree = Windowed(Guided(one.given("a"), one.given(""), 3.0, joint=True), 4, 2)
    swapped = rewrite(tree, lambda part: two if part == one else part)
    assert swapped == Windowed(Guided(two.given("a"), two.given(""), 3.0, joint=True), 4, 2)
    assert rewrite(tree, lambda part: part) is tree
    wrapped = rewrite(
        replace(tree, video=one.given("a")), lambda part: Log(part) if isinstance(part, Prompted) else part
    )
    wrapped(X, 0.5, FRAMES)
    assert len(wrapped.video.shown) == 1


def test_networks_are_no_part_of_the_tree():
    @dataclass(frozen=True)
    class Heavy:
        weights: Tag

        def __call__(self, x, time, conditions, frames):
            return x

    expert = replace(listening(), network=Heavy(Tag()))
    assert not any(isinstance(part, Heavy | Tag) for part in walk(expert.given("a")))
    renamed = rewrite(expert.given("a"), lambda part: "other" if part == "reader" else part)
    assert renamed.expert.name == "other"
    assert renamed.expert.network is expert.network


@dataclass(frozen=True)
class Tag:
    """Stands for weights."""
