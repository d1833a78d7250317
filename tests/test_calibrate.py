"""Calibration: what is measured, how boundaries are chosen, and the command from a recipe to a recipe."""

import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.calibrate import Calibration, Look, calibrate, comparing, running
from dovetail.calibrate.ahead import RULES, unminded
from dovetail.calibrate.candidates import Ready, case_of, in_steps, place_of, ready, variant
from dovetail.calibrate.choose import (
    Schedule,
    cheapest,
    frontier,
    interval,
    knee,
    mixture,
    sandwich,
    two_knots,
    u_shaped,
    within,
)
from dovetail.calibrate.comparing import compared, film, frames_of
from dovetail.calibrate.curves import VIEWS, measure, views
from dovetail.calibrate.judging import artifacts, oracle, pixels, psnr, sharp, similarity
from dovetail.calibrate.plot import BOUNDS, COLOURS, Line, draw
from dovetail.calibrate.prompts import GENERAL, usual
from dovetail.calibrate.report import DASHES
from dovetail.calibrate.running import Settings, filled
from dovetail.calibrate.stability import Stability, letters, stability
from dovetail.cli.calibrating import prompts_in
from dovetail.core.combine import Guided
from dovetail.core.denoiser import predicts_flow, timeline
from dovetail.core.exact import Gaussian, spoken
from dovetail.core.ladders import even, shifted
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, UniPC, last, sample
from dovetail.core.schedules import Flow
from dovetail.errors import OutputError, RecipeError, SpaceError, WeightsError
from dovetail.experts import load as load_expert
from dovetail.experts.flops import counted, flops, hollow
from dovetail.recipe import Recipe, models
from dovetail.run import Cast, finished, load, play
from dovetail.sprites import exact
from dovetail.sprites.world import Ask, caption, imagine, render

EXACT = recipes.load("sprites-flowblending-exact")
FRAMES = timeline(3)
X = Noise(5).like(torch.zeros(1, 4, 3, 6, 6), FRAMES, "start")
LARGE, SMALL = Gaussian(0.4, 0.8), Gaussian(-0.2, 0.5)


def quick(**changes: object) -> Recipe:
    small = {"video.frames": 3, "experts.large.candidates": 48, "experts.small.candidates": 8, "video.height": 32}
    ladder = {"chain.video.ladder": {"shifted": {"steps": 8, "shift": 3.0}}}
    return recipes.changed(EXACT, {**small, "video.width": 32, **ladder, **changes})


PROMPTS = ("a red circle moving right", "a blue ring on a gray plain background")
TWO = Settings(prompts=PROMPTS, unseen=PROMPTS[:1], budget=0.7)


def found(recipe: Recipe, out: Path, settings: Settings = TWO, cast: Cast | None = None) -> Calibration:
    *_, result = calibrate(recipe, out, settings, cast)
    assert isinstance(result, Calibration)
    return result


class Watched:
    """The large expert, and what it was shown."""

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Any:
        self.shown.append(x)
        return LARGE(x, t, frames)


# --- what is measured --------------------------------------------------------------------------------------------


def test_candidates_are_looked_at_on_the_large_experts_own_trajectory() -> None:
    ladder = shifted(8, 3.0)
    shown: list[Tensor] = []

    def small(x: Tensor, t: float, frames: Tensor) -> Any:
        shown.append(x)
        return SMALL(x, t, frames)

    for solver in (Euler(), UniPC()):
        shown.clear()
        looks = list(measure(LARGE, {"small": small}, X, FRAMES, ladder, solver))
        seen = Watched()
        last(sample(seen, X, FRAMES, ladder.levels, solver))
        assert [look.t for look in looks] == list(ladder.levels[:-1])
        assert all(torch.equal(a, b) for a, b in zip(shown, seen.shown, strict=True))


def test_gaps_are_the_definitions() -> None:
    ladder = shifted(6, 3.0)
    for look in measure(LARGE, {"small": SMALL}, X, FRAMES, ladder, Euler()):
        t, to = ladder.levels[look.step : look.step + 2]
        x = last(sample(LARGE, X, FRAMES, ladder.levels[: look.step + 2], Euler())).x if look.step else X
        ours, theirs = LARGE(x, t, FRAMES), SMALL(x, t, FRAMES)
        u, v = ours.eps - ours.x0, theirs.eps - theirs.x0
        gap = look.gaps["small"]["guided"]
        assert gap.velocity == pytest.approx(float((v - u).norm() / u.norm()), rel=1e-4)
        assert gap.video == pytest.approx(float((theirs.x0 - ours.x0).square().mean().sqrt()), rel=1e-4)
        assert gap.state == pytest.approx(float(((t - to) * (v - u)).square().mean().sqrt()), rel=1e-4)
        assert gap.cosine == pytest.approx(1 - float(torch.cosine_similarity(u.flatten(), v.flatten(), 0)), abs=1e-5)


def test_gains_of_a_linear_expert_are_known() -> None:
    """For one Gaussian all is linear: a look foretells its posterior gain, the whole way the flow's own ratio."""
    ladder = even(64)
    looks, ways = (list(measure(LARGE, {"small": SMALL}, X, FRAMES, ladder, Euler(), follow)) for follow in (1, 64))
    for look, way in zip(looks[:-1], ways[:-1], strict=True):
        t = ladder.levels[look.step + 1]
        variance = ((1 - t) * 0.8) ** 2 + t**2
        assert look.gains["small"] == pytest.approx((1 - t) * 0.8**2 / variance, rel=2e-3)
        assert way.gains["small"] == pytest.approx(0.8 / variance**0.5, rel=0.05)
    assert looks[-1].gains["small"] == 1


@pytest.mark.parametrize(("steps", "follow", "calls"), [(20, 1, 20 + 19), (8, 3, 8 + 18 + 11), (8, 99, 8 + 28 + 21)])
def test_measuring_calls_the_large_expert_as_often_as_is_said(steps: int, follow: int, calls: int) -> None:
    """Its own walk; each push's way in `follow` looks, or as many as are left; of the unpushed way all but the first
    look, which is the walk's next."""
    seen = Watched()
    list(measure(seen, {"small": SMALL}, X, FRAMES, shifted(steps, 3.0), UniPC(), follow))
    assert len(seen.shown) == calls


def test_an_expert_beside_itself_leaves_no_gap_and_no_gain() -> None:
    for look in measure(LARGE, {"same": Gaussian(0.4, 0.8)}, X, FRAMES, even(4), UniPC()):
        assert look.gaps["same"]["guided"].velocity == look.gaps["same"]["guided"].state == 0
        assert look.gains["same"] is None


def test_guidance_is_seen_from_three_sides() -> None:
    guided = Guided(LARGE, SMALL, 4.0)
    seen = views(guided, X, 0.5, FRAMES)
    assert torch.equal(seen["guided"].x0, guided(X, 0.5, FRAMES).x0)
    assert torch.equal(seen["conditional"].x0, LARGE(X, 0.5, FRAMES).x0)
    assert torch.equal(seen["unconditional"].x0, SMALL(X, 0.5, FRAMES).x0)
    prompted = spoken(LARGE, Flow(), predicts_flow).given("")
    assert set(views(prompted, X, 0.5, FRAMES)) == {"guided", "conditional"}
    assert set(views(LARGE, X, 0.5, FRAMES)) == {"guided"}
    # Without its guidance the same expert errs only by what guidance adds, and not at all by its branches.
    look = next(measure(guided, {"unguided": LARGE}, X, FRAMES, even(4), Euler()))
    assert look.gaps["unguided"]["guided"].velocity > 0.1


# --- choosing ----------------------------------------------------------------------------------------------------


