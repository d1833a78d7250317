"""Seams: steps that stand out from those around them, at borders that are known, or at a period that is not.

A step is the one from the frame before; its number is the frame's. What is compared are four signals of
`dovetail.eval.series`: change, change with motion taken out, jerk, and the step of the mean colour.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.core.windows import along, tile
from dovetail.eval.series import Series

SIGNALS = {"change": 2e-4, "moved": 2e-4, "jerk": 0.4, "step": 0.1}
"""The signals, and differences of each that nobody sees: of 1, of 1, 256ths of a side, Lab."""
REACH = 6
"""Steps on each side that a step is compared with."""
SEAM = 4.0
"""Above this a step stands out."""
COMPRESSION = {"wan": 4, "ltx": 8, "cogvideox": 4, "open-sora-plan": 4}
"""Frames to a latent frame, of families whose autoencoder joins frames; the first one stands alone."""
PERIODS = range(4, 33)
"""Lengths of segments that are looked for."""


def standing_out(signal: Tensor, unseen: float = 0.0) -> Tensor:
    """How far each value of a signal "n" stands out from its twelve neighbours: by their median, in their deviations
    (1.48 median absolute deviations, a twentieth of the median, and `unseen`). NaN is no neighbour and stays NaN."""
    empty = torch.full((REACH,), torch.nan)
    around = torch.cat([empty, signal, empty]).unfold(0, 2 * REACH + 1, 1)
    around = torch.cat([around[:, :REACH], around[:, REACH + 1 :]], 1)
    middle = around.nanquantile(0.5, dim=1)
    spread = (around - middle[:, None]).abs().nanquantile(0.5, dim=1)
    return (signal - middle) / (1.48 * spread + 0.05 * middle.abs() + unseen).clamp(min=1e-12)


def seams(series: Series) -> Tensor:
    """How far each step stands out in the signal in which it does most, "n"; NaN at the first frame."""
    each = torch.stack([standing_out(getattr(series, name), unseen) for name, unseen in SIGNALS.items()])
    missing = each.isnan().all(0)
    return torch.where(missing, torch.full((), torch.nan), each.nan_to_num(-torch.inf).amax(0))


def borders(settings: Mapping[str, Any], frames: int) -> dict[str, list[int]]:
    """The frames at which each stage's windows take turns, as a video's settings declare them.

    Windows that are averaged where they overlap do so where one begins or ends, those inside a stage's denoiser too. Of
    others each frame belongs to the first that makes it, and the next window's frames begin behind it.
    """
    recipe, found = settings.get("recipe", {}), {}
    told = settings.get("compression", {})
    for stage, guess in zip(recipe.get("chain", []), _compressions(recipe), strict=True):
        each, turns = told.get(stage["stage"], guess), set[int]()
        length, window = (frames - 1) // each + 1, stage.get("window")
        spans = list(along(length, window, stage.get("hop"), stage.get("offset") or 0)) if window else []
        turns |= {span.stop for span in spans[:-1]}
        hop = stage.get("hop") or window
        if spans and hop < window and not {"coherent", "reinjected", "onward"} & set(stage["denoise"]):
            turns |= {span.start for span in spans[1:]}
        for span in spans or [slice(0, length)]:
            turns |= {span.start + turn for turn in _inside(stage["denoise"], span.stop - span.start)}
        if turns:
            found[stage["stage"]] = [(turn - 1) * each + 1 if each > 1 else turn for turn in sorted(turns)]
    return found


def _inside(denoise: Any, frames: int) -> set[int]:
    """Where windows inside a denoiser begin or end, of so many latent frames."""
    turns = set[int]()
    for part in _mappings(denoise):
        size, strides = part.get("size", frames), [part.get("stride"), part.get("wide")]
        for stride in (stride for stride in strides if stride is not None and size < frames):
            spans = tile(frames, size, size // 2 if stride == "auto" else stride)
            turns |= {span.stop for span in spans[:-1]} | {span.start for span in spans[1:]}
    return turns


def _compressions(recipe: Mapping[str, Any]) -> Iterator[int]:
    """Frames to a latent frame, stage by stage, of a video that does not tell: those of the experts that are asked from one
    bridge to the next. The sprites' autoencoder joins no frames, whatever family an expert is of."""
    known = {
        name: 1 if str(spec.get("weights", "")).startswith("sprites/") else COMPRESSION.get(spec.get("family"), 1)
        for name, spec in recipe.get("experts", {}).items()
    }
    rooms: list[list[Mapping[str, Any]]] = []
    for stage in recipe.get("chain", []):
        rooms += [[]] if stage.get("bridge") or not rooms else []
        rooms[-1].append(stage)
    for room in rooms:
        asked = {name for stage in room for name in _texts(stage["denoise"]) if name in known}
        yield from [max((known[name] for name in asked), default=1)] * len(room)


def _mappings(part: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in plain data."""
    if isinstance(part, Mapping):
        yield part
    if isinstance(part, Mapping | list | tuple):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _mappings(inner)


def _texts(part: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping | list | tuple):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _texts(inner)


def blind_period(jumps: Tensor, draws: int = 200, seed: int = 0) -> tuple[float, int]:
    """How much more than chance a signal "n" of how far steps stand out repeats itself, and at which period.

    The signal is folded at each period from 4 to 32; the best period and phase is compared with those of the same
    values in random order: (value - mean) / deviation. A video shorter than four of a period is not folded at it.
    """
    # Below half a seam there is motion with a rhythm of its own; above two, one cut would outweigh all others.
    known = jumps[~jumps.isnan()].clamp(SEAM / 2, 2 * SEAM)
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack(
        [torch.arange(len(known))] + [torch.randperm(len(known), generator=generator) for _ in range(draws)]
    )
    values, best = known[orders], torch.full((draws + 1,), -torch.inf)
    period = torch.zeros(draws + 1, dtype=torch.long)
    for length in PERIODS:
        if len(known) < 4 * length:
            continue
        found = _folded(values, length)
        period = torch.where(found > best, length, period)
        best = torch.maximum(best, found)
    if not bool(best.isfinite().all()) or float(known.std()) == 0:
        return 0.0, 0
    chance = best[1:]
    return float((best[0] - chance.mean()) / chance.std().clamp(min=1e-6)), int(period[0])


def _folded(values: Tensor, length: int) -> Tensor:
    """The largest mean over a phase, as deviations of such a mean, "rows"."""
    rounds = values.shape[1] // length
    mean = values[:, : rounds * length].reshape(len(values), rounds, length).mean(1)
    spread = values.std(1).clamp(min=1e-9) / rounds**0.5
    found: Tensor = (mean.amax(1) - values.mean(1)) / spread
    return found
