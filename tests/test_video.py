"""Video files: every format back and forth, settings inside, whole or not at all."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dovetail import video as videos
from dovetail.errors import OutputError, RecipeError, WeightsError
from dovetail.video import Video, beside, checked_output, manifest_of, read, settings_of, sheet, writing
from dovetail.video.footage import Footage

SETTINGS = {"recipe": {"prompt": 'é, "quotes" = and; \\ # signs', "video": {"fps": 8.0}, "long": "x" * 20_000}}


def ramps(frames: int = 5, height: int = 64, width: int = 64, fps: float = 8.0) -> Video:
    """Smooth frames that all differ, so that a lossy file stays near and an exchanged frame does not."""
    f, h, w = np.meshgrid(np.arange(frames) * 40, np.arange(height), np.arange(width), indexing="ij")
    return Video(
        np.stack([f + h // 2, 255 - f - w // 2, (h + w) // 2], axis=-1).clip(0, 255).astype(np.uint8), fps, SETTINGS
    )


@pytest.mark.parametrize("name", ["a.npz", "frames"])
def test_lossless_files_keep_every_bit(tmp_path: Path, name: str) -> None:
    video = ramps(height=33, width=47)
    again = read(video.save(tmp_path / name))
    assert (again.frames == video.frames).all()
    assert again.fps == 8.0
    assert dict(again.settings) == SETTINGS


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_files_for_looking_at_are_large_and_near(tmp_path: Path, name: str) -> None:
    video = ramps()
    again = read(video.save(tmp_path / name))
    assert again.size == (384, 384)
    assert len(again.frames) == len(video.frames)
    assert again.fps == 8.0
    near = np.abs(again.frames[:, 3::6, 3::6].astype(int) - video.frames)
    assert near.mean() < 6
    assert dict(settings_of(tmp_path / name)) == SETTINGS


def test_an_mp4_plays_in_browsers_and_carries_its_settings(tmp_path: Path) -> None:
    path = ramps().save(tmp_path / "a.mp4")
    manifest_of(path).unlink()  # so that they must come from inside
    assert settings_of(path) == SETTINGS
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.profile == "High"
        assert stream.average_rate == 8
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first for the web"


def test_a_large_video_keeps_its_size_but_for_an_odd_line(tmp_path: Path) -> None:
    assert read(ramps(2, 385, 400).save(tmp_path / "a.mp4")).size == (386, 400)


def test_a_narrow_video_is_enlarged_no_more_than_players_take(tmp_path: Path) -> None:
    assert read(ramps(1, 4096, 8).save(tmp_path / "a.mp4")).size == (4096, 8)
    assert read(ramps(1, 1000, 16).save(tmp_path / "a.webp")).size == (4000, 64)


def test_the_manifest_stands_beside(tmp_path: Path) -> None:
    ramps().save(tmp_path / "a.mp4")
    assert json.loads((tmp_path / "a.mp4.json").read_text()) == SETTINGS
    assert settings_of(tmp_path / "a.mp4.json") == SETTINGS
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.mp4", "a.mp4.json"]


def test_files_that_differ_in_their_suffix_keep_their_own_settings(tmp_path: Path) -> None:
    ramps(1).save(tmp_path / "a.gif")
    Video(ramps(1).frames, 8.0, {"recipe": {"prompt": "another"}}).save(tmp_path / "a.webp")
    assert settings_of(tmp_path / "a.gif") == SETTINGS


def test_a_folder_of_png_is_replaced_whole(tmp_path: Path) -> None:
    ramps(5).save(tmp_path / "frames")
    ramps(2).save(tmp_path / "frames")
    assert sorted(f.name for f in (tmp_path / "frames").iterdir()) == ["00000.png", "00001.png", "dovetail.json"]
    assert np.asarray(Image.open(tmp_path / "frames" / "00001.png")).shape == (64, 64, 3)
    assert [f.name for f in tmp_path.iterdir()] == ["frames"]


def test_pictures_of_others_are_not_replaced(tmp_path: Path) -> None:
    for i, names in enumerate((["00000.png", "holiday.png"], ["00000.png"], ["dovetail.json", "notes.txt"])):
        folder = tmp_path / f"mine{i}"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("keep me")
        with pytest.raises(OutputError, match="no folder of PNG that dovetail wrote"):
            ramps().save(folder)
        assert sorted(f.name for f in folder.iterdir()) == names


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramps(3).save(tmp_path / "frames")
    whole = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return whole(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(KeyboardInterrupt):
        ramps(5).save(tmp_path / "frames")
    assert [f.name for f in tmp_path.iterdir()] == ["frames"]
    assert len(read(tmp_path / "frames").frames) == 3


# --- time --------------------------------------------------------------------------------------------------------


def still(fps: float) -> Video:
    """Frames that repeat, which encoders join."""
    return Video(ramps(4, fps=fps).frames[[0, 0, 0, 1, 2, 2, 3, 3, 3, 3]], fps, SETTINGS)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
@pytest.mark.parametrize("fps", [8.0, 7.3, 24.0, 30.0])
def test_an_animation_keeps_its_frames_and_its_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fps: float
) -> None:
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 64)  # small files are quick
    settings = {"recipe": {"video": {"fps": fps}}}
    path = Video(still(fps).frames, fps, settings).save(tmp_path / name)
    with Image.open(path) as image:
        seconds = sum(frame.info["duration"] for frame in map(loaded, ImageSequence.Iterator(image))) / 1000
    assert seconds == pytest.approx(10 / fps, abs=0.0051)
    again = read(path)
    assert (len(again.frames), again.fps) == (10, fps)
    manifest_of(path).unlink()
    alone = read(path)
    assert len(alone.frames) / alone.fps == pytest.approx(seconds, rel=1e-3)
    if fps == 8:  # where frames last unequal hundredths of a second, how many were joined is a guess
        assert len(alone.frames) == 10


def loaded(frame: Image.Image) -> Image.Image:
    frame.load()  # a WebP says how long a frame lasts when it has decoded it
    return frame


@pytest.mark.parametrize(("name", "fps"), [("a.gif", 60.0), ("a.webp", 120.0)])
def test_animations_that_browsers_would_slow_down_are_refused(tmp_path: Path, name: str, fps: float) -> None:
    with pytest.raises(OutputError, match=f"{fps:g} frames per second browsers would slow it down; use .mp4"):
        checked_output(tmp_path / name, fps)
    assert checked_output(tmp_path / "a.mp4", fps)


def test_a_video_that_a_telephone_filmed_sideways_is_upright(tmp_path: Path) -> None:
    path = ramps(2, 384, 512).save(tmp_path / "a.mp4")
    data = path.read_bytes()
    one = (1).to_bytes(2) + bytes(2)
    upright = one + bytes(12) + one
    at = data.index(upright, data.index(b"tkhd"))  # a quarter turn clockwise, in the track's matrix
    turned = bytes(4) + one + bytes(4) + (-65536).to_bytes(4, signed=True) + bytes(4)
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    assert read(path).size == (512, 384)
    assert np.abs(np.rot90(read(path).frames[0]).astype(int) - ramps(2, 384, 512).frames[0]).mean() < 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", ["a.mp4", "a.npz", "frames"])
def test_a_break_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[BaseException]
) -> None:
    old = ramps(3)
    old.save(tmp_path / name)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    encoder: Any = videos.ENCODERS[Path(name).suffix]
    whole = encoder.end

    def broken(self: Any, settings: Any) -> None:
        whole(self, settings)
        raise error

    monkeypatch.setattr(encoder, "end", broken)
    with pytest.raises(error):
        ramps(5).save(tmp_path / name)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("name", ["a.npz", "a.mp4", "a.gif", "a.webp", "frames"])
def test_a_file_grows_while_its_video_is_made(tmp_path: Path, name: str) -> None:
    """In pieces of any length it is the file that the whole would be."""
    video = ramps(7)
    with writing(tmp_path / name, 8.0) as growing:
        for piece in np.split(video.frames, [3, 4]):
            growing.add(piece)
            assert not (tmp_path / name).exists()
        growing.settings = video.settings
    whole = video.save(tmp_path / "whole" / name)
    assert (read(tmp_path / name).frames == read(whole).frames).all()
    assert settings_of(tmp_path / name) == settings_of(whole)
    assert read(tmp_path / name).fps == 8.0
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(
        {name, manifest_of(tmp_path / name).name, "whole"} - {"dovetail.json"}
    )


def test_frames_are_on_the_disk_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 64)  # small files are quick
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
    with writing(tmp_path / "a.mp4", 8.0) as growing:
        growing.add(noise)
        growing.add(noise)
        (part,) = tmp_path.iterdir()
        assert part.stat().st_size > 100_000
        growing.settings = SETTINGS
    assert len(read(tmp_path / "a.mp4").frames) == 120


def test_a_video_that_was_left_before_its_end_is_none(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"^cannot write \S*a.mp4: it was left before it had frames and settings$"),
        writing(tmp_path / "a.mp4", 8.0),
    ):
        pass
    with pytest.raises(OutputError, match="left before"), writing(tmp_path / "a.npz", 8.0) as growing:
        growing.add(ramps(2).frames)
    with pytest.raises(ValueError, match="'f h w 3'"), writing(tmp_path / "a.mp4", 8.0) as growing:
        growing.add(Video(ramps(2).frames[:0], 8.0).frames)
    assert not list(tmp_path.iterdir())


def test_what_fails_while_a_file_grows_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    """WeightsError is an OSError too."""

    def fails() -> None:
        raise WeightsError("no weights")

    with pytest.raises(WeightsError, match=r"^no weights$"), writing(tmp_path / "a.mp4", 8.0):
        fails()
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be_written_are_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    for path, why in {
        "a.avi": "'.avi' is no known format; known: .mp4, .gif, .webp, .npz",
        "file/a.mp4": "Not a directory|File exists",
        "folder.mp4": "a folder has this name",
        "": "no folder of PNG",
        ".mp4": "it needs a name",
        f"{'x' * 245}.mp4": "name too long",
        f"{'x' * 300}": "name too long",
        "mine": "no folder of PNG",
        "file": "no folder of PNG",
    }.items():
        with pytest.raises(OutputError, match=why):
            checked_output(tmp_path / path)
    for path in (".", "..", "/", "../.."):
        with pytest.raises(OutputError, match="it needs a name"):
            checked_output(path)
    with pytest.raises(OutputError):
        checked_output("/proc/a.mp4")
    assert checked_output(tmp_path / "new" / "deep" / "a.mp4").parent.is_dir()


def test_what_is_no_video_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no video at"):
        read(tmp_path / "none.mp4")
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "a.npz").write_bytes(b"not a video")
    (tmp_path / "a.gif").write_bytes(b"not a video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.npz").touch()
    np.savez(tmp_path / "reals.npz", frames=np.zeros((2, 8, 8, 3)), fps=8.0, settings="{}")
    whole = ramps().save(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("a.mp4", "a.npz", "a.gif", "empty", "nothing.npz", "reals.npz", "cut.npz"):
        with pytest.raises(OutputError, match=r"no video that can be read: \w"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", [b"{", b"[1]", b'"recipe"', b"\xff\xfe", b"{}"])
def test_what_is_no_manifest_is_said_to_be_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(OutputError, match=r"a\.json carries no settings"):
        settings_of(tmp_path / "a.json")


def test_a_video_of_other_programs_has_no_settings(tmp_path: Path) -> None:
    Video(ramps().frames, 8.0, {"other": 1}).save(tmp_path / "a.mp4")
    assert read(tmp_path / "a.mp4").settings == {}
    with pytest.raises(OutputError, match="carries no settings"):
        settings_of(tmp_path / "a.mp4")


@pytest.mark.parametrize("recipe", ["soup", 3, None, ["a"]])
def test_a_manifest_of_other_programs_says_nothing(tmp_path: Path, recipe: Any) -> None:
    ramps().save(tmp_path / "a.gif")
    (tmp_path / "a.gif.json").write_text(json.dumps({"recipe": recipe}))
    assert read(tmp_path / "a.gif").settings == {}


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"shot_{number}.png")
    assert read(tmp_path).frames[:, 0, 0, 0].tolist() == [1, 2, 9, 10, 11, 100]
    assert [float(frame.mean()) for frame in Footage.of(tmp_path).frames()] == [n / 3 for n in (1, 2, 9, 10, 11, 100)]


def test_gray_of_sixteen_bits_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 256, 32768, 65535]], np.uint16).repeat(2, 0)
    Image.fromarray(shades).save(tmp_path / "a.png")
    assert read(tmp_path).frames[0, 0].tolist() == [[n] * 3 for n in (0, 1, 128, 255)]
    assert next(iter(Footage.of(tmp_path).frames()))[0, 0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".JPEG", ".tif", ".webp"])
def test_a_folder_may_hold_pictures_of_any_usual_kind(tmp_path: Path, suffix: str) -> None:
    for number in (2, 10, 1):
        Image.new("RGB", (16, 8), (20 * number, 0, 0)).save(tmp_path / f"shot_{number}{suffix}")
    (tmp_path / f"._shot_1{suffix}").write_bytes(b"what a Mac leaves")
    (tmp_path / "notes.txt").write_text("not a frame")
    frames = read(tmp_path).frames
    assert frames.shape == (3, 8, 16, 3)
    assert np.abs(frames[:, 0, 0, 0].astype(int) - [20, 40, 200]).max() <= 2


def test_a_folder_of_two_kinds_or_sizes_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    Image.new("RGB", (16, 8)).save(tmp_path / "2.png")
    with pytest.raises(OutputError, match="a frame of it is 16x8, and those before are 8x8"):
        read(tmp_path)
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    for name in ("1.jpg", "2.JPEG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert len(read(tmp_path).frames) == 2
    Image.new("RGB", (8, 8)).save(tmp_path / "3.tiff")
    with pytest.raises(OutputError, match="pictures of 2 kinds are in it, JPEG and TIFF"):
        read(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert len(read(tmp_path).frames) == 1, "PNG are frames, and what else there is a poster"


def test_photographs_stand_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (16, 8)).save(tmp_path / "1.jpg", exif=turned)
    assert read(tmp_path).size == (16, 8)


def test_what_is_clear_is_black_and_said(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    picture.putpixel((1, 0), (200, 100, 50, 255))
    picture.save(tmp_path / "1.png")
    footage = Footage.of(tmp_path)
    assert next(footage.frames())[0, 0].tolist() == [[0, 0, 0], [200, 100, 50]]
    assert footage.lost == "what is clear in it is black here"
    Image.new("RGBA", (2, 1), (200, 100, 50, 255)).save(tmp_path / "1.png")
    assert Footage.of(tmp_path).lost is None
    picture.save(tmp_path / "2.png")
    assert Footage.of(tmp_path).lost, "in any of them"
    clear = Image.new("P", (8, 8), 1)
    clear.putpalette([0, 0, 0, 255, 255, 255])
    clear.putpixel((0, 0), 0)
    clear.save(tmp_path / "a.gif", transparency=1)
    assert Footage.of(tmp_path / "a.gif").lost


def test_arrays_of_other_programs_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=ramps().frames)
    assert (read(tmp_path / "a.npz").frames == ramps().frames).all()
    assert read(tmp_path / "a.npz").fps == 8
    np.savez(tmp_path / "a.npz", frames=np.asfortranarray(ramps().frames))
    assert (read(tmp_path / "a.npz").frames == ramps().frames).all()
    for fps in (0.0, -1.0, np.nan):
        np.savez(tmp_path / "a.npz", frames=ramps().frames, fps=fps)
        with pytest.raises(OutputError, match=r"it says that it has \S+ frames per second"):
            read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", video=ramps().frames)
    with pytest.raises(OutputError, match="no array 'frames', but video"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", frames=ramps().frames.astype(np.float32))
    with pytest.raises(OutputError, match="its frames are float32"):
        read(tmp_path / "a.npz")


def filmed(path: Path, times: list[float], sound: bool = False) -> Path:
    """A film of grays 0, 20, 40 .. shown at these seconds."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.width = stream.height = 64
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        voice = file.add_stream("aac", rate=44100) if sound else None
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if voice is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.rate, silence.pts = 44100, 0
            file.mux([*voice.encode(silence), *voice.encode()])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_pictures_that_do_not_follow_evenly_keep_their_times(tmp_path: Path, suffix: str) -> None:
    video = read(filmed(tmp_path / f"a{suffix}", [0.0, 0.033, 0.067, 0.1, 0.2, 0.233, 0.3, 0.333]))
    assert abs(video.fps - 30) < 0.5
    grays = np.rint(video.frames[:, 0, 0, 0] / 20).astype(int)
    assert grays.tolist() == [0, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "times",
    [
        [0.0, 5.0, 5.5, 12.0],  # slides
        [0.0, 1.0, 1.04],
        [n + i / 60 for n in range(4) for i in range(3)],  # bursts between rests
        [0.0, 0.04, 0.08, 3600.0, 3600.04],  # a day's gap
        [round((i * 5 // 2) / 60, 3) for i in range(12)],  # a film in television's time
    ],
)
def test_no_picture_is_lost_nor_made_where_no_length_of_frame_says_how_long_they_stand(
    tmp_path: Path, suffix: str, times: list[float]
) -> None:
    video = read(filmed(tmp_path / f"a{suffix}", times))
    assert np.rint(video.frames[:, 0, 0, 0] / 20).astype(int).tolist() == list(range(len(times)))


def test_a_film_that_grows_slower_keeps_its_times(tmp_path: Path) -> None:
    """As a telephone's does in the dark."""
    times = [i / 30 for i in range(6)] + [6 / 30 + i / 15 for i in range(6)]
    video = read(filmed(tmp_path / "a.mkv", times))
    assert abs(video.fps - 30) < 0.5
    assert np.rint(video.frames[:, 0, 0, 0] / 20).astype(int).tolist() == [*range(6), *np.repeat(range(6, 11), 2), 11]


@pytest.mark.parametrize("order", ["ab", "ba", "aa"])
def test_films_joined_by_their_bytes_are_read_as_they_stand(tmp_path: Path, order: str) -> None:
    """Their clocks begin again, or lie apart."""
    parts = {"a": [i / 25 for i in range(9)], "b": [900 + i / 25 for i in range(9)]}
    made = {name: filmed(tmp_path / f"{name}.ts", times).read_bytes() for name, times in parts.items()}
    (tmp_path / "joined.ts").write_bytes(b"".join(made[name] for name in order))
    video = read(tmp_path / "joined.ts")
    assert np.rint(video.frames[:, 0, 0, 0] / 20).astype(int).tolist() == [*range(9), *range(9)]
    assert 20 < video.fps < 60


@pytest.mark.parametrize("made", [{"video": None}, {"video": {"fps": "fast"}}, {"video": {"fps": 0}}])
def test_a_manifest_that_says_nothing_of_a_video_is_no_foreign_error(tmp_path: Path, made: Any) -> None:
    folder = ramps().save(tmp_path / "frames")
    (folder / "dovetail.json").write_text(json.dumps({"recipe": made}))
    if made["video"] is None:
        assert read(folder).settings == {}
    else:
        with pytest.raises(OutputError, match="is no video that can be read"):
            read(folder)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("times", [[i / 25 for i in range(9)], [round(i / 30, 3) for i in range(9)], [0.0]])
def test_times_that_are_rounded_are_even(tmp_path: Path, suffix: str, times: list[float]) -> None:
    video = read(filmed(tmp_path / f"a{suffix}", times))
    assert np.rint(video.frames[:, 0, 0, 0] / 20).astype(int).tolist() == list(range(len(times)))


def test_sound_is_said_to_be_left_out(tmp_path: Path) -> None:
    assert Footage.of(filmed(tmp_path / "a.mp4", [0.0, 0.04], sound=True)).lost == "its sound is left out"
    assert Footage.of(filmed(tmp_path / "b.mp4", [0.0, 0.04])).lost is None


def test_suffixes_are_read_in_any_case(tmp_path: Path) -> None:
    video = ramps()
    assert (read(video.save(tmp_path / "A.NPZ")).frames == video.frames).all()
    assert read(video.save(tmp_path / "A.MP4")).settings == SETTINGS
    assert (tmp_path / "A.MP4.json").is_file()


def test_the_standard_output_is_no_place_for_a_video() -> None:
    with pytest.raises(OutputError, match=r"cannot write -: .*standard output"):
        checked_output("-")


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf")])
def test_a_video_has_a_speed(fps: float) -> None:
    with pytest.raises(ValueError, match="more than 0 frames per second"):
        Video(ramps().frames, fps)


def test_pixels_there_and_back() -> None:
    video = ramps()
    assert video.pixels.shape == (1, 5, 3, 64, 64)
    assert (Video.of(video.pixels, 8.0, {}).frames == video.frames).all()
    assert (Video.of(torch.full((1, 1, 3, 2, 2), 9.0), 8.0, {}).frames == 255).all()
    with pytest.raises(ValueError, match="uint8"):
        Video(video.frames[0], 8.0)


def test_resizing_keeps_the_picture() -> None:
    video = ramps()
    small = video.resized(16, 32)
    assert small.size == (16, 32)
    assert np.abs(small.resized(64, 64).frames[:, 8:-8, 8:-8].astype(int) - video.frames[:, 8:-8, 8:-8]).mean() < 3
    assert video.resized(64, 64) is video


def test_a_sheet_has_a_row_per_video_and_frames_evenly_apart() -> None:
    picture = sheet([ramps(5), ramps(2)], columns=3)
    assert picture.shape == (2 * 66, 3 * 66, 3)
    assert (picture[1:65, 67:131] == ramps(5).frames[2]).all()
    assert (picture[67:131, 67:131] == ramps(2).frames[1]).all()
    assert not picture[66:, 132:].any()


def test_side_by_side() -> None:
    left, right = ramps(5), ramps(3, 32, 16)
    both = beside(left, right)
    assert both.frames.shape == (5, 64, 64 + 2 + 32, 3)
    assert (both.frames[:, :, :64] == left.frames).all()
    assert (both.frames[:3, ::2, 66::2] == right.frames).all()
    assert (both.frames[4, ::2, 66::2] == right.frames[2]).all(), "the shorter one holds its last frame"


def test_what_does_not_go_side_by_side_is_refused() -> None:
    with pytest.raises(RecipeError, match="8 and 12 frames per second"):
        beside(ramps(), ramps(fps=12.0))
    with pytest.raises(RecipeError, match="heights 64 and 48"):
        beside(ramps(), ramps(2, 48))


def test_a_notebook_shows_the_video() -> None:
    shown: dict[str, Any] = ramps()._repr_mimebundle_()
    assert shown["text/plain"] == "5 frames of 64x64 at 8 fps"
    assert shown["text/html"].startswith("<video controls loop")
    assert "data:video/mp4;base64,AAAA" in shown["text/html"]
