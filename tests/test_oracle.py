"""The oracle on renders, whose truth is known, and on damaged renders: what must move, and what must not."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dovetail.sprites import world
from dovetail.sprites.degrade import degrade
from dovetail.sprites.oracle import Verdict, average, events, judge, judge_frames
from dovetail.sprites.oracle.look import look
from dovetail.sprites.world import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    PATTERNS,
    PULSE,
    SHAPES,
    SIZE,
    Ask,
    Scene,
    backdrop,
    caption,
    imagine,
    render,
)

COUNT = 18
ATTRIBUTES = [f.name for f in fields(Ask)]


def scene(i: int) -> Scene:
    """Scenes that show every motion equally often, and else what chance brings."""
    return imagine(Ask(motion=list(MOTIONS)[i % len(MOTIONS)]), 7000 + i)


@cache
def clip(i: int) -> Tensor:
    return render(scene(i), range(16))


def blur(video: Tensor, sigma: float) -> Tensor:
    lines = torch.arange(SIZE)
    apart = (lines[:, None] - lines).abs()
    taps = torch.exp(-torch.minimum(apart, SIZE - apart).square() / (2 * sigma**2))
    across = taps / taps.sum(1, keepdim=True)
    return across @ video @ across


def noisy(sigma: float) -> Callable[[int], Tensor]:
    """Noise of this standard deviation, brightness counted from 0 to 1."""

    def damaged(i: int) -> Tensor:
        noise = torch.randn(clip(i).shape, generator=torch.Generator().manual_seed(i))
        return (clip(i) + 2 * sigma * noise).clamp(-1, 1)

    return damaged


def vanishing(i: int) -> Tensor:
    video = clip(i).clone()
    video[5:9] = backdrop(scene(i))
    return video


def shuffled(i: int) -> Tensor:
    return clip(i)[torch.randperm(16, generator=torch.Generator().manual_seed(i))]


def shaken(i: int) -> Tensor:
    generator = torch.Generator().manual_seed(i)
    shifts = torch.randint(-3, 4, (16, 2), generator=generator).tolist()
    return torch.stack([frame.roll(tuple(shift), (1, 2)) for frame, shift in zip(clip(i), shifts, strict=True)])


def verdicts(damage: Callable[[int], Tensor], count: int = COUNT) -> list[Verdict]:
    return [judge(damage(i), scene(i).ask) for i in range(count)]


@cache
def undamaged(i: int) -> Verdict:
    return judge(clip(i), scene(i).ask)


@cache
def clean() -> dict[str, float]:
    return average([undamaged(i) for i in range(COUNT)])


# The world's truth


@pytest.mark.parametrize("name", ["prompt", *(f"{name}_right" for name in ATTRIBUTES)])
def test_clean_renders_are_read_without_error(name: str) -> None:
    assert clean()[name] >= 0.98


def test_clean_renders_score_what_the_renderer_does() -> None:
    scores = clean()
    assert (scores["presence"], scores["single"], scores["switches"]) == (1.0, 1.0, 0.0)
    assert scores["background_sd"] < 0.01
    assert scores["path_error"] < 0.15
    assert scores["path_fit"] > 0.98
    assert 0.95 < scores["sharpness"] < 1.07


def test_texture_contrast_is_one_for_dots_and_zero_without() -> None:
    for i in range(12):
        contrast = undamaged(i).texture_contrast
        assert contrast == pytest.approx(1.0 if scene(i).texture == "dotted" else 0.0, abs=0.05)


def test_dots_are_dots_wherever_they_lie_on_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that draws dots has never been told where on the object they begin."""
    drawn = world.dots
    for across, along in ((math.pi / 16, 0.0), (math.pi / 32, math.pi / 32), (0.3, 0.1)):
        monkeypatch.setattr(world, "dots", lambda u, v, x=across, y=along: drawn(u + x, v + y))
        for i in range(12):
            asked = replace(scene(i), texture="dotted")
            verdict = judge(render(asked, range(4)), asked.ask)
            assert verdict.texture_contrast > 0.8
            assert verdict.switches == 0
            assert all(verdict.right[name] for name in ("texture", "shape", "colour"))


