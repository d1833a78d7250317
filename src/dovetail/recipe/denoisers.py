"""Denoisers, as recipes say them: an expert, or a method around one or several."""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, RootModel, Tag, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from dovetail.errors import nearest
from dovetail.recipe.parts import EXPERT, Alone, Hold, Part, Share, Steps, Worded, keys, tag


class Leaf(Part):
    """An expert, given the prompt. `guidance` 1 is none; `joint`: both branches go in one call; `skip`: blocks of its
    network (from 0) that are left out; `reuse`: blocks in a row that are not asked again right after a look in full
    at the same stage, which left what they did."""

    word: ClassVar[str] = EXPERT
    expert: str
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    joint: bool = True
    skip: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()
    reuse: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.skip and self.reuse:
            message = "blocks are left out or reused, not both; say skip or reuse"
            raise PydanticCustomError("gaps", message, {})
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"expert": data} if isinstance(data, str) else data


class Around(Alone, RootModel["Denoise"]):
    """A word with nothing to say but the one denoiser that it wraps."""

    model_config = ConfigDict(frozen=True)
    word: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return data[cls.word] if keys(data) == [cls.word] else data

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


class Framewise(Around):
    """An image denoiser, shown every frame on its own."""

    word: ClassVar[str] = "framewise"


class Windows(Worded):
    """A short-video denoiser in windows that overlap.

    `hold`: how they keep what stands still in the first one.
    """

    of: "Denoise"
    size: Annotated[int, Field(ge=1)]
    stride: Any
    weights: Literal["flat", "triangle", "sine", "pyramid"] = "flat"
    first: Annotated[float, Field(gt=0, le=1)] = 1.0
    hold: Hold | None = None

    @model_validator(mode="after")
    def _covers(self) -> Self:
        for name, stride in self._strides():
            if stride > self.size:
                message = "{name} {stride} leaves gaps between windows of {size}; take {size} or less"
                raise PydanticCustomError("gaps", message, {"name": name, "stride": stride, "size": self.size})
        return self

    def _strides(self) -> list[tuple[str, int]]:
        """What is said of strides."""
        said = {name: getattr(self, name, None) for name in ("stride", "wide")}
        return [(name, stride) for name, stride in said.items() if isinstance(stride, int)]


class Windowed(Windows):
    """A short-video denoiser, averaged where its windows overlap. Sizes in latent frames.

    `first`: how much the first latent frame of an inner window counts, times its weight. For networks over causal
    autoencoders (CogVideoX, Wan, LTX-Video), which take it for the video's first.
    """

    word: ClassVar[str] = "windowed"
    stride: Annotated[int, Field(ge=1)]


Auto = Literal["auto"]


