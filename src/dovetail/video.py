"""A video and its files.

What a file is follows from its name: .mp4 (H.264, plays in any browser), .gif and .webp (animated),
.npz (lossless), and a folder of PNG for a name without suffix. The first three are shown larger,
in whole multiples, when the video is smaller than a screen shows well; the others keep the pixels.

What made a video stands in its manifest: OUT.mp4.json beside OUT.mp4, dovetail.json inside a folder;
an .mp4 and an .npz carry it inside as well. A file that is there already is replaced, whole; so is a
folder of PNG, but only one that dovetail wrote.
"""

import base64
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from dovetail.errors import DovetailError, OutputError, RecipeError

Frames = NDArray[np.uint8]

SUFFIXES = (".mp4", ".gif", ".webp", ".npz", "")
"""What can be written and read; "" is a folder of PNG."""

SHOWN = 384
"""Files for looking at are at least this many pixels along their shorter side."""

WIDEST = 4096
"""But nothing is enlarged beyond this many along the longer one, which is what players take."""

FASTEST = {".gif": 50, ".webp": 90}
"""Frames per second. Browsers show frames that last 10 ms or less for 100 ms."""


@dataclass(frozen=True, eq=False)
class Video:
    """Frames uint8 "f h w c", frames per second, and the settings that made them.

    settings: what a manifest says (recipe, versions, counts). latent: "b c f h w", before decoding.
    """

    frames: Frames = field(repr=False)
    fps: float
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    latent: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape, kind = self.frames.shape, self.frames.dtype
        if len(shape) != 4 or shape[3] != 3 or kind != np.uint8 or not shape[0]:
            raise ValueError(f"a video is uint8 'f h w 3' with one frame or more, not {kind} {shape}")

    @classmethod
    def of(
        cls, pixels: Tensor, fps: float, settings: Mapping[str, Any] | None = None, latent: Tensor | None = None
    ) -> "Video":
        """From decoded pixels "1 f 3 h w" in [-1, 1]."""
        scaled = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return cls(rearrange(scaled, "f c h w -> f h w c").cpu().numpy(), fps, settings or {}, latent)

    @property
    def pixels(self) -> Tensor:
        """Float32 "1 f 3 h w" in [-1, 1]."""
        return rearrange(torch.from_numpy(self.frames.copy()), "f h w c -> 1 f c h w").float() / 127.5 - 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def resized(self, height: int, width: int) -> "Video":
        """The video at another size: averaged where it shrinks, interpolated where it grows."""
        if (height, width) == self.size:
            return self
        pixels = interpolate(self.pixels[0], (height, width), mode="bilinear", antialias=True)
        return Video.of(pixels[None], self.fps, self.settings)

    def save(self, path: str | Path) -> Path:
        """Write the video and its manifest; both appear whole or not at all.

        Raises OutputError for a name that says no known format, or a place that cannot be written.
        """
        with writing(path, self.fps) as growing:
            growing.add(self.frames)
            growing.settings = self.settings
        return Path(path)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the video itself, looping."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "clip.mp4")
            data = base64.b64encode((Path(folder) / "clip.mp4").read_bytes()).decode()
        height, width = self.size
        shown = f'<video controls loop autoplay muted width="{max(width, SHOWN)}" src="data:video/mp4;base64,{data}"></video>'
        return {"text/plain": f"{len(self.frames)} frames of {width}x{height} at {self.fps:g} fps", "text/html": shown}


class Encoder(Protocol):
    """What turns frames uint8 "f h w c" into a file, as they come."""

    def add(self, frames: Frames) -> None: ...

    def end(self, settings: Mapping[str, Any]) -> None:
        """Make the file whole."""
        ...

    def close(self) -> None:
        """Let go of the file, whole or not."""
        ...


