"""Stand-ins without learned weights for the measures of VBench that ConFiner reports.

They follow VBench's formulas with pixels where VBench has a network, so they rank methods on one
world, and their values mean nothing beside published ones. Read them together: stillness and
blur raise consistency, smoothness and steadiness, noise raises detail; `motion` tells stillness
apart, `imaging_quality` blur, `smoothness_of_motion` noise and shuffling. Videos are "f 3 h w" in [-1, 1].
"""

from dataclasses import asdict, dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity, interpolate, pad

REACH = 5
"""Motion is looked for up to this many pixels between a frame and the next but one."""
SHIFTS = [(dy, dx) for dy, dx in product(range(-REACH, REACH + 1), repeat=2) if dy**2 + dx**2 <= REACH**2]
BLOCK = 9
"""Side of the squares that are matched, in pixels."""
STILLNESS = 0.01
"""What a pixel of motion must gain, as a difference in [0, 2], to be believed: flat areas stay at rest."""
MOVING = 6 / 256
"""VBench: a pair of frames moves if its fastest 5 % do so by more than this share of the shorter side."""


@dataclass(frozen=True)
class Standins:
    """Stand-ins; "higher is better" but for `motion` and `dynamic_degree`, which say what the others are worth.

    - `subject_consistency`: VBench's aggregation over thumbnails without their mean, and colour histograms, for DINO.
    - `motion_smoothness`: VBench's formula, the dropped frame predicted by block matching, for AMT.
    - `motion_smoothness_blend`: the same, predicted by the mean of its neighbours; blind to motion.
    - `smoothness_of_motion`: 1 - error of the block-matched frame / change between neighbours. Not a VBench measure:
      0 is no better than repeating a frame, 1 is perfect and a still video. It knows shifts by whole pixels: things
      that grow in place score low however smoothly they do, and blur can raise it where a shift is no whole number.
    - `steadiness`: VBench's temporal flickering, exactly.
    - `imaging_quality`: mean gradient (Sobel), for MUSIQ. It knows sharpness and nothing else.
    - `aesthetic_quality`: colourfulness (Hasler & Suesstrunk, 2003), for the LAION head. It knows contrast and colour.
    - `motion`: pixels per frame of the fastest 5 %, by block matching. `dynamic_degree`: 1 if VBench's rule calls the
      video moving, with this motion for RAFT's.
    """

    subject_consistency: float
    motion_smoothness: float
    motion_smoothness_blend: float
    smoothness_of_motion: float
    steadiness: float
    imaging_quality: float
    aesthetic_quality: float
    motion: float
    dynamic_degree: float

    def scores(self) -> dict[str, float]:
        """All numbers by name."""
        return asdict(self)


def measure(video: Tensor) -> Standins:
    """All stand-ins of a video "f 3 h w" in [-1, 1] with three frames or more, else ValueError."""
    if video.ndim != 4 or video.shape[1] != 3 or len(video) < 3:
        raise ValueError(f"stand-ins are measured on 'f 3 h w' with three frames or more, not {tuple(video.shape)}")
    flow, between = matched(video)
    truth = video[1:-1:2]
    error = float((between - truth).abs().mean())
    change = float((video[1:] - video[:-1]).abs().mean())
    fastest = top_speed(flow)
    return Standins(
        subject_consistency=(consistency(thumbnails(video)) + consistency(colours(video))) / 2,
        motion_smoothness=1 - error / 2,
        motion_smoothness_blend=1 - float(((video[:-2:2] + video[2::2]) / 2 - truth).abs().mean()) / 2,
        smoothness_of_motion=1 - error / change if change > 1e-6 else 1.0,
        steadiness=1 - change / 2,
        imaging_quality=_gradient(video),
        aesthetic_quality=_colourfulness(video),
        motion=float(fastest.mean()),
        dynamic_degree=float((fastest > MOVING * min(video.shape[2:])).double().mean() >= 0.25),
    )


def consistency(features: Tensor) -> float:
    """VBench's aggregation of features "f d": each frame's likeness to the one before and to the first."""
    now = features[1:]
    before = cosine_similarity(now, features[:-1]).clamp(min=0)
    first = cosine_similarity(now, features[:1]).clamp(min=0)
    return float((before + first).mean() / 2)


def thumbnails(video: Tensor) -> Tensor:
    """Each frame at 32x32 without its mean, "f d"."""
    small = interpolate(video, (32, 32), mode="bilinear", antialias=True)
    return (small - small.mean((2, 3), keepdim=True)).flatten(1)


def colours(video: Tensor, bins: int = 8) -> Tensor:
    """The square root of each frame's histogram of colours, "f d", so that a cosine is a Bhattacharyya coefficient."""
    level = ((video + 1) / 2 * bins).long().clamp(0, bins - 1)
    index = (level[:, 0] * bins + level[:, 1]) * bins + level[:, 2]
    return torch.stack([row.flatten().bincount(minlength=bins**3) for row in index]).float().sqrt()


def matched(video: Tensor) -> tuple[Tensor, Tensor]:
    """Motion "n 2 h w" (x, y, pixels per frame) around every other frame, and these frames, predicted.

    A frame is predicted from its two neighbours alone: around each pixel, the displacement for which they agree best
    is taken to pass through it at half way.
    """
    before, after = video[:-2:2], video[2::2]
    best = torch.full((len(before), *video.shape[2:]), torch.inf)
    between, flow = torch.empty_like(before), torch.zeros(len(before), 2, *video.shape[2:])
    for dy, dx in SHIFTS:
        came, goes = _shifted(before, dy // 2, dx // 2), _shifted(after, dy // 2 - dy, dx // 2 - dx)
        apart = (came - goes).abs().mean(1)
        cost = avg_pool2d(pad(apart[:, None], (BLOCK // 2,) * 4, mode="replicate"), BLOCK, 1)[:, 0]
        cost = cost + STILLNESS * (dy**2 + dx**2) ** 0.5 / 2
        better = cost < best
        best = torch.where(better, cost, best)
        between = torch.where(better[:, None], (came + goes) / 2, between)
        move = torch.tensor([dx / 2, dy / 2])[:, None, None]
        flow = torch.where(better[:, None], move, flow)
    return flow, between


def _shifted(frames: Tensor, dy: int, dx: int) -> Tensor:
    """Frames moved down by dy and right by dx; the border is repeated."""
    height, width = frames.shape[2:]
    y = (torch.arange(height) - dy).clamp(0, height - 1)
    x = (torch.arange(width) - dx).clamp(0, width - 1)
    moved: Tensor = frames[:, :, y][:, :, :, x]
    return moved


def top_speed(flow: Tensor) -> Tensor:
    """The mean length of the longest 5 % of a field "n 2 h w", as VBench has it, "n"."""
    speed = torch.hypot(flow[:, 0], flow[:, 1]).flatten(1)  # `norm` over two channels takes eight times as long
    top: Tensor = speed.topk(max(1, speed.shape[1] // 20), dim=1).values
    return top.mean(1)


def _gradient(video: Tensor) -> float:
    grey = video.mean(1, keepdim=True)
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0]) / 2
    across = torch.nn.functional.conv2d(grey, (smooth[:, None] * slope)[None, None])
    along = torch.nn.functional.conv2d(grey, (slope[:, None] * smooth)[None, None])
    return float(torch.hypot(across, along).mean())


def _colourfulness(video: Tensor) -> float:
    red, green, blue = ((video + 1) / 2).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(2)
    spread, middle = opponents.std(2).norm(dim=0), opponents.mean(2).norm(dim=0)
    return float((spread + 0.3 * middle).mean())
