"""Files to frames, some at a time: a long video is never whole in memory.

Formats that are kept whole while they are written (.gif, .webp) are read whole.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dovetail.errors import DovetailError, OutputError
from dovetail.video.carried import beside, settings_in, speed_of
from dovetail.video.frames import Frames
from dovetail.video.places import reason

Shown = TypeVar("Shown")

ONCE = 16
"""Frames at a time, of files that hold them plain."""


@dataclass(frozen=True, eq=False)
class Footage:
    """A video's file: the settings that made it, as far as it says, its speed, and, by iteration, its frames "f 3 h w"
    in [-1, 1]. It may be iterated again. Files enlarged for looking at are shrunk to the size that was made.

    lost: what is in the file and not in its frames, as sound, in words.
    """

    path: Path
    settings: Mapping[str, Any] = field(repr=False)
    fps: float
    lost: str | None = None

    @classmethod
    def of(cls, path: str | Path) -> "Footage":
        """Open a file, or a folder of pictures. Raises OutputError where there is none, or none that can be read."""
        source = Path(path)
        if not source.exists():
            raise OutputError(f"no video at {source}")
        with _readable(source):
            inside = _kind_of(source).facts(source)
        settings = inside.settings or beside(source)
        return cls(source, settings, inside.fps or speed_of(settings), inside.lost)

    def __iter__(self) -> Iterator[Tensor]:
        made = self.settings.get("recipe", {}).get("video", {}).get("height")
        for frames in self.frames():
            pixels = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
            times = pixels.shape[2] // made if made else 1
            yield avg_pool2d(pixels, times) if times > 1 else pixels

    def frames(self) -> Iterator[Frames]:
        """The frames as they stand in the file, uint8 "f h w 3", upright, and evenly in time. Raises OutputError where
        they cannot be read, or are of several sizes."""
        with _readable(self.path):
            size: tuple[int, ...] | None = None
            for frames in _kind_of(self.path).frames(self.path):
                size = size or frames.shape[1:]
                if frames.shape[1:] != size:
                    (height, width, _), (first, across, _) = frames.shape[1:], size
                    raise ValueError(f"a frame of it is {width}x{height}, and those before are {across}x{first}")
                yield frames
            if size is None:
                raise ValueError("it has no frames")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a decoder raises on a broken file becomes an OutputError: each has errors of its own kinds."""
    try:
        yield
    except DovetailError:
        raise
    except Exception as error:
        raise OutputError(f"{path} is no video that can be read: {reason(error)}") from None


class Facts(NamedTuple):
    """What a file itself says: the settings, frames per second, and what of it is lost."""

    settings: Mapping[str, Any] = {}
    fps: float | None = None
    lost: str | None = None


class Kind(NamedTuple):
    facts: Callable[[Path], Facts]
    frames: Callable[[Path], Iterator[Frames]]


def _kind_of(path: Path) -> Kind:
    return KINDS.get("" if path.is_dir() else path.suffix.lower(), ANY)


# --- what ffmpeg reads -------------------------------------------------------------------------------------------


def _film(path: Path) -> Facts:
    import av

    with av.open(str(path)) as container:
        stream = _stream_of(container)
        settings = settings_in(container.metadata.get("comment", ""))
        fps = float(stream.average_rate or 24)
        times = _times(container)
        fps = fps if _even(times) else 1 / _usual(times)
        return Facts(settings, fps, "its sound is left out" if container.streams.audio else None)


def _stream_of(container: Any) -> Any:
    """The stream that is the film: a cover is one, too."""
    if (stream := container.streams.best("video")) is None:
        raise ValueError("it has no picture")
    return stream


def _times(container: Any) -> list[float]:
    """When each picture is shown, in seconds; nothing is decoded."""
    stream = _stream_of(container)
    shown = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
    return [float(pts * stream.time_base) for pts in shown]


def _even(times: Sequence[float]) -> bool:
    """Whether pictures follow each other evenly, but for the rounding of their times: telephones and recorders of screens
    leave out those that show nothing new."""
    return len(times) < 2 or len(_close(times)) == len(times) - 1


def _close(times: Sequence[float]) -> list[float]:
    """The steps from picture to picture that are as most are."""
    steps = [later - time for time, later in pairwise(times)]
    usual = median(steps)
    return [step for step in steps if 0.5 * usual <= step <= 1.5 * usual]


def _usual(times: Sequence[float]) -> float:
    """Seconds from picture to picture, where nothing is left out."""
    return fmean(_close(times))


def _filmed(path: Path) -> Iterator[Frames]:
    import av

    with av.open(str(path)) as container:
        times = _times(container)
    with av.open(str(path)) as container:
        shown = container.decode(_stream_of(container))
        if _even(times):
            yield from (_upright(frame) for frame in shown)
        else:
            yield from _stretched(((frame.time, _upright(frame)) for frame in shown), _usual(times))