@pytest.mark.parametrize("colour", list(COLOURS))
@pytest.mark.parametrize("background", list(BACKGROUNDS))
def test_a_large_object_leaves_the_measured_background_alone(background: str, colour: str) -> None:
    """Red is nearest to gray where no background is red; what is gray is measured without it."""
    large = replace(imagine(Ask(motion="still"), 3), radius=0.68, background=background, colour=colour, pattern="plain")
    for shape in SHAPES:
        seen = look((render(replace(large, shape=shape), [0]) + 1) / 2)
        assert bool(seen.present)
        assert float(seen.sharpness) == pytest.approx(1.0, abs=0.08)


def test_the_track_follows_the_object_across_the_border() -> None:
    for i in range(COUNT):
        one = scene(i)
        dx, dy = DIRECTIONS.get(one.motion, (0, 0))
        for at, spot in enumerate(undamaged(i).track):
            assert spot is not None
            for found, start, step in ((spot[0], one.x, dx), (spot[1], one.y, dy)):
                truth = (start + step * one.speed * at + 1) * SIZE / 2 - 0.5
                assert abs((found - truth + SIZE / 2) % SIZE - SIZE / 2) < 1.0
            pulse = PULSE * math.sin(2 * math.pi * (at / one.period + one.phase)) if one.motion == "pulsing" else 0
            assert spot[2] == pytest.approx(one.radius * (1 + pulse) * SIZE / 2, rel=0.08)


def test_speed_is_the_worlds() -> None:
    for i in range(COUNT):
        moving = scene(i).motion in DIRECTIONS
        assert undamaged(i).speed == pytest.approx(scene(i).speed * SIZE / 2 if moving else 0.0, abs=0.05)


# Damage


@pytest.mark.parametrize("sigma", [0.05, 0.10])
def test_noise_changes_the_background_and_no_label(sigma: float) -> None:
    scores = average(verdicts(noisy(sigma)))
    assert scores["prompt"] >= 0.98
    assert scores["presence"] == 1.0
    assert scores["switches"] <= 0.02
    assert scores["path_error"] < 0.3
    assert scores["background_sd"] > 100 * sigma
    assert 1.0 < scores["sharpness"] < 1.3


def test_blur_costs_sharpness_and_texture_before_it_costs_identity() -> None:
    levels = [clean(), *(average(verdicts(lambda i, s=s: blur(clip(i), s))) for s in (1.0, 2.0, 3.0))]
    for name, least in (("sharpness", 0.05), ("texture_contrast", 0.02)):
        assert all(before[name] - after[name] > least for before, after in pairwise(levels))
    assert levels[1]["sharpness"] < 0.75
    assert min(levels[1]["prompt"], levels[2]["prompt"]) >= 0.98
    for blurred in levels[1:]:
        assert blurred["presence"] == 1.0
        assert blurred["switches"] <= 0.05
        assert min(blurred[f"{name}_right"] for name in ("motion", "background", "colour")) >= 0.95
        assert blurred["shape_right"] >= 0.9
        assert blurred["path_error"] < 0.3


@pytest.mark.parametrize("damage", [lambda v: 0.85 * (v + 1) - 1, lambda v: 0.85 * v], ids=["dim", "grey wash"])
def test_exposure_changes_no_label_and_no_sharpness(damage: Callable[[Tensor], Tensor]) -> None:
    scores = average(verdicts(lambda i: damage(clip(i))))
    assert scores["prompt"] >= 0.98
    assert scores["switches"] == 0.0
    assert scores["presence"] == 1.0
    assert scores["sharpness"] == pytest.approx(clean()["sharpness"], abs=0.03)


def test_degraded_clips_keep_their_labels_and_lose_sharpness_and_texture() -> None:
    scores = average(verdicts(lambda i: degrade(clip(i))))
    assert scores["prompt"] >= 0.9
    assert min(scores[f"{name}_right"] for name in ("motion", "colour", "background")) >= 0.98
    assert scores["switches"] <= 0.01
    assert scores["sharpness"] < 0.7
    assert scores["texture_contrast"] < 0.6 * clean()["texture_contrast"]