class Coupled(Windows):
    """SynCoS: overlapping windows that agree on one video before each step, while the noise is above `floor`.

    `iterations`, `rate`: of the agreeing; `optimiser`: each iteration moves the video by `rate` of the way to what the
    windows see (picard), or by AdamW (adamw, as published; then `rate` is its learning rate). `kernel`: how much a
    window goes by the others (`common`: in what stands still alone); `repulsion`: whether a Stein kernel keeps them
    apart. `minibatch`: windows asked in an iteration; none given is all. `again`: who is asked there, as an expert with
    a guidance of its own; none given is `of`. `tolerance`: it ends early once an iteration asks for a change of less
    than this share of the video. `base`: one noise to look through for each step, for the video, or for each iteration.
    `timestep`: it looks at the step's own level, or at any of the ladder. `stages`: all, the outer two (estimates and
    step), or the inner alone.

    Beyond the paper. `floor: auto`: the agreeing ends once it lowers how far apart windows look by less than the share
    `gain`, at `calm` levels in a row. `stride: auto`: from half a window down, halved after each level at which windows
    differ by more than the share `seam` where they overlap. `wide`: the stride at and below the floor. `steps`: the
    steps, from 1, at which windows agree, if they are above the floor; none given is all. `anchor`: how much of their
    coarse look windows take from the first one; `keyframes`: from a clip of frames of the whole video. `bandwidth`: of
    a Stein kernel, as a multiple of the median rule's.
    """

    word: ClassVar[str] = "coupled"
    stride: Annotated[int, Field(ge=1)] | Auto
    floor: Share | Auto = 0.95
    iterations: Annotated[int, Field(ge=0, le=1000)] = 4
    rate: Annotated[float, Field(gt=0, le=2)] = 1.0
    optimiser: Literal["picard", "adamw"] = "picard"
    kernel: Literal["stein", "mean", "common", "identity"] = "stein"
    repulsion: bool = True
    minibatch: Annotated[int, Field(ge=1)] | None = None
    again: "Denoise | None" = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    base: Literal["step", "video", "iteration"] = "step"
    timestep: Literal["grounded", "random"] = "grounded"
    stages: Literal["all", "outer", "inner"] = "all"
    calm: Annotated[int, Field(ge=1)] = 2
    gain: Annotated[float, Field(gt=0, lt=1)] = 0.05
    seam: Annotated[float, Field(gt=0)] = 0.1
    wide: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[tuple[Steps, ...], Field(strict=False, min_length=1)] | None = None
    anchor: Share = 0.0
    keyframes: Share = 0.0
    bandwidth: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _measures_for_something(self) -> Self:
        for name, of in (("calm", "floor"), ("gain", "floor"), ("seam", "stride")):
            if getattr(self, of) != "auto" and getattr(self, name) != type(self).model_fields[name].default:
                message = "{name} is of a {of} that is found; say {of}: auto, or leave out {name}"
                raise PydanticCustomError("unheard", message, {"name": name, "of": of})
        if self.bandwidth != 1 and self.kernel != "stein":
            raise PydanticCustomError(
                "unheard", "bandwidth is of a Stein kernel; say kernel: stein, or leave out bandwidth"
            )
        return self

    @property
    def automatic(self) -> bool:
        """Whether it goes by what earlier steps showed."""
        return "auto" in (self.floor, self.stride)


class Renoised(Worded):
    """A baseline: levels above `floor` are left along fresh noise that all windows share.

    Where the stage starts from noise of its own (`noise`), that is drawn anew at each of these levels, too.
    """

    word: ClassVar[str] = "renoised"
    of: "Denoise"
    floor: Share = 0.95


class Pair(Worded):
    """A method that joins a spatial and a temporal denoiser."""

    spatial: "Denoise"
    temporal: "Denoise"


class Noisy(Pair):
    """A pair that hands estimates over through noise: fresh at every step and way, or one eps per pass."""

    noise: Literal["fresh", "fixed"] = "fresh"


class Bridged(Noisy):
    """A pair whose experts keep different clocks: equal SNR, or (as the paper) equal timesteps."""

    clock: Literal["snr", "index"] = "snr"


class Coordinated(Bridged):
    """ConFiner's coordinated denoising. `steps`: which steps of the ladder, from 1; none given is all."""

    word: ClassVar[str] = "coordinated"
    steps: Annotated[tuple[Steps, ...], Field(strict=False, min_length=1)] | None = None


class Alternating(Pair):
    """ConFiner's Eq. 7: the experts take turns."""

    word: ClassVar[str] = "alternating"


class Averaged(Pair):
    """Both experts look at the same latent. `weight`: the temporal one's share."""

    word: ClassVar[str] = "averaged"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5


class Fused(Pair):
    """Coarse structure of the temporal expert, fine detail of the spatial one. `blur` in latent pixels."""

    word: ClassVar[str] = "fused"
    blur: Annotated[float, Field(gt=0, le=64)] = 1.0


class Relayed(Bridged):
    """Coordinated without its second spatial look."""

    word: ClassVar[str] = "relayed"
    derived: bool = False


class TemporalFirst(Noisy):
    """Coordinated without its first spatial look."""

    word: ClassVar[str] = "temporal_first"


