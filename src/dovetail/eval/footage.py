"""Frames of a video's file, some at a time: a long one is never whole in memory.

Formats that are kept whole while they are written (.gif, .webp) are read whole.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dovetail.errors import DovetailError, OutputError
from dovetail.eval.series import WINDOW
from dovetail.video import Frames, manifest_of, read
from dovetail.video.reading import pngs, rgb, settings_in


@dataclass(frozen=True, eq=False)
class Footage:
    """A video's file: the settings that made it, as far as it says, its speed, and, by iteration, its frames "f 3 h w"
    in [-1, 1]. It may be iterated again. Files enlarged for looking at are shrunk to the size that was made."""

    path: Path
    settings: Mapping[str, Any] = field(repr=False)
    fps: float

    @classmethod
    def of(cls, path: str | Path) -> "Footage":
        """Open a file or a folder of PNG. Raises OutputError where there is none, or none that can be read."""
        source = Path(path)
        if not source.exists():
            raise OutputError(f"no video at {source}")
        with _readable(source):
            inside, fps = _inside(source)
        settings = inside or settings_in(_text(manifest_of(source)))
        return cls(source, settings, fps or float(settings.get("recipe", {}).get("video", {}).get("fps", 8.0)))

    def __iter__(self) -> Iterator[Tensor]:
        made = self.settings.get("recipe", {}).get("video", {}).get("height")
        with _readable(self.path):
            for frames in self.frames():
                pixels = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
                times = pixels.shape[2] // made if made else 1
                yield avg_pool2d(pixels, times) if times > 1 else pixels

    def frames(self) -> Iterator[Frames]:
        """The frames as they stand in the file, uint8 "f h w 3"."""
        suffix = "" if self.path.is_dir() else self.path.suffix.lower()
        match suffix:
            case ".npz":
                return _npz(self.path)
            case "":
                return _pngs(self.path)
            case ".gif" | ".webp":
                whole = read(self.path).frames
                return (whole[at : at + WINDOW] for at in range(0, len(whole), WINDOW))
        return _pictures(self.path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a decoder raises on a broken file becomes an OutputError: each has errors of its own kinds."""
    try:
        yield
    except DovetailError:
        raise
    except Exception as error:
        raise OutputError(f"{path} is no video that can be read: {error or type(error).__name__}") from None


def _inside(path: Path) -> tuple[dict[str, Any], float | None]:
    """The settings and the frame rate that a file carries itself."""
    if path.is_dir() or path.suffix.lower() in (".gif", ".webp"):
        return {}, None
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as file, file.open("settings.npy") as text, file.open("fps.npy") as rate:
            return settings_in(str(_array(text))), float(_array(rate))
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no picture")
        rate = container.streams.video[0].average_rate
        return settings_in(container.metadata.get("comment", "")), float(rate or 24)


def _array(entry: Any) -> Any:
    return np.lib.format.read_array(entry, allow_pickle=False)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _pictures(path: Path) -> Iterator[Frames]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            yield np.ascontiguousarray(upright)[None]


def _npz(path: Path) -> Iterator[Frames]:
    with zipfile.ZipFile(path) as file, file.open("frames.npy") as entry:
        np.lib.format.read_magic(entry)
        shape, order, kind = np.lib.format.read_array_header_1_0(entry)
        if order or kind != np.uint8 or len(shape) != 4:
            raise ValueError(f"its frames are {kind} {shape}")
        for at in range(0, shape[0], WINDOW):
            part = (min(WINDOW, shape[0] - at), *shape[1:])
            yield np.frombuffer(entry.read(int(np.prod(part))), np.uint8).reshape(part)


def _pngs(path: Path) -> Iterator[Frames]:
    from PIL import Image

    for file in pngs(path):
        with Image.open(file) as image:
            yield rgb(image)[None]
