"""Files to frames, some at a time: a long video is never whole in memory.

Formats that are kept whole while they are written (.gif, .webp) are read whole.
"""

import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
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

    lost: what is in the file and not in its frames, as sound, in words. stands: how long its pictures stand, where that is
    not the same for all.
    """

    path: Path
    settings: Mapping[str, Any] = field(repr=False)
    fps: float
    lost: str | None = None
    stands: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, path: str | Path) -> "Footage":
        """Open a file, or a folder of pictures. Raises OutputError where there is none, or none that can be read."""
        source = Path(path)
        if not source.exists():
            raise OutputError(f"no video at {source}")
        with readable(source):
            inside = _kind_of(source).facts(source)
            settings = inside.settings or beside(source)
            fps = speed_of(settings) if inside.fps is None else inside.fps
            if not 0 < fps < math.inf:
                raise ValueError(f"it says that it has {fps} frames per second")
        return cls(source, settings, fps, inside.lost, inside.stands)

    def __iter__(self) -> Iterator[Tensor]:
        made = self.settings.get("recipe", {}).get("video", {}).get("height")
        for frames in self.frames():
            pixels = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
            times = pixels.shape[2] // made if made else 1
            yield avg_pool2d(pixels, times) if times > 1 else pixels

    def frames(self) -> Iterator[Frames]:
        """The frames as they stand in the file, uint8 "f h w 3", upright, and evenly in time. Raises OutputError where
        they cannot be read, or are of several sizes."""
        with readable(self.path):
            size: tuple[int, ...] | None = None
            for frames in _kind_of(self.path).frames(self.path, self.stands):
                size = size or frames.shape[1:]
                if frames.shape[1:] != size:
                    (height, width, _), (first, across, _) = frames.shape[1:], size
                    raise ValueError(f"a frame of it is {width}x{height}, and those before are {across}x{first}")
                yield frames
            if size is None:
                raise ValueError("it has no frames")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a decoder raises on a broken file becomes an OutputError: each has errors of its own kinds."""
    try:
        yield
    except DovetailError:
        raise
    except Exception as error:
        raise OutputError(f"{path} is no video that can be read: {reason(error)}") from None


class Facts(NamedTuple):
    """What a file itself says: the settings, frames per second, what of it is lost, and how long its pictures stand."""

    settings: Mapping[str, Any] = {}
    fps: float | None = None
    lost: str | None = None
    stands: Any = None


class Kind(NamedTuple):
    """How a kind of file is read: what it says, and its frames, given how long its pictures stand."""

    facts: Callable[[Path], Facts]
    frames: Callable[[Path, Any], Iterator[Frames]]


def _kind_of(path: Path) -> Kind:
    return KINDS.get("" if path.is_dir() else path.suffix.lower(), ANY)


# --- what ffmpeg reads -------------------------------------------------------------------------------------------


def _film(path: Path) -> Facts:
    import av

    with av.open(str(path)) as container:
        stream = _stream_of(container)
        settings, fps = settings_in(container.metadata.get("comment", "")), float(stream.average_rate or 24)
        unit, lost = pace(_times(container)), SOUND if container.streams.audio else None
    return Facts(settings, 1 / unit if unit else fps, lost, unit)


SOUND = "its sound is left out"


def _stream_of(container: Any) -> Any:
    """The stream that is the film: a cover is one, too."""
    if (stream := container.streams.best("video")) is None:
        raise ValueError("it has no picture")
    return stream


def _times(container: Any) -> list[float]:
    """When each picture is shown, in seconds, in order; nothing is decoded. None at all where the file goes back in time,
    as one that was joined of several does."""
    stream = _stream_of(container)
    packets = [(packet.dts, packet.pts) for packet in container.demux(stream) if packet.pts is not None]
    told = [dts for dts, _ in packets if dts is not None]
    if any(later < dts for dts, later in pairwise(told)):
        return []
    return sorted({float(pts * stream.time_base) for _, pts in packets})


FILLED = 3
"""At most so many times as many frames as there are pictures are made of a film whose pictures do not follow evenly."""


