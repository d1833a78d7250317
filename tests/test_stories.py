"""Stories: what times say, where events lie, who is asked for what, and videos in which things happen in their order."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.core import chain
from dovetail.core.combine import Guided, Windowed
from dovetail.core.denoiser import Blend, Condition, Expert, Timeline, predicts_flow, predicts_x0, timeline
from dovetail.core.noise import Noise
from dovetail.core.schedules import Flow
from dovetail.core.windows import tile
from dovetail.errors import PromptWarning, RecipeError, StoryWarning
from dovetail.recipe import Recipe
from dovetail.recipe.build import build, told_over
from dovetail.recipe.story import Span, drawn, event, gaps, joined, laid, scenario
from dovetail.run import Look, decode, keep, play, resume, storyboard, tale
from dovetail.run.continuing import carry_on, continuing
from dovetail.run.events import Piece
from dovetail.run.outlook import outlook
from dovetail.run.telling import changes
from dovetail.sprites.oracle.events import events as seen_in
from dovetail.video import read, settings_of

SMALL = {f"experts.{name}.candidates": 16 for name in ("control", "spatial", "temporal")} | {"codec.pixels": 8}
STORY = recipes.changed(recipes.load("sprites-story-exact"), SMALL)
DOCS = Path(__file__).parents[1] / "docs" / "stories.md"

DAY, NIGHT = Condition("day"), Condition("night")


def dovetail_(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refused(*changes: str) -> str:
    """What the error says about these changes of a good recipe of 96 frames."""
    with pytest.raises(RecipeError) as caught:
        recipes.changed(STORY, changes)
    return str(caught.value)


@dataclass
class Line:
    """An event as it is told."""

    text: str
    at: str | None = None
    to: str | None = None


def starts(*told: Line, frames: int = 96) -> list[int]:
    return [span.start for span in laid(told, frames, 8.0)]


# --- conditions over time ----------------------------------------------------------------------------------------


def says(conditions: Sequence[Condition]) -> Tensor:
    """A number for each text, in the shape of rows."""
    return torch.tensor([float(sum(map(ord, one.text))) for one in conditions])[:, None, None, None, None]


def listening(asked: list[Any], target: Any = predicts_flow) -> Expert:
    """An expert whose answer hangs on its latent and its text, and that keeps what it was asked."""

    def network(x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        assert all(isinstance(one, Condition) for one in conditions), "no network sees a blend"
        assert len(x) == len(conditions) == len(frames)
        asked.extend((row.tolist(), one.text) for row, one in zip(frames, conditions, strict=True))
        return x.sin() * says(conditions)

    return Expert("listening", Flow(), target, network)


def test_a_fade_as_long_as_a_window_is_the_share_of_overlap() -> None:
    story = Timeline(((0, DAY), (20, NIGHT), (36, DAY)), fade=8)
    for window in tile(64, 8, 1):
        row = torch.arange(64)[window]
        night = float(((row >= 20) & (row < 36)).float().mean())
        asked = story.at(row)
        shares = dict(asked.parts) if isinstance(asked, Blend) else {asked: 1.0}
        assert shares.get(NIGHT, 0.0) == pytest.approx(night)
        assert sum(shares.values()) == pytest.approx(1)


def test_without_a_fade_the_centre_decides() -> None:
    story = Timeline(((0, DAY), (20, NIGHT)))
    for size in (1, 2, 7, 16):
        for window in tile(40, size, 1):
            row = torch.arange(40)[window]
            assert story.at(row) == (NIGHT if (window.start + window.stop) / 2 >= 20 else DAY)


def test_a_blend_is_the_mean_of_what_its_conditions_show() -> None:
    x, frames = torch.randn(2, 3, 8, 2, 2), torch.stack([torch.arange(8), torch.arange(14, 22)])
    asked: list[Any] = []
    expert = listening(asked)
    story = expert.given(Timeline(((0, DAY), (20, NIGHT)), fade=16))
    seen = story(x, 0.5, frames)
    assert [text for _, text in asked] == ["day", "day", "night"], "a row that is no blend is asked once"
    day, night = (expert.given(one.text)(x, 0.5, frames) for one in (DAY, NIGHT))
    share = (18 - 20) / 16 + 0.5
    assert torch.allclose(seen.x0[:1], day.x0[:1])
    mixed = day.lerp(night, share)
    assert torch.allclose(seen.x0[1:], mixed.x0[1:], atol=1e-4)
    assert torch.allclose(seen.eps[1:], mixed.eps[1:], atol=1e-4)
    assert not torch.allclose(day.x0[1:], night.x0[1:], atol=1e-1)


def test_a_story_of_one_text_is_that_prompt() -> None:
    x, frames = torch.randn(1, 3, 8, 2, 2), timeline(8)
    expert = listening([])
    same = Timeline(((0, DAY), (2, DAY), (5, DAY)), fade=3)
    plain = expert.given("day")(x, 0.7, frames)
    assert torch.allclose(Windowed(expert.given(same), 4, 2)(x, 0.7, frames).x0, plain.x0, atol=1e-5)


def test_guidance_takes_blends_in_one_call_or_in_two() -> None:
    x, frames = torch.randn(1, 3, 8, 2, 2), timeline(8)
    expert = listening([])
    story = Timeline(((0, DAY), (3, NIGHT)), fade=8)
    one, two = (
        Windowed(Guided(expert.given(story), expert.given(""), 3.0, joint=joint), 4, 2)(x, 0.7, frames)
        for joint in (True, False)
    )
    assert torch.allclose(one.x0, two.x0, atol=1e-4)


# --- times and texts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2s: it turns", {"at": "2s", "text": "it turns"}),
        (" 2.5 seconds : it turns ", {"at": "2.5s", "text": "it turns"}),
        ("16f: it turns", {"at": "16f", "text": "it turns"}),
        ("25%: it turns", {"at": "25%", "text": "it turns"}),
        ("2s-4s: it turns", {"at": "2s", "to": "4s", "text": "it turns"}),
        ("2s - 32 frames: it turns", {"at": "2s", "to": "32f", "text": "it turns"}),
        ("it turns", {"text": "it turns"}),
        ("the sign says: left", {"text": "the sign says: left"}),
        ("0s: at 5: tea", {"at": "0s", "text": "at 5: tea"}),
        ("**2s:** it turns", {"at": "2s", "text": "it turns"}),
        ("at 2s: it turns", {"at": "2s", "text": "it turns"}),
        ("[2s] it turns", {"at": "2s", "text": "it turns"}),
        ("(2s to 4s): it turns", {"at": "2s", "to": "4s", "text": "it turns"}),
        ("0s: 2s it waits", {"at": "0s", "text": "2s it waits"}),
        ("[0:00] it sits", {"at": "0s", "text": "it sits"}),
        ("1:02.5-1:30: it sits", {"at": "62.5s", "to": "90s", "text": "it sits"}),
        ("Event 1 (0s): it sits", {"at": "0s", "text": "it sits"}),
        ("**Event 2:** 4s: it sits", {"at": "4s", "text": "it sits"}),
        ("Scene 3 - it sits", {"text": "it sits"}),
        ("event 3 of the games", {"text": "event 3 of the games"}),
    ],
)
def test_an_event_is_a_time_and_a_text(text: str, read: dict[str, str]) -> None:
    assert event(text) == read


@pytest.mark.parametrize("text", ["2: it turns", "3 birds: they sing", "-2s: it turns", "2s..4s: it turns", "1:3: tea"])
def test_what_looks_like_a_time_and_is_none_is_told_how(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; an event is written '2s: it turns'"):
        event(text)


@pytest.mark.parametrize("text", ["2s it turns", "at 25% it turns", "2s-4s it turns", "2s"])
def test_a_time_without_a_colon_is_told_how(text: str) -> None:
    time = text.partition(" it")[0]
    with pytest.raises(ValueError, match=rf"begins with a time and has no colon behind it, as in '{time}: \.\.'"):
        event(text)


def test_texts_are_joined_as_sprites_are_captioned() -> None:
    assert joined("a red circle", "it moves left") == "a red circle, it moves left"
    assert joined("A room at night.", "It rains.") == "A room at night. It rains."
    assert (joined("", "it moves left"), joined("a red circle", " ")) == ("it moves left", "a red circle")


def test_all_spellings_of_a_story_are_one_recipe() -> None:
    spelt = [
        "[{at: 0s, text: a}, {at: 2s, to: 4s, text: b}]",
        "['0s: a', '2s-4s: b']",
        "{events: [{0s: a}, {2s-4s: b}]}",
        "{events: ['0 seconds: a', {text: b, at: 2 s, to: 4.0 s}], fade: null}",
    ]
    found = [recipes.changed(STORY, [f"story={text}"]) for text in spelt[:3]]
    assert found[0] == found[1] == found[2]
    spans = [recipes.changed(STORY, [f"story={text}"]).spans() for text in spelt]
    assert spans.count(spans[0]) == 4
    faded = recipes.changed(found[0], ["story.fade=1s"])
    assert recipes.parse(recipes.dump(faded)) == faded


def test_the_shared_text_is_the_prompt() -> None:
    data = recipes.plain(STORY)
    told = {"shared": "a red circle", "events": ["it moves left"]}
    del data["prompt"]
    assert recipes.checked({**data, "story": told}).prompt == "a red circle"
    with pytest.raises(RecipeError, match=r"story\.shared: .* say it once, as prompt"):
        recipes.checked({**data, "story": told, "prompt": "a blue ring"})


@pytest.mark.parametrize(
    ("change", "path", "hint"),
    [
        ("story.events=[]", "story.events: an empty list came", "one or more"),
        ("story.events=['0s: ']", "story.events.0.text", "at least 1 character"),
        ("story.events.1.at=4", "story.events.1.at: '4' is no time", "2s (seconds), 16f (frames), 25%"),
        ("story.events.1.att=4s", "story.events.1.att: unknown key", "did you mean 'at'?"),
        ("story.fad=1s", "story.fad: unknown key", "did you mean 'fade'?"),
        ("story.fade=much", "story.fade: 'much' is no time", "2s"),
        ("story=3", "story: 3 (a number) came", "a mapping"),
    ],
)
def test_an_error_says_where_what_came_and_what_fits(change: str, path: str, hint: str) -> None:
    message = refused(change)
    assert path in message
    assert hint in message


# --- where events lie --------------------------------------------------------------------------------------------


def test_events_are_even_by_default_and_between_times() -> None:
    assert starts(Line("a"), Line("b"), Line("c")) == [0, 32, 64]
    assert starts(Line("a"), Line("b", "8s"), Line("c"), frames=96) == [0, 64, 80]
    assert starts(Line("a", "0s"), Line("b"), Line("c"), Line("d", "9s")) == [0, 24, 48, 72]
    assert starts(Line("a", "0s", "2s"), Line("b"), Line("c")) == [0, 16, 56], "what comes next begins where one ends"


def test_seconds_frames_and_shares_say_the_same() -> None:
    assert (
        starts(Line("a"), Line("b", "6s")) == starts(Line("a"), Line("b", "48f")) == starts(Line("a"), Line("b", "50%"))
    )


@pytest.mark.parametrize(
    ("story", "said", "row"),
    [
        ("['0s-5s: a', '4s: b']", "events 1 and 2 overlap: one ends at 5s, the other begins at 4s", "0s to 5s"),
        ("['4s: a', '2s: b']", "event 2 begins at 2s, before event 1; put them in order", "2s to 12s"),
        ("['0s: a', '2s: b', '2s: c']", "events 2 and 3 begin at the same frame, at 2s", "2s to 12s  c"),
        ("['0s: a', '14s: b']", "event 2 begins at 14s, but the video ends at 12s (96 frames at 8 fps)", "14s"),
        ("['0s: a', '4s-13s: b']", "event 2 ends at 13s, but the video ends at 12s", "4s to 13s"),
        ("['0s: a', '6s-5s: b']", "event 2 ends at 5s, not after its start at 6s", "6s"),
        ("{events: ['a', 'b', 'c'], fade: 5s}", "a fade of 5s is longer than an event of 4s", "4s to 8s"),
        (
            "{events: ['0s: a', '2s: b'], fade: 20s}",
            "does not begin within the video; take fade 4s or less",
            "2s to 12s",
        ),
        (
            "{events: ['0s: a', '2s: b', '4s: c'], fade: 5s}",
            "does not begin within the video; take fade 2s or less",
            "4s to 12s",
        ),
        ("{events: ['0s: a', '11s: b'], fade: 3s}", "does not end within the video; take fade 2s or less", "0s to 11s"),
    ],
)
def test_times_that_do_not_fit_are_shown_on_the_timeline(story: str, said: str, row: str) -> None:
    message = refused(f"story={story}")
    assert message.startswith("story: ")
    assert said in message
    assert "video |---" in message
    assert row in message
    assert "\n1  " in message
    assert "\n2  " in message


def test_a_drawing_is_to_scale() -> None:
    video, one, two = drawn([Span("left", 0, 24), Span("right", 24, 32)], 32, 8.0, width=32)
    assert video == "video |" + "-" * 32 + "| 0s to 4s"
    assert one[7:39] == "1" * 24 + " " * 8
    assert two[7:39] == " " * 24 + "2" * 8
    outside = drawn([Span("late", 32, 48)], 32, 8.0, width=48)
    assert outside[0].index("|", 7) == 7 + 32, "the video's end is where it is"
    assert outside[1][7 + 32 :].startswith("1" * 16)


def test_events_in_no_order_are_not_said_to_outlast_a_video_that_ends_with_the_last() -> None:
    """Its length, where none is given, is that of the last event in the list."""
    with pytest.raises(ValueError, match="put them in order") as caught:
        laid([Line("a", "4s"), Line("b", "2s")], 32, 8.0)
    assert "ends at 4s" not in str(caught.value)


def test_gaps_take_the_neighbour() -> None:
    spans = laid([Line("a", "1s", "2s"), Line("b", "4s", "6s")], 96, 8.0)
    assert [(gap.start, gap.stop, gap.of.text) for gap in gaps(spans, 96)] == [
        (0, 8, "a"),
        (16, 32, "a"),
        (48, 96, "b"),
    ]
    recipe = recipes.changed(STORY, ["story=['1s-2s: a', '4s-6s: b']"])
    told = told_over(recipe, 96)
    heard = [told.at(torch.tensor([f])).text.rpartition(", ")[2] for f in (0, 7, 8, 20, 31, 32, 50, 95)]  # type: ignore[union-attr]
    assert heard == ["a"] * 5 + ["b"] * 3


@pytest.mark.parametrize("start", range(1, 21))
def test_a_latent_frame_takes_the_event_at_its_centre(start: int) -> None:
    recipe = recipes.changed(STORY, {"video.frames": 21, "story": ["0f: a", {"text": "b", "at": f"{start}f"}]})
    told = told_over(recipe, 6)  # 4k + 1 frames: one, then five times four
    covered = [(0, 1), *((4 * i + 1, 4 * i + 5) for i in range(5))]
    for i, (first, stop) in enumerate(covered):
        text = told.at(torch.tensor([i])).text  # type: ignore[union-attr]
        assert text.endswith("b" if (first + stop) / 2 >= start else "a")


# --- how long ----------------------------------------------------------------------------------------------------


def long(story: Any, recipe: str | Recipe = STORY, **options: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoryWarning)
        return dovetail.plan(recipe, "a red circle", story=story, **options).recipe.video.frames


def test_the_last_event_lasts_one_native_clip() -> None:
    assert long(["0s: it moves left", "4s: it moves right"]) == 32 + 16
    assert long(["0s: it moves left", "4s-5s: it moves right"]) == 40, "unless it says itself how long"
    assert long(["0s: it moves left", "4s: it moves right", "it stands still"]) == 32 + 2 * 16
    inside = ["chain.structure.window=null", "chain.structure.hop=null", "chain.structure.weights=flat"]
    inside += ["chain.structure.denoise={windowed: {of: control, size: 12, stride: 4}}"]
    assert long(["0s: it moves left", "4s: it moves right"], overrides=inside) == 32 + 12


def test_seconds_and_frames_say_more() -> None:
    story = ["0s: it moves left", "4s: it moves right"]
    assert long(story, seconds=10) == 80
    assert long(story, frames=50) == 50
    assert long({"events": story, "seconds": 9}) == 72
    assert long({"events": story, "seconds": 9}, seconds=10) == 80
    assert dovetail.plan(STORY, seconds=11).recipe.video.frames == 88
    for said in (["video.frames=80"], {"video.frames": 80}):
        assert long({"events": story, "seconds": 9}, overrides=said) == 80, "as any other value that is set"
    assert long(story, frames=50, overrides=["video.frames=80"]) == 50


def test_without_times_the_recipe_says_how_long() -> None:
    assert long(["it moves left", "it moves right"]) == 96
    assert long(["25%: it moves left", "50%: it moves right"]) == 96


def test_a_length_is_one_that_the_codec_makes() -> None:
    wan = recipes.changed(recipes.load("flowblending-wan21"), {"video.fps": 8.0})
    assert changes(wan, tale(["0s: it moves left"]), "a cat", None, 4.0)["video.frames"] == 33, "4k + 1 frames, not 32"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_no_length_is_refused(seconds: float) -> None:
    with pytest.raises(RecipeError, match=r"seconds: .* greater than 0"):
        dovetail.plan(STORY, seconds=seconds)


def test_seconds_and_frames_together_are_refused() -> None:
    with pytest.raises(RecipeError, match="give one of them"):
        dovetail.plan(STORY, seconds=4, frames=32)


# --- every method with windows -----------------------------------------------------------------------------------

WINDOWED = {
    "side by side": {"hop": None, "weights": "flat"},
    "averaged (Gen-L-Video)": {"hop": 8},
    "FreeNoise": {"hop": 4, "weights": "pyramid", "noise": {"rescheduled": {"length": 16, "block": 4}}},
    "coherent (ConFiner-Long)": {
        "hop": None,
        "weights": "flat",
        "noise": {"consistent": {"strength": 1.0}},
        "denoise": {"coherent": {"of": "control", "strength": 0.1}},
    },
    "reinjected": {"hop": 12, "weights": "flat", "denoise": {"reinjected": "control"}},
    "going on": {"hop": 8, "weights": "flat", "denoise": {"onward": {"of": "control"}}},
    "windows inside": {
        "window": None,
        "hop": None,
        "weights": "flat",
        "denoise": {"windowed": {"of": "control", "size": 16, "stride": 8}},
    },
}
"""What the first stage of a story may be."""


def in_windows(changes: dict[str, Any]) -> Recipe:
    return recipes.changed(STORY, {f"chain.structure.{key}": value for key, value in changes.items()})


@pytest.mark.parametrize("name", WINDOWED)
def test_every_window_of_every_method_is_asked_for_the_event_at_its_centre(name: str) -> None:
    recipe = recipes.changed(in_windows(WINDOWED[name]), ["story=['0s: a', '3s: b', '8.5s: c']"])
    cast = {name: outlook(name, spec, []) for name, spec in recipe.experts.items()}
    asked: dict[str, list[Any]] = {name: [] for name in cast}
    experts = {name: Expert(name, cast[name].schedule, predicts_x0, listening(asked[name]).network) for name in cast}
    stages = build(recipe, experts, (96, 8, 8))
    for _ in chain.run(stages, Noise(0), timeline(96), (3, 2, 2)):
        pass
    for heard in asked.values():
        assert {text.rpartition(", ")[2] for _, text in heard} == {"a", "b", "c"}
        for frames, text in heard:
            centre = (frames[0] + frames[-1] + 1) / 2
            assert text == f"{recipe.prompt}, {'a' if centre < 24 else 'b' if centre < 68 else 'c'}"
    lengths = {len(frames) for frames, _ in asked["control"]}
    assert lengths == {16}, "the expert that lays the structure never saw more than a clip"


@pytest.mark.parametrize("name", ["sprites-long", "sprites-long-plain", "sprites-freenoise", "sprites-gen-l-video"])
def test_shipped_recipes_with_windows_tell_stories(name: str) -> None:
    plan = dovetail.plan(name, "a red circle", story=["it moves left", "it moves right", "it stands still"])
    assert not plan.missed
    assert len(storyboard(plan)) > 8


def test_told_events_keep_the_fade_of_the_recipe_unless_they_bring_their_own() -> None:
    def asked(recipe: str | Recipe, story: Any) -> str | None:
        found = dovetail.plan(recipe, story=story).recipe.story
        assert found is not None
        return found.fade

    told = {"shared": "a red circle", "events": ["0s: it moves left", "2s: it moves right"]}
    faded = recipes.changed(STORY, {"story.fade": "1f"})
    assert asked(faded, told) == "1f"
    own = told | {"fade": "1s"}
    assert asked(faded, own) == "1s"
    assert asked(STORY, told) is None


def test_what_a_fade_costs_is_planned() -> None:
    plain, faded = (dovetail.plan(STORY, overrides={"story.fade": fade}) for fade in (None, "2s"))
    assert faded.counts["control"].frames > plain.counts["control"].frames
    assert faded.counts["control"].calls == plain.counts["control"].calls


# --- what is said aloud ------------------------------------------------------------------------------------------


def warned(kind: type[Warning], recipe: Recipe, **options: Any) -> list[str]:
    """What `play` warns of before its first step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        next(play(recipes.changed(recipe, options)))
    assert {one.category for one in caught} <= {kind}
    return [str(one.message) for one in caught]