def _upright(frame: Any) -> Frames:
    """A frame "1 h w 3" as players show it: telephones film sideways and note the turn."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))[None]


def _stretched(shown: Iterable[tuple[float, Shown]], unit: float) -> Iterator[Shown]:
    """Each of what is shown from some second on, as often as it stands until the next at so many seconds each.

    >>> list(_stretched([(0.0, "a"), (0.1, "b"), (0.2, "c"), (0.5, "d"), (0.51, "e"), (0.6, "f")], 0.1))
    ['a', 'b', 'c', 'c', 'c', 'e', 'f']
    """
    held, place, begun = list[Shown](), 0, 0.0
    for time, one in shown:
        begun = begun if held else time
        now = round((time - begun) / unit)
        yield from held * (now - place)
        held, place = [one], now
    yield from held


# --- arrays ------------------------------------------------------------------------------------------------------


def _array(path: Path) -> Facts:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        if "frames" not in file:
            raise ValueError(f"it has no array 'frames', but {', '.join(file) or 'none'}")
        settings = settings_in(str(file["settings"])) if "settings" in file else {}
        return Facts(settings, float(file["fps"]) if "fps" in file else None)


def _arrays(path: Path) -> Iterator[Frames]:
    with zipfile.ZipFile(path) as file, file.open("frames.npy") as entry:
        version = np.lib.format.read_magic(entry)
        header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, order, kind = header(entry)
        if order or kind != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ValueError(f"its frames are {kind} {shape}, not uint8 'f h w 3'")
        for at in range(0, shape[0], ONCE):
            part = (min(ONCE, shape[0] - at), *shape[1:])
            yield np.frombuffer(entry.read(int(np.prod(part))), np.uint8).reshape(part)


# --- pictures ----------------------------------------------------------------------------------------------------

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""What frames in a folder may be, in whatever case."""


def _folder(path: Path) -> Facts:
    from PIL import Image

    with Image.open(_pictures_in(path)[0]) as image:
        return Facts(lost=CLEAR if _clear(image) else None)


def _singles(path: Path) -> Iterator[Frames]:
    from PIL import Image

    for file in _pictures_in(path):
        with Image.open(file) as image:
            yield _rgb(image)[None]


def _pictures_in(folder: Path) -> list[Path]:
    """The frames in a folder, in the order of the numbers in their names. Raises ValueError where there are none, or of two
    kinds, of which one may be something else."""
    found = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != "."]
    kinds = sorted({file.suffix.lower() for file in found})
    if len(kinds) > 1:
        raise ValueError(f"pictures of {len(kinds)} kinds are in it, {' and '.join(kinds)}; leave those of the video")
    if not found:
        film = folder / "video.mp4"
        raise ValueError(
            f"no picture in it ({', '.join(PICTURES)})"
            + (f"; it is a run's folder, whose frames are in {film}" if film.exists() else "")
        )
    return sorted(found, key=_numbered)


def _numbered(path: Path) -> list[tuple[int, str]]:
    """What orders names as people count: 2 before 10."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


CLEAR = "what is clear in it is black here"


def _clear(image: Any) -> bool:
    """Whether something in a picture is transparent."""
    return bool(image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255)


def _rgb(image: Any) -> Frames:
    """A picture's pixels, those that are clear over black. Pillow cuts gray of 16 bits at 255, so its upper eight bits
    are taken here."""
    from PIL import Image

    if image.mode.startswith("I"):
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if _clear(image):
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _moving(path: Path) -> tuple[list[Frames], list[float]]:
    """An animated picture's frames, and how many milliseconds each is shown; 0 where that is not said."""
    from PIL import Image, ImageSequence

    frames, times = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(_rgb(frame))
            times.append(float(image.info.get("duration", 0)))
    return frames, times


def _animation(path: Path) -> Facts:
    _, times = _moving(path)
    settings = beside(path)
    counts = _counts(times, settings)
    fps = speed_of(settings) if settings else 1000 * sum(counts) / sum(time or _unit(times) for time in times)
    return Facts(settings, fps)


def _animated(path: Path) -> Iterator[Frames]:
    frames, times = _moving(path)
    for frame, count in zip(frames, _counts(times, beside(path)), strict=True):
        yield np.repeat(frame[None], count, axis=0)


def _unit(times: Sequence[float]) -> float:
    return min(filter(None, times), default=125.0)


def _counts(times: Sequence[float], settings: Mapping[str, Any]) -> list[int]:
    """Encoders join equal frames into one that lasts longer, so a frame stands for as many as its time holds."""
    unit = 1000 / speed_of(settings) if settings else _unit(times)
    return [max(1, round(time / unit)) for time in times]


ANY = Kind(_film, _filmed)
KINDS = {
    ".npz": Kind(_array, _arrays),
    ".gif": Kind(_animation, _animated),
    ".webp": Kind(_animation, _animated),
    "": Kind(_folder, _singles),
}
"""How each kind of file is read, by its suffix; all others by ffmpeg."""
