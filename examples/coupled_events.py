"""Two events, one story: overlapping windows that agree on what the words leave open.

Each window is asked for the event at its centre. Neither event says a colour or a background, so windows that are merely
averaged choose their own; coupled, they look again at what they have made together before each step at high noise. Exact
experts decide nearly everything in one or two steps, so this is a seed on which two looks suffice.
"""

import torch

from dovetail.core.combine import Windowed
from dovetail.core.denoiser import Condition, Timeline, timeline
from dovetail.core.ladders import shifted
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, last, sample
from dovetail.core.schedules import Flow
from dovetail.methods.syncos import Coupled
from dovetail.sprites import exact
from dovetail.sprites.oracle import judge
from dovetail.video import Video

codec = exact.PixelCodec()
expert = exact.load("video", "control", candidates=64, codec=codec, schedule=Flow())
events = {0: "a circle moving right", 16: "a circle moving down"}
story = Timeline(tuple((frame, Condition(text)) for frame, text in events.items()))

frames, ladder, noise = timeline(32), shifted(12, 5.0), Noise(7).of("v")
windows = Windowed(expert.given(story), size=16, stride=8)
ways = {"averaged": windows, "coupled": Coupled(windows, noise, floor=0.9, iterations=2, kernel="mean")}

found = {}
for name, denoise in ways.items():
    x = noise.like(torch.zeros(1, 3, 32, 32, 32), frames, "start")
    video = Video.of(codec.decode(last(sample(denoise, x, frames, ladder.levels, Euler())).seen.x0), fps=8)
    video.save(f"out/{name}.gif")
    found[name] = [judge(torch.from_numpy(video.frames[f : f + 16]), text).found for f, text in events.items()]
    for text, now in zip(events.values(), found[name], strict=True):
        print(f"{name}, {text}: {now.colour} {now.texture} on {now.background} {now.pattern}, {now.motion}")
