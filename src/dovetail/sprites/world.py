"""A small world with ground truth: coloured shapes that move over patterned backgrounds, for ever.

A `Scene` is a state without beginning or end: space is a torus (who leaves on the right comes in
on the left), and pulsing is periodic. It begins anywhere on its way. So a scene has any number of
frames, and every cut of it is a typical clip. `render` draws frames, `ask` reads a prompt, `imagine` fills in what a prompt
leaves open, and `caption` says in words what an `Ask` fixes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

import torch
from torch import Tensor

SIZE = 64
"""Height and width of a frame, in pixels."""

FPS = 8
"""Frames per second at which sprite videos are shown."""

RGB = tuple[float, float, float]

SHAPES = ("circle", "ring")
COLOURS: dict[str, RGB] = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.15, 0.75, 0.25),
    "blue": (0.18, 0.32, 0.95),
    "yellow": (0.97, 0.87, 0.15),
    "white": (0.97, 0.97, 0.97),
}
TEXTURES = ("solid", "dotted")
MOTIONS: dict[str, tuple[str, str]] = {
    "left": ("moving left", "moves left"),
    "right": ("moving right", "moves right"),
    "up": ("moving up", "moves up"),
    "down": ("moving down", "moves down"),
    "still": ("standing still", "stands still"),
    "pulsing": ("pulsing", "pulses"),
}
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
BACKGROUNDS: dict[str, RGB] = {
    "black": (0.08, 0.08, 0.10),
    "gray": (0.45, 0.45, 0.48),
    "orange": (0.90, 0.52, 0.16),
    "teal": (0.08, 0.48, 0.50),
}
PATTERNS = ("plain", "striped", "checkered")

SHADE = 0.65
"""Brightness of the dark parts of a striped or checkered background, relative to its colour."""
DOT = 0.30
"""Brightness of the dots of a dotted shape, relative to its colour."""
DOTS = 16.0
"""Angular frequency of the dots along both axes, in radians per half width."""
PULSE = 0.40
"""Relative amplitude of a pulsing shape's radius."""
SPEED = (0.035, 0.055)
"""How slow and how fast a moving object goes, in half widths per frame."""
LANES: dict[str, tuple[int, int]] = {"right": (0, -1), "down": (1, 0), "left": (0, 1), "up": (-1, 0)}
"""On which side of the middle a moving object keeps, as traffic does: a roundabout. Without lanes, what goes left has the
same mean clip as what goes right, and a word for the way means nothing until a noisy latent shows the way itself."""

GRAMMAR = f"""\
a [{"|".join(TEXTURES)}] [{"|".join(COLOURS)}] {"|".join(SHAPES)}
  [{"|".join(form for form, _ in MOTIONS.values())}]
  [on a [{"|".join(BACKGROUNDS)}] [{"|".join(PATTERNS)}] background]
or the motion as a sentence of its own: "a red circle on a black background, it moves left".
What stands in brackets may be left out, and is then free."""

FILLER = frozenset(["a", "an", "the", "on", "it", "is", "with", "and", "background", ",", "."])


@dataclass(frozen=True)
class Ask:
    """What a prompt fixes; None is free. Texture, colour and shape are the object's."""

    texture: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    background: str | None = None
    pattern: str | None = None


@dataclass(frozen=True)
class Scene:
    """One endless scene. Lengths are in units of the frame's half width; `phase` in [0, 1)."""

    texture: str
    colour: str
    shape: str
    motion: str
    background: str
    pattern: str
    x: float  # centre at frame 0, in [-1, 1)
    y: float
    radius: float
    speed: float  # half widths per frame
    period: float  # frames per pulse
    phase: float  # of the pulse
    shift: float  # of the background's pattern

    @property
    def ask(self) -> Ask:
        """Every attribute of the scene that words can name."""
        return Ask(**{f.name: getattr(self, f.name) for f in fields(Ask)})


def words(prompt: str) -> list[str]:
    """The prompt's words in lower case, punctuation apart."""
    return prompt.lower().replace(",", " , ").replace(".", " . ").split()


MEANINGS: dict[str, tuple[str, str]] = {
    **{word: ("texture", word) for word in TEXTURES},
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("shape", word) for word in SHAPES},
    **{word: ("background", word) for word in BACKGROUNDS},
    **{word: ("pattern", word) for word in PATTERNS},
    **{word: ("motion", word) for word in DIRECTIONS},
    "still": ("motion", "still"),
    "pulsing": ("motion", "pulsing"),
    "pulses": ("motion", "pulsing"),
}
VERBS = frozenset(["moving", "moves", "standing", "stands"])
VOCABULARY = tuple(sorted({*MEANINGS, *VERBS, *FILLER}))
"""Every word that the sprite experts know."""