class Skipping(Bridged):
    """Coordinated, without a second spatial look where the experts agree to `tau`."""

    word: ClassVar[str] = "skipping"
    tau: Annotated[float, Field(ge=0)]


class Halved(Around):
    """A denoiser that is shown half the height and width."""

    word: ClassVar[str] = "halved"


class Blended(Worded):
    """FlowBlending: experts on intervals of the noise share, from noise to video.

    Written `{above 0.8: large, above 0.3: small, else: large, guidance: 4.0}`. `guidance` is that of all experts that
    say none of their own; `history`: whether a solver keeps, at a boundary, what it saw above it.
    """

    word: ClassVar[str] = "blended"
    of: dict[str, "Denoise"] = Field(alias="(of)")
    history: Literal["kept", "dropped"] = "kept"

    @property
    def boundaries(self) -> tuple[float, ...]:
        return tuple(_above(key) for key in self.of if key != "else")

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        data = data[cls.word] if isinstance(data, dict) and list(data) == [cls.word] else data
        if not isinstance(data, dict) or "(of)" in data:
            return data
        options = {key: value for key, value in data.items() if key == "history"}
        of = {str(key): value for key, value in data.items() if key not in ("history", "guidance")}
        for key in of:
            if key != "else" and not re.fullmatch(r"above -?\d*\.?\d+", key):
                hint = nearest(key, ["above 0.5", "else", "guidance", "history"])
                raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": key, "hint": hint})
        if (guidance := data.get("guidance")) is not None:
            of, said = {key: guided(part, guidance) for key, part in of.items()}, of
            if of == said:
                message = (
                    'guidance: all experts here have one of their own already, so change theirs, as in "{key}".guidance'
                )
                raise PydanticCustomError("falling", message, {"key": next(iter(of), "else")})
        return {"(of)": of, **options}

    @model_validator(mode="after")
    def _intervals(self) -> Self:
        if list(self.of)[-1:] != ["else"]:
            message = "the last interval is missing: say what sees the levels below the others, as in else: large"
            raise PydanticCustomError("falling", message, {})
        bounds = self.boundaries
        if not bounds:
            raise PydanticCustomError("falling", "one interval only; say where it ends, as in above 0.8: large", {})
        if bounds[0] > 1 or bounds[-1] < 0 or any(high <= low for high, low in pairwise(bounds)):
            message = "boundaries lie in [0, 1] and fall, from noise to video; these do not: {bounds}"
            raise PydanticCustomError("falling", message, {"bounds": ", ".join(map(str, bounds))})
        return self

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        plain = inner(self)
        return {self.word: {**(plain.get("of") or plain["(of)"]), "history": self.history}}


def _above(key: str) -> float:
    return float(key.removeprefix("above "))


def guided(data: Any, guidance: float) -> Any:
    """A denoiser as plain data, every expert in it that says no guidance of its own given this one."""
    if isinstance(data, str):
        return {"expert": data, "guidance": guidance}
    if not isinstance(data, dict):
        return data
    if "expert" in data or list(data) == [Blended.word]:
        inner = data.get(Blended.word, data)
        inner = {"guidance": guidance, **inner} if isinstance(inner, dict) else inner
        return inner if "expert" in data else {Blended.word: inner}
    nests = (
        "framewise",
        "windowed",
        "coupled",
        "renoised",
        "halved",
        "of",
        "again",
        "spatial",
        "temporal",
        *(pair.word for pair in PAIRS),
    )
    return {key: guided(part, guidance) if key in nests else part for key, part in data.items()}


def inside(part: Any) -> Iterator[Part | RootModel[Any]]:
    """A denoiser and all that stand in it, outermost first."""
    if isinstance(part, Mapping):
        for inner in part.values():
            yield from inside(inner)
    elif isinstance(part, Part | RootModel):
        yield part
        for _, inner in part:
            yield from inside(inner)


def sizes(denoise: Any) -> Iterator[int]:
    """Of the windows in a denoiser, outermost first."""
    return (part.size for part in inside(denoise) if isinstance(part, Windows))