def tangle(seed: int, candidates: int = 3, steps: int = 6) -> tuple[list[float], list[list[float]]]:
    rolls = torch.rand(candidates, steps, generator=torch.Generator().manual_seed(seed)).tolist()
    return [1.0, 0.5, 0.1][:candidates], [
        [0.0] * steps,
        *([(m + 1) * e for e in rolls[m]] for m in range(1, candidates)),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_dynamic_programming_finds_what_trying_all_finds(seed: int) -> None:
    costs, errors = tangle(seed)
    every = [Schedule.of(choice, costs, errors) for choice in itertools.product(range(3), repeat=6)]
    edge = frontier(costs, errors)
    for price in (0.0, 0.05, 0.3, 1.0, 4.0, 50.0):

        def paid(schedule: Schedule, price: float = price) -> float:
            return schedule.cost + price * schedule.error

        least = min(map(paid, every))
        assert paid(cheapest(costs, errors, price)) == pytest.approx(least)
        assert min(map(paid, edge)) == pytest.approx(least)
    assert edge[0].error == 0
    assert edge[-1].cost == pytest.approx(0.6)
    assert not any(b.cost <= a.cost and b.error < a.error for a, b in itertools.permutations(edge, 2))


@pytest.mark.parametrize("seed", range(5))
def test_who_reuses_a_step_stands_right_after_who_took_it(seed: int) -> None:
    """Candidate 2 reuses what 0 left: against every schedule in which it does."""
    costs, errors = tangle(seed)
    allowed = [
        Schedule.of(choice, costs, errors)
        for choice in itertools.product(range(3), repeat=6)
        if choice[0] != 2 and all(a == 0 for a, b in itertools.pairwise(choice) if b == 2)
    ]
    chosen = []
    for price in (0.0, 0.01, 0.1, 1.0, 10.0):
        best = cheapest(costs, errors, price, follows={2: 0})
        assert best in allowed
        assert best.cost + price * best.error == pytest.approx(min(s.cost + price * s.error for s in allowed))
        chosen.append(best)
    for schedule in frontier(costs, errors, follows={2: 0}):
        assert schedule in allowed
    assert len({schedule.choice for schedule in chosen}) > 1


@pytest.mark.parametrize("seed", range(5))
def test_what_the_convex_edge_leaves_of_a_budget_is_spent(seed: int) -> None:
    costs, errors = tangle(seed)
    every = [Schedule.of(choice, costs, errors) for choice in itertools.product(range(3), repeat=6)]
    gained = []
    for budget in (0.1 * tenths for tenths in range(8, 60, 3)):
        edge, best = within(frontier(costs, errors), budget), mixture(costs, errors, budget=budget)
        least = min(schedule.error for schedule in every if schedule.cost <= budget)
        assert best.cost <= budget
        assert least <= best.error <= edge.error
        gained.append(best.error < edge.error)
    assert any(gained)
    for budget in (3.1, 3.7, 4.4):
        choice = mixture(costs, errors, budget=budget, follows={2: 0}).choice
        assert choice[0] != 2
        assert all(a == 0 for a, b in itertools.pairwise(choice) if b == 2), "who reuses a step stands behind it"


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_is_the_best_of_all_intervals(seed: int) -> None:
    costs, errors = tangle(seed, candidates=2, steps=9)
    every = [Schedule.of(sandwich(9, early, late), costs, errors) for early in range(10) for late in range(10 - early)]
    one = interval(costs, errors, budget=7.0)
    assert one.cost <= 7.0
    assert one.error == min(schedule.error for schedule in every if schedule.cost <= 7.0)
    other = interval(costs, errors, error=1.5)
    assert other.error <= 1.5
    assert other.cost == min(schedule.cost for schedule in every if schedule.error <= 1.5)
    assert interval(costs, errors, error=0.0).choice == (0,) * 9
    with pytest.raises(ValueError, match=r"costs 1 or less; the least is 4\.5"):
        interval(costs, errors, budget=1.0)
    with pytest.raises(ValueError, match="the least is"):
        within(frontier(costs, errors), 1.0)


@pytest.mark.parametrize(("i", "j"), [(4, 12), (8, 16), (3, 17)])
def test_two_knots_are_found_where_they_are(i: int, j: int) -> None:
    """A log-divergence that is three lines, joined midway between levels."""
    levels = shifted(20, 3.0).levels[:-1]
    high, low = (levels[i - 1] + levels[i]) / 2, (levels[j - 1] + levels[j]) / 2
    curve = [2.0 ** (-3 + 20 * max(t - high, 0) + 9 * max(low - t, 0) + 0.3 * t) for t in levels]
    assert two_knots(levels, curve) == (i, j)
    assert u_shaped(curve, (i, j))
    assert two_knots(levels, [7 * r for r in curve]) == (i, j), "a scale is no threshold"
    assert not u_shaped([2.0**k for k in range(20)], (i, j))
    with pytest.raises(ValueError, match="six steps"):
        two_knots(levels[:5], curve[:5])
    with pytest.raises(ValueError, match="never differ"):
        two_knots(levels, [0.0] * 19 + [0.0])


def test_knees() -> None:
    assert knee([0, 2, 4, 6, 8], [0.2, 0.7, 0.95, 0.97, 1.0]) == 2
    assert knee([0, 1, 2], [0.5, 0.5, 0.5]) == 0
    assert knee([0, 1, 2, 3], [0.0, 0.01, 0.02, 1.0]) == 3, "nothing short of the end will do"
    assert knee([0, 1, 2], [1.0, 0.5, 0.2]) == 0, "what falls is best at its beginning"


# --- videos, compared --------------------------------------------------------------------------------------------


def test_likeness_knows_same_from_near_from_other() -> None:
    scene = imagine(Ask(shape="circle", motion="right", texture="solid"), 1)
    video = render(scene, range(6))
    near = (video + 0.02 * torch.randn(video.shape)).clamp(-1, 1)
    other = render(imagine(Ask(shape="ring", motion="up"), 3), range(6))
    for features in (pixels, oracle):
        same, close, far = (similarity(features, video, v) for v in (video, near, other))
        assert same == pytest.approx(1, abs=1e-5)
        assert far < close - 0.05
        assert far < 0.9
    assert psnr(video, video) == pytest.approx(50)
    assert 20 < psnr(video, near) < 45
    assert artifacts(video, video) == 0
    assert artifacts(near, video) > 0.01
    assert artifacts(video + 0.2, video) < 1e-5, "brightness is no detail"


def test_an_image_encoder_gives_features(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    from dovetail.experts.encoders import load_encoder

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, intermediate_size=16, projection_dim=5))
    clip.save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": {"height": 28, "width": 28}})
    )
    video = torch.rand(2, 3, 32, 32) * 2 - 1
    dino = load_encoder(str(tmp_path / "dino"))
    assert dino(video).shape == (2, 16)
    assert similarity(dino, video, video) == pytest.approx(1, abs=1e-5)
    encoder = load_encoder(str(tmp_path / "clip"))
    assert encoder(video).shape == (2, 5)
    small = torch.nn.functional.interpolate((video + 1) / 2, (28, 28), mode="bicubic", antialias=True)
    expected = clip.eval()(pixel_values=(small - 0.5) / 0.5).image_embeds
    torch.testing.assert_close(encoder(video), expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_comparison_is_one_for_the_same_video() -> None:
    recipe = quick()
    cast = load(recipe)
    at = ready(case_of(recipe, cast), cast, PROMPTS[0], 3)

    def decode(latent: Tensor) -> Tensor:
        return frames_of(cast.codec.decode(latent))

    rows = compared(at, {"LLL": (0,) * 8, "SSS": (1,) * 8}, pixels, decode, 3)
    assert rows["LLL"].similarity == pytest.approx(1, abs=1e-5)
    assert rows["LLL"].normalised >= 1 - 1e-6
    assert rows["LLL"].psnr == pytest.approx(50)
    assert rows["SSS"].normalised < rows["LLL"].normalised
    whole = recipes.changed(recipe, {"prompt": PROMPTS[0], "video.seed": 3, "chain.video.denoise": "large"})
    video = finished(play(whole, cast))
    assert isinstance(video, dovetail.Video)
    torch.testing.assert_close(film(at, (0,) * 8, lambda latent: latent), video.latent, rtol=1e-4, atol=1e-4)


# --- what a step costs -------------------------------------------------------------------------------------------


def test_flops_on_meta_tensors_see_attention(tmp_path: Path) -> None:
    """A tiny Wan, by hand: two operations per product and sum of every linear layer and of attention."""
    expert = load_expert("wan", "wan", str(tiny.MAKERS["wan"](tmp_path / "wan", layers=2)))
    module = expert.network.module  # type: ignore[attr-defined]
    channels = expert.network.space.channels  # type: ignore[attr-defined]
    small, large = (flops(expert, (channels, 3, side, side), "a") for side in (4, 8))
    config = module.config
    width = config.num_attention_heads * config.attention_head_dim
    tokens = {side: 3 * (side // 2) ** 2 for side in (4, 8)}
    quadratic = 2 * 2 * 2 * width  # two layers; two products, each a product and a sum per pair and channel
    linear = (large - small) - quadratic * (tokens[8] ** 2 - tokens[4] ** 2)
    per_token = linear / (tokens[8] - tokens[4])
    words = expert.network.text("a")[0].shape[1]  # type: ignore[attr-defined]
    patch = 2 * channels * 4 * width + 2 * width * channels * 4
    inner = config.ffn_dim
    block = 2 * width * width * 6 + 2 * 2 * width * inner + 2 * 2 * words * width
    assert per_token == pytest.approx(patch + 2 * block)
    assert flops(expert, (channels, 3, 4, 4), "a") == small, "what a text costs is no cost of a step"
    assert all(p.device.type == "meta" for p in hollow(module).parameters())
    assert all(p.device.type == "cpu" for p in module.parameters())


def test_flops_of_an_exact_expert_grow_with_what_it_knows() -> None:
    few, many = (flops(exact.load("e", "control", candidates=n), (3, 2, 8, 8), "a circle") for n in (16, 64))
    assert 2 * few < many
    assert counted(lambda: torch.ones(3, 4) @ torch.ones(4, 5)) == 2 * 3 * 4 * 5


def test_a_step_costs_both_branches_and_every_window() -> None:
    whole = quick(**{"video.frames": 8})
    cast = load(whole)

    def cost_of(denoise: str) -> float:
        recipe = recipes.changed(whole, [f"chain.video.denoise={{blended: {{above 0.5: {denoise}, else: small}}}}"])
        return case_of(recipe, cast).costs[0]

    once = cost_of("large")
    assert cost_of("{expert: large, guidance: 3.0, joint: false}") == pytest.approx(2 * once, rel=0.2)
    assert cost_of("{expert: large, guidance: 3.0}") == pytest.approx(2 * once, rel=1e-6)
    assert cost_of("{windowed: {of: large, size: 4, stride: 2}}") == pytest.approx(1.5 * once, rel=0.2)


# --- candidates --------------------------------------------------------------------------------------------------


def test_one_expert_lends_itself_as_several_candidates(tmp_path: Path) -> None:
    guided = "{blended: {above 0.5: large, else: small, guidance: 2.0}}"
    recipe = recipes.changed(quick(), [f"chain.video.denoise={guided}"])
    settings = Settings(prompts=PROMPTS[:1], also=("unguided", "halved", "shortened"), by="dp", budget=0.5)
    result = found(recipe, tmp_path, settings)
    assert result.case.names[0] == "large"
    assert set(result.case.names) == {
        *("large", "small"),
        *("large, unguided", "small, unguided", "large, halved", "small, halved"),
    }
    assert [note.split(":")[0] for note in result.case.notes] == ["large, shortened", "small, shortened"]
    assert list(result.case.costs) == sorted(result.case.costs, reverse=True)
    assert result.choices["dp"].cost <= 0.5 * 8 * result.case.costs[0]
    assert result.choices["dp"].error <= result.choices["budget"].error
    assert set(result.curves["large, unguided"]) == {"guided", "conditional"}
    assert max(result.curves["large, unguided"]["conditional"]["velocity"]) < 1e-5
    assert set(result.curves["small"]) == {"guided", "conditional", "unconditional"}
    plan = dovetail.plan(result.recipe)
    assert plan.stages[0].ladder.levels == result.ladder.levels


def tiny_pair(folder: Path) -> Recipe:
    """A large and a small transformer of random weights, made in a folder."""
    for name, layers in (("large", 4), ("small", 1)):
        tiny.MAKERS["wan"](folder / name, layers=layers)
    changes = {
        "experts": {name: {"family": "wan", "weights": str(folder / name)} for name in ("large", "small")},
        "codec": {"weights": str(folder / "large"), "subfolder": "vae"},
        "video.frames": 5,
        "chain.video.ladder": {"shifted": {"steps": 6, "shift": 3.0}},
        "prompt": "a",
    }
    return recipes.changed(quick(), changes)


def test_blocks_are_skipped_where_there_are_blocks(tmp_path: Path) -> None:
    recipe = tiny_pair(tmp_path)
    settings = Settings(prompts=("a",), unseen=("b",), also=("shortened", "halved"), by="dp", budget=0.8)
    result = found(recipe, tmp_path / "out", settings)
    assert "large, shortened" in result.case.names
    costs = dict(zip(result.case.names, result.case.costs, strict=True))
    assert costs["large"] > costs["large, shortened"] > costs["small"]
    assert costs["large"] > costs["large, halved"]
    assert "half of that must be even" in str(
        variant(models.Leaf(expert="large"), "halved", Cast({}, exact.PixelCodec()), (4, 2, 6, 6))
    )
    skipped = {"expert": "large", "skip": [1]}
    shorter = recipes.changed(recipe, {"chain.video.denoise": skipped})
    whole = recipes.changed(recipe, {"chain.video.denoise": {"expert": "large"}})
    one, two = (finished(play(each)) for each in (shorter, whole))
    assert isinstance(one, dovetail.Video)
    assert isinstance(two, dovetail.Video)
    assert one.settings["calls"] == two.settings["calls"] == {"large": 6}
    assert not torch.equal(one.latent, two.latent)


def reusing(folder: Path, between: str = "{expert: large, reuse: [1, 2]}", above: str = "large") -> Recipe:
    """The tiny pair, in whose recipe the large expert reuses its middle already."""
    three = f"{{blended: {{above 0.95: {above}, above 0.8: {between}, else: small}}}}"
    return recipes.changed(tiny_pair(folder), [f"chain.video.denoise={three}"])


def test_a_recipe_that_reuses_already_is_measured_and_placed_as_what_is_cached_by_asking(tmp_path: Path) -> None:
    settings = Settings(prompts=("a",), by="dp", budget=0.7)
    plain = found(tiny_pair(tmp_path), tmp_path / "plain", replace(settings, also=("cached",)))
    result = found(reusing(tmp_path), tmp_path / "own", settings)
    assert result.case.names == plain.case.names == ("large", "large, cached", "small")
    assert result.case.follows == plain.case.follows == {1: 0}
    assert result.curves == plain.curves
    assert result.gains == plain.gains
    assert (
        result.curves["large, cached"]["guided"]["state"][1] > 0 == result.curves["large, cached"]["guided"]["state"][0]
    )
    assert result.choices == plain.choices
    assert 1 in result.choices["dp"].choice
    assert all(a == 0 for a, b in itertools.pairwise((1, *result.choices["dp"].choice)) if b == 1)
    assert set(result.choices["budget"].choice) <= {0, 2}, "what reuses takes no steps in a row"


def test_nothing_cached_is_made_of_what_reuses_already(tmp_path: Path) -> None:
    recipe = reusing(tmp_path, "{expert: large, guidance: 2.0, reuse: [1]}", "{expert: large, guidance: 2.0}")
    case = case_of(recipe, load(recipe), ("cached", "unguided", "halved"))
    assert set(case.names) == {
        *("large", "large, cached", "large, unguided", "large, cached, unguided", "large, halved"),
        *("small", "small, halved"),
    }
    parts = {candidate.name: candidate.part for candidate in case.candidates}
    assert parts["large, cached, unguided"] == models.Leaf(expert="large", reuse=(1,))
    place = case.names.index
    assert case.follows == {
        place("large, cached"): place("large"),
        place("large, cached, unguided"): place("large, unguided"),
    }
    assert "large, cached: left out, it is large, cached" in case.notes
    assert "large, cached, cached: left out, it reuses blocks already" in case.notes
    assert "large, cached, halved: left out, it reuses blocks already" in case.notes
    recipe = reusing(tmp_path, "{expert: large, guidance: 2.0, reuse: [1]}", "{expert: large, guidance: 2.0}")
    more = recipes.changed(recipe, {'chain.video.denoise.blended."else"': "large"})
    parts = {candidate.name: candidate.part for candidate in case_of(more, load(more), ("cached",)).candidates}
    assert parts["large 2, cached"] == models.Leaf(expert="large", reuse=(1,)), "the blocks that its recipe reuses"


@pytest.mark.parametrize(
    ("above", "between", "said"),
    [
        (
            "small",
            "{expert: large, reuse: [1, 2]}",
            r'none here looks in full .* give an interval to {"expert": "large"}',
        ),
        ("{expert: large, guidance: 2.0}", "{expert: large, reuse: [1]}", r"none here looks in full"),
        ("large", "{halved: {expert: large, reuse: [1]}}", r"an expert inside halved reuses blocks.*--also cached"),
    ],
)
def test_what_reuses_without_a_look_in_full_is_refused(above: str, between: str, said: str, tmp_path: Path) -> None:
    recipe = reusing(tmp_path, between, above)
    with pytest.raises(RecipeError, match=rf"chain\.video\.denoise\.blended: .*{said}"):
        found(recipe, tmp_path / "out")
    alone = recipes.changed(
        recipe, ["chain.video.denoise={blended: {above 0.5: large, else: {expert: large, reuse: [1]}}}"]
    )
    with pytest.raises(RecipeError, match=r"one candidate only \(large\)"):
        found(alone, tmp_path / "out")


def test_the_shipped_recipe_that_reuses_knows_who_follows_whom() -> None:
    recipe = recipes.load("sprites-flowblending-any")
    case = case_of(recipe, load(recipe))
    assert set(case.names) == {"large", "large, cached", "small", "small 2"}
    assert case.follows == {case.names.index("large, cached"): case.names.index("large")}


def test_a_later_stage_is_calibrated_on_what_the_stages_before_leave(tmp_path: Path) -> None:
    first = {"stage": "draft", "ladder": {"shifted": {"steps": 4, "shift": 3.0}}, "denoise": "small"}
    second = {
        "stage": "video",
        "ladder": {"even": {"steps": 6, "start": 0.7}},
        "denoise": {"blended": {"above 0.3": "large", "else": "small"}},
    }
    recipe = recipes.changed(quick(), {"chain": [first, second]})
    cast = load(recipe)
    at = ready(case_of(recipe, cast), cast, PROMPTS[0], 4)
    whole = recipes.changed(recipe, {"prompt": PROMPTS[0], "video.seed": 4, "chain.1.denoise": "large"})
    video = finished(play(whole, cast))
    assert isinstance(video, dovetail.Video)
    torch.testing.assert_close(film(at, (0,) * 6, lambda latent: latent), video.latent, rtol=1e-4, atol=1e-4)


def test_a_stage_is_calibrated_on_the_noise_that_it_starts_from(tmp_path: Path) -> None:
    noise = {"rescheduled": {"length": 2, "block": 1}}
    recipe = quick(**{"chain.video.noise": noise})
    cast = load(recipe)
    at = ready(case_of(recipe, cast), cast, PROMPTS[0], 4)
    whole = recipes.changed(recipe, {"prompt": PROMPTS[0], "video.seed": 4, "chain.video.denoise": "large"})
    video = finished(play(whole, cast))
    steps = (0,) * at.stage.ladder.steps
    torch.testing.assert_close(film(at, steps, lambda latent: latent), video.latent, rtol=1e-4, atol=1e-4)


def test_a_stage_in_windows_is_calibrated_on_one(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"chain\.video\.window: .* sees 2 of its 3 latent frames; .* video\.frames=2"
    ):
        found(quick(**{"chain.video.window": 2}), tmp_path)
    case = case_of(one := quick(**{"chain.video.window": 3}), load(one))
    assert case.place == 0, "a window that is the whole"


# --- the paper's sweeps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("early", "late"), [(8, 4), (4, 2), (12, 0), (0, 6), (2, 10)])
def test_sweeps_find_the_shares_that_were_planted(early: int, late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos that stop being like the large expert's where it has fewer early steps, and that flicker and lose detail
    where it has fewer late ones; each prompt a little otherwise."""
    steps, features = 20, lambda frames: frames.flatten(1)[:, :2]
    maker = torch.Generator().manual_seed(early)

    def planted(at: Ready, choice: tuple[int, ...], decode: Any, x: Tensor | None = None) -> Tensor:
        head = next((k for k, who in enumerate(choice) if who), steps)
        tail = next((k for k, who in enumerate(choice[::-1]) if who), steps)
        turn = math.acos(1 - 0.03 * max(0, early - head) - 0.01 * (head < steps) - 0.005 * (x is not None))
        rough = torch.randn(6, 3, 16, 16, generator=maker)
        frames = (1 - 0.05 * max(0, late - tail)) * rough + 0.001 * tail * rough.flip(0)
        frames[:, 0, 0, :2] = torch.tensor([math.cos(turn), math.sin(turn)])
        return frames

    monkeypatch.setattr(comparing, "film", planted)
    at = ready(case_of(quick(), load(quick())), load(quick()), PROMPTS[0], 0)
    at = replace(at, stage=replace(at.stage, ladder=shifted(steps, 3.0)))
    rows = [comparing.early_sweep(at, 1, features, Tensor.clone, 0) for _ in range(4)]
    assert comparing.early_share(steps, rows) == early
    tails = [comparing.late_sweep(at, 1, early, Tensor.clone, 0) for _ in range(4)]
    assert comparing.late_share(steps, early, tails) == late


def test_a_late_share_is_where_artifacts_stop_falling() -> None:
    def chosen(*curve: float, floor: float = 0.0, early: int = 4) -> int:
        return comparing.late_share(20, early, [[*((value, 0.0) for value in curve), (floor, 0.0)]])

    assert comparing.shares(20, 4) == [0, 2, 4, 6, 8, 10, 12, 14], "the small expert keeps a step"
    assert chosen(0.08, 0.04, 0.011, 0.01, 0.01, 0.01, 0.01, 0.0105, floor=0.002) == 4
    assert chosen(0.08, 0.04, 0.011, 0.01, 0.01, 0.01, 0.01, 0.0105) == 6, "no noise, no doubt"
    assert chosen(-0.08, -0.04, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0) == 4, "detail that is lost is an artifact too"
    assert chosen(0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01) == 14, "it never stops"
    assert chosen(0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08) == 0, "the large expert's have more"
    assert chosen(*[0.01] * 8) == 0, "there is nothing to mend"
    apart = [[(0.02 + off, 0.0), (0.01 - off, 0.0), (0.0, 0.0)] for off in (-0.05, 0.0, 0.05)]
    assert comparing.late_share(20, 16, apart) == 0, "prompts differ by more than what falls"
    last = [[(0.02 + off, 0.0), (0.0, 0.0), (0.0, 0.0)] for off in (-0.05, 0.0, 0.05)]
    assert comparing.late_share(20, 16, last) == 0, "however alike they are at the last share"
    level = [[(0.02 + off, 0.0), (0.01 + off, 0.0), (0.0, 0.0)] for off in (-0.05, 0.0, 0.05)]
    assert comparing.late_share(20, 16, level) == 2, "each prompt has less, and by the same"


def test_an_early_share_is_the_last_before_likeness_drops() -> None:
    assert comparing.shares(20) == [*range(0, 20, 2)]
    drop = [0.5, 0.6, 0.7, 0.96, 0.97, 0.97, 0.975, 0.975, 0.98, 0.98]
    assert comparing.early_share(20, [[*drop, 0.99]]) == 6
    assert comparing.early_share(20, [[*drop, 0.4]]) == 0, "1 % of the noise does more than the small expert"
    assert comparing.early_share(20, [[*drop, 0.99], [*drop[1:], 1.0, 0.99]]) == 6
    assert comparing.early_share(20, [[*[0.9 + 0.01 * k for k in range(10)], 1.0]]) == 18, "it drops at once"


def test_detail_and_flicker_are_told_without_a_reference() -> None:
    rough = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    still = rough[:1].expand(5, -1, -1, -1)
    assert sharp(still)[0] == pytest.approx(sharp(still.roll(4, 3))[0], rel=0.05)
    assert sharp(still)[1] == 0 < sharp(rough)[1]
    assert sharp(0.5 * rough) == pytest.approx([amount / 2 for amount in sharp(rough)])
    assert sharp(rough[:1])[1] == 0, "one frame does not flicker"


def test_videos_are_made_as_the_written_recipe_makes_them_where_history_is_dropped() -> None:
    recipe = quick(**{"chain.video.denoise.blended.history": "dropped", "chain.video.solver": "unipc"})
    cast, choice = load(recipe), (0, 0, 1, 1, 1, 1, 0, 0)
    case = case_of(recipe, cast)
    at = ready(case, cast, PROMPTS[0], 3)
    own = filled(case, at.stage.ladder, Schedule(choice, 0, 0), "budget")
    assert isinstance(own.chain[0].denoise, models.Blended)
    assert own.chain[0].denoise.history == "dropped"
    assert recipes.dump(own).count("history: dropped") == 1
    said = {"prompt": PROMPTS[0], "video.seed": 3}
    videos = []
    for history in ("dropped", "kept"):
        video = finished(play(recipes.changed(own, {**said, "chain.0.denoise.blended.history": history}), cast))
        assert isinstance(video, dovetail.Video)
        videos.append(video.latent)
    made = film(at, choice, lambda latent: latent)
    torch.testing.assert_close(made, videos[0], rtol=1e-4, atol=1e-4)
    assert float((made - videos[1]).norm() / videos[1].norm()) > 1e-3


# --- the whole ---------------------------------------------------------------------------------------------------


def test_a_calibration_writes_a_picture_a_table_and_a_recipe_that_runs(tmp_path: Path) -> None:
    settings = Settings(prompts=PROMPTS, unseen=PROMPTS[:1], by="budget", budget=0.7, features="pixels")
    *looks, result = calibrate(quick(), tmp_path, settings, name="mine")
    assert isinstance(result, Calibration)
    assert all(isinstance(look, Look) for look in looks)
    assert {look.doing for look in looks} == {"measuring", "early sweep", "late sweep", "comparing"}
    assert [(look.prompt, look.step) for look in looks if look.doing == "measuring"] == [
        (p, k) for p in (1, 2) for k in range(1, 9)
    ]
    assert [file.name for file in result.files] == ["calibration.json", "curves.png", "mine.yaml"]
    assert set(result.choices) == {"fit", "budget", "dp", "sweep"}
    table = json.loads((tmp_path / "calibration.json").read_text())
    for rule, choice in table["choices"].items():
        assert choice["boundaries"] == list(result.boundaries(rule))
        assert choice["placed"] == result.placed(rule)
        assert len(choice["steps"]) == 8
        assert choice["switches"] == len(choice["boundaries"])
    assert table["choices"]["budget"]["cost"] <= 0.7
    paid = sum(table["flops_per_step"][name] for name in table["choices"]["budget"]["steps"])
    few = int(paid / table["flops_per_step"]["large"])
    assert set(table["likeness"]) == {"fit", "budget", "dp", "sweep", "small alone", f"large, {few} steps"}
    fewer, own = (table["likeness"][name]["normalised"] for name in (f"large, {few} steps", "budget"))
    said = [note for note in result.case.notes if "try fewer steps first" in note]
    assert bool(said) == (fewer > own)
    assert set(table["curves"]["small"]["guided"]) == {"velocity", "cosine", "video", "state"}
    assert set(table["u_shaped"]["small"]) == {"velocity", "cosine", "video", "state", "gain times state"}
    picture = Image.open(tmp_path / "curves.png")
    assert picture.size[0] == 900
    assert len(picture.getcolors(1_000_000)) > 5
    recipe = recipes.load(tmp_path / "mine.yaml")
    plan = dovetail.plan(recipe)
    assert plan.counts["large"].calls == table["choices"]["budget"]["steps"].count("large")
    assert plan.switches == {"video": table["choices"]["budget"]["switches"]}
    video = finished(play(recipe))
    assert isinstance(video, dovetail.Video)
    assert video.settings["calls"]["small"] == table["choices"]["budget"]["steps"].count("small")


def test_the_large_expert_in_fewer_steps_is_what_a_schedule_has_to_outdo(tmp_path: Path) -> None:
    """In as many as cost no more; its video is the one that the recipe itself makes on such a ladder."""
    recipe = quick()
    cast = load(recipe)
    case = case_of(recipe, cast)
    found = in_steps(recipe, 0, 3)
    assert found is not None
    assert found.chain[0].ladder.steps == 3
    at = ready(replace(case, recipe=found), cast, PROMPTS[0], 3)
    alone = recipes.changed(found, {"prompt": PROMPTS[0], "video.seed": 3, "chain.video.denoise": "large"})
    video = finished(play(alone, cast))
    assert isinstance(video, dovetail.Video)
    torch.testing.assert_close(film(at, (0, 0, 0), lambda latent: latent), video.latent, rtol=1e-4, atol=1e-4)
    listed = recipes.changed(recipe, {"chain.video.ladder": {"levels": [1.0, 0.7, 0.4, 0.0]}})
    assert in_steps(listed, 0, 2) is None, "nothing says which levels to leave out"
    assert in_steps(recipe, 0, 10**9) is None
    work = running._Work(case, cast, pixels, "pixels", tmp_path)
    whole = case.costs[0]
    assert [*work.fewer(Schedule((), 3.2 * whole, 0), 8)] == ["large, 3 steps"]
    assert not work.fewer(Schedule((), 8 * whole, 0), 8), "it saves nothing"
    assert not work.fewer(Schedule((), 0.9 * whole, 0), 8), "not one step costs as little"


@pytest.mark.parametrize(("fewer", "own", "said"), [(0.7, 0.2, True), (0.2, 0.7, False), (0.5, 0.5, False)])
def test_a_schedule_that_fewer_steps_outdo_is_said_to_be(fewer: float, own: float, said: bool) -> None:
    from dovetail.calibrate.running import _outdone

    notes = _outdone(
        {"large, 10 steps": {"normalised": fewer}, "budget": {"normalised": own}}, "budget", ["large, 10 steps"]
    )
    assert [note.startswith("rule budget: large, 10 steps, which cost no more") for note in notes] == [True] * said
    assert not _outdone({"budget": {"normalised": own}}, "budget", [])


def test_a_stopped_calibration_goes_on_where_it_was(tmp_path: Path) -> None:
    events = calibrate(quick(), tmp_path / "a", TWO)
    for event in events:
        if isinstance(event, Look) and event.prompt == 2:
            break
    events.close()  # type: ignore[attr-defined]
    rest = list(calibrate(quick(), tmp_path / "a", TWO))
    assert [look.prompt for look in rest if isinstance(look, Look)] == [2] * 8, "the first prompt is done"
    again = list(calibrate(quick(), tmp_path / "a", TWO))
    assert len(again) == 1
    found(quick(), tmp_path / "b", TWO)
    assert (tmp_path / "a" / "calibration.json").read_text() == (tmp_path / "b" / "calibration.json").read_text()


def test_comparisons_that_were_stopped_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []

    def counted_film(at: Ready, choice: tuple[int, ...], decode: Any, x: Tensor | None = None) -> Tensor:
        made.append(tuple(choice))
        return film(at, choice, decode, x)

    monkeypatch.setattr(comparing, "film", counted_film)
    settings = replace(TWO, prompts=PROMPTS[:1], unseen=PROMPTS, features="pixels")
    whole = found(quick(), tmp_path / "b", settings)
    made.clear()
    events = calibrate(quick(), tmp_path / "a", settings)
    for event in events:
        if isinstance(event, Look) and (event.doing, event.prompt) == ("comparing", 2):
            break
    events.close()  # type: ignore[attr-defined]
    before = len(made)
    result = found(quick(), tmp_path / "a", settings)
    one = 3 + len(whole.likeness)
    assert len(made) - before == one, "the large expert's, another seed's, a nudge's, and the schemes' of one prompt"
    assert result.likeness == whole.likeness
    for name in ("calibration.json", "recipe.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    made.clear()
    found(quick(), tmp_path / "a", settings)
    assert not made
    found(quick(), tmp_path / "a", replace(settings, budget=0.6))
    assert len(made) == 2 * one, "other choices, other videos"
    made.clear()
    found(quick(), tmp_path / "a", replace(settings, features="oracle"))
    assert len(made) > 2 * one, "other features, other likeness"
    made.clear()
    found(quick(**{"chain.video.denoise.blended.history": "dropped"}), tmp_path / "a", settings)
    assert len(made) > 2 * one, "another history, other videos"


def test_what_an_encoder_said_is_not_taken_for_another_of_its_name(tmp_path: Path) -> None:
    class Learned(torch.nn.Module):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.module = torch.nn.Linear(1, 1)
            torch.nn.init.constant_(self.module.weight, weight)
            torch.nn.init.zeros_(self.module.bias)

    case: Any = None
    works = [running._Work(case, case, Learned(weight), "./encoder", tmp_path) for weight in (1.0, 1.0, 2.0)]
    assert works[0].compares == works[1].compares != works[2].compares
    assert running._Work(case, case, pixels, "pixels", tmp_path).compares == ["pixels"]


def test_what_was_measured_with_other_settings_is_not_taken(tmp_path: Path) -> None:
    found(quick(), tmp_path)
    for change in (
        {"experts.small.candidates": 9},
        {"chain.video.solver": "euler"},
        {"video.seed": 5},
        {"chain.video.ladder.shifted.steps": 9},
    ):
        assert len(list(calibrate(quick(**change), tmp_path, TWO))) > 1, change
    moved = {"chain.video.denoise": {"blended": {"above 0.5": "large", "else": "small"}}, "about": "else"}
    assert len(list(calibrate(quick(**moved), tmp_path, TWO))) == 1, "boundaries are what is looked for"


def test_a_field_that_is_not_set_makes_no_measurement_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if recipes, and candidates in them, had got a field since."""
    recipe = quick()
    case, plain, dumped = case_of(recipe, load(recipe)), recipes.plain, models.Leaf.model_dump

    def more(recipe: Recipe, value: object = None) -> dict[str, Any]:
        said = plain(recipe)
        return {**said, "new": value, "video": {**said["video"], "new": value}}

    assert case.digest
    monkeypatch.setattr(recipes, "plain", more)
    monkeypatch.setattr(models.Leaf, "model_dump", lambda part, **how: {**dumped(part, **how), "new": None})
    assert replace(case).digest == case.digest
    monkeypatch.setattr(recipes, "plain", lambda recipe: more(recipe, 1))
    assert replace(case).digest != case.digest, "a field that is set counts"


def test_other_weights_in_the_same_place_are_measured_anew(tmp_path: Path) -> None:
    recipe = tiny_pair(tmp_path)
    settings = Settings(prompts=("a",), unseen=("b",), by="budget", budget=0.8)
    before = found(recipe, tmp_path / "out", settings)
    assert len(list(calibrate(recipe, tmp_path / "out", settings))) == 1, "the same weights, loaded again"
    file = next((tmp_path / "small" / "transformer").glob("*.safetensors"))
    weights = {name: weight + 0.3 * torch.randn_like(weight) for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    *looks, after = calibrate(recipe, tmp_path / "out", settings)
    assert len(looks) == 6
    assert isinstance(after, Calibration)
    assert after.curves["small"]["guided"]["velocity"] != before.curves["small"]["guided"]["velocity"]


def test_half_written_measurements_are_made_again(tmp_path: Path) -> None:
    found(quick(), tmp_path)
    file = next((tmp_path / "measured").glob("curves-*.json"))
    file.write_text(file.read_text()[:100])
    assert len(list(calibrate(quick(), tmp_path, TWO))) == 9


def test_a_choice_says_how_stable_it_is_over_prompts() -> None:
    """Two kinds of prompts, whose small expert errs early or late: a rule over their median flips with their numbers."""
    ladder = shifted(10, 3.0)

    def rule(velocity: Sequence[float], left: Sequence[float]) -> tuple[int, ...]:
        return interval((1.0, 0.1), [[0.0] * 10, left], budget=5.5).choice

    early, late = ([0.0] * 10, [1.0] * 5 + [0.1] * 5), ([0.0] * 10, [0.1] * 5 + [1.0] * 5)
    sure = stability(rule, ladder, [early] * 8)
    assert (sure.letters, sure.same, sure.firm) == ("LS", 1.0, True)
    assert sure.intervals == ((ladder.between(5), ladder.between(5)),)
    torn = stability(rule, ladder, [*[early] * 5, *[late] * 3])
    assert torn.letters == "LS"
    assert not torn.firm
    assert set(torn.shares) == {"LS", "SL"}
    assert sum(torn.shares.values()) == pytest.approx(1)
    chance = sum(math.comb(8, k) * (5 / 8) ** k * (3 / 8) ** (8 - k) for k in range(5, 9))
    ties = math.comb(8, 4) * (15 / 64) ** 4
    assert chance - 0.08 < torn.same < chance + ties + 0.08, "binomial, with 8 prompts drawn from 8"
    steep = [([0.0] * 10, [1.0] * k + [0.1] * (10 - k)) for k in (1, 2, 3, 4, 5)]
    between = stability(lambda _, left: sandwich(10, sum(e > 0.5 for e in left), 0), ladder, steep)
    ((low, high),) = between.intervals
    assert low < ladder.between(3) < high, "the boundary moves with the prompts"
    assert Stability("LS", {"LS": 1.0}, ((0.3, 0.5),)).firm
    assert not Stability("LS", {"LS": 1.0}, ((0.2, 0.5),)).firm, "who knows where"


def test_one_prompt_of_many_decides_nothing() -> None:
    """Seven prompts lose most late; one, whose video a push near noise turns into another, thirty times as much early."""
    ladder = shifted(10, 3.0)
    usual, odd = ([0.0] * 10, [0.1] * 5 + [1.0] * 5), ([0.0] * 10, [30.0] * 5 + [1.0] * 5)
    found = stability(
        lambda _, left: interval((1.0, 0.1), [[0.0] * 10, left], budget=5.5).choice, ladder, [*[usual] * 7, odd]
    )
    assert found.letters == "SL", "a mean of 3.8 early would have the large expert first"
    assert found.firm


def test_what_is_measured_is_a_median_over_prompts(tmp_path: Path) -> None:
    """Of gains times errors too, which is not the product of both medians."""
    prompts = (*PROMPTS, "a white circle moving down on a black background")
    result = found(quick(), tmp_path, replace(TWO, prompts=prompts))
    each = [found(quick(), tmp_path, replace(TWO, prompts=(prompt,))) for prompt in prompts]

    def middle(of: Callable[[Calibration], Sequence[float]]) -> list[float]:
        return [statistics.median(step) for step in zip(*map(of, each), strict=True)]

    assert result.gains["small"] == middle(lambda one: one.gains["small"])
    assert result.weighted["small"] == middle(lambda one: one.weighted["small"])
    for name, curve in result.curves["small"]["guided"].items():
        assert curve == middle(lambda one, name=name: one.curves["small"]["guided"][name])
    product = [g * s for g, s in zip(result.gains["small"], result.curves["small"]["guided"]["state"], strict=True)]
    assert result.weighted["small"] != pytest.approx(product)


def test_an_unstable_choice_asks_for_more_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(quick(), tmp_path, replace(TWO, prompts=PROMPTS[:1] * 2))
    assert set(result.stability) == {"fit", "budget"}
    assert all(it.firm for it in result.stability.values()), "twice the same"
    assert not result.case.notes
    table = json.loads((tmp_path / "calibration.json").read_text())["choices"]
    for rule, it in result.stability.items():
        assert it.letters == letters(result.choices[rule].choice)
        assert table[rule]["stability"] == {
            "letters": it.letters,
            "same": it.same,
            "shares": dict(it.shares),
            "intervals": [list(pair) for pair in it.intervals],
        }
    assert "stability" not in table["dp"]
    torn = Stability("LSL", {"SLL": 0.6, "LSL": 0.4}, ((0.9, 0.95), (0.4, 0.5)))
    monkeypatch.setattr(running, "stability", lambda *_: torn)
    (note,) = found(quick(), tmp_path).case.notes
    assert note.startswith("rule budget: 2 prompts drawn anew from these 2 give SLL 60%, LSL 40%; with LSL, boundaries")
    assert "0.900 to 0.950, 0.400 to 0.500: measure over more prompts" in note


def test_there_are_eight_usual_prompts_of_the_experts_own_world() -> None:
    own, others = usual(quick())
    assert (len(own), len(others)) == (8, 4)
    assert len({*own, *others}) == 12
    assert own == tuple(caption(imagine(Ask(), seed).ask) for seed in range(8)), "captions of sprites"
    general = recipes.changed(quick(), {"experts.small": {"family": "wan", "weights": "who/knows"}})
    assert usual(general) == (GENERAL[:8], GENERAL[8:])
    assert Settings().prompts == Settings().unseen == ()


def test_choices_are_compared_on_prompts_that_they_were_not_made_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(case: Any, cast: Any, prompt: str, seed: int) -> Ready:
        asked.append(prompt)
        return ready(case, cast, prompt, seed)

    monkeypatch.setattr(running, "ready", noted)
    looks = list(calibrate(quick(), tmp_path, Settings(prompts=PROMPTS[:1], unseen=PROMPTS[1:], features="pixels")))
    assert [look.doing for look in looks if isinstance(look, Look)][-1] == "comparing"
    assert asked == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 2, "once more on a ladder of fewer steps"


def test_what_is_left_in_the_video_is_gain_times_state_error(tmp_path: Path) -> None:
    result = found(quick(), tmp_path, Settings(prompts=PROMPTS[:1], budget=0.7))
    state, gains = result.curves["small"]["guided"]["state"], result.gains["small"]
    assert result.weighted["small"] == pytest.approx([g * s for g, s in zip(gains, state, strict=True)])
    assert max(abs(g - 1) for g in gains) > 0.1


def test_noise_is_changed_by_one_percent() -> None:
    cast = load(quick())
    at = ready(case_of(quick(), cast), cast, PROMPTS[0], 3)
    other = comparing.drawn_anew(at, 3)
    changed = comparing.nudged(at, other)
    assert float(changed.std() / at.x.std()) == pytest.approx(1, abs=0.01)
    assert float((changed - at.x).std() / at.x.std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([other.flatten(), at.x.flatten()]))[0, 1])) < 0.1


def test_boundaries_are_drawn_into_the_picture(tmp_path: Path) -> None:
    result = found(quick(), tmp_path)
    picture = Image.open(tmp_path / "curves.png").convert("RGB")
    inks = [colour for colour, _ in BOUNDS]  # another rule's may lie over it
    for bound in itertools.chain.from_iterable(result.boundaries(rule) for rule in ("fit", "budget")):
        column = [picture.getpixel((int(80 + (1 - bound) * 570), y)) for y in range(40, 280)]
        assert sum(ink in inks for ink in column) > 150, bound


def test_an_error_bound_may_stand_for_the_budget(tmp_path: Path) -> None:
    tight, loose = (
        found(quick(), tmp_path, Settings(prompts=PROMPTS, error=share)).choices["budget"] for share in (0.001, 0.5)
    )
    assert tight.error <= loose.error
    assert tight.cost > loose.cost
    for share in (0.001, 0.5):
        both = found(quick(), tmp_path, Settings(prompts=PROMPTS, error=share, by="dp")).choices
        assert both["dp"].cost <= both["budget"].cost, "any schedule, for what one interval within the error costs"
        assert both["dp"].error <= both["budget"].error


@pytest.mark.parametrize(
    ("denoise", "said"),
    [
        ("large", "needs a recipe that starts from noise and has a stage that is blended"),
        ("{blended: {above 0.5: large, else: large}}", r"one candidate only \(large\)"),
    ],
)
def test_one_candidate_is_none_to_choose_from(denoise: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        found(recipes.changed(quick(), [f"chain.video.denoise={denoise}"]), tmp_path)


def turns(**changes: object) -> Recipe:
    """Two large experts and a small one between, as in wan22-three-way."""
    spec = {"family": "exact", "kind": "control", "schedule": "flow"}
    sizes = {"high": 48, "small": 8, "low": 48}
    recipe = recipes.load("sprites-flowblending-exact")
    small = {"video.frames": 3, "video.height": 32, "video.width": 32}
    experts = {name: {**spec, "candidates": size, "seed": size} for name, size in sizes.items()}
    ladder = {"shifted": {"steps": 12, "shift": 3.0}}
    three = {"blended": {"above 0.9": "high", "above 0.5": "small", "else": "low"}}
    said = {"experts": experts, "chain.video.ladder": ladder, "chain.video.denoise": three}
    return recipes.changed(recipe, {**small, **said, **changes})


def test_large_experts_that_take_turns_are_joined_by_who_asks(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"high and low cost the same and take turns.*above 0\.764: ") as refusal:
        found(turns(), tmp_path)
    said = str(refusal.value)
    recipe = recipes.changed(turns(), [said[said.index("chain.video.denoise={") : -1]])
    result = found(recipe, tmp_path, Settings(prompts=PROMPTS, by="budget", budget=0.7))
    assert set(result.case.names) == {"blended", "small"}
    assert result.case.names[0] == "blended"
    asked = {name for _, name in models.named(result.recipe.chain[0].denoise, "")}
    assert asked == {"high", "small", "low"}


def test_large_experts_that_take_turns_are_told_of_before_weights_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"high and low cost the same and take turns.*what small should be"):
        found(recipes.load("wan22-three-way"), tmp_path)  # whose weights are not here


def test_an_interval_of_joined_experts_is_written_as_theirs() -> None:
    pair = {"blended": {"above 0.875": "high", "else": "low"}}
    recipe = turns(**{"chain.video.denoise": {"blended": {"above 0.9": pair, "above 0.5": "small", "else": pair}}})
    cast = load(recipe)
    case, ladder = case_of(recipe, cast), shifted(12, 3.0)

    def written(*choice: int) -> list[tuple[str, str]]:
        own = filled(case, ladder, Schedule(choice, 0, 0), "dp").chain[0].denoise
        assert isinstance(own, models.Blended)
        assert own.boundaries == tuple(sorted(own.boundaries, reverse=True))
        return [
            (f"{bound:.3f}", part.expert) for bound, part in zip((*own.boundaries, 0), own.of.values(), strict=True)
        ]

    early, late = (f"{ladder.between(k):.3f}" for k in (2, 9))
    assert written(*[0] * 12) == [("0.875", "high"), ("0.000", "low")]
    assert written(0, 0, *[1] * 7, 0, 0, 0) == [(early, "high"), (late, "small"), ("0.000", "low")]
    assert written(*[0] * 9, 1, 1, 1) == [("0.875", "high"), (late, "low"), ("0.000", "small")]
    assert written(1, 1, *[0] * 10) == [(early, "small"), ("0.875", "high"), ("0.000", "low")]


@pytest.mark.parametrize(("name", "stage"), [("sprites-story", "structure"), ("story-wan21", "video")])
def test_a_blended_inside_another_denoiser_is_told_to_stand_alone(name: str, stage: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    with pytest.raises(RecipeError, match=rf"chain\.{stage}\.denoise: blended stands inside coupled") as refusal:
        found(recipe, tmp_path)
    assert str(refusal.value).count("' --set video.frames=N --set story=null; ") == 1
    override = str(refusal.value).partition("--set '")[2].partition("'")[0]
    alone = recipes.changed(recipe, [override, "video.frames=9", "story=null"])
    assert alone.chain[place_of(alone)].stage == stage


def test_a_spliced_ladder_is_refused_with_the_ladder_to_calibrate_on(tmp_path: Path) -> None:
    whole = {"shifted": {"steps": 8, "shift": 3.0}}
    spliced = {"ladder": whole, "own": {"shifted": {"steps": 6, "shift": 3.0}}, "early": 0.833, "late": 0.464}
    recipe = quick(**{"chain.video.ladder": {"spliced": spliced}})
    with pytest.raises(RecipeError, match=r"is spliced at 0\.833 and 0\.464: .* into `spliced`, as early") as refusal:
        found(recipe, tmp_path)
    said = str(refusal.value)
    override = said[said.index("chain.video.ladder={") : said.index("', and then")]
    assert recipes.changed(recipe, [override]).chain == quick().chain
    weightless = {"experts.small": {"family": "wan", "weights": str(tmp_path / "none")}}
    with pytest.raises(RecipeError, match="is spliced"):
        found(recipes.changed(recipe, weightless), tmp_path)


def test_experts_that_are_told_a_prompt_in_other_words_are_refused(tmp_path: Path) -> None:
    recipe = tiny_pair(tmp_path)
    file = next((tmp_path / "small" / "text_encoder").glob("*.safetensors"))
    weights = {name: weight + torch.randn_like(weight) for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SpaceError, match="text"):
        found(recipe, tmp_path / "out")


def test_autoencoders_of_other_weights_are_refused_with_a_way_to_check(tmp_path: Path) -> None:
    """Of one architecture, so that only a look at what they do can tell; `generate` says the same as `calibrate`."""
    folders = [str(tiny.save(tmp_path / str(seed), tiny.unet3d(), vae=tiny.vae(seed))) for seed in (5, 6)]
    pair = dict(zip(("large", "small"), folders, strict=True))
    changes = {
        "experts": {name: {"family": "text-to-video-sd", "weights": weights} for name, weights in pair.items()},
        "codec": {"weights": pair["large"]},
    }
    recipe = recipes.changed(quick(), changes)
    told = r"(?s)expert 'small' .* and the codec .* encoder weights are \d+% apart.*0\.5 dB of PSNR.*do not join them"
    with pytest.raises(SpaceError, match=told):
        found(recipe, tmp_path / "out")
    with pytest.raises(SpaceError, match=told):
        dovetail.generate(recipe=recipe)


@pytest.mark.parametrize("by", ["budget", "fit", "dp"])
def test_pairs_of_other_latents_are_refused_before_their_weights_are_missed(tmp_path: Path, by: str) -> None:
    pair = {"experts.small": {"family": "ltx", "weights": "Lightricks/LTX-Video-0.9.5"}}
    recipe = recipes.changed(recipes.load("flowblending-wan21"), pair)
    with pytest.raises(SpaceError, match=r"expert 'small' .* and the codec .* live in different latent spaces"):
        found(recipe, tmp_path / "out", replace(TWO, by=by))
    assert not (tmp_path / "out").exists()


def test_experts_of_two_sizes_of_latents_are_refused(tmp_path: Path) -> None:
    """There is nothing to check by hand: the one's decoder cannot even be shown the other's latents."""
    experts = {
        name: exact.load(name, "control", candidates=8, codec=exact.PixelCodec(factor), schedule=Flow())
        for name, factor in (("large", 2), ("small", 4))
    }
    with pytest.raises(SpaceError, match=r"(?s)expert 'small' .* and the codec .* live in different") as refusal:
        found(quick(), tmp_path, TWO, Cast(experts, exact.PixelCodec(2)))
    assert "by hand" not in str(refusal.value)
    assert not list(tmp_path.iterdir()), "found before anything is measured"


def test_other_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="rule budget: no schedule costs"):
        found(quick(), tmp_path, Settings(prompts=PROMPTS[:1], budget=0.01, by="budget"))
    assert not list(tmp_path.iterdir()), "costs are known before anything is measured"
    with pytest.raises(RecipeError, match=r"rule dp: no schedule costs 1% .* the least is 19\.2%.* --budget 0\.25, or"):
        found(quick(), tmp_path, Settings(prompts=PROMPTS[:1], budget=0.01, by="dp"))
    with pytest.raises(RecipeError, match="rule dp: no schedule costs 15%"):
        found(quick(), tmp_path, Settings(prompts=PROMPTS[:1], budget=0.15, by="dp"))
    result = found(quick(), tmp_path, Settings(prompts=PROMPTS[:1], budget=0.01, by="fit"))
    assert list(result.choices) == ["fit"]
    notes = [note.split(":")[0] for note in result.case.notes]
    assert notes == ["rule budget", "rule dp", "rule fit", "rule fit"], "the others still stand"
    assert result.case.notes[2] == (
        "rule fit: it minds neither cost nor error, so --budget counts for the rules budget and dp beside it alone"
    )
    assert "one prompt says nothing of others" in result.case.notes[-1]
    with pytest.raises(RecipeError, match="unknown rule 'knots'"):
        found(quick(), tmp_path, Settings(by="knots"))
    with pytest.raises(RecipeError, match="compares videos; say by which features"):
        found(quick(), tmp_path, Settings(by="sweep"))
    with pytest.raises(RecipeError, match="unknown kind of candidate 'halfed'; did you mean 'halved'"):
        found(quick(), tmp_path, Settings(also=("halfed",)))


NOWHERE = {"family": "wan", "weights": "./nowhere"}


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        (
            {"experts.small": NOWHERE},
            Settings(also=("halfed",)),
            "unknown kind of candidate 'halfed'; did you mean 'halved'",
        ),
        (
            {"experts.small": NOWHERE},
            Settings(features="oracle"),
            r"--compare oracle: the oracle knows the sprite world alone",
        ),
        ({"video.width": 64}, Settings(features="oracle"), r"square, not 32x64; .*video\.height=32"),
        (
            {"chain.video.ladder.shifted.steps": 5},
            Settings(by="fit"),
            r"rule fit: .* six steps or more, and chain\.video\.ladder has 5; take --by budget",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(
    changes: dict[str, object], settings: Settings, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = quick(**changes)
    cast = None if "experts.small" in changes else load(recipe)
    monkeypatch.setattr(running, "load", None)
    for given in (None, cast):
        with pytest.raises(RecipeError, match=said):
            found(recipe, tmp_path, replace(settings, prompts=PROMPTS), given)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_cannot_compare_is_told_of_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPTextConfig, Dinov2Config

    CLIPTextConfig().save_pretrained(tmp_path / "words")
    save_file({"a": torch.zeros(1)}, tmp_path / "words" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "none"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "odd" / "model.safetensors", metadata={"format": "pt"})
    Dinov2Config().save_pretrained(tmp_path / "empty")
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    monkeypatch.setattr(running, "load", None)
    for name, said in {
        "pixel": "no weights at 'pixel'.*Features are pixels, oracle, or an image encoder's weights",
        str(tmp_path / "none"): "no weights at",
        str(tmp_path / "empty"): "has no weights in its folder",
        str(tmp_path / "odd"): "is no image encoder that can be read",
        str(tmp_path / "words"): "sees no images.*Features are",
        str(tmp_path / "one.safetensors"): "an encoder is a folder with its config",
    }.items():
        with pytest.raises(WeightsError, match=f"(?s){said}"):
            found(quick(), tmp_path / "out", replace(TWO, features=name))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_told_of_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "load", None)
    (file := tmp_path / "mine").write_text("")
    for out, said in {file: f"cannot write {file}, which is a file", file / "more": f"where {file} is a file"}.items():
        with pytest.raises(OutputError, match=f"{said}; name another with --out"):
            found(quick(), out)


def test_with_few_steps_no_rule_is_advised_that_needs_more(tmp_path: Path) -> None:
    one = quick(**{"chain.video.ladder": {"levels": [1.0, 0.0]}})
    with pytest.raises(RecipeError, match=r"no schedule costs 1% .* --budget 0\.\d+$"):
        found(one, tmp_path, replace(TWO, budget=0.01))
    result = found(one, tmp_path, TWO)
    assert set(result.choices) == {"budget", "dp"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(by="fit", budget=0.5, error=0.1), "rule fit: it minds neither .* so --budget and --error count for"),
        (Settings(by="sweep", error=0.1), "rule sweep: it minds neither cost nor error, so --error counts for"),
        (Settings(by="budget", budget=0.5, error=0.1), "rule budget: --error stands in the place of --budget"),
        (Settings(by="dp", budget=0.5, error=0.1), "rule dp: --error stands in the place of --budget"),
    ],
)
def test_what_a_rule_does_not_mind_is_said(settings: Settings, said: str) -> None:
    (note,) = unminded(settings)
    assert re.match(said, note)
    for by in ("fit", "sweep", "budget", "dp"):
        assert not unminded(Settings(by=by))
    assert not unminded(Settings(by="dp", budget=0.5))
    assert not unminded(Settings(by="budget", error=0.5))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.yaml").write_text(recipes.dump(quick()))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\na green ring\n")
    words = ["calibrate", "few.yaml", "--prompts", "prompts.txt", "--budget", "0.7", "--also", "unguided"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["fit", "budget", "dp"]
    assert [line.endswith("<- written") for line in lines[:3]] == [False, True, False], "the default is budget"
    for line, rule in zip(lines[:2], ("fit", "budget"), strict=True):
        assert re.fullmatch(
            rf"{rule} .* at every step · prompts drawn anew: [LS]+ in \d+%, there .*\d( <- written)?", line
        )
    assert "drawn anew" not in lines[2]
    for line in lines[:3]:
        assert re.match(
            r"\w+ +(large|small) (at every step|above 0\.\d{3}, .*(large|small) below) · \d+% of large", line
        )
    assert "note: large, unguided: left out, it is not guided" in result.stderr
    assert (tmp_path / "few" / "curves.png").is_file()
    assert recipes.load(tmp_path / "few" / "few.yaml").chain[0].ladder == quick().chain[0].ladder
    again = CliRunner().invoke(cli.app, [*words, "--compare", "pixels", "--by", "sweep", "-o", "other"])
    assert again.exit_code == 0, again.output
    assert any(line.startswith("  small alone") for line in again.stdout.splitlines())
    refused = CliRunner().invoke(cli.app, ["calibrate", "few.yaml", "--prompts", "none.txt"])
    assert refused.exit_code == 1
    assert "none.txt is no list of prompts" in refused.stderr
    (tmp_path / "empty.txt").write_text("\n\n")
    refused = CliRunner().invoke(cli.app, ["calibrate", "few.yaml", "--prompts", "empty.txt"])
    assert refused.exit_code == 1
    assert "empty.txt holds no prompts; one a line" in refused.stderr
    refused = CliRunner().invoke(cli.app, ["calibrate", "sprites-exact"])
    assert refused.exit_code == 1
    assert "has a stage that is blended" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["few.yaml", "-o", "."], "few.yaml"),
        (["./few.yaml", "--out", "few/.."], "./few.yaml"),
        (["few/few.yaml"], "few/few.yaml"),
        (["few/few.yaml", "-o", "few"], "few/few.yaml"),
        (["linked/few.yaml", "-o", "few"], "linked/few.yaml"),
    ],
)
def test_the_recipe_that_was_read_is_not_written_over(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "few")
    for file in (Path("few.yaml"), Path("few/few.yaml")):
        file.write_text(recipes.dump(quick()))
    refused = CliRunner().invoke(cli.app, ["calibrate", *words])
    assert refused.exit_code == 1
    assert f"would take the place of {said}, which it is made from" in " ".join(refused.stderr.split())
    assert "--out few-calibrated" in " ".join(refused.stderr.split())
    assert recipes.load(Path(words[0])) == quick()
    assert not [*tmp_path.rglob("measured")], "refused before anything is measured"


