"""The video of a run while it grows: an mp4 of fragments, which plays however it is cut.

Each piece is a fragment: one closed group of pictures, from an encoder of its own with one thread, so that its bytes
hang on nothing but its frames. A box that players skip stands behind it and says its number and its checksum. What fits
from the start is the video; what does not is cut off and encoded again from the latents.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from struct import pack, unpack
from typing import Any, BinaryIO

import numpy as np

from dovetail.run.sealed import unwritten
from dovetail.video import CRF, Frames, enlarged
from dovetail.video.places import settled

ALWAYS_THE_SAME = {"crf": str(CRF), "threads": "1", "x264-params": "mbtree=0"}
"""How x264 is asked. With macroblock trees, its default, it made other bytes of the same small frames (32x32) now and
then, from one process to another; without them it did not."""


@dataclass(frozen=True)
class Grown:
    """What is whole of a growing video: so many pieces and frames, which end at this byte."""

    pieces: int = 0
    frames: int = 0
    end: int = 0


def grown(path: Path, identity: str) -> Grown:
    """What is whole of a video that a run of this identity made; nothing if there is none."""
    found, head = Grown(), b""
    try:
        with path.open("rb") as file:
            head = b"".join(_box_at(file, kind) for kind in (b"ftyp", b"moov"))
            while True:
                fragment = b"".join(_box_at(file, kind) for kind in (b"moof", b"mdat"))
                said = json.loads(_box_at(file, b"free")[8:])
                if said != _said(identity, found.pieces, said["frames"], head + fragment):
                    return found
                found = Grown(found.pieces + 1, found.frames + said["frames"], file.tell())
    except (OSError, ValueError, KeyError, TypeError):
        return found


def _box_at(file: BinaryIO, kind: bytes) -> bytes:
    """The next box of an mp4, which must be of this kind and whole; else ValueError."""
    head = file.read(8)
    size = unpack(">I", head[:4])[0] if len(head) == 8 else 0
    rest = file.read(size - 8) if head[4:] == kind and size >= 8 else b""
    if len(head) + len(rest) != size or not size:
        raise ValueError(f"no whole {kind.decode()} box")
    return head + rest


def _said(identity: str, number: int, frames: int, data: bytes) -> dict[str, Any]:
    """What stands behind a fragment; `data` is the video's head and the fragment."""
    said = {"run": identity, "number": number, "frames": frames}
    return {**said, "sha256": hashlib.sha256(json.dumps(said).encode() + data).hexdigest()}


@dataclass(frozen=True)
class Film:
    """A growing video on the disk. fps: frames per second; identity: of the run that makes it."""

    path: Path
    fps: float
    identity: str

    def add(self, frames: Frames, upon: Grown) -> Grown:
        """Write frames uint8 "f h w c" behind what is whole, and make sure that they stay. Raises OutputError."""
        head, fragment = encoded(frames, upon.frames, upon.pieces, self.fps)
        said = _said(self.identity, upon.pieces, len(frames), head + fragment)
        data = fragment + _box(b"free", json.dumps(said).encode())
        if not upon.pieces:
            data = head + data
        try:
            self._write(data, upon.end)
        except OSError as error:
            raise unwritten(self.path, error) from None
        return Grown(upon.pieces + 1, upon.frames + len(frames), upon.end + len(data))

    def cut(self, upon: Grown) -> None:
        """Cut off what is not whole. Raises OutputError."""
        try:
            if self.path.exists() and self.path.stat().st_size > upon.end:
                self._write(b"", upon.end)
        except OSError as error:
            raise unwritten(self.path, error) from None

    def _write(self, data: bytes, end: int) -> None:
        new = not self.path.exists()
        with self.path.open("wb" if new else "r+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            settled(self.path.parent)


def encoded(frames: Frames, first: int, number: int, fps: float) -> tuple[bytes, bytes]:
    """The head of an mp4, and a fragment of it with these frames; `first` is how many came before them."""
    import av

    rate, file = Fraction(fps).limit_denominator(1001), io.BytesIO()
    options = {"movflags": "empty_moov+default_base_moof", "video_track_timescale": str(rate.numerator)}
    shown = enlarged(frames)
    with av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options=ALWAYS_THE_SAME)
        stream.height, stream.width, stream.pix_fmt = shown.shape[1], shown.shape[2], "yuv420p"
        container.start_encoding()
        head = file.getvalue()
        packets = []
        for i, picture in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            packets += stream.encode(frame)
        packets += stream.encode()
        # In the order of decoding; how much later each is shown may be less than nothing.
        shifts = [int(packet.pts) - i for i, packet in enumerate(packets)]
        keys, data = [packet.is_keyframe for packet in packets], [_with_lengths(bytes(packet)) for packet in packets]
    samples = [(len(one), key, shift * rate.denominator) for one, key, shift in zip(data, keys, shifts, strict=True)]
    moof = _moof(number + 1, first * rate.denominator, rate.denominator, samples)
    return head, moof + _box(b"mdat", *data)


def _with_lengths(packet: bytes) -> bytes:
    """H.264 as it stands in an mp4: a length before each unit, where streams have a mark."""
    units = [unit for unit in re.split(rb"\x00{2,3}\x01", packet) if unit]
    return b"".join(pack(">I", len(unit)) + unit for unit in units)


def _box(kind: bytes, *parts: bytes) -> bytes:
    size = 8 + sum(len(part) for part in parts)
    return b"".join((pack(">I", size), kind, *parts))


def _moof(number: int, time: int, duration: int, samples: Sequence[tuple[int, bool, int]]) -> bytes:
    """The index of a fragment (ISO/IEC 14496-12, 8.8). time: of its first frame; duration: of each, both in the track's
    unit; samples: of each frame its bytes, whether decoding can begin there, and by how much it is shown later."""

    def boxes(offset: int) -> Iterator[bytes]:
        yield _box(b"mfhd", pack(">II", 0, number))
        rows = (pack(">IIi", size, 0x02000000 if key else 0x01010000, shift) for size, key, shift in samples)
        yield _box(
            b"traf",
            _box(b"tfhd", pack(">III", 0x020008, 1, duration)),  # offsets count from this box; one duration for all
            _box(b"tfdt", pack(">IQ", 0x01000000, time)),
            _box(b"trun", pack(">IIi", 0x01000E01, len(samples), offset), *rows),  # size, flags, signed shift
        )

    size = len(_box(b"moof", *boxes(0)))
    return _box(b"moof", *boxes(size + 8))