class Probing(Worded):
    """FlowBlending without boundaries: the small expert is asked now and then, and leads while it agrees.

    `enter`, `leave`: relative distance of velocities below which it takes over, above which it hands back. `often`,
    `seldom`: at every so many steps both are asked, while the large one leads and while the small one does. `calm`:
    so many probes in a row decide. `late`: from this noise share down the large one leads.
    """

    word: ClassVar[str] = "probing"
    large: "Denoise"
    small: "Denoise"
    enter: Annotated[float, Field(gt=0, lt=1)] = 0.1
    leave: Annotated[float, Field(gt=0, lt=1)] = 0.2
    often: Annotated[int, Field(ge=1)] = 2
    seldom: Annotated[int, Field(ge=1)] = 5
    calm: Annotated[int, Field(ge=1)] = 2
    late: Share = 0.0


class Coherent(Worded):
    """ConFiner-Long's coherence guidance: each of a stage's windows is drawn to the noise of the one before.

    `strength` is lambda, 2 gamma of Eq. 12; 0 is none. `align`: which frames are compared (`aligned`, those that began with
    the same noise, needs the stage's `noise: consistent`, and is `literal` without). It is active where above < t <= below,
    and never at the last step. `hold`, beyond the paper: how far what stands still is held.
    """

    word: ClassVar[str] = "coherent"
    of: "Denoise"
    strength: Share
    align: Literal["aligned", "literal", "mean"] = "aligned"
    above: Share = 0.0
    below: Share = 0.833
    renormalised: bool = True
    direction: bool = False
    hold: Share = 0.0

    @model_validator(mode="after")
    def _active(self) -> Self:
        if self.above >= self.below:
            message = "above {above} and below {below} leave no level between them"
            raise PydanticCustomError("falling", message, {"above": self.above, "below": self.below})
        if self.below == 1 and not self.direction:
            message = "pure noise says nothing of the video, so take below less than 1, or direction: true"
            raise PydanticCustomError("falling", message, {})
        return self


class Reinjected(Around):
    """A baseline: each of a stage's overlapping windows begins with the frames that the one before has made."""

    word: ClassVar[str] = "reinjected"


class Onward(Worded):
    """Each of a stage's overlapping windows goes on from frames that the one before has made.

    `below`: experts are asked for new frames where t <= below; above it they are what stood still in the window before.
    """

    word: ClassVar[str] = "onward"
    of: "Denoise"
    below: Annotated[float, Field(gt=0, lt=1)] = 0.9

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        data = data[cls.word] if keys(data) == [cls.word] else data
        return {"of": data} if isinstance(data, str) else data


PAIRS = (Coordinated, Alternating, Averaged, Fused, Relayed, TemporalFirst, Skipping)
METHODS = (Framewise, Windowed, Coupled, Renoised, *PAIRS, Blended, Halved, Probing, Coherent, Reinjected, Onward)
Denoise = Annotated[
    Annotated[Leaf, Tag(EXPERT)]
    | Annotated[Framewise, Tag("framewise")]
    | Annotated[Windowed, Tag("windowed")]
    | Annotated[Coupled, Tag("coupled")]
    | Annotated[Renoised, Tag("renoised")]
    | Annotated[Coordinated, Tag("coordinated")]
    | Annotated[Alternating, Tag("alternating")]
    | Annotated[Averaged, Tag("averaged")]
    | Annotated[Fused, Tag("fused")]
    | Annotated[Relayed, Tag("relayed")]
    | Annotated[TemporalFirst, Tag("temporal_first")]
    | Annotated[Skipping, Tag("skipping")]
    | Annotated[Blended, Tag("blended")]
    | Annotated[Halved, Tag("halved")]
    | Annotated[Probing, Tag("probing")]
    | Annotated[Coherent, Tag("coherent")]
    | Annotated[Reinjected, Tag("reinjected")]
    | Annotated[Onward, Tag("onward")],
    Discriminator(tag),
]