@pytest.mark.parametrize("empty", ["", "  ", "\t", "\n\n"])
def test_prompts_to_compare_on_stand_after_an_empty_line(tmp_path: Path, empty: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"\na red circle\n a blue ring \n{empty}\na green ring\n\na white ring\n")
    assert prompts_in(file) == (("a red circle", "a blue ring"), ("a green ring", "a white ring"))


def test_who_is_where_is_said_of_every_rule(tmp_path: Path) -> None:
    result = found(quick(), tmp_path, replace(TWO, prompts=PROMPTS[:1], features="pixels"))
    ladder, case = result.ladder, result.case
    for rule in ("fit", "budget", "dp", "sweep"):
        *above, below = result.placed(rule).split(", ")
        steps: list[str] = []
        for who, bound in (place.split(" above ") for place in above):
            steps += [who] * (sum(t > float(bound) for t in ladder.levels[:-1]) - len(steps))
        steps += [below.removesuffix(" below")] * (ladder.steps - len(steps))
        assert steps == [case.names[who] for who in result.choices[rule].choice], rule
    large, cached = case.candidates[0], replace(case.candidates[1], name="large, cached")
    other = replace(result, case=replace(case, candidates=(large, cached)))
    for choice, said in {
        (0,) * 8: "large at every step",
        (
            0,
            1,
            *[0] * 6,
        ): f"large above {ladder.between(1):.3f}, large (cached) above {ladder.between(2):.3f}, large below",
    }.items():
        assert replace(other, choices={"dp": Schedule(choice, 0, 0)}).placed("dp") == said


