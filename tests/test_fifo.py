"""FIFO-Diffusion, with experts that can be asked a noise share for each frame."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.combine import Guided
from dovetail.core.denoiser import Condition, Expert, Timeline, timeline
from dovetail.core.exact import Gaussian
from dovetail.core.ladders import shifted
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, last, sample
from dovetail.errors import RecipeError
from dovetail.experts.diagonal import PER_TOKEN, Diagonal
from dovetail.methods.fifo import Look, fifo
from dovetail.sprites import exact

NOISE, SIZE, SHAPE = Noise(5).of("story"), 4, (3, 4, 4)
LEVELS = shifted(8, 3.0).levels


def alone(x: Tensor, t: Tensor, frames: Tensor) -> Tensor:
    """A Gaussian's x0 of each frame at its own share: what it sees in one says nothing of another."""
    parts = [
        Gaussian(0.4, 0.7)(x[:, :, i : i + 1], float(t[0, i]), frames).x0 if t[0, i] else x[:, :, i : i + 1]
        for i in range(x.shape[2])
    ]
    return torch.cat(parts, 2)


def made(
    look: Look, many: int, levels: Sequence[float] = LEVELS, shape: tuple[int, int, int] = SHAPE, size: int = SIZE
) -> Tensor:
    return torch.cat(list(islice(fifo(look, NOISE, levels, size, shape), many)), 2)


def test_frames_that_say_nothing_of_each_other_are_sampled_one_by_one() -> None:
    """Each frame that joined as noise takes the ladder's steps, at whatever place in the queue."""
    video, frames = made(alone, 12), timeline(12)
    start = NOISE.like(torch.zeros(1, 3, 12, 4, 4), frames, "start")
    plain = last(sample(Gaussian(0.4, 0.7), start, frames, LEVELS, Euler())).seen.x0
    torch.testing.assert_close(video[:, :, SIZE:], plain[:, :, SIZE:])


def test_clips_are_shown_in_halves_as_noisy_as_they_stand() -> None:
    asked: list[tuple[list[float], list[int]]] = []

    def look(x: Tensor, t: Tensor, frames: Tensor) -> Tensor:
        asked.append((t[0].tolist(), frames[0].tolist()))
        return alone(x, t, frames)

    made(look, 2)
    began, queue = asked[:8], asked[8:]
    assert [times for times, _ in began] == [pytest.approx([level] * SIZE) for level in LEVELS[:-1]]
    up = [0.0, 0.0, *LEVELS[-2::-1]]
    steps = [queue[i : i + 4] for i in range(0, len(queue), 4)]
    assert len(steps) == 8 - SIZE + 2, "as many as are handed out, and n - f before them"
    for k, step in enumerate(steps):
        for clip, (times, frames) in enumerate(step):
            assert times == pytest.approx(up[2 * clip : 2 * clip + SIZE])
            assert frames == list(range(k - 6 + 2 * clip, k - 2 + 2 * clip))


def test_a_queue_that_cannot_be_halved_is_refused() -> None:
    for size, steps in ((3, 6), (4, 7), (8, 4)):
        with pytest.raises(ValueError, match=f"of {steps} steps, which are to be clips of {size} in halves"):
            made(alone, 1, shifted(steps, 3.0).levels, size=size)


def test_exact_experts_are_asked_a_share_for_each_frame() -> None:
    network = exact.load("video", "control", candidates=12).network
    assert isinstance(network, exact.Exact)
    told, x = [Condition("a red circle moving right")] * 2, torch.randn(2, 3, 6, 8, 8)
    torch.testing.assert_close(network.expect(x, torch.full((2, 6), 0.3), told), network.expect(x, 0.3, told))
    t = torch.tensor([[0.0, 0.0, 0.4, 0.6, 0.8, 1.0]]).expand(2, -1)
    scenes = network.scenes("a red circle moving right", 6, 8)
    clips = torch.stack([scenes.tape[start : start + 6] for start in scenes.starts])
    frame = clips[7].reshape(6, 3, 8, 8).movedim(0, 1)[None]
    found = network.expect(frame.expand(2, -1, -1, -1, -1).lerp(x, t[:, None, :, None, None]), t, told)
    torch.testing.assert_close(found, frame.expand_as(found), msg="what is clean decides for what is noise")


def test_a_queue_of_exact_frames_goes_on_as_it_began() -> None:
    network = exact.load("video", "control", candidates=24).network
    assert isinstance(network, exact.Exact)

    def look(x: Tensor, t: Tensor, frames: Tensor) -> Tensor:
        return network.expect(x, t, [Condition("a circle")] * len(x))

    corner = made(look, 40, shifted(16, 3.0).levels, (3, 8, 8), 8)[0, :, :, 0, 0]
    assert float((corner - corner[:, :1]).abs().max()) < 0.05, "the background, which the text leaves open"


# --- networks ----------------------------------------------------------------------------------------------------


def loaded(family: str, folder: Path) -> Expert:
    """A tiny checkpoint of a family."""
    weights = str(tiny.MAKERS[family](folder))
    recipe = {
        "prompt": "a red circle",
        "video": {"frames": 17, "height": 64, "width": 64, "fps": 8.0},
        "experts": {"it": {"family": family, "weights": weights}},
        "codec": {"weights": weights},
        "chain": [{"stage": "video", "ladder": {"own": {"of": "it", "steps": 2}}, "denoise": "it"}],
    }
    return run.load(recipes.checked(recipe)).experts["it"]


@pytest.mark.parametrize("family", PER_TOKEN)
def test_networks_that_take_a_time_for_each_token_are_asked_a_share_for_each_frame(family: str, tmp_path: Path) -> None:
    expert = loaded(family, tmp_path)
    story = Timeline(((0, Condition("a red circle")), (8, Condition("a blue square"))))
    plain = Guided(expert.given(story), expert.given(""), 2.0)
    channels = expert.network.space.channels  # type: ignore[attr-defined]
    x, frames = torch.randn(2, channels, 4, 4, 6), torch.stack([torch.arange(4), torch.arange(6, 10)])
    look = Diagonal(expert, story, guidance=2.0)
    torch.testing.assert_close(look(x, torch.full((2, 4), 0.6), frames), plain(x, 0.6, frames).x0)
    rising = torch.tensor([[0.0, 0.3, 0.6, 0.9]]).expand(2, -1)
    seen = look(x, rising, frames)
    assert torch.equal(seen[:, :, 0], x[:, :, 0]), "a finished frame is as it is"
    assert all((seen[:, :, i] - plain(x, t, frames).x0[:, :, i]).abs().max() > 1e-4 for i, t in ((1, 0.3), (3, 0.9)))


def test_networks_that_take_one_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'it' is asked one time for a whole clip; .* of the families wan and ltx"):
        Diagonal(loaded("cogvideox", tmp_path), Timeline.of("a red circle"))
    with pytest.raises(RecipeError, match="leave out the story's fade"):
        Diagonal(loaded("wan", tmp_path / "wan"), Timeline(((0, Condition("a")), (4, Condition("b"))), fade=2.0))
