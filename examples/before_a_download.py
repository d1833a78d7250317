"""What a recipe of published weights would take, before anything is downloaded: files, licences, memory, looks."""

import dovetail
from dovetail import recipe
from dovetail.costs import costs
from dovetail.experts.hub import cached
from dovetail.experts.shelf import SHELF, licence_of
from dovetail.run.wants import wants

name = "syncos-cogvideox-2b"
plan = dovetail.plan(name)

for want in wants(recipe.load(name)):
    size = SHELF[want.repo].size(tuple(part for part in want.parts if part), want.variant)
    here = "here" if cached(want).whole else "not here"
    print(f"{want}: {', '.join(filter(None, want.parts))}; {size} GB, {here}; {licence_of(want.repo)}")

memory = costs(plan).memory
for stage, needed in memory.items():
    print(f"{stage}: {needed / 1e9:.2f} GB of weights on the device")

print(f"looks of each expert at the whole video: { {expert: plan.passes(expert) for expert in plan.counts} }")