def test_views_and_boundaries_are_told_apart_in_the_picture() -> None:
    assert not {colour for colour, _ in BOUNDS} & set(COLOURS)
    assert len(set(BOUNDS)) == len(BOUNDS) == len(RULES)
    assert len(set(DASHES.values())) == len(DASHES) == len(VIEWS)
    inked = {}
    for view, dashes in DASHES.items():
        picture = draw([1.0, 0.0], {"one": [Line(view, [0.5, 0.5], 0, dashes)]}, {})
        row = max(range(60, 280), key=lambda y: sum(picture.getpixel((x, y)) == COLOURS[0] for x in range(90, 640)))
        inked[view] = sum(picture.getpixel((x, row)) == COLOURS[0] for x in range(90, 640)) / 550
    assert inked["guided"] == 1
    assert 0.55 < inked["conditional"] < 0.8
    assert 0.3 < inked["unconditional"] < 0.55
    words = {"budget": "large above 0.833, small above 0.193, large below"}
    plain, said = (
        draw([1.0], {"one": [Line("a", [0.1], 0)]}, {"budget": (0.833, 0.193)}, told) for told in (None, words)
    )
    assert plain.tobytes() != said.tobytes()


def test_a_picture_of_one_panel() -> None:
    lines = [Line("a", [0.1, None, 0.3, 0.0], 0), Line("b", [1.0, 2.0, 3.0, 4.0], 1, (9, 5))]
    picture = draw([1.0, 0.7, 0.4, 0.1], {"one": lines}, {"rule": (0.5,)})
    assert picture.size == (900, 330)
    assert picture.getpixel((int(80 + 0.5 * 570), 100)) == (90, 90, 90), "the boundary at t = .5"
    assert draw([1.0, 0.5], {"none": [Line("a", [0.0, None], 0)]}, {}).size == (900, 330)
    crowd = [Line(f"line {i}", [0.1], i) for i in range(24)]
    assert draw([0.5], {"many": crowd}, {"rule": ()}).height > 24 * 18, "every curve has its own line of words"
    many = draw([1.0, 0.7, 0.4, 0.1], {"one": lines}, {"rule": tuple(0.1 * k for k in range(1, 9))})
    assert many.getpixel((int(80 + 0.5 * 570), 100)) != (90, 90, 90), "too many boundaries to draw are counted"


