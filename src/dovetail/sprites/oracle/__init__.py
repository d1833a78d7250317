"""The oracle: says what a sprite video shows, and whether that was asked. Analysis by synthesis, nothing learned.

`judge` a video, `judge_frames` still images, `events` in their order, `average` of many verdicts.
"""

from dovetail.sprites.oracle.events import events
from dovetail.sprites.oracle.judge import FrameVerdict, Verdict, average, judge, judge_frames

__all__ = ["FrameVerdict", "Verdict", "average", "events", "judge", "judge_frames"]
