"""A long video, frame by frame as it is made: the first frames are written while the last do not exist yet.

Memory does not grow with length. With trained experts take the recipe `sprites-long`.
"""

import dovetail
from dovetail.video import writing

prompt = "a red circle moving right on a teal striped background"
frames, lengths = 48, []

with writing("out/long.mp4", fps=8) as growing:
    for piece in dovetail.stream(prompt, recipe="sprites-long-exact", frames=frames, seed=2):
        growing.add(piece)
        lengths.append(len(piece))
        print(f"{growing.length} of {frames} frames are written")
    growing.settings = {"prompt": prompt}
