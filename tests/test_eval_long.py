"""Measures of long video: known damage and planted seams move what they should, and nothing else."""

import io
import json
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from dovetail import cli
from dovetail import recipe as recipes
from dovetail.core.blur import blurred
from dovetail.errors import ExtraError, OutputError
from dovetail.eval import pixel
from dovetail.eval.flow import fetched, fitted, flows, shrunk
from dovetail.eval.kept import Ground, borne, kept, shows_sprites
from dovetail.eval.long import measures
from dovetail.eval.seams import SIGNALS, blind_period, borders, seams, standing_out
from dovetail.eval.series import Series, descriptors, follow, windows
from dovetail.sprites.world import Ask, Scene, imagine, render
from dovetail.video import Video
from dovetail.video.footage import Footage

SCENES = (
    imagine(Ask("dotted", "yellow", "ring", "right", "teal", "striped"), 5),
    imagine(Ask("solid", "red", "circle", "down", "gray", "checkered"), 6),
)
PROMPT = "a red circle moving right on a black striped background"


@pytest.fixture
def flow() -> None:
    """For tests that need OpenCV: `make test` brings it."""
    pytest.importorskip("cv2")


# --- known damage: the matrix ------------------------------------------------------------------------------------


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def shaken(video: Tensor, pixels: float) -> Tensor:
    """Every frame warped by itself."""
    field = torch.nn.functional.interpolate(drawn(len(video), 2, 4, 4), (64, 64), mode="bilinear", align_corners=True)
    return fetched(video, field * pixels)


def shuffled(video: Tensor, size: int) -> Tensor:
    """Frames in random order within windows of this size."""
    generator = torch.Generator().manual_seed(7)
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in torch.split(video, size)])


def tinted(video: Tensor, by: float) -> Tensor:
    """Colours that drift away by so many of 255."""
    share = torch.linspace(0, 2 / 255 * by, len(video))[:, None, None, None]
    return (video + share * torch.tensor([1, -0.5, -1])[:, None, None]).clamp(-1, 1)


