"""What models of recipes are made of: frozen pydantic models, where a key that no part knows is an error.

Methods, ladders and noises are written as one word with what it takes: `{framewise: spatial}`,
`{below: {of: spatial, timestep: 100, steps: 5}}`. The word is the model's `word`.
"""

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from dovetail.errors import nearest

Steps = Annotated[int, Field(ge=1, le=1000)]
Text = Annotated[str, Field(max_length=2000)]
Share = Annotated[float, Field(ge=0, le=1)]

EXPERT = "(expert)"
"""The tag of what is no word: an expert's name, or a mapping that names one."""


def _name(text: str) -> str:
    if not re.fullmatch(r"[^\W\d][\w-]*", text):
        message = "a name is letters, digits, - and _, and starts with a letter; dots part the keys of a path"
        raise PydanticCustomError("name", message, {})
    return text


Name = Annotated[str, AfterValidator(_name)]


class Part(BaseModel):
    """A mapping with known keys and exact types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, dict) else ():
            if key not in known:
                hint = nearest(str(key), known)
                raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint})
        return data


class Hold(Part):
    """How windows that overlap keep what stands still in the first one, as a background does; beyond the papers.

    A number alone is its `share`: how far colours are drawn to the first window's. `within`: places are drawn too, where they
    differ by less than so many times what most places do, at levels t <= `below`. There, too, `frames`: how far each frame is
    drawn to its window's median frame, which takes flicker out; and `objects`: how far what stands out of places takes the
    first one's colour where t <= .5, as a prompt that leaves it open asks for.
    """

    share: Share = 1.0
    within: Annotated[float, Field(ge=0, le=10)] = 0.0
    below: Share = 1.0
    objects: Share | None = None
    frames: Share | None = None

    @property
    def holds(self) -> bool:
        """Whether it draws anything."""
        return bool(self.share or self.frames)

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"share": data}

    @model_validator(mode="after")
    def _places(self) -> Self:
        if self.below < 1 and not self.within:
            message = (
                "below says at which levels places are held, and without within none are; add within, as in within: 2"
            )
            raise PydanticCustomError("falling", message, {})
        if self.objects and not self.within:
            message = "objects are what stands out of places that are held; add within, as in within: 2"
            raise PydanticCustomError("falling", message, {})
        if self.frames and not self.within:
            raise PydanticCustomError("falling", "frames are held in places; add within, as in within: 2", {})
        return self


class Worded(Part):
    """A part that is written `{word: {...}}`."""

    word: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return data[cls.word] if isinstance(data, dict) and list(data) == [cls.word] else data

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


class Alone:
    """Mixed into a root model that is written `{word: value}`."""

    word: ClassVar[str]


def tag(data: Any) -> str | None:
    """Which model a `{word: ...}` mapping asks for: the tag of a union. None: it is no one word."""
    word = getattr(type(data), "word", None)
    if isinstance(word, str):
        return word
    known = keys(data)
    if isinstance(data, str) or "expert" in known:
        return EXPERT
    return known[0] if len(known) == 1 else None


def keys(data: Any) -> list[str]:
    """The keys of plain data, as text; none where it is no mapping."""
    return [str(key) for key in data] if isinstance(data, dict) else []
