"""The rows of the long-video tables: ways to make a long video, as recipes. Experts, ladders and refinement are those of
one recipe. A name ends with the number of frames.
"""

from collections.abc import Mapping
from typing import Any

from dovetail import recipe as recipes
from dovetail.recipe import Recipe

Plain = dict[str, Any]
ONWARD, FLOW, PAPER = "sprites-long-onward", "sprites-long-flow", "sprites-long-paper"
LONG, SHORT, SEGMENT = 600, 128, 16
"""Frames of the long rows, of the ablations, and of a segment."""
METHODS = ("full", "onward", "no hold", "paper", "plain", "freenoise")
ABLATIONS = (
    "full",
    "no hold",
    "colours",
    "no init",
    "no overlap",
    "staggered",
    "paper",
    "no guidance",
    "no staggering",
    "plain",
)
"""`paper` has the three strategies as published, `no guidance` and `no staggering` two of them. In `full` windows of both
stages overlap instead, and are held; `onward` is `sprites-long-onward`, whose structures go on. `flow` is `sprites-long-flow`,
with experts and an autoencoder of its own, and stands beside trained ones alone. `no hold` takes the hold from `full`,
`colours` holds nothing else, `no overlap` takes both from its structure, `staggered` both from its refinement."""

DECODED, FLOW_HELD = "as decoded", "flow, held"
"""The recipe whose finished frames are not held to what stands still in the first ones, where its own are. All rows but `full`,
FLOW_HELD and CLIPS are as decoded, since what is held in pixels hides what a way to denoise does."""
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
        held = {"video.still": recipes.plain(base)["video"]["still"]}
        bared = {name.replace("full", DECODED): recipe for name, recipe in at.items()}
        clips, full = (recipes.changed(at[f"{way} {long}"], held) for way in ("plain", "full"))
        at = {f"full {long}": full, **bared, f"{CLIPS} {long}": clips}
    if exact:
        return at
    flow = recipes.changed(recipes.load(FLOW), {"video.frames": long})
    at[f"flow {long}"] = recipes.changed(flow, {"video.still": None})
    return at | ({f"{FLOW_HELD} {long}": flow} if flow.video.still is not None else {})


def own(base: Recipe) -> Mapping[str, tuple[Plain, ...]]:
    """The recipe's stages, and what is to be said beside them over the same experts."""
    structure, refine = recipes.plain(base)["chain"]
    alone = {name: structure[name] for name in ("stage", "ladder")}
    alone |= {"window": SEGMENT, "denoise": expert_of(structure["denoise"])}
    rescheduled = {"hop": 4, "weights": "pyramid", "noise": {"rescheduled": {"length": SEGMENT, "block": 4}}}
    return {
        "full": (structure, refine),
        "onward": going(structure, refine),
        "plain": (alone, aside(refine, 0)),
        "freenoise": (alone | rescheduled, aside(refine, 0)),
        "no hold": (without(structure, "hold"), without(refine, "hold")),
        "colours": (coloured(structure), coloured(refine)),
        "no init": (without(structure, "noise"), refine),
        "no overlap": (without(structure, *AVERAGED), refine),
        "staggered": (structure, aside(refine, SEGMENT // 2)),
    }


def published(paper: Recipe) -> Mapping[str, tuple[Plain, ...]]:
    """The three strategies of the paper, and two of them."""
    structure, refine = recipes.plain(paper)["chain"]
    return {
        "paper": (structure, refine),
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
    return stage | {"hold": stage["hold"] | {"within": 0.0, "below": 1.0}} if stage.get("hold") else stage


def going(structure: Plain, refine: Plain) -> tuple[Plain, ...]:
    """Structures that go on, over the experts of these; what is not averaged has none, and is the recipe itself."""
    if "hop" not in structure or structure["hop"] is None:
        return structure, refine
    onward, settle, _ = recipes.plain(recipes.load(ONWARD))["chain"]
    return onward, settle, refine


def expert_of(denoise: Plain) -> Plain:
    """The expert that the structure's windows are made by, whatever stands around it."""
    return denoise["coherent"]["of"] if "coherent" in denoise else denoise