@dataclass(eq=False)
class Growing:
    """A video that is being written: add frames uint8 "f h w c" as they come, and say its settings before the end.

    beside: what the manifest says, if that is more than the settings inside.
    """

    encoder: Encoder = field(repr=False)
    length: int = 0
    settings: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] | None = None

    def add(self, frames: Frames) -> None:
        self.encoder.add(frames)
        self.length += len(frames)


@contextmanager
def writing(path: str | Path, fps: float, crf: int | None = None) -> Iterator[Growing]:
    """Write a video while it is being made; it appears with its manifest, whole or not at all.

    What is added to an .mp4, an .npz or a folder is on the disk and out of memory; what is added to a .gif or a .webp
    is kept until the end. crf: how much an .mp4 may lose, see `CRF`. Raises OutputError as `Video.save` does, for a
    video without frames or settings, and for a crf of what loses nothing.
    """
    target = checked_output(path, fps)
    if crf is not None and target.suffix != ".mp4":
        raise OutputError(f"cannot write {target}: crf is said of .mp4; other files keep every pixel")
    options = {} if crf is None else {"crf": crf}
    # The manifest is ready before the video takes its name, so that none is seen with an older one.
    with _whole(target) as part, _whole(manifest_of(target)) if target.suffix else nullcontext() as manifest:
        with closing(ENCODERS[target.suffix](part, fps, **options)) as encoder:
            growing = Growing(encoder)
            yield growing
            if growing.settings is None or not growing.length:
                raise OutputError(f"cannot write {target}: it was left before it had frames and settings")
            encoder.end(growing.settings)
        said = growing.settings if growing.beside is None else growing.beside
        _manifest(said, part / INSIDE if manifest is None else manifest)


def save_indexed(source: Path, path: str | Path, settings: Mapping[str, Any], beside: Mapping[str, Any]) -> Path:
    """Write the pictures of an .mp4 as another, the settings inside and `beside` in its manifest; whole or not at all.

    The same pictures and settings are the same bytes. Raises OutputError.
    """
    target = checked_output(path)
    with _whole(target) as part, _whole(manifest_of(target)) as manifest:
        _indexed(source, part, settings)
        _manifest(beside, manifest)
    return target


def read(path: str | Path) -> Video:
    """A video from any file that `Video.save` writes, or any mp4. Raises OutputError if there is none."""
    source = _existing(path)
    readers = {".npz": _read_npz, ".gif": _read_image, ".webp": _read_image, "": _read_pngs}
    try:
        return Video(*readers.get("" if source.is_dir() else source.suffix.lower(), _read_av)(source))
    except Exception as error:  # on a broken file, each decoder raises errors of its own kinds
        raise OutputError(f"{source} is no video that can be read: {_reason(error)}") from None


def settings_of(path: str | Path) -> dict[str, Any]:
    """The settings inside a file, or in the manifest beside it. Raises OutputError if there are none."""
    source = _existing(path)
    settings = _settings(_text(source)) if source.suffix == ".json" else dict(read(source).settings)
    if not settings:
        raise OutputError(f"{source} carries no settings of dovetail, and there is no {manifest_of(source)}")
    return settings


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise OutputError(f"no video at {path}")
    return Path(path)


