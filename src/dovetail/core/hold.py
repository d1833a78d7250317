"""What stands still, held from window to window: each window is drawn to the first one, where it says the same place.

    frame(x0)  = the median of x0 over frames, place by place            what stands still in a window
    middle(x0) = the median of x0 over frames, height and width          its colour, where that covers most

    colours    c_j = middle(x0_1) - middle(x0_j)                         windows j, channel by channel
    places     d_j = frame(x0_1) - frame(x0_j) - c_j                     if asked for; the middles are then the frames'
               w_j = (1 - (|d_j| / (within median |d_j|))^2)^2           0 beyond; this median is over places
               x0'_j = x0_j + share (c_j + w_j d_j)                      at every level; w_j is 0 where t > below
    objects    s_1 = frame(x0_1), s_j = place by place that of s_1, frame(x0'_j) which is nearer to middle(x0_1)
               u   = 1 - w, of x0 - s in place of d                      what stands out, places of all frames
               o   = sum u |x0 - middle|^4 x0 / sum u |x0 - middle|^4    its colour, of window 1 or of a frame of window j
               a_j = u_j <x0'_j - s_j, o_j - s_j> / |o_j - s_j|^2        how much of a place it is, 0 to 1
               x0''_j = x0'_j + objects a_j (o_1 - o_j)                  if asked for; where t <= below and t <= 1/2
    frames     d_f = frame(x0''_j) - x0''_j,f - c_f                       frame f of a window, the first one's too; c_f is
                                                                         the median over its places, before that is taken
               x0'''_j,f = x0''_j,f + frames (c_f + w_f d_f)              if asked for; where t <= below

What a prompt leaves open each window decides for itself, and averages of overlapping windows agree with their neighbours
only, so over a long video a background fades into another and stripes slip. What covers most of most frames decides on
the middle: a background does, an object that moves over it does not. In places a difference that is like most is of what
covers most, one that stands out is an object's, here or in the first window, and is left: Tukey's biweight. One
shift for all frames of a window changes no motion in it. Objects are what the hold of places leaves: they take the colour
of the first window's once it is drawn what they are, so that they change no ways either. A median frame shows an object
where it stands for half of a window; hence the nearer one of two. Where nothing stands out by twice `within`, in the
first window or in this one, nothing is painted: a stripe would be taken for an object. Single frames flicker, above all
where one event follows another; they are held to their window's median frame by the rule of places, after objects, as
without flicker all that is left stands out. Beyond all four papers; where a story asks for another background, or for
another colour of what moves, it is not to be held.

Windows that are made in turn are held to the first one as it is finished, at every level; its own frames are left.
"""

from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split, split

DRAWN = 0.5
"""Noise shares above this show no object yet that could be painted without changing what it does."""
FAINT = 0.01
"""What all frames of a window say of a colour beside what each says."""