def pace(times: Sequence[float]) -> float | None:
    """Seconds of a frame, where pictures that are shown at these times do not follow each other evenly: telephones and
    recorders of screens leave out those that show nothing new. None where they do, but for rounding and for the turns of a
    film in a faster one's time; and where no frame's length says how long they stand.

    >>> pace([0.0, 0.1, 0.2, 0.3]), pace([0.0, 2 / 60, 5 / 60, 7 / 60, 10 / 60])
    (None, None)
    >>> pace([0.0, 0.25, 0.5, 1.0, 1.25, 1.5])  # one is left out
    0.25
    >>> pace([0.0, 5.0, 5.5, 12.0])  # slides
    """
    steps = sorted(later - time for time, later in pairwise(times))
    if len(steps) < 2:
        return None
    whole = times[-1] - times[0]
    if all(abs(step * len(steps) / whole - 1) < 0.25 for step in steps):
        return None
    for shorter, shortest in enumerate(steps[: 1 + len(steps) // 20]):
        like = [step for step in steps[shorter:] if step < 1.4 * shortest]
        if len(like) >= max(2, len(steps) / 10):
            unit = fmean(like)
            return unit if whole / unit < FILLED * len(times) else None
    return None


def _filmed(path: Path, unit: float | None) -> Iterator[Frames]:
    import av

    with av.open(str(path)) as container:
        shown = container.decode(_stream_of(container))
        if unit is None:
            yield from (_upright(frame) for frame in shown)
        else:
            yield from _stretched(((frame.time, _upright(frame)) for frame in shown), unit)


def _upright(frame: Any) -> Frames:
    """A frame "1 h w 3" as players show it: telephones film sideways and note the turn."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))[None]


def _stretched(shown: Iterable[tuple[float | None, Shown]], unit: float) -> Iterator[Shown]:
    """Each of what is shown from some second on, as often as it stands until the next at so many seconds each, and once
    at least.

    >>> list(_stretched([(0.0, "a"), (0.1, "b"), (0.2, "c"), (0.5, "d"), (0.51, "e"), (0.7, "f")], 0.1))
    ['a', 'b', 'c', 'c', 'c', 'd', 'e', 'f']
    """
    held, place, begun = list[Shown](), 0, 0.0
    for time, one in shown:
        begun = begun if held else time or 0.0
        now = place + 1 if time is None else max(place + 1, round((time - begun) / unit))
        if held:
            yield from held * (now - place)
            place = now
        held = [one]
    yield from held


# --- arrays ------------------------------------------------------------------------------------------------------


def _array(path: Path) -> Facts:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        if "frames" not in file:
            raise ValueError(f"it has no array 'frames', but {', '.join(file) or 'none'}")
        settings = settings_in(str(file["settings"])) if "settings" in file else {}
        return Facts(settings, float(file["fps"]) if "fps" in file else None)


def _arrays(path: Path, _: Any) -> Iterator[Frames]:
    with zipfile.ZipFile(path) as file, file.open("frames.npy") as entry:
        version = np.lib.format.read_magic(entry)
        header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, order, kind = header(entry)
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ValueError(f"its frames are {kind} {shape}, not uint8 'f h w 3'")
        if order:  # column by column, so that no frame lies together
            yield np.lib.format.read_array(file.open("frames.npy"), allow_pickle=False)
            return
        for at in range(0, shape[0], ONCE):
            part = (min(ONCE, shape[0] - at), *shape[1:])
            yield np.frombuffer(entry.read(int(np.prod(part))), np.uint8).reshape(part)


# --- pictures ----------------------------------------------------------------------------------------------------

PICTURES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".webp": "WebP",
}
"""What frames in a folder may be, in whatever case."""


def _folder(path: Path) -> Facts:
    return Facts(lost=CLEAR if any(map(_shows_through, _pictures_in(path))) else None)


def _shows_through(file: Path) -> bool:
    from PIL import Image

    with Image.open(file) as image:
        return _clear(image)


def _singles(path: Path, _: Any) -> Iterator[Frames]:
    from PIL import Image, ImageOps

    for file in _pictures_in(path):
        with Image.open(file) as image:
            yield _rgb(ImageOps.exif_transpose(image))[None]


def _pictures_in(folder: Path) -> list[Path]:
    """The frames in a folder, in the order of the numbers in their names: its PNG, or what else there is, of one kind.
    Raises ValueError where there are none, or of two kinds, of which one may be something else."""
    found = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != "."]
    found = [file for file in found if file.suffix.lower() == ".png"] or found
    kinds = sorted({PICTURES[file.suffix.lower()] for file in found})
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


def _animation(path: Path) -> Facts:
    from PIL import Image, ImageSequence

    times, clear = [], False
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frame.load()  # WebP says how long only then
            times.append(float(image.info.get("duration", 0)))
            clear = clear or _clear(frame)
    settings = beside(path)
    unit = 1000 / speed_of(settings) if settings else min(filter(None, times), default=125.0)
    # Encoders join equal frames into one that lasts longer, so a frame stands for as many as its time holds.
    counts = [max(1, round(time / unit)) for time in times]
    fps = speed_of(settings) if settings else 1000 * sum(counts) / sum(time or unit for time in times)
    return Facts(settings, fps, CLEAR if clear else None, counts)


def _animated(path: Path, counts: Sequence[int]) -> Iterator[Frames]:
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        for frame, count in zip(ImageSequence.Iterator(image), counts, strict=True):
            yield np.repeat(_rgb(frame)[None], count, axis=0)


ANY = Kind(_film, _filmed)
KINDS = {
    ".npz": Kind(_array, _arrays),
    ".gif": Kind(_animation, _animated),
    ".webp": Kind(_animation, _animated),
    "": Kind(_folder, _singles),
}
"""How each kind of file is read, by its suffix; all others by ffmpeg."""