def test_a_story_that_fits_is_quiet() -> None:
    assert warned(StoryWarning, STORY) == []
    assert warned(StoryWarning, STORY, story=None) == []


def test_gaps_are_said() -> None:
    first, second = warned(StoryWarning, STORY, story=["0s-2s: it moves left", "4s-10s: it moves right"])
    assert first == "story: no event tells of 2s to 4s; 'it moves left' stands there as well"
    assert second == "story: no event tells of 10s to 12s; 'it moves right' stands there as well"


@pytest.mark.parametrize("place", ["chain.structure.hold", "chain.structure.denoise.coupled.hold"])
def test_a_background_that_is_held_off_is_said(place: str) -> None:
    """Of a later event alone, and where windows are held, those of a stage or of its denoiser."""
    recipe = STORY
    if "coupled" in place:
        whole = {"chain.structure.window": None, "chain.structure.hop": None, "chain.structure.weights": "flat"}
        recipe = recipes.changed(recipes.changed(STORY, whole), [f"chain.structure.denoise={COUPLED}"])
    day = ["it moves left on a black background", "it moves right on a orange background"]
    assert warned(StoryWarning, recipe, story=day) == []
    held = recipes.changed(recipe, {place: {"within": 2.0}})
    (said,) = warned(StoryWarning, held, story=day)
    assert "event 2 speaks of a background" in said
    assert "'structure'" in said
    assert warned(StoryWarning, held, story=[day[0], "it moves right"]) == []


