"""Stages in latents of their own, joined through pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import interpolate
from typer.testing import CliRunner

from dovetail import recipe as recipes
from dovetail import run
from dovetail.cli import app
from dovetail.core.chain import run as chained
from dovetail.core.denoiser import Prompted, timeline
from dovetail.core.noise import Noise
from dovetail.core.stages import Done, Stage
from dovetail.core.tree import walk
from dovetail.errors import RecipeError, SpaceError
from dovetail.run.bridging import rooms_of
from dovetail.video import Video


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wan makes 4k + 1 frames of 8 pixels a cell, Stable Diffusion any number of 2."""
    root = tmp_path_factory.mktemp("bridges")
    return {family: tiny.MAKERS[family](root / family) for family in ("stable-diffusion", "wan")}


def wan_then_sd(folders: dict[str, Path], **changes: Any) -> recipes.Recipe:
    """Structure by Wan, refinement by Stable Diffusion."""
    wan, image = (str(folders[family]) for family in ("wan", "stable-diffusion"))
    return recipes.changed(
        recipes.checked(
            {
                "prompt": "a fox",
                "video": {"frames": 4, "height": 24, "width": 32, "fps": 8.0},
                "experts": {
                    "motion": {"family": "wan", "weights": wan, "device": "cpu"},
                    "image": {"family": "stable-diffusion", "weights": image, "device": "cpu"},
                },
                "codec": {"weights": image, "device": "cpu"},
                "chain": [
                    {
                        "stage": "structure",
                        "codec": {"weights": wan, "device": "cpu"},
                        "height": 48,
                        "width": 64,
                        "ladder": {"shifted": {"steps": 2, "shift": 3.0}},
                        "denoise": "motion",
                    },
                    {
                        "stage": "refine",
                        "bridge": "pixels",
                        "ladder": {"below": {"of": "image", "timestep": 100, "steps": 2}},
                        "denoise": {"framewise": "image"},
                    },
                ],
            }
        ),
        changes,
    )


def sd_then_wan(folders: dict[str, Path], **changes: Any) -> recipes.Recipe:
    """The other way round."""
    plain = recipes.plain(wan_then_sd(folders))
    first, second = plain["chain"]
    plain["codec"], first["codec"] = first["codec"], plain["codec"]
    first |= {
        "height": 24,
        "width": 32,
        "ladder": {"trailing": {"of": "image", "steps": 2}},
        "denoise": {"framewise": "image"},
    }
    second |= {"ladder": {"even": {"steps": 2, "start": 0.3}}, "denoise": "motion"}
    plain["video"] |= {"frames": 5, "height": 48, "width": 64}
    return recipes.changed(recipes.checked(plain), changes)


# --- what it makes ------------------------------------------------------------------------------------------------


def test_structure_in_one_space_and_refinement_in_another(folders: dict[str, Path]) -> None:
    """Wan makes 5 frames of 48x64; the last is left out, the rest is refined at 24x32. The same by hand."""
    recipe = wan_then_sd(folders)
    cast = run.load(recipe)
    video = run.finished(run.play(recipe, cast))
    assert video.frames.shape == (4, 24, 32, 3)
    assert video.latent.shape == (1, 4, 4, 12, 16)

    wan, image = cast.codec_at("structure"), cast.codec_at("refine")
    assert (wan.space.vae, image) == ("AutoencoderKLWan", cast.codec)
    stages = run.playing.ready(recipe, cast).plan.stages
    assert [stage.bridge.length if stage.bridge else None for stage in stages] == [None, 4]
    built = build_alone(recipe, cast)
    noise = Noise(recipe.video.seed)
    *_, structure = chained([built[0]], noise, timeline(2), (4, 6, 8))
    frames = wan.decode(structure.video)[:, :4]
    small = interpolate(frames[0], (24, 32), mode="bicubic", antialias=True).clamp(-1, 1)[None]
    *_, refined = chained([built[1]], noise, timeline(4), (4, 12, 16), image.encode(small))
    assert isinstance(refined, Done)
    assert torch.allclose(video.latent, refined.video, atol=1e-5)


def build_alone(recipe: recipes.Recipe, cast: run.Cast) -> list[Stage]:
    """Each stage as it would be in a recipe without a bridge."""
    from dovetail.recipe.build import build

    plain = [stage.model_copy(update={"bridge": None}) for stage in recipe.chain]
    return list(build(recipe.model_copy(update={"chain": tuple(plain)}), cast.experts))


