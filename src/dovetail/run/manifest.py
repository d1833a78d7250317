"""What a file says of the run that made it."""

import resource
import sys
from importlib.metadata import version
from time import perf_counter
from typing import Any

import torch

from dovetail import recipe as recipes
from dovetail.recipe import Recipe
from dovetail.recipe.build import Ledger


def record(recipe: Recipe, ledger: Ledger, decoding: float, begun: float) -> dict[str, Any]:
    """What a manifest says of a run that took so many seconds to decode."""
    networks = sum(count.seconds for count in ledger.values()) + decoding
    return {
        "recipe": recipes.plain(recipe),
        "versions": {name: version(name) for name in ("dovetail-video", "torch", "diffusers")},
        "calls": {name: ledger[name].calls for name in recipe.experts if name in ledger},
        "seconds": round(perf_counter() - begun, 3),
        "seconds_in_networks": round(networks, 3),
        "peak_megabytes": round(peak_memory()),
    }


def peak_memory() -> float:
    """The most memory that this process has held, in megabytes, a GPU's included."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return (host + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)) / 2**20