def test_another_colour_of_an_object_that_is_held_is_said() -> None:
    recipe = recipes.changed(STORY, {"chain.structure.hold": {"within": 2.0, "objects": 1.0}})
    (said,) = warned(
        StoryWarning, recipe, prompt="a circle", story=["a red circle moving left", "a blue circle moving up"]
    )
    assert "event 2 names another colour, and the windows of 'structure' are held to the object" in said
    assert warned(StoryWarning, recipe, prompt="a red circle", story=["it moves left", "the red circle moves up"]) == []
    free = recipes.changed(recipe, {"chain.structure.hold.objects": 0.0})
    assert warned(StoryWarning, free, prompt="a circle", story=["a red circle", "a blue circle"]) == []


def test_events_that_share_nothing_are_said() -> None:
    (said,) = warned(StoryWarning, STORY, prompt="")
    assert "the events share no text" in said
    assert "may change from event to event" in said
    assert "SynCoS" not in said, "no window is coupled"


COUPLED = "{coupled: {of: control, size: 16, stride: 8, floor: 0.5, iterations: 1}}"


@pytest.mark.parametrize(
    "denoise",
    [COUPLED, f"{{renoised: {{of: {COUPLED}, floor: 0.5}}}}", f"{{blended: {{above 0.5: {COUPLED}, else: control}}}}"],
    ids=["alone", "inside another", "in a blend"],
)
def test_what_syncos_loses_without_a_shared_text_is_said(denoise: str) -> None:
    """At the run, and by a plan."""
    whole = {"chain.structure.window": None, "chain.structure.hop": None, "chain.structure.weights": "flat"}
    recipe = recipes.changed(recipes.changed(STORY, whole), [f"chain.structure.denoise={denoise}"])
    with pytest.warns(StoryWarning, match="share no text") as planned:
        dovetail.plan(recipe, story=["it moves left", "it moves right"])
    said = [*warned(StoryWarning, recipe, prompt=""), *(str(one.message) for one in planned)]
    said = [line for line in said if "share no text" in line]
    assert len(said) == 2
    for line in said:
        assert "distant windows agree, and here they have nothing in common to agree on" in line
        assert "colour, background and all else that a shared text would hold may change between events" in line
    assert warned(StoryWarning, recipe) == [], "nothing is lost with one"


