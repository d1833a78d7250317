"""What a file says of the run that made it."""

import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dovetail import recipe as recipes
from dovetail.recipe import Recipe
from dovetail.run.cast import Cast
from dovetail.run.sealed import digest_of, fingerprint

WAIVED = "memory did not suffice for what was asked at once, so these bytes need not be those of an undisturbed run"


def record(
    recipe: Recipe,
    calls: Mapping[str, int],
    compression: Mapping[str, int],
    less: Iterable[str] = (),
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is always the same of a run: the recipe, by which versions it was made, how often experts were asked, and how
    many frames a latent frame of each stage has (`compression`).

    less: what was done with less at once than asked; then it is not always the same, and that is said. given: of a run
    that continues another, what that gave, which the recipe does not tell.
    """
    said = {"recipe": recipes.plain(recipe), "versions": dict(versions()), "calls": dict(calls)}
    said |= {"compression": dict(compression)} if compression else {}
    said |= {"given": dict(given)} if given else {}
    what = list(dict.fromkeys(less))
    return {**said, "less_at_once": {"why": WAIVED, "what": what}} if what else said


def compressions(recipe: Recipe, cast: Cast) -> dict[str, int]:
    """Frames to a latent frame, by stage."""
    return {stage.stage: cast.codec_at(stage.stage).space.compression or 1 for stage in recipe.chain}


def spent(seconds: float, networks: float) -> dict[str, Any]:
    """What a run took, which is never the same."""
    return {
        "seconds": round(seconds, 3),
        "seconds_in_networks": round(networks, 3),
        "peak_megabytes": round(peak_memory()),
    }


def sources(recipe: Recipe) -> dict[str, Any]:
    """The commit of every repository of the hub that a recipe takes from, as the cache has it; nothing for other
    weights. They do not decide which run it is: the weights' own digests do."""
    from dovetail.experts.cache import commit_of
    from dovetail.run.wants import wants

    found = {
        want.repo if want.revision is None else f"{want.repo}@{want.revision}": commit_of(want.repo, want.revision)
        for want in wants(recipe)
    }
    known = {name: commit for name, commit in found.items() if commit is not None}
    return {"commits": known} if known else {}


@cache
def versions() -> Mapping[str, str]:
    """Of all that decides which bytes a run makes. Asking for them takes milliseconds, and they stay."""
    return {name: version(name) for name in ("dovetail-video", "torch", "diffusers", "transformers", "av")}


def weights_of(cast: Cast) -> dict[str, str]:
    """A sha256 of all that each expert and the codec have learned, as it is in memory; exact experts have learned
    nothing."""
    parts = {name: _learned(expert.network) for name, expert in cast.experts.items()}
    parts["codec"] = _learned(cast.codec)
    parts |= {f"codec of {stage}": _learned(codec) for stage, codec in cast.codecs.items()}
    return {name: digest_of(" ".join(found)) for name, found in sorted(parts.items()) if found}


def _learned(network: Any) -> list[str]:
    """Fingerprints of a network and of its text model."""
    from dovetail.experts.text import borrowed_of

    module, text = getattr(network, "module", None), borrowed_of(network)
    own = [] if module is None else [fingerprint(module)]
    return own if text is None else [*own, text.known("fingerprint", fingerprint)]


def machine() -> dict[str, Any]:
    """Where a run runs, as far as its numbers may hang on it."""
    cpu = f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {"device": device, "threads": torch.get_num_threads()}


def peak_memory() -> float:
    """The most memory that this process has held, in megabytes, a GPU's included."""
    return (_held() + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)) / 2**20


def _held() -> int:
    """The same of the computer's own memory, in bytes."""
    # What `getrusage` says begins, on Linux, with what the parent had held when it started this process.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