def _reason(error: Exception) -> str:
    """What an error says, without its number and class."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def sheet(videos: Iterable[Video], columns: int = 8) -> Frames:
    """A contact sheet "h w c": one row per video, frames evenly apart."""
    return stacked([strip(video, columns) for video in videos])


def strip(video: Video, columns: int = 8) -> Frames:
    """A picture "h w c" of so many frames side by side, evenly apart."""
    picked = evenly(len(video.frames), columns)
    return np.concatenate([np.pad(video.frames[i], ((1, 1), (1, 1), (0, 0))) for i in picked], axis=1)


def evenly(length: int, count: int = 8) -> list[int]:
    """So many of `length` frames, evenly apart, the first and the last among them."""
    count = min(count, length)
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def stacked(strips: Sequence[Frames]) -> Frames:
    """Strips below each other, in one picture."""
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips])


def save_image(image: Frames, path: Path) -> Path:
    """Write one picture "h w c" as PNG, whole or not at all."""
    from PIL import Image

    with _whole(path) as part:
        Image.fromarray(image).save(part, format="PNG")
    return path


def beside(left: Video, right: Video) -> Video:
    """Two videos side by side; the smaller is enlarged by a whole factor, the shorter holds its last frame.

    Raises RecipeError when their speeds differ, or when no whole factor makes their heights equal.
    """
    if left.fps != right.fps:
        raise RecipeError(
            f"the videos run at {left.fps:g} and {right.fps:g} frames per second; side by side they must agree"
        )
    height, length = max(left.size[0], right.size[0]), max(len(left.frames), len(right.frames))
    for video in (left, right):
        if height % video.size[0]:
            raise RecipeError(
                f"heights {left.size[0]} and {right.size[0]}: neither is a whole multiple of the other; "
                "make both videos at one size"
            )
    panes = [_held(_larger(video.frames, height // video.size[0]), length) for video in (left, right)]
    gap = np.zeros((length, height, max(2, height // 32), 3), np.uint8)
    settings = {"beside": [dict(left.settings), dict(right.settings)]}
    return Video(np.concatenate([panes[0], gap, panes[1]], axis=2), left.fps, settings)


def _held(frames: Frames, length: int) -> Frames:
    return np.concatenate([frames, np.repeat(frames[-1:], length - len(frames), axis=0)])


# --- where to write ----------------------------------------------------------------------------------------------


INSIDE = "dovetail.json"
"""The manifest's name in a folder of PNG; that it is there says that the folder is ours to replace."""


def manifest_of(path: str | Path) -> Path:
    """Where a video's manifest is: OUT.mp4.json beside OUT.mp4, dovetail.json inside a folder."""
    target = Path(path)
    inside = target.is_dir() or not target.suffix
    return target / INSIDE if inside else target.with_name(f"{target.name}.json")


def checked_output(path: str | Path, fps: float = 1.0, inputs: Iterable[str | Path] = ()) -> Path:
    """The path, made sure to be writable: call it before work starts. Makes missing folders.

    inputs: what the work reads, and so must not replace. Raises OutputError.
    """
    target = Path(path)
    try:
        _refuse(target, fps, inputs)
        target.parent.mkdir(parents=True, exist_ok=True)
        probe = _part(manifest_of(target) if target.suffix else target)  # the longest name that writing needs
        probe.touch()
        probe.unlink()
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {target}: {_reason(error)}") from None
    return target


def _refuse(target: Path, fps: float, inputs: Iterable[str | Path]) -> None:
    """Raise OutputError for a name or a place that a video must not be written to."""
    known = ", ".join(suffix for suffix in SUFFIXES if suffix)
    reasons = {
        "it needs a name": target.name in ("", "..", *SUFFIXES),
        f"'{target.suffix}' is no known format; known: {known}, or a folder for PNG": target.suffix not in SUFFIXES,
        "a folder has this name": bool(target.suffix) and target.is_dir(),
        "it exists and is no folder of PNG that dovetail wrote": not (target.suffix or _ours(target)),
        "it is what this run reads; choose another name": target.exists()
        and any(Path(given).exists() and target.samefile(given) for given in inputs),
        f"at {fps:g} frames per second browsers would slow it down; use .mp4": fps > FASTEST.get(target.suffix, fps),
    }
    for reason, holds in reasons.items():
        if holds:
            raise OutputError(f"cannot write {target}: {reason}")


