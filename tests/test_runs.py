"""Runs in folders: what is kept, what is damaged, what is refused; and that the bytes are always the same."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dovetail import cli
from dovetail import recipe as recipes
from dovetail.errors import OutputError, RecipeError, RunWarning, StoryWarning
from dovetail.experts.halving import tiled
from dovetail.recipe import Recipe
from dovetail.run import (
    Cast,
    End,
    Look,
    Piece,
    Step,
    again,
    carry_on,
    continuing,
    decode,
    finished,
    folder_of,
    keep,
    load,
    play,
    resume,
    sealed,
)
from dovetail.run import folder as folders
from dovetail.run import keeping as kept_runs
from dovetail.run.folder import Folder, Origin, _brief
from dovetail.run.growing import grown
from dovetail.run.playing import ready
from dovetail.video import Video, read, settings_of

SMALL: dict[str, Any] = {f"experts.{name}.candidates": 8 for name in ("control", "spatial", "temporal")} | {
    "chain.structure.ladder.trailing.steps": 3,
    "chain.refine.ladder.below.steps": 2,
    "video.height": 32,
    "video.width": 32,
}


def small(frames: int = 40, **changes: object) -> Recipe:
    """A long recipe over exact experts; 40 frames come in three pieces."""
    return recipes.changed(recipes.load("sprites-long-exact"), SMALL | {"video.frames": frames} | changes)


AVERAGED: dict[str, Any] = {
    "chain.structure.hop": 8,
    "chain.structure.weights": "triangle",
    "chain.structure.noise": {"consistent": {"block": 8}},
    "chain.structure.denoise": "control",
}
"""Windows of the structure as `sprites-long` has them. They run ahead of what is finished."""

WINDOWS: dict[str, dict[str, Any]] = {
    "straddling": {},
    "averaged": AVERAGED
    | {"chain.structure.hold": {"within": 2.0, "objects": 1.0}, "chain.refine.hold": 1.0}
    | {"chain.refine.offset": 0, "chain.refine.hop": 12, "chain.refine.weights": "triangle"}
    | {"video.still": {"within": 3.0, "frames": 14}},
}
"""As `sprites-long-paper` has them, and as `sprites-long` does; the latter with finished frames held to more than come first."""


@pytest.fixture(autouse=True)
def as_small_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are quick."""
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 32)


@pytest.fixture(scope="module")
def cast() -> Cast:
    return load(small())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cast: Cast) -> Path:
    """A run that nobody disturbed: its video, with its folder beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dovetail.video.frames.SHOWN", 32)
        return done(tmp_path_factory.mktemp("whole") / "a.mp4", cast)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory, cast: Cast, whole: Path) -> dict[str, Path]:
    """Such runs by their windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dovetail.video.frames.SHOWN", 32)
        averaged = done(tmp_path_factory.mktemp("averaged") / "a.mp4", cast, small(**WINDOWS["averaged"]))
    return {"straddling": whole, "averaged": averaged}


def done(out: Path, cast: Cast, recipe: Recipe | None = None) -> Path:
    for _ in keep(recipe or small(), out, cast=cast):
        pass
    return out


def copied(whole: Path, to: Path) -> Path:
    """The same run, elsewhere."""
    shutil.copytree(folder_of(whole), folder_of(to / whole.name))
    shutil.copy(whole, to / whole.name)
    return to / whole.name


def same(out: Path, whole: Path) -> None:
    """The video and all that carries a checksum are, byte for byte, what they are without disturbance."""
    assert out.read_bytes() == whole.read_bytes()
    ours, theirs = folder_of(out), folder_of(whole)
    latents = sorted(f"latents/{path.name}" for path in (theirs / "latents").iterdir())
    for name in ["video.mp4", "recipe.yaml", "manifest.json", *latents]:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    identity = Folder(theirs).origin()
    assert identity is not None
    for number in range(len(latents)):
        one, other = (Folder(folder) for folder in (ours, theirs))
        if other.state(number).exists() and one.state(number).exists():
            mine, yours = (folder.standing(identity.identity, number) for folder in (one, other))
            assert (mine.steps, mine.calls, mine.frames) == (yours.steps, yours.calls, yours.frames)


# --- a run and its folder ----------------------------------------------------------------------------------------


def test_a_kept_run_makes_what_a_run_makes(tmp_path: Path, cast: Cast) -> None:
    out = tmp_path / "a.npz"
    events = list(keep(small(), out, cast=cast))
    plain = list(play(small(), cast))
    assert [event for event in events if isinstance(event, Step)] == [e for e in plain if isinstance(e, Step)]
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [(piece.first, len(piece.frames)) for piece in pieces] == [(0, 8), (8, 16), (24, 16)]
    video, end = finished(plain), events[-1]
    assert (read(out).frames == video.frames).all()
    assert isinstance(end, End)
    assert end.settings["calls"] == video.settings["calls"]
    assert set(end.settings) == set(video.settings)
    inside = settings_of(out)
    assert set(inside) == {"recipe", "versions", "calls", "compression"}, (
        "what is never the same stands beside, not inside"
    )
    assert json.loads((tmp_path / "a.npz.json").read_text()) == json.loads(json.dumps(dict(end.settings)))


