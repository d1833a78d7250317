"""ConFiner from its parts: a control expert drafts, then a spatial and a temporal expert refine together.

This is what the recipe `sprites-exact` says in YAML. The method: docs/methods/confiner.md.
"""

from dovetail.core.chain import run
from dovetail.core.combine import Framewise
from dovetail.core.denoiser import timeline
from dovetail.core.ladders import below, trailing
from dovetail.core.noise import Noise
from dovetail.core.stages import Done, Seen, Stage
from dovetail.methods.confiner import Coordinated
from dovetail.sprites import exact
from dovetail.video import Video

prompt, noise, codec = "a dotted red circle moving right on a teal striped background", Noise(7), exact.PixelCodec()
control, spatial, temporal = (exact.load(kind, kind, codec=codec) for kind in ("control", "spatial", "temporal"))

structure = Stage("structure", control.given(prompt), trailing(control.schedule, 4))
refine = Stage(
    "refine",
    Coordinated(
        spatial=Framewise(spatial.given(prompt)),  # an image expert sees every frame by itself
        temporal=temporal.given(prompt),
        noise=noise.of("refine"),  # the stage's own: then the hand-over's noise is used again
    ),
    below(spatial.schedule, timestep=100, steps=5),
)

for event in run([structure, refine], noise, timeline(16), shape=(3, 32, 32)):
    match event:
        case Seen(stage, _, state):
            print(f"{stage.name}: at noise share {state.t:.3f}")
        case Done(video=latent):
            video = Video.of(codec.decode(latent), fps=8)

video.save("out/confiner.gif")
