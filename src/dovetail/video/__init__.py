"""A video and its files.

What a file is follows from its name: .mp4 (H.264, plays in any browser), .gif and .webp (animated),
.npz (lossless), and a folder of PNG for a name without suffix. The first three are shown larger,
in whole multiples, when the video is smaller than a screen shows well; the others keep the pixels.

What made a video stands in its manifest: OUT.mp4.json beside OUT.mp4, dovetail.json inside a folder;
an .mp4 and an .npz carry it inside as well. A file that is there already is replaced, whole; so is a
folder of PNG, but only one that dovetail wrote. Read is, besides, whatever ffmpeg reads, and folders of
pictures of other kinds.
"""

from dovetail.video.clip import Video
from dovetail.video.encoders import CRF, ENCODERS
from dovetail.video.footage import Footage
from dovetail.video.frames import Frames, enlarged
from dovetail.video.growing import Growing, save_indexed, writing
from dovetail.video.places import checked_output, manifest_of
from dovetail.video.reading import read, settings_of
from dovetail.video.showing import beside, evenly, save_image, sheet, stacked, strip

__all__ = [
    "CRF",
    "ENCODERS",
    "Footage",
    "Frames",
    "Growing",
    "Video",
    "beside",
    "checked_output",
    "enlarged",
    "evenly",
    "manifest_of",
    "read",
    "save_image",
    "save_indexed",
    "settings_of",
    "sheet",
    "stacked",
    "strip",
    "writing",
]
