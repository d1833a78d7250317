"""Refine a given video: a flat disc slides over a flat ground, and a prompt says what it should look like.

On the command line: dovetail refine out/draft.mp4 "PROMPT" -r sprites-exact --strength 300
"""

import numpy as np

import dovetail

y, x = np.mgrid[0:64, 0:64]
frames = np.empty((16, 64, 64, 3), np.uint8)
frames[:] = (20, 122, 128)
for i, frame in enumerate(frames):
    frame[np.hypot(x - 12 - 2 * i, y - 34) < 11] = (230, 30, 30)
draft = dovetail.Video(frames, fps=8)
draft.save("out/draft.mp4")

# strength is T_e, the timestep up to which noise is added: more changes more.
refined = dovetail.refine(
    "out/draft.mp4",
    "a dotted red circle moving right on a teal striped background",
    recipe="sprites-exact",
    strength=300,
)
refined.save("out/refined.mp4")