def _ours(folder: Path) -> bool:
    """Whether a folder may be replaced: it is new, or empty, or all in it was written by `_Pngs`."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    return not names or (INSIDE in names and all(re.fullmatch(r"\d{5,}\.png", name) for name in names - {INSIDE}))


def _part(target: Path) -> Path:
    """The name under which a file is written until it is whole."""
    return target.with_name(f".{target.name}.{os.getpid()}.part")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A name to write to, in the same folder; what stands there takes its final name at the end."""
    part = _part(target)
    try:
        yield part
        _take_place(part, target)
    except DovetailError:  # says what it is about; a network may have failed while a file was growing
        raise
    except OSError as error:
        raise OutputError(f"cannot write {target}: {_reason(error)}") from None
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def _take_place(part: Path, target: Path) -> None:
    if not target.is_dir():
        part.replace(target)
        return
    # A folder cannot be replaced in one move: the old one steps aside, so that none is ever seen half.
    aside = part.with_suffix(".old")
    target.rename(aside)
    try:
        part.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


# --- formats -----------------------------------------------------------------------------------------------------


def _larger(frames: Frames, factor: int) -> Frames:
    return frames if factor == 1 else frames.repeat(factor, axis=1).repeat(factor, axis=2)


def enlarged(frames: Frames) -> Frames:
    """The frames as large as a screen shows well; H.264 wants even sides, so an odd one gains a line."""
    factor = min(math.ceil(SHOWN / min(frames.shape[1:3])), WIDEST // max(frames.shape[1:3]))
    frames = _larger(frames, max(1, factor))
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


CRF = 16
"""How much H.264 may lose: 0 is nothing, and 6 more halves the file. At 16 one does not see it."""


class _Mp4:
    """H.264, encoded as frames come. The settings, known only at the end, and the index then go in front."""

    def __init__(self, path: Path, fps: float, crf: int = CRF) -> None:
        import av

        self.path, self.fps, self.crf = path, fps, crf
        self.container = av.open(str(path), "w", format="mp4")
        self.stream: Any = None

    def add(self, frames: Frames) -> None:
        import av

        frames = enlarged(frames)
        if self.stream is None:
            rate = Fraction(self.fps).limit_denominator(1001)
            self.stream = self.container.add_stream("libx264", rate=rate, options={"crf": str(self.crf)})
            self.stream.height, self.stream.width, self.stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self.container.mux(self.stream.encode(shown))

    def end(self, settings: Mapping[str, Any]) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()
        whole = self.path.with_name(f"{self.path.name}.end")
        try:
            _indexed(self.path, whole, settings)
            whole.replace(self.path)
        finally:
            whole.unlink(missing_ok=True)

    def close(self) -> None:
        self.container.close()


def _indexed(source: Path, target: Path, settings: Mapping[str, Any]) -> None:
    """The same pictures with the settings and the index in front, as the web wants it."""
    import av

    with (
        av.open(str(source)) as before,
        av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as after,
    ):
        after.metadata["comment"] = json.dumps(dict(settings))
        copy = after.add_stream_from_template(before.streams.video[0])
        first: int | None = None
        for packet in before.demux(before.streams.video[0]):
            if packet.dts is not None:  # the last one only says that there are no more
                # A video in fragments is read as if it began as late as its pictures are reordered.
                first = packet.pts if first is None else first
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, copy
                after.mux(packet)


def _images(frames: Frames) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in frames]


def _durations(frames: int, fps: float, unit: int) -> list[int]:
    """Milliseconds of each frame in whole units, rounded so that the clip as a whole keeps its speed."""
    ends = [round(i * 1000 / fps / unit) * unit for i in range(frames + 1)]
    return [end - start for start, end in pairwise(ends)]


class _Kept:
    """An animated picture, for which all frames are kept until the end. unit: of its durations, in milliseconds."""

    def __init__(self, path: Path, fps: float, unit: int, options: Mapping[str, Any]) -> None:
        self.path, self.fps, self.unit, self.options = path, fps, unit, options
        self.frames: list[Frames] = []

    def add(self, frames: Frames) -> None:
        self.frames.append(frames)

    def end(self, settings: Mapping[str, Any]) -> None:
        first, *rest = _images(enlarged(np.concatenate(self.frames)))
        times = _durations(1 + len(rest), self.fps, self.unit)
        first.save(self.path, save_all=True, append_images=rest, duration=times, loop=0, **self.options)

    def close(self) -> None:
        self.frames.clear()


