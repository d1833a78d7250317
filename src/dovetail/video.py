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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from dovetail.errors import OutputError, RecipeError

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
        target = checked_output(path, self.fps)
        if not target.suffix:
            with _whole(target) as part:
                _pngs(self, part)
            return target
        writer = {".mp4": _mp4, ".gif": _gif, ".webp": _webp, ".npz": _npz}[target.suffix]
        # The manifest is ready before the video takes its name, so that none is seen with an older one.
        with _whole(target) as part, _whole(manifest_of(target)) as manifest:
            writer(self, part)
            _manifest(self, manifest)
        return target

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the video itself, looping."""
        with tempfile.TemporaryDirectory() as folder:
            _mp4(self, Path(folder) / "clip.mp4")
            data = base64.b64encode((Path(folder) / "clip.mp4").read_bytes()).decode()
        height, width = self.size
        shown = f'<video controls loop autoplay muted width="{max(width, SHOWN)}" src="data:video/mp4;base64,{data}"></video>'
        return {"text/plain": f"{len(self.frames)} frames of {width}x{height} at {self.fps:g} fps", "text/html": shown}


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
    count = min(columns, len(video.frames))
    picked = [round(i * (len(video.frames) - 1) / max(count - 1, 1)) for i in range(count)]
    return np.concatenate([np.pad(video.frames[i], ((1, 1), (1, 1), (0, 0))) for i in picked], axis=1)


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
    """Whether a folder may be replaced: it is new, or empty, or all in it was written by `_pngs`."""
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


def _shown(video: Video) -> Frames:
    """The frames as large as a screen shows well; H.264 wants even sides, so an odd one gains a line."""
    factor = min(math.ceil(SHOWN / min(video.size)), WIDEST // max(video.size))
    frames = _larger(video.frames, max(1, factor))
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


def _mp4(video: Video, path: Path) -> None:
    import av

    frames = _shown(video)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = json.dumps(dict(video.settings))
        stream = container.add_stream(
            "libx264", rate=Fraction(video.fps).limit_denominator(1001), options={"crf": "16"}
        )
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _images(frames: Frames) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in frames]


def _durations(video: Video, unit: int) -> list[int]:
    """Milliseconds of each frame in whole units, rounded so that the clip as a whole keeps its speed."""
    ends = [round(i * 1000 / video.fps / unit) * unit for i in range(len(video.frames) + 1)]
    return [end - start for start, end in pairwise(ends)]


def _gif(video: Video, path: Path) -> None:
    first, *rest = _images(_shown(video))
    times = _durations(video, 10)
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=times, loop=0, disposal=2)


def _webp(video: Video, path: Path) -> None:
    first, *rest = _images(_shown(video))
    times = _durations(video, 1)
    first.save(path, format="WEBP", save_all=True, append_images=rest, duration=times, loop=0, lossless=True)


def _npz(video: Video, path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, frames=video.frames, fps=video.fps, settings=json.dumps(dict(video.settings)))


def _pngs(video: Video, path: Path) -> None:
    path.mkdir()
    for i, image in enumerate(_images(video.frames)):
        image.save(path / f"{i:05d}.png")
    _manifest(video, path / INSIDE)


def _manifest(video: Video, path: Path) -> None:
    path.write_text(json.dumps(dict(video.settings), indent=2) + "\n", encoding="utf-8")


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
