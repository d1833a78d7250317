"""Two events in one video: a text that is shared, and what happens when. The run is drawn before it is made.

Windows of 16 frames, one every 8, take the event at their centre. Without a recipe `dovetail generate` takes `sprites-story`: trained experts.
"""

import dovetail
from dovetail.run import storyboard

shared = "a red circle on a gray plain background"
events = ["0s: it moves right", "4s: it moves up"]

plan = dovetail.plan("sprites-story-exact", shared, story=events)
print("\n".join(storyboard(plan)))
video = dovetail.generate(shared, "sprites-story-exact", story=events, seed=1)
video.save("out/story.gif")
