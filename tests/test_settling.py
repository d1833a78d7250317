"""SynCoS beyond its paper: a floor and a stride that are found on the way, and coupling that does not fade with length."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import dovetail
from dovetail import recipe as recipes
from dovetail.core.combine import Windowed
from dovetail.core.denoiser import timeline
from dovetail.core.exact import Gaussian
from dovetail.core.ladders import Mask, even, shifted
from dovetail.core.noise import Noise
from dovetail.core.path import Split, split
from dovetail.core.sampler import Carrying, DPMSolver2M, Euler, Solver, State, UniPC, last, sample
from dovetail.core.stages import Stage
from dovetail.core.windows import flat, gather, scatter, tile
from dovetail.errors import NetworkError, RecipeError
from dovetail.methods.reaching import anchored, between, coarse, keyframes, seam, spread
from dovetail.methods.settling import Accord, Settling
from dovetail.methods.stein import couple
from dovetail.methods.syncos import Coupled
from dovetail.recipe.build import halvings
from dovetail.run.states import Standing, packed, unpacked
from dovetail.run.watching import watched

SIZE, STRIDE, LENGTH = 8, 4, 24
FRAMES, LADDER = timeline(LENGTH), shifted(10, 3.0)
LEVELS, NOISE = LADDER.levels, Noise(5).of("story")
EMPTY = torch.zeros(1, 1, LENGTH, 4, 4)


@dataclass(frozen=True)
class Shades:
    """Videos that are one gray each, of four: each window chooses one, and knows nothing of the others. It counts rows."""

    looks: list[int] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        self.looks.append(len(x))
        shades = torch.linspace(-1, 1, 4)
        far = (x - (1 - t) * shades[:, None, None, None, None, None]).square().sum((2, 3, 4, 5))
        gray = ((-far / (2 * t**2)).softmax(0) * shades[:, None]).sum(0)
        return split(x, gray[:, None, None, None, None].expand_as(x), t)


def coupled(noise: Noise = NOISE, floor: float = 0.0, **options: Any) -> Coupled:
    return Coupled(Windowed(Shades(), SIZE, STRIDE), noise, floor, **{"kernel": "mean", **options})


def walked(method: Settling | Coupled, solver: Solver | None = None, length: int = LENGTH) -> list[State]:
    noise = method.noise if isinstance(method, Coupled) else method.coupled.noise
    frames, solver = timeline(length), solver or Euler()
    x = noise.like(torch.zeros(1, 1, length, 4, 4), frames, "start")
    if isinstance(method, Settling):
        return list(method.walk(x, frames, LEVELS, solver))
    return list(sample(method, x, frames, LEVELS, solver))


def accords(states: Sequence[State]) -> list[Accord]:
    return [state.carry for state in states if isinstance(state, Carrying)]


# --- laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Euler(), DPMSolver2M(), UniPC()], ids=repr)
def test_what_is_given_floor_and_stride_is_the_method_itself(solver: Solver) -> None:
    given = coupled(floor=0.8)
    for strides in ((), (STRIDE,)):
        mine, theirs = walked(Settling(given, None, strides=strides), solver), walked(given, solver)
        assert all(a.seen.x0.equal(b.seen.x0) and a.x.equal(b.x) for a, b in zip(mine, theirs, strict=True))


def test_what_is_beyond_the_paper_changes_nothing_where_it_is_left_out() -> None:
    given = coupled(floor=0.8)
    off = replace(given, wide=STRIDE, steps=Mask.of(LADDER, [True] * 10), anchor=0.0, keyframes=0.0)
    assert last(walked(off)).seen.x0.equal(last(walked(given)).seen.x0)


def test_one_window_has_nobody_to_go_by() -> None:
    plain = Coupled(Windowed(Shades(), LENGTH, LENGTH), NOISE, 0.8)
    for options in ({"anchor": 1.0}, {"keyframes": 1.0}):
        assert last(walked(replace(plain, **options))).seen.x0.equal(last(walked(plain)).seen.x0)
    states = walked(Settling(replace(plain, floor=0.0), strides=(4, 2)))
    assert [accord.narrowed for accord in accords(states)] == [0] * 10
    assert not any(accord.settled for accord in accords(states)), (
        "it looks again for itself, as with a floor that is given"
    )


# --- floor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_stage_two_ends_once_it_brings_next_to_nothing(seed: int) -> None:
    """What the states say is what the rule makes of the videos before and after stage 2, computed anew."""
    settling, expert = Settling(coupled(Noise(seed).of("story"))), Shades()
    states = walked(replace(settling, coupled=replace(settling.coupled, windows=Windowed(expert, SIZE, STRIDE))))
    calm, fell = 0, False
    for k, (state, accord) in enumerate(zip(states, accords(states), strict=True)):
        alone = settling.coupled.windows(state.x, state.t, FRAMES).x0
        if calm == 2:
            assert accord == accords(states)[k - 1], "it has ended for good"
            assert state.seen.x0.equal(alone)
            continue
        before, after = spread(alone, SIZE, STRIDE), spread(state.seen.x0, SIZE, STRIDE)
        if before:
            little = after <= 0.01 * float(state.seen.x0.square().mean().sqrt())
            calm = calm + 1 if little or (fell and after >= 0.95 * before) else 0
            fell = fell or after < 0.95 * before
        assert (accord.calm, accord.settled) == (calm, calm == 2)
    acted = next((k + 1 for k, accord in enumerate(accords(states)) if accord.settled), 10)
    assert expert.looks == [5] * (10 + 4 * acted)


def test_windows_that_agree_already_settle_at_once() -> None:
    states = walked(Settling(Coupled(Windowed(Gaussian(0.4, 0.001), SIZE, STRIDE), NOISE, 0.0, kernel="mean")))
    assert [accord.settled for accord in accords(states)] == [False, False, *([True] * 8)]


def test_more_patience_ends_it_later() -> None:
    def acted(calm: int) -> int:
        return sum(not accord.settled for accord in accords(walked(Settling(coupled(Noise(0).of("story")), calm))))

    assert acted(4) > acted(2) > acted(1)


def test_a_found_floor_makes_as_much_one_story_as_a_given_one() -> None:
    ends, looks = [], 0
    for seed in range(10):
        expert = Shades()
        of = Coupled(Windowed(expert, SIZE, STRIDE), Noise(seed).of("story"), 0.0, kernel="mean")
        grays = walked(Settling(of))[-1].seen.x0.mean((0, 1, 3, 4))
        ends.append(float(grays.max() - grays.min()))
        looks += sum(expert.looks)
    given = [story(kernel="mean", seed=seed, length=LENGTH) for seed in range(10)]
    alone = [story(floor=1.0, seed=seed, length=LENGTH) for seed in range(10)]
    assert sum(ends) < 0.7 * sum(alone)
    assert sum(ends) < 1.3 * sum(given)
    assert looks < 10 * 10 * 5 * 5, "in some of them stage 2 has ended"


# --- stride ------------------------------------------------------------------------------------------------------


def test_a_seam_is_what_windows_say_otherwise_where_they_overlap() -> None:
    windows = tile(6, 4, 2)  # frames 0..3 and 2..5: they share 2 and 3
    rows = torch.zeros(2, 1, 4, 1, 1)
    rows[0, 0, :, 0, 0], rows[1, 0, :, 0, 0] = torch.tensor([9.0, 9, 3, 5]), torch.tensor([5.0, 3, 7, 7])
    mean = scatter(rows, windows, flat(4), 6)
    assert mean.flatten().tolist() == [9, 9, 4, 4, 7, 7]
    assert seam(rows, torch.ones(2, 4), windows, mean) == pytest.approx((4 / (4 * 16)) ** 0.5)
    silent = torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 1]])
    assert seam(rows, silent, windows, scatter(rows, windows, silent, 6)) == 0, "a window of no weight disturbs nobody"
    whole = torch.randn(1, 2, 10, 3, 3)
    assert seam(gather(whole, timeline(10), tile(10, 4, 2))[0], torch.ones(4, 4), tile(10, 4, 2), whole) == 0
    assert seam(whole[:, :, :4], torch.ones(1, 4), [slice(0, 4)], whole[:, :, :4]) == 0, "nothing is shared"


def test_the_stride_narrows_while_windows_differ_and_above_the_floor() -> None:
    wide, narrow = 4, 2
    for limit in (1e9, 1e-9):
        method = Settling(coupled(floor=0.8), None, strides=(wide, narrow), seam=limit)
        taken = [(wide, narrow)[accord.narrowed] for accord in accords(walked(method))]
        # Pure noise tells windows nothing, so at first all say the same.
        assert taken == ([wide] * 10 if limit > 1 else [wide, *([narrow] * 9)])
    below = Settling(coupled(floor=1.0), None, strides=(wide, narrow), seam=1e-9)
    assert {accord.narrowed for accord in accords(walked(below))} == {0}


def test_the_seam_that_is_measured_is_that_of_stage_one() -> None:
    method = Settling(coupled(floor=0.8), None, strides=(4, 2, 1), seam=0.3)
    states = walked(method)
    measured = 0
    for before, (state, accord) in zip(
        [Accord(), *accords(states)], zip(states, accords(states), strict=True), strict=False
    ):
        if accord is before or accord.seam == before.seam:
            continue
        windows = replace(method.coupled.windows, stride=(4, 2, 1)[before.narrowed])
        rows, weight = windows.each(state.x, state.t, FRAMES)
        spans = tile(LENGTH, SIZE, windows.stride)
        mean = scatter(rows.x0, spans, weight, LENGTH)
        assert accord.seam == pytest.approx(seam(rows.x0, weight, spans, mean))
        assert accord.narrowed == before.narrowed + (accord.seam > 0.3)
        measured += 1
    assert measured


def test_wide_windows_below_the_floor() -> None:
    expert = Shades()
    narrow = Coupled(Windowed(expert, SIZE, 2), NOISE, 0.8, 1, wide=8)
    walked(narrow)
    above = sum(level > 0.8 for level in LEVELS[:-1])
    assert expert.looks == [9, 9] * above + [3] * (10 - above)
    found = Settling(replace(narrow, floor=0.0))
    for accord, looks in ((Accord(), [9, 9]), (Accord(settled=True), [3])):
        expert.looks.clear()
        found.look(EMPTY, 0.9, FRAMES, accord)
        assert expert.looks == looks


def test_strides_fall() -> None:
    with pytest.raises(ValueError, match=r"strides fall from wide to narrow; these do not: \(2, 4\)"):
        Settling(coupled(), strides=(2, 4))


# --- steps -------------------------------------------------------------------------------------------------------


def test_every_other_step_agrees_and_the_others_go_on_as_below_the_floor() -> None:
    expert = Shades()
    some = Coupled(Windowed(expert, SIZE, STRIDE), NOISE, 0.5, 3, steps=Mask.of(LADDER, [True, False] * 5))
    states = walked(some)
    above = sum(level > 0.5 for level in LEVELS[:-1])
    looks = iter(expert.looks)
    for k, state in enumerate(states):
        acts = k < above and k % 2 == 0
        assert [next(looks) for _ in range(4 if acts else 1)] == [5] * (4 if acts else 1)
        if not acts:
            assert state.seen.x0.equal(some.windows(state.x, state.t, FRAMES).x0)
    assert next(looks, None) is not None, "the checks above looked as well"


# --- far apart ---------------------------------------------------------------------------------------------------


def story(seed: int, length: int = 128, floor: float = 0.8, **options: Any) -> float:
    """How far the grays of a long video lie apart."""
    noise, frames = Noise(seed).of("story"), timeline(length)
    method = Coupled(Windowed(Shades(), SIZE, STRIDE), noise, floor, **options)
    x = noise.like(torch.zeros(1, 1, length, 4, 4), frames, "start")
    grays = last(sample(method, x, frames, LEVELS, Euler())).seen.x0.mean((0, 1, 3, 4))
    return float(grays.max() - grays.min())


def test_a_mean_fades_with_the_number_of_windows_and_an_anchor_does_not() -> None:
    def mean(length: int, **options: Any) -> float:
        return sum(story(seed, length, kernel="mean", **options) for seed in range(4)) / 4

    short, long = mean(24), mean(128)
    assert long > 2 * short
    assert mean(128, anchor=0.5) < 0.5 * long
    assert mean(128, keyframes=1.0) < 0.85 * long


def test_an_anchor_is_the_first_windows_coarse_look() -> None:
    """One iteration by hand: x0_i <- D_i - w (low D_i - low D_1), averaged where windows overlap."""
    x0, w, t = torch.randn(1, 1, LENGTH, 4, 4), 0.7, 0.9
    method = coupled(floor=0.5, iterations=1, kernel="identity", anchor=w)
    eps = NOISE.like(x0, FRAMES, "base", t)
    spans = tile(LENGTH, SIZE, STRIDE)
    seen = [Shades()(x0.lerp(eps, t)[:, :, span], t, FRAMES[:, span]).x0 for span in spans]
    low = [coarse(each) for each in seen]
    rows = torch.cat([each - w * (look - low[0]) for each, look in zip(seen, low, strict=True)])
    torch.testing.assert_close(method.agreed(x0, t, FRAMES).x0, scatter(rows, spans, flat(SIZE), LENGTH))
    assert anchored(torch.cat(seen))[0].eq(0).all()


@dataclass(frozen=True)
class Deaf:
    """Sees one gray in each window, whatever it is shown, as experts nearly do in much noise."""

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return split(x, (frames[:, :1].float() / LENGTH)[:, None, :, None, None].expand_as(x), t)


def test_an_anchor_adds_up_over_iterations_where_windows_share_alike() -> None:
    """Nothing else draws a window to its own look: two halves are the whole way, and four lead as far beyond."""

    def left(iterations: int) -> float:
        method = Coupled(Windowed(Deaf(), SIZE, SIZE), NOISE, 0.5, iterations, kernel="mean", anchor=0.5)
        return spread(method(EMPTY + 1, 0.9, FRAMES).x0, SIZE, SIZE)

    assert left(0) > 0.2
    assert [left(k) / left(0) for k in (1, 2, 4)] == pytest.approx([0.5, 0.0, 1.0], abs=1e-3)


def test_an_anchor_is_asked_in_every_minibatch() -> None:
    asked: list[list[int]] = []

    @dataclass(frozen=True)
    class Spy:
        def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
            asked.append(frames[:, 0].tolist())
            return Gaussian(0.4, 0.7)(x, t, frames)

    coupled(floor=0.5, iterations=20, minibatch=1, anchor=0.5, again=Spy()).agreed(EMPTY, 0.9, FRAMES)
    assert len(asked) == 20
    assert all(starts[0] == 0 and len(starts) <= 2 for starts in asked)
    assert len({tuple(starts) for starts in asked}) > 2


def test_keyframes_lie_evenly_and_what_they_are_told_passes_on_evenly() -> None:
    for length, size in ((24, 8), (25, 8), (9, 8), (100, 13)):
        at = keyframes(length, size)
        assert (int(at[0]), int(at[-1]), len(at)) == (0, length - 1, size)
        assert {b - a for a, b in pairwise(at.tolist())} <= {(length - 1) // (size - 1), -(-(length - 1) // (size - 1))}
    ramp = torch.linspace(0, 1, 8)[None, None, :, None, None].expand(1, 2, 8, 8, 8)
    told = between(ramp, 36)
    torch.testing.assert_close(told[0, 0, :, 3, 3], torch.linspace(0, 1, 36))
    assert coarse(torch.ones(2, 1, 5, 8, 8)).shape == (2, 1, 1, 8, 8)


def test_keyframes_are_shown_as_one_clip_with_their_own_frames() -> None:
    shown: list[tuple[int, ...]] = []

    @dataclass(frozen=True)
    class Spy:
        def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
            shown.extend(tuple(row) for row in frames.tolist())
            return Gaussian(0.4, 0.7)(x, t, frames)

    method = Coupled(Windowed(Gaussian(0.4, 0.7), SIZE, STRIDE), NOISE, 0.5, 1, keyframes=0.5, again=Spy())
    method(EMPTY, 0.9, FRAMES)
    assert shown[-1] == tuple(keyframes(LENGTH, SIZE).tolist())
    assert len(shown) == 5 + 1


def test_a_bandwidth_leads_from_each_its_own_to_all_alike() -> None:
    views, doubts = torch.randn(6, 2, 4, 5, 5), torch.randn(6, 2, 4, 5, 5)

    def told(bandwidth: float) -> Tensor:
        return couple("stein", views, doubts, bandwidth=bandwidth)

    torch.testing.assert_close(told(1e-3), doubts)
    torch.testing.assert_close(told(1e6), couple("mean", views, doubts), rtol=1e-4, atol=1e-4)
    assert told(1.0).equal(couple("stein", views, doubts))


# --- resuming ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 3, 6, 8])
@pytest.mark.parametrize("solver", [Euler(), UniPC()], ids=repr)
def test_it_is_resumed_at_any_level_to_the_bit(k: int, solver: Solver) -> None:
    method = Settling(coupled(minibatch=3), strides=(4, 2), seam=0.3)
    states = walked(method, solver)
    assert len({(accord.settled, accord.narrowed) for accord in accords(states)}) > 1
    past = states[max(0, k - solver.memory) : k] if solver.memory else []
    x = solver.predict(past, states[k], LEVELS[k + 1], FRAMES)
    before = states[: k + 1][-max(solver.memory, 1) :]
    rest = list(method.walk(x, FRAMES, LEVELS[k + 1 :], solver, before))
    assert accords(rest) == accords(states)[k + 1 :]
    assert rest[-1].seen.x0.equal(states[-1].seen.x0)


def test_a_carry_outlives_the_disk() -> None:
    state = accords(walked(Settling(coupled(), strides=(4, 2))))[4]
    kept = Standing(Carrying(0.5, EMPTY, Split(EMPTY, EMPTY), state))  # type: ignore[arg-type]
    assert unpacked(*packed(kept)).memory.carry == state  # type: ignore[union-attr]


def test_a_walk_says_at_which_step_a_network_failed() -> None:
    @dataclass(frozen=True)
    class Fails:
        def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
            if t < 0.7:
                raise NetworkError("video", 700.0)
            return Gaussian()(x, t, frames)

    method = Settling(Coupled(Windowed(Fails(), SIZE, STRIDE), NOISE, 0.0, 1))
    stage = watched(Stage("story", method, even(10)))
    going: Generator[State, Tensor | None, Tensor] = stage.denoise.walk(EMPTY, FRAMES, even(10).levels, Euler())  # type: ignore[union-attr]
    seen = []
    with pytest.raises(NetworkError, match="stage 'story', step 5"):
        seen.extend(going)
    assert [state.t for state in seen] == [1.0, 0.9, 0.8, pytest.approx(0.7)]


# --- as a recipe -------------------------------------------------------------------------------------------------

RECIPE = recipes.load("sprites-syncos-exact")
PLACE = "chain.video.denoise.coupled"


def changed(*changes: str) -> recipes.Recipe:
    return recipes.changed(RECIPE, [f"{PLACE}.{change}" for change in changes])


def test_auto_builds_a_walk() -> None:
    built = dovetail.plan(changed("floor=auto")).stages[0].denoise
    assert isinstance(built, Settling)
    assert (built.coupled.floor, built.calm, built.strides) == (0.5, 2, (4,))
    both = dovetail.plan(changed("floor=auto", "stride=auto", "calm=3", "gain=0.1", "seam=0.2")).stages[0].denoise
    assert both == Settling(both.coupled, 3, 0.1, (8, 4, 2), 0.2)
    assert both.coupled.windows.stride == 8
    stride = dovetail.plan(changed("stride=auto")).stages[0].denoise
    assert (stride.coupled.floor, stride.calm) == (0.9, None)
    assert recipes.parse(recipes.dump(changed("floor=auto", "stride=auto"))) == changed("floor=auto", "stride=auto")
    assert halvings(13) == (6, 3, 1)


def test_a_plan_of_auto_is_the_most_that_may_be() -> None:
    count = dovetail.plan(changed("floor=auto", "stride=auto")).counts["video"]
    above = sum(level > 0.5 for level in shifted(20, 10.0).levels)
    assert count.calls == 20 + 4 * above
    assert count.frames / 16 == len(tile(48, 16, 2)) * (20 + 4 * above)
    small = ["video.frames=32", "experts.video.candidates=16", "chain.video.ladder.shifted.steps=6"]
    asked = recipes.changed(changed("floor=auto", "stride=auto"), small)
    assert 6 < dovetail.generate(recipe=asked).settings["calls"]["video"] <= dovetail.plan(asked).counts["video"].calls


def test_the_other_words_build_what_they_say() -> None:
    built = (
        dovetail.plan(
            changed("wide=8", "steps=[1, 3]", "anchor=0.5", "keyframes=0.25", "kernel=stein", "bandwidth=2.0")
        )
        .stages[0]
        .denoise
    )
    assert isinstance(built, Coupled)
    assert (built.wide, built.anchor, built.keyframes, built.bandwidth) == (8, 0.5, 0.25, 2.0)
    assert built.steps == Mask.of(shifted(20, 10.0), [step in (1, 3) for step in range(1, 21)])


def counted(*changes: str) -> float:
    return dovetail.plan(changed(*changes)).counts["video"].frames / 16


def test_a_plan_counts_what_is_saved_and_what_is_added() -> None:
    above = sum(level > 0.9 for level in shifted(20, 10.0).levels)
    assert counted("wide=8") == 9 * 5 * above + 5 * (20 - above)
    assert counted(f"steps={list(range(1, 21, 2))}") == 9 * 20 + 9 * 4 * -(-above // 2)
    assert counted("keyframes=0.5") == 9 * (20 + 4 * above) + 4 * above
    assert counted("anchor=0.5", "minibatch=2") <= 9 * 20 + 3 * 4 * above


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["floor=autos"], "coupled.floor"),
        (["stride=0"], "coupled.stride"),
        (["wide=20"], "wide 20 leaves gaps between windows of 16; take 16 or less"),
        (["anchor=2"], "anchor: 2 .a number. came; what fits is less than or equal to 1"),
        (["calm=3"], "calm is of a floor that is found; say floor: auto, or leave out calm"),
        (["gain=0.1", "stride=auto"], "gain is of a floor that is found; say floor: auto, or leave out gain"),
        (["seam=0.2", "floor=auto"], "seam is of a stride that is found; say stride: auto, or leave out seam"),
        (["calm=0"], "calm: 0 .a number. came; what fits is greater than or equal to 1"),
        (["steps=[21]"], "step 21 is none of the ladder's 20 steps"),
        (["steps=[20]"], "windows agree above the floor alone, at steps 1 to .*, and none of these is among them"),
        (
            ["kernel=mean", "bandwidth=2"],
            "coupled: bandwidth is of a Stein kernel; say kernel: stein, or leave out bandwidth",
        ),
    ],
)
def test_an_error_says_what_fits(changes: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        dovetail.plan(changed(*changes))


def test_auto_is_a_whole_stages_and_its_windows_are_not_averaged() -> None:
    auto = "{coupled: {of: video, size: 16, stride: auto}}"
    for inside in (
        f"{{blended: {{above 0.5: {auto}, else: video}}}}",
        f"{{renoised: {{of: {auto}}}}}",
        f"{{averaged: {{spatial: video, temporal: {auto}}}}}",
        f"{{probing: {{large: {auto}, small: video}}}}",
    ):
        # The place is said once.
        once = r"^chain\.video\.denoise: (?!chain).* is a whole stage's denoiser and stands inside no other"
        with pytest.raises(RecipeError, match=once):
            dovetail.plan(recipes.changed(RECIPE, [f"chain.video.denoise={inside}"]))
    with pytest.raises(RecipeError, match="cannot be averaged where they overlap; leave out hop"):
        recipes.changed(RECIPE, [f"chain.video.denoise={auto}", "chain.video.window=32", "chain.video.hop=16"])
