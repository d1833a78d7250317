"""A run is a generator of steps, pieces of video and an end: show them as you like, and stop by not asking for the next."""

import dovetail
from dovetail import recipe

asked = recipe.changed(
    recipe.load("sprites-long-exact"),
    {"prompt": "a red circle moving left on a white plain background", "video.frames": 64},
)
pieces = []
for event in dovetail.play(asked):
    match event:
        case dovetail.Step(stage=stage, step=step, steps=steps):
            print(f"{stage}: step {step} of {steps}")
        case dovetail.Piece(frames=frames, first=first):
            print(f"frames {first} to {first + len(frames) - 1} are there")
            pieces.append(frames)
            if first + len(frames) >= 32:
                break  # enough seen: what is not asked for is not made
        case dovetail.End(settings=settings):
            print("calls:", settings["calls"])
