"""Finished frames held to what stands still in the first ones: the law, pieces, runs, what is said of it."""

import warnings
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dovetail
from dovetail import recipe as recipes
from dovetail.cli.describing import describe
from dovetail.core.still import AWAY, STEP, Still
from dovetail.errors import RecipeError, RunWarning, StoryWarning
from dovetail.recipe import Recipe
from dovetail.run import Look, Piece, decode, finished, folder_of, keep, load, play, resume
from dovetail.run.decoding import Holding
from dovetail.run.folder import Folder
from dovetail.run.growing import grown
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
    """Written out pixel by pixel, over noise: frames like the first, one that is changed, one half of which is, one of another
    scene."""
    generator = torch.Generator().manual_seed(3)
    video = torch.rand(6, 3, 6, 6, generator=generator) * 0.2
    video[3] += 0.3 + 0.1 * torch.rand(3, 6, 6, generator=generator)
    video[4, :, :4] -= 0.7
    video[5] = 2 * torch.rand(3, 6, 6, generator=generator) - 1
    still = Still(frames=3, within=1.5)
    picture = still.picture(video)
    held, kinds = still(video, picture), set[str]()
    for channel, y, x in np.ndindex(3, 6, 6):
        assert picture[channel, y, x] == sorted(video[:3, channel, y, x].tolist())[1]

    def low(values: Iterable[float]) -> float:
        found = sorted(values)
        return found[(len(found) - 1) // 2]  # torch's median

    def long(of: Sequence[float]) -> float:
        return sum(value**2 for value in of) ** 0.5

    def bell(distance: float) -> float:
        return max(0.0, 1 - distance**2) ** 2

    places = list(np.ndindex(6, 6))
    middle = [low(float(picture[k, y, x]) for y, x in places) for k in range(3)]
    for f in range(6):
        lacks = {place: [float(picture[(k, *place)] - video[(f, k, *place)]) for k in range(3)] for place in places}
        most = [low(lacks[place][k] for place in places) for k in range(3)]

        def apart(change: Sequence[float], lacks: dict[Any, list[float]] = lacks) -> dict[Any, float]:
            return {place: long([d - c for d, c in zip(each, change, strict=True)]) for place, each in lacks.items()}

        kept, moved = (sorted(apart(change).values())[len(places) // 4 - 1] for change in ([0.0] * 3, most))
        change = most if kept > 1.5 * max(moved, STEP) else [0.0] * 3
        size = low(apart(change).values())
        kinds.add(f"{change is most} {size < AWAY}")
        for place in places:
            like = bell(apart(change)[place] / (1.5 * max(size, STEP)))
            far = long([float(video[(f, k, *place)]) + change[k] - middle[k] for k in range(3)])
            there = bell(far / max(long(change), 1e-30))
            for k in range(3):
                more = like * lacks[place][k] + (1 - like) * there * change[k]
                want = min(1.0, max(-1.0, float(video[(f, k, *place)]) + bell(size / AWAY) * more))
                assert float(held[(f, k, *place)]) == pytest.approx(want, abs=1e-5)
    assert kinds >= {"False True", "True True", "False False"}, kinds


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


@pytest.mark.parametrize("side", [10, 11, 12, 13])
def test_what_covers_most_of_a_frame_is_not_painted_over(side: int) -> None:
    """Up to three quarters of it, of a ground that has not changed."""
    ground = scene(GRAY, frames=8) + 0.01 * torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    large = ground[:1].clone()
    large[0, :, :side, :side] = RED
    still = Still(frames=8)
    held = still(large, still.picture(ground))
    assert side**2 / 256 > 0.39
    assert (held[0, :, :side, :side] - RED).abs().max() < 1e-6


def test_another_scene_is_left_alone() -> None:
    one, other = (2 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(n)) - 1 for n in (1, 2))
    still = Still(frames=4)
    held = still(torch.cat([one.expand(4, -1, -1, -1), other]), still.picture(one))
    assert (held[:4] == one).all()
    assert (held[4] - other[0]).abs().mean() < 0.05


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

    list(keep(recipe, tmp_path / "held.npz", cast=cast))
    assert (read(tmp_path / "held.npz").frames == want).all()
    out = tmp_path / "a.mp4"
    seen = [event.frames for event in keep(recipe, out, cast=cast) if isinstance(event, Piece)]
    assert (np.concatenate(seen) == want).all()
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
    list(decode(folder_of(out), tmp_path / "d.npz", Look(still=2.0)))
    closer = Still(frames=12, within=2.0)
    want = Video.of(closer(pixels, closer.picture(pixels))[None], 1.0).frames
    assert (read(tmp_path / "d.npz").frames == want).all(), "the run's own frames make the still picture"
    default = Still()
    want = Video.of(default(pixels, default.picture(pixels))[None], 1.0).frames
    assert (read(tmp_path / "c.npz").frames == want).all()
    assert settings_of(tmp_path / "c.npz")["decoded"] == {"still": 3.0}


@pytest.mark.parametrize("filmed", [1, 2, 3])
@pytest.mark.parametrize("hurt", [None, 0, 1, 2, 3])
def test_a_run_goes_on_where_pieces_are_damaged_of_which_the_still_picture_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filmed: int, hurt: int | None
) -> None:
    """Frames come all at once when the first ones are there, so a process may be stopped between them."""
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 32)
    recipe, out = small(**{"video.frames": 56, "video.still": {"frames": 40}}), tmp_path / "a.mp4"
    cast = load(recipe)
    list(keep(recipe, out, cast=cast))
    film, video = folder_of(out) / "video.mp4", out.read_bytes()
    data, identity = film.read_bytes(), Folder(folder_of(out)).origin()
    assert identity is not None
    end = bisect_left(range(len(data)), filmed, key=lambda size: grown_to(data[:size], film, identity.identity))
    film.write_bytes(data[:end])
    out.unlink()
    if hurt is not None:
        (folder_of(out) / "latents" / f"0000{hurt}.safetensors").write_bytes(b"damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        list(resume(folder_of(out), cast))
    assert (film.read_bytes() == data, out.read_bytes() == video) == (True, True)


def grown_to(data: bytes, film: Path, identity: str) -> int:
    """Pieces that are whole in so much of a video."""
    film.write_bytes(data)
    return grown(film, identity).pieces


def test_bad_values_are_refused() -> None:
    for value, says in (
        (0, "greater than or equal to 0.1"),
        (11, "less than or equal to 10"),
        ({"frames": 0}, "frames"),
    ):
        with pytest.raises(RecipeError, match=f"video.still.*{says}"):
            recipes.changed(small(), {"video.still": value})
    with pytest.raises(RecipeError, match="still is 0 to 10, not 11"):
        Look(still=11)
    with pytest.raises(RecipeError, match=r"greater than or equal to 0\.1"):
        recipes.changed(small(), {"video.still": 1e-30})


def test_it_is_said_in_plans_and_where_a_background_is_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small(**{"video.still": 4})
    assert recipe.video.still is not None
    assert (recipe.video.still.within, recipe.video.still.frames) == (4, 48)
    describe(dovetail.plan(recipe))
    assert "finished frames are held to what stands still in the first 48, within 4 medians" in capsys.readouterr().out
    describe(dovetail.plan(small()))
    assert "finished frames" not in capsys.readouterr().out
    story = {"events": ["a red circle on a black background", "a red circle on a gray background"]}
    told = recipes.changed(recipe, {"story": story, "chain.structure.denoise": "control"})
    with pytest.warns(StoryWarning) as caught:
        finished(play(told))
    said = [str(one.message) for one in caught]
    assert any("finished frames are held to what stands still at first" in one for one in said), said
    assert any("set video.still to null" in one for one in said), said