def ask(prompt: str) -> tuple[Ask, list[str]]:
    """Read a prompt: what it fixes, and a complaint for each word outside the grammar.

    A later word overrides an earlier one of the same kind, as a later event overrides a motion.
    """
    found: dict[str, str] = {}
    complaints = []
    for word in words(prompt):
        if word in MEANINGS:
            kind, value = MEANINGS[word]
            found[kind] = value
        elif word not in VERBS and word not in FILLER:
            near = get_close_matches(word, VOCABULARY, n=1)
            complaints.append(f"'{word}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
    return Ask(**found), complaints


def caption(asked: Ask, apart: bool = False) -> str:
    """Words for what is asked. `apart` puts the motion into a sentence of its own."""
    subject = " ".join(w for w in ("a", asked.texture, asked.colour, asked.shape) if w) if asked.shape else "it"
    place = " ".join(w for w in (asked.background, asked.pattern) if w)
    behind = f" on a {place} background" if place else ""
    if asked.motion is None:
        return subject + behind
    participle, verb = MOTIONS[asked.motion]
    if subject == "it":
        return f"it {verb}{behind}"
    return f"{subject}{behind}, it {verb}" if apart else f"{subject} {participle}{behind}"


class Dice:
    """Random choices from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def pick(self, options: Sequence[str]) -> str:
        return options[int(torch.randint(len(options), (1,), generator=self.generator))]

    def chance(self, p: float) -> bool:
        return self.uniform(0.0, 1.0) < p


def imagine(asked: Ask, seed: int) -> Scene:
    """A scene that fits the ask; what it leaves free is drawn from the seed."""
    dice = Dice(seed)
    motion = dice.pick(tuple(MOTIONS)) if asked.motion is None else asked.motion
    radius = dice.uniform(0.38, 0.50)
    room = 0.5 * (1 - radius * (1 + PULSE if motion == "pulsing" else 1))
    x, y = dice.uniform(-room, room), dice.uniform(-room, room)
    if motion in DIRECTIONS:
        (dx, dy), (side_x, side_y) = DIRECTIONS[motion], LANES[motion]
        along, off = dice.uniform(-1, 1), dice.uniform(0.42, 0.50)
        x, y = dx * along + side_x * off, dy * along + side_y * off
    return Scene(
        texture=dice.pick(TEXTURES) if asked.texture is None else asked.texture,
        colour=dice.pick(tuple(COLOURS)) if asked.colour is None else asked.colour,
        shape=dice.pick(SHAPES) if asked.shape is None else asked.shape,
        motion=motion,
        background=dice.pick(tuple(BACKGROUNDS)) if asked.background is None else asked.background,
        pattern=dice.pick(PATTERNS) if asked.pattern is None else asked.pattern,
        x=x,
        y=y,
        radius=radius,
        speed=dice.uniform(*SPEED),
        period=dice.uniform(12.0, 18.0),
        phase=dice.uniform(0, 1),
        shift=dice.uniform(0, 1),
    )


def forget(asked: Ask, seed: int, p: float = 0.12) -> Ask:
    """Leave attributes out at random, so that captions do not always say everything."""
    dice = Dice(seed)
    return replace(asked, **{f.name: None for f in fields(Ask) if dice.chance(p) and f.name != "shape"})


def render(scene: Scene, frames: Sequence[int], size: int = SIZE) -> Tensor:
    """Draw frames of a scene: "f c h w" in [-1, 1]."""
    x, y = _grid(size)
    behind = _paint(scene, x, y)
    when = torch.tensor(list(frames), dtype=torch.float64)[:, None, None]
    dx, dy = DIRECTIONS.get(scene.motion, (0, 0))
    # The nearest copy of the object on the torus, for each pixel.
    u = _wrap(x - (scene.x + dx * scene.speed * when)).float()
    v = _wrap(y - (scene.y + dy * scene.speed * when)).float()
    radius = torch.full_like(when, scene.radius)
    if scene.motion == "pulsing":
        radius = scene.radius * (1 + PULSE * torch.sin(2 * math.pi * (when / scene.period + scene.phase)))
    # Coverage of a pixel by the shape: its signed distance, in pixels, clipped to one.
    cover = (0.5 - outline(scene.shape, u, v, radius.float()) * (size / 2)).clamp(0, 1)[:, None]
    paint = torch.tensor(COLOURS[scene.colour])[:, None, None]
    if scene.texture == "dotted":
        paint = paint * (1 - (1 - DOT) * dots(u, v))[:, None]
    return behind.lerp(paint.expand(len(when), 3, size, size), cover) * 2 - 1


def backdrop(scene: Scene, size: int = SIZE) -> Tensor:
    """The scene without its object: "c h w" in [-1, 1]."""
    return _paint(scene, *_grid(size)) * 2 - 1


def outline(shape: str, u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Signed distance to the shape of radius r around the origin, negative inside."""
    if shape == "ring":
        return (torch.hypot(u, v) - 0.75 * r).abs() - 0.28 * r
    return torch.hypot(u, v) - r


def dots(u: Tensor, v: Tensor) -> Tensor:
    """The dot pattern that a textured object carries with it, in [0, 1]; dots 8.9 px apart at 64 px."""
    return ((torch.sin(u * DOTS) * torch.sin(v * DOTS) - 0.15) * 8).sigmoid()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    lines = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(lines, lines, indexing="ij")
    return x, y


def _paint(scene: Scene, x: Tensor, y: Tensor) -> Tensor:
    base = torch.tensor(BACKGROUNDS[scene.background])[:, None, None].expand(3, *x.shape)
    turn = scene.shift * 2 * math.pi
    if scene.pattern == "striped":
        return base * (SHADE + (1 - SHADE) * (torch.sin((x + y) * 4 * math.pi + turn) * 4).sigmoid())
    if scene.pattern == "checkered":
        waves = torch.sin(x * 3 * math.pi + turn) * torch.sin(y * 3 * math.pi + turn)
        return base * (SHADE + (1 - SHADE) * (waves * 6).sigmoid())
    return base


def _wrap(distance: Tensor) -> Tensor:
    return (distance + 1) % 2 - 1
