"""The rows of the long-video tables: ways to make a long video, as recipes. All parts come from one recipe of
ConFiner-Long. A name ends with the number of frames.
"""

from collections.abc import Mapping
from typing import Any

from dovetail import recipe as recipes
from dovetail.recipe import Recipe

Plain = dict[str, Any]
LONG, SHORT, SEGMENT = 600, 128, 16
"""Frames of the long rows, of the ablations, and of a segment."""
METHODS = ("full", "paper", "plain", "freenoise")
ABLATIONS = ("full", "no init", "no guidance", "no staggering", "no overlap", "paper", "plain")
"""`paper` has the three strategies as published; `full` also holds what stands still, and its windows overlap."""


def rows(base: Recipe, long: int = LONG, short: int = SHORT) -> dict[str, Recipe]:
    """Each way at its length."""
    structure, refine = recipes.plain(base)["chain"]
    drawn = structure["denoise"]["coherent"]
    apart = without(structure, "hop")
    alone = without(apart, "noise") | {"denoise": drawn["of"]}
    beside = refine | {"offset": 0}
    ways: Mapping[str, tuple[Plain, Plain]] = {
        "full": (structure, refine),
        "plain": (alone, beside),
        "freenoise": (
            alone | {"hop": 4, "weights": "pyramid", "noise": {"rescheduled": {"length": SEGMENT, "block": 4}}},
            beside,
        ),
        "no init": (without(structure, "noise"), refine),
        "no guidance": (structure | {"denoise": {"coherent": drawn | {"strength": 0.0}}}, refine),
        "no staggering": (structure, beside),
        "no overlap": (apart, refine),
        "paper": (apart | {"denoise": {"coherent": without(drawn, "hold")}}, refine),
    }
    lengths = [*((way, long) for way in METHODS), *((way, short) for way in ABLATIONS)]
    return {f"{way} {frames}": chained(base, ways[way], frames) for way, frames in lengths}


def chained(base: Recipe, stages: tuple[Plain, Plain], frames: int) -> Recipe:
    made = recipes.checked({**recipes.plain(base), "chain": list(stages)})
    return recipes.changed(made, {"video.frames": frames})


def without(stage: Plain, key: str) -> Plain:
    return {name: value for name, value in stage.items() if name != key}
