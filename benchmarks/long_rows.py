"""The rows of the long-video tables: ways to make a long video, as recipes. Experts, ladders and refinement are those of
one recipe; `control` is one of its own, whose structure the control expert lays. A name ends with the number of frames.
"""

from collections.abc import Mapping
from typing import Any

from dovetail import recipe as recipes
from dovetail.recipe import Recipe

Plain = dict[str, Any]
BESIDE = ("one noise", "control")
"""Ways that are shown as they would finish their frames, too."""
PAPER, CONTROL = "sprites-long-paper", "sprites-long-control"
LONG, SHORT, SEGMENT = 600, 128, 16
"""Frames of the long rows, of the ablations, and of a segment."""
METHODS = ("full", "plain", "freenoise", "one noise")
ABLATIONS = (
    "full",
    "no hold",
    "colours",
    "no init",
    "no renoising",
    "no overlap",
    "staggered",
    "paper",
    "paper, no init",
    "no guidance",
    "no staggering",
)
"""`paper` has the three strategies as published, over the experts of their recipe, `paper, no init`, `no guidance` and `no staggering`
two of them. In `full` windows of both stages overlap instead, and are held. `no hold` takes the hold from it, `colours` holds
nothing else, `no init` shares no noise, `no renoising` leaves all levels along what they were entered by, `one noise` is that
over whole frames of the base, `no overlap` takes overlap and hold from the structure, `staggered` both from the refinement."""

DECODED, FINISHED = "as decoded", ", held"
"""The recipe whose finished frames are not held to what stands still in the first ones, where its own are. All rows but `full`,
CLIPS and those that end with FINISHED are as decoded, since what is held in pixels hides what a way to denoise does."""
CLIPS = "plain, clips held"
"""Plain concatenation, the finished frames of each clip held to what stands still in that clip: single clips as the recipe
would finish them. Flow is seen where a background flickers, so motion of held videos is compared with that of these."""
AVERAGED = ("hop", "weights", "hold")
"""What is said of windows that are averaged."""


def rows(base: Recipe, long: int = LONG, short: int = SHORT) -> dict[str, Recipe]:
    """Each way at its length."""
    exact = "exact" in {spec.family for spec in base.experts.values()}
    bare = recipes.changed(base, {"video.still": None})
    made = {way: chained(bare, stages) for way, stages in own(base).items()}
    paper = chained(bare, published_over(base)) if exact else recipes.load(PAPER)
    made |= {way: chained(paper, stages) for way, stages in published(paper).items()}
    # What a recipe does not do anyway cannot be taken from it.
    made = {way: recipe for way, recipe in made.items() if way == "full" or recipe != made["full"]}
    lengths = [(way, long) for way in METHODS if way in made] + [(way, short) for way in ABLATIONS if way in made]
    at = {f"{way} {frames}": recipes.changed(made[way], {"video.frames": frames}) for way, frames in lengths}
    if base.video.still is not None:
        bared = {name.replace("full", DECODED): recipe for name, recipe in at.items()}
        clips, full = (finished(at[f"{way} {long}"], base) for way in ("plain", "full"))
        at = {f"full {long}": full, **bared, f"{CLIPS} {long}": clips}
    if not exact:
        at[f"control {long}"] = recipes.changed(recipes.load(CONTROL), {"video.frames": long, "video.still": None})
    beside = [way for way in BESIDE if f"{way} {long}" in at and base.video.still is not None]
    return at | {f"{way}{FINISHED} {long}": finished(at[f"{way} {long}"], base) for way in beside}


def finished(recipe: Recipe, base: Recipe) -> Recipe:
    """A recipe whose finished frames are held as another's are."""
    return recipes.changed(recipe, {"video.still": recipes.plain(base)["video"]["still"]})


def own(base: Recipe) -> Mapping[str, tuple[Plain, ...]]:
    """The recipe's stages, and what is to be said beside them over the same experts."""
    structure, refine = recipes.plain(base)["chain"]
    alone = {name: structure[name] for name in ("stage", "ladder")}
    alone |= {"window": SEGMENT, "denoise": expert_of(structure["denoise"])}
    one = {"noise": {"consistent": {"block": SEGMENT // 2}}, "denoise": expert_of(structure["denoise"])}
    rescheduled = {"hop": 4, "weights": "pyramid", "noise": {"rescheduled": {"length": SEGMENT, "block": 4}}}
    return {
        "full": (structure, refine),
        "plain": (alone, aside(refine, 0)),
        "freenoise": (alone | rescheduled, aside(refine, 0)),
        "no hold": (without(structure, "hold"), without(refine, "hold")),
        "colours": (coloured(structure), coloured(refine)),
        "no init": (without(structure, "noise"), refine),
        "no renoising": (structure | {"denoise": expert_of(structure["denoise"])}, refine),
        "one noise": (structure | one, refine),
        "no overlap": (without(structure, *AVERAGED), refine),
        "staggered": (structure, aside(refine, SEGMENT // 2)),
    }


def published(paper: Recipe) -> Mapping[str, tuple[Plain, ...]]:
    """The three strategies of the paper, and two of them."""
    structure, refine = recipes.plain(paper)["chain"]
    return {
        "paper": (structure, refine),
        "paper, no init": (without(structure, "noise"), refine),
        "no guidance": (structure | {"denoise": expert_of(structure["denoise"])}, refine),
        "no staggering": (structure, aside(refine, 0)),
    }


def published_over(base: Recipe) -> tuple[Plain, ...]:
    """The stages of the published strategies over a recipe's experts, refined as the recipe is."""
    structure, _ = recipes.plain(recipes.load(PAPER))["chain"]
    return structure, aside(recipes.plain(base)["chain"][1], SEGMENT // 2)


def aside(refine: Plain, offset: int) -> Plain:
    """Windows of the refinement side by side, the first border after so many frames."""
    return without(refine, *AVERAGED) | {"offset": offset}


def chained(base: Recipe, stages: tuple[Plain, ...]) -> Recipe:
    return recipes.checked({**recipes.plain(base), "chain": list(stages)})


def without(stage: Plain, *keys: str) -> Plain:
    return {name: value for name, value in stage.items() if name not in keys}


def coloured(stage: Plain) -> Plain:
    """With nothing held but colours."""
    return (
        stage | {"hold": stage["hold"] | {"within": 0.0, "below": 1.0, "objects": None}} if stage.get("hold") else stage
    )


def expert_of(denoise: Plain) -> Plain:
    """What the structure's windows are made by, whatever makes them agree standing around it."""
    around = next((word for word in ("coherent", "renoised") if word in denoise), None)
    return denoise[around]["of"] if around else denoise
