"""FreeNoise's noise. Qiu et al., 2023, arXiv:2310.15169, section 3.2.

    eps[i : i + S] = shuffle(eps[i - M : i - M + S]),   i = M, M + S, ..

The first M frames have noise of their own; each further block of S frames is a shuffle of the block that lies M frames
earlier. Shuffles of shuffles are shuffles, so a block is here shuffled straight from the first M: the law is the same,
and no block has to wait for another. The method's other half, windows of M frames averaged with the weights 1, 2, ..,
M / 2, .., 2, 1, is a stage's `window`, `hop` and `weights`; the original averages inside temporal attention instead,
which only networks that have such a layer allow. Readings: docs/methods/confiner-long.md.
"""

from dovetail.core.noise import Noise
from dovetail.methods.consistent import Consistent


def rescheduled(noise: Noise, length: int = 16, block: int = 4) -> Consistent:
    """The noise that a stage starts from. length: M; block: S, a divisor of it, else ValueError."""
    return Consistent(noise, length, block=block)
