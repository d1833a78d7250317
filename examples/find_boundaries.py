"""Two experts that share their latents: measure where they differ, and let the small one take what it does well.

A small setting, so that it runs in seconds; `dovetail calibrate sprites-flowblending-exact` is the whole of it.
"""

from pathlib import Path

import dovetail
from dovetail import recipe
from dovetail.calibrate import Look, calibrate
from dovetail.calibrate.running import Settings

pair = recipe.changed(
    recipe.load("sprites-flowblending-exact"),
    {
        "video": {"frames": 8, "height": 32, "width": 32},
        "chain.video.ladder.shifted.steps": 12,
        "experts.large.candidates": 96,
    },
)
prompts = ("a red circle moving right on a teal plain background", "a white circle moving up", "a pulsing blue ring")

for event in calibrate(pair, Path("out/calibration"), Settings(prompts=prompts, by="budget", budget=0.6), name="pair"):
    if isinstance(event, Look):
        print(f"{event.doing}: prompt {event.prompt} of {event.prompts}, step {event.step} of {event.steps}")
    else:
        found = event

curve = found.curves["small"]["guided"]["velocity"]
for t, apart, left in zip(found.ladder.levels, curve, found.weighted["small"], strict=False):
    print(f"t {t:.2f}: velocities {apart:.2f} apart; what one small step leaves in the video: {left:.4f}")
for rule in found.choices:
    print(f"{rule}: change experts at {', '.join(f'{bound:.3f}' for bound in found.boundaries(rule))}")

video = dovetail.generate(prompts[0], recipe="out/calibration/pair.yaml")
print(video.settings["calls"])
video.save("out/pair.gif")
