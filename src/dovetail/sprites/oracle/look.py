"""What each frame shows, found by synthesis: background, object, place, size, texture, edges. No learned weights.

The order of work, for all frames of a chunk at once:

1. *Background colour*: each pixel votes for the nearest palette entry, in all its shades.
2. *Pattern*: the brightness of these pixels is regressed on every stripe and checker of the world, at every
   shift. The best one, with its measured colours, is the frame's background.
3. *Place*: what differs from the background by more than the background's own noise; the heaviest blob, then
   its circular mean (space is a torus). A window is cut out around it, across the border where need be.
4. *Colour*: the object colour that, in its shades and mixed with the background, explains the blob's pixels best.
5. *Shape*: the window, projected onto the line from background to object colour, is regressed on the
   renderer's own covers and dots, over shape x radius x blur x place; the least squared error wins.
6. *Texture, sharpness*: measured against the fitted shape as the renderer would draw it.

Limits: behind a blur of three pixels dots and stripes are gone, and are read as solid and plain; black behind a wash
of 30 % gray is read as gray.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.sprites.world import (
    BACKGROUNDS,
    COLOURS,
    DOT,
    DOTS,
    PATTERNS,
    SHADE,
    SHAPES,
    SIZE,
    Scene,
    dots,
    outline,
    render,
)

HALF = 26
"""The window around an object reaches this many pixels to each side of its centre."""
WINDOW = 2 * HALF + 1
RADII = tuple(7.4 * 1.065**i for i in range(18))
"""Radii of the templates, in pixels; the world's lie between 8.5 and 20.8."""
BLURS = (0.0, 1.2, 2.4)
"""Blurs of the templates: standard deviations in pixels."""
NUDGES = (-1.0, 0.0, 1.0)
"""Places of the templates relative to the window's centre, in pixels, along each axis."""
PHASES = 48
"""Shifts of a background pattern that are tried."""
MIXED = (DOT, 0.6, 0.8, 1.0)
"""Shades of an object's colour that are tried."""
REACH = 23.0
"""No object of the world reaches further from its centre, in pixels."""

FAINTEST = 0.09
"""An object differs from its background by at least this much (length in RGB, each in [0, 1])."""
FLATTEST = 0.12
"""A pattern's dark parts are darker by at least this share of the background's colour; the renderer's: .35."""
DOTTED = 0.12
"""Texture scores above this are called dotted: the renderer's dots score 1, and .15 behind two pixels of blur; a solid
object scores 0, and up to .1 in noise of standard deviation .1."""


@dataclass(frozen=True)
class Look:
    """What was found in each of f frames. Labels are indices into the world's tables; lengths in pixels."""

    present: Tensor  # "f" bool
    alone: Tensor  # "f" bool: present, and nothing else of comparable size
    shape: Tensor  # "f" index into SHAPES
    colour: Tensor  # "f" index into COLOURS
    background: Tensor  # "f" index into BACKGROUNDS
    pattern: Tensor  # "f" index into PATTERNS
    centre: Tensor  # "f 2" x, y in [0, 64)
    radius: Tensor  # "f"
    texture: Tensor  # "f" 1 = the renderer's dots, 0 = solid
    sharpness: Tensor  # "f" 1 = the renderer
    under: Tensor  # "f h w" bool: under the object, or within three pixels of it