def compressed(video: Tensor, crf: int) -> Tensor:
    """Through H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in Video.of(video[None], 8.0).frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(io.BytesIO(file.getvalue())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return Video(np.stack(frames), 8.0).pixels[0]


DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness flickers": lambda v: ((v + 1) * (1 + 0.12 * drawn(len(v), 1, 1, 1)) - 1).clamp(-1, 1),
    "noise": lambda v: (v + drawn(*v.shape) * 40 / 255).clamp(-1, 1),
    "blur": lambda v: blurred(v, 3.0),
    "frames shake": lambda v: shaken(v, 2.0),
    "shuffled": lambda v: shuffled(v, 4),
    "colours drift": lambda v: tinted(v, 50),
    "H.264": lambda v: compressed(v, 30),
}
TOLERANCE = {
    "consistency_16": 0.03,
    "drift_end": 0.1,
    "steadiness": 0.01,
    "smoothness": 0.004,
    "smoothness_of_motion": 0.15,
    "warping_error": 2e-4,
    "detail": 0.004,
    "colour_drift": 1.0,
    "motion": 1.5,
}
MATRIX = {
    #                      c16  drift steady smooth s.o.m warp detail colour motion
    "brightness flickers": "-    ?     -      -      -     +    =      ?      ?",
    "noise":               "=    =     -      -      -     +    +      =      ?",
    "blur":                "=    =     >      >      =     <    -      =      =",
    "frames shake":        "-    =     -      -      -     >    ?      ?      +",
    "shuffled":            "=    ?     -      -      -     +    =      ?      +",
    "colours drift":       "-    +     =      =      =     =    =      +      =",
    "H.264":               "=    =     =      ?      ?     =    ?      =      =",
}  # fmt: skip
"""What a damage does to a measure: up, down, no more than its tolerance; `>`, `<`: a little, flattering the damaged video;
`?`: either. Consistency does not see noise; all that counts pixel differences is flattered by blur."""


def found(videos: list[Tensor]) -> dict[str, float]:
    """Measures of videos, averaged."""
    each = []
    for video in videos:
        series = follow([video])
        each.append(measures(series).scores() | {"detail": float(series.detail.mean())})
    return {name: sum(one[name] for one in each) / len(each) for name in TOLERANCE}


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    return [render(scene, range(16)) for scene in SCENES]


@pytest.fixture(scope="module")
def clean(clips) -> dict[str, float]:
    pytest.importorskip("cv2")
    return found(clips)


@pytest.mark.parametrize("damage", MATRIX)
def test_damage_moves_what_it_should(damage, clips, clean):
    worse = found([DAMAGE[damage](clip) for clip in clips])
    wrong = []
    for name, sign in zip(TOLERANCE, MATRIX[damage].split(), strict=True):
        by, least = worse[name] - clean[name], TOLERANCE[name]
        holds = {"+": by > least, "-": by < -least, "=": abs(by) <= least, ">": by > 0, "<": by < 0, "?": True}
        if not holds[sign]:
            wrong.append(f"{name}: {clean[name]:.5f} to {worse[name]:.5f}, expected {sign}")
    assert not wrong


def test_a_frozen_video_is_perfect_but_for_its_motion(clips, flow):
    said = measures(follow([clips[0][:1].expand(16, -1, -1, -1)]))
    assert (said.steadiness, said.smoothness, said.smoothness_of_motion) == pytest.approx((1, 1, 1), abs=1e-6)
    assert (said.consistency, said.consistency_16) == pytest.approx((1, 1), abs=1e-5)
    assert (said.drift_end, said.warping_error, said.hidden) == pytest.approx((0, 0, 0), abs=1e-5)
    assert (said.motion, said.dynamic_degree) == (0, 0)


# --- planted seams -----------------------------------------------------------------------------------------------

LENGTH, BORDER = 24, 12


def cut(scene: Scene, rest: Tensor) -> Tensor:
    return torch.cat([render(scene, range(BORDER)), rest])


def faded(scene: Scene) -> Tensor:
    """Into the same scene twenty frames later, by one mixed frame."""
    mixed = (render(scene, [BORDER]) + render(scene, [BORDER + 20])) / 2
    return cut(scene, torch.cat([mixed, render(scene, range(BORDER + 21, LENGTH + 20))]))


def darker(scene: Scene, by: float) -> Tensor:
    return cut(scene, (render(scene, range(BORDER, LENGTH)) + 1) * (1 - by) - 1)


SEAMS: dict[str, tuple[Callable[[Scene], Tensor], str]] = {
    "shifted by 8 pixels": (lambda s: cut(s, render(s, range(BORDER, LENGTH)).roll(8, 3)), "jerk"),
    "6 frames skipped": (lambda s: render(s, [*range(BORDER), *range(BORDER + 6, LENGTH + 6)]), "moved"),
    "crossfaded": (faded, "moved"),
    "darker by 6 %": (lambda s: darker(s, 0.06), "step"),
    "darker by 2 %": (lambda s: darker(s, 0.02), "step"),
}
"""A planted seam, and the signal that must find it."""


def z(series: Series, signal: str) -> float:
    return float(standing_out(getattr(series, signal), SIGNALS[signal])[BORDER])


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.motion)
@pytest.mark.parametrize("planted", SEAMS)
def test_a_planted_seam_is_found(planted, scene, flow):
    plant, signal = SEAMS[planted]
    series = follow([plant(scene)])
    assert z(series, signal) > 4
    assert int(seams(series).nan_to_num(0).argmax()) in (
        BORDER,
        BORDER + (planted == "crossfaded"),
    )  # into and out of it
    if "darker" in planted:
        assert z(series, "jerk") < 4
    said = measures(series, [BORDER])
    assert (said.seams, said.seam) == (1.0, pytest.approx(float(seams(series)[BORDER])))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.motion)
def test_where_nothing_is_planted_nothing_is_found(scene, flow):
    said = measures(follow([render(scene, range(LENGTH))]), [BORDER])
    assert (said.seams, said.turns) == (0, 0)
    assert said.jumps < 0.1


def test_motion_that_turns_round_shows_in_its_direction_alone(flow):
    back = range(BORDER - 2, 2 * BORDER - 2 - LENGTH, -1)
    series = follow([render(SCENES[0], [*range(BORDER), *back])])
    assert max(z(series, signal) for signal in ("change", "moved", "step")) < 4
    assert float(series.turn[BORDER]) < -0.5
    assert measures(series, [BORDER]).turns == 1.0


def test_standing_out_is_a_difference_in_deviations():
    signal = torch.ones(20)
    signal[0], signal[9] = torch.nan, 2
    z = standing_out(signal)
    assert bool(z[0].isnan())
    assert float(z[9]) == pytest.approx((2 - 1) / 0.05)
    assert float(z[3]) == 0
    # Where nothing moves, what nobody sees is no seam.
    still = torch.zeros(20)
    still[9] = 1e-4
    assert float(standing_out(still, 2e-4)[9]) == pytest.approx(0.5)
    # Deviations: neighbours 0 and 2 in turn have a median absolute deviation of 1 or so.
    restless = torch.tensor([0.0, 2.0] * 10)
    assert float(standing_out(restless)[6:-6].abs().max()) < 2


def test_a_rhythm_is_found_without_knowing_the_borders():
    generator = torch.Generator().manual_seed(3)
    jumps = torch.randn(300, generator=generator).abs()
    jumps[0] = torch.nan
    assert blind_period(jumps)[0] < 4
    planted = jumps.clone()
    planted[13::13] = 5.0
    rhythm, period = blind_period(planted)
    assert rhythm > 4
    assert period in (13, 26)
    once = jumps.clone()
    once[100:103] = 50.0
    assert blind_period(once)[0] < 4
    assert blind_period(torch.zeros(300)) == (0.0, 0)
    assert blind_period(jumps[:10]) == (0.0, 0)


def test_borders_are_read_from_the_recipe():
    def declared(name: str, frames: int, **more: object) -> dict[str, list[int]]:
        return borders({"recipe": recipes.plain(recipes.load(name)) | more}, frames)

    averaged = {"structure": [8, 16, 24, 32, 40], "refine": [12, 16, 24, 28, 32, 40]}
    assert declared("sprites-long", 48) == averaged, "where windows that are averaged begin or end"
    assert declared("sprites-long-paper", 48) == {"structure": [16, 32], "refine": [8, 24, 40]}
    assert declared("sprites-freenoise", 48) == {"structure": list(range(4, 48, 4)), "refine": [16, 32]}
    assert declared("sprites-reinjected", 48)["structure"] == [16, 28, 40]
    assert declared("sprites", 16) == {}
    assert borders({}, 16) == {}
    # Windows inside a denoiser.
    assert declared("sprites-story", 48) == averaged | {"structure": [8, 12, 16, 24, 28, 32, 40]}
    # Five latent frames are seventeen of the video: the first, and four times four.
    chain = [{"stage": "one", "window": 2, "denoise": {"expert": "a"}}]
    assert declared("sprites", 17, chain=chain, experts={"a": {"family": "wan"}}) == {"one": [5, 13]}
    # Behind a bridge there are other latents: seventeen of them, which are the frames.
    chain.append({"stage": "two", "window": 8, "denoise": {"framewise": {"expert": "b"}}, "bridge": "pixels"})
    experts = {"a": {"family": "wan"}, "b": {"family": "stable-diffusion"}}
    assert declared("sprites", 17, chain=chain, experts=experts) == {"one": [5, 13], "two": [8, 16]}


# --- frames that come in pieces ----------------------------------------------------------------------------------


def test_pieces_of_any_length_give_the_same_numbers(clips, flow):
    video = torch.cat([clips[0], clips[1][:5]])
    whole, pieces = follow([video]), follow([video[:1], video[1:4], video[4:19], video[19:]])
    for part in fields(Series):
        torch.testing.assert_close(
            getattr(whole, part.name), getattr(pieces, part.name), rtol=0, atol=0, equal_nan=True, msg=part.name
        )


def test_frames_are_let_go(flow):
    """However long a video is, no more than a few windows of it are in memory."""
    frame, living, most = render(SCENES[0], [0]), [], 0

    def pieces() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(8):
            piece = frame.repeat(16, 1, 1, 1)
            living.append(weakref.ref(piece.untyped_storage()))
            most = max(most, sum(ref() is not None for ref in living))
            yield piece
            del piece

    assert len(follow(pieces())) == 128
    assert most <= 3


def test_what_is_no_video_is_refused(flow):
    with pytest.raises(ValueError, match="f 3 h w"):
        list(windows([torch.zeros(2, 4, 8, 8)]))
    with pytest.raises(ValueError, match="two frames"):
        follow([torch.zeros(1, 3, 64, 64)])


def test_consistency_is_vbenchs_over_each_descriptor(clips, flow):
    expected = [pixel.consistency(part) for part in descriptors(clips[0])]
    assert measures(follow([clips[0]])).consistency == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_flow_says_where_things_went(flow):
    field = torch.nn.functional.avg_pool2d(drawn(1, 3, 130, 170), 5, 1) * 2
    before, after = field[:, :, 10:106, 30:126], field[:, :, 10:106, 26:122]
    there = flows(before, after)[0, :, 16:-16, 16:-16]
    assert float(there[0].median()) == pytest.approx(4, abs=0.2)
    assert float(there[1].median()) == pytest.approx(0, abs=0.2)
    shifted = fetched(after, torch.tensor([4.0, 0.0])[None, :, None, None].expand(1, 2, 96, 96))
    torch.testing.assert_close(shifted[..., :-4], before[..., :-4], rtol=0, atol=1e-4)


def test_flow_is_looked_for_at_one_size():
    assert fitted(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 128, 192)
    assert fitted(torch.zeros(1, 3, 200, 150)).shape == (1, 3, 200, 150)
    assert fitted(torch.zeros(1, 3, 600, 800)).shape == shrunk(torch.zeros(1, 3, 600, 800)).shape == (1, 3, 256, 341)
    assert shrunk(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def planted(frames: int, **given: Tensor) -> Series:
    """A series of a video that does nothing but what is given."""
    values = {f.name: torch.ones(frames) for f in fields(Series)} | {"colour": torch.zeros(frames, 3)}
    return Series(**(values | given))


def test_measures_are_what_their_names_say():
    line = 1 - torch.arange(100) / 1000
    said = measures(planted(100, first=line, contrast=torch.arange(100.0)))
    assert said.drift_per_100 == pytest.approx(0.1)
    assert said.drift_end == pytest.approx(0.092)
    assert said.contrast_drift == pytest.approx(85)
    # A window's first frame is compared with none before it.
    near = torch.ones(64)
    near[::16] = 0
    assert measures(planted(64, near=near)).consistency_16 == 1
    assert measures(planted(64, near=near)).consistency < 1
    # Of four windows two move, one of them in 5 of its 16 steps.
    speed = torch.zeros(64)
    speed[:16], speed[32:37], speed[48:51] = 7, 7, 7
    assert measures(planted(64, speed=speed)).dynamic_degree == 0.5
    assert measures(planted(64, speed=speed / 3), fps=24).dynamic_degree == 0.5
    step = torch.zeros(64)
    step[32], step[40] = 9, 9
    found = measures(planted(64, step=step), [16, 32, 48])
    assert found.seams == pytest.approx(1 / 3)
    assert found.jumps == pytest.approx(1 / (63 - 15))
    assert measures(planted(64)).seams is None


# --- what a sprite video keeps -----------------------------------------------------------------------------------

RED = imagine(Ask("solid", "red", "circle", "right", "black", "striped"), 3)


def test_a_render_keeps_all():
    said = kept([render(RED, range(32))], PROMPT, [16])
    ones = ("identity", "ground", "texture_kept", "motion_kept", "identity_whole", "ground_whole", "prompt", "presence")
    assert [said.scores()[name] for name in ones] == [1.0] * len(ones)
    assert said.motion_right == 1
    assert said.background_sd < 0.1
    assert said.lurch == pytest.approx(0, abs=0.1)
    assert said.leap == pytest.approx(0, abs=0.5)


def test_another_object_or_background_is_not_kept():
    other = replace(RED, colour="blue", motion="left", y=RED.y + 0.4)
    said = kept([render(RED, range(32)), render(other, range(16))], PROMPT, [32])
    assert (said.identity, said.identity_whole) == (pytest.approx(2 / 3), 0)
    assert (said.ground, said.ground_whole) == (1, 1)
    assert said.motion_right == pytest.approx(2 / 3)
    assert said.lurch > 2
    assert said.leap > 5
    slipped = replace(RED, background="teal", shift=(RED.shift + 0.25) % 1)
    said = kept([render(replace(RED, background="teal"), range(16)), render(slipped, range(16, 32))], "a red circle")
    assert (said.identity_whole, said.ground_whole, said.ground) == (1, 0, 0.5)
    assert said.background_moved > 5
    assert said.background_sd > 3
    assert said.motion_right is None


def test_a_lost_object_is_lost():
    video = render(RED, range(32))
    video[16:] = render(replace(RED, radius=-1.0), range(16))
    said = kept([video], PROMPT)
    assert (said.presence, said.identity, said.identity_whole) == (0.5, 0.5, 0)
    assert said.ground_whole == 1


def test_an_object_that_covers_a_place_is_no_background():
    ground = Ground()
    frames = render(RED, range(4))
    track = [(32 * (RED.x + RED.speed * f) + 32, 32 * RED.y + 32, 32 * RED.radius) for f in range(4)]
    ground.add(frames, track)
    assert ground.deviation() < 0.01
    ground.add(frames, [None] * 4)
    assert ground.deviation() > 0.01


@pytest.mark.parametrize("pattern", ["striped", "checkered"])
@pytest.mark.parametrize(
    ("background", "least", "most"), [("gray", 6, 30), ("orange", 6, 30), ("teal", 6, 30), ("black", 1, 2)]
)
def test_how_far_a_background_moves_that_slips_by_a_quarter(background, pattern, least, most):
    scene, ground = replace(RED, background=background, pattern=pattern), Ground()
    ground.add(render(scene, [0]), [(32.0, 32.0, 8.0)])
    ground.add(render(replace(scene, shift=scene.shift + 0.25), [0]), [(32.0, 32.0, 8.0)])
    assert ground.moved[0] == 0
    assert least < ground.moved[1] < most


def test_motion_is_carried_over_the_rim():
    track = [((2.0 * f) % 64, 10.0, 8.0) for f in range(40)]
    assert borne(track, [20, 32]) == (0, 0)
    stopped = [*track[:20], *[(38.0, 10.0, 8.0)] * 20]
    assert borne(stopped, [20]) == (2, 2)
    assert borne([None] * 40, [20]) == (None, None)


# --- files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video() -> Video:
    settings = recipes.plain(
        recipes.changed(recipes.load("sprites-long-paper"), {"prompt": PROMPT, "video.frames": 20})
    )
    return Video.of(render(RED, range(20))[None], 8.0, {"recipe": settings})


@pytest.mark.parametrize("name", ["a.npz", "a.mp4", "a.webp", "folder"])
def test_files_come_in_pieces_at_the_size_that_was_made(name, video, tmp_path):
    footage = Footage.of(video.save(tmp_path / name))
    assert footage.settings["recipe"]["prompt"] == PROMPT
    assert footage.fps == 8
    pieces = list(footage)
    assert len(pieces) > 1
    frames = torch.cat(pieces)
    assert frames.shape == video.pixels[0].shape
    off = (frames - video.pixels[0]).abs().mean()
    assert float(off) < (0.03 if name == "a.mp4" else 1e-6)
    assert torch.equal(torch.cat(list(footage)), frames)  # and again


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(OutputError, match="no video at"):
        Footage.of(tmp_path / "none.mp4")
    for name in ("broken.mp4", "broken.npz"):
        (tmp_path / name).write_bytes(b"no video")
        with pytest.raises(OutputError, match=f"{name} is no video that can be read"):
            Footage.of(tmp_path / name)


def test_whose_prompts_the_oracle_knows(video):
    assert shows_sprites(video.settings)
    assert not shows_sprites({})
    assert not shows_sprites({"recipe": recipes.plain(recipes.load("flowblending-wan21"))})


def evaluated(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["eval", *map(str, words)])
    return result.exit_code, result.output


def test_eval_prints_a_table_and_writes_numbers_and_a_picture(video, tmp_path, flow):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    video.save(one)
    Video(video.frames, 8.0).save(two)
    code, said = evaluated(one, two, "-o", tmp_path / "out")
    assert code == 0, said
    told = json.loads((tmp_path / "out" / "eval.json").read_text())
    first, second = told[str(one)], told[str(two)]
    assert first["borders"] == [8, 16]
    assert second["borders"] == []
    assert first["oracle"]["identity_whole"] == 1
    assert second["oracle"] is None
    assert len(first["curves"]["drift"]) == 20
    assert first["curves"]["stands_out"][0] is None
    assert "seam" not in second["measures"]
    row = next(line for line in said.splitlines() if line.startswith("steadiness"))
    assert row.split()[1:] == [f"{first['measures']['steadiness']:.4g}"] * 2
    for name in ("one.png", "two.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5000
        assert name in said
    assert "what this format loses" not in said
    video.save(tmp_path / "three.mp4")
    assert "three.mp4: what this format loses begins anew at each piece" in evaluated(
        tmp_path / "three.mp4", "-o", tmp_path / "out"
    )[1].replace("\n", " ")
    code, said = evaluated(two, "--segments", "5", "-o", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "eval.json").read_text())[str(two)]["borders"] == [5, 10, 15]


def test_one_video_that_the_oracle_cannot_read_costs_no_other_its_measures(video, tmp_path, flow):
    one, wide = tmp_path / "one.npz", tmp_path / "wide.npz"
    video.save(one)
    replace(video.resized(48, 64), settings=video.settings).save(wide)
    code, said = evaluated(wide, one, "-o", tmp_path / "out")
    assert code == 0, said
    assert "wide.npz: the oracle says nothing, the oracle got frames of 64 x 48 pixels" in said.replace("\n", " ")
    told = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert told[str(wide)]["oracle"] is None
    assert told[str(wide)]["measures"]
    assert told[str(one)]["oracle"]["identity_whole"] == 1


def test_of_a_run_s_folder_eval_says_where_its_frames_are(tmp_path, flow):
    (tmp_path / "a.run").mkdir()
    (tmp_path / "a.run" / "video.mp4").write_bytes(b"")
    code, said = evaluated(tmp_path / "a.run", "-o", tmp_path / "out")
    assert code == 1
    assert "it is a run's folder, whose frames are in" in said.replace("\n", " ")


def test_where_eval_cannot_write_it_says_so_before_it_measures(video, tmp_path, flow, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("dovetail.eval.report.evaluate", lambda *_: pytest.fail("it measured"))
    code, said = evaluated(video.save(tmp_path / "a.npz"), "-o", tmp_path / "taken")
    assert code == 1
    assert "cannot write to a folder" in said


def test_without_opencv_eval_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, said = evaluated(tmp_path / "any.mp4", "-o", tmp_path / "out")
    assert code == 1
    assert "pip install 'dovetail-video[eval]'" in said
    assert not Path(tmp_path / "out").exists()
    with pytest.raises(ExtraError, match="OpenCV"):
        flows(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
