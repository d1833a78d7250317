"""FlowBlending: the paper's loop, its numbers and its letters; probing; the errors of its recipes."""

from collections import deque
from dataclasses import replace
from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.calibrate.choose import Schedule
from dovetail.calibrate.curves import Gap
from dovetail.core.combine import Guided
from dovetail.core.denoiser import Condition, Expert, Prompted, predicts_flow, timeline
from dovetail.core.exact import Gaussian, spoken
from dovetail.core.ladders import even, interval, shifted, spliced
from dovetail.core.path import Split, split
from dovetail.core.sampler import Carrying, DPMSolver2M, Euler, Forgetting, Solver, State, UniPC, Walk, last, sample
from dovetail.core.schedules import Flow
from dovetail.core.tree import walk
from dovetail.errors import RecipeError, SpaceError
from dovetail.experts import load as load_expert
from dovetail.experts.blocks import Notes, Reusing, Shared, blocks_of, inner, middle, parted, without
from dovetail.experts.pairs import same_text
from dovetail.experts.text import Borrowed
from dovetail.methods.flowblending import Blended
from dovetail.methods.halved import Halved
from dovetail.methods.placements import WAN_22, interleaved, placed, sandwich, scattered, stitched
from dovetail.methods.probing import Lead, Probing, divergence
from dovetail.run import Cast, finished, play
from dovetail.run import load as load_cast
from dovetail.sprites.exact import PixelCodec, load

FRAMES = timeline(3)
X = torch.randn(1, 4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LADDER = shifted(10, 3.0)
LARGE, SMALL = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)
SOLVERS = [Euler(), DPMSolver2M(), UniPC()]
LETTERS = {"L": LARGE, "S": SMALL}
EXACT = recipes.load("sprites-flowblending-exact")


def walked(denoise: Any, solver: Solver, levels: Any = LADDER.levels) -> Tensor:
    if isinstance(denoise, Walk):
        return last(denoise.walk(X, FRAMES, levels, solver)).seen.x0
    return last(sample(denoise, X, FRAMES, levels, solver)).seen.x0


def asked_of(denoise: Any) -> str:
    """Who is asked at each step of the ladder: a letter per step."""
    return "".join(
        "L" if denoise.experts[interval(t, denoise.boundaries)] == LARGE else "S" for t in LADDER.levels[:-1]
    )


# --- the paper ---------------------------------------------------------------------------------------------------


def test_the_papers_loop_transcribed() -> None:
    """Section 1: m(k) = L if k < K_e or k >= N - K_l else S; u = CFG; Euler in sigma. Experts speak velocities."""
    early, late, scale = 4, 2, {"L": 5.0, "S": 6.0}
    experts = {name: spoken(who, Flow(), predicts_flow, name) for name, who in LETTERS.items()}
    empty = {name: spoken(Gaussian(0.0, 1.0), Flow(), predicts_flow, f"empty {name}") for name in LETTERS}

    x, s = X, LADDER.levels
    for k in range(LADDER.steps):
        m = "L" if k < early or k >= LADDER.steps - late else "S"
        cond = experts[m].network(x, 1000 * s[k], (), FRAMES)
        uncond = empty[m].network(x, 1000 * s[k], (), FRAMES)
        u = uncond + scale[m] * (cond - uncond)
        x = x + (s[k + 1] - s[k]) * u

    guided = {name: Guided(experts[name].given(""), empty[name].given(""), scale[name]) for name in LETTERS}
    ours = walked(placed(LADDER, sandwich(LADDER.steps, early, late), guided), Euler())
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_a_second_solver_transcribed() -> None:
    """DPM-Solver++(2M) as its paper writes it, in alpha, sigma and lambda; the history goes on across a switch."""
    letters = sandwich(LADDER.steps, 4, 2)
    x, before, s = X, None, LADDER.levels
    for k, letter in enumerate(letters):
        x0 = LETTERS[letter](x, s[k], FRAMES).x0
        lam = [log((1 - t) / t) if 0 < t < 1 else None for t in s[k - 1 : k + 2]] if k else [None]
        guess = x0
        if before is not None and None not in lam:
            h_last, h = lam[1] - lam[0], lam[2] - lam[1]
            guess = (1 + h / h_last / 2) * x0 - (h / h_last / 2) * before
        growth = exp(-(lam[2] - lam[1])) if k and None not in lam else None
        shrunk = (1 - s[k + 1]) * growth if growth is not None else (1 - s[k]) * s[k + 1] / s[k]
        x, before = s[k + 1] / s[k] * x + ((1 - s[k + 1]) - shrunk) * guess, x0
    torch.testing.assert_close(walked(placed(LADDER, letters, LETTERS), DPMSolver2M()), x, rtol=1e-4, atol=1e-5)


