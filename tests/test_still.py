"""Finished frames held to what stands still in the first ones: the law, pieces, runs, what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dovetail
from dovetail import recipe as recipes
from dovetail.cli.describing import describe
from dovetail.core.still import STEP, Still
from dovetail.errors import RecipeError, StoryWarning
from dovetail.recipe import Recipe
from dovetail.run import Look, decode, finished, folder_of, keep, load, play, resume
from dovetail.run.decoding import Holding, pixels_of
from dovetail.video import Video, read, settings_of

SMALL: dict[str, Any] = {f"experts.{name}.candidates": 8 for name in ("control", "spatial", "temporal")} | {
    "chain.structure.ladder.trailing.steps": 3,
    "chain.refine.ladder.below.steps": 2,
    "video": {"frames": 40, "height": 32, "width": 32},
}
GRAY, TEAL, RED = (
    torch.tensor(colour).view(3, 1, 1) for colour in ((0.0, 0.0, 0.0), (-0.8, 0.0, 0.0), (0.8, -0.8, -0.8))
)


def small(**changes: object) -> Recipe:
    return recipes.changed(recipes.load("sprites-long-exact"), SMALL | changes)


def scene(ground: Tensor, at: int | None = None, frames: int = 1) -> Tensor:
    """Frames "f 3 16 16" of a ground, and of a red square that begins at a row and column."""
    video = ground.expand(frames, 3, 16, 16).clone()
    if at is not None:
        video[:, :, at : at + 4, at : at + 4] = RED
    return video


# --- the law -----------------------------------------------------------------------------------------------------


def test_it_is_what_its_formula_says() -> None:
    """Written out pixel by pixel, over noise."""
    generator = torch.Generator().manual_seed(3)
    video = torch.rand(5, 3, 6, 6, generator=generator) * 0.2
    video[3:] += 0.3 + 0.1 * torch.rand(2, 3, 6, 6, generator=generator)
    still = Still(frames=3, within=1.5)
    picture, held = still.picture(video), still(video, still.picture(video))
    for channel, y, x in np.ndindex(3, 6, 6):
        assert picture[channel, y, x] == sorted(video[:3, channel, y, x].tolist())[1]

    def low(values: list[float]) -> float:
        return sorted(values)[(len(values) - 1) // 2]  # torch's median

    places = list(np.ndindex(6, 6))
    middle = [low([float(picture[k, y, x]) for y, x in places]) for k in range(3)]
    for f in range(5):
        lacks = {place: [float(picture[(k, *place)] - video[(f, k, *place)]) for k in range(3)] for place in places}
        change = [low([lacks[place][k] for place in places]) for k in range(3)]
        apart = {place: sum((d - c) ** 2 for d, c in zip(lacks[place], change, strict=True)) ** 0.5 for place in places}
        reach, long = 1.5 * max(low(list(apart.values())), STEP), sum(c**2 for c in change) ** 0.5
        for place in places:
            like = max(0.0, 1 - (apart[place] / reach) ** 2) ** 2
            far = sum((float(video[(f, k, *place)]) + change[k] - middle[k]) ** 2 for k in range(3)) ** 0.5
            there = max(0.0, 1 - (far / max(long, 1e-30)) ** 2) ** 2
            for k in range(3):
                want = float(video[(f, k, *place)]) + like * lacks[place][k] + (1 - like) * there * change[k]
                assert float(held[(f, k, *place)]) == pytest.approx(min(1.0, max(-1.0, want)), abs=1e-5)


def test_what_stands_still_stays_and_what_moves_is_left() -> None:
    video = torch.cat([scene(GRAY, frames=4), *(scene(GRAY, at) for at in range(8))])
    still = Still(frames=4)
    assert (still(video, still.picture(video)) == video).all()


def test_a_ground_that_changes_is_the_first_one_again_and_an_object_keeps_its_colour() -> None:
    """Also where the object stood in the first frames, which the still picture does not know."""
    video = torch.cat([scene(GRAY, 2, frames=6), scene(TEAL, 9, frames=6)])
    still = Still(frames=6)
    held = still(video, still.picture(video))
    assert (held[:6] == video[:6]).all()
    assert (held[6:] - scene(GRAY, 9)).abs().max() < 1e-6


def test_a_pattern_slips_back_and_a_little_grain_does_not_let_go_of_it() -> None:
    spots = torch.zeros(16, 16)
    spots[::4, ::4] = 0.5
    first, grain = scene(GRAY) + spots, STEP * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    later = first + 0.1 + 4 * grain
    later[0, :, 4, 4] += 6 * STEP  # a spot that fades a little more than all else changes
    still = Still(frames=1)
    held = still(torch.cat([first, first + grain / 2, later]), first[0])
    assert (held[1] - first[0]).abs().max() < STEP / 4, "less than a step is held whatever most pixels lack"
    assert (held[2] - first[0]).abs().mean() < 0.3 * (later - 0.1 - first)[0].abs().mean()


# --- pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(24,), (1,) * 24, (5, 2, 16, 1), (9, 15)], ids=str)
def test_pieces_are_held_as_the_whole_is_and_wait_for_the_first_frames(lengths: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(90, 160, (24, 8, 8, 3), np.uint8)
    still, latents = Still(frames=8), [torch.full((1,), float(i)) for i in range(len(lengths))]
    parts = np.split(frames, np.cumsum(lengths)[:-1])
    holding, come, out = Holding(still), 0, []
    for i, piece in enumerate(zip(parts, latents, strict=True), 1):
        come += len(piece[0])
        for held, latent in holding.add(iter([piece]), i == len(parts)):
            assert latent is latents[len(out)]
            out.append(held)
        assert (sum(map(len, out)) == come) == (come >= 8)
    pixels = Video(frames, 1.0).pixels[0]
    whole = Video.of(still(pixels, still.picture(pixels))[None], 1.0).frames
    assert (np.concatenate(out) == whole).all()
    assert (whole != frames).any()


def test_a_video_that_is_shorter_is_held_to_all_of_it() -> None:
    frames = np.random.default_rng(0).integers(90, 160, (3, 8, 8, 3), np.uint8)
    (out,) = Holding(Still(frames=8)).add(iter([(frames, torch.zeros(1))]), last=True)
    pixels = Video(frames, 1.0).pixels[0]
    assert (out[0] == Video.of(Still()(pixels, pixels.median(0).values)[None], 1.0).frames).all()


# --- runs --------------------------------------------------------------------------------------------------------

HELD = {"within": 3.0, "frames": 12}


def test_a_run_holds_its_frames_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on from any byte to the same ones; `decode` holds a run that did not, and lets go of one that did."""
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 32)
    cast, recipe = load(small()), small(**{"video.still": HELD})
    bare, held = finished(play(small(), cast)), finished(play(recipe, cast))
    assert held.latent is not None
    assert bare.latent is not None
    assert torch.equal(held.latent, bare.latent)
    still, pixels = Still(within=3.0, frames=12), Video(bare.frames, 1.0).pixels[0]
    want = Video.of(still(pixels, still.picture(pixels))[None], 1.0).frames
    assert (held.frames == want).all()
    assert (want != bare.frames).any()
    shown = pixels_of(cast.codec, bare.latent, still)[0]
    assert (Video.of(shown[None], 1.0).frames.astype(int) - want).__abs__().max() <= 2, "without rounding between"

    out = tmp_path / "a.mp4"
    list(keep(recipe, out, cast=cast))
    film = folder_of(out) / "video.mp4"
    data, video = film.read_bytes(), out.read_bytes()
    for size in (len(data) * 3 // 4, len(data) // 2, 0):
        film.write_bytes(data[:size])
        out.unlink()
        list(resume(folder_of(out), cast))
        assert (film.read_bytes() == data, out.read_bytes() == video) == (True, True), size
    list(decode(folder_of(out), tmp_path / "b.npz", Look(still=0)))
    assert (read(tmp_path / "b.npz").frames == bare.frames).all()
    list(keep(small(), tmp_path / "bare.npz", cast=cast))
    list(decode(folder_of(tmp_path / "bare.npz"), tmp_path / "c.npz", Look(still=3.0)))
    default = Still()
    want = Video.of(default(pixels, default.picture(pixels))[None], 1.0).frames
    assert (read(tmp_path / "c.npz").frames == want).all()
    assert settings_of(tmp_path / "c.npz")["decoded"] == {"still": 3.0}


def test_bad_values_are_refused() -> None:
    for value, says in ((0, "greater than 0"), (11, "less than or equal to 10"), ({"frames": 0}, "frames")):
        with pytest.raises(RecipeError, match=f"video.still.*{says}"):
            recipes.changed(small(), {"video.still": value})
    with pytest.raises(RecipeError, match="still is 0 to 10, not 11"):
        Look(still=11)


def test_it_is_said_in_plans_and_where_a_background_is_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small(**{"video.still": 4})
    assert recipe.video.still is not None
    assert (recipe.video.still.within, recipe.video.still.frames) == (4, 16)
    describe(dovetail.plan(recipe))
    assert "finished frames are held to what stands still in the first 16, within 4 medians" in capsys.readouterr().out
    describe(dovetail.plan(small()))
    assert "finished frames" not in capsys.readouterr().out
    story = {"events": ["a red circle on a black background", "a red circle on a gray background"]}
    told = recipes.changed(recipe, {"story": story, "chain.structure.denoise": "control"})
    with pytest.warns(StoryWarning) as caught:
        finished(play(told))
    said = [str(one.message) for one in caught]
    assert any("finished frames are held to what stands still at first" in one for one in said), said
    assert any("set video.still to null" in one for one in said), said
