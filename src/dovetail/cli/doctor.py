"""What this machine is, and what it can play: `dovetail doctor`."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import torch

from dovetail import recipe as recipes
from dovetail.experts.cache import cache_folder
from dovetail.experts.hub import cached
from dovetail.experts.pulling import free
from dovetail.experts.shelf import SHELF, licence_of
from dovetail.experts.tensors import PICKLES
from dovetail.recipe.planning import Plan
from dovetail.run import plan
from dovetail.run.budget import Fit, fillable, fit, free_on
from dovetail.run.sizes import outlines
from dovetail.run.wants import wants

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "sentencepiece",
    "protobuf",
    "huggingface-hub",
    "av",
)
GIGA = 10**9
MPS = (
    "there, and used only by experts and codecs that say device: mps. Nothing here has been run on it. Known not to work: "
    "store: float8, bitsandbytes, doing less at once where memory runs short (say batch: 1 and codec.tiles), a budget by "
    "itself (say --vram)"
)
"""Of Apple's devices, what is known by reading."""


@dataclass(frozen=True)
class Machine:
    """Bytes free: of the device's memory, of the computer's, of the cache's disk. device: its name, None for a CPU
    alone.

    bfloat16: whether the device computes in it. mps: whether there is Apple's MPS, which no device is taken for unless a
    recipe names it.
    """

    device: str | None
    memory: int
    computer: int | None
    disk: int
    bfloat16: bool = True
    mps: bool = False


def machine() -> Machine:
    """This one."""
    disk, computer = free(cache_folder()), _available()
    if not torch.cuda.is_available():
        return Machine(None, computer or 0, computer, disk, mps=torch.backends.mps.is_available())
    return Machine(torch.cuda.get_device_name(), free_on("cuda"), computer, disk, torch.cuda.is_bf16_supported())


def _available() -> int | None:
    """Bytes of the computer's memory that programs may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration, ValueError):
        return None


def examined(here: Machine | None = None) -> Iterator[str]:
    """The lines of a report on a machine, this one unless another is given."""
    here = machine() if here is None else here
    yield from _versions()
    yield from _hardware(here)
    yield ""
    how = "each made to fit as a run of it would be (docs/memory.md)" if here.device else "by what each takes in memory"
    yield f"recipes, {how}:"
    for name in recipes.names():
        if wants(recipes.load(name)):
            yield from _fits(name, here)
    yield "every other shipped recipe plays packaged or closed-form experts: any machine will do"


def _versions() -> Iterator[str]:
    yield f"dovetail {_version('dovetail-video')}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    yield ", ".join(f"{name} {_version(name)}" for name in PACKAGES)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _hardware(here: Machine) -> Iterator[str]:
    from huggingface_hub import constants

    if here.device is None:
        yield "device: the CPU alone; large models take hours on it"
    else:
        half = "" if here.bfloat16 else "; it has no bfloat16, so --set experts.NAME.dtype=float16"
        yield f"device: {here.device}, {_giga(here.memory)} of its memory free{half}"
    yield f"Apple's MPS: {MPS if here.mps else 'none'}"
    said = "not known" if here.computer is None else f"{_giga(here.computer)} free"
    yield f"memory: {said}, {os.cpu_count()} CPU cores"
    yield f"cache: {cache_folder()}, {here.disk / GIGA:.0f} GB free on its disk (HF_HUB_CACHE moves it)"
    if constants.HF_HUB_OFFLINE:
        yield "network: HF_HUB_OFFLINE is set, so only what is in the cache can be loaded"


def _fits(name: str, here: Machine) -> Iterator[str]:
    """Whether a recipe of published weights can be played here, what is done for it, and what stands against it."""
    recipe = recipes.load(name)
    asked = plan(recipe)
    found = fit(asked, outlines(recipe, []), None if here.device is None else fillable(here.memory))
    against = [*_too_large(asked, found, here), *_no_room(name, here)]
    doubts = list(_read_whole(name, here))
    done = "; ".join(found.given_up) if found.budget is not None else ""
    fits = "fits, as far as is known" if doubts else "fits"
    yield f"{name}: " + ("does not fit" if against else f"{fits}; {done}" if done else fits)
    yield from (f"  {reason}" for reason in (*against, *doubts))
    for want in wants(recipe):
        stock = cached(want)
        state = "here" if stock.whole else "partly here" if stock.files else "not here"
        yield f"  {want}: {state}; {licence_of(want.repo)}"


def _too_large(asked: Plan, found: Fit, here: Machine) -> Iterator[str]:
    """What there is no memory for, on the device or in the computer."""
    everyone = plan(asked.recipe, overrides={"residency": "all"})
    parts = fit(everyone, outlines(everyone.recipe, []), None).parts
    together = max(part.weights for part in parts)
    if here.device is None:
        if (most := max(parts, key=lambda part: part.total)).total > here.memory:
            yield (
                f"part '{most.name}' takes {_giga(most.total)}, of it {_giga(most.weights)} weights, and the computer has "
                f"{_giga(here.memory)} of memory free"
            )
        return
    if found.short is not None and found.budget is not None:
        yield (
            f"part '{found.short.name}' takes {_giga(found.short.total)} at the least, and {here.device} has "
            f"{_giga(found.budget)} to fill; take a smaller video (--frames, video.height, video.width) or smaller experts "
            "(--set experts.NAME.weights=..)"
        )
    if found.here is not None and here.computer is not None and together > here.computer:
        yield (
            f"{_giga(together)} of weights wait in the computer's memory for their turn, and {_giga(here.computer)} of it "
            "are free; close other programs, or take smaller experts"
        )


def _read_whole(name: str, here: Machine) -> Iterator[str]:
    """Pickles larger than the computer's memory that may have to be read whole: torch maps those that are archives."""
    for want in wants(recipes.load(name)):
        for file in (part for part in (want.file, *want.parts) if part is not None and part.endswith(PICKLES)):
            place = next((kept.place for kept in cached(want).files if kept.name == file), None)
            told = SHELF[want.repo].size((file,)) if want.repo in SHELF else None
            size = int((told or 0) * GIGA) if place is None else place.stat().st_size
            if here.computer is None or size <= here.computer or (place is not None and is_zipfile(place)):
                continue
            how = "that it is an archive, which torch maps, is not known" if place is None else "it is no archive"
            yield (
                f"{file} of {want.repo} is a pickle of {_giga(size)}, and {how}; read whole, it takes that much memory to "
                f"open, and {_giga(here.computer)} are free"
            )


def _giga(size: int) -> str:
    return f"{size / GIGA:.1f} GB"


def _no_room(name: str, here: Machine) -> Iterator[str]:
    """Downloads that the disk of the cache cannot hold. What is whole in the cache already needs no room."""
    sizes = []
    for want in wants(recipes.load(name)):
        stock = cached(want)
        if stock.listed:
            sizes.append(sum(file.size or 0 for file in stock.missing))
        elif not stock.whole and want.repo in SHELF:
            taken = (want.file,) if want.file is not None else tuple(part for part in want.parts if part)
            sizes.append(int((SHELF[want.repo].size(taken, want.variant) or 0) * GIGA))
    if (needed := sum(sizes)) > here.disk:
        yield (
            f"{_giga(needed)} are still to be downloaded, and the cache's disk has {_giga(here.disk)} free; "
            "make room (`hf cache ls`), or let HF_HUB_CACHE name a folder on another disk"
        )
