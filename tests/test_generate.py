"""From a prompt to a video: real families on tiny random checkpoints, and exact experts."""

import os
import re
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dovetail
from dovetail import recipe as recipes
from dovetail.core.denoiser import Expert
from dovetail.errors import (
    NetworkError,
    OutputError,
    PromptWarning,
    RecipeError,
    ShapeWarning,
    SpaceError,
    StepsWarning,
    WeightsError,
)
from dovetail.experts.adapter import Adapter
from dovetail.recipe import Recipe
from dovetail.run import Cast, End, Piece, Step, finished, load, peak_memory, plan, play, refining, resolved
from dovetail.run.given import Source
from dovetail.run.verbs import refinement, said
from dovetail.sprites.world import BACKGROUNDS, GRAMMAR, ask, imagine, render
from dovetail.video import Footage, Video, read, settings_of

PROMPT = "a dotted red circle moving right on a teal striped background"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for family, make in tiny.MAKERS.items():
        make(folder / family)
    return folder


def tiny_recipe(checkpoints: Path, **changes: object) -> Recipe:
    """The default recipe over tiny random networks, with fewer frames and pixels."""
    families = {"control": "animatediff", "spatial": "stable-diffusion", "temporal": "text-to-video-sd"}
    weights = {f"experts.{name}.weights": str(checkpoints / family) for name, family in families.items()}
    codec = {"weights": str(checkpoints / "stable-diffusion"), "subfolder": "vae"}
    small = {"video.frames": 2, "video.height": 16, "video.width": 16, "prompt": "red"}
    steps = {"chain.structure.ladder.trailing.steps": 2, "chain.refine.ladder.below.steps": 2}
    return recipes.changed(recipes.load("sprites"), {**weights, "codec": codec, **small, **steps, **changes})


FEW = {f"experts.{name}.candidates": 64 for name in ("control", "spatial", "temporal")}


def exact(**changes: object) -> Recipe:
    return recipes.changed(recipes.load("sprites-exact"), {"video.frames": 4, **FEW, **changes})


def video_of(recipe: Recipe, cast: Cast | None = None) -> Video:
    return finished(play(recipe, cast))


# --- runs --------------------------------------------------------------------------------------------------------


def test_the_default_chain_runs_over_real_families(checkpoints: Path) -> None:
    events = list(play(tiny_recipe(checkpoints)))
    assert [type(event) for event in events] == [*[Step] * 4, Piece, End]
    steps, video = events[:-2], finished(events)
    assert video.frames.shape == (2, 16, 16, 3)
    assert video.latent is not None
    assert video.latent.shape == (1, 4, 2, 8, 8)
    assert video.settings["calls"] == {"control": 2, "spatial": 4, "temporal": 2}
    told = [(s.stage, s.step, s.steps) for s in steps if isinstance(s, Step)]
    assert told == [("structure", 1, 2), ("structure", 2, 2), ("refine", 1, 2), ("refine", 2, 2)]
    shares = [s.share for s in steps if isinstance(s, Step)]
    assert shares == pytest.approx([1 / 14, 2 / 14, 8 / 14, 1.0]), "guidance looks twice: 2 + 8 + 4 looks"


def test_what_a_run_needs_stands_in_its_settings(checkpoints: Path) -> None:
    recipe = tiny_recipe(checkpoints)
    cast = load(recipe)
    video = video_of(recipe, cast)
    settled = recipes.checked(dict(video.settings["recipe"]))
    assert {name: spec.batch for name, spec in settled.experts.items()} == {"control": 2, "spatial": 16, "temporal": 2}
    assert (video_of(settled).frames == video.frames).all()
    for change in ({"video.seed": 1}, {"prompt": "blue"}, {"chain.refine.ladder.below.timestep": 300}):
        other = video_of(recipes.changed(recipe, change), cast)
        assert not torch.equal(other.latent, video.latent), change  # type: ignore[arg-type]


def test_the_plan_is_what_happens(checkpoints: Path) -> None:
    recipe = tiny_recipe(checkpoints)
    ahead = plan(recipe)
    assert not ahead.notes, "the scheduler configs are at hand"
    assert {name: count.calls for name, count in ahead.counts.items()} == video_of(recipe).settings["calls"]
    with pytest.raises(RecipeError, match="sees at most 1 frames at once"):
        plan(recipe, overrides={"chain.refine.denoise": "spatial"})


def test_text_models_are_networks_too(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their time is no overhead: of a large one on the CPU it may be most of a run."""
    recipe, encode = tiny_recipe(checkpoints), Adapter.read

    def slowly(self: Adapter, texts: Sequence[str]) -> None:
        time.sleep(0.4)
        encode(self, texts)

    monkeypatch.setattr(Adapter, "read", slowly)
    settings = video_of(recipe).settings
    assert 3 * 0.4 <= settings["seconds_in_networks"] <= settings["seconds"]


def test_exact_experts_show_what_was_asked() -> None:
    """Every candidate fits the prompt, so the video must look like one of them: red in front of teal."""
    video = video_of(exact(prompt="a solid red circle standing still on a teal plain background"))
    teal = np.array(BACKGROUNDS["teal"]) * 255
    assert np.abs(video.frames[:, 0, 0] - teal).max() < 6
    red = video.frames[..., 0].astype(int) - video.frames[..., 1] > 100
    assert 0.05 < red.mean() < 0.4


def test_generate_takes_prompt_seed_frames_and_changes() -> None:
    video = dovetail.generate(
        "a red circle", "sprites-exact", seed=5, frames=3, overrides=FEW | {"chain.refine.ladder.below.steps": 2}
    )
    recipe = recipes.checked(dict(video.settings["recipe"]))
    assert (recipe.prompt, recipe.video.seed, recipe.video.frames) == ("a red circle", 5, 3)
    assert video.settings["calls"] == {"control": 4, "spatial": 4, "temporal": 2}
    assert len(video.frames) == 3


def test_without_a_prompt_the_recipe_has_its_own() -> None:
    assert resolved(None, "sprites").prompt == recipes.load("sprites").prompt


def test_a_long_video_in_windows_has_every_frame() -> None:
    video = video_of(exact(**{"video.frames": 12, "chain.structure.window": 4, "chain.refine.window": 8}))
    assert len(video.frames) == 12


# --- the same video again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.npz", "frames", "a.mp4"])
def test_the_settings_in_a_file_make_the_same_frames_again(tmp_path: Path, name: str) -> None:
    first = dovetail.generate(PROMPT, "sprites-exact", seed=3, frames=4, overrides=FEW)
    path = first.save(tmp_path / name)
    again = video_of(recipes.checked(settings_of(path)["recipe"]))
    assert (again.frames == first.frames).all()
    copy = again.save(tmp_path / "again" / name)
    assert (read(copy).frames == read(path).frames).all()


# --- refining a given video --------------------------------------------------------------------------------------


def test_refining_keeps_the_structure_and_calls_no_control(tmp_path: Path) -> None:
    """The draft shows a scene that the exact experts know. Refined it stays; made from noise it is another."""
    draft = Video.of(render(imagine(ask(PROMPT)[0], 0), range(6))[None], 8.0, {})
    path = draft.save(tmp_path / "draft.mp4")
    video = dovetail.refine(path, PROMPT, "sprites-exact", overrides=FEW)
    assert video.settings["calls"] == {"spatial": 10, "temporal": 5}
    assert video.frames.shape == draft.frames.shape
    free = dovetail.generate(PROMPT, "sprites-exact", frames=6, seed=1, overrides=FEW)
    refined, unrelated = (np.abs(v.frames.astype(int) - draft.frames).mean() for v in (video, free))
    assert refined < 5
    assert unrelated > 2 * refined


def test_strength_and_frames_of_a_refinement(tmp_path: Path) -> None:
    draft = Video(np.zeros((6, 64, 64, 3), np.uint8), 12.0).save(tmp_path / "draft.npz")
    recipe = refining(resolved(PROMPT, "sprites"), draft, strength=300, frames=4)
    assert recipe.chain == recipes.changed(recipes.load("sprites"), {"chain.1.ladder.below.timestep": 300}).chain[1:]
    assert (recipe.video.frames, recipe.video.fps) == (4, 12.0)


def test_a_refinement_tells_the_story_of_its_video_and_no_example(tmp_path: Path) -> None:
    """What so many frames of it tell; a recipe's example is of another video."""
    story = {"events": ["0s: it moves left", "1s-2s: it moves up"], "fade": "0.5s"}
    made = recipes.changed(
        recipes.load("sprites-story-exact"), {"video.frames": 24, "prompt": "a ring", "story": story}
    )
    frames = np.zeros((24, 64, 64, 3), np.uint8)
    path = Video(frames, 8.0, {"recipe": recipes.plain(made)}).save(tmp_path / "told.npz")

    def told(name: str, prompt: str | None = None, frames: int | None = None, changes: Sequence[str] = ()) -> Recipe:
        asked = resolved(prompt, name, overrides=changes)
        return refining(asked, path, frames=frames, told=said(prompt, changes, name))

    whole = told("sprites-story")
    assert [(span.text, span.start, span.stop) for span in whole.spans()] == [
        ("it moves left", 0, 8),
        ("it moves up", 8, 16),
    ]
    assert (whole.prompt, whole.story.by) == ("a ring", "frame")
    assert [span.stop for span in told("sprites-long", frames=10).spans()] == [8, 10]
    assert (whole.story.fade, told("sprites-long").story.fade) == (None, "0.5s"), (
        "of frames that are told there is none"
    )
    assert [span.text for span in told("sprites-long", frames=6).spans()] == ["it moves left"]
    assert told("sprites-story", "a blue square").story is None
    changes = ['story={events: ["it moves down"]}']
    assert [span.text for span in told("sprites-story", changes=changes).spans()] == ["it moves down"]
    mute = Video(frames, 8.0).save(tmp_path / "mute.npz")
    assert refining(recipes.load("sprites-story-exact"), mute, told=["prompt"]).story is None


def test_a_video_is_refined_under_a_story_that_is_told(tmp_path: Path) -> None:
    """At its own length and speed; what is said of them is heard."""
    frames = np.zeros((24, 64, 64, 3), np.uint8)
    mute = Video(frames, 12.0).save(tmp_path / "mute.npz")
    made = Video(frames, 12.0, {"recipe": {"prompt": "a blue ring"}}).save(tmp_path / "made.npz")
    story = ["0s: it moves left", "1s: it moves up"]

    def told(path: Path, prompt: str | None = None, **more: Any) -> Recipe:
        return refinement(path, prompt, "sprites-story", story=story, **more)

    one = told(mute, "a red circle")
    assert [(span.text, span.start, span.stop) for span in one.spans()] == [
        ("it moves left", 0, 12),
        ("it moves up", 12, 24),
    ]
    assert (one.prompt, one.video.fps, one.story.by) == ("a red circle", 12.0, "frame")
    assert [stage.stage for stage in one.chain] == ["refine"]
    assert told(made).prompt == "a blue ring", "which the video says"
    assert told(mute).prompt == "", "and not the recipe's example"
    assert told(made, "a red ring").prompt == "a red ring"
    assert [span.stop for span in told(made, frames=20).spans()] == [12, 20]
    slow = told(made, overrides=["video.fps=8.0"])
    assert [(span.start, span.stop) for span in slow.spans()] == [(0, 8), (8, 24)]
    assert told(made, overrides={"video.fps": 8.0}).spans() == slow.spans()
    with pytest.raises(RecipeError, match="event 2 begins at 3s, but the video ends at 2s"):
        refinement(made, None, "sprites-story", story=["0s: it moves left", "3s: it moves up"])
    video = dovetail.refine(made, None, "sprites-story-exact", story=story, overrides=FEW)
    assert video.frames.shape == (24, 64, 64, 3)
    assert "control" not in video.settings["calls"]


def test_what_a_file_has_beside_pictures_is_said_to_stay_behind(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (200, 0, 0, 0)).save(tmp_path / "1.png")
    with pytest.warns(ShapeWarning, match=": what is clear in it is black here"):
        refining(recipes.load("sprites-exact"), tmp_path)


def test_a_given_video_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked through, and then read as far as it is asked for, at the size that it is made in."""
    path = Video(np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, 3) * np.ones((1, 8, 8, 1), np.uint8), 8.0)
    start = Source.of(path.save(tmp_path / "given.npz"))
    assert (start.frames, start.size) == (40, (8, 8))
    assert start.first(3, 4, 2).tolist() == np.full((3, 4, 2, 3), [[[[0]]], [[[1]]], [[[2]]]]).tolist()
    assert start.first(42, 8, 8)[:, 0, 0, 0].tolist() == [*range(40), 39, 39]
    living: list[weakref.ref[Any]] = []

    def frames(footage: Footage) -> Iterator[Any]:
        for _ in range(40):
            some = np.zeros((1, 64, 64, 3), np.uint8)
            living.append(weakref.ref(some))
            assert sum(ref() is not None for ref in living) <= 3
            yield some

    monkeypatch.setattr(Footage, "frames", frames)
    assert start.first(40, 8, 8).shape == (40, 8, 8, 3)
    assert Source.of(tmp_path / "given.npz").frames == 40


def test_a_cast_that_lacks_an_expert_is_refused() -> None:
    recipe = recipes.load("sprites-exact")
    cast = load(recipe)
    less = replace(cast, experts={name: expert for name, expert in cast.experts.items() if name != "spatial"})
    with pytest.raises(RecipeError, match=r"no expert 'spatial'; dovetail\.run\.load\(recipe\) brings"):
        next(play(recipe, less))


def test_a_refinement_says_what_its_video_says_unless_told(tmp_path: Path) -> None:
    """Its prompt, length and speed; what is said of these on the way is heard."""
    frames = np.zeros((6, 64, 64, 3), np.uint8)
    told = Video(frames, 12.0, {"recipe": {"prompt": "a blue ring"}}).save(tmp_path / "told.npz")
    base = recipes.load("sprites")
    recipe = refining(base, told, told=said(None, (), "sprites"))
    assert (recipe.prompt, recipe.video.frames, recipe.video.fps) == ("a blue ring", 6, 12.0)
    changes = ["video.frames=4", "video.fps=24"]
    recipe = refining(recipes.changed(base, changes), told, told=said("a red circle", changes, "sprites"))
    assert (recipe.prompt, recipe.video.frames, recipe.video.fps) == (base.prompt, 4, 24.0)
    assert refining(base, told, told=said(None, (), base)).prompt == base.prompt, (
        "a recipe of their own says its prompt"
    )
    mute = Video(frames, 12.0).save(tmp_path / "mute.npz")
    with pytest.warns(
        PromptWarning, match="no prompt is given and .*mute.npz carries none, so it is refined to .*dotted red"
    ):
        assert refining(base, mute, told=()).prompt == base.prompt


def test_a_chain_that_begins_with_a_video_is_all_there_is_to_refine_with(tmp_path: Path) -> None:
    draft = Video(np.zeros((4, 64, 64, 3), np.uint8), 8.0).save(tmp_path / "draft.npz")
    alone = recipes.changed(exact(), {"chain": exact().model_dump()["chain"][1:]})
    assert refining(alone, draft).chain == alone.chain
    with pytest.warns(StepsWarning, match="stage 'refine' adds noise to a video .* and is given no video"):
        video_of(alone)


def test_noise_is_not_asked_for_where_there_is_nothing_else(checkpoints: Path) -> None:
    recipe = tiny_recipe(checkpoints, **{"chain.structure.ladder": {"even": {"steps": 2}}})
    with pytest.raises(
        RecipeError, match=r"chain\.structure\.ladder: step 1: expert 'control' predicts noise.* as trailing"
    ):
        video_of(recipe)


def test_a_recipe_in_which_nobody_is_asked_is_refused() -> None:
    idle = {"coupled": {"of": "control", "size": 4, "stride": 4, "stages": "inner", "iterations": 0}}
    stage = {**exact().model_dump(mode="json")["chain"][0], "denoise": idle}
    with pytest.raises(RecipeError, match="no step of this recipe asks an expert"):
        dovetail.plan(recipes.changed(exact(), {"chain": [stage]}))


def test_a_refined_video_is_made_again_only_from_the_same_video(tmp_path: Path) -> None:
    draft = Video.of(render(imagine(ask(PROMPT)[0], 1), range(4))[None], 8.0, {})
    recipe = refining(resolved(PROMPT, "sprites-exact", overrides=FEW), draft.save(tmp_path / "draft.npz"))
    assert (video_of(recipe).frames == video_of(recipe).frames).all()
    Video(255 - draft.frames, 8.0).save(tmp_path / "draft.npz")
    with pytest.raises(RecipeError, match="is not the video it was"):
        video_of(recipe)


def test_a_recipe_file_may_start_from_a_video(tmp_path: Path, checkpoints: Path) -> None:
    Video(np.full((5, 40, 24, 3), 200, np.uint8), 6.0).save(tmp_path / "draft.npz")
    start = {
        "start": {"video": str(tmp_path / "draft.npz")},
        "chain": tiny_recipe(checkpoints).model_dump()["chain"][1:],
    }
    with pytest.warns(ShapeWarning, match="24x40 and is stretched to 16x16; --size 16x24 keeps its shape"):
        video = video_of(tiny_recipe(checkpoints, **start))
    assert video.frames.shape == (2, 16, 16, 3), "the first frames, at the recipe's size"


def test_the_size_that_keeps_a_videos_shape_keeps_it(tmp_path: Path, checkpoints: Path) -> None:
    Video(np.full((5, 90, 160, 3), 200, np.uint8), 6.0).save(tmp_path / "wide.npz")
    recipe, size = tiny_recipe(checkpoints), {}
    for told in (True, False):
        with pytest.warns(ShapeWarning, match="160x90 and is stretched") as said:
            video = dovetail.refine(tmp_path / "wide.npz", "x", recipe, frames=2, overrides=size)
        near = re.findall(r"--size (\d+)x(\d+) keeps its shape", str(said[0].message))
        assert bool(near) is told, "what is as near as it gets is not advised against"
        size = size or {"video.width": int(near[0][0]), "video.height": int(near[0][1])}
    assert video.frames.shape[1:3] == (16, 24)


def test_settings_mean_the_same_from_everywhere(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are made whole, and the given video is told from another that has taken its name."""
    Video(np.full((2, 16, 16, 3), 200, np.uint8), 8.0).save(tmp_path / "draft.npz")
    monkeypatch.chdir(checkpoints)
    start = {
        "start.video": os.path.relpath(tmp_path / "draft.npz"),
        "experts.spatial.weights": "stable-diffusion",
        "codec.weights": "stable-diffusion",
        "chain": tiny_recipe(checkpoints).model_dump()["chain"][1:],
    }
    video = video_of(tiny_recipe(checkpoints, **start))
    settled = recipes.checked(dict(video.settings["recipe"]))
    monkeypatch.chdir("/")
    assert (video_of(settled).frames == video.frames).all()
    Video(np.zeros((2, 16, 16, 3), np.uint8), 8.0).save(tmp_path / "draft.npz")
    with pytest.raises(RecipeError, match="is not the video it was"):
        video_of(settled)


def test_what_cannot_be_refined_is_refused(tmp_path: Path) -> None:
    draft = Video(np.zeros((70, 64, 64, 3), np.uint8), 8.0).save(tmp_path / "draft.npz")
    with pytest.raises(RecipeError, match=r"70 frames.*at most 64"):
        dovetail.refine(draft, PROMPT, "sprites-exact")
    for frames in (0, 71):
        with pytest.raises(RecipeError, match=rf"{frames} frames are asked for, but .* has 70"):
            dovetail.refine(draft, PROMPT, "sprites-exact", frames=frames)
    with pytest.raises(OutputError, match="no video at"):
        dovetail.refine(tmp_path / "none.mp4", PROMPT, "sprites-exact")
    with pytest.raises(RecipeError, match="strength is a timestep of the ladder `below`"):
        dovetail.refine(
            draft, PROMPT, "sprites-exact", strength=50, frames=2, overrides={"chain.1.ladder": {"even": {"steps": 3}}}
        )
    single = recipes.changed(exact(), {"chain": exact().model_dump()["chain"][:1]})
    with pytest.raises(RecipeError, match="one stage only"):
        refining(single, draft)
    short = exact(**{"start": {"video": str(draft)}, "video.frames": 64, "video.longest": None})
    with pytest.raises(RecipeError, match=r"72 frames are asked for, but .* has 70"):
        video_of(recipes.changed(short, {"video.frames": 72}))


# --- errors ------------------------------------------------------------------------------------------------------


def test_sizes_that_the_codec_cannot_make_are_refused(checkpoints: Path) -> None:
    with pytest.raises(RecipeError, match=r"multiples of 2, .* not 17x16; 16x16 is near"):
        video_of(tiny_recipe(checkpoints, **{"video.height": 17}))


def test_missing_weights_say_which_and_where_to_get_them(checkpoints: Path) -> None:
    with pytest.raises(WeightsError, match="no packaged weights 'sprites/nothing'"):
        video_of(tiny_recipe(checkpoints, **{"experts.spatial.weights": "sprites/nothing"}))
    with pytest.raises(WeightsError, match=r"/no/such/folder.*stable-diffusion-v1-5"):
        video_of(tiny_recipe(checkpoints, **{"experts.spatial.weights": "/no/such/folder"}))


def test_experts_of_different_latent_spaces_are_not_joined(checkpoints: Path, tmp_path: Path) -> None:
    other = tiny.save(tmp_path / "other", tiny.unet2d(), vae=tiny.vae(seed=9, scaling=0.5))
    with pytest.raises(
        SpaceError, match=rf"expert 'spatial' \({other}\) and the codec \(.+\) live in different latent"
    ):
        video_of(tiny_recipe(checkpoints, **{"experts.spatial.weights": str(other)}))
    mixed = exact(codec={"pixels": 4})
    with pytest.raises(SpaceError, match="factor 2 against 4"):
        video_of(mixed, Cast(load(exact()).experts, load(mixed).codec))


def test_nan_from_a_network_names_expert_stage_and_step(checkpoints: Path, tmp_path: Path) -> None:
    broken = tiny.text_to_video_sd(tmp_path / "broken")
    file = next((broken / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    tensors["conv_out.bias"][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NetworkError) as caught:
        video_of(tiny_recipe(checkpoints, **{"experts.temporal.weights": str(broken)}))
    assert (caught.value.expert, caught.value.stage, caught.value.step) == ("temporal", "refine", 1)
    assert caught.value.weights == str(broken)


def test_nan_later_in_a_run_names_its_step() -> None:
    cast = load(exact())
    whole = cast.experts["spatial"]

    def late(x: torch.Tensor, time: float, conditions: object, frames: torch.Tensor) -> torch.Tensor:
        out = whole.network(x, time, conditions, frames)  # type: ignore[arg-type]
        return out * torch.nan if time == 59 else out

    late.space = whole.network.space  # type: ignore[attr-defined]
    experts = {**cast.experts, "spatial": Expert("spatial", whole.schedule, whole.target, late)}
    with pytest.raises(NetworkError, match=r"expert 'spatial' .* in stage 'refine', step 3"):
        video_of(exact(), Cast(experts, cast.codec))


def test_words_outside_the_grammar_are_warned_of_once_with_the_grammar() -> None:
    with pytest.warns(PromptWarning) as caught:
        dovetail.generate("a purple circle", "sprites-exact", frames=2, overrides=FEW)
    (warning,) = caught
    assert "'purple'" in str(warning.message)
    assert GRAMMAR in str(warning.message)


def test_known_words_and_other_experts_warn_of_nothing(checkpoints: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dovetail.generate("a red circle", "sprites-exact", frames=2, overrides=FEW)
        video_of(tiny_recipe(checkpoints, prompt="a purple dragon"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process' peak is its own anyway")
def test_the_most_memory_that_was_held_is_not_what_the_parent_held() -> None:
    held = bytearray(2**30)
    held[:: 2**12] = bytes(len(held[:: 2**12]))  # each page is there
    script = "from dovetail.run import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < peak_memory() - 500
    assert peak_memory() > 1024