def test_the_other_way_round_and_over_two_bridges(folders: dict[str, Path]) -> None:
    recipe = sd_then_wan(folders)
    cast = run.load(recipe)
    assert run.finished(run.play(recipe, cast)).frames.shape == (5, 48, 64, 3)
    plain = recipes.plain(recipe)
    again = {**plain["chain"][0], "stage": "again", "bridge": "pixels", "codec": None, "height": None, "width": None}
    again["ladder"] = {"below": {"of": "image", "timestep": 50, "steps": 1}}
    plain["chain"][1] |= {"codec": plain["codec"], "height": 48, "width": 64}
    plain["codec"], plain["video"] = (
        plain["chain"][0]["codec"],
        {**plain["video"], "frames": 3, "height": 24, "width": 32},
    )
    three = recipes.checked({**plain, "chain": [*plain["chain"], again]})
    cast = replace(cast, codec=cast.codec_at("structure"))
    cast = replace(cast, codecs={"structure": cast.codec, "refine": cast.codecs["refine"], "again": cast.codec})
    assert run.finished(run.play(three, cast)).frames.shape == (3, 24, 32, 3)
    rooms = rooms_of(three, {name: codec.space for name, codec in cast.codecs.items()})
    assert [(room.frames, room.latent[0]) for room in rooms.values()] == [(5, 5), (5, 2), (3, 3)]


def test_one_codec_at_two_sizes(folders: dict[str, Path]) -> None:
    """A small draft, refined at full size."""
    plain = recipes.plain(wan_then_sd(folders))
    first = plain["chain"][0]
    first |= {"codec": None, "height": 12, "width": 16, "denoise": {"framewise": "image"}}
    first["ladder"] = {"trailing": {"of": "image", "steps": 2}}
    recipe = recipes.checked({**plain, "experts": {"image": plain["experts"]["image"]}})
    cast = run.load(recipe)
    assert cast.codec_at("structure") is cast.codec
    assert run.finished(run.play(recipe, cast)).frames.shape == (4, 24, 32, 3)


def test_a_given_video_begins_in_the_first_latents(folders: dict[str, Path], tmp_path: Path) -> None:
    """`refine` leaves the first stage out, and with it the bridge; a start keeps both, padded to the frames of its codec."""
    frames = np.random.default_rng(0).integers(0, 255, (4, 24, 32, 3), dtype=np.uint8)
    given = tmp_path / "given.npz"
    Video(frames, 8.0).save(given)
    recipe = wan_then_sd(folders)
    refining = run.refining(recipe, given)
    assert not refining.bridged
    assert run.finished(run.play(refining)).frames.shape == (4, 24, 32, 3)
    started = recipes.changed(
        recipe, {"start": {"video": str(given)}, "chain.structure.ladder": {"even": {"steps": 1, "start": 0.5}}}
    )
    assert run.finished(run.play(started)).frames.shape == (4, 24, 32, 3)


# --- long video ---------------------------------------------------------------------------------------------------


def long(**changes: Any) -> recipes.Recipe:
    """Exact experts, in squares of 8 pixels and then of 4, both in windows: autoencoders of single frames."""
    plain = recipes.plain(recipes.load("sprites-long-exact"))
    structure, refine = plain["chain"]
    plain["experts"] = {
        "control": {"family": "exact", "kind": "control", "candidates": 8},
        "fine": {"family": "exact", "kind": "spatial", "candidates": 8},
    }
    structure |= {"codec": {"pixels": 8}, "window": 4, "denoise": "control", "noise": None, "hop": None, "offset": 0}
    structure["ladder"] = {"trailing": {"of": "control", "steps": 2}}
    refine |= {"bridge": "pixels", "window": 4, "offset": 2, "hop": None, "denoise": {"framewise": "fine"}}
    refine["ladder"] = {"below": {"of": "fine", "timestep": 300, "steps": 2}}
    plain |= {"codec": {"pixels": 4}, "video": {**plain["video"], "frames": 16, "longest": None}}
    return recipes.changed(recipes.checked(plain), changes)


def test_a_long_video_streams_over_a_bridge_of_single_frames() -> None:
    """Pieces come before the structure is whole, and are what one piece would be."""
    recipe, cast = long(), run.load(long())
    events = list(run.play(recipe, cast))
    pieces = [event for event in events if isinstance(event, run.Piece)]
    assert [len(piece.frames) for piece in pieces] == [2, 4, 4, 4, 2]
    first = events.index(pieces[0])
    later = [event for event in events[first:] if isinstance(event, run.Step) and event.stage == "structure"]
    assert later
    whole = recipes.changed(recipe, {"chain.refine.window": None, "chain.refine.offset": 0})
    assert np.array_equal(run.finished(iter(events)).frames, run.finished(run.play(whole, cast)).frames)


