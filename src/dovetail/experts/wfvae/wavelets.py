"""Haar wavelets: sums and differences of neighbours, along several dimensions one after another.

Bands lie along the channels, those of the first sum first. Along time a video begins with its first frame twice, so its
2k + 1 frames are k + 1 pairs. The authors write 1 / sqrt(8) as 0.3536, so there and back is 1.0003 times what it was.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PLANE, VOLUME = (4, 3), (2, 3, 4)
"""Dimensions of "b c f h w" along which frames (width, then height) and videos (time, height, width) are taken apart."""

SHARES = {PLANE: 0.5, VOLUME: 0.3536}
"""What each number counts in a band."""


def bands(x: Tensor, along: tuple[int, ...]) -> Tensor:
    """The bands "b (n c) ..." of x "b c ...", each dimension of `along` halved; n is 2 for each of these.

    >>> bands(torch.tensor([[1.0, 2.0], [3.0, 5.0]])[None, None, None], PLANE).flatten().tolist()
    [5.5, -2.5, -1.5, 0.5]
    """
    parts = [x]
    for dim in along:
        pairs = [torch.unflatten(part, dim, (-1, 2)).unbind(dim + 1) for part in parts]
        # The dimension that comes first counts most in a band's number.
        parts = [found for a, b in pairs for found in (a + b, a - b)]
    return torch.cat(parts, 1) * SHARES[along]


def joined(x: Tensor, along: tuple[int, ...]) -> Tensor:
    """What has the bands x "b (n c) ...", as "b c ...": each dimension of `along` is doubled.

    >>> joined(torch.tensor([5.5, -2.5, -1.5, 0.5])[None, :, None, None, None], PLANE).flatten().tolist()
    [1.0, 2.0, 3.0, 5.0]
    """
    parts: Sequence[Tensor] = x.chunk(2 ** len(along), 1)
    for dim in reversed(along):
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [torch.stack((low + high, low - high), dim + 1).flatten(dim, dim + 1) for low, high in pairs]
    return parts[0] * SHARES[along]
