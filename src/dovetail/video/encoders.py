"""Frames to files, as they come: an encoder for each format."""

import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dovetail.errors import RunWarning
from dovetail.video.frames import Frames, enlarged


class Encoder(Protocol):
    """What turns frames uint8 "f h w c" into a file, as they come."""

    def add(self, frames: Frames) -> None: ...

    def end(self, settings: Mapping[str, Any]) -> None:
        """Make the file whole."""
        ...

    def close(self) -> None:
        """Let go of the file, whole or not."""
        ...


CRF = 16
"""How much H.264 may lose: 0 is nothing, and 6 more halves the file. At 16 one does not see it."""


class _Mp4:
    """H.264, encoded as frames come. The settings, known only at the end, and the index then go in front."""

    def __init__(self, path: Path, fps: float, crf: int = CRF, enlarge: bool = True) -> None:
        import av

        self.path, self.fps, self.crf, self.enlarge = path, fps, crf, enlarge
        self.container = av.open(str(path), "w", format="mp4")
        self.stream: Any = None

    def add(self, frames: Frames) -> None:
        import av

        frames = enlarged(frames) if self.enlarge else frames
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
            indexed(self.path, whole, settings)
            whole.replace(self.path)
        finally:
            whole.unlink(missing_ok=True)

    def close(self) -> None:
        self.container.close()


def indexed(source: Path, target: Path, settings: Mapping[str, Any]) -> None:
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


KEPT = 500
"""Frames of an animated picture above which a warning says that they all wait in memory."""


def warn_of_waiting(suffix: str, frames: int) -> None:
    """Warn with RunWarning of a video of so many frames in a format whose frames wait in memory until the end."""
    if suffix in (".gif", ".webp") and frames > KEPT:
        warnings.warn(
            f"all frames of a {suffix} wait in memory until the video ends, and these are more than {KEPT}; an .mp4 is "
            "written as it comes, whatever its length (-o NAME.mp4)",
            RunWarning,
            stacklevel=3,
        )


class _Kept:
    """An animated picture, for which all frames are kept until the end, as Pillow does too. unit: of its durations, in
    milliseconds."""

    def __init__(self, path: Path, fps: float, unit: int, options: Mapping[str, Any], enlarge: bool = True) -> None:
        self.path, self.fps, self.unit, self.options, self.enlarge = path, fps, unit, options, enlarge
        self.frames: list[Frames] = []

    def add(self, frames: Frames) -> None:
        self.frames.append(frames)

    def end(self, settings: Mapping[str, Any]) -> None:
        frames = np.concatenate(self.frames)
        first, *rest = _images(enlarged(frames) if self.enlarge else frames)
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