def test_an_event_that_no_window_takes_is_said() -> None:
    (said,) = warned(StoryWarning, STORY, story=["0s: it moves left", "3.2s: it pulses", "3.7s: it moves right"])
    assert "event 2, 'it pulses', is at the centre of no window of 'control', 'temporal'" in said
    whole = {"chain.structure.window": None, "chain.structure.hop": None, "chain.structure.weights": "flat"}
    (said, _) = warned(StoryWarning, STORY, **whole)
    assert "event 1, 'it moves right', is at the centre of no window of 'control'," in said


def test_strange_words_are_said_of_each_event() -> None:
    told = warned(PromptWarning, STORY, prompt="a purple circle", story=["it moves left", "it jumps", "it dances left"])
    assert [line.partition("\n")[0] for line in told] == [
        "words that sprite experts do not know: 'purple' (did you mean 'pulses'?). They know:",
        "event 2: words that sprite experts do not know: 'jumps'",
        "event 3: words that sprite experts do not know: 'dances'",
    ]


def test_an_event_without_a_time_among_others_is_said() -> None:
    """What a language model says behind its story is no event, and nothing else tells that it was taken for one."""
    told = "shared: a circle\n0s: it moves left\n4s: it moves right\nThis story has two events."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        with pytest.warns(
            StoryWarning, match=r"event 3, 'This .* events\.', says no time, and others do; it stands at 6s to 8s"
        ):
            dovetail.plan(STORY, story=told)