def test_the_papers_totals_follow_from_its_shares_of_steps() -> None:
    """Given what a look costs (tests/test_costs.py counts it), for Wan, 50 steps: 29950, 3129, 13858 (LSS, 20 large), 19222 (LSL, 20 + 10), 24586 (SLL, 10 small) TFLOPs."""
    large, small = 599.0, 62.58

    def total(letters: str, costs: tuple[float, float] = (large, small)) -> float:
        choice = ["LS".index(letter) for letter in letters]
        return Schedule.of(choice, costs, [[0.0] * 50] * 2).cost

    assert total(sandwich(50, 50, 0)) == pytest.approx(29950, abs=1)
    assert total(sandwich(50, 0, 0)) == pytest.approx(3129, abs=1)
    assert total(sandwich(50, 20, 0)) == pytest.approx(13858, abs=1)
    assert total(sandwich(50, 20, 10)) == pytest.approx(19222, abs=1)
    assert total(stitched(50, 10)) == pytest.approx(24586, abs=1)
    ratio = (9.57, 1.0)
    assert total(sandwich(50, 20, 10), ratio) / total("L" * 50, ratio) == pytest.approx(0.6418, abs=5e-5)
    assert total(sandwich(50, 20, 0), ratio) / total("L" * 50, ratio) == pytest.approx(0.4627, abs=5e-5)


@pytest.mark.parametrize(("shift", "shares"), [(5.0, (0.883, 0.557)), (3.0, (0.818, 0.430)), (8.0, (0.923, 0.668))])
def test_boundaries_of_the_papers_shares_are_those_levels(shift: float, shares: tuple[float, float]) -> None:
    """40 % and 80 % of 50 steps as noise shares; a boundary lies just above the first level of its interval."""
    ladder = shifted(50, shift)
    for step, share in zip((20, 40), shares, strict=True):
        assert ladder.levels[step] == pytest.approx(share, abs=0.002)
        assert ladder.levels[step] < ladder.between(step) < ladder.levels[step - 1]


@pytest.mark.parametrize("t", [1.0, 0.7, 0.2, 0.01])
def test_divergence_is_the_same_from_u_and_from_x0(t: float) -> None:
    """du = -dx0 / t, and r also equals what velocities in any flow dialect give."""
    ours, theirs = LARGE(X, t, FRAMES), SMALL(X, t, FRAMES)
    u = ours.eps - ours.x0
    from_x0 = float((ours.x0 - theirs.x0).norm() / t / u.norm())
    assert divergence(ours, theirs) == pytest.approx(from_x0, rel=1e-4)
    gap = Gap.of(ours, theirs, t, t / 2)
    assert gap.velocity == pytest.approx(from_x0, rel=1e-4)
    assert gap.video == pytest.approx(float((ours.x0 - theirs.x0).square().mean().sqrt()), rel=1e-4)
    assert gap.state == pytest.approx(t / 2 * gap.video / t, rel=1e-4)
    spoken_ = [spoken(who, Flow(), predicts_flow).network(X, 1000 * t, (), FRAMES) for who in (LARGE, SMALL)]
    assert gap.cosine == pytest.approx(1 - float(torch.cosine_similarity(*(u.flatten() for u in spoken_), 0)), abs=1e-5)


# --- laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_one_expert_blended_with_itself_is_that_expert_to_the_bit(solver: Solver) -> None:
    same = Blended((LARGE, Gaussian(0.4, 0.8), LARGE), (0.8, 0.3))
    assert torch.equal(walked(same, solver), walked(LARGE, solver))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_all_large_is_lll_and_none_is_sss(solver: Solver) -> None:
    lll, sss = walked(LARGE, solver), walked(SMALL, solver)
    assert not torch.equal(lll, sss)
    experts = (LARGE, SMALL, LARGE)
    assert torch.equal(walked(Blended(experts, (0.5, 0.5)), solver), lll)
    assert torch.equal(walked(Blended(experts, (LADDER.between(10), 0.0)), solver), lll)
    assert torch.equal(walked(Blended(experts, (1.0, 0.0)), solver), sss)
    assert not torch.equal(walked(Blended(experts, (0.8, 0.3)), solver), lll)


@pytest.mark.parametrize("early", range(11))
@pytest.mark.parametrize("late", [0, 1, 5])
def test_a_placement_is_what_is_asked_and_survives_rounding(early: int, late: int) -> None:
    if early + late > LADDER.steps:
        with pytest.raises(ValueError, match="do not fit into 10"):
            sandwich(LADDER.steps, early, late)
        return
    letters = sandwich(LADDER.steps, early, late)
    blended = placed(LADDER, letters, LETTERS)
    assert asked_of(blended) == letters
    assert asked_of(replace(blended, boundaries=tuple(round(b, 3) for b in blended.boundaries))) == letters
    assert len(blended.boundaries) == letters.count("LS") + letters.count("SL") <= 2