def test_a_vanishing_object_costs_presence_alone() -> None:
    scores = average(verdicts(vanishing))
    assert scores["presence"] == scores["single"] == 0.75
    assert scores["prompt"] >= 0.98
    assert scores["switches"] == 0.0
    assert scores["background_sd"] < 0.1
    assert scores["sharpness"] == pytest.approx(clean()["sharpness"], abs=0.02)


def test_played_backwards_only_the_direction_is_wrong() -> None:
    for i in range(COUNT):
        there, back = undamaged(i), judge(clip(i).flip(0), scene(i).ask)
        assert back.right["motion"] == (scene(i).motion not in DIRECTIONS)
        assert all(back.right[name] for name in ATTRIBUTES if name != "motion")
        assert back.path_error == pytest.approx(there.path_error, abs=0.05)
        assert back.sharpness == pytest.approx(there.sharpness)


def test_another_clips_second_half_breaks_identity_and_background() -> None:
    scores = average(verdicts(lambda i: torch.cat([clip(i)[:8], clip((i + 1) % COUNT)[8:]])))
    assert scores["presence"] == 1.0
    assert 0.04 < scores["switches"] <= 1 / 15  # one pair in fifteen, unless the two objects look the same
    assert scores["background_sd"] > 5
    assert scores["prompt"] < 0.5
    assert scores["path_error"] > 2
    assert scores["sharpness"] == pytest.approx(clean()["sharpness"], abs=0.05)


def test_shuffled_frames_break_the_path_alone() -> None:
    moving = [i for i in range(COUNT) if scene(i).motion in DIRECTIONS]
    scores = average([judge(shuffled(i), scene(i).ask) for i in moving])
    assert scores["motion_right"] < 0.4
    assert scores["path_fit"] < 0.5
    assert scores["path_error"] > 5
    assert scores["switches"] == 0.0
    assert min(scores[f"{name}_right"] for name in ATTRIBUTES if name != "motion") >= 0.98


def test_shaken_frames_show_in_the_path_error() -> None:
    scores = average(verdicts(shaken))
    assert 2 < scores["path_error"] < 3.5
    assert scores["path_fit"] < 0.9
    assert scores["switches"] == 0.0
    assert scores["background_sd"] > 1
    assert scores["prompt"] >= 0.95


def test_a_wrong_caption_scores_by_chance() -> None:
    wrong = average([judge(clip(i), scene((i + 1) % COUNT).ask) for i in range(COUNT)])
    assert wrong["prompt"] < 0.45
    assert wrong["motion_right"] < 0.1
    for name in ("presence", "switches", "sharpness", "path_error"):
        assert wrong[name] == pytest.approx(clean()[name])


# Stills, counting, asks


def test_stills_are_judged_each_alone_and_by_their_own_ask() -> None:
    stills = torch.cat([clip(i)[3:4] for i in range(COUNT)])
    right = average(judge_frames(stills, [caption(scene(i).ask) for i in range(COUNT)]))
    assert right["prompt"] >= 0.98
    assert right["presence"] == 1.0
    assert "motion_right" not in right
    wrong = judge_frames(stills, "a red circle")
    assert [v.right["colour"] for v in wrong] == [scene(i).colour == "red" for i in range(COUNT)]
    assert [v.right["shape"] for v in wrong] == [scene(i).shape == "circle" for i in range(COUNT)]


def test_an_empty_background_shows_no_object() -> None:
    places = [imagine(Ask(background=b, pattern=p), 1) for b in BACKGROUNDS for p in PATTERNS]
    empty = torch.stack([backdrop(place) for place in places])
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(0))
    for pictures in (empty, blur(empty, 2.0), empty + 0.2 * noise, noise):
        assert average(judge_frames(pictures, ""))["presence"] == 0.0
    found = [v.found for v in judge_frames(empty + 0.1 * noise, "")]
    assert found == [Ask(background=place.background, pattern=place.pattern) for place in places]