# --- boundaries transfer -----------------------------------------------------------------------------------------


def test_boundaries_found_once_serve_other_steps_shifts_and_solvers(tmp_path: Path) -> None:
    """On sprites' exact experts: over the noise share, divergence is one curve, whatever ladder and solver it was
    measured on, so its knots lie where they lay, each to a step of its ladder."""
    looks = ("red circle moving right", "blue circle", "white ring", "blue ring moving up", "white circle", "red ring")
    prompts = tuple(f"a {look}" for look in (*looks, "pulsing ring", "pulsing circle"))
    results = []
    for steps, shift, solver in ((20, 3.0, "unipc"), (13, 1.5, "euler"), (30, 5.0, "dpm++2m")):
        ladder = {"chain.video.ladder": {"shifted": {"steps": steps, "shift": shift}}, "chain.video.solver": solver}
        results.append(found(quick(**ladder), tmp_path, Settings(prompts=prompts, budget=0.7, follow=1)))
    base, *others = results
    grid = torch.linspace(0.2, 0.95, 16).tolist()
    for other in others:
        assert other.ladder.levels != base.ladder.levels
        for one, two in zip(base.boundaries("fit"), other.boundaries("fit"), strict=True):
            assert abs(one - two) <= step_at(base, one) + step_at(other, two)
        for t in grid:
            assert read_off(other, t) == pytest.approx(read_off(base, t), rel=0.1)


def step_at(result: Calibration, t: float) -> float:
    """How far apart the levels are between which a noise share lies."""
    return next(high - low for high, low in itertools.pairwise(result.ladder.levels) if low <= t <= high)


def read_off(result: Calibration, t: float) -> float:
    """The velocity divergence of the small expert at a noise share, between the levels where it was measured."""
    points = sorted(zip(result.ladder.levels, result.curves["small"]["guided"]["velocity"], strict=False))
    (low, a), (high, b) = next((p, q) for p, q in itertools.pairwise(points) if p[0] <= t <= q[0])
    return a + (b - a) * (t - low) / (high - low)
