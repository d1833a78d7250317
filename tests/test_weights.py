"""The trained sprite experts that ship: they load, they fit, and they do what they are there for."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import dovetail
from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.combine import Framewise, Guided
from dovetail.core.denoiser import Denoiser, Expert, timeline
from dovetail.core.ladders import trailing
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, last, sample
from dovetail.sprites.oracle import average, judge, judge_frames
from dovetail.sprites.oracle.frames import lab, read
from dovetail.sprites.world import Ask, backdrop, caption, imagine

pytestmark = pytest.mark.weights

PACKAGED = Path(dovetail.__file__).parent / "sprites" / "weights"
SCENES = [imagine(Ask(), 2_000_000_000 + i) for i in range(12)]
"""Scenes that no trainer and no benchmark draws."""


@pytest.fixture(scope="module")
def cast() -> run.Cast:
    return run.load(run.resolved(None, "sprites"))


def stills(cast: run.Cast) -> list[torch.Tensor]:
    """One frame by the spatial expert for each scene, "f c h w" in [-1, 1]."""
    expert = cast.experts["spatial"]
    return [walked(cast, expert, Framewise(guided(expert, caption(scene.ask))), 1) for scene in SCENES]


def guided(expert: Expert, prompt: str, scale: float = 3.0) -> Denoiser:
    return Guided(expert.given(prompt), expert.given(""), scale, joint=True)


def walked(
    cast: run.Cast, expert: Expert, denoise: Denoiser, frames: int, steps: int = 10, seed: int = 0
) -> torch.Tensor:
    ladder, where = trailing(expert.schedule, steps), timeline(frames)
    shape = torch.empty(1, cast.codec.channels, frames, 8, 8)
    x = ladder.first * Noise(seed).like(shape, where, "start")
    seen = last(sample(denoise, x, where, ladder.levels, Euler())).seen
    return cast.codec.decode(seen.x0)[0]


def test_they_are_small() -> None:
    """30 MB for a demo's experts and autoencoder, 15 MB for those of FlowBlending."""
    sizes = {path: path.stat().st_size for path in PACKAGED.rglob("*") if path.is_file()}
    flows = sum(size for path, size in sizes.items() if path.relative_to(PACKAGED).parts[0].startswith("flow-"))
    assert 0 < flows < 15e6
    assert sum(sizes.values()) - flows < 30e6