def test_two_objects_are_not_single() -> None:
    for i in range(12):
        first = replace(imagine(Ask(motion="still"), i), x=-0.5, y=-0.5)
        alike = Ask(motion="still", background=first.background, pattern=first.pattern)
        second = replace(imagine(alike, i + 50), x=0.5, y=0.5, shift=first.shift)
        one, other = render(first, [0]), render(second, [0])
        both = torch.cat([one[:, :, : SIZE // 2], other[:, :, SIZE // 2 :]], 2)
        assert judge_frames(one, "")[0].single == 1.0
        assert judge_frames(both, "")[0].single == 0.0
        assert judge_frames(both, "")[0].presence == 1.0


def test_a_free_attribute_does_not_count() -> None:
    asked = Ask(colour=scene(0).colour, shape="circle" if scene(0).shape != "circle" else "ring")
    verdict = judge(clip(0), asked)
    assert verdict.right == {"colour": True, "shape": False}
    assert verdict.prompt == 0.5
    assert judge(clip(0), "it").prompt == 1.0
    assert judge(torch.stack([backdrop(scene(0))] * 16), scene(0).ask).right["shape"] is False


def test_bytes_and_other_sizes_are_read_alike() -> None:
    large = render(scene(1), range(16), size=128)
    whole = ((clip(1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for video in (whole, large):
        assert judge(video, scene(1).ask).prompt == 1.0


@pytest.mark.parametrize(
    ("video", "says"),
    [
        (torch.zeros(3, 64, 64), "f 3 h w"),
        (torch.zeros(2, 64, 64, 3), "f 3 h w"),
        (torch.zeros(0, 3, 64, 64), "at least one"),
        (torch.zeros(2, 3, 64, 96), "square"),
        (torch.full((2, 3, 64, 64), math.nan), "NaN"),
    ],
)
def test_what_is_no_sprite_video_is_refused(video: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        judge(video, "a red circle")


def test_as_many_asks_as_images() -> None:
    with pytest.raises(ValueError, match="2 asks for 16 images"):
        judge_frames(clip(0), ["a red circle", "a ring"])


# Events


def story(i: int, span: int = 16) -> tuple[list[str], Tensor]:
    """Three motions of one object in turn, each from where the last one ended."""
    dice = torch.Generator().manual_seed(i)
    names = [list(MOTIONS)[k] for k in torch.randperm(len(MOTIONS), generator=dice)[:3].tolist()]
    one, parts = imagine(Ask(), i), []
    for name in names:
        parts.append(render(replace(one, motion=name), range(span)))
        dx, dy = DIRECTIONS.get(name, (0, 0))
        far = one.speed * span
        one = replace(one, x=(one.x + dx * far + 1) % 2 - 1, y=(one.y + dy * far + 1) % 2 - 1)
    return names, torch.cat(parts)


def test_events_come_in_their_order_and_on_time() -> None:
    for i in range(5):
        names, video = story(i)
        noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(i))
        found = events(video + 0.1 * noise)
        assert [name for _, name in found] == names
        for (at, name), truth in zip(found, (0, 16, 32), strict=True):
            # A pulse is told from rest by a change of size, which takes some frames.
            assert abs(at - truth) <= (4 if {"pulsing", "still"} & {name, *names} else 1)


def test_one_motion_is_one_event_and_nothing_is_none() -> None:
    for i in range(6):
        assert events(clip(i)) == [(0, scene(i).motion)]
    assert events(torch.stack([backdrop(scene(0))] * 16)) == []


# The whole promise


@pytest.mark.slow
def test_accuracy_over_many_clips() -> None:
    scenes = [imagine(Ask(), 40_000 + i) for i in range(300)]
    scores = average([judge(render(one, range(16)), one.ask) for one in scenes])
    assert min(scores["prompt"], *(scores[f"{name}_right"] for name in ATTRIBUTES)) >= 0.98
    # The object is missed in sixteen frames of 4800, all of them of pulses.
    assert scores["presence"] >= 0.996
    assert scores["switches"] <= 0.001


@pytest.mark.slow
def test_accuracy_over_six_hundred_frames() -> None:
    long = []
    for i in range(12):
        verdict = judge(render(scene(i), range(600)), scene(i).ask)
        long.append(verdict)
        for name in ATTRIBUTES:
            if name != "motion":
                agree = [getattr(frame, name) == getattr(scene(i), name) for frame in verdict.frames]
                assert sum(agree) >= 0.98 * 600
    scores = average(long)
    assert scores["prompt"] >= 0.98
    assert scores["presence"] == 1.0
    assert scores["switches"] <= 0.001
    assert scores["path_fit"] > 0.98
