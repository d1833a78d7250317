"""From a recipe to a video: load the experts, check that they fit, walk the chain, decode.

`play` is a generator: whoever runs it sees every step and every finished piece of video, and stops it by not asking
for the next. Nothing is kept that is finished, so a long video needs no more memory than its chain's windows.

| room | what is in it |
|---|---|
| verbs | what a person asks for: `generate`, `stream`, `refine`, `plan`, and the recipe that it comes to |
| cast | a recipe's experts and codec, loaded, and whether they fit together |
| outlook, sizes | what is known of them before they are loaded |
| bridging | stages whose latents differ: what each works on, and the way through pixels |
| budget | how a run is made to fit on its device |
| choosing | the beginning of a video from several seeds, and which is best |
| playing | a run from its first step to its end; several runs that take turns |
| events | a run's steps, pieces and end |
| watching, pulse | networks counted and timed; errors that say at which step; what is done inside of steps |
| given | the video that a run starts from, and words that nobody knows |
| telling | a story that a person tells, and what it changes in a recipe |
| storyboard | a plan's story as text: events, windows, overlaps |
| decoding | latents to frames, piece by piece |
| manifest | what a file says of its run |
| states, sealed, growing | where a run stands; files under checksums; an mp4 in fragments |
| folder, keeping | a run's folder, and a run in it: begun, gone on with, finished |
| continuing, again | the next segments of a run; its latents decoded otherwise |
| catalogue | families of experts and weights, listed |
"""

from dovetail.recipe.story import Scenario
from dovetail.run.again import Look, decode
from dovetail.run.cast import Cast, Codec, known_of, load, settled
from dovetail.run.catalogue import FAMILIES_SAID, weights_used
from dovetail.run.choosing import Take, takes
from dovetail.run.continuing import carry_on, continuing
from dovetail.run.events import End, Piece, Step
from dovetail.run.keeping import folder_of, keep, resume, worth_keeping
from dovetail.run.manifest import peak_memory
from dovetail.run.outlook import latent_of
from dovetail.run.playing import play, together
from dovetail.run.pulse import Pulse
from dovetail.run.storyboard import storyboard
from dovetail.run.telling import tale
from dovetail.run.verbs import finished, generate, plan, refine, refining, resolved, stream

__all__ = [
    "FAMILIES_SAID",
    "Cast",
    "Codec",
    "End",
    "Look",
    "Piece",
    "Pulse",
    "Scenario",
    "Step",
    "Take",
    "carry_on",
    "continuing",
    "decode",
    "finished",
    "folder_of",
    "generate",
    "keep",
    "known_of",
    "latent_of",
    "load",
    "peak_memory",
    "plan",
    "play",
    "refine",
    "refining",
    "resolved",
    "resume",
    "settled",
    "storyboard",
    "stream",
    "takes",
    "tale",
    "together",
    "weights_used",
    "worth_keeping",
]
