"""Files to videos, and the settings that they carry."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.errors import OutputError
from dovetail.video.clip import Video
from dovetail.video.frames import Frames
from dovetail.video.places import manifest_of, reason


def read(path: str | Path) -> Video:
    """A video from any file that `Video.save` writes, or any mp4. Raises OutputError if there is none."""
    source = _existing(path)
    readers = {".npz": _read_npz, ".gif": _read_image, ".webp": _read_image, "": _read_pngs}
    try:
        return Video(*readers.get("" if source.is_dir() else source.suffix.lower(), _read_av)(source))
    except Exception as error:  # on a broken file, each decoder raises errors of its own kinds
        raise OutputError(f"{source} is no video that can be read: {reason(error)}") from None


def settings_of(path: str | Path) -> dict[str, Any]:
    """The settings inside a file, or in the manifest beside it. Raises OutputError if there are none."""
    source = _existing(path)
    settings = settings_in(_text(source)) if source.suffix == ".json" else dict(read(source).settings)
    if not settings:
        raise OutputError(f"{source} carries no settings of dovetail, and there is no {manifest_of(source)}")
    return settings


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise OutputError(f"no video at {path}")
    return Path(path)


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
        settings = settings_in(container.metadata.get("comment", ""))
        return np.stack(frames), float(stream.average_rate or 24), settings or _beside(path)


def _upright(frame: Any) -> Frames:
    """A frame as players show it: telephones film sideways and note the turn."""
    turned: Frames = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return turned


def settings_in(text: str) -> dict[str, Any]:
    """The settings in a comment or a manifest; those of other programs say nothing to us."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("recipe"), dict) else {}


def _read_npz(path: Path) -> Read:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return file["frames"], float(file["fps"]), settings_in(str(file["settings"])) or _beside(path)


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


def pngs(folder: Path) -> list[Path]:
    """The frames in a folder, in the order of the numbers in their names. Raises ValueError where there are none."""
    if files := sorted(folder.glob("*.png"), key=_numbered):
        return files
    film = folder / "video.mp4"
    raise ValueError(
        f"no PNG in it; it is a run's folder, whose frames are in {film}" if film.exists() else "no PNG in it"
    )


def _numbered(path: Path) -> list[tuple[int, str]]:
    """What orders names as people count: 2 before 10."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _read_pngs(path: Path) -> Read:
    from PIL import Image

    frames = []
    for file in pngs(path):
        with Image.open(file) as image:
            frames.append(rgb(image))
    settings = _beside(path)
    return np.stack(frames), _fps(settings), settings


def rgb(image: Any) -> Frames:
    """A picture's pixels. Pillow cuts gray of 16 bits at 255, so its upper eight bits are taken here."""
    if image.mode.startswith("I"):
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _fps(settings: Mapping[str, Any]) -> float:
    """Frames per second by the settings; 8 where they say nothing."""
    return float(settings.get("recipe", {}).get("video", {}).get("fps", 8.0))


def _beside(path: Path) -> dict[str, Any]:
    manifest = manifest_of(path)
    return settings_in(_text(manifest)) if manifest.is_file() else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