def test_placements() -> None:
    assert sandwich(10, 4, 2) == "LLLLSSSSLL"
    assert stitched(10, 4) == "SSSSLLLLLL"
    for large in range(11):
        assert interleaved(10, large).count("L") == scattered(10, large, 3).count("L") == large
    assert interleaved(10, 5) == "SLSLSLSLSL"
    assert scattered(10, 5, 1) == scattered(10, 5, 1) != scattered(10, 5, 2)
    assert asked_of(placed(LADDER, scattered(10, 5, 1), LETTERS)) == scattered(10, 5, 1)
    wan = Blended((LARGE, SMALL), (WAN_22,))
    assert asked_of(wan) == "".join("L" if t > 0.875 else "S" for t in LADDER.levels[:-1])


@pytest.mark.parametrize("bounds", [(0.3, 0.8), (1.1, 0.3), (0.8, -0.1), (0.8,), (float("nan"), 0.3)])
def test_boundaries_that_do_not_fall_inside_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="boundaries"):
        Blended((LARGE, SMALL, LARGE), bounds)


def test_as_many_denoisers_as_steps() -> None:
    with pytest.raises(ValueError, match="10 steps needs a denoiser for each, not 2"):
        Blended.of(LADDER, [LARGE, SMALL])


# --- history -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [DPMSolver2M(), UniPC()], ids=repr)
def test_dropped_history_is_three_runs_one_after_another(solver: Solver) -> None:
    bounds = (LADDER.between(4), LADDER.between(8))
    blended = Blended((LARGE, SMALL, LARGE), bounds)
    x = X
    for who, levels in ((LARGE, LADDER.levels[:5]), (SMALL, LADDER.levels[4:9]), (LARGE, LADDER.levels[8:])):
        walk_ = sample(who, x, FRAMES, levels, solver)
        while True:
            try:
                next(walk_)
            except StopIteration as end:
                x = end.value
                break
    dropped = walked(blended, Forgetting(solver, bounds))
    assert torch.equal(dropped, x)
    assert not torch.allclose(dropped, walked(blended, solver), atol=1e-4), "kept history is another run"
    assert torch.equal(walked(blended, Forgetting(Euler(), bounds)), walked(blended, Euler()))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("k", [3, 4, 5, 8])
def test_a_blend_resumes_to_the_bit(kept: bool, k: int) -> None:
    bounds = (LADDER.between(4), LADDER.between(8))
    solver: Solver = UniPC() if kept else Forgetting(UniPC(), bounds)
    blended = Blended((LARGE, SMALL, LARGE), bounds)
    states = list(sample(blended, X, FRAMES, LADDER.levels, solver))
    x = solver.predict(states[max(0, k - solver.memory) : k], states[k], LADDER.levels[k + 1], FRAMES)
    before = states[: k + 1][-solver.memory :]
    again = last(sample(blended, x, FRAMES, LADDER.levels[k + 1 :], solver, before))
    assert torch.equal(again.seen.x0, states[-1].seen.x0)


# --- a distilled middle ------------------------------------------------------------------------------------------


def test_a_distilled_experts_levels_inside_the_large_ones() -> None:
    outer, own = shifted(50, 5.0), shifted(10, 5.0)
    early, late = outer.between(20), outer.between(40)
    ladder = spliced(outer, own, early, late)
    assert [t for t in ladder.levels if t > early] == list(outer.levels[:20])
    assert [t for t in ladder.levels if t <= late] == list(outer.levels[40:])
    middle_ = [t for t in ladder.levels if late < t <= early]
    assert middle_[0] == outer.levels[20], "where the large expert's last step arrives"
    assert middle_[1:] == [t for t in own.levels if late < t < outer.levels[20]]
    assert len(middle_) == 4
    assert ladder.first == outer.first


@pytest.mark.parametrize(("early", "late"), [(0.3, 0.8), (1.2, 0.5), (0.5, -0.1), (0.52, 0.51)])
def test_nothing_to_splice_is_refused(early: float, late: float) -> None:
    with pytest.raises(ValueError, match="spliced between boundaries"):
        spliced(even(10), even(3), early, late)


