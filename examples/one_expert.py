"""One expert alone: a denoiser, a ladder of noise levels, a solver, a loop. No recipe, no chain.

Load a pretrained one instead with `dovetail.experts.load(name, family, weights)`.
"""

import torch

from dovetail.core.denoiser import timeline
from dovetail.core.ladders import trailing
from dovetail.core.noise import Noise
from dovetail.core.sampler import DPMSolver2M, last, sample
from dovetail.sprites import exact
from dovetail.video import Video

codec = exact.PixelCodec()
expert = exact.load("control", "control", codec=codec)
denoise = expert.given("a green ring moving up on a black checkered background")

frames = timeline(16)
ladder = trailing(expert.schedule, 8)
x = ladder.first * Noise(1).like(torch.zeros(1, 3, 16, 32, 32), frames, "start")

end = last(sample(denoise, x, frames, ladder.levels, DPMSolver2M()))

video = Video.of(codec.decode(end.seen.x0), fps=8)
video.save("out/ring.gif")
