"""Passages: frames of one row that are told texts of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from einops import rearrange
from torch import Tensor, nn

import dovetail
from dovetail import recipe as recipes
from dovetail.core.denoiser import Asked, Condition, Expert, Passage, Timeline, parts_of, predicts_x0
from dovetail.core.schedules import Flow
from dovetail.errors import RecipeError, StoryWarning
from dovetail.experts import load
from dovetail.experts.adapter import Adapter
from dovetail.experts.loading import FAMILIES
from dovetail.experts.passages import relayed
from dovetail.recipe.build import told_over
from dovetail.run import plan, storyboard
from dovetail.run.telling import further

DAY, NIGHT, DAWN = Condition("a day"), Condition("night"), Condition("the dawn, again")
FRAMES = 5
CHANGES = Passage(((DAY, 2), (NIGHT, 3)))
TURNS = Passage(((NIGHT, 1), (DAWN, 3), (DAY, 1)))

FOLDERS: dict[str, Callable[[Path], Path]] = {
    "animatediff": tiny.animatediff,
    "text-to-video-sd": tiny.text_to_video_sd,
    "lavie": tiny.lavie,
    "wan": tiny.wan,
    "ltx": tiny.ltx,
    "open-sora-plan": tiny.open_sora_plan,
}
BY_FRAME = [family for family, kind in FAMILIES.items() if kind.by_frame and kind.max_frames != 1]


def adapter(family: str, folder: Path) -> Adapter:
    network = load("expert", family, str(FOLDERS[family](folder)), batch=4).network
    assert isinstance(network, Adapter)
    return network


def latent(network: Adapter, rows: int = 1) -> Tensor:
    return tiny.noise(rows, network.space.channels, FRAMES, 8, 8)


def asked(network: Adapter, x: Tensor, *conditions: Asked) -> Tensor:
    with torch.no_grad():
        return network(x, 500.0, conditions, torch.arange(FRAMES).expand(len(x), -1))


def test_every_family_that_is_told_by_frame_is_tested() -> None:
    assert sorted(FOLDERS) == sorted(BY_FRAME)
    assert not FAMILIES["cogvideox"].by_frame


@pytest.mark.parametrize("family", FOLDERS)
def test_a_passage_of_one_text_is_that_text(family: str, tmp_path: Path) -> None:
    network = adapter(family, tmp_path)
    x = latent(network)
    whole = asked(network, x, DAY)
    assert tiny.apart(asked(network, x, Passage(((DAY, 2), (DAY, 3)))), whole) < 1e-5
    assert tiny.apart(asked(network, x, NIGHT), whole) > 1e-4  # words are heard


@contextmanager
def selecting(module: nn.Module, rows: Sequence[Sequence[int]], texts: int) -> Iterator[None]:
    """The other way to the same end: each cross-attention hears every text of a row with all of its tokens, and of each
    frame what it said of that frame's own text is kept."""

    def selected(layer: Any) -> Callable[..., Tensor]:
        attend = layer.forward

        def forward(
            hidden: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None, *more: Any, **named: Any
        ) -> Tensor:
            if encoder_hidden_states is None:  # AnimateDiff's layers over time, which attend to themselves
                return attend(hidden, None, attention_mask, *more, **named)
            length = encoder_hidden_states.shape[1] // texts
            answers = []
            for k in range(texts):
                told = slice(k * length, (k + 1) * length)
                mask = None if attention_mask is None else attention_mask[..., told]
                answers.append(attend(hidden, encoder_hidden_states[:, told], mask, *more, **named))
            apart = [
                rearrange(a.reshape(len(rows), -1, a.shape[-1]), "b (f s) c -> b f s c", f=FRAMES) for a in answers
            ]
            chosen = [torch.stack([apart[k][b, f] for f, k in enumerate(row)]) for b, row in enumerate(rows)]
            return torch.stack(chosen).reshape(hidden.shape)

        return forward

    layers: list[Any] = [layer for name, layer in module.named_modules() if name.endswith("attn2")]
    for layer in layers:
        layer.forward = selected(layer)
    yield
    for layer in layers:
        del layer.forward


