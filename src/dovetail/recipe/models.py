"""What a recipe may say, as a whole. What it says of ladders, denoisers, experts and stages stands in their modules."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, RootModel, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from dovetail.errors import nearest
from dovetail.recipe import story as stories
from dovetail.recipe.denoisers import (
    METHODS,
    Alternating,
    Around,
    Averaged,
    Blended,
    Bridged,
    Coherent,
    Coordinated,
    Coupled,
    Framewise,
    Fused,
    Halved,
    Leaf,
    Noisy,
    Onward,
    Pair,
    Probing,
    Reinjected,
    Relayed,
    Renoised,
    Skipping,
    TemporalFirst,
    Windowed,
    Windows,
)
from dovetail.recipe.ladders import (
    LADDERS,
    Below,
    Even,
    Karras,
    Leading,
    Levels,
    Own,
    Shifted,
    Spliced,
    Times,
    Trailing,
)
from dovetail.recipe.noises import NOISES, Consistent, Rescheduled
from dovetail.recipe.parts import Alone, Hold, Name, Part, Text, Worded
from dovetail.recipe.specs import FAMILIES, Autoencoder, Codec, Exact, ExpertSpec, Lora, Pixels, Pretrained
from dovetail.recipe.stages import Stage

__all__ = [  # All that a recipe is made of has its name here, wherever it stands.
    "METHODS", "Alternating", "Around", "Averaged", "Blended", "Bridged", "Coherent", "Coordinated", "Coupled",
    "Framewise", "Fused", "Halved", "Leaf", "Noisy", "Onward", "Pair", "Probing", "Reinjected", "Relayed", "Renoised",
    "Skipping", "TemporalFirst", "Windowed", "Windows",
    "LADDERS", "Below", "Even", "Karras", "Leading", "Levels", "Own", "Shifted", "Spliced", "Times", "Trailing",
    "NOISES", "Consistent", "Rescheduled",
    "Alone", "Hold", "Part", "Worded",
    "FAMILIES", "Autoencoder", "Codec", "Exact", "ExpertSpec", "Lora", "Pixels", "Pretrained",
    "Stage",
    "Event", "Memory", "Recipe", "Size", "Start", "Still", "Story", "experts_in", "memory", "named",
]  # fmt: skip


class Still(Part):
    """How finished frames are held to what stands still in the first ones, where a camera stands; beyond the papers.

    A number alone is its `within`: a pixel is drawn to the still picture where it lacks less to it than so many times what
    most do. What stands out is what moves, and is left, as long as it leaves some of the frame alone. `frames`: how many of
    the first make the still picture; none are finished before they are there.
    """

    within: Annotated[float, Field(ge=0.1, le=10)] = 3.0
    frames: Annotated[int, Field(ge=1, le=1000)] = 48

    @model_validator(mode="before")
    @classmethod
    def _within(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"within": data}


class Size(Part):
    """Frames, pixels and the seed. `longest`: the longest clip that the recipe's experts can make. `still`: how finished
    frames are held to the first ones' background."""

    frames: Annotated[int, Field(ge=1, le=100_000)] = 16
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    height: Annotated[int, Field(ge=8, le=4096)] = 64
    width: Annotated[int, Field(ge=8, le=4096)] = 64
    fps: Annotated[float, Field(ge=0.1, le=240)] = 8.0
    longest: Annotated[int, Field(ge=1)] | None = None
    still: Still | None = None


class Start(Part):
    """A given video to refine: the first stage adds its noise to it. `digest` is its frames' sha256."""

    video: str
    digest: str | None = None


def _moment(data: Any) -> Any:
    """A time as text in its shortest form."""
    if data is None:
        return None
    try:
        return stories.moment(str(data))
    except ValueError as error:
        raise PydanticCustomError("story", "{said}", {"said": str(error)}) from None


Moment = Annotated[str | None, BeforeValidator(_moment)]


