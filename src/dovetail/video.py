"""A video and its files.

What a file is follows from its name: .mp4 (H.264, plays in any browser), .gif and .webp (animated),
.npz (lossless), and a folder of PNG for a name without suffix. The first three are shown larger,
in whole multiples, when the video is smaller than a screen shows well; the others keep the pixels.
"""

import base64
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
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
        """Write the video, and a manifest OUT.json beside it; both appear whole or not at all.

        Raises OutputError for a name that says no known format, or a place that cannot be written.
        """
        target = checked_output(path)
        with _whole(target) as part:
            {".mp4": _mp4, ".gif": _gif, ".webp": _webp, ".npz": _npz, "": _pngs}[target.suffix](self, part)
        with _whole(manifest_of(target)) as part:
            part.write_text(json.dumps(dict(self.settings), indent=2) + "\n", encoding="utf-8")
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
    source = Path(path)
    if not source.exists():
        raise OutputError(f"no video at {source}")
    readers = {".npz": _read_npz, ".gif": _read_image, ".webp": _read_image, "": _read_pngs}
    try:
        frames, fps, settings = readers.get("" if source.is_dir() else source.suffix.lower(), _read_av)(source)
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{source} is no video that can be read: {error}") from None
    return Video(frames, fps, settings or _beside(source))


def settings_of(path: str | Path) -> dict[str, Any]:
    """The settings inside a file, or in the manifest beside it. Raises OutputError if there are none."""
    source = Path(path)
    if not source.exists():
        raise OutputError(f"no video at {source}")
    settings = json.loads(source.read_text()) if source.suffix == ".json" else dict(read(source).settings)
    if not settings:
        raise OutputError(f"{source} carries no settings of dovetail, and no {manifest_of(source).name} is beside it")
    return dict(settings)


def sheet(rows: Sequence[Video], columns: int = 8) -> Frames:
    """A contact sheet "h w c": one row per video, frames evenly apart. The videos are of one size."""
    cells = []
    for video in rows:
        count = min(columns, len(video.frames))
        picked = [round(i * (len(video.frames) - 1) / max(count - 1, 1)) for i in range(count)]
        cells.append(np.concatenate([np.pad(video.frames[i], ((1, 1), (1, 1), (0, 0))) for i in picked], axis=1))
    width = max(row.shape[1] for row in cells)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in cells])


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
    return Video(np.concatenate([panes[0], gap, panes[1]], axis=2), left.fps)


def _held(frames: Frames, length: int) -> Frames:
    return np.concatenate([frames, np.repeat(frames[-1:], length - len(frames), axis=0)])


# --- where to write ----------------------------------------------------------------------------------------------


def manifest_of(path: str | Path) -> Path:
    """The manifest beside a video: OUT.json."""
    return Path(path).with_suffix(".json")


def checked_output(path: str | Path) -> Path:
    """The path, made sure to be writable: call it before work starts. Makes missing folders.

    Raises OutputError.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        known = ", ".join(suffix for suffix in SUFFIXES if suffix)
        raise OutputError(
            f"cannot write {target}: '{target.suffix}' is no known format; known: {known}, or a folder for PNG"
        )
    if target.suffix and target.is_dir():
        raise OutputError(f"cannot write {target}: a folder has this name")
    if (
        not target.suffix
        and target.exists()
        and (not target.is_dir() or any(f.suffix != ".png" for f in target.iterdir()))
    ):
        raise OutputError(f"cannot write {target}: it exists and is no folder of PNG")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from None
    return target


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A name to write to, in the same folder; what stands there takes its final name at the end."""
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        if part.is_dir() and target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


# --- formats -----------------------------------------------------------------------------------------------------


def _larger(frames: Frames, factor: int) -> Frames:
    return frames if factor == 1 else frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _shown(video: Video) -> Frames:
    """The frames as large as a screen shows well; H.264 wants even sides, so an odd one gains a line."""
    frames = _larger(video.frames, max(1, math.ceil(SHOWN / min(video.size))))
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


def _gif(video: Video, path: Path) -> None:
    first, *rest = _images(_shown(video))
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=1000 / video.fps, loop=0, disposal=2)


def _webp(video: Video, path: Path) -> None:
    first, *rest = _images(_shown(video))
    first.save(
        path, format="WEBP", save_all=True, append_images=rest, duration=round(1000 / video.fps), loop=0, lossless=True
    )


def _npz(video: Video, path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, frames=video.frames, fps=video.fps, settings=json.dumps(dict(video.settings)))


def _pngs(video: Video, path: Path) -> None:
    path.mkdir()
    for i, image in enumerate(_images(video.frames)):
        image.save(path / f"{i:05d}.png")


Read = tuple[Frames, float, dict[str, Any]]


def _read_av(path: Path) -> Read:
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no picture")
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate or 24), _settings(container.metadata.get("comment", ""))


def _settings(comment: str) -> dict[str, Any]:
    """The settings in a comment; other programs write comments too, and those say nothing to us."""
    try:
        found = json.loads(comment)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) and "recipe" in found else {}


def _read_npz(path: Path) -> Read:
    with np.load(path, allow_pickle=False) as file:
        return file["frames"], float(file["fps"]), json.loads(str(file["settings"]))


def _read_image(path: Path) -> Read:
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        duration = float(image.info.get("duration", 125)) or 125.0
    return np.stack(frames), 1000 / duration, {}


def _read_pngs(path: Path) -> Read:
    from PIL import Image

    files = sorted(path.glob("*.png"))
    if not files:
        raise ValueError("no PNG in it")
    frames = np.stack([np.asarray(Image.open(BytesIO(file.read_bytes())).convert("RGB")) for file in files])
    recipe = _beside(path).get("recipe", {})
    return frames, float(recipe.get("video", {}).get("fps", 8.0)), {}


def _beside(path: Path) -> dict[str, Any]:
    manifest = manifest_of(path)
    return _settings(manifest.read_text()) if manifest.is_file() else {}
