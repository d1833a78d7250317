"""Whole videos from files, and the settings that files carry."""

from pathlib import Path
from typing import Any

import numpy as np

from dovetail.errors import OutputError
from dovetail.video.carried import settings_in, text_of
from dovetail.video.clip import Video
from dovetail.video.footage import Footage, readable
from dovetail.video.places import manifest_of


def read(path: str | Path) -> Video:
    """A video from any file that `Video.save` writes, any other that ffmpeg reads, or a folder of pictures. Raises
    OutputError if there is none."""
    footage = Footage.of(path)
    with readable(footage.path):
        return Video(np.concatenate(list(footage.frames())), footage.fps, dict(footage.settings))


def settings_of(path: str | Path) -> dict[str, Any]:
    """The settings inside a file, or in the manifest beside it. Raises OutputError if there are none."""
    source = Path(path)
    if source.suffix == ".json" and source.is_file():
        settings = settings_in(text_of(source))
    else:
        settings = dict(Footage.of(source).settings)
    if not settings:
        raise OutputError(f"{source} carries no settings of dovetail, and there is no {manifest_of(source)}")
    return settings
