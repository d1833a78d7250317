"""A stage, as recipes say it."""

from itertools import islice
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dovetail.recipe.denoisers import (
    Coherent,
    Coupled,
    Denoise,
    Onward,
    Probing,
    Reinjected,
    Renoised,
    Windows,
    inside,
)
from dovetail.recipe.ladders import Ladder
from dovetail.recipe.noises import Begin, Consistent
from dovetail.recipe.parts import Hold, Name, Part
from dovetail.recipe.specs import Codec


class Stage(Part):
    """One walk down a ladder.

    `window`: latent frames worked on at once; none is the whole video. `hop`: from window to window; where windows
    overlap they are averaged at every step, with `weights`, unless a method makes them in turn. `offset`: the first
    window's length, so that windows straddle those of the stage before. `ends`: what shorter windows at both ends see:
    what they make, or full windows. `hold`: how windows that overlap keep what stands still in the first one.
    `noise`: what the windows of a first stage start from.

    `bridge: pixels`: the latents of the stage before are others than this one's, and are decoded, resized and encoded.
    `codec`, `height`, `width`: of the latents that begin here, at the first stage or behind a bridge; without them the
    recipe's and the video's. The last latents, which become the video, are always those.
    """

    stage: Name
    ladder: Ladder
    denoise: Denoise
    solver: Literal["euler", "ancestral", "dpm++2m", "unipc"] = "euler"
    window: Annotated[int, Field(ge=1)] | None = None
    hop: Annotated[int, Field(ge=1)] | None = None
    offset: Annotated[int, Field(ge=0)] = 0
    weights: Literal["flat", "triangle", "sine", "pyramid"] = "flat"
    ends: Literal["half", "full"] = "half"
    hold: Hold | None = None
    noise: Begin | None = None
    bridge: Literal["pixels"] | None = None
    codec: Codec | None = None
    height: Annotated[int, Field(ge=8, le=4096)] | None = None
    width: Annotated[int, Field(ge=8, le=4096)] | None = None

    @property
    def latents(self) -> list[str]:
        """Which of its keys say that its latents are others than the video's."""
        return [key for key in ("codec", "height", "width") if getattr(self, key) is not None]

    @model_validator(mode="after")
    def _windows(self) -> Self:
        for holds, message in self._misfits():
            if holds:
                raise PydanticCustomError("gaps", message)
        return self

    @property
    def _held(self) -> list[Any]:
        """The parts whose windows are held."""
        parts: list[Any] = [part for part in inside(self.denoise) if isinstance(part, Windows) and part.hold]
        return [*parts, self.denoise] if self.hold else parts

    def _misfits(self) -> list[tuple[bool, str]]:
        """What may be wrong with the windows, and what fits."""
        window, hop, offset = self.window or 0, self.hop or self.window or 0, self.offset
        sequel = isinstance(self.denoise, Coherent | Reinjected | Onward)
        held = self.hold is not None and bool(self.hold.share or self.hold.frames)
        asked = self.hop is not None or offset > 0 or self.weights != "flat" or self.ends != "half" or held
        return [
            (
                not window and asked,
                "hop, offset, weights, ends and hold are said of windows; add a window, as in window: 16",
            ),
            (
                not window and isinstance(self.denoise, Coherent),
                "coherent draws each window to the one before, and without a window there is one only; add window: 16",
            ),
            (
                not window and isinstance(self.noise, Consistent),
                "consistent repeats the noise of the first window, and without a window there is one only; add window: 16",
            ),
            (
                isinstance(self.noise, Consistent) and bool(window) and bool(window % (self.noise.block or window)),
                f"blocks of {getattr(self.noise, 'block', None)} frames do not fill a window of {window}; take a divisor of it",
            ),
            (hop > window, f"hop {hop} leaves gaps between windows of {window}; take {window} or less"),
            (0 < window <= offset, f"offset {offset} is no part of a window of {window}; half of it is {window // 2}"),
            (
                offset > 0 and hop < window,
                "an offset staggers windows that stand side by side, a hop makes them overlap; take one of the two: offset: 0, or "
                "hop: null and with it weights: flat and hold: null",
            ),
            (
                isinstance(self.denoise, Reinjected | Onward) and hop >= window,
                f"{self.denoise.word} windows begin with the end of the one before, so they overlap; take a hop below {window}, "
                f"as in hop: {max(1, window * 3 // 4)}",
            ),
            (
                self.weights != "flat" and (hop == window or sequel),
                "weights are those of averaged windows; these are not averaged, so say weights: flat"
                + ("" if sequel else f", or take a hop below {window} as well"),
            ),
            (
                held and (hop == window or isinstance(self.denoise, Coherent)),
                "hold keeps what stands still in the first window, in windows that overlap; "
                + (
                    "coherent has a hold of its own, so say hold: null"
                    if sequel
                    else f"these do not, so take a hop below {window} as well, or say hold: null"
                ),
            ),
            (
                isinstance(self.denoise, Probing) and hop < window,
                "probing goes by what whole windows showed, so they cannot be averaged where they overlap; leave out hop",
            ),
            (
                isinstance(self.denoise, Coupled) and self.denoise.automatic and hop < window,
                "a floor or stride that is auto goes by what whole windows showed, so these cannot be averaged where they "
                "overlap; leave out hop, or say floor and stride as numbers",
            ),
            (
                any(isinstance(one, Renoised) for part in self._held for one in islice(inside(part), 1, None)),
                "a hold moves what is seen in x, and the noise with it, so renoised inside of what is held would not be heard; "
                "put renoised around what is held, or say hold: null",
            ),
        ]