class Event(Part):
    """What happens from one time on, to another if that is said. Times are text: 2s, 16f (frames) or 25% of the video;
    without one, events stand evenly.

    Written `{at: 2s, text: it turns}`, `2s: it turns`, or "2s-4s: it turns" in quotes.
    """

    text: Annotated[str, Field(min_length=1, max_length=2000)]
    at: Moment = None
    to: Moment = None

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) == 1 and not set(data) & set(cls.model_fields):
            ((time, text),) = data.items()
            data = f"{time}: {text}"
        try:
            return stories.event(data) if isinstance(data, str) else data
        except ValueError as error:
            raise PydanticCustomError("story", "{said}", {"said": str(error)}) from None


class Story(Part):
    """Events, one after another; the recipe's prompt is the text that all of them share. `fade`: for so long around
    each change both texts count. `by`: who takes the event at their middle: each "window" (by default), or each "frame",
    so that one window shows a change where it belongs; experts whose words are no matter of frames (cogvideox, exact
    ones) go on by windows, and fades are theirs alone."""

    events: Annotated[tuple[Event, ...], Field(strict=False, min_length=1)]
    fade: Moment = None
    by: Literal["window", "frame"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return {"events": data} if isinstance(data, list | tuple) else data

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        # Not said, it is not written, so that stories from before there was such a word are the same.
        return {key: value for key, value in inner(self).items() if key != "by" or value is not None}


MEMORY = "a number and a unit, as in 8GB, 500MB or 7.5GiB"


def memory(text: str) -> int:
    """Bytes of a text like 8GB, 500 MB or 7.5GiB, in any case and with or without the B. Raises ValueError.

    >>> memory("8GB"), memory("500 mb"), memory("1.5 Gi")
    (8000000000, 500000000, 1610612736)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg])(i?)b?", text.strip().lower())
    if found is None:
        raise ValueError(f"memory is {MEMORY}, not {text!r}")
    number, unit, binary = found.groups()
    thousand: int = 1024 if binary else 1000
    return round(float(number) * float(thousand ** ("kmg".index(unit) + 1)))


def _memory(text: Any) -> Any:
    try:
        memory(text if isinstance(text, str) else "")
    except ValueError:
        raise PydanticCustomError("memory", "{said}", {"said": MEMORY}) from None
    return text


Memory = Annotated[str, BeforeValidator(_memory)] | None


class Recipe(Part):
    """A whole run, as values. `about` says what it is for; `prompt` is its own example.

    `story`: events over time. The prompt is then the text that they share; `story.shared` is another word for it.

    `residency`: which experts are on their device: `all` of them, always; or only those whose `turns` it is, the others
    waiting in the computer's memory; or these, and `ahead` of a change, while the last step before it is taken, the
    next. `vram`: how much memory the device is taken to have, as 8GB; none given is what is free there. Where `all` do
    not fit, and with `ahead`, whoever is asked again soonest stays as long as there is room (docs/memory.md).
    """

    about: Text = ""
    prompt: Text
    negative: Text = ""
    video: Size = Size()
    experts: Annotated[dict[Name, ExpertSpec], Field(min_length=1)]
    codec: Codec
    residency: Literal["all", "turns", "ahead"] = "all"
    vram: Memory = None
    start: Start | None = None
    story: Story | None = None
    chain: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _shared_text(cls, data: Any) -> Any:
        told = data.get("story") if isinstance(data, dict) else None
        if not isinstance(told, dict) or "shared" not in told:
            return data
        if data.get("prompt", told["shared"]) != told["shared"]:
            message = "story.shared: the text that events share is the recipe's prompt; say it once, as prompt"
            raise PydanticCustomError("refers", message)
        return {**data, "prompt": told["shared"], "story": {key: told[key] for key in told if key != "shared"}}

    @model_validator(mode="after")
    def _tells(self) -> Self:
        try:
            self.spans()
        except ValueError as error:
            raise PydanticCustomError("refers", "{said}", {"said": f"story: {error}"}) from None
        return self

    def spans(self) -> tuple[stories.Span, ...]:
        """The story's events in frames of the video; none without a story. Raises ValueError where they do not fit."""
        if self.story is None:
            return ()
        return stories.laid(self.story.events, self.video.frames, self.video.fps, self.story.fade)

    @model_validator(mode="after")
    def _refers(self) -> Self:
        seen: set[str] = set()
        for stage in self.chain:
            if stage.stage in seen:
                raise PydanticCustomError(
                    "refers", "{path}: two stages have this name", {"path": f"chain.{stage.stage}"}
                )
            seen.add(stage.stage)
            for path, name in named(stage, f"chain.{stage.stage}"):
                if name not in self.experts:
                    hint = nearest(name, list(self.experts))
                    message = "{path}: no expert is called '{name}'; {hint}"
                    raise PydanticCustomError("refers", message, {"path": path, "name": name, "hint": hint})
        return self

    @model_validator(mode="after")
    def _joins(self) -> Self:
        last = max((i for i, stage in enumerate(self.chain) if stage.bridge is not None), default=0)
        for i, stage in enumerate(self.chain):
            message = None
            if stage.bridge is not None and i == 0:
                message = "bridge: nothing comes before the first stage that could be led over; leave it out"
            elif stage.latents and i and stage.bridge is None:
                message = (
                    "{key}: it goes on in the latents of the stage before; to change them, say bridge: pixels as well"
                )
            elif stage.latents and i == last:
                message = (
                    "{key}: these latents become the video, so their codec is the recipe's `codec`, and their size "
                    "video.height and video.width; say it there"
                )
            if message is not None:
                path = "{path}." + message
                context = {"path": f"chain.{stage.stage}", "key": next(iter(stage.latents), "")}
                raise PydanticCustomError("refers", path, context)
        return self

    def room(self, name: str) -> Stage:
        """The stage in whose latents a stage works: the last one up to it that has a bridge, or the first."""
        found = self.chain[0]
        for stage in self.chain:
            found = stage if stage.bridge is not None else found
            if stage.stage == name:
                return found
        raise KeyError(name)

    def codec_of(self, name: str) -> Codec:
        """The codec in whose latents a stage works."""
        return self.room(name).codec or self.codec

    @property
    def bridged(self) -> bool:
        """Whether its stages are joined through pixels somewhere."""
        return any(stage.bridge is not None for stage in self.chain)

    @model_validator(mode="after")
    def _begins(self) -> Self:
        for i, stage in enumerate(self.chain):
            if stage.noise is not None and (i or self.start is not None):
                message = (
                    "{path}: noise is what a stage starts from that is given no video; this one refines what it is "
                    "given, through noise of its own. Leave it out"
                )
                raise PydanticCustomError("refers", message, {"path": f"chain.{stage.stage}.noise"})
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        longest = self.video.longest
        if longest is not None and self.video.frames > longest:
            message = (
                "video.frames: {frames} frames, but this recipe's experts make clips of at most {longest}. "
                "Use --frames {longest} or fewer, or a recipe that is made for {more}"
            )
            more = "long video, as sprites-long" if self.story is None else "stories, as sprites-story"
            told = {"frames": self.video.frames, "longest": longest, "more": more}
            raise PydanticCustomError("refers", message, told)
        return self


def named(part: Any, path: str) -> "list[tuple[str, str]]":
    """Every expert's name in a part, with the path at which it stands."""
    if isinstance(part, RootModel):
        return named(part.root, f"{path}.{part.word}") if isinstance(part, Alone) else []
    if not isinstance(part, Part):
        return []
    path = f"{path}.{part.word}" if isinstance(part, Worded) else path
    found: list[tuple[str, str]] = []
    if isinstance(part, Blended):
        # As --set would write it: a key that holds a dot stands in quotes.
        spelt = {key: f'"{key}"' if "." in key else key for key in part.of}
        return [name for key, of in part.of.items() for name in named(of, f"{path}.{spelt[key]}")]
    for key in type(part).model_fields:
        value = getattr(part, key)
        if (isinstance(part, Leaf) and key == "expert") or (key == "of" and isinstance(value, str)):
            found.append((f"{path}.{key}", value))
        else:
            found += named(value, f"{path}.{key}")
    return found


def experts_in(part: Any) -> list[str]:
    """The names of a part's experts, in the order in which they are written; one that is named twice comes twice."""
    return [name for _, name in named(part, "")]


# Not before stages stand: of methods that are whole by then, pydantic writes the word twice in what it dumps.
for model in (*METHODS, Stage, Recipe):
    model.model_rebuild()