@pytest.mark.parametrize("family", FOLDERS)
def test_each_frame_hears_its_own_text(family: str, tmp_path: Path) -> None:
    """A row with one change, one with two and one without, in one call."""
    network = adapter(family, tmp_path)
    x = latent(network, 3)
    rows = [parts_of(one, FRAMES) for one in (CHANGES, TURNS, DAWN)]
    numbers = [[k for k, (_, frames) in enumerate(parts) for _ in range(frames)] for parts in rows]
    words, times = network._words(rows), torch.full((3,), 500.0)
    with torch.no_grad(), selecting(network.module, numbers, 3):
        expected = network.convention(network.module, x, times, words)
    together = asked(network, x, CHANGES, TURNS, DAWN)
    assert tiny.apart(together, expected) < 1e-5
    alone = torch.cat([asked(network, x[i : i + 1], one) for i, one in enumerate((CHANGES, TURNS, DAWN))])
    assert tiny.apart(alone, expected) < 1e-5
    assert tiny.apart(asked(network, x[:1], DAY), expected[:1]) > 1e-4
    assert tiny.apart(asked(network, x[:1], NIGHT), expected[:1]) > 1e-4


def test_animatediff_is_told_as_its_network_knows_by_itself(tmp_path: Path) -> None:
    """UNetMotionModel takes a text per frame, so a passage must be that."""
    network = adapter("animatediff", tmp_path)
    x = latent(network)
    texts = [DAY.text] * 2 + [NIGHT.text] * 3
    words = torch.cat([network._embedding(text)[0] for text in texts])
    with torch.no_grad():
        expected = network.module(x, torch.tensor([500.0]), words).sample
    assert tiny.apart(asked(network, x, CHANGES), expected) < 1e-5


def test_a_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = adapter("wan", tmp_path)
    x = latent(network)
    before = asked(network, x, DAY)
    layers = [layer for name, layer in network.module.named_modules() if name.endswith("attn2")]
    kept = layers[0].forward = layers[0].forward  # as hooks of other libraries leave it
    asked(network, x, CHANGES)
    with pytest.raises(ZeroDivisionError), relayed(network.module, [parts_of(CHANGES, FRAMES)]):
        raise ZeroDivisionError
    assert vars(layers[0])["forward"] is kept
    assert not any("forward" in vars(layer) for layer in layers[1:])
    assert torch.equal(asked(network, x, DAY), before)


# --- who is asked for passages -----------------------------------------------------------------------------------


def listening(heard: list[Any], by_frame: bool) -> Expert:
    def network(x: Tensor, time: float, conditions: Sequence[Asked], frames: Tensor) -> Tensor:
        heard.append(tuple(conditions))
        return torch.zeros_like(x)

    return Expert("ear", Flow(), predicts_x0, network, by_frame)


@pytest.mark.parametrize(
    ("expert", "story", "told"),
    [(True, True, Passage(((DAY, 1), (NIGHT, 3)))), (True, False, NIGHT), (False, True, NIGHT), (False, False, NIGHT)],
)
def test_only_experts_that_can_are_told_by_frame(expert: bool, story: bool, told: Asked) -> None:
    heard: list[Any] = []
    timeline = Timeline(((0, DAY), (4, NIGHT)), by_frame=story)
    listening(heard, expert).given(timeline)(torch.zeros(1, 1, 4, 1, 1), 0.5, torch.arange(3, 7)[None])
    assert heard == [(told,)]


@pytest.mark.parametrize("first", range(8))
def test_a_frame_alone_hears_what_a_window_of_it_hears(first: int) -> None:
    told = Timeline(((0, DAY), (2, NIGHT), (5, DAWN)))
    assert told.along(torch.tensor([first])) == told.at(torch.tensor([first]))


def test_frames_need_not_follow_one_another() -> None:
    told = Timeline(((0, DAY), (4, NIGHT)))
    assert told.along(torch.tensor([0, 6, 2, 3])) == Passage(((DAY, 1), (NIGHT, 1), (DAY, 2)))


# --- recipes -----------------------------------------------------------------------------------------------------

STORY = recipes.changed(recipes.load("sprites-story"), {"story.by": "frame"})
EXACT = recipes.load("sprites-story-exact")


