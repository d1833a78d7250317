"""The oracle says what a sprite video shows, and whether that was asked; nothing in it is learned.

Three videos: as the world draws it, the same one blurred, and the same one with its frames shuffled.
"""

import torch

from dovetail.sprites.degrade import degrade
from dovetail.sprites.oracle import judge
from dovetail.sprites.world import ask, imagine, render

prompt = "a dotted green circle moving up on a gray checkered background"
clean = render(imagine(ask(prompt)[0], seed=11), range(16))
order = torch.randperm(16, generator=torch.Generator().manual_seed(0))

videos = {"clean": clean, "blurred": degrade(clean), "shuffled": clean[order]}
verdicts = {name: judge(video, prompt) for name, video in videos.items()}

for name, verdict in verdicts.items():
    wrong = [attribute for attribute, right in verdict.right.items() if not right]
    print(
        f"{name:<9} prompt {verdict.prompt:.2f}  sharpness {verdict.sharpness:.2f}  "
        f"texture {verdict.texture_contrast:.2f}  path error {verdict.path_error:.1f} px  wrong: {wrong or 'nothing'}"
    )
