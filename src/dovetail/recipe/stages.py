"""A stage, as recipes say it."""

from collections.abc import Iterator
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
    def overlaps(self) -> bool:
        """Whether its windows overlap."""
        return self.hop is not None and self.hop < (self.window or 0)

    @property
    def _averages(self) -> bool:
        """Whether its windows overlap and are no sequel's."""
        return self.overlaps and not self._is_sequel

    @property
    def _is_sequel(self) -> bool:
        return isinstance(self.denoise, Coherent | Reinjected | Onward)

    @property
    def _is_held(self) -> bool:
        return self.hold is not None and self.hold.holds

    def _misfits(self) -> Iterator[tuple[bool, str]]:
        """What may be wrong with the windows, and what fits."""
        yield from self._misplaced()
        yield from self._unlike()
        yield from self._unheld()

    def _misplaced(self) -> Iterator[tuple[bool, str]]:
        """Where they lie."""
        window, hop, offset = self.window or 0, self.hop or self.window or 0, self.offset
        asked = self.hop is not None or offset > 0 or self.weights != "flat" or self.ends != "half" or self._is_held
        yield (
            not window and asked,
            "hop, offset, weights, ends and hold are said of windows; add a window, as in window: 16",
        )
        yield hop > window, f"hop {hop} leaves gaps between windows of {window}; take {window} or less"
        yield (
            0 < window <= offset,
            f"offset {offset} is no part of a window of {window}; half of it is {window // 2}",
        )
        yield (
            offset > 0 and self.overlaps,
            "an offset staggers windows that stand side by side, a hop makes them overlap; take one of the two: offset: 0, or "
            "hop: null and with it weights: flat and hold: null",
        )
        yield (
            self.weights != "flat" and not self._averages,
            "weights are those of averaged windows; these are not averaged, so say weights: flat"
            + ("" if self._is_sequel else f", or take a hop below {window} as well"),
        )

    def _unlike(self) -> Iterator[tuple[bool, str]]:
        """What makes them, or begins them, needs others."""
        window = self.window or 0
        yield (
            not window and isinstance(self.denoise, Coherent),
            "coherent draws each window to the one before, and without a window there is one only; add window: 16",
        )
        yield (
            not window and isinstance(self.noise, Consistent),
            "consistent repeats the noise of the first window, and without a window there is one only; add window: 16",
        )
        block = getattr(self.noise, "block", None)
        yield (
            isinstance(self.noise, Consistent) and bool(window) and bool(window % (block or window)),
            f"blocks of {block} frames do not fill a window of {window}; take a divisor of it",
        )
        yield (
            isinstance(self.denoise, Reinjected | Onward) and not self.overlaps,
            f"{self.denoise.word} windows begin with the end of the one before, so they overlap; take a hop below {window}, "
            f"as in hop: {max(1, window * 3 // 4)}",
        )
        yield (
            isinstance(self.denoise, Probing) and self.overlaps,
            "probing goes by what whole windows showed, so they cannot be averaged where they overlap; leave out hop",
        )
        yield (
            isinstance(self.denoise, Coupled) and self.denoise.automatic and self.overlaps,
            "a floor or stride that is auto goes by what whole windows showed, so these cannot be averaged where they "
            "overlap; leave out hop, or say floor and stride as numbers",
        )

    def _unheld(self) -> Iterator[tuple[bool, str]]:
        """What a hold does not fit."""
        window = self.window or 0
        yield (
            self._is_held and (not self.overlaps or isinstance(self.denoise, Coherent)),
            "hold keeps what stands still in the first window, in windows that overlap; "
            + (
                "coherent has a hold of its own, so say hold: null"
                if self._is_sequel
                else f"these do not, so take a hop below {window} as well, or say hold: null"
            ),
        )
        for part in self._noised:
            yield (
                True,
                f"a hold moves what is seen in x, and the noise with it, so the noise that {part.word} draws anew would not be "
                f"heard inside of what is held; "
                + (
                    "coupled has a hold of its own, so say that, and hold: null around it"
                    if isinstance(part, Coupled)
                    else "put renoised around what is held, or say hold: null"
                ),
            )

    @property
    def _noised(self) -> list[Renoised | Coupled]:
        """What draws noise anew inside of what is held: the stage's windows, but for a renoised that is all of it, and windows
        of its own."""
        around = [part for part in inside(self.denoise) if isinstance(part, Windows) and part.hold and part.hold.holds]
        held: list[Any] = [one for part in around for one in islice(inside(part), 1, None)]
        if self._is_held:
            held += islice(inside(self.denoise), 1 if isinstance(self.denoise, Renoised) else 0, None)
        return [part for part in held if isinstance(part, Renoised) or (isinstance(part, Coupled) and part.floor != 1)]