# --- the plain format --------------------------------------------------------------------------------------------


def test_a_file_holds_a_story(tmp_path: Path) -> None:
    plain, yaml = tmp_path / "story.txt", tmp_path / "story.yaml"
    plain.write_text(
        "# a comment\nshared: a yellow ring\n  on a gray background\nfade: 1 s\nseconds: 12\n\n"
        "- 0s: it moves right\n- 4s-8s: it moves down\n2. 8s: it moves left\n"
    )
    yaml.write_text(
        "shared: a yellow ring on a gray background\nfade: 1s\nseconds: 12\n"
        "events:\n- 0s: it moves right\n- 4s-8s: it moves down\n- 8s: it moves left\n"
    )
    one, two = (dovetail.plan(STORY, story=path).recipe for path in (plain, yaml))
    assert (
        one
        == two
        == dovetail.plan(STORY, story=str(plain)).recipe
        == dovetail.plan(STORY, story=plain.read_text()).recipe
    )
    assert one.prompt == "a yellow ring on a gray background"
    assert [(span.start, span.stop) for span in one.spans()] == [(0, 32), (32, 64), (64, 96)]
    assert one.story is not None
    assert one.story.fade == "1s"


@pytest.mark.parametrize(
    "text",
    [
        "shared: a ring\nevents:\n0s: it moves left\n\n    4s: it moves right\n",
        "\ufeffshared: a ring\n0s: it moves left\n\t4s: it moves right\n",
        "  **Shared:** a ring\n  **0s:** it moves left\n  [4s] it moves right\n",
    ],
)
def test_a_story_as_language_models_write_it_loses_no_event(tmp_path: Path, text: str) -> None:
    file = tmp_path / "story.txt"
    file.write_text(text, encoding="utf-8")
    found = tale(file)
    assert found.shared == "a ring"
    assert found.events == ({"at": "0s", "text": "it moves left"}, {"at": "4s", "text": "it moves right"})