def test_a_recipe_says_who_takes_an_event() -> None:
    assert told_over(STORY, 96).by_frame
    assert not told_over(recipes.changed(STORY, {"story.by": "window"}), 96).by_frame
    with pytest.raises(RecipeError, match=r"story\.by: unknown value 'shot'; Known: frame, window"):
        recipes.changed(STORY, {"story.by": "shot"})


def test_events_of_ones_own_are_told_as_the_recipe_tells() -> None:
    story = {"events": ["0s: it moves left", "4s: it pulses"], "shared": "a red ring"}
    assert dovetail.plan(STORY, story=story).recipe.story.by == "frame"
    assert dovetail.plan(EXACT, story=story).recipe.story.by is None


def test_a_plan_says_who_is_told_by_window() -> None:
    assert "each frame takes the event at it, in a window too" in storyboard(plan(STORY))
    board = storyboard(plan(recipes.changed(EXACT, {"story.by": "frame"})))
    assert any("; control, temporal: a window takes what lies at its middle" in line for line in board)
    faded = {"story.fade": "1s"}
    with pytest.warns(StoryWarning, match="fade does nothing"):
        board = storyboard(plan(recipes.changed(STORY, faded)))
    assert not any("passes into" in line for line in board)
    assert any("passes into" in line for line in storyboard(plan(recipes.changed(EXACT, faded))))


def test_windows_that_are_told_one_text_are_drawn_so() -> None:
    by_window, by_frame = (storyboard(plan(recipes.changed(EXACT, {"story.by": by}))) for by in ("window", "frame"))
    assert [line for line in by_frame if "[" in line] == [line for line in by_window if "[" in line]


def test_a_fade_that_does_nothing_is_said() -> None:
    with pytest.warns(StoryWarning, match="fade does nothing where each frame takes its own event"):
        dovetail.plan(recipes.changed(STORY, {"story.fade": "1s"}))
    dovetail.plan(recipes.changed(EXACT, {"story.fade": "1s", "story.by": "frame"}))  # there it does


def test_a_story_brings_its_own_way_of_telling() -> None:
    told = {"shared": "a red ring", "events": ["0s: it moves left", "4s: it pulses"], "by": "window"}
    assert dovetail.plan(STORY, story=told).recipe.story.by == "window"


def test_a_story_that_does_not_say_it_is_written_as_before() -> None:
    plain = recipes.plain(recipes.changed(STORY, {"story.by": None}))
    assert "by" not in plain["story"]
    assert recipes.checked(recipes.plain(STORY)) == STORY


def test_a_run_that_goes_on_is_told_as_before() -> None:
    changes, _ = further(STORY, None)
    assert recipes.changed(STORY, changes).story.by == "frame"


def test_compiled_networks_are_not_compiled_anew_for_passages(tmp_path: Path) -> None:
    network, seen = adapter("wan", tmp_path), []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    x = latent(network)
    expected = [asked(network, x, one) for one in (DAY, CHANGES, TURNS)]
    for block in network.module.blocks:
        block.compile(backend=backend)
    for _ in range(2):
        for one, plain in zip((DAY, CHANGES, TURNS), expected, strict=True):
            assert tiny.apart(asked(network, x, one), plain) < 1e-5
    assert len(seen) == len(network.module.blocks), "for rows without a change alone"


SHORT = {
    "story.events": [
        {"at": "0f", "text": "it moves"},
        {"at": "41f", "text": "it jumps"},
        {"at": "45f", "text": "it falls"},
    ]
}


def test_an_event_between_windows_is_heard_by_frames() -> None:
    """Four frames in which no window of every eight has its middle."""
    story = recipes.changed(STORY, SHORT | {"chain.structure.denoise.coupled.wide": None})
    with pytest.warns(StoryWarning, match=r"event 2, 'it jumps', .* story\.by=frame"):
        assert ("large", 2) in plan(recipes.changed(story, {"story.by": "window"})).missed
    assert ("large", 2) not in plan(story).missed


def test_the_storyboard_draws_what_frames_hear() -> None:
    board = storyboard(plan(STORY))
    windows = [line for line in board if "[" in line]
    assert any("12" in line for line in windows)  # one window, told of two events