def test_a_run_over_a_bridge_is_resumed(tmp_path: Path) -> None:
    """From any piece, to the same bytes."""
    recipe, cast = long(), run.load(long())
    whole = tmp_path / "whole.mp4"
    list(run.keep(recipe, whole, cast=cast))
    for stop in (1, 3):
        target = tmp_path / f"{stop}.mp4"
        done = 0
        for event in run.keep(recipe, target, cast=cast):
            done += isinstance(event, run.Piece)
            if done == stop:
                break
        list(run.resume(run.folder_of(target), cast))
        assert target.read_bytes() == whole.read_bytes()
    with pytest.raises(RecipeError, match="joined through pixels, and such a run is not continued"):
        run.continuing(run.folder_of(whole))


def test_an_autoencoder_over_time_takes_the_whole_video(folders: dict[str, Path]) -> None:
    recipe = wan_then_sd(folders, **{"video.frames": 16, "chain.structure.window": 2})
    with pytest.raises(
        RecipeError, match=r"chain\.refine\.bridge: stage 'structure' comes in pieces .*takes the whole video"
    ):
        next(run.play(recipe, run.load(recipe)))


def test_what_is_behind_a_bridge_is_resumed_without_what_is_before(folders: dict[str, Path], tmp_path: Path) -> None:
    """What the refinement still holds is in its own latents: Wan is not asked again."""
    recipe = wan_then_sd(folders, **{"video.frames": 8, "chain.refine.window": 4})
    cast = run.load(recipe)
    list(run.keep(recipe, tmp_path / "whole.mp4", cast=cast))
    for event in run.keep(recipe, tmp_path / "cut.mp4", cast=cast):
        if isinstance(event, run.Piece):
            break
    later = list(run.resume(tmp_path / "cut.run", cast))
    assert {event.stage for event in later if isinstance(event, run.Step)} == {"refine"}
    assert (tmp_path / "cut.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    video = run.finished(run.play(recipe, cast))
    assert video.frames.shape == (8, 24, 32, 3)


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_plan_shows_the_bridge_and_counts_each_side(folders: dict[str, Path], tmp_path: Path) -> None:
    recipe = wan_then_sd(folders)
    (tmp_path / "r.yaml").write_text(recipes.dump(recipe))
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml")])
    assert shown.exit_code == 0, shown.output
    assert "latents of AutoencoderKLWan: 5 frames of 64x48, latent 4 x 2 x 6 x 8" in shown.output
    assert "bridge through pixels, once the whole video is there: AutoencoderKLWan: 5 frames of 64x48" in shown.output
    assert (
        "to AutoencoderKL: 4 frames of 32x24, latent 4 x 4 x 12 x 16; the last 1 frame(s) are left out" in shown.output
    )
    plan = run.plan(recipe)
    assert {name: (count.calls, count.frames) for name, count in plan.counts.items()} == {
        "motion": (2, 4),
        "image": (2, 8),
    }
    assert plan.passes("motion") == plan.passes("image") == 2
    assert plan.rooms == run.playing.ready(recipe, run.load(recipe)).plan.rooms


def test_costs_are_those_of_each_size(folders: dict[str, Path]) -> None:
    """The draft at half the size costs what it costs alone."""
    from dovetail.costs import costs

    recipe = wan_then_sd(folders)
    alone = recipes.plain(recipe)
    alone |= {"codec": alone["chain"][0]["codec"], "video": {**alone["video"], "frames": 5, "height": 48, "width": 64}}
    alone["chain"] = [{**alone["chain"][0], "codec": None, "height": None, "width": None}]
    both, one = costs(run.plan(recipe)), costs(run.plan(recipes.checked(alone)))
    assert both.experts["motion"].spent == one.experts["motion"].spent
    assert both.experts["motion"].look == one.experts["motion"].look


def test_a_story_goes_over_a_bridge(folders: dict[str, Path]) -> None:
    """Each side takes events at its own frames."""
    frame_by_frame = {"windowed": {"of": "motion", "size": 1, "stride": 1}}
    recipe = wan_then_sd(
        folders, **{"chain.structure.denoise": frame_by_frame, "story": ["0f: it sits", "2f: it runs"]}
    )
    told = [
        [start for start, _ in part.prompt.keys]
        for stage in run.plan(recipe).stages
        for part in walk(stage.denoise)
        if isinstance(part, Prompted)
    ]
    assert told == [[0, 1], [0, 2]]
    assert run.finished(run.play(recipe)).frames.shape == (4, 24, 32, 3)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_different_spaces_without_a_bridge(folders: dict[str, Path]) -> None:
    plain = recipes.plain(wan_then_sd(folders))
    plain["chain"][0] |= {"codec": None, "height": None, "width": None}
    plain["chain"][1] |= {"bridge": None}
    recipe = recipes.checked({**plain, "video": {**plain["video"], "frames": 5, "height": 48, "width": 64}})
    with pytest.raises(
        SpaceError, match=r"'motion' \(.+\) and the codec \(.+\) live in different.*bridge: pixels on the stage"
    ):
        next(run.play(recipe, run.load(recipe)))


def test_the_wrong_codec_on_a_side(folders: dict[str, Path]) -> None:
    recipe = wan_then_sd(folders, **{"chain.structure.codec": None})
    with pytest.raises(
        SpaceError, match=r"'motion' \(.+\) and the codec of stage 'structure' \(.+\) live in different"
    ):
        next(run.play(recipe, run.load(recipe)))


def test_an_expert_whose_space_is_trusted(folders: dict[str, Path], tmp_path: Path) -> None:
    """An encoder of other weights is refused, unless the recipe says that its latents are the same."""
    other = tiny.save(tmp_path / "other", tiny.unet2d(), vae=tiny.vae(seed=6))
    plain = recipes.plain(wan_then_sd(folders))
    plain["experts"]["image"]["weights"] = str(other)
    recipe = recipes.checked(plain)
    with pytest.raises(SpaceError, match=r"encoder weights are .* apart.*trust_space: true"):
        next(run.play(recipe, run.load(recipe)))
    trusted = recipes.changed(recipe, ["experts.image.trust_space=true"])
    assert next(run.play(trusted, run.load(trusted))).stage == "structure"


MISFITS = {
    "first": ({"chain.structure.bridge": "pixels"}, r"chain\.structure\.bridge: nothing comes before the first stage"),
    "last": (
        {"chain.refine.codec": {"pixels": 4}},
        r"chain\.refine\.codec: these latents become the video.*recipe's `codec`",
    ),
    "size": ({"chain.refine.height": 24}, r"chain\.refine\.height: these latents become the video.*video\.height"),
    "without": (
        {**dict.fromkeys(f"chain.structure.{key}" for key in ("codec", "height", "width")), "chain.refine.bridge": None}
        | {"chain.refine.width": 32},
        r"chain\.refine\.width: it goes on in the latents of the stage before; to change them, say bridge: pixels",
    ),
    "word": ({"chain.refine.bridge": "pixel"}, r"chain\.refine\.bridge: unknown value 'pixel'; did you mean 'pixels'"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_where_a_codec_and_a_bridge_are_said(folders: dict[str, Path], what: str) -> None:
    changes, message = MISFITS[what]
    with pytest.raises(RecipeError, match=message):
        wan_then_sd(folders, **changes)


def test_a_size_that_a_codec_cannot_make_names_its_stage(folders: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match=r"chain\.structure, 66x48: .*multiples of 8"):
        run.plan(wan_then_sd(folders, **{"chain.structure.width": 66}))
    with pytest.raises(RecipeError, match=r"multiples of 16"):  # two cells of Wan's are one token
        next(run.play(wan_then_sd(folders, **{"chain.structure.width": 72}), run.load(wan_then_sd(folders))))


def test_what_works_on_one_space_says_so(folders: dict[str, Path]) -> None:
    from dovetail.recipe.build import build

    recipe = wan_then_sd(folders)
    with pytest.raises(RecipeError, match=r"chain\.refine\.bridge: this works on one latent space"):
        build(recipe, run.load(recipe).experts)


def test_paths_of_codecs_are_meant_from_the_recipes_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "wan").symlink_to(folders["wan"])
    recipe = wan_then_sd(folders, **{"chain.structure.codec.weights": "./wan"})
    (tmp_path / "r.yaml").write_text(recipes.dump(recipe))
    assert recipes.load(tmp_path / "r.yaml").chain[0].codec.weights == str(folders["wan"])