def test_a_plain_story_says_who_is_told() -> None:
    assert tale("by: frame\n0s: it moves left").by == "frame"
    told = dovetail.plan(STORY, "a red circle", story="by: window\n0s: it moves left").recipe.story
    assert told is not None
    assert told.by == "window"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: A walk\n0s: a\n", "line 1: 'title' is no key; known: shared, fade, seconds, by"),
        ("by: scene\n0s: a\n", "by is window or frame, not 'scene'"),
        ("shared: a\n", "no event in it"),
        ("0s: a\n2: b\n", "line 2: '2' is no time"),
        ("shared: a\nshared: b\n0s: c\n", "line 2: 'shared' is said twice"),
        ("seconds: long\n0s: a\n", "seconds are a number, as in 'seconds: 12', not 'long'"),
        ("fade: a while\n0s: a\n", "fade: 'a while' is no time"),
        ("Here is the story:\n0s: a\n", "line 1: 'Here is the story:' is no event"),
        ("| 0s | it sits |\n", "line 1: '| 0s | it sits |' is no event"),
        ("negative: blurry\n0s: a\n", "line 1: 'negative' is no key"),
    ],
)
def test_a_file_that_is_no_story_is_told_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "story.txt").write_text(text)
    with pytest.raises(RecipeError, match=r"story\.txt") as caught:
        tale(tmp_path / "story.txt")
    assert said in str(caught.value)


def test_stories_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.txt is no story that can be read"):
        tale(tmp_path / "none.txt")
    (tmp_path / "a.yaml").write_text(recipes.dump(STORY))
    with pytest.raises(RecipeError, match="is a whole recipe; take it with --recipe"):
        tale(tmp_path / "a.yaml")
    with pytest.raises(RecipeError, match=r"story\.event: unknown key; did you mean 'events'"):
        tale({"event": ["a"]})
    with pytest.raises(RecipeError, match="a list of events is missing"):
        tale({"shared": "a"})
    with pytest.raises(RecipeError, match="story: 5 came; what fits is a list of events"):
        tale(5)  # type: ignore[arg-type]
    for nothing in ("null", "5"):
        (tmp_path / "b.yaml").write_text(f"story: {nothing}\n")
        with pytest.raises(RecipeError, match=r"b\.yaml: a story is a list of events"):
            tale(tmp_path / "b.yaml")


def test_the_page_shows_stories_that_can_be_read() -> None:
    blocks = [block for block in DOCS.read_text().split("```") if block.startswith("text\n")]
    assert len(blocks) >= 2
    for block in blocks:
        told = scenario(block.removeprefix("text\n"))
        assert told.shared
        assert len(told.events) >= 2


# --- a prompt and a story ----------------------------------------------------------------------------------------


def test_a_prompt_is_what_events_share() -> None:
    events = ["0s: it moves left", "2s: it moves right"]
    assert dovetail.plan(STORY, "a blue ring", story=events).recipe.prompt == "a blue ring"
    kept = dovetail.plan(STORY, "a blue ring").recipe
    assert kept.prompt == "a blue ring"
    assert kept.story == STORY.story
    with pytest.warns(StoryWarning, match="share no text"):
        alone = dovetail.plan(STORY, story=events).recipe
    assert alone.prompt == "", "the recipe's own example is not part of another story"
    with pytest.raises(RecipeError, match=r"this story brings its own: 'a red circle'\. Say one of them"):
        dovetail.plan(STORY, "a blue ring", story={"shared": "a red circle", "events": events})


def test_changes_of_a_story_are_made_in_the_one_that_is_told() -> None:
    events = ["0s: it moves left", "2s: it moves right"]
    for changed in (["story.fade=1s", "video.seed=3"], {"story.fade": "1s", "video.seed": 3}):
        recipe = dovetail.plan("sprites-long-exact", "a ring", story=events, overrides=changed).recipe
        assert recipe.story is not None
        assert (recipe.story.fade, recipe.video.seed, len(recipe.story.events)) == ("1s", 3, 2)


# --- videos ------------------------------------------------------------------------------------------------------

FINE = {f"experts.{name}.candidates": 48 for name in ("control", "spatial", "temporal")} | {"codec.pixels": 4}


@pytest.mark.parametrize("overrides", [["video.fps=24"], {"video.fps": 24.0, "story.by": "frame"}])
def test_events_that_are_replaced_need_not_fit_the_video(overrides: Any) -> None:
    """Of the recipe's own story the last event begins at 8s, and its 96 frames then end at 4s."""
    told = dovetail.plan(STORY, "a ring", story=["0s: it moves up", "1s: it moves down"], overrides=overrides)
    assert [(span.text, span.start) for span in told.recipe.spans()] == [("it moves up", 0), ("it moves down", 24)]


