"""A prompt in, a video out. `sprites-exact` needs no weights; leave the recipe out for the trained experts."""

import dovetail

video = dovetail.generate("a dotted yellow ring moving left on a gray plain background", recipe="sprites-exact", seed=3)

print(f"{len(video.frames)} frames of {video.size[1]}x{video.size[0]}; calls: {video.settings['calls']}")
video.save("out/ring.mp4")