class _Npz:
    """What numpy.savez_compressed writes. How many frames there are stands in front of them, so they wait on the disk."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.raw = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self.shape = (0, 0, 0, 0)

    def add(self, frames: Frames) -> None:
        self.raw.write(frames.tobytes())
        self.shape = (self.shape[0] + len(frames), *frames.shape[1:])

    def end(self, settings: Mapping[str, Any]) -> None:
        self.raw.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
            "fortran_order": False,
            "shape": self.shape,
        }
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as file:
            with file.open("frames.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                shutil.copyfileobj(self.raw, entry, 2**20)
            for name, value in (("fps", self.fps), ("settings", json.dumps(dict(settings)))):
                with file.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, np.asanyarray(value), allow_pickle=False)

    def close(self) -> None:
        self.raw.close()


class _Pngs:
    """A folder with a picture for each frame."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.count = path, 0
        path.mkdir()

    def add(self, frames: Frames) -> None:
        for i, image in enumerate(_images(frames), self.count):
            image.save(self.path / f"{i:05d}.png")
        self.count += len(frames)

    def end(self, settings: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


ENCODERS: dict[str, Callable[..., Encoder]] = {
    ".mp4": _Mp4,
    ".gif": partial(_Kept, unit=10, options={"format": "GIF", "disposal": 2}),
    ".webp": partial(_Kept, unit=1, options={"format": "WEBP", "lossless": True}),
    ".npz": _Npz,
    "": _Pngs,
}
"""What writes each kind of file."""


def _manifest(settings: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")


Read = tuple[Frames, float, dict[str, Any]]


def _read_av(path: Path) -> Read:
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no picture")
        stream = container.streams.video[0]
        frames = [_upright(frame) for frame in container.decode(stream)]
        if not frames:
            raise ValueError("it has no frames")
        settings = _settings(container.metadata.get("comment", ""))
        return np.stack(frames), float(stream.average_rate or 24), settings or _beside(path)


def _upright(frame: Any) -> Frames:
    """A frame as players show it: telephones film sideways and note the turn."""
    turned: Frames = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return turned


def _settings(text: str) -> dict[str, Any]:
    """The settings in a comment or a manifest; those of other programs say nothing to us."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "recipe" in found else {}


def _read_npz(path: Path) -> Read:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return file["frames"], float(file["fps"]), _settings(str(file["settings"])) or _beside(path)


def _read_image(path: Path) -> Read:
    from PIL import Image, ImageSequence

    settings, frames, times = _beside(path), [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            times.append(float(image.info.get("duration", 0)))
    known = _fps(settings) if settings else None
    # Encoders join equal frames into one that lasts longer, so a frame stands for as many as its time holds.
    unit = 1000 / known if known else min(filter(None, times), default=125.0)
    counts = [max(1, round(time / unit)) for time in times]
    fps = known or 1000 * sum(counts) / sum(time or unit for time in times)
    return np.repeat(np.stack(frames), counts, axis=0), fps, settings


def _read_pngs(path: Path) -> Read:
    from PIL import Image

    files = sorted(path.glob("*.png"))
    if not files:
        raise ValueError("no PNG in it")
    frames = []
    for file in files:
        with Image.open(file) as image:
            frames.append(np.asarray(image.convert("RGB")))
    settings = _beside(path)
    return np.stack(frames), _fps(settings), settings


def _fps(settings: Mapping[str, Any]) -> float:
    """Frames per second by the settings; 8 where they say nothing."""
    return float(settings.get("recipe", {}).get("video", {}).get("fps", 8.0))


def _beside(path: Path) -> dict[str, Any]:
    manifest = manifest_of(path)
    return _settings(_text(manifest)) if manifest.is_file() else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
