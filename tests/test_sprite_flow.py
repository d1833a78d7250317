"""The sprite flow pair: what training writes becomes weights of the package, and the recipe over them plays.

Weights are random, of the trained ones' architecture; what the trained ones do, tests/test_weights.py asks.
"""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
import experts as trainers
import export
import networks
import score

import dovetail
from dovetail import recipe as recipes
from dovetail.calibrate import Calibration, calibrate
from dovetail.calibrate.running import Settings
from dovetail.core.denoiser import Condition, timeline
from dovetail.core.ladders import shifted
from dovetail.experts import checkpoint
from dovetail.experts import load as load_expert
from dovetail.experts.flops import flops
from dovetail.recipe import Recipe
from dovetail.recipe.reading import SHIPPED
from dovetail.run import Cast, finished, load, play
from dovetail.sprites.world import Ask

PAIR = ("flow-large", "flow-small")
FILE = Path(str(SHIPPED / "sprites-flowblending.yaml"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training leaves of both, whole steps of it; and what the package would have, in weights/."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "WEIGHTS", folder / "weights")
        for seed, name in enumerate(PAIR):
            torch.manual_seed(seed)
            (folder / name).mkdir()
            trainers.Trainee.new(name).save(folder / name / "state.pt")
            export.export(name, folder)
    return folder


@pytest.fixture
def packaged(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as if it shipped them."""
    others = checkpoint._packaged
    ours = {name: work / "weights" / name for name in PAIR}
    monkeypatch.setattr(checkpoint, "_packaged", lambda name: ours.get(name) or others(name))
    return work


def quick(**changes: object) -> Recipe:
    few = {"video.frames": 4, "video.height": 32, "video.width": 32}
    return recipes.changed(recipes.parse(FILE.read_text()), {**few, **changes})


@pytest.mark.parametrize("name", PAIR)
def test_what_is_exported_answers_as_what_was_trained(name: str, work: Path) -> None:
    trained = score.expert(name, work, quick=False)
    shipped = load_expert(name, "wan", str(work / "weights" / name))
    assert {path.name for path in (work / "weights" / name).iterdir()} == {
        *("transformer", "text_encoder", "tokenizer", "scheduler")
    }
    x = torch.randn(2, networks.CHANNELS, 3, 4, 4)
    said = (Condition("a red circle moving right"), Condition(""))
    with torch.no_grad():
        one, two = (expert.network(x, 700.0, said, timeline(3).expand(2, -1)) for expert in (trained, shipped))
    assert one.abs().mean() > 0.01
    torch.testing.assert_close(two, one, rtol=0.01, atol=0.01 * float(one.abs().mean()))
    assert not torch.allclose(one[0], one[1], atol=1e-3)
    assert shipped.target is trained.target
    assert shipped.schedule == trained.schedule
    assert shipped.network.max_frames >= networks.SPECS[name].frames  # type: ignore[attr-defined]


def test_the_scorer_makes_and_judges_videos_of_it(work: Path) -> None:
    small = AutoencoderKL.from_pretrained(networks.WEIGHTS / "vae").float().eval()
    one = score.expert("flow-small", work, quick=True)
    made = score.videos(one, ["a red circle moving right"], 2, 3.0, small)
    assert [video.shape for video in made] == [(16, 3, 64, 64)]
    assert 0 <= score.score("flow-small", made, [Ask(colour="red", shape="circle")])["prompt"] <= 1


def test_the_large_one_costs_six_times_the_small_one(work: Path) -> None:
    shape = (networks.CHANNELS, 16, networks.CELLS, networks.CELLS)
    large, small = (flops(load_expert(n, "wan", str(work / "weights" / n)), shape, "a red circle") for n in PAIR)
    assert large >= 6 * small


def test_the_recipe_plays_and_both_experts_leave_their_mark(packaged: Path) -> None:
    recipe = quick()
    plan = dovetail.plan(recipe)
    assert plan.stages[0].ladder == shifted(20, networks.SHIFT), "the levels that they were trained for"
    calls = {name: plan.counts[name].calls for name in ("large", "small")}
    told = next(line for line in FILE.read_text().splitlines() if line.startswith("# Calls: "))
    assert told == f"# Calls: large {calls['large']}, small {calls['small']}"
    cast = load(recipe)
    guided = [{"expert": name, "guidance": 3.0} for name in ("large", "small")]
    changes = [{}, *({"chain.video.denoise": alone} for alone in guided)]
    blended, large, small = (finished(play(recipes.changed(recipe, change), cast)) for change in changes)
    assert blended.settings["calls"] == calls
    assert blended.pixels.isfinite().all()
    assert not torch.equal(blended.latent, large.latent)
    assert not torch.equal(blended.latent, small.latent)


def test_the_pair_is_calibrated_with_a_cached_middle(packaged: Path, tmp_path: Path) -> None:
    ladder = {"chain.video.ladder": {"shifted": {"steps": 8, "shift": 3.0}}, "chain.video.solver": "euler"}
    recipe = quick(**ladder)
    cast = load(recipe)
    settings = Settings(("a red circle",), ("a blue ring",), ("cached",), by="dp", budget=0.85, follow=1)
    result = calibrated(recipe, tmp_path, settings, cast)
    assert set(result.case.names) == {"large", "small", "large, cached", "small, cached"}
    costs = dict(zip(result.case.names, result.case.costs, strict=True))
    assert 0.2 < costs["large, cached"] / costs["large"] < 0.5
    state = result.curves["large, cached"]["guided"]["state"]
    assert state[0] == 0, "nothing is cached at the first step"
    assert all(error > 0 for error in state[1:])
    names = [result.case.names[who] for who in result.choices["dp"].choice]
    assert all(names[k - 1] == name.removesuffix(", cached") for k, name in enumerate(names) if "cached" in name)
    assert names[0] in ("large", "small")


def calibrated(recipe: Recipe, out: Path, settings: Settings, cast: Cast) -> Calibration:
    *_, result = calibrate(recipe, out, settings, cast)
    assert isinstance(result, Calibration)
    return result
