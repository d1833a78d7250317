"""Your own method is a function: (x, t, frames) in, a Split of video and noise out. It nests like all others.

This one keeps a letterbox: where the mask is set, the video is known to be black, and the expert
fills the rest. The same four lines keep a logo, a given half of the picture, or given frames.
"""

import torch

from dovetail.core.denoiser import timeline
from dovetail.core.ladders import trailing
from dovetail.core.noise import Noise
from dovetail.core.path import split
from dovetail.core.sampler import Euler, last, sample
from dovetail.sprites import exact
from dovetail.video import Video

codec = exact.PixelCodec()
expert = exact.load("control", "control", codec=codec)
inner = expert.given("a white ring moving right on an orange plain background")
bars = torch.zeros(32, 32, dtype=torch.bool)
bars[:4] = bars[-4:] = True


def letterboxed(x, t, frames):
    seen = inner(x, t, frames)
    black = torch.full_like(x, -1.0)
    return split(x, torch.where(bars, black, seen.x0), t)


frames, ladder = timeline(16), trailing(expert.schedule, 8)
x = ladder.first * Noise(2).like(torch.zeros(1, 3, 16, 32, 32), frames, "start")
latent = last(sample(letterboxed, x, frames, ladder.levels, Euler())).seen.x0

video = Video.of(codec.decode(latent), fps=8)
video.save("out/letterbox.gif")
