"""How much of a clip's change over time an expert sees through noise, beside what there is to be seen.

    python training/sees.py flow-large --work DIR [--motion pulsing] [--clips 3]

A sampler decides on a phase (of a pulse, of a way) where an expert first sees one, so what it misses where there is much
noise it will not draw. Clips of the pools' looks are noised; seen: the slope of the answer's change over time along the
clip's own, 1 if it is all there, 0 if the answer stands still. There to be seen: the same of the posterior mean over all
other clips of that look and motion, which is the best answer where they are many for the noise, and too bold below.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from networks import SPECS
from pool import load
from rivals import FEW, expected, motions
from score import expert
from torch import Tensor

from dovetail.core.denoiser import timeline
from dovetail.core.sampler import Euler, last, sample
from dovetail.sprites.world import MOTIONS, caption

LEVELS = (0.98, 0.96, 0.94, 0.92, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)


def slope(shown: Tensor, clip: Tensor) -> float:
    """How much of a clip's change over time "c f h w" is in another's: a regression through the origin.

    >>> clip = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
    >>> slope(clip / 4, clip), slope(torch.ones(1, 3, 1, 1), clip)
    (0.25, 0.0)
    """
    change, own = shown - shown.mean(1, keepdim=True), clip - clip.mean(1, keepdim=True)
    return float((change * own).sum() / own.square().sum())


@torch.no_grad()
def sees(name: str, work: Path, motion: str, count: int, most: int = 8) -> Iterator[tuple[float, float, float]]:
    """(noise share, seen, there to be seen) for each level, mean over `count` clips of each of `most` looks."""
    latents, _, asks = load(work / "pools", SPECS[name].kind)
    known = [(asked, at) for asked, at in motions(asks).items() if asked.motion == motion and len(at) >= FEW][:most]
    if not known:
        raise ValueError(f"no look has {FEW} clips that are {motion}: run training/pool.py sharp 1 --looks 8 first")
    one, frames, dice = expert(name, work, quick=False), timeline(SPECS[name].frames), torch.Generator().manual_seed(0)
    for t in LEVELS:
        seen, there = [], []
        for asked, at in known:
            clips = latents[at].float().transpose(1, 2)
            for k in range(count):
                clip, others = clips[k], torch.cat([clips[:k], clips[k + 1 :]])
                x = (1 - t) * clip + t * torch.randn(clip.shape, generator=dice)
                x0 = last(sample(one.given(caption(asked)), x[None], frames, (t, 0.0), Euler())).seen.x0
                seen.append(slope(x0[0], clip))
                there.append(slope(expected(x, 1 - t, t, others), clip))
        yield t, fmean(seen), fmean(there)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[name for name, spec in SPECS.items() if spec.frames > 1])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--motion", choices=MOTIONS, default="pulsing")
    parser.add_argument("--clips", type=int, default=3, help="of each look")
    args = parser.parse_args()
    print("t      seen   there to be seen")
    for t, seen, there in sees(args.name, args.work, args.motion, args.clips):
        print(f"{t:<6} {seen:.3f}  {there:.3f}", flush=True)


if __name__ == "__main__":
    main()