def test_what_contradicts_comes_one_after_the_other() -> None:
    """Day and night, left and right: the object turns round and the background changes, both half way."""
    story = ["0s: on a black plain background, it moves right", "4s: on an orange plain background, it moves left"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = dovetail.generate("a red circle", recipes.changed(STORY, FINE), story=story, frames=64, seed=2)
    frames = torch.from_numpy(video.frames)
    (_, first), (turn, second) = seen_in(frames)
    assert (first, second) == ("right", "left")
    assert abs(turn - 32) <= 4
    corner = frames[:, 2, 2].float()
    assert (corner[:28, 2] < 60).all(), "black"
    assert (corner[36:, 0] > 180).all(), "orange"


def test_a_shared_text_keeps_what_events_leave_open() -> None:
    """The same events side by side, with and without: alone, each event has a background of its own."""
    many = {f"experts.{name}.candidates": 256 for name in ("control", "spatial", "temporal")}
    recipe = recipes.changed(in_windows(WINDOWED["side by side"]), many)
    story = ["0s: it moves right", "4s: it moves left"]
    shared = dovetail.generate("a white ring on a black plain background", recipe, story=story, frames=64)
    with pytest.warns(StoryWarning, match="share no text"):
        alone = dovetail.generate(None, recipe, story=story, frames=64)
    kept, lost = (np.abs(np.diff(np.median(one.frames, (1, 2)), axis=0)).max() for one in (shared, alone))
    assert kept < 10
    assert lost > 30


def pieces(events: Any) -> np.ndarray:
    return np.concatenate([event.frames for event in events if isinstance(event, Piece)])


def test_a_video_with_a_story_is_made_again_from_its_settings(tmp_path: Path) -> None:
    words = [
        "-r",
        "sprites-story-exact",
        *(part for path, value in SMALL.items() for part in ("--set", f"{path}={value}")),
    ]
    first, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    told = ["--shared", "a red circle", "--event", "0s: it moves left", "--event", "2s: it moves right", "--fade", "1s"]
    made = dovetail_("generate", *words, *told, "-o", first)
    assert made.exit_code == 0, made.output
    assert made.stderr == f"run: {tmp_path / 'a.run'}\n"
    said = settings_of(first)["recipe"]
    assert said == json.loads((tmp_path / "a.mp4.json").read_text())["recipe"]
    assert (said["prompt"], said["story"]["fade"], said["video"]["frames"]) == ("a red circle", "1s", 32)
    assert [one["at"] for one in said["story"]["events"]] == ["0s", "2s"]
    assert dovetail_("generate", "--from", first, "-o", again).exit_code == 0
    assert (read(first).frames == read(again).frames).all()


def test_a_run_with_a_story_goes_on_where_it_stopped(tmp_path: Path) -> None:
    recipe = recipes.changed(
        STORY, {"story.fade": "1s", "video.frames": 80} | {f"experts.{name}.candidates": 4 for name in STORY.experts}
    )
    whole = pieces(keep(recipe, tmp_path / "whole.mp4"))
    for _ in islice((one for one in keep(recipe, tmp_path / "cut.mp4") if isinstance(one, Piece)), 2):
        pass
    rest = pieces(resume(tmp_path / "cut.run"))
    assert 0 < len(rest) < 80
    assert (tmp_path / "cut.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert (rest == whole[-len(rest) :]).all()


def test_a_run_that_is_continued_keeps_its_events_where_they_were(tmp_path: Path) -> None:
    plain = in_windows(WINDOWED["side by side"])
    recipe = recipes.changed(plain, {"story.events": ["it moves right", "it moves left"], "video.frames": 64})
    before = pieces(keep(recipe, tmp_path / "a.mp4"))
    longer = continuing(tmp_path / "a.run", story=["it moves down", "11s: it stands still"])
    assert [(span.text, span.start, span.stop) for span in longer.spans()] == [
        ("it moves right", 0, 32),
        ("it moves left", 32, 64),
        ("it moves down", 64, 88),
        ("it stands still", 88, 104),
    ]
    made = pieces(carry_on(tmp_path / "a.run", longer, tmp_path / "b.mp4"))
    assert len(made) == 104
    assert (made[:48] == before[:48]).all()
    further = continuing(tmp_path / "a.run", frames=32)
    assert [(span.start, span.stop) for span in further.spans()] == [(0, 32), (32, 96)], "the last event goes on"
    with pytest.raises(
        RecipeError, match=r"this run ends at 8s, and 'it jumps' at 6s would lie in what is made already"
    ):
        continuing(tmp_path / "a.run", story=["6s: it jumps"])
    with pytest.raises(RecipeError, match=r"story\.shared: a run goes on with its own"):
        continuing(tmp_path / "a.run", story={"shared": "a blue ring", "events": ["it jumps"]})
    with pytest.raises(RecipeError, match="seconds or frames, or none"):
        continuing(tmp_path / "a.run", story=["90%: it jumps"])


def test_a_story_that_is_continued_under_another_shared_text_keeps_the_old_one_to_its_end(tmp_path: Path) -> None:
    """Where windows overlap, frames that are there are made anew, and are to show what they showed."""
    told = {"prompt": "a red circle", "story.events": ["it moves right", "it moves left"], "video.frames": 64}
    recipe = recipes.changed(in_windows(WINDOWED["averaged (Gen-L-Video)"]), told)
    next(iter(events := keep(recipe, tmp_path / "a.mp4")))
    events.close()  # type: ignore[attr-defined]
    old = [("a red circle, it moves right", 0, 32), ("a red circle, it moves left", 32, 64)]
    longer = continuing(tmp_path / "a.run", "a blue ring", frames=32)
    assert longer.prompt == ""
    assert [(span.text, span.start, span.stop) for span in longer.spans()] == [
        *old,
        ("a blue ring, it moves left", 64, 96),
    ]
    further = continuing(tmp_path / "a.run", "a blue ring", story=["10s: it moves down"])
    assert [(span.text, span.start, span.stop) for span in further.spans()] == [
        *old,
        ("a blue ring, it moves left", 64, 80),
        ("a blue ring, it moves down", 80, 96),
    ]
    assert continuing(tmp_path / "a.run", "a red circle", frames=32).prompt == "a red circle", "nothing else is told"


def test_a_run_without_a_story_has_nothing_to_put_events_behind(tmp_path: Path) -> None:
    for _ in keep(recipes.changed(STORY, {"story": None, "video.frames": 48}), tmp_path / "a.mp4"):
        pass
    with pytest.raises(RecipeError, match="this run tells no story"):
        continuing(tmp_path / "a.run", story=["it jumps"])


@pytest.mark.parametrize("fps", [4.0, 24.0])
def test_a_story_is_decoded_at_other_frames_per_second(tmp_path: Path, fps: float) -> None:
    """What lies in seconds lies at the frames that were made."""
    plain = in_windows(WINDOWED["side by side"])
    told = {"story.events": ["0s: it moves right", "4s-8s: it moves left"], "story.fade": "1s", "video.frames": 64}
    recipe = recipes.changed(plain, told)
    before = pieces(keep(recipe, tmp_path / "a.mp4"))
    made = np.concatenate(list(decode(tmp_path / "a.run", tmp_path / "b.npz", Look(fps=fps))))
    assert (made == before).all()
    again = recipes.checked(settings_of(tmp_path / "b.npz")["recipe"])
    assert again.video.fps == fps
    assert again.spans() == recipe.spans()
    assert told_over(again, 64) == told_over(recipe, 64)


# --- the command line --------------------------------------------------------------------------------------------


def test_plan_draws_events_windows_and_overlaps() -> None:
    said = dovetail_("plan", "sprites-story-exact").stdout.splitlines()
    at = said.index('shared by all events: "a dotted red circle on a teal striped background"')
    video, one, two, three = said[at + 1 : at + 5]
    assert video.startswith("video |---")
    assert [row.split()[1:5] for row in (one, two, three)] == [
        [mark * 21 if mark != "2" else "2" * 22, a, "to", b]
        for mark, a, b in (("1", "0s", "4s"), ("2", "4s", "8s"), ("3", "8s", "12s"))
    ]
    first, second = said.index("stage structure, 11 windows of 16 latent frames") + 1, 0
    lanes = said[first : first + 2]
    assert [lane.count("[") for lane in lanes] == [6, 5], "windows that overlap stand below each other"
    marks = [[part[0] for part in lane.replace("]", "").split("[")[1:]] for lane in lanes]
    assert marks == [list("112233"), list("12233")]
    second = said.index("stage refine, 6 windows of 16 latent frames") + 1
    assert [lane.count("[") for lane in said[second : second + 2]] == [6, 0]


def test_events_that_say_the_same_are_drawn_and_heard_apart() -> None:
    """Left, right, and left again."""
    events = ["0s: it moves left", "4s: it moves right", "8s: it moves left", "12s: it moves left"]
    lines = storyboard(dovetail.plan("sprites-gen-l-video", "a circle", story=events, frames=128))
    first = lines.index("stage structure, 15 windows of 16 latent frames") + 1
    marks = [[part[0] for part in lane.replace("]", "").split("[")[1:]] for lane in lines[first : first + 2]]
    assert marks == [list("11223344"), list("1223344")]
    late = ["0s: it moves left", "4s: it moves right", "8s: it moves left", "8.25s: it moves up"]
    with pytest.warns(StoryWarning, match="event 3, 'it moves left', is at the centre of no window of 'temporal'"):
        assert ("temporal", 3) in dovetail.plan("sprites-gen-l-video", "a circle", story=late, frames=128).missed
    on = [*late[:2], "4.25s: it moves right", "8s: it moves up"]
    assert not dovetail.plan("sprites-gen-l-video", "a circle", story=on, frames=128).missed, (
        "it goes on with the one before"
    )


def test_a_first_event_that_no_window_takes_is_said_under_guidance_too() -> None:
    """What guidance leads away from is no event's text."""
    story = ["0s: it sits", "2s: it runs"]
    with pytest.warns(StoryWarning, match="event 1, 'it sits', is at the centre of no window of 'base'"):
        plan = dovetail.plan("syncos-cogvideox-2b", "a fox", story=story, frames=113)
    assert plan.missed == (("base", 1),)


def test_wider_windows_below_the_floor_are_said() -> None:
    wide = recipes.changed(recipes.load("sprites-story"), ["chain.structure.denoise.coupled.wide=12"])
    said = "stage structure, 11 windows of 16 latent frames, one every 8, at and below the floor every 12"
    assert said in storyboard(dovetail.plan(wide))


def test_a_window_that_passes_from_one_event_to_the_next_shows_both() -> None:
    lines = storyboard(dovetail.plan(STORY, overrides={"story.fade": "2s"}))
    assert "each passes into the next for 2s" in lines
    (mixed,) = [part for line in lines if line.startswith("  ") for part in line.split("[") if "12" in part]
    assert abs(mixed.count("1") - mixed.count("2")) <= 1, "a window half in each is half of each"


def test_the_whole_video_at_once_is_said_to_be_so() -> None:
    with pytest.warns(StoryWarning):
        plan = dovetail.plan("sprites-exact", "a red circle", story=["it moves left", "it moves right"], frames=32)
    assert any("the whole video at once, which takes what lies at its middle" in line for line in storyboard(plan))


def test_the_whole_video_at_once_may_be_told_by_frame() -> None:
    told = {"events": ["it moves left", "it moves right"], "by": "frame"}
    lines = storyboard(dovetail.plan("sprites", "a red circle", story=told, frames=16))
    at = lines.index("stage structure, the whole video at once")
    assert {"1", "2"} < set(lines[at + 1]), "and hears of both events"


@pytest.mark.parametrize(
    "words",
    [
        ("a red circle", "--shared", "a blue ring", "--event", "it turns"),
        ("--story", "a.txt", "--event", "it turns"),
        ("--story", "a.txt", "--fade", "1s"),
        ("--fade", "1s"),
    ],
)
def test_what_is_said_twice_is_wrong_usage(words: Sequence[str]) -> None:
    result = dovetail_("generate", *words)
    assert result.exit_code == 2
    assert not result.stdout


def test_errors_show_the_timeline_on_the_terminal() -> None:
    result = dovetail_("plan", "sprites-story-exact", "--shared", "a", "--event", "4s: b", "--event", "2s: c")
    assert result.exit_code == 1
    assert "error: story: events follow one another" in result.stderr
    assert "video |---" in result.stderr


def test_a_story_without_a_recipe_is_told_by_one_with_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Any] = []
    monkeypatch.setattr(cli, "describe", planned.append)
    result = dovetail_("plan", "--shared", "a red circle", "--event", "it moves left", "--event", "it moves right")
    assert result.exit_code == 0, result.output
    assert not result.stderr
    (plan,) = planned
    assert plan.recipe.prompt == "a red circle"
    assert plan.recipe.chain == recipes.load("sprites-story").chain
    assert not plan.missed


def test_a_prompt_for_a_recipe_with_a_story_is_said_to_be_shared(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(
        recipes.dump(recipes.changed(STORY, {"story.events": ["it moves left", "it moves up"], "video.frames": 48}))
    )
    out = tmp_path / "a.npz"
    result = dovetail_("generate", "a blue ring", "-r", file, "-o", out)
    assert result.exit_code == 0, result.output
    assert "the prompt is what all its events share" in result.stderr
    assert settings_of(out)["recipe"]["prompt"] == "a blue ring"
