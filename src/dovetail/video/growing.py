"""Videos that are written while they are made."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dovetail.errors import OutputError
from dovetail.video.encoders import ENCODERS, Encoder, indexed
from dovetail.video.frames import Frames
from dovetail.video.places import INSIDE, checked_output, manifest_of, suffix_of, whole


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
def writing(path: str | Path, fps: float, crf: int | None = None, enlarge: bool = True) -> Iterator[Growing]:
    """Write a video while it is being made; it appears with its manifest, whole or not at all.

    What is added to an .mp4, an .npz or a folder is on the disk and out of memory; what is added to a .gif or a .webp
    is kept until the end. crf: how much an .mp4 may lose, see `CRF`. enlarge: small pictures where a player would blur
    them, in .mp4, .gif and .webp. Raises
    OutputError as `Video.save` does, for a video without frames or settings, and for a crf of what loses nothing.
    """
    target = checked_output(path, fps)
    if crf is not None and suffix_of(target) != ".mp4":
        raise OutputError(f"cannot write {target}: crf is said of .mp4; other files keep every pixel")
    options: dict[str, Any] = {} if crf is None else {"crf": crf}
    options |= {} if enlarge or suffix_of(target) not in (".mp4", ".gif", ".webp") else {"enlarge": False}
    # The manifest is ready before the video takes its name, so that none is seen with an older one.
    with whole(target) as part, whole(manifest_of(target)) if target.suffix else nullcontext() as manifest:
        with closing(ENCODERS[suffix_of(target)](part, fps, **options)) as encoder:
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
    with whole(target) as part, whole(manifest_of(target)) as manifest:
        indexed(source, part, settings)
        _manifest(beside, manifest)
    return target


def _manifest(settings: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
