"""Measures of a long video, without learned weights: what keeps, what drifts, what moves, what jumps.

They are functions of a `Series`. Read them together: a frozen video is perfect but for `motion` and `dynamic_degree`;
blur raises smoothness and lowers the warping error; noise leaves consistency as it is. Compare videos of equal length,
or by `consistency_16`, whose windows are.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dovetail.eval.seams import SEAM, blind_period, seams
from dovetail.eval.series import WINDOW, Series

ENDS = 0.15
"""Share of a video that is its beginning, and its end."""
MOVING = 6.0
"""VBench: a step moves when its fastest 5 % do, by more than so many 256ths of the shorter side."""
NEAR = 2
"""Steps so near to a border are not counted as inner ones."""


@dataclass(frozen=True)
class Measures:
    """All measures of one video; None: there is nothing to measure it on.

    - `consistency`, `consistency_16`: likeness to the frame before and to the first one, over the clip, and over
      windows of 16 frames. VBench's aggregation, over gradients, colours and thumbnails.
    - `drift_end`, `drift_per_100`: unlikeness to the first frame in the last 15 %, and its slope over 100 frames.
    - `colour_drift`, `detail_drift`, `contrast_drift`: first 15 % against last 15 %: mean colour (Lab), variance of
      the Laplacian, deviation of grey.
    - `motion`: speed of the fastest 5 %, in 256ths of the shorter side per frame. `dynamic_degree`: share of windows
      of 16 frames that VBench's rule calls moving.
    - `smoothness`, `smoothness_blend`: VBench's motion smoothness, the dropped frame made by optical flow, and by
      averaging. `smoothness_of_motion`: 1 - error of the made frame / change; 0 is no better than repeating a frame.
    - `warping_error`: mean square error of the next frame warped onto this one, where flows agree (Lai et al., 2018).
      `hidden`: share of pixels where they do not. `steadiness`: VBench's temporal flickering.
    - `seam`: how far the worst border stands out. `seams`: share of borders that stand out by more than 4;
      `jumps`: the same of steps that are no borders. `turns`: share of borders at which motion turns round.
    - `rhythm`: how much more than chance jumps repeat themselves at some period, of `period` frames; looked for
      without knowing any border.
    """

    frames: int
    consistency: float
    consistency_16: float
    drift_end: float
    drift_per_100: float
    colour_drift: float
    detail_drift: float
    contrast_drift: float
    motion: float
    dynamic_degree: float
    smoothness: float | None
    smoothness_blend: float | None
    smoothness_of_motion: float | None
    warping_error: float
    hidden: float
    steadiness: float
    seam: float | None
    seams: float | None
    jumps: float | None
    turns: float | None
    rhythm: float
    period: int

    def scores(self) -> dict[str, float]:
        """All that was measured, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def measures(series: Series, borders: Sequence[int] = (), fps: float = 8.0) -> Measures:
    """Measure a video whose segments begin at `borders`, its own beginning not counted."""
    z = seams(series)
    away = z[torch.tensor([b for b in borders if b < len(z)], dtype=torch.long)]
    inner = z[_inner(len(z), borders)]
    error, changed = _mean(series.error), _mean(series.between)
    rhythm, period = blind_period(z)
    turned = series.turn[torch.tensor([b for b in borders if b < len(z)], dtype=torch.long)]
    return Measures(
        frames=len(series),
        consistency=_or(_mean((series.near + series.first)[1:] / 2)),
        consistency_16=_or(_windowed((series.near + series.home) / 2)),
        drift_end=float(1 - _end(series.first).mean()),
        drift_per_100=_slope(1 - series.first) * 100,
        colour_drift=float((_end(series.colour).mean(0) - _begin(series.colour).mean(0)).norm()),
        detail_drift=_apart(series.detail),
        contrast_drift=_apart(series.contrast),
        motion=_or(_mean(series.speed)),
        dynamic_degree=_dynamic(series.speed, fps),
        smoothness=_minus(error),
        smoothness_blend=_minus(_mean(series.blend)),
        smoothness_of_motion=None
        if error is None or changed is None
        else 1 - error / changed
        if changed > 1e-6
        else 1.0,
        warping_error=_or(_mean(series.squared)),
        hidden=_or(_mean(series.hidden)),
        steadiness=1 - _or(_mean(series.change)),
        seam=float(away.max()) if len(away) else None,
        seams=float((away > SEAM).float().mean()) if len(away) else None,
        jumps=float((inner > SEAM).float().mean()) if len(inner) else None,
        turns=float((turned < 0).float().mean()) if len(away) else None,
        rhythm=rhythm,
        period=period,
    )


def _inner(length: int, borders: Sequence[int]) -> Tensor:
    """Which steps are no borders, nor near one, "n" bool."""
    inner = torch.ones(length, dtype=torch.bool)
    inner[0] = False
    for border in borders:
        inner[max(0, border - NEAR) : border + NEAR + 1] = False
    return inner


def _mean(values: Tensor) -> float | None:
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else None


def _or(value: float | None) -> float:
    """Of what every video has."""
    assert value is not None
    return value


def _minus(value: float | None) -> float | None:
    return None if value is None else 1 - value


def _part(length: int) -> int:
    return max(1, round(length * ENDS))


def _begin(values: Tensor) -> Tensor:
    return values[: _part(len(values))]


def _end(values: Tensor) -> Tensor:
    return values[-_part(len(values)) :]


def _apart(values: Tensor) -> float:
    return float((_end(values).mean() - _begin(values).mean()).abs())


def _slope(values: Tensor) -> float:
    """Of the straight line through the values, per frame."""
    when = torch.arange(len(values), dtype=torch.float64)
    off = when - when.mean()
    return float((off * (values.double() - values.double().mean())).sum() / off.square().sum())


def _windowed(values: Tensor) -> float | None:
    """The mean over windows of the mean over a window's frames but its first."""
    found = [_mean(window[1:]) for window in torch.split(values, WINDOW)]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def _dynamic(speed: Tensor, fps: float) -> float:
    """VBench looks at about 8 frames per second, so faster videos' steps are taken together."""
    fast = (speed * max(1, round(fps / 8)) > MOVING).float()
    moving = [
        window[~s.isnan()] for window, s in zip(torch.split(fast, WINDOW), torch.split(speed, WINDOW), strict=True)
    ]
    counted = [bool(window.mean() >= 0.25) for window in moving if len(window) > 1 or len(moving) == 1]
    return sum(counted) / len(counted)
