"""Ladders, as recipes say them."""

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Discriminator, Field, RootModel, Tag, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from dovetail.recipe.parts import Alone, Share, Steps, Worded, keys, tag


class Trailing(Worded):
    """diffusers' "trailing" timesteps of an expert, from its last one."""

    word: ClassVar[str] = "trailing"
    of: str
    steps: Steps


class Leading(Worded):
    """diffusers' "leading" timesteps of an expert, with its `steps_offset`."""

    word: ClassVar[str] = "leading"
    of: str
    steps: Steps
    offset: Annotated[int, Field(ge=0, le=10)] = 0


class Own(Worded):
    """The ladder that the expert's own scheduler config describes; `shift` replaces that of a flow config."""

    word: ClassVar[str] = "own"
    of: str
    steps: Steps
    shift: Annotated[float, Field(ge=0.001, le=1000)] | None = None


class Even(Worded):
    """Equal steps of the noise share, from `start` to 0."""

    word: ClassVar[str] = "even"
    steps: Steps
    start: Annotated[float, Field(gt=0, le=1)] = 1.0


class Shifted(Worded):
    """Equal steps warped towards noise: t -> s t / (1 + (s - 1) t)."""

    word: ClassVar[str] = "shifted"
    steps: Steps
    shift: Annotated[float, Field(ge=0.001, le=1000)]


class Karras(Worded):
    """Karras et al.'s sigmas, from `sigma_max` down to `sigma_min` and then 0 (arXiv:2206.00364, Eq. 5)."""

    word: ClassVar[str] = "karras"
    steps: Steps
    sigma_min: Annotated[float, Field(ge=1e-12, le=1e12)]
    sigma_max: Annotated[float, Field(ge=1e-12, le=1e12)]
    rho: Annotated[float, Field(ge=0.05)] = 7.0

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.steps > 1 and self.sigma_max <= self.sigma_min:
            message = "sigmas fall from sigma_max to sigma_min; {high} is not above {low}"
            raise PydanticCustomError("falling", message, {"high": self.sigma_max, "low": self.sigma_min})
        return self


class Below(Worded):
    """Equal steps of an expert's clock from `timestep` (T_e, one-based) down to the video."""

    word: ClassVar[str] = "below"
    of: str
    timestep: Annotated[int, Field(ge=1, le=1000)]
    steps: Steps

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.steps > self.timestep:
            message = "{steps} steps do not fit below timestep {timestep}; take {timestep} or fewer"
            raise PydanticCustomError("room", message, {"steps": self.steps, "timestep": self.timestep})
        return self


class Times(Worded):
    """These native timesteps of an expert, then 0. `unit`: the first latent is unit noise."""

    word: ClassVar[str] = "timesteps"
    of: str
    times: Annotated[tuple[Annotated[float, Field(ge=0, le=1e6)], ...], Field(strict=False, min_length=1)]
    unit: bool = True


class Levels(Alone, RootModel[Annotated[tuple[float, ...], Field(strict=False, min_length=2)]]):
    """These noise shares, as they are."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    word: ClassVar[str] = "levels"

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return data[cls.word] if keys(data) == [cls.word] else data

    @model_validator(mode="after")
    def _falling(self) -> Self:
        shares = self.root
        if shares[0] > 1 or shares[-1] < 0 or any(a <= b for a, b in pairwise(shares)):
            raise PydanticCustomError("falling", "levels lie in [0, 1] and each is below the one before", {})
        return self

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


class Spliced(Worded):
    """A ladder, with a distilled expert's own levels where `own` says between the boundaries `early` and `late`."""

    word: ClassVar[str] = "spliced"
    ladder: "Ladder"
    own: "Ladder"
    early: Share
    late: Share

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.early <= self.late:
            message = "boundaries fall from noise to video; early is {early} and late {late}"
            raise PydanticCustomError("falling", message, {"early": self.early, "late": self.late})
        return self


LADDERS = (Trailing, Leading, Own, Even, Shifted, Karras, Below, Times, Levels, Spliced)
Ladder = Annotated[
    Annotated[Trailing, Tag("trailing")]
    | Annotated[Leading, Tag("leading")]
    | Annotated[Own, Tag("own")]
    | Annotated[Even, Tag("even")]
    | Annotated[Shifted, Tag("shifted")]
    | Annotated[Karras, Tag("karras")]
    | Annotated[Below, Tag("below")]
    | Annotated[Times, Tag("timesteps")]
    | Annotated[Levels, Tag("levels")]
    | Annotated[Spliced, Tag("spliced")],
    Discriminator(tag),
]
