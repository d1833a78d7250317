"""A run is a generator: look at every step, stop when you like, and send a changed latent back.

Here the clip is pushed half a frame to the right after the first step; the expert goes on from there.
"""

import torch

from dovetail.core.denoiser import timeline
from dovetail.core.ladders import trailing
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, last, sample
from dovetail.sprites import exact
from dovetail.video import Video

codec = exact.PixelCodec()
expert = exact.load("control", "control", codec=codec)
denoise = expert.given("a blue ring moving right on a gray plain background")
frames, ladder = timeline(16), trailing(expert.schedule, 8)
x = ladder.first * Noise(5).like(torch.zeros(1, 3, 16, 32, 32), frames, "start")

# Watch: what the denoiser believes in at each level is a preview of the video.
previews = []
for state in sample(denoise, x, frames, ladder.levels, Euler()):
    print(
        f"noise share {state.t:.2f}: the video differs from the noisy latent by {(state.x - state.seen.x0).std():.2f}"
    )
    previews.append(Video.of(codec.decode(state.seen.x0), fps=8))
plain = previews[-1]

# Steer: what is sent takes the place of the latent at the next level.
states = sample(denoise, x, frames, ladder.levels, Euler())
first = next(states)
states.send(first.seen.mix(ladder.levels[1]).roll(16, dims=-1))
pushed = Video.of(codec.decode(last(states).seen.x0), fps=8)

plain.save("out/plain.gif")
pushed.save("out/pushed.gif")
