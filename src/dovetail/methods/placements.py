"""Where the large expert stands, a letter per step from noise to video: FlowBlending, and what it is compared with.

FlowBlending's LSL, LSS, SLL, LLL and SSS are `sandwich`. Beside it: T-Stitch (Pan et al., 2024, arXiv:2402.14167; the
small expert first), the same number of large steps at random or evenly spread, and Wan 2.2's one boundary.

>>> sandwich(10, early=4, late=2), stitched(10, small=4), interleaved(10, large=5)
('LLLLSSSSLL', 'SSSSLLLLLL', 'SLSLSLSLSL')
"""

from collections.abc import Mapping

import torch

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import Ladder
from dovetail.methods.flowblending import Blended

WAN_22 = 0.875
"""Wan 2.2 A14B's boundary (text to video): its high-noise expert above, its low-noise expert below."""


def sandwich(steps: int, early: int, late: int) -> str:
    """The large expert at the first `early` and the last `late` steps, the small one between."""
    if not (early >= 0 and late >= 0 and early + late <= steps):
        raise ValueError(f"{early} early and {late} late steps do not fit into {steps}")
    return "L" * early + "S" * (steps - early - late) + "L" * late


def stitched(steps: int, small: int) -> str:
    """T-Stitch: the small expert first, then the large one."""
    return "S" * small + "L" * (steps - small)


def interleaved(steps: int, large: int) -> str:
    """`large` steps of the large expert, evenly spread."""
    return "".join("L" if (k + 1) * large // steps > k * large // steps else "S" for k in range(steps))


def scattered(steps: int, large: int, seed: int) -> str:
    """`large` steps of the large expert, at random."""
    chosen = torch.randperm(steps, generator=torch.Generator().manual_seed(seed))[:large].tolist()
    return "".join("L" if k in chosen else "S" for k in range(steps))


def placed(ladder: Ladder, letters: str, experts: Mapping[str, Denoiser]) -> Blended:
    """The denoiser of a placement, given who the letters are."""
    return Blended.of(ladder, [experts[letter] for letter in letters])
