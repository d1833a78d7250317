"""Several takes of a beginning: an expert of the recipe says in which of them it finds the prompt, and that one is made in full."""

import dovetail
from dovetail.video import save_image, sheet

prompt, recipe, few = (
    "a dotted red circle on a teal striped background",
    "sprites-long-exact",
    {"video.height": 32, "video.width": 32},
)
best, *others = dovetail.takes(prompt, recipe, of=3, frames=48, overrides=few)

for take in (best, *others):
    print(f"seed {take.seed}: evidence {take.evidence:.3f}, {len(take.video.frames)} frames")

video = dovetail.generate(prompt, recipe, seed=best.seed, frames=48, overrides=few)
video.save("out/best.gif")
save_image(sheet([take.video for take in (best, *others)]), "out/takes.png")