@dataclass(frozen=True)
class Hold:
    """How windows are held to the first one.

    share: how far each is drawn; 1 makes its colour the first one's. within: where the difference in a place is less
    than so many times the median one, places are drawn too; 0 is none. below: places are where t is at most this, for above
    it windows still decide on what moves; colours are at every level. frames: how far each frame is drawn to its window's
    median frame, by the same rule, and objects: how far what stands out of places takes the first one's colour; both at
    levels where places are held, and objects where they are drawn.

    Raises ValueError for frames or objects without places.
    """

    share: float = 1.0
    within: float = 0.0
    below: float = 1.0
    objects: float = 0.0
    frames: float = 0.0

    def __post_init__(self) -> None:
        if self.objects and not self.within:
            raise ValueError("objects are what stands out of places that are held, and without within none are")
        if self.frames and not self.within:
            raise ValueError("frames are held in places, and without within none are")

    @property
    def painted(self) -> float:
        """The noise share at and below which objects are held."""
        return min(self.below, DRAWN)

    def of(self, x0: Tensor) -> Tensor:
        """What other windows are held to, from the first window's x0 "b c f h w": its colours "b c 1 1 1"; if places are
        held, its median frame "b c 1 h w"; if objects are as well, "b c 2 h w", with a second frame filled with the colour
        of what stands out, or the median frame again where nothing does."""
        if not self.within:
            return middle(x0)
        still = frame(x0)
        if not self.objects:
            return still
        out = Outstanding.of(x0, still, self.within)
        return torch.cat([still, torch.where(out.any, out.colour, still)], 2)

    def __call__(self, seen: Split, x: Tensor, t: float, first: Tensor | None = None) -> Split:
        """What a window sees in x at t, drawn to what `of` said of the first one. None: it is the first one itself, of
        which frames alone are drawn. The first one's eps, too, leads from x0 to x, whatever noise its denoiser answered:
        windows of unlike noises, averaged where they overlap, would show neither's video."""
        held, deep = seen.x0, t <= self.below
        if first is not None:
            still, now = first[:, :, :1], frame(held) if self.within else middle(held)
            shift = middle(still) - middle(now)
            if self.within and deep:
                shift = shift + alike(still - now - shift, self.within)
            held = held + self.share * shift
            if self.objects and t <= self.painted:
                known = (first[:, :, 1:] != still).flatten(1).any(1).view(-1, 1, 1, 1, 1)
                near = nearer(middle(still), still, now + self.share * shift)
                paint = Outstanding.of(held, near, self.within).to(first[:, :, 1:])
                held = held + known * (self.objects * paint)
        if self.frames and deep:
            held = held + self.frames * flicker(held, self.within)
        return split(x, held, t)

    def to_first(self, seen: Split, x: Tensor, t: float, batch: int) -> Split:
        """What windows "(w b)" see in x at t, all but the first one of each video drawn to that."""
        one = self(seen.map(lambda z: z[:batch]), x[:batch], t)
        first = self.of(seen.x0[:batch]).repeat(len(x) // batch - 1, 1, 1, 1, 1)
        others = self(seen.map(lambda z: z[batch:]), x[batch:], t, first)
        return Split(torch.cat([one.x0, others.x0]), torch.cat([one.eps, others.eps]))


@dataclass(frozen=True, eq=False)
class Held:
    """Denoiser of a window that is made in turn, held to what was remembered of the first one."""

    denoise: Denoiser
    hold: Hold
    first: Tensor

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.hold(self.denoise(x, t, frames), x, t, self.first)


def frame(x0: Tensor) -> Tensor:
    """The median over frames, "b c 1 h w" of "b c f h w"."""
    return x0.contiguous().median(2, keepdim=True).values


def middle(x0: Tensor) -> Tensor:
    """The median of each channel, "b c 1 1 1" of "b c f h w".

    >>> import torch
    >>> video = torch.zeros(1, 1, 3, 4, 4)
    >>> video[:, :, :, 1:3, 1:3] = 9.0  # an object
    >>> middle(video + 0.5).item(), middle(torch.tensor(0.5).expand(1, 1, 3, 4, 4)).item()
    (0.5, 0.5)
    """
    # Of a tensor that is expanded (stride 0) torch 2.13's median is zeros or what lies in memory, hence contiguous.
    return x0.flatten(2).contiguous().median(2).values[:, :, None, None, None]


def alike(apart: Tensor, within: float) -> Tensor:
    """Differences "b c 1 h w" that are like most, place by place; what stands out is 0.

    >>> import torch
    >>> slip = torch.full((1, 1, 1, 4, 4), 0.1)
    >>> slip[..., 0, 0] = 5.0  # an object that stood there
    >>> (alike(slip, within=2.0) / slip)[0, 0, 0, 0].tolist()
    [0.0, 0.5625, 0.5625, 0.5625]
    """
    return apart * usual(apart, within)


def usual(apart: Tensor, within: float) -> Tensor:
    """How much places "b c f h w" differ as most do, "b 1 f h w", from 1 where they do not to 0 from `within` times that
    on: Tukey's biweight."""
    size = lengths(apart)
    return biweight((size / (within * middle(size)).clamp(min=tiny(size))).square())


def biweight(square: Tensor) -> Tensor:
    """Tukey's, of squared distances: from 1 where there is none to 0 from 1 on."""
    return (1 - square).clamp(min=0).square()


def flicker(x0: Tensor, within: float) -> Tensor:
    """What each frame of "b c f h w" lacks to its window's median frame, in colour, and in places that are like most.

    >>> import torch
    >>> video = torch.zeros(1, 1, 3, 4, 4)
    >>> video[:, :, 1] += 0.5  # a flash
    >>> video[:, :, 1, 1, 1] += 9.0  # an object
    >>> (video + flicker(video, within=2.0))[0, 0, 1, 1].tolist()
    [0.0, 9.0, 0.0, 0.0]
    """
    apart = rearrange(frame(x0) - x0, "b c f h w -> (b f) c 1 h w")
    colour = middle(apart)
    return rearrange(colour + alike(apart - colour, within), "(b f) c 1 h w -> b c f h w", f=x0.shape[2])


@dataclass(frozen=True, eq=False)
class Outstanding:
    """What stands out of a still frame "b c 1 h w" in x0 "b c f h w": an object that moves over it.

    share: how much each place does, "b 1 f h w". any: whether anything does, "b 1 1 1 1", and is no noise.

    >>> import torch
    >>> video = torch.zeros(1, 1, 3, 4, 4)
    >>> video[:, :, 1, 1:3, 1:3] = 9.0  # in one frame of three
    >>> out = Outstanding.of(video, frame(video), within=2.0)
    >>> out.any.item(), out.share.sum().item(), out.colour.item()
    (True, 4.0, 9.0)
    """

    x0: Tensor
    still: Tensor
    share: Tensor
    any: Tensor

    @classmethod
    def of(cls, x0: Tensor, still: Tensor, within: float) -> Self:
        apart = x0 - still
        size = lengths(apart)
        most = size.amax((2, 3, 4), keepdim=True)
        return cls(x0, still, 1 - usual(apart, within), most > 2 * within * middle(size))

    @property
    def colour(self) -> Tensor:
        """Its colour "b c 1 1 1". Places say the more the farther from the middle colour they are, to the fourth power,
        which edges and patterns are not."""
        said, of = (z.mean((2, 3, 4), keepdim=True) for z in self._said)
        return said / of.clamp(min=tiny(of))

    def to(self, colour: Tensor) -> Tensor:
        """What, added to x0, makes it that colour, frame by frame; a frame without any is told the window's."""
        parts = ((z.mean((3, 4), keepdim=True), z.mean((2, 3, 4), keepdim=True)) for z in self._said)
        said, of = (each + FAINT * whole for each, whole in parts)
        now = said / of.clamp(min=tiny(of))
        way = now - self.still
        part = ((self.x0 - self.still) * way).sum(1, keepdim=True) / way.square().sum(1, keepdim=True).clamp(
            min=tiny(way)
        )
        return self.any * self.share * part.clamp(0, 1) * (colour - now)

    @property
    def _said(self) -> tuple[Tensor, Tensor]:
        """What each place says of its colour, and how much that counts."""
        far = lengths(self.x0 - middle(self.still))
        far = far / far.amax((2, 3, 4), keepdim=True).clamp(min=tiny(far))
        weight = self.share * far**4
        return weight * self.x0, weight


def nearer(to: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of two frames, place by place that which is nearer to a colour."""
    return one.where(lengths(one - to) <= lengths(other - to), other)


def lengths(x: Tensor) -> Tensor:
    """Over channels, which stay as one."""
    size: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return size


def tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny
