"""Noises from which the windows of a first stage start, as recipes say them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from dovetail.recipe.parts import Share, Worded, tag


class Consistent(Worded):
    """ConFiner-Long's consistency initialisation: each window starts from the first one's noise, its frames permuted.

    `strength`: how much of it the second window has; 0 is none. `turn`: radians by which each further one has less.
    `block`: frames that are permuted among themselves, all of a window by default. Windows that overlap all see the same
    noise where each begins with a block, as with a `hop` of as many frames. `shared: means`: of the first one's noise they
    have the means of its blocks and not its frames, which keeps looks and leaves ways free.
    """

    word: ClassVar[str] = "consistent"
    strength: Share = 1.0
    turn: Annotated[float, Field(ge=0, le=2)] = 0.0
    block: Annotated[int, Field(ge=1)] | None = None
    shared: Literal["means"] | None = None


class Rescheduled(Worded):
    """FreeNoise's noise: each block of frames is a shuffle of the block `length` frames earlier."""

    word: ClassVar[str] = "rescheduled"
    length: Annotated[int, Field(ge=1)] = 16
    block: Annotated[int, Field(ge=1)] = 4

    @model_validator(mode="after")
    def _fills(self) -> Self:
        if self.length % self.block:
            message = "blocks of {block} frames do not fill {length}; take a divisor of it"
            raise PydanticCustomError("gaps", message, {"block": self.block, "length": self.length})
        return self


NOISES = (Consistent, Rescheduled)
Begin = Annotated[
    Annotated[Consistent, Tag("consistent")] | Annotated[Rescheduled, Tag("rescheduled")], Discriminator(tag)
]