def test_a_folder_says_what_made_it(whole: Path) -> None:
    folder = folder_of(whole)
    assert sorted(path.name for path in folder.iterdir()) == [
        *["latents", "lock", "log.jsonl", "manifest.json", "recipe.yaml", "states", "video.mp4"],
    ]
    said = json.loads((folder / "manifest.json").read_text())
    assert {"recipe", "versions", "weights", "device", "threads", "identity", "sha256"} <= said.keys()
    assert recipes.load(folder / "recipe.yaml") == recipes.checked(said["recipe"])
    assert (folder / said["output"]).resolve() == whole.resolve()
    events = [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert events == ["begun", "piece", "piece", "piece", "finished"]


def test_the_finished_video_is_as_all_others(whole: Path) -> None:
    data = whole.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    frames, growing = read(whole).frames, read(folder_of(whole) / "video.mp4").frames
    assert len(frames) == 40
    assert (frames == growing).all()
    assert settings_of(whole)["recipe"]["video"]["frames"] == 40
    with av.open(str(whole)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames, stream.start_time) == (8, 40, 0)
        assert float(stream.duration * stream.time_base) == 5
        times = sorted(float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size)
        assert times == pytest.approx([i / 8 for i in range(40)])


def test_the_growing_video_plays_however_it_is_cut(tmp_path: Path, whole: Path) -> None:
    film = folder_of(whole) / "video.mp4"
    data, frames = film.read_bytes(), read(film).frames
    ends = [grown_at(data, identity(whole), size, tmp_path).end for size in (len(data) - 1, len(data) // 2)]
    (tmp_path / "cut.mp4").write_bytes(data[: ends[0]])
    assert (read(tmp_path / "cut.mp4").frames == frames[:24]).all(), "two pieces of three"
    (tmp_path / "cut.mp4").write_bytes(data[: ends[0] + 700])
    shown = []
    with av.open(str(tmp_path / "cut.mp4")) as container, suppress(av.error.InvalidDataError):
        for frame in container.decode(video=0):  # a player shows what comes before the end
            shown.append(frame.to_ndarray(format="rgb24"))
    assert len(shown) >= 22, "but for those that wait in the decoder"
    assert (np.stack(shown) == frames[: len(shown)]).all(), "in the middle of a piece"


def test_the_commits_that_a_run_began_with_stay_and_decide_nothing(
    tmp_path: Path, whole: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of a run that was begun before they were written down."""
    began, now = ({"commits": {"some/model": digit * 40}} for digit in "12")
    monkeypatch.setattr(kept_runs, "sources", lambda recipe: began)
    out, manifest = tmp_path / "a.mp4", folder_of(tmp_path / "a.mp4") / "manifest.json"
    done(out, cast)
    assert out.read_bytes() == whole.read_bytes(), "they stand beside, not inside"
    monkeypatch.setattr(kept_runs, "sources", lambda recipe: now)
    for then in (began, {}):
        said = {key: value for key, value in sealed.read_json(manifest).items() if key != "commits"}
        manifest.write_bytes(sealed.sealed_json(said | then))
        out.unlink()
        list(resume(folder_of(out), cast))
        assert out.read_bytes() == whole.read_bytes()
        for file in (manifest, tmp_path / "a.mp4.json"):
            assert json.loads(file.read_text()).get("commits") == then.get("commits")


def identity(whole: Path) -> str:
    origin = Folder(folder_of(whole)).origin()
    assert origin is not None
    return origin.identity


def grown_at(data: bytes, run: str, size: int, folder: Path) -> Any:
    (folder / "part.mp4").write_bytes(data[:size])
    return grown(folder / "part.mp4", run)


def test_every_frame_of_a_piece_that_b_frames_reorder_is_in_its_place(tmp_path: Path, cast: Cast) -> None:
    """A scene that moves, so that the encoder reorders; read back it is near what was made."""
    out = done(tmp_path / "a.mp4", cast)
    lossless = finished(play(small(), cast)).frames
    assert np.abs(read(out).frames.astype(int) - lossless).mean() < 6
    with av.open(str(out)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        keys = sorted(packet.pts for packet in packets if packet.is_keyframe)
        assert len(keys) >= 3, "each piece begins anew"
        dts = [packet.dts for packet in packets]
        assert dts == sorted(set(dts))


def test_a_film_tells_every_change(tmp_path: Path, whole: Path) -> None:
    """A bit changed anywhere, or a cut anywhere: what is called whole is so."""
    data, run = (folder_of(whole) / "video.mp4").read_bytes(), identity(whole)
    ends = [0]
    for size in range(len(data) + 1):
        if size in (len(data),) or data[size : size + 4] == b"moof":
            found = grown_at(data, run, size if size == len(data) else size - 4, tmp_path)
            ends.append(found.end) if found.end > ends[-1] else None
    assert ends[-1] == len(data)
    assert len(ends) == 4
    assert grown_at(data, "another", len(data), tmp_path).pieces == 0
    for place in random.Random(0).sample(range(len(data)), 60):
        broken = data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :]
        pieces = sum(place >= end for end in ends[1:])
        if place < ends[1] and b"moof" not in data[:place]:
            pieces = 0
        assert grown_at(broken, run, len(data), tmp_path).pieces == pieces, place


# --- stopped and gone on with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 4, 5, 9, 10, 14, 15, 16])
def test_a_run_that_is_left_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, whole: Path, cast: Cast, stop: int
) -> None:
    out = tmp_path / "a.mp4"
    events = keep(small(), out, cast=cast)
    for _ in range(stop):
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert not out.exists()
    list(resume(folder_of(out), cast))
    same(out, whole)


def test_what_is_finished_is_not_made_again(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out = copied(whole, tmp_path)
    out.unlink()
    assert [type(event) for event in keep(small(), out, cast=cast)] == [End]
    same(out, whole)
    (folder_of(out) / "latents" / "00002.safetensors").unlink()
    events = list(resume(folder_of(out), cast))
    assert {event.stage for event in events if isinstance(event, Step)} == {"structure", "refine"}
    assert sum(isinstance(event, Step) for event in events) == 3 + 2, "one segment and one window"
    assert [event.segment for event in events if isinstance(event, Step)] == [3] * 5
    same(out, whole)


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGES = {"changed": flipped, "cut": lambda data: data[: len(data) // 2], "emptied": lambda data: b""}


@pytest.mark.parametrize(
    ("windows", "damage"),
    [*(("straddling", damage) for damage in (*DAMAGES, "removed")), ("averaged", "changed"), ("averaged", "removed")],
)
def test_what_is_damaged_is_made_again_and_never_trusted(
    tmp_path: Path, wholes: dict[str, Path], cast: Cast, windows: str, damage: str
) -> None:
    whole = wholes[windows]
    names = sorted(str(p.relative_to(folder_of(whole))) for p in folder_of(whole).rglob("*") if p.is_file())
    assert {"lock", "log.jsonl", "manifest.json", "recipe.yaml", "video.mp4", "latents/00000.safetensors"} < set(names)
    assert sum(name.startswith("states/") for name in names) >= 2
    for i, name in enumerate(names):
        (tmp_path / str(i)).mkdir()
        out = copied(whole, tmp_path / str(i))
        hurt(folder_of(out) / name, damage)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(resume(folder_of(out), cast))
        same(out, whole)
        told = [str(one.message) for one in caught if issubclass(one.category, RunWarning)]
        # What is not there is simply made; the video is cut where it is not whole. A log and a lock tell people.
        assert bool(told) == (name.endswith("safetensors") and damage != "removed"), (name, told)


def hurt(path: Path, damage: str) -> None:
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))


def test_a_run_whose_video_goes_elsewhere_says_so(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out, other = copied(whole, tmp_path), tmp_path / "b.npz"
    with pytest.warns(RunWarning, match=rf"made {out} until now, and makes {other}"):
        list(keep(small(), other, folder_of(out), cast))
    assert Folder(folder_of(out)).target == other


def test_what_others_leave_in_the_folder_is_let_be(tmp_path: Path, whole: Path, cast: Cast) -> None:
    """Copies of a file system's own, and lines of a log that no run wrote."""
    out = copied(whole, tmp_path)
    strange = folder_of(out) / "states" / "._00001.safetensors"
    strange.write_bytes(b"not ours")
    with (folder_of(out) / "log.jsonl").open("a") as log:
        log.write('5\n{"event": "less at once"}\n{"event": "less at once", "what": "no"}\n')
    hurt(folder_of(out) / "latents" / "00002.safetensors", "removed")
    list(resume(folder_of(out), cast))
    same(out, whole)
    assert strange.read_bytes() == b"not ours"


def test_with_nothing_to_go_on_from_it_is_made_from_the_start(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out = copied(whole, tmp_path)
    for name in ["latents/00001.safetensors", "states/00001.safetensors", "states/00002.safetensors", "video.mp4"]:
        hurt(folder_of(out) / name, "changed")
    shutil.rmtree(folder_of(out) / "states")
    with pytest.warns(RunWarning, match=r"a.run: latents/00001.safetensors: its checksum is another; it is made again"):
        list(resume(folder_of(out), cast))
    same(out, whole)


def test_without_manifest_and_recipe_the_command_that_began_it_goes_on(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out = copied(whole, tmp_path)
    for name in ("manifest.json", "recipe.yaml"):
        hurt(folder_of(out) / name, "cut")
    with pytest.raises(OutputError, match=r"manifest.json and recipe.yaml are both damaged.*goes on with it"):
        list(resume(folder_of(out), cast))
    assert [type(event) for event in keep(small(), out, cast=cast)] == [End]
    same(out, whole)
    hurt(folder_of(out) / "manifest.json", "removed")
    hurt(folder_of(out) / "recipe.yaml", "removed")
    with pytest.raises(
        OutputError, match=r"no manifest that can be read, and latents/00000.safetensors is of a run of"
    ):
        list(keep(small(**{"video.seed": 3}), out, cast=cast))


# --- refused -----------------------------------------------------------------------------------------------------


def test_a_folder_of_another_run_is_refused_with_the_reason(
    tmp_path: Path, whole: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(whole, tmp_path)
    before = {path: path.read_bytes() for path in folder_of(out).rglob("*") if path.is_file()}
    changes: dict[str, object] = {"video.seed": 3, "chain.refine.ladder.below.timestep": 90}
    with pytest.raises(OutputError) as caught:
        list(keep(small(**changes), out, cast=cast))
    assert "recipe.video.seed is 0 there, 3 here" in str(caught.value)
    assert "recipe.chain.refine.ladder.below.timestep is 100 there, 90 here" in str(caught.value)
    now = json.loads((folder_of(out) / "manifest.json").read_text())["versions"]
    for name, value, says in (
        ("versions", lambda: {**now, "torch": "9.9"}, r"versions.torch is \"\S+\" there, \"9.9\" here"),
        ("weights_of", lambda cast: {"codec": "ab"}, r"weights.codec is null there, \"ab\" here"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kept_runs, name, value)
            with pytest.raises(OutputError, match=says):
                list(resume(folder_of(out), cast))
    with pytest.raises(OutputError, match="no run at"):
        list(resume(tmp_path / "none.run", cast))
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="is no run, or one whose"):
        list(resume(tmp_path / "mine", cast))
    after = {path: path.read_bytes() for path in folder_of(out).rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.name != "lock"} == {
        path: data for path, data in before.items() if path.name != "lock"
    }


def test_long_values_are_shown_where_they_differ(tmp_path: Path, whole: Path, cast: Cast) -> None:
    there, here = _brief([*range(40), 7], [*range(40), 8])
    assert (there[:3], there[-8:], here[-8:]) == ("...", "38, 39, 7]"[-8:], "38, 39, 8]"[-8:])
    assert max(len(there), len(here)) <= 60
    there, here = _brief("a" * 100 + "b" * 100, "a" * 100 + "c" * 100)
    assert there != here
    assert _brief(1, None) == ("1", "null")
    there, here = _brief([1] * 40, [1] * 41)
    assert there != here, "where one is the beginning of the other"


def test_a_run_s_threads_are_its_own(tmp_path: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on with as many as it began with, and between its events there are the caller's."""
    begun = keep(small(), tmp_path / "a.npz", cast=cast)
    next(begun)
    begun.close()
    manifest = folder_of(tmp_path / "a.npz") / "manifest.json"
    assert json.loads(manifest.read_text())["threads"] == 1
    within, between, made = [], [], kept_runs.ready
    monkeypatch.setattr(
        kept_runs, "ready", lambda *args, **more: within.append(torch.get_num_threads()) or made(*args, **more)
    )
    torch.set_num_threads(2)
    try:
        for _ in resume(folder_of(tmp_path / "a.npz"), cast):
            between.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(1)
    assert (within, set(between)) == ([1], {2})


@pytest.mark.parametrize(
    "names", [["notes.txt"], ["lock"], ["manifest.json", "recipe.yaml", "video.mp4"], ["log.jsonl"]]
)
def test_a_folder_that_is_no_runs_stays_as_it_is(tmp_path: Path, cast: Cast, names: list[str]) -> None:
    """Whatever the names in it: what a run wrote is sealed."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in names:
        (mine / name).write_text("precious")
    with pytest.raises(OutputError, match=rf"mine is no folder of a run: there is {names[0]} in it"):
        list(keep(small(), tmp_path / "b.mp4", mine, cast))
    assert {path.name: path.read_text() for path in mine.iterdir()} == dict.fromkeys(names, "precious")


def test_a_folder_of_another_version_says_so_though_its_recipe_is_not_known(
    tmp_path: Path, whole: Path, cast: Cast
) -> None:
    out = copied(whole, tmp_path)
    manifest = folder_of(out) / "manifest.json"
    said = sealed.read_json(manifest)
    said["recipe"]["of tomorrow"] = 1
    manifest.write_bytes(sealed.sealed_json(said))
    with pytest.raises(RecipeError, match="of tomorrow"):
        list(resume(folder_of(out), cast))
    said["versions"]["dovetail"] = "9.9"
    manifest.write_bytes(sealed.sealed_json(said))
    with pytest.raises(OutputError, match=r"a run of another version, whose recipe .* it was begun by dovetail 9\.9"):
        list(resume(folder_of(out), cast))


def test_a_lock_that_was_let_go_between_opening_and_taking_it_is_not_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that did not begin leaves, and takes the file with it, just after another has opened that."""
    folder, taken = Folder(tmp_path / "a.run"), folders._taken
    folder.path.mkdir()

    def slowly(file: IO[str]) -> bool:
        monkeypatch.setattr(folders, "_taken", taken)
        (folder.path / "lock").unlink()
        return taken(file)

    monkeypatch.setattr(folders, "_taken", slowly)
    with folder.locked(), pytest.raises(OutputError, match="another process is at work"), folder.locked():
        pass


def test_a_disk_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    with (
        pytest.raises(OutputError, match=r"cannot lock .*some disks of a network know no locks"),
        Folder(tmp_path).locked(),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_do_not_work_in_one_folder(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out = tmp_path / "a.mp4"
    first = keep(small(), out, cast=cast)
    next(first)
    with pytest.raises(OutputError, match=rf"another process is at work in .*a.run \(process {os.getpid()} on "):
        next(keep(small(), out, cast=cast))
    with pytest.raises(OutputError, match="another process is at work"):
        next(resume(folder_of(out), cast))
    said = refused_elsewhere(out, cast)
    assert said.startswith(f"another process is at work in {folder_of(out)} (process {os.getpid()} on "), said
    list(first)
    same(out, whole)


def refused_elsewhere(out: Path, cast: Cast) -> str:
    """What a process of its own is told that would make the run as well."""
    ours, theirs = get_context("fork").Pipe()

    def work() -> None:
        try:
            next(keep(small(), out, cast=cast))
            theirs.send("it was let in")
        except OutputError as error:
            theirs.send(str(error))

    process = get_context("fork").Process(target=work)
    process.start()
    said = ours.recv() if ours.poll(60) else "it says nothing"
    process.kill()
    process.join()
    return str(said)


def test_a_folder_is_not_left_behind_by_what_did_not_begin(
    tmp_path: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    with monkeypatch.context() as patch:
        patch.setattr(kept_runs.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(
            OutputError, match=r"about \S+ MB are needed for this run and 0 MB are free there; make room"
        ):
            list(keep(small(), tmp_path / "a.mp4", cast=cast))
    assert not list(tmp_path.iterdir())


def test_room_is_asked_for_where_the_video_goes_too(
    tmp_path: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another disk, perhaps; and pixels need more than an .mp4."""
    run = ready(small(), cast)
    pixels = 40 * 32 * 32 * 3
    sizes = {suffix: kept_runs._written(run, tmp_path / f"a{suffix}") for suffix in (".mp4", ".npz", ".gif", "")}
    assert sizes == {".mp4": kept_runs._filmed(run), ".npz": 2 * pixels, ".gif": pixels, "": pixels}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    usage = shutil.disk_usage(tmp_path)
    small_disk, stat = usage._replace(free=10_000), Path.stat

    def of_disks(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        return os.stat_result([*found[:2], found.st_dev + (path == elsewhere), *found[3:10]])

    with monkeypatch.context() as patch:
        patch.setattr(kept_runs.shutil, "disk_usage", lambda path: small_disk if path == elsewhere else usage)
        patch.setattr(Path, "stat", of_disks)
        with pytest.raises(
            OutputError, match=r"elsewhere: about 0 MB are needed .* take another place \(-o or --run\)"
        ):
            list(keep(small(), elsewhere / "a.npz", tmp_path / "a.run", cast))


# --- a full disk -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [1, 3, 4, 6, 8, 9])
def test_a_full_disk_ends_with_a_clear_error_and_a_run_that_goes_on(
    tmp_path: Path, whole: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Of the writes manifest, recipe, then latent, state and film of each piece, one finds no room."""
    out, calls, fsync = tmp_path / "a.mp4", [0], os.fsync

    def full(handle: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            calls[0] += 1
            if calls[0] == write:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(sealed.os, "fsync", full)
        said = rf"the disk is full \(\S+ MB free\): cannot write .* `dovetail resume {re.escape(str(folder_of(out)))}`"
        with pytest.raises(OutputError, match=said):
            list(keep(small(), out, cast=cast))
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part")), "what was half written does not take up room"
    list(keep(small(), out, cast=cast))
    same(out, whole)


def test_a_limit_on_the_size_of_files_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.run" / "latents" / "00000.safetensors"
    said = str(sealed.unwritten(path, OSError(errno.EFBIG, "File too large")))
    assert "a file here may be no larger" in said
    assert said.endswith(f"then go on with `dovetail resume {tmp_path / 'a.run'}`")


def test_a_folder_that_was_moved_writes_over_nothing_that_is_not_its_own(
    tmp_path: Path, whole: Path, cast: Cast
) -> None:
    """Its video goes to the same place as seen from the folder, which is another place then."""
    begun, moved = tmp_path / "runs" / "z.run", tmp_path / "runs" / "deep" / "z.run"
    list(keep(small(), tmp_path / "z.mp4", begun, cast))
    moved.parent.mkdir()
    shutil.move(begun, moved)
    other = tmp_path / "runs" / "z.mp4"
    other.write_bytes(b"a film of last summer")
    with pytest.raises(
        OutputError, match=r"was moved here from .*runs/z\.run, so its video goes to .*z\.mp4, and what stands"
    ):
        list(resume(moved, cast))
    assert other.read_bytes() == b"a film of last summer"
    other.unlink()
    for _ in range(2):  # and again over its own
        list(resume(moved, cast))
        assert other.read_bytes() == whole.read_bytes()


def test_a_finished_run_writes_over_no_other_video(tmp_path: Path, cast: Cast) -> None:
    """Another may have taken its name since, as a clip that comes in one piece replaces an older one."""
    out = tmp_path / "a.npz"
    list(keep(small(), out, cast=cast))
    list(resume(folder_of(out), cast))
    later = Video(np.zeros((2, 16, 16, 3), np.uint8), 8.0, {"recipe": {"prompt": "another"}}).save(out)
    with pytest.raises(
        OutputError, match=r"a\.run is finished, and its video goes to .*a\.npz, and what stands there is not"
    ):
        list(resume(folder_of(out), cast))
    assert len(read(later).frames) == 2


def test_decoding_does_not_write_over_the_run_s_own_video(whole: Path) -> None:
    with pytest.raises(OutputError, match=r"is the run's own video, which `dovetail resume` writes; take another name"):
        list(decode(folder_of(whole), whole))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with little room, where a test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only a superuser mounts a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(
    tmp_path: Path, tiny_disk: Path, whole: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_runs, "room", lambda run: 0)
    out, ballast = tiny_disk / "a.mp4", tiny_disk / "ballast"
    for size in (120_000, 90_000, 60_000, 30_000):
        ballast.write_bytes(bytes(size))
        with pytest.raises(OutputError, match=r"No space left|the disk is full"):
            list(keep(small(), out, cast=cast))
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", tiny_disk], check=True)
    list(keep(small(), out, cast=cast))
    same(out, whole)


# --- killed ------------------------------------------------------------------------------------------------------


def child(out: Path, recipe: Recipe, cast: Cast) -> Any:
    """A process of its own that makes the run."""

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            list(keep(recipe, out, cast=cast))

    process = get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, cast: Cast, seed: int, windows: str
) -> None:
    """kill -9 at 40 moments of runs of 200 frames, and of the runs that go on with them."""
    recipe, drawn, kills, rounds = small(200, **WINDOWS[windows]), random.Random(seed), 0, 0
    begun = time.perf_counter()
    quiet = tmp_path / "quiet.mp4"
    process = child(quiet, recipe, cast)
    process.join()
    seconds = time.perf_counter() - begun
    moments = []
    while kills < 40:
        out = tmp_path / f"{rounds}.mp4"
        rounds += 1
        for _ in range(8):
            process = child(out, recipe, cast)
            process.join(drawn.uniform(0, 0.6 * seconds))
            if not process.is_alive():
                seconds *= 0.7  # the machine is less busy than it was
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            folder = folder_of(out)
            moments.append(len(list(folder.glob("latents/*.safetensors"))))
        process = child(out, recipe, cast)
        process.join()
        assert process.exitcode == 0
        assert out.read_bytes() == quiet.read_bytes()
        assert (folder_of(out) / "video.mp4").read_bytes() == (folder_of(quiet) / "video.mp4").read_bytes()
    assert len(set(moments)) > 4, "they fell on different pieces"


# --- decoded again -----------------------------------------------------------------------------------------------


def test_decoding_again_gives_the_same_frames_or_what_is_asked_for(tmp_path: Path, whole: Path, cast: Cast) -> None:
    folder, frames = folder_of(whole), finished(play(small(), cast)).frames
    pieces = list(decode(folder, tmp_path / "a.npz"))
    assert [len(piece) for piece in pieces] == [8, 16, 16]
    assert (read(tmp_path / "a.npz").frames == frames).all()
    list(decode(folder, tmp_path / "b.npz", Look(fps=12.0, height=16, width=24, tiles=8)))
    other = read(tmp_path / "b.npz")
    assert (other.fps, other.size) == (12.0, (16, 24))
    assert settings_of(tmp_path / "b.npz")["decoded"] == {"fps": 12.0, "height": 16, "width": 24, "tiles": 8}
    for crf in (10, 40):
        list(decode(folder, tmp_path / f"{crf}.mp4", Look(crf=crf)))
    assert (tmp_path / "40.mp4").stat().st_size < (tmp_path / "10.mp4").stat().st_size
    with pytest.raises(OutputError, match=r"crf is said of \.mp4"):
        list(decode(folder, tmp_path / "c.npz", Look(crf=20)))
    for look, says in (
        ({"tiles": 2}, "tiles is 4 to 9999, not 2"),
        ({"height": 0}, "height is 1 to"),
        ({"width": -5}, "width is 1 to"),
        ({"crf": 99}, "crf is 0 to 51, not 99"),
    ):
        with pytest.raises(RecipeError, match=says):
            Look(**look)


def test_a_size_that_is_asked_for_is_the_file_s(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures are enlarged in what is played, where no size is asked for."""
    folder = folder_of(whole)
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 384)
    for suffix in (".mp4", ".gif", ".webp"):
        list(decode(folder, tmp_path / f"a{suffix}", Look(height=48, width=96)))
        assert read(tmp_path / f"a{suffix}").size == (48, 96)
    list(decode(folder, tmp_path / "b.mp4"))
    assert read(tmp_path / "b.mp4").size == (384, 384)
    with pytest.raises(RecipeError, match=r"the sides of an \.mp4 are even, not 7 x None"):
        list(decode(folder, tmp_path / "c.mp4", Look(width=7)))


def test_decoding_does_not_replace_the_video_that_grows(tmp_path: Path, whole: Path) -> None:
    out = copied(whole, tmp_path)
    before = Folder(folder_of(out)).video.read_bytes()
    with pytest.raises(OutputError, match="it lies in the folder of a run"):
        list(decode(folder_of(out), Folder(folder_of(out)).video))
    assert Folder(folder_of(out)).video.read_bytes() == before


def test_no_video_is_written_into_the_folder_of_a_run(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out, said = copied(whole, tmp_path), "it lies in the folder of a run"
    held, new = folder_of(out), tmp_path / "new"
    for target in (new, new / "latents", new / "deep" / "a.mp4"):
        with pytest.raises(OutputError, match=said):
            list(keep(small(), target, new, cast))
        assert "it lies in the folder of a run" in command(
            "generate", "a red circle", "-o", target, "--run", new, code=1
        )
    assert not new.exists()
    recipe = continuing(held, frames=16)
    for target in (held / "longer.mp4", new / "longer.mp4"):
        with pytest.raises(OutputError, match=said):
            list(carry_on(held, recipe, target, new, cast))
    same(out, whole)


def test_an_unfinished_run_is_decoded_as_far_as_it_is(tmp_path: Path, cast: Cast) -> None:
    out = tmp_path / "a.mp4"
    events = keep(small(), out, cast=cast)
    while not isinstance(next(events), Piece):
        pass
    with pytest.warns(
        RunWarning, match="is not finished: of 40 frames 8 are there; `dovetail resume` makes the others"
    ):
        list(decode(folder_of(out), tmp_path / "b.npz"))
    assert len(read(tmp_path / "b.npz").frames) == 8
    hurt(folder_of(out) / "latents" / "00000.safetensors", "changed")
    with pytest.raises(OutputError, match=r"its checksum is another; `dovetail resume` makes it again"):
        list(decode(folder_of(out), tmp_path / "c.npz"))
    hurt(folder_of(out) / "latents" / "00000.safetensors", "removed")
    with pytest.raises(OutputError, match="no finished piece"):
        list(decode(folder_of(out), tmp_path / "c.npz"))
    assert not (tmp_path / "c.npz").exists()


def test_decoding_needs_all_latents_and_no_state(tmp_path: Path, whole: Path, cast: Cast) -> None:
    """A state says how often experts were asked; of a run under way states come and go."""
    out = copied(whole, tmp_path)
    shutil.rmtree(folder_of(out) / "states")
    list(decode(folder_of(out), tmp_path / "b.npz"))
    assert (read(tmp_path / "b.npz").frames == finished(play(small(), cast)).frames).all()
    assert settings_of(tmp_path / "b.npz")["calls"] == {}
    hurt(folder_of(out) / "latents" / "00001.safetensors", "removed")
    with pytest.raises(OutputError, match=r"latents/00001.safetensors is not there; `dovetail resume` makes it again"):
        list(decode(folder_of(out), tmp_path / "c.npz"))


def test_tiles_of_a_codec_that_looks_nowhere_else_are_the_whole(cast: Cast) -> None:
    latent = torch.randn(1, 3, 2, 16, 21)
    for size in (5, 8, 40):
        torch.testing.assert_close(tiled(cast.codec.decode, latent, size, cast.codec.factor), cast.codec.decode(latent))


# --- continued ---------------------------------------------------------------------------------------------------


def test_a_run_continued_is_the_longer_run(tmp_path: Path, cast: Cast) -> None:
    """Of whole segments nothing hangs on where the first run ended, so both ways lead to one video."""
    first = done(tmp_path / "first.mp4", cast, small(32))
    recipe = continuing(folder_of(first), frames=24)
    assert recipe.video.frames == 56
    events = list(carry_on(folder_of(first), recipe, tmp_path / "more.npz", cast=cast))
    assert [event.first for event in events if isinstance(event, Piece)] == [0, 8, 24, 40]
    assert sum(isinstance(event, Step) for event in events) == 2 * 3 + 3 * 2 - 2, "the first pieces are given"
    assert (read(tmp_path / "more.npz").frames == finished(play(small(56), cast)).frames).all()


def test_the_same_segment_before_with_strategies_on_and_off(tmp_path: Path) -> None:
    """The paper's Figure 5, with experts that know more scenes than one."""
    many = small(32, **{f"experts.{name}.candidates": 64 for name in ("control", "spatial", "temporal")})
    cast = load(many)
    first = done(tmp_path / "first.mp4", cast, many)
    made = {}
    off = {"chain.structure.denoise.coherent.strength": 0.0, "chain.structure.noise.consistent.strength": 0.0}
    for name, changes in {"on": {}, "off": off}.items():
        recipe = continuing(folder_of(first), overrides=changes)
        assert recipe.video.frames == 48, "one segment more"
        list(carry_on(folder_of(first), recipe, tmp_path / f"{name}.npz", cast=cast))
        made[name] = read(tmp_path / f"{name}.npz").frames
    with pytest.raises(OutputError, match=r"given.pieces is 2 there, null here"):  # not the run of that recipe alone
        list(keep(continuing(folder_of(first)), tmp_path / "on.npz", cast=cast))
    given = json.loads((tmp_path / "on.run" / "manifest.json").read_text())["given"]
    assert given["pieces"] == 2
    assert (made["on"][:24] == made["off"][:24]).all()
    assert not (made["on"][32:] == made["off"][32:]).all()


def test_a_run_of_averaged_windows_is_continued(tmp_path: Path, cast: Cast) -> None:
    first = done(tmp_path / "first.mp4", cast, small(96, **AVERAGED))
    kept = sorted(int(path.stem) for path in (folder_of(first) / "states").iterdir())
    assert kept == [3, 5, 6], "the last two, and the one to continue from"
    longer = continuing(folder_of(first), frames=16)
    said = r"of the 96 frames of .*first\.run the first 56 are kept as they are\. Those behind them are made anew: windows that"
    with pytest.warns(RunWarning, match=said):
        list(carry_on(folder_of(first), longer, tmp_path / "more.npz", cast=cast))
    other = continuing(folder_of(first), "a blue ring", frames=16, seed=9)
    was = small().prompt
    assert continuing(folder_of(first), was, frames=16).story is None, "nothing else is told"
    assert [(span.start, span.stop, span.text) for span in other.spans()] == [(0, 96, was), (96, 112, "a blue ring")]
    alone = pytest.warns(StoryWarning, match="the events share no text")
    with alone, pytest.warns(RunWarning, match=r"are made anew, with another seed: windows"):
        next(events := carry_on(folder_of(first), other, tmp_path / "other.npz", cast=cast))
    events.close()  # type: ignore[attr-defined]
    whole = finished(play(small(112, **AVERAGED), cast))
    assert (read(tmp_path / "more.npz").frames == whole.frames).all()
    given = json.loads((tmp_path / "more.run" / "manifest.json").read_text())["given"]
    assert given["pieces"] >= 1
    short = folder_of(done(tmp_path / "short.mp4", cast, small(24, **AVERAGED)))
    with pytest.raises(
        RecipeError, match=r"takes some 48 frames for that, since windows that overlap run ahead.*--frames"
    ):
        list(carry_on(short, continuing(short), tmp_path / "c.mp4", cast=cast))


def test_a_continued_run_is_stopped_damaged_and_gone_on_with_as_others(tmp_path: Path, cast: Cast) -> None:
    first = done(tmp_path / "first.mp4", cast, small(32))
    recipe = continuing(folder_of(first), "a blue circle", seed=3)
    list(carry_on(folder_of(first), recipe, tmp_path / "quiet.mp4", cast=cast))
    out = tmp_path / "a.mp4"
    events = carry_on(folder_of(first), recipe, out, cast=cast)
    next(events)
    events.close()  # type: ignore[attr-defined]
    list(carry_on(folder_of(first), recipe, out, cast=cast))
    assert out.read_bytes() == (tmp_path / "quiet.mp4").read_bytes()
    hurt(folder_of(out) / "latents" / "00001.safetensors", "changed")
    with pytest.warns(RunWarning), pytest.raises(OutputError, match="piece 1 was given by another run and is damaged"):
        list(resume(folder_of(out), cast))


def test_what_cannot_be_continued_says_why(tmp_path: Path, cast: Cast) -> None:
    plain = small(32, **{"chain.structure.denoise": "control"})
    first = folder_of(done(tmp_path / "first.mp4", cast, plain))
    coherent = {"chain.structure.denoise": {"coherent": {"of": "control", "strength": 0.1}}}
    for changes, says in (
        ({"chain.refine.offset": 4}, r"chain.refine.offset: a run goes on with what is half made.*: 8, not 4"),
        ({"video.height": 64}, "video.height: a run goes on"),
        (coherent, r"chain.structure: it goes by the segment before .* kept no states.*strength 0"),
    ):
        with pytest.raises(RecipeError, match=says):
            list(carry_on(first, continuing(first, overrides=changes), tmp_path / "b.mp4", cast=cast))
    held = small(48, **WINDOWS["averaged"])
    colours = folder_of(done(tmp_path / "held.mp4", cast, held))
    for hold, says in (({"within": 2.0}, " and places"), ({"within": 2.0, "objects": 1.0}, ", places and objects")):
        again = continuing(colours, overrides={"chain.refine.hold": hold})
        with pytest.raises(RecipeError, match=rf'chain.refine.hold: .*: "colours", not "colours{says}"'):
            list(carry_on(colours, again, tmp_path / "b.mp4", cast=cast))
    assert not (tmp_path / "b.run").exists()
    with pytest.raises(OutputError, match="is continued in a folder of its own"):
        list(carry_on(first, continuing(first), tmp_path / "first.mp4", cast=cast))
    single = folder_of(done(tmp_path / "short.mp4", cast, small(12)))
    with pytest.raises(RecipeError, match=r"no piece that is far enough from its end.* takes some 32 frames for that"):
        list(carry_on(single, continuing(single), tmp_path / "c.mp4", cast=cast))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"overrides": ["video.frames=96"]}, "video.frames: a run goes on by so many frames or seconds"),
        ({"frames": 0}, "frames: 0 came; a run goes on by 1 or more"),
        ({"frames": -8}, "frames: -8 came"),
        ({"seconds": 0.0}, "seconds: 0 came; what fits is a number greater than 0"),
        ({"seconds": -1.0}, "seconds: -1 came"),
        ({"seconds": float("inf")}, "seconds: inf came"),
        ({"seconds": float("nan")}, "seconds: nan came"),
    ],
)
def test_a_run_goes_on_by_something(whole: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        continuing(folder_of(whole), **more)


def test_a_run_goes_on_by_frames_that_its_codec_makes(tmp_path: Path) -> None:
    """Windows are of latent frames, and seconds need not be of 4k + 1 frames."""
    changes = {"chain.video.denoise": "base", "chain.video.window": 13, "video.frames": 97}
    recipe = recipes.changed(recipes.load("syncos-cogvideox-2b"), changes)
    Folder(tmp_path).write(Origin(recipes.plain(recipe), {}, {}), tmp_path / "a.mp4", {})
    assert continuing(tmp_path).video.frames == 97 + 4 * 13
    assert continuing(tmp_path, seconds=1.25).video.frames == 97 + 12, "10 frames are not 4k"


# --- commands ----------------------------------------------------------------------------------------------------

WORDS = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]


def command(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_commands_make_resume_decode_and_continue_a_run(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "a.mp4"
    long = ["generate", "-r", "sprites-long-exact", *WORDS, "--frames", 40, "-o", out]
    said = command(*long, "--preview")
    assert said.startswith("calls: control 9, spatial 12, temporal 6 · ")
    same(out, whole)
    with Image.open(tmp_path / "a-preview.png") as picture:
        assert picture.size == (8 * 34, 2 * 34), "frames from the whole above, of the newest piece below"
        shown = np.asarray(picture).astype(int)
    film = Folder(tmp_path / "a.run").video
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 3 // 4])
    command("resume", tmp_path / "a.run", "--preview")
    same(out, whole)
    with Image.open(tmp_path / "a-preview.png") as picture:
        off = abs(np.asarray(picture) - shown)[:34].reshape(34, 8, 34, 3).mean((0, 2, 3))
        assert off.max() < 6, "what was filmed before it stopped is there too, frame by frame"
    (tmp_path / "a-preview.png").unlink()
    command("resume", tmp_path / "a.run", "--preview")
    with Image.open(tmp_path / "a-preview.png") as picture:
        assert picture.size == (8 * 34, 2 * 34), "of a run that is finished, too"
    out.unlink()
    (tmp_path / "a.run" / "latents" / "00002.safetensors").unlink()
    assert command("resume", tmp_path / "a.run").endswith(f"MB at most · {out}\n")
    same(out, whole)
    assert "holds a run of another recipe" in command(*long, "--seed", 2, code=1)
    assert "video.seed is 0 there, 2 here" in command(*long, "--seed", 2, code=1)
    assert "--continue" not in command(*long, "--seed", 2, code=1)
    said = command(*long, "--frames", 56, code=1)
    assert f"for a longer video of that run, --continue {tmp_path / 'a.run'} --frames 16" in said
    again = command("decode", tmp_path / "a.run", "-o", tmp_path / "b.npz", "--size", "48x16", "--fps", 4)
    assert again == f"40 frames · {tmp_path / 'b.npz'}\n"
    beside = command("decode", tmp_path / "a.run", "--crf", 30)
    assert beside == f"40 frames · {tmp_path / 'a-decoded.mp4'}\n", "the run's own video stays"
    same(out, whole)
    assert (read(tmp_path / "b.npz").size, read(tmp_path / "b.npz").fps) == ((16, 48), 4.0)
    command("generate", "--continue", tmp_path / "a.run", "--frames", 8, "-o", tmp_path / "c.npz")
    assert len(read(tmp_path / "c.npz").frames) == 48
    assert (tmp_path / "c.run" / "manifest.json").is_file()


def test_a_continued_video_says_that_its_settings_are_not_all(tmp_path: Path, whole: Path) -> None:
    """Its first pieces are of another prompt, which stands nowhere in it."""
    out, again, anew = (tmp_path / f"{name}.npz" for name in "abc")
    command("generate", "a blue ring", "--continue", folder_of(whole), "--frames", 16, "-o", out)
    given = json.loads((folder_of(out) / "manifest.json").read_text())["given"]
    command("decode", folder_of(out), "-o", again)
    assert settings_of(out)["given"] == settings_of(again)["given"] == given
    assert "given" not in settings_of(whole)
    made = CliRunner().invoke(cli.app, ["generate", "--from", str(out), "-o", str(anew)])
    assert made.exit_code == 0, made.output
    assert "note: this video went on from another run" in made.stderr
    assert (read(out).frames != read(anew).frames).any()


def test_a_short_clip_has_no_folder_unless_one_is_named(tmp_path: Path) -> None:
    short = ["generate", "-r", "sprites-exact", "--frames", 2, "--set", "experts.control.candidates=8"]
    command(*short, "-o", tmp_path / "a.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.npz.json"]
    command(*short, "-o", tmp_path / "b.npz", "--run", tmp_path / "kept", "--preview")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *["a.npz", "a.npz.json", "b-preview.png", "b.npz", "b.npz.json", "kept"],
    ]
    assert (read(tmp_path / "a.npz").frames == read(tmp_path / "b.npz").frames).all()


def test_words_that_do_not_go_together(tmp_path: Path) -> None:
    (prompts := tmp_path / "prompts.txt").write_text("a red circle\na blue ring\n")
    for words in (
        ["generate", "a red circle", "--prompts", prompts],
        ["generate", "--continue", "a.run", "--prompts", prompts],
        ["generate", "--run", tmp_path / "a", "--prompts", prompts],
        ["generate", "--continue", "a.run", "-r", "sprites"],
        ["generate", "--continue", "a.run", "--count", 2],
        ["generate", "--run", tmp_path / "a", "--count", 2],
        ["decode", "a.run", "--size", "40"],
        ["decode", "a.run", "--size", "0x40"],
    ):
        assert command(*words, code=2)
    for words in (["resume", tmp_path / "a.run"], ["decode", tmp_path / "a.run"], ["generate", "--continue", "a.run"]):
        assert "no run at" in command(*words, code=1)


LONG = ["generate", "-r", "sprites-long-exact", *WORDS, "--frames", "40"]


def test_a_run_is_named_when_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first step, so that also a run that is killed is known."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept_runs, "ready", interrupted)
    for words, name in ((["-o", "[a].mp4"], "[a].run"), (["-o", "b.mp4", "--run", "mine"], "mine")):
        assert CliRunner().invoke(cli.app, [*LONG, *words]).stderr.startswith(f"run: {name}\n")


def test_each_kept_run_is_named_and_a_clip_that_is_not_kept_has_none(tmp_path: Path) -> None:
    several = CliRunner().invoke(cli.app, [*LONG, "--count", "2", "-o", str(tmp_path / "a.mp4")])
    names = [line for line in several.stderr.splitlines() if line.startswith("run:")]
    assert names == [f"run: {tmp_path / 'a-0.run'}", f"run: {tmp_path / 'a-1.run'}"]
    more = ["generate", "--continue", str(tmp_path / "a-0.run"), "--frames", "8", "-o", str(tmp_path / "b.npz")]
    assert f"run: {tmp_path / 'b.run'}\n" in CliRunner().invoke(cli.app, more).stderr
    short = ["generate", "-r", "sprites-exact", "--frames", "2", "--set", "experts.control.candidates=8"]
    assert "run:" not in CliRunner().invoke(cli.app, [*short, "-o", str(tmp_path / "c.npz")]).stderr


def test_ctrl_c_in_a_clip_that_is_not_kept_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dovetail.run.playing.decoded", pressed)
    words = ["generate", "-r", "sprites-exact", "--frames", "2", "--set", "experts.control.candidates=8"]
    result = CliRunner().invoke(cli.app, [*words, "-o", str(tmp_path / "c.npz")])
    assert result.exit_code not in (0, None)
    assert "note: stopped; what was not finished is not kept (--run DIR keeps a run)\n" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["a piece", "a film", "a step"])
def test_ctrl_c_says_how_to_go_on_and_what_goes_on_has_the_same_bytes(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A real SIGINT: after a latent is written, in the middle of writing the film, within a step."""
    place, name = {
        "a piece": (Folder, "log"),
        "a film": (kept_runs.Film, "_write"),
        "a step": (kept_runs._Kept, "_step"),
    }[moment]
    act, calls = getattr(place, name), []

    def pressed(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return act(*given, **options)

    out, before = tmp_path / "a.mp4", signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, pressed)
            result = CliRunner().invoke(cli.app, [*LONG, "-o", str(out)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code not in (0, None)
    assert len(calls) == 2
    assert f"note: stopped; `dovetail resume {folder_of(out)}` goes on\n" in result.stderr
    assert not out.exists()
    assert command("resume", folder_of(out)).endswith(f"MB at most · {out}\n")
    same(out, whole)


def test_a_long_animation_is_told_to_be_made_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cast: Cast
) -> None:
    """Before the work begins, and once; also of a run that is decoded again."""
    monkeypatch.setattr("dovetail.video.encoders.KEPT", 39)
    says = "all frames of a .gif wait in memory until the video ends, and these are more than 39; an .mp4 is"
    with pytest.warns(RunWarning, match=says):
        next(keep(small(), tmp_path / "a.gif", cast=cast))
    with pytest.warns(RunWarning, match=says) as caught:
        list(keep(small(), tmp_path / "a.gif", cast=cast))
    assert len(caught) == 1
    with pytest.warns(RunWarning, match=says) as caught:
        list(again.decode(folder_of(tmp_path / "a.gif"), tmp_path / "b.gif"))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(keep(small(39), tmp_path / "c.gif", cast=cast))
