"""Videos' files, measured: a table to read, a file to compute with, a picture of each."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dovetail.errors import OutputError
from dovetail.eval.flow import opencv
from dovetail.eval.kept import Kept, kept, shows_sprites
from dovetail.eval.long import Measures, measures
from dovetail.eval.plot import Panel, draw, strip
from dovetail.eval.seams import SEAM, borders, seams
from dovetail.eval.series import Series, follow
from dovetail.video import Frames
from dovetail.video.footage import Footage
from dovetail.video.places import checked_folder, suffix_of

SHOWN = 4
"""So many borders are shown, those that stand out most."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured of one video. `kept` is there for videos of the sprite world whose prompt is known."""

    footage: Footage
    borders: tuple[int, ...]
    series: Series = field(repr=False)
    measures: Measures
    kept: Kept | None
    unjudged: str = ""
    """Why the oracle says nothing of a video of its world, if so."""

    def told(self) -> dict[str, Any]:
        """All of it as plain data; curves have None where there is nothing to measure."""
        curves = {"drift": 1 - self.series.first, "stands_out": seams(self.series), "motion": self.series.speed}
        return {
            "borders": list(self.borders),
            "measures": self.measures.scores(),
            "oracle": None if self.kept is None else self.kept.scores(),
            "curves": {name: _plain(curve) for name, curve in curves.items()},
        }


LOSSLESS = (".npz", ".webp", "")
"""Of the formats that are read, those that keep every pixel; the last is a folder of PNG."""


def evaluated(videos: Sequence[Path], out: Path, segments: int | None = None) -> Iterator[str]:
    """Measure files; write eval.json and a picture of each video to a folder, and yield what to print.

    segments: so many frames make a segment; without it borders are what a video's own settings declare. Raises
    ExtraError without OpenCV, OutputError for what cannot be read or written.
    """
    opencv()
    checked_folder(out)
    found = []
    for path in videos:
        found.append(evaluate(path, segments))
    yield table(found)
    if lossy := [one.footage.path.name for one in found if suffix_of(one.footage.path) not in LOSSLESS]:
        yield (
            f"{', '.join(lossy)}: what this format loses begins anew at each piece of a video, which seams, jumps and rhythm "
            "may show; `dovetail decode RUN -o NAME.npz` writes one that loses nothing"
        )
    yield from (
        f"{one.footage.path.name}: no border is known, so nothing is said of seams; --segments FRAMES names some"
        for one in found
        if not one.borders and segments is None
    )
    yield from (f"{one.footage.path.name}: the oracle says nothing, {one.unjudged}" for one in found if one.unjudged)
    names = _names([one.footage.path for one in found])
    try:
        told = {str(one.footage.path): one.told() for one in found}
        (out / "eval.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        for one, name in zip(found, names, strict=True):
            drawn(one).save(out / f"{name}.png")
    except OSError as error:
        raise OutputError(f"cannot write the evaluation to {out}: {error}") from None
    yield "\n".join(str(out / name) for name in ("eval.json", *(f"{name}.png" for name in names)))


def evaluate(path: str | Path, segments: int | None = None) -> Evaluation:
    """Measure one file. Raises as `evaluated` does."""
    footage = Footage.of(path)
    try:
        series = follow(footage)
        at = _borders(footage, segments, len(series))
    except ValueError as error:
        raise OutputError(f"{footage.path} cannot be measured: {error}") from None
    judged, unjudged = _judged(footage, at)
    return Evaluation(footage, at, series, measures(series, at, footage.fps), judged, unjudged)


def _judged(footage: Footage, at: Sequence[int]) -> tuple[Kept | None, str]:
    """What the oracle says of a video of its world, or why it does not: of other shapes it knows nothing."""
    prompt = footage.settings.get("recipe", {}).get("prompt")
    if prompt is None or not shows_sprites(footage.settings):
        return None, ""
    try:
        return kept(footage, prompt, at), ""
    except ValueError as error:
        return None, str(error)


def _borders(footage: Footage, segments: int | None, frames: int) -> tuple[int, ...]:
    if segments is not None:
        return tuple(range(segments, frames, segments))
    return tuple(sorted({at for stage in borders(footage.settings, frames).values() for at in stage}))


def table(found: Sequence[Evaluation]) -> str:
    """A column per video."""
    rows = [["", *(one.footage.path.name for one in found)]]
    for part in ("measures", "kept"):
        scores = [getattr(one, part).scores() if getattr(one, part) else {} for one in found]
        for name in dict.fromkeys(name for column in scores for name in column):
            rows.append([name, *(_number(column.get(name)) for column in scores)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def drawn(one: Evaluation) -> Any:
    """The drift curve, how far steps stand out, the motion, and the frames around the borders that stand out most."""
    z, drift = seams(one.series), 1 - one.series.first
    worst = sorted((at for at in one.borders if not math.isnan(z[at])), key=lambda at: -float(z[at]))[:SHOWN]
    panels = [
        Panel("drift: unlikeness to the first frame", drift.tolist(), 0.0, _top(drift, 0.2), marks=one.borders),
        Panel("how far a step stands out", z.tolist(), -2.0, _top(z.clamp(max=30), 8.0), SEAM, one.borders),
        Panel(
            "motion, 256ths of the shorter side per frame", one.series.speed.tolist(), 0.0, _top(one.series.speed, 8.0)
        ),
    ]
    around = {at: range(max(0, at - 3), min(len(z), at + 3)) for at in worst}
    seen = _picked(one.footage, {i for places in around.values() for i in places})
    strips = [
        (f"border {at}: {float(z[at]):.1f}", strip([seen[i] for i in places], gap=at - places.start))
        for at, places in around.items()
    ]
    return draw(panels, strips)


def _top(values: Tensor, least: float) -> float:
    return max(least, float(values.nan_to_num(0.0).max()))


def _picked(footage: Footage, places: set[int]) -> dict[int, Frames]:
    """Some frames of a file, which is read once more for them."""
    found, at = {}, 0
    for frames in footage if places else ():
        for i in places & set(range(at, at + len(frames))):
            scaled = ((frames[i - at] + 1) * 127.5).round().clamp(0, 255).byte()
            found[i] = scaled.permute(1, 2, 0).numpy()
        at += len(frames)
        if at > max(places):
            break
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each picture; videos of one name get numbers."""
    stems = [path.stem for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem}-{i + 1}" for i, stem in enumerate(stems)]


def _plain(curve: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 5) for value in curve.tolist()]