def test_they_are_in_half_precision() -> None:
    files = [path for path in PACKAGED.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    assert {path.suffix for path in files} == {".safetensors"}, "weights hide in no other format"
    for path in PACKAGED.rglob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118 - no mapping
        assert kinds == {"F16"}, path.relative_to(PACKAGED)


def test_the_steady_decoder_stands_over_the_same_encoder() -> None:
    one, other = ({name: part[name] for name in part if name.startswith(("encoder", "quant"))} for part in decoders())
    assert one
    assert all(torch.equal(one[name], other[name]) for name in one)


def decoders() -> list[dict[str, torch.Tensor]]:
    folders = [PACKAGED / name for name in ("vae", "vae-steady")]
    return [load_file(folder / "diffusion_pytorch_model.safetensors") for folder in folders]


def test_the_steady_decoder_shows_a_background_without_its_object_as_it_is() -> None:
    """In Lab; two is just visible. The other one shows it in another colour."""
    empty = torch.stack([backdrop(scene) for scene in SCENES])
    off = []
    for name in ("vae", "vae-steady"):
        codec = run.load(recipes.changed(recipes.load("sprites"), {"codec.weights": f"sprites/{name}"})).codec
        shown = codec.decode(codec.encode(empty[None]))[0]
        off.append(float((lab(read(shown)) - lab(read(empty))).norm(dim=1).mean((1, 2)).median()))
    assert off[1] < 2 < off[0], off


def test_the_spatial_expert_draws_what_is_asked(cast: run.Cast) -> None:
    scores = average([judge_frames(still, s.ask)[0] for still, s in zip(stills(cast), SCENES, strict=True)])
    assert scores["colour_right"] >= 0.9
    assert scores["background_right"] >= 0.9
    assert scores["texture_right"] >= 0.7
    assert scores["shape_right"] >= 0.8
    assert scores["prompt"] >= 0.9


def test_control_alone_decides_on_the_motion_in_four_steps(cast: run.Cast) -> None:
    expert = cast.experts["control"]
    videos = [
        walked(cast, expert, expert.given(caption(scene.ask)), 16, 4, seed) for seed, scene in enumerate(SCENES[:10])
    ]
    scores = average([judge(video, scene.ask) for video, scene in zip(videos, SCENES, strict=False)])
    assert scores["motion_right"] >= 0.7
    assert scores["colour_right"] >= 0.9
    assert scores["shape_right"] >= 0.8
    assert scores["switches"] <= 0.08


@pytest.mark.slow
def test_temporal_alone_moves_as_asked_and_is_not_sharp(cast: run.Cast) -> None:
    """What it was taught is blurred: sharpness is the spatial expert's part."""
    expert, few = cast.experts["temporal"], SCENES[:3]
    videos = [
        walked(cast, expert, guided(expert, caption(scene.ask), 2.0), 16, 25, seed) for seed, scene in enumerate(few)
    ]
    scores = average([judge(video, scene.ask) for video, scene in zip(videos, few, strict=True)])
    sharp = average([judge_frames(still, s.ask)[0] for still, s in zip(stills(cast), SCENES, strict=True)])
    assert scores["motion_right"] >= 0.65
    assert scores["colour_right"] >= 0.65
    assert scores["switches"] <= 0.08
    assert scores["sharpness"] <= 0.9 * sharp["sharpness"]


def test_the_default_recipe_shows_what_the_prompt_says() -> None:
    """Everything the prompt names, and the way the object moves."""
    videos = [dovetail.generate(caption(scene.ask), seed=seed).frames for seed, scene in enumerate(SCENES[:5])]
    verdicts = [judge(torch.from_numpy(frames), s.ask) for frames, s in zip(videos, SCENES, strict=False)]
    scores = average(verdicts)
    assert scores["presence"] >= 0.95
    assert scores["prompt"] >= 0.85
    assert min(scores[f"{name}_right"] for name in ("colour", "shape", "motion", "background")) >= 0.75
    assert scores["path_fit"] >= 0.6
    assert scores["switches"] <= 0.15


def test_the_large_flow_expert_is_better_than_the_small_one_and_neither_is_broken() -> None:
    """In 8 steps each, the distilled one in its 4 without guidance."""
    recipe = recipes.changed(recipes.load("sprites-flowblending"), {"chain.video.ladder.shifted.steps": 8})
    few = {"shifted": {"steps": 4, "shift": 3.0}}
    distilled = {
        "experts": {"small": {"family": "wan", "weights": "sprites/flow-small-4"}},
        "chain.video.ladder": few,
        "chain.video.solver": "euler",
        "chain.video.denoise": "small",
    }
    guided = [{"chain.video.denoise": {"expert": name, "guidance": 3.0}} for name in ("large", "small")]
    large, small, quick = (shown(recipes.changed(recipe, change)) for change in (*guided, distilled))
    assert large["motion_right"] >= 0.8
    assert large["prompt"] >= small["prompt"] + 0.05
    assert large["switches"] < small["switches"]
    for scores in (large, small, quick):
        assert scores["colour_right"] >= 0.6
        assert scores["background_right"] >= 0.8
        assert scores["presence"] >= 0.6


def shown(recipe: recipes.Recipe) -> dict[str, float]:
    """What the oracle finds in a recipe's videos of the first scenes."""
    cast, found = run.load(recipe), []
    for seed, scene in enumerate(SCENES[:6]):
        video = run.finished(run.play(run.resolved(caption(scene.ask), recipe, seed=seed), cast))
        found.append(judge(video.pixels[0], scene.ask))
    return average(found)
