"""Stages one after another, pulled piece by piece."""

import itertools

import pytest
import torch

from dovetail.core.chain import run
from dovetail.core.denoiser import timeline
from dovetail.core.exact import Gaussian
from dovetail.core.ladders import Ladder, even, levels
from dovetail.core.noise import Noise
from dovetail.core.path import mix
from dovetail.core.sampler import DPMSolver2M, Euler, last, sample
from dovetail.core.stages import Done, Seen, Stage

FRAMES, SHAPE, NOISE = timeline(10), (4, 3, 3), Noise(5)
DRAFT = Stage("draft", Gaussian(1.0, 0.8), even(4))
REFINE = Stage("refine", Gaussian(1.0, 0.2), levels([0.5, 0.25, 0.0]), DPMSolver2M())


def pieces(events):
    done = [event for event in events if isinstance(event, Done)]
    return torch.cat([event.frames for event in done], 1), torch.cat([event.video for event in done], 2)


def test_a_stage_is_its_sampler():
    eps = NOISE.of("draft").like(torch.empty(1, 4, 10, 3, 3), FRAMES, "start")
    expected = last(sample(DRAFT.denoise, eps, FRAMES, DRAFT.ladder.levels, Euler())).seen.x0
    frames, video = pieces(run([DRAFT], NOISE, FRAMES, SHAPE))
    assert torch.equal(video, expected)
    assert torch.equal(frames, FRAMES)


def test_the_next_stage_adds_its_own_noise_to_the_video():
    _, draft = pieces(run([DRAFT], NOISE, FRAMES, SHAPE))
    eps = NOISE.of("refine").like(draft, FRAMES, "start")
    expected = last(sample(REFINE.denoise, mix(draft, eps, 0.5), FRAMES, REFINE.ladder.levels, DPMSolver2M())).seen.x0
    _, video = pieces(run([DRAFT, REFINE], NOISE, FRAMES, SHAPE))
    assert torch.equal(video, expected)


def test_a_ladder_that_ends_above_the_video_still_hands_over_the_video():
    short = Stage("draft", DRAFT.denoise, levels([1.0, 0.5, 0.25]))
    *_, seen, done = run([short], NOISE, FRAMES, SHAPE)
    assert torch.equal(done.video, seen.state.seen.x0)


def test_a_given_video_is_where_the_first_stage_starts():
    given = torch.randn(1, 4, 10, 3, 3)
    eps = NOISE.of("refine").like(given, FRAMES, "start")
    expected = last(sample(REFINE.denoise, mix(given, eps, 0.5), FRAMES, REFINE.ladder.levels, DPMSolver2M())).seen.x0
    assert torch.equal(pieces(run([REFINE], NOISE, FRAMES, SHAPE, given))[1], expected)


def test_only_a_first_stage_without_a_video_scales_pure_noise():
    """A DDPM's unit noise is `first` on the path; later stages mix at their first level."""
    scaled = Stage("scaled", Gaussian(0.0, 0.5), Ladder((0.9, 0.4, 0.0), 1.3))
    fresh = next(run([scaled], NOISE, FRAMES, SHAPE))
    eps = NOISE.of("scaled").like(torch.empty(1, 4, 10, 3, 3), FRAMES, "start")
    assert torch.equal(fresh.state.x, 1.3 * eps)
    given = torch.randn(1, 4, 10, 3, 3)
    assert torch.equal(next(run([scaled], NOISE, FRAMES, SHAPE, given)).state.x, mix(given, eps, 0.9))


@pytest.mark.parametrize("windows", list(itertools.product([None, 1, 3, 4, 10, 64], repeat=2)))
def test_windows_do_not_change_an_elementwise_video(windows):
    """Noise is addressed by frame, so a denoiser without a view over time gives the same in pieces."""
    stages = [Stage(s.name, s.denoise, s.ladder, s.solver, w) for s, w in zip((DRAFT, REFINE), windows, strict=True)]
    frames, video = pieces(run(stages, NOISE, FRAMES, SHAPE))
    assert torch.equal(frames, FRAMES)
    torch.testing.assert_close(video, pieces(run([DRAFT, REFINE], NOISE, FRAMES, SHAPE))[1])


def test_a_chain_pulls():
    """The second stage finishes its first window before the first stage begins its third."""
    stages = [Stage("a", Gaussian(), even(1), window=2), Stage("b", Gaussian(), even(1), window=4)]
    order = [
        (event.stage.name, event.frames.flatten().tolist()) if isinstance(event, Seen) else event.frames.shape[1]
        for event in run(stages, NOISE, FRAMES, SHAPE)
    ]
    assert order == [
        *[("a", [0, 1]), ("a", [2, 3]), ("b", [0, 1, 2, 3]), 4],
        *[("a", [4, 5]), ("a", [6, 7]), ("b", [4, 5, 6, 7]), 4],
        *[("a", [8, 9]), ("b", [8, 9]), 2],
    ]


def test_what_has_not_been_made_takes_no_memory():
    """A video of tens of terabytes is begun as any other, window by window."""
    stages = [Stage("a", Gaussian(), even(1), window=2), Stage("b", Gaussian(), even(1), window=1)]
    events = run(stages, NOISE, timeline(10**7), (4, 512, 512))
    done = next(event for event in events if isinstance(event, Done))
    assert done.frames.tolist() == [[0]]
    assert done.video.shape == (1, 4, 1, 512, 512)


def test_events_name_stage_frames_and_level():
    seen = [event for event in run([DRAFT, REFINE], NOISE, FRAMES, SHAPE) if isinstance(event, Seen)]
    assert [(event.stage.name, event.state.t) for event in seen] == [
        *[("draft", t) for t in (1.0, 0.75, 0.5, 0.25)],
        *[("refine", t) for t in (0.5, 0.25)],
    ]


def test_stages_are_values():
    assert Stage("a", Gaussian(), even(2)) == Stage("a", Gaussian(), even(2))
    assert repr(Stage("a", Gaussian(), even(2))) == (
        "Stage(name='a', denoise=Gaussian(mean=0.0, std=1.0), ladder=Ladder(levels=(1.0, 0.5, 0.0), first=1.0), "
        "solver=Euler(), window=None, hop=None, offset=0, weights='flat', ends='half', hold=None, start=None)"
    )
