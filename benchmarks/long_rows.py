"""The rows of the long-video tables: ways to make a long video, as recipes. Experts, ladders and refinement are those of
one recipe. A name ends with the number of frames.
"""

from collections.abc import Mapping
from typing import Any

from dovetail import recipe as recipes
from dovetail.recipe import Recipe

Plain = dict[str, Any]
LONG, SHORT, SEGMENT = 600, 128, 16
"""Frames of the long rows, of the ablations, and of a segment."""
METHODS = ("full", "no hold", "paper", "plain", "freenoise")
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
stages overlap instead, and are held; `no hold` takes the hold from both, `colours` holds nothing else, `no overlap` takes
both from its structure, `staggered` both from its refinement."""

AVERAGED = ("hop", "weights", "hold")
"""What is said of windows that are averaged."""


def rows(base: Recipe, long: int = LONG, short: int = SHORT) -> dict[str, Recipe]:
    """Each way at its length."""
    structure, refine = recipes.plain(base)["chain"]
    told = {"window": SEGMENT, "ladder": structure["ladder"], "stage": structure["stage"]}
    alone = told | {"denoise": expert_of(structure["denoise"])}
    drawn = recipes.plain(recipes.load("sprites-long-paper"))["chain"][0]
    guided = drawn["denoise"]["coherent"] | {"of": alone["denoise"]}
    one_noise = told | {"noise": drawn["noise"]}
    beside = without(refine, *AVERAGED) | {"offset": 0}
    straddling = beside | {"offset": SEGMENT // 2}
    published = one_noise | {"denoise": {"coherent": guided}}
    ways: Mapping[str, tuple[Plain, Plain]] = {
        "full": (structure, refine),
        "plain": (alone, beside),
        "freenoise": (
            alone | {"hop": 4, "weights": "pyramid", "noise": {"rescheduled": {"length": SEGMENT, "block": 4}}},
            beside,
        ),
        "no hold": (without(structure, "hold"), without(refine, "hold")),
        "colours": (coloured(structure), coloured(refine)),
        "no init": (without(structure, "noise"), refine),
        "no overlap": (without(structure, *AVERAGED), refine),
        "staggered": (structure, straddling),
        "paper": (published, straddling),
        "no guidance": (one_noise | {"denoise": alone["denoise"]}, straddling),
        "no staggering": (published, beside),
    }
    # What a recipe does not do anyway cannot be taken from it.
    ways = {way: stages for way, stages in ways.items() if way == "full" or stages != ways["full"]}
    lengths = [(way, long) for way in METHODS if way in ways] + [(way, short) for way in ABLATIONS if way in ways]
    return {f"{way} {frames}": chained(base, ways[way], frames) for way, frames in lengths}


def chained(base: Recipe, stages: tuple[Plain, Plain], frames: int) -> Recipe:
    made = recipes.checked({**recipes.plain(base), "chain": list(stages)})
    return recipes.changed(made, {"video.frames": frames})


def without(stage: Plain, *keys: str) -> Plain:
    return {name: value for name, value in stage.items() if name not in keys}


def coloured(stage: Plain) -> Plain:
    """With nothing held but colours."""
    return stage | {"hold": stage["hold"] | {"within": 0.0, "below": 1.0}} if stage.get("hold") else stage


def expert_of(denoise: Plain) -> Plain:
    """The expert that the structure's windows are made by, whatever stands around it."""
    return denoise["coherent"]["of"] if "coherent" in denoise else denoise