def look(frames: Tensor) -> Look:
    """Analyse frames "f 3 64 64" in [0, 1], each alone."""
    parts = [_look(chunk) for chunk in torch.split(frames, 64)]
    return Look(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


def _look(frames: Tensor) -> Look:
    soft = _blur(frames, 0.9)
    background, pattern, behind, clear = _background(frames, soft)
    differs = _differs(soft, behind)
    noise = _median_where(differs, clear)
    excess = (differs - (2.5 * noise).clamp(min=0.05)[:, None, None]).clamp(min=0)
    corner = _locate(excess).round().long()
    see = _window(frames, corner)
    back = _window(behind, corner)
    colour, paint = _colour(_window(soft, corner), back, _window(excess[:, None], corner)[:, 0])
    # 0 is the background, 1 the object's colour. A dot may lie below 0, where it is further off than the background.
    toward = paint[:, :, None, None] - back
    towards = ((see - back) * toward).sum(1) / toward.square().sum(1).clamp(min=1e-3)
    shape, nudge, radius = _shape(towards.clamp(-2, 2))
    u, v = _offsets(nudge)
    distance = torch.stack([outline(s, u, v, radius[:, None, None]) for s in SHAPES], 1)
    distance = distance[torch.arange(len(shape)), shape]
    contrast = _mean_where(_window(differs[:, None], corner)[:, 0], distance < 0)
    present = contrast > (3 * noise).clamp(min=FAINTEST)
    texture, full, pattern_on = _texture(see, distance, u, v)
    dotted = pattern_on * (texture > DOTTED)[:, None, None]
    under = _spread(distance < 3, corner) & present[:, None, None]
    return Look(
        present=present,
        alone=present & ~_another(excess, _spread(distance < 4, corner)),
        shape=shape,
        colour=colour,
        background=background,
        pattern=pattern,
        centre=(corner + nudge) % SIZE,
        radius=radius,
        texture=texture,
        sharpness=_sharpness(see, back, full, distance, dotted),
        under=under,
    )


def _background(frames: Tensor, soft: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label and pattern "f", the background drawn "f c h w", and the pixels "f h w" that show it."""
    palette = torch.tensor(list(BACKGROUNDS.values()))
    nearest = _nearest(soft, palette, SHADE)
    label = functional.one_hot(nearest, len(palette)).sum((1, 2)).argmax(1)
    votes = clear = nearest == label[:, None, None]
    # An object of no background's hue votes for the nearest all the same. It is what differs from most of the votes.
    for most in (1.25, 1.5):
        _, behind = _drawn(frames, palette[label], clear)
        differs = _differs(soft, behind)
        clear = votes & (differs <= 0.05 + most * _median_where(differs, clear)[:, None, None])
    pattern, behind = _drawn(frames, palette[label], clear)
    return label, pattern, behind, clear


def _differs(soft: Tensor, behind: Tensor) -> Tensor:
    """How far blurred frames are from a background that is blurred alike, "f h w"."""
    return (soft - _blur(behind, 0.9)).square().sum(1).sqrt()


def _drawn(frames: Tensor, base: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
    """Pattern "f" and the background drawn "f c h w", of colours `base` "f c", from the pixels "f h w" that show it."""
    shade = torch.einsum("fchw,fc->fhw", frames, base) / base.square().sum(1)[:, None, None]
    weight = clear.flatten(1).float()
    weight = weight / weight.sum(1, keepdim=True)
    waves = _waves()
    mean = weight @ waves.T
    variance = (weight @ waves.square().T - mean.square()).clamp(min=1e-4)
    level = (weight * shade.flatten(1)).sum(1, keepdim=True)
    together = (weight * shade.flatten(1)) @ waves.T - mean * level
    slope = together / variance
    explained = torch.where(slope > 0, together.square() / variance, torch.zeros(()))
    best = explained.argmax(1)
    rows = torch.arange(len(frames))
    patterned = slope[rows, best] > FLATTEST
    pattern = torch.where(patterned, 1 + best // PHASES, 0)
    # Colours as they are, not as the palette has them: a dim or washed-out background stays a background.
    wave = torch.where(patterned[:, None], waves[best] - mean[rows, best, None], torch.zeros(()))
    colours = frames.flatten(2)
    middle = torch.einsum("fn,fcn->fc", weight, colours)
    swing = torch.einsum("fn,fcn->fc", weight * wave, colours) / variance[rows, best, None]
    behind = middle[:, :, None] + swing[:, :, None] * wave[:, None]
    return pattern, behind.view_as(frames)


@cache
def _waves() -> Tensor:
    """Every stripe and checker of the world, "(pattern phase) n", 1 where bright and 0 where dark."""
    drawn = []
    for pattern in PATTERNS[1:]:
        for phase in range(PHASES):
            # An object too small to be seen leaves the background alone.
            scene = Scene("solid", "red", "circle", "still", "gray", pattern, 0, 0, -1, 0, 1, 0, phase / PHASES)
            red = (render(scene, [0])[0, 0] + 1) / 2 / BACKGROUNDS["gray"][0]
            drawn.append(((red - SHADE) / (1 - SHADE)).flatten())
    return torch.stack(drawn)


def _locate(excess: Tensor) -> Tensor:
    """Centre "f 2" (x, y) of the heaviest blob on the torus."""
    at = _box(excess).flatten(1).argmax(1)
    x, y = (at % SIZE).float(), (at // SIZE).float()
    lines = torch.arange(SIZE).float()
    for _ in range(4):
        dx, dy = _wrap(lines - x[:, None]), _wrap(lines - y[:, None])
        weight = excess * (dx[:, None, :].square() + dy[:, :, None].square() < REACH**2)
        total = weight.sum((1, 2)).clamp(min=1e-6)
        x = x + (weight.sum(1) * dx).sum(1) / total
        y = y + (weight.sum(2) * dy).sum(1) / total
    return torch.stack([x, y], 1)


def _colour(see: Tensor, back: Tensor, excess: Tensor) -> tuple[Tensor, Tensor]:
    """Label "f" of the object's colour, and the colour of its brighter half, "f c", as it is.

    A pixel may mix the object's colour, in any shade, with the background, as blur does.
    """
    palette = torch.tensor(list(COLOURS.values()))
    lines = torch.arange(-HALF, HALF + 1).float()
    excess = excess * ((lines[:, None].square() + lines.square()) < REACH**2)
    core = (excess > 0) & (excess > 0.5 * excess.flatten(1).quantile(0.95, dim=1)[:, None, None])
    apart = see - back
    there, ahead = (torch.einsum("fchw,kc->fkhw", picture, palette) for picture in (apart, back))
    here = (apart * back).sum(1, keepdim=True)
    length, dark = palette.square().sum(1)[:, None, None], back.square().sum(1, keepdim=True)
    misfits = []
    for shade in MIXED:
        along = shade * there - here  # of what is seen, on the way from the background to the shade
        way = shade**2 * length - 2 * shade * ahead + dark
        share = (along / way.clamp(min=1e-4)).clamp(0, 1.1)
        misfits.append(share.square() * way - 2 * share * along)
    misfit = (torch.stack(misfits).amin(0) * core[:, None]).sum((2, 3))
    label = misfit.argmin(1)
    bright = (apart * (palette[label][:, :, None, None] - back)).sum(1)
    best = (core & (bright >= _median_where(bright, core)[:, None, None])).float()
    paint = torch.einsum("fchw,fhw->fc", see, best) / best.sum((1, 2)).clamp(min=1)[:, None]
    return label, torch.where(core.flatten(1).any(1)[:, None], paint, palette[label])


def _shape(towards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape "f", place "f 2" relative to the window's centre, radius "f", from a window "f h w"."""
    templates, gram = _templates()
    fits = towards.flatten(1) @ templates.T
    cover, dotted = fits.view(len(towards), 2, -1).unbind(1)
    grid = (len(SHAPES), len(RADII), len(BLURS), len(NUDGES), len(NUDGES))
    energy = _explained(cover, dotted, *gram)
    rows = torch.arange(len(towards))
    each = energy.view(len(towards), len(SHAPES), -1).max(2)
    at = each.indices + torch.arange(len(SHAPES)) * math.prod(grid[1:])
    s = torch.maximum(each.values, _with_dots_anywhere(towards.flatten(1), templates[at])).argmax(1)
    _, r, b, j, i = torch.unravel_index(at[rows, s], grid)
    cube = energy.view(-1, *grid)
    finer_x = _peak(cube[rows, s, r, b, j])
    finer_y = _peak(cube[rows, s, r, b, :, i])
    around = (r[:, None] + torch.arange(-1, 2)).clamp(0, len(RADII) - 1)
    profile = cube[rows[:, None], s[:, None], around, b[:, None], j[:, None], i[:, None]]
    inner = (r > 0) & (r < len(RADII) - 1)
    finer_r = torch.where(inner, _peak(profile), torch.zeros(()))
    sizes = torch.tensor(RADII)
    radius = sizes[r] * (RADII[1] / RADII[0]) ** finer_r
    # Exact peaks lie between the nudges; at the rim of the grid the peak of the three is the rim or beyond.
    return s, torch.stack([finer_x, finer_y], 1), radius


def _explained(cover: Tensor, dotted: Tensor, cc: Tensor, cd: Tensor, dd: Tensor) -> Tensor:
    """The energy that cover and dots explain together: two regressors, solved in closed form."""
    energy = (cover.square() * dd - 2 * cover * dotted * cd + dotted.square() * cc) / (cc * dd - cd.square())
    return torch.where(cover > 0, energy, torch.zeros(()))


def _with_dots_anywhere(towards: Tensor, cover: Tensor) -> Tensor:
    """What covers "f k n" explain of windows "f n", "f k", with dots where they explain most."""
    y, lattices = towards[:, None], _lattices()
    inner = (cover.square().sum(2)[..., None], cover.square() @ lattices.T, cover.square() @ lattices.square().T)
    return _explained((cover * y).sum(2)[..., None], (cover * y) @ lattices.T, *inner).amax(2)


@cache
def _lattices() -> Tensor:
    """The dots at every shift, over the window, "shift n"."""
    u, v = _offsets(torch.tensor(_shifts()))
    return dots(u / (SIZE / 2), v / (SIZE / 2)).flatten(1)


def _peak(three: Tensor) -> Tensor:
    """Where the parabola through values "f 3" at -1, 0, 1 peaks, within [-1.5, 1.5]."""
    low, mid, high = three.unbind(1)
    bend = low - 2 * mid + high
    peak = 0.5 * (low - high) / torch.where(bend < 0, bend, torch.full((), -1e9))
    straight = torch.where(high > low, 1.0, -1.0)
    return torch.where(bend < 0, peak, straight).clamp(-1.5, 1.5)


@cache
def _templates() -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Covers and covered dots "(kind shape radius blur y x) n", and their inner products."""
    u, v = _offsets(torch.tensor([(x, y) for y in NUDGES for x in NUDGES]))
    drawn: list[Tensor] = []
    for shape in SHAPES:
        for radius in RADII:
            cover = (0.5 - outline(shape, u, v, torch.tensor(radius))).clamp(0, 1)
            both = torch.stack([cover, cover * dots(u / (SIZE / 2), v / (SIZE / 2))])
            drawn.extend(_blur(both, blur, torus=False) for blur in BLURS)
    cover, dotted = torch.stack(drawn, 1).flatten(1, 2).flatten(2)
    gram = (cover.square().sum(1), (cover * dotted).sum(1), dotted.square().sum(1))
    return torch.cat([cover, dotted]), gram


def _texture(see: Tensor, distance: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Darkening by dots over the renderer's, "f"; the colour between dots "f c"; and the dots drawn, "f h w".

    Dots are dots wherever they lie on the object: a matched filter at their period, at the shift where it finds most.
    """
    inside = (distance < -1)[:, None]
    level = _mean_where(see, inside, (2, 3))
    apart = torch.where(inside, see - level[:, :, None, None], torch.zeros(()))
    drawn = torch.stack([dots((u + x) / (SIZE / 2), (v + y) / (SIZE / 2)) for x, y in _shifts()], 1)
    wave = _mean_where(drawn, inside, (2, 3))
    off = torch.where(inside, drawn - wave[:, :, None, None], torch.zeros(()))
    slope = torch.einsum("fshw,fchw->fsc", off, apart) / off.square().sum((2, 3)).clamp(min=1e-3)[..., None]
    full = level[:, None] - slope * wave[..., None]
    darkening = -(slope * full).sum(2) / full.square().sum(2).clamp(min=1e-3)
    best = darkening.argmax(1)
    rows = torch.arange(len(see))
    return darkening[rows, best] / (1 - DOT), full[rows, best], drawn[rows, best]


def _shifts() -> list[tuple[float, float]]:
    """Pixels by which dots may lie off the middle: all of a period, of which half along both axes is none."""
    step = math.pi * SIZE / 2 / DOTS / 4
    return [(step * x, step * y) for x in range(8) for y in range(4)]


def _sharpness(see: Tensor, back: Tensor, paint: Tensor, distance: Tensor, dotted: Tensor) -> Tensor:
    """90th percentile of the gradient around the outline over the contrast, relative to the renderer's, "f"."""
    toward = paint[:, :, None, None] - back
    length = toward.square().sum(1).clamp(min=1e-3)
    depth = (paint[:, :, None, None] * toward).sum(1) / length
    drawn = (0.5 - distance).clamp(0, 1) * (1 - (1 - DOT) * depth * dotted)
    band = distance.abs() < 1.5
    return _steepest(((see - back) * toward).sum(1) / length, band) / _steepest(drawn, band).clamp(min=1e-3)


def _steepest(picture: Tensor, band: Tensor) -> Tensor:
    dy = (picture[:, 2:, 1:-1] - picture[:, :-2, 1:-1]) / 2
    dx = (picture[:, 1:-1, 2:] - picture[:, 1:-1, :-2]) / 2
    steep = torch.where(band[:, 1:-1, 1:-1], torch.hypot(dx, dy), torch.full((), math.nan))
    return steep.flatten(1).nanquantile(0.9, dim=1).nan_to_num(0.0)


def _another(excess: Tensor, main: Tensor) -> Tensor:
    """Whether something outside the main object weighs at least a third of it, "f"."""
    rest = torch.where(main, torch.zeros(()), (excess > 0).float())
    own = (main & (excess > 0)).sum((1, 2))
    return _box(rest).flatten(1).amax(1) > (own / 3).clamp(min=40)


def _nearest(picture: Tensor, palette: Tensor, darkest: float) -> Tensor:
    """Index "f h w" of the palette entry that is, in some shade from `darkest` to 1, nearest to each pixel."""
    along = torch.einsum("fchw,kc->fkhw", picture, palette)
    length = palette.square().sum(1)[:, None, None]
    shade = (along / length).clamp(darkest, 1)
    # The squared distance, without the pixel's own length, which favours none.
    return (shade.square() * length - 2 * shade * along).argmin(1)


def _blur(picture: Tensor, sigma: float, torus: bool = True) -> Tensor:
    """Gaussian blur of the last two axes, on the torus or with zeros around; as products, which are faster here."""
    if sigma == 0:
        return picture
    across = _gauss(picture.shape[-1], sigma, torus)
    return across @ picture @ across


@cache
def _gauss(size: int, sigma: float, torus: bool) -> Tensor:
    apart = _apart(size, torus).square()
    weights = torch.exp(-apart / (2 * sigma**2)) * (apart <= (3 * sigma) ** 2)
    return weights / weights[size // 2].sum()


def _box(picture: Tensor) -> Tensor:
    """Sum over the 25 x 25 pixels around each, on the torus."""
    across = (_apart(SIZE, torus=True) <= 12).float()
    return across @ picture @ across


def _apart(size: int, torus: bool) -> Tensor:
    lines = torch.arange(size)
    apart = (lines[:, None] - lines).abs()
    return torch.minimum(apart, size - apart) if torus else apart


def _offsets(place: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel offsets u, v "f h w" from each place "f 2", over the window."""
    lines = torch.arange(-HALF, HALF + 1).float()
    u = (lines - place[:, :1])[:, None, :].expand(-1, WINDOW, -1)
    v = (lines - place[:, 1:])[:, :, None].expand(-1, -1, WINDOW)
    return u, v


def _window(picture: Tensor, centre: Tensor) -> Tensor:
    """Cut "f c WINDOW WINDOW" around each centre, across the border where need be."""
    lines = torch.arange(-HALF, HALF + 1)
    x, y = (centre[:, :1] + lines) % SIZE, (centre[:, 1:] + lines) % SIZE
    rows = torch.arange(len(picture))[:, None, None]
    return picture.permute(0, 2, 3, 1)[rows, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def _spread(mask: Tensor, centre: Tensor) -> Tensor:
    """Put window masks "f WINDOW WINDOW" back into frames "f h w"."""
    lines = torch.arange(-HALF, HALF + 1)
    x, y = (centre[:, :1] + lines) % SIZE, (centre[:, 1:] + lines) % SIZE
    frames = torch.zeros(len(mask), SIZE, SIZE, dtype=torch.bool)
    frames[torch.arange(len(mask))[:, None, None], y[:, :, None], x[:, None, :]] = mask
    return frames


def _wrap(distance: Tensor) -> Tensor:
    return (distance + SIZE / 2) % SIZE - SIZE / 2


def _mean_where(values: Tensor, mask: Tensor, over: tuple[int, ...] = (1, 2)) -> Tensor:
    return (values * mask).sum(over) / mask.sum(over).clamp(min=1)


def _median_where(values: Tensor, mask: Tensor) -> Tensor:
    masked = torch.where(mask, values, torch.full((), math.nan))
    return masked.flatten(1).nanmedian(1).values.nan_to_num(0.0)
