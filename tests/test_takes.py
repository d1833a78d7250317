"""Takes: what a judge sees, which seed it finds, and what is then made."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_bridges import wan_then_sd
from typer.testing import CliRunner

import dovetail
from dovetail import cli, run
from dovetail import recipe as recipes
from dovetail.core.combine import Framewise
from dovetail.core.denoiser import timeline
from dovetail.core.exact import Gaussian
from dovetail.core.noise import Noise
from dovetail.errors import RecipeError, StoryWarning
from dovetail.methods.evidence import LEVELS, evidence
from dovetail.recipe import Recipe
from dovetail.run.choosing import check_takes, opening, taken
from dovetail.sprites import exact as sprites
from dovetail.sprites.world import Ask, imagine, render
from dovetail.video import read, settings_of

FEW = {f"experts.{name}.candidates": 64 for name in ("control", "spatial", "temporal")}
SMALL = {"video.frames": 4, **FEW}


def clip(**changes: Any) -> Recipe:
    return recipes.changed(recipes.load("sprites-exact"), {**SMALL, **changes})


# --- what a judge sees -------------------------------------------------------------------------------------------


def test_evidence_is_what_the_formula_says() -> None:
    asked, unasked, frames, noise = Gaussian(std=0.5), Gaussian(std=2.0), timeline(8), Noise(4)
    video = 0.5 * Noise(9).like(torch.zeros(1, 2, 8, 4, 4), frames)
    video[:, :, 5] *= 8  # the frame that says least
    speaks = [0.0] * 8
    for t in LEVELS:
        eps = noise.like(video, frames, "evidence", t)
        x = (1 - t) * video + t * eps
        errors = {who: (who(x, t, frames).eps - eps) ** 2 for who in (asked, unasked)}
        for frame in range(8):
            one, none = (float(errors[who][:, :, frame].mean()) for who in (asked, unasked))
            speaks[frame] += (none - one) / float(errors[asked].mean())
    lowest = sorted(speaks)[:2]
    assert speaks.index(lowest[0]) == 5
    assert lowest[0] < 0 < sorted(speaks)[2]
    assert evidence(asked, unasked, video, frames, noise) == pytest.approx(sum(lowest) / 2, rel=1e-5)
    assert evidence(asked, asked, video, frames, noise) == 0.0
    for levels in ((), (0.5, 1.0), (0.0,)):
        with pytest.raises(ValueError, match="levels between 0 and 1"):
            evidence(asked, unasked, video, frames, noise, levels)


def test_a_render_speaks_for_its_own_prompt_and_not_for_another() -> None:
    codec = sprites.PixelCodec()
    expert = sprites.load("spatial", "spatial", candidates=256, codec=codec)
    red, blue = (Ask(shape="circle", colour=colour, background="gray", pattern="plain") for colour in ("red", "blue"))
    frames = timeline(2)
    for scene, prompt, other in ((red, "red", "blue"), (blue, "blue", "red")):
        latent = codec.encode(render(imagine(scene, 3), range(2), size=64)[None])
        prompts = (f"a {word} circle on a gray plain background" for word in (prompt, other))
        own, strange = (Framewise(expert.given(text)) for text in prompts)
        assert evidence(own, strange, latent, frames, Noise(0)) > 0 > evidence(strange, own, latent, frames, Noise(0))


# --- takes -------------------------------------------------------------------------------------------------------


def test_takes_are_ranked_and_the_best_is_made_from_its_seed() -> None:
    found = dovetail.takes("a red circle", clip(), of=3, seed=5)
    assert sorted(take.seed for take in found) == [5, 6, 7]
    assert [take.evidence for take in found] == sorted((take.evidence for take in found), reverse=True)
    again = dovetail.generate("a red circle", clip(), seed=found[0].seed)
    assert (again.frames == found[0].video.frames).all()


def test_takes_of_a_long_video_are_its_first_window() -> None:
    long = recipes.changed(recipes.load("sprites-long-exact"), {"video.frames": 600, **FEW})
    assert opening(long).video.frames == 16
    found = dovetail.takes("a red circle", recipes.changed(long, {"video.frames": 40}), of=2)
    assert all(len(take.video.frames) == 16 for take in found)


def test_of_a_story_takes_tell_what_lies_in_them() -> None:
    events = ["0s: it moves right", "1s: it moves up", "8s: it moves down"]
    story = run.resolved("a red circle", "sprites-story-exact", story=events, frames=96)
    told = {}
    for by in ("frame", "window"):
        first = opening(recipes.changed(story, {"story.by": by}))
        told[by] = [(span.start, span.stop, span.text) for span in first.spans()]
    assert told["frame"] == [(0, 8, "it moves right"), (8, 16, "it moves up")]
    assert told["window"] == [(0, 16, "it moves up")], "a window takes the event at its middle"


@pytest.mark.parametrize("by", ["frame", "window"])
def test_takes_of_a_story_that_begins_late_tell_its_first_event(by: str) -> None:
    with pytest.warns(StoryWarning, match="no event tells of 0s to 6s"):
        dovetail.plan("sprites-story-exact", "a red circle", story=["6s: it moves up"], frames=96)
    late = run.resolved("a red circle", "sprites-story-exact", story=["6s: it moves up"], frames=96)
    first = opening(recipes.changed(late, {"story.by": by}))
    assert [(span.start, span.stop, span.text) for span in first.spans()] == [(0, 16, "it moves up")]


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_that_ships_has_a_beginning(name: str) -> None:
    recipe = recipes.load(name)
    first = opening(recipe)
    assert 1 < first.video.frames <= recipe.video.frames
    assert check_takes(recipe, 2, None) in recipe.experts
    assert sum(count.calls for count in dovetail.plan(first).counts.values())


def test_what_cannot_be_chosen_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="1 take leaves nothing to choose from"):
        dovetail.takes("a red circle", clip(), of=1)
    with pytest.raises(RecipeError, match=r"no expert of the last stage's latents is called 'spatail'.*spatial"):
        dovetail.takes("a red circle", clip(), by="spatail")
    bridged = wan_then_sd({family: tiny.MAKERS[family](tmp_path / family) for family in ("stable-diffusion", "wan")})
    with pytest.raises(RecipeError, match="is called 'motion'"):
        check_takes(bridged, 2, "motion")


def test_takes_of_experts_that_take_turns_are_the_same(tmp_path: Path) -> None:
    families = {"control": "animatediff", "spatial": "stable-diffusion", "temporal": "text-to-video-sd"}
    places = {name: tiny.MAKERS[family](tmp_path / family) for name, family in families.items()}
    recipe = recipes.changed(
        recipes.load("sprites"),
        {
            **{f"experts.{name}.weights": str(place) for name, place in places.items()},
            "codec": {"weights": str(places["spatial"]), "subfolder": "vae"},
            "video.frames": 2,
            "video.height": 16,
            "video.width": 16,
            "prompt": "red",
            "chain.structure.ladder.trailing.steps": 2,
            "chain.refine.ladder.below.steps": 2,
        },
    )
    scores = []
    for residency in ("all", "turns"):
        asked = recipes.changed(recipe, {"residency": residency})
        events = taken(asked, run.load(asked), 2, check_takes(asked, 2, None))
        scores.append({event.seed: event.evidence for _, event in events if isinstance(event, run.Take)})
    assert scores[0] == scores[1]
    assert len(set(scores[0].values())) == 2


# --- commands ----------------------------------------------------------------------------------------------------


def command(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


QUICK = ["-r", "sprites-exact", "--frames", 3, *(part for name in FEW for part in ("--set", f"{name}=64"))]


def test_takes_as_a_command(tmp_path: Path) -> None:
    said = command("takes", "a red circle", *QUICK, "--of", 3, "--seed", 2, "-o", tmp_path / "new" / "takes.png")
    ranks = [line.split(":")[0] for line in said.splitlines()[:3]]
    assert sorted(ranks) == ["seed 2", "seed 3", "seed 4"]
    assert said.splitlines()[-1] == f"to make it: --{ranks[0]}"
    assert (tmp_path / "new" / "takes.png").stat().st_size > 0
    made = ["generate", "a red circle", *QUICK]
    command(*made, "--takes", 3, "--seed", 2, "-o", tmp_path / "chosen.npz")
    command(*made, "--seed", ranks[0].split()[1], "-o", tmp_path / "told.npz")
    assert (read(tmp_path / "chosen.npz").frames == read(tmp_path / "told.npz").frames).all()
    assert settings_of(tmp_path / "chosen.npz")["recipe"]["video"]["seed"] == int(ranks[0].split()[1])


def test_takes_do_not_go_with_several_videos(tmp_path: Path) -> None:
    (prompts := tmp_path / "prompts.txt").write_text("a red circle\na blue ring\n")
    command("generate", "a red circle", *QUICK, "-o", tmp_path / "a.npz")
    for words in (["--count", 2], ["--prompts", prompts], ["--continue", "a.run"], ["--from", tmp_path / "a.npz"]):
        assert command("generate", "--takes", 2, *words, code=2)
    (tmp_path / "file").touch()
    said = command("generate", "a red circle", *QUICK, "--takes", 2, "-o", tmp_path / "file" / "a.npz", code=1)
    assert "cannot write" in said
    assert "the best is" not in said, "before any is made"
    assert "say --takes" in command("generate", "a red circle", *QUICK, "--by", "spatial", code=2)
    assert "takes are shown in a picture" in command("takes", *QUICK, "-o", tmp_path / "takes.mp4", code=1)
    command("generate", "a red circle", *QUICK, "--takes", 1, "-o", tmp_path / "b.npz")
    assert (read(tmp_path / "a.npz").frames == read(tmp_path / "b.npz").frames).all(), "one take is none"