# --- half resolution, fewer blocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1.0, 0.6, 0.05])
def test_half_the_resolution_is_still_the_path(t: float) -> None:
    shown: list[tuple[Tensor, float]] = []

    def inner(x: Tensor, at: float, frames: Tensor) -> Split:
        shown.append((x, at))
        return split(x, torch.full_like(x, 0.7), at)

    eps = torch.randn(1, 4, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    x = (1 - t) * 0.7 + t * eps
    seen = Halved(inner)(x, t, timeline(8))
    ((small, at),) = shown
    assert small.shape == (1, 4, 8, 32, 32)
    assert float(((small - (1 - at) * 0.7) / at).std()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(seen.x0, torch.full_like(x, 0.7), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.mix(t), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_fewer_blocks_share_their_weights(family: str, tmp_path: Path) -> None:
    adapter = tiny_expert(family, tmp_path, layers=4).network
    name = blocks_of(adapter.module)
    assert name is not None
    whole = list(getattr(adapter.module, name))
    short = without(adapter, middle(4))
    assert middle(4) == (1,)
    assert all(a is b for a, b in zip(getattr(short.module, name), [whole[i] for i in (0, 2, 3)], strict=True))
    assert list(getattr(adapter.module, name)) == whole, "the whole network stays whole"
    x = torch.randn(1, adapter.space.channels, 2, 4, 4)
    said = (Condition("a"),)
    one, two = (network(x, 500.0, said, timeline(2)) for network in (adapter, short))
    assert one.shape == two.shape
    assert not torch.allclose(one, two, atol=1e-4)
    with pytest.raises(RecipeError, match=r"has the blocks 0\.\.3; cannot skip \[4\]"):
        without(adapter, (4,))


def tiny_expert(family: str, folder: Path, layers: int) -> Any:
    return load_expert("w", family, str(tiny.MAKERS[family](folder / family, layers=layers)))


def test_a_network_without_blocks_says_so() -> None:
    changes = {"chain.video.denoise": {"expert": "large", "skip": [0]}}
    with pytest.raises(RecipeError, match="Exact experts have no blocks"):
        list(play(recipes.changed(EXACT, {**changes, "video.frames": 2})))


# --- a middle that is reused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_a_reused_middle_is_what_the_blocks_did_before(family: str, tmp_path: Path) -> None:
    adapter = tiny_expert(family, tmp_path, layers=4).network
    assert [inner(3), inner(4), inner(9)] == [(1,), (1, 2), (2, 3, 4, 5, 6)]
    notes: Notes = deque()
    whole, part = parted(adapter, inner(4), notes)
    x, y = torch.randn(2, 2, adapter.space.channels, 2, 4, 4)
    told = (500.0, (Condition("a"), Condition("b")), timeline(2).expand(2, -1))
    assert torch.equal(whole(x, *told), adapter(x, *told))
    assert len(notes) == (2 if adapter.batch == 1 else 1), "a note for each call of the module"
    kept = list(notes)
    torch.testing.assert_close(part(x, *told), adapter(x, *told), rtol=1e-5, atol=1e-5)
    assert not notes, "a note is read once"
    notes.extend(kept)
    stale = part(y, *told)
    assert not torch.allclose(stale, adapter(y, *told), atol=1e-4)
    notes.extend(torch.zeros_like(note) for note in kept)
    torch.testing.assert_close(part(y, *told), without(adapter, inner(4))(y, *told), rtol=1e-5, atol=1e-5)
    with pytest.raises(RecipeError, match=r"follow one another; \[0, 2\] do not"):
        parted(adapter, (0, 2), notes)
    with pytest.raises(RecipeError, match=r"has the blocks 0\.\.3; cannot reuse \[4\]"):
        parted(adapter, (4,), notes)


class Halves:
    """A network whose whole looks leave a note of their time, and whose other looks answer what they find."""

    def parted(self, reused: tuple[int, ...], notes: Notes) -> tuple[Any, Any]:
        def whole(x: Tensor, time: float, *_: Any) -> Tensor:
            notes.append(torch.tensor(time))
            return torch.zeros_like(x)

        return whole, lambda x, *_: torch.full_like(x, float(notes.popleft()))


def test_only_a_fresh_look_in_full_at_more_noise_is_reused() -> None:
    shared = Shared.of(Halves(), (1,))  # type: ignore[arg-type]
    whole, reusing = Reusing(shared, False), Reusing(shared, True)
    a, b = (Condition("a"),), (Condition("b"),)

    def found(network: Reusing, time: float, said: Any = a, frames: Tensor = FRAMES, x: Tensor = X) -> float:
        return float(network(x, time, said, frames).mean())

    assert found(reusing, 900.0) == 0, "nothing to reuse yet: a look in full, which leaves its own"
    assert found(reusing, 800.0) == 900
    assert found(reusing, 700.0) == 0, "what was reused is gone"
    assert found(whole, 600.0) == 0
    assert found(whole, 500.0) == 0
    assert found(reusing, 400.0, said=b) == 0, "of another text"
    assert found(reusing, 400.0, frames=FRAMES + 3) == 0, "of other frames"
    assert found(reusing, 400.0, x=X[..., :4]) == 0, "of another size"
    assert found(reusing, 400.0) == 500
    assert [found(reusing, 300.0, said=b), found(reusing, 300.0, frames=FRAMES + 3)] == [400, 400]
    assert found(whole, 200.0) == 0
    assert found(reusing, 950.0) == 0, "another walk has begun"
    assert [time for time, _ in shared.left.values()] == [950.0], "what the walk before left is forgotten"
    assert found(reusing, 950.0) == 0, "a second look at the same level"


def test_a_recipe_says_what_is_reused_and_its_plan_counts_it() -> None:
    leaf = {"expert": "large", "reuse": [1, 2]}
    alone = recipes.changed(EXACT, {"chain.video.denoise": leaf, "video.frames": 2})
    plan = dovetail.plan(alone)
    assert plan.counts["large"].calls == 20
    assert {look.skipped: rows for look, rows in plan.shown.items()} == {(): 10, (1, 2): 10}
    ladder = plan.stages[0].ladder
    turns = {
        f"above {ladder.between(k):.6f}": "small" if k % 4 == 0 else leaf if k % 4 == 2 else "large"
        for k in range(1, 9)
    }
    mixed = recipes.changed(EXACT, {"chain.video.denoise": {"blended": {**turns, "else": "small"}}})
    # Steps from 0: L, c, L, s, L, c, L, s, then s: what steps 0 and 4 left is reused.
    shown = {(look.expert, look.skipped): rows for look, rows in dovetail.plan(mixed).shown.items()}
    assert shown == {("large", ()): 4, ("large", (1, 2)): 2, ("small", ()): 14}
    with pytest.raises(RecipeError, match="Exact experts have no blocks, so there are none to reuse"):
        list(play(alone))
    with pytest.raises(RecipeError, match="say skip or reuse"):
        recipes.changed(EXACT, {"chain.video.denoise": {**leaf, "skip": [1]}})
    other = {"blended": {"above 0.5": leaf, "else": {"expert": "large", "reuse": [2]}}}
    with pytest.raises(RecipeError, match="expert 'large' reuses other blocks in one place"):
        dovetail.plan(recipes.changed(EXACT, {"chain.video.denoise": other}))


def test_a_run_reuses_as_its_plan_says(tmp_path: Path) -> None:
    """On a tiny Wan: with one step in two reused, another video, and the same one again."""
    tiny.MAKERS["wan"](tmp_path / "wan", layers=4)
    changes = {
        "experts": {"large": {"family": "wan", "weights": str(tmp_path / "wan")}},
        "codec": {"weights": str(tmp_path / "wan"), "subfolder": "vae"},
        "chain.video.ladder": {"shifted": {"steps": 4, "shift": 3.0}},
        "chain.video.denoise": {"expert": "large", "reuse": [1, 2]},
        "video.frames": 5,
        "video.height": 32,
        "video.width": 32,
        "prompt": "a",
    }
    recipe = recipes.changed(EXACT, changes)
    cast = load_cast(recipe)
    one, again = (finished(play(recipe, cast)) for _ in range(2))
    whole = finished(play(recipes.changed(recipe, {"chain.video.denoise": "large"}), cast))
    assert one.settings["calls"] == whole.settings["calls"] == {"large": 4}
    assert torch.equal(one.latent, again.latent)
    assert not torch.equal(one.latent, whole.latent)


# --- probing -----------------------------------------------------------------------------------------------------


class Counted:
    """A denoiser that is counted."""

    def __init__(self, of: Any) -> None:
        self.of, self.calls = of, []

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        self.calls.append(t)
        return self.of(x, t, frames)


def drifting(near: float, far: float) -> Any:
    """A small expert that agrees with the large one only between two noise shares."""

    def denoise(x: Tensor, t: float, frames: Tensor) -> Split:
        seen = LARGE(x, t, frames)
        return seen if near < t < far else split(x, seen.x0 + t * (seen.eps - seen.x0), t)

    return denoise


def test_probing_finds_the_middle_by_itself() -> None:
    ladder = even(40)
    large, small = Counted(LARGE), Counted(drifting(0.25, 0.75))
    states = list(
        Probing(large, small, 0.1, 0.2, often=2, seldom=4, calm=2).walk(X, FRAMES, ladder.levels, DPMSolver2M())
    )
    led = [state.carry.small for state in states if isinstance(state, Carrying)]
    assert len(led) == 40
    changes = [ladder.levels[k] for k in range(1, 40) if led[k] != led[k - 1]]
    assert len(changes) == 2
    assert 0.6 < changes[0] < 0.75, "two calm probes after they agree"
    assert 0.1 <= changes[1] <= 0.25, "the first probe after they part"
    assert len(large.calls) < 30
    measured = [state.carry.apart for state in states]
    assert max(m for m in measured if m is not None) == pytest.approx(1.0, abs=1e-3), "du = -dx0 / t = u"


def test_probing_among_equals_and_among_strangers() -> None:
    solver = UniPC()
    assert torch.equal(walked(Probing(LARGE, LARGE, 0.1, 0.2), solver), walked(LARGE, solver))
    assert torch.equal(walked(Probing(LARGE, drifting(2.0, 3.0), 0.1, 0.2), solver), walked(LARGE, solver))
    never = Counted(LARGE)
    walked(Probing(LARGE, never, 0.1, 0.2, late=1.0), solver)
    assert never.calls == []


def test_hysteresis_keeps_who_leads_between_its_two_thresholds() -> None:
    between = Probing(LARGE, SMALL, 0.001, 10.0)
    _, lead = between.look(X, 0.5, FRAMES, Lead(small=False, since=9))
    assert not lead.small
    _, lead = between.look(X, 0.5, FRAMES, Lead(small=True, since=9))
    assert lead.small
    assert lead.apart == pytest.approx(divergence(LARGE(X, 0.5, FRAMES), SMALL(X, 0.5, FRAMES)))
    with pytest.raises(ValueError, match="enters at no more than it leaves at"):
        Probing(LARGE, SMALL, 0.3, 0.2)


@pytest.mark.parametrize("k", [0, 5, 13, 20, 33])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_probing_resumes_to_the_bit(k: int, solver: Solver) -> None:
    ladder = even(40)
    probing = Probing(LARGE, drifting(0.25, 0.75), 0.1, 0.2)
    states = list(probing.walk(X, FRAMES, ladder.levels, solver))
    recent = states[max(0, k - solver.memory) : k] if solver.memory else []
    x = solver.predict(recent, states[k], ladder.levels[k + 1], FRAMES)
    before = states[: k + 1][-max(solver.memory, 1) :]
    again = list(probing.walk(x, FRAMES, ladder.levels[k + 1 :], solver, before))
    assert torch.equal(again[-1].seen.x0, states[-1].seen.x0)
    assert [state.carry for state in again] == [state.carry for state in states[k + 1 :]]


def test_a_sent_latent_is_taken_by_a_walk() -> None:
    states = Probing(LARGE, SMALL, 0.1, 0.2).walk(X, FRAMES, LADDER.levels, Euler())
    next(states)
    assert torch.equal(states.send(torch.zeros_like(X)).x, torch.zeros_like(X))


# --- recipes -----------------------------------------------------------------------------------------------------

DISTILLED = "{spliced: {ladder: {shifted: {steps: 20, shift: 3.0}}, own: {shifted: {steps: 6, shift: 3.0}}, early: 0.833, late: 0.464}}"
PAPER = {
    "LLL": ("large", {"large": 20}, 0),
    "SSS": ("small", {"small": 20}, 0),
    "LSL": ("{blended: {above 0.833: large, above 0.464: small, else: large}}", {"large": 12, "small": 8}, 2),
    "LSS": ("{blended: {above 0.833: large, else: small}}", {"large": 8, "small": 12}, 1),
    "SLL": ("{blended: {above 0.833: small, else: large}}", {"large": 12, "small": 8}, 1),
    "LDL": ("{blended: {above 0.833: large, above 0.464: small, else: large}}", {"large": 12, "small": 3}, 2),
}


@pytest.mark.parametrize("letters", PAPER)
def test_the_papers_letters_are_recipes(letters: str) -> None:
    denoise, calls, switches = PAPER[letters]
    ladder = ["chain.video.ladder=" + DISTILLED] if letters == "LDL" else []
    recipe = recipes.changed(EXACT, [f"chain.video.denoise={denoise}", *ladder])
    assert recipes.parse(recipes.dump(recipe)) == recipe
    plan = dovetail.plan(recipe)
    assert {name: count.calls for name, count in plan.counts.items()} == calls
    assert plan.switches == {"video": switches}
    if letters != "LDL":
        assert plan.stages[0].ladder.levels == shifted(20, 3.0).levels, "one ladder, whoever is asked"


def test_the_distilled_expert_that_ships_takes_levels_of_its_own_between() -> None:
    """The large one's eight steps above and one below are of its ladder of 20; the three between begin where the first end,
    and go by a ladder of 4."""
    recipe = recipes.load("sprites-flowblending-ldl")
    assert recipe.experts["distilled"].weights == "sprites/flow-small-4"  # type: ignore[union-attr]
    plan = dovetail.plan(recipe)
    assert {name: count.calls for name, count in plan.counts.items()} == {"large": 9, "distilled": 3}
    whole, own, levels = shifted(20, 3.0).levels, shifted(4, 3.0).levels, plan.stages[0].ladder.levels
    assert levels == (*whole[:8], *own[2:4], *whole[-3:])
    assert plan.counts["distilled"].frames == 3 * 16, "without guidance, so each is one look"


def test_a_plan_says_how_often_experts_change() -> None:
    said = CliRunner().invoke(cli.app, ["plan", "sprites-flowblending-exact"]).stdout
    assert "2 changes from one step's experts to the next's" in said
    assert "    above 0.833: large\n    above 0.464: small\n    else: large\n" in said
    assert [line.split()[:2] for line in said.splitlines()[-2:]] == [["large", "12"], ["small", "8"]]


def test_each_expert_is_guided_by_itself() -> None:
    denoise = "{above 0.8: {expert: large, guidance: 2.0}, above 0.3: {halved: small}, else: large, guidance: 4.0}"
    recipe = recipes.changed(EXACT, [f"chain.video.denoise={{blended: {denoise}}}"])
    blended = dovetail.plan(recipe).stages[0].denoise
    assert isinstance(blended, Blended)
    assert [part.scale for part in walk(blended) if isinstance(part, Guided)] == [2.0, 4.0, 4.0]
    assert isinstance(blended.experts[1], Halved)
    assert recipes.parse(recipes.dump(recipe)) == recipe


@pytest.mark.parametrize(
    ("name", "height", "width", "near"),
    [
        ("flowblending-ltx", 480, 768, (512, 768)),  # 32 pixels for a latent cell, and tokens of one
        ("flowblending-wan21", 496, 832, (512, 832)),  # 8 pixels, and tokens of two
        ("sprites-flowblending-exact", 34, 36, (32, 36)),  # 2 pixels
    ],
)
def test_a_size_that_does_not_halve_is_refused_by_a_plan(
    name: str, height: int, width: int, near: tuple[int, int]
) -> None:
    denoise = {"blended": {"above 0.8": "large", "else": {"halved": "small"}}}
    changes = {"chain.0.denoise": denoise, "video.height": height, "video.width": width}
    recipe = recipes.changed(recipes.load(name), changes)
    told = rf"chain\.video\.denoise: halved shows half .* multiples of \d+, not {height}x{width}; --set"
    with pytest.raises(RecipeError, match=told) as refusal:
        dovetail.plan(recipe)
    sets = str(refusal.value).partition("; ")[2].removesuffix(" is near").split("--set ")[1:]
    fits = recipes.changed(recipe, [each.strip() for each in sets])
    assert (fits.video.height, fits.video.width) == near
    assert dovetail.plan(fits).latent is not None
    whole = recipes.changed(recipe, {"chain.0.denoise.blended": {"above 0.8": "large", "else": "small"}})
    assert dovetail.plan(whole).latent is not None, "the size as such"


def test_a_room_that_does_not_halve_is_told_by_its_own_size() -> None:
    first = {
        "stage": "draft",
        "ladder": {"even": {"steps": 2}},
        "denoise": {"halved": "small"},
        "height": 34,
        "width": 32,
    }
    second = {**first, "stage": "video", "bridge": "pixels", "denoise": "large", "height": None, "width": None}
    second |= {"ladder": {"even": {"steps": 2, "start": 0.5}}}
    recipe = recipes.changed(EXACT, {"chain": [first, second]})
    with pytest.raises(
        RecipeError, match=r"chain\.draft\.denoise: halved .* not 34x32; --set chain\.draft\.height=32 --set"
    ):
        dovetail.plan(recipe)


def test_an_expert_is_halved_once() -> None:
    with pytest.raises(RecipeError, match=r"chain\.video\.denoise: halved stands inside halved"):
        dovetail.plan(recipes.changed(EXACT, ["chain.video.denoise={halved: {halved: small}}"]))


def test_what_a_plan_lets_pass_runs_and_what_it_refuses_does_not_begin() -> None:
    few = {"video.frames": 2, "experts.large.candidates": 32, "experts.small.candidates": 24}
    halved = {"chain.video.denoise": {"halved": "small"}, "chain.video.ladder": {"even": {"steps": 2}}}
    recipe = recipes.changed(EXACT, {**few, **halved, "video.height": 36, "video.width": 36})
    assert isinstance(finished(play(recipe)), dovetail.Video)
    with pytest.raises(RecipeError, match="halved shows half"):
        next(iter(play(recipes.changed(recipe, {"video.height": 34}))))


def test_history_is_a_word_of_the_recipe() -> None:
    kept, dropped = (
        dovetail.plan(recipes.changed(EXACT, [f"chain.video.denoise.blended.history={word}"])).stages[0].solver
        for word in ("kept", "dropped")
    )
    assert kept == UniPC()
    assert dropped == Forgetting(UniPC(), (0.833, 0.464))


def test_probing_in_a_recipe_runs_and_its_plan_is_the_most_it_asks() -> None:
    probing = "{probing: {large: large, small: small, enter: 0.3, leave: 0.5, late: 0.1}}"
    few = {"video.frames": 2, "experts.large.candidates": 32, "experts.small.candidates": 24}
    recipe = recipes.changed(recipes.changed(EXACT, few), [f"chain.video.denoise={probing}"])
    assert recipes.parse(recipes.dump(recipe)) == recipe
    most = {name: count.calls for name, count in dovetail.plan(recipe).counts.items()}
    assert most["large"] == 20
    video = finished(play(recipe))
    assert isinstance(video, dovetail.Video)
    assert video.settings["calls"]["small"] > 0
    assert video.settings["calls"]["large"] <= 20


def test_a_dry_run_disagrees_about_everything() -> None:
    """Else methods that look again where experts disagree would look cheaper than they are."""
    recipe = recipes.changed(
        recipes.load("sprites-exact"),
        ["chain.refine.denoise={skipping: {spatial: {framewise: spatial}, temporal: temporal, tau: 0.3}}"],
    )
    assert dovetail.plan(recipe).counts["spatial"].calls == 10


@pytest.mark.parametrize(
    ("denoise", "said"),
    [
        ("{above 0.3: large, above 0.8: small, else: large}", "boundaries lie in [0, 1] and fall, from noise to video"),
        ("{above 0.8: large, above 0.80: small, else: large}", "boundaries lie in [0, 1] and fall"),
        ("{above 1.3: large, else: small}", "these do not: 1.3"),
        ("{above -0.3: large, else: small}", "these do not: -0.3"),
        ("{above 0.3: large}", "the last interval is missing"),
        ("{else: large}", "one interval only"),
        (
            "{above 0.3: {expert: large, guidance: 2}, else: {expert: small, guidance: 1}, guidance: 3}",
            'all experts here have one of their own already, so change theirs, as in "above 0.3".guidance',
        ),
        ("{abov 0.3: large, else: small}", "did you mean 'above 0.5'?"),
        ("{above 0.3: large, else: smal}", "no expert is called 'smal'; did you mean 'small'?"),
        ("{above 0.3: {expert: large, guidance: x}, else: small}", "blended.\"above 0.3\".guidance: 'x' (text) came"),
        ("{above 0.3: large, else: small, history: odd}", "blended.history: unknown value 'odd'"),
        ("{above 0.3: {framwise: large}, else: small}", '"above 0.3".framwise: unknown method'),
    ],
)
def test_errors_of_a_blend_say_where(denoise: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.changed(EXACT, [f"chain.video.denoise={{blended: {denoise}}}"])
    assert said in str(caught.value)
    assert "chain.video.denoise.blended" in str(caught.value)


def test_probing_stands_in_nothing() -> None:
    inside = "{windowed: {of: {probing: {large: large, small: small}}, size: 8, stride: 4}}"
    with pytest.raises(RecipeError, match="stands inside no other"):
        dovetail.plan(recipes.changed(EXACT, [f"chain.video.denoise={inside}"]))
    with pytest.raises(RecipeError, match="enters at no more than it leaves at"):
        dovetail.plan(
            recipes.changed(EXACT, ["chain.video.denoise={probing: {large: large, small: small, enter: 0.5}}"])
        )


# --- text encoders -----------------------------------------------------------------------------------------------


def reader(name: str, encoder: Any, place: str = "") -> Expert:
    class Network:
        weights = place
        text = SimpleNamespace(borrowed=Borrowed(encoder))
        space = PixelCodec().space

        def __call__(self, x: Tensor, *_: Any) -> Tensor:
            return torch.zeros_like(x)

    return Expert(name, Flow(), predicts_flow, Network())


def test_different_text_encoders_are_not_blended() -> None:
    _, clip = tiny.clip()
    _, same = tiny.clip()
    _, other = tiny.clip()
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(torch.randn(other.get_input_embeddings().weight.shape))
    _, t5 = tiny.t5()
    large = reader("large", clip)
    same_text(large, reader("small", same))
    same_text(large, reader("small", same.half()))
    same_text(large, load("exact", "control"))
    sprites = [reader(name, encoder, "sprites/x") for name, encoder in (("large", clip), ("small", other))]
    same_text(*sprites)
    with pytest.raises(SpaceError, match=r"'large' and 'small' have different text encoders \(their word embeddings\)"):
        same_text(large, reader("small", other))
    with pytest.raises(SpaceError, match="class 'CLIPTextModel' against"):
        same_text(large, reader("small", t5))
    cast = Cast({"large": large, "small": reader("small", other)}, PixelCodec())
    with pytest.raises(SpaceError, match="do not read a prompt in the same way"):
        next(play(EXACT, cast))


def test_blends_of_prompted_experts_are_values() -> None:
    expert = load("large", "control")
    one, two = (Blended((expert.given("a"), expert.given(word)), (0.5,)) for word in ("a", "b"))
    assert one != two
    assert one == Blended((expert.given("a"), expert.given("a")), (0.5,))
    assert isinstance(one.experts[0], Prompted)
    assert isinstance(State(1.0, X, one.experts[0](X[:, :3], 1.0, FRAMES)), State)
