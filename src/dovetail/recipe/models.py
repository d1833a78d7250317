"""What a recipe may say. Every part is a frozen pydantic model; a key that no part knows is an error.

Methods and ladders are written as one word with what it takes: `{framewise: spatial}`,
`{below: {of: spatial, timestep: 100, steps: 5}}`. The word is the model's `word`.
"""

import re
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dovetail.errors import nearest

Steps = Annotated[int, Field(ge=1, le=1000)]
Text = Annotated[str, Field(max_length=2000)]


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
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                hint = nearest(str(key), list(cls.model_fields))
                raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint})
        return data


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


def _word(data: Any) -> str | None:
    """Which model a `{word: ...}` mapping asks for: the tag of a union. None: it is no one word."""
    if isinstance(data, Worded | Alone):
        return data.word
    if isinstance(data, Leaf | str) or "expert" in _keys(data):
        return "(expert)"
    keys = _keys(data)
    return keys[0] if len(keys) == 1 else None


def _keys(data: Any) -> list[str]:
    return [str(key) for key in data] if isinstance(data, dict) else []


# --- ladders -----------------------------------------------------------------------------------------------------


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
    """The ladder that the expert's own scheduler config describes."""

    word: ClassVar[str] = "own"
    of: str
    steps: Steps


class Even(Worded):
    """Equal steps of the noise share, from `start` to 0."""

    word: ClassVar[str] = "even"
    steps: Steps
    start: Annotated[float, Field(gt=0, le=1)] = 1.0


class Shifted(Worded):
    """Equal steps warped towards noise: t -> s t / (1 + (s - 1) t)."""

    word: ClassVar[str] = "shifted"
    steps: Steps
    shift: Annotated[float, Field(gt=0)]


class Karras(Worded):
    """Karras et al.'s sigmas."""

    word: ClassVar[str] = "karras"
    steps: Steps
    sigma_min: Annotated[float, Field(gt=0)]
    sigma_max: Annotated[float, Field(gt=0)]
    rho: Annotated[float, Field(gt=0)] = 7.0


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
    times: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
    unit: bool = True


class Alone:
    """Mixed into a root model that is written `{word: value}`."""

    word: ClassVar[str]


class Levels(Alone, RootModel[Annotated[tuple[float, ...], Field(strict=False, min_length=2)]]):
    """These noise shares, as they are."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    word: ClassVar[str] = "levels"

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return data[cls.word] if _keys(data) == [cls.word] else data

    @model_validator(mode="after")
    def _falling(self) -> Self:
        shares = self.root
        if shares[0] > 1 or shares[-1] < 0 or any(a <= b for a, b in pairwise(shares)):
            raise PydanticCustomError("falling", "levels fall strictly inside [0, 1]", {})
        return self

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


LADDERS = (Trailing, Leading, Own, Even, Shifted, Karras, Below, Times, Levels)
Ladder = Annotated[
    Annotated[Trailing, Tag("trailing")]
    | Annotated[Leading, Tag("leading")]
    | Annotated[Own, Tag("own")]
    | Annotated[Even, Tag("even")]
    | Annotated[Shifted, Tag("shifted")]
    | Annotated[Karras, Tag("karras")]
    | Annotated[Below, Tag("below")]
    | Annotated[Times, Tag("timesteps")]
    | Annotated[Levels, Tag("levels")],
    Discriminator(_word),
]


# --- denoisers ---------------------------------------------------------------------------------------------------


class Leaf(Part):
    """An expert, given the prompt. `guidance` 1 is none; `joint`: both branches go in one call."""

    expert: str
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    joint: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"expert": data} if isinstance(data, str) else data


class Framewise(Alone, RootModel["Denoise"]):
    """An image denoiser, shown every frame on its own."""

    model_config = ConfigDict(frozen=True)
    word: ClassVar[str] = "framewise"

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return data[cls.word] if _keys(data) == [cls.word] else data

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


class Windowed(Worded):
    """A short-video denoiser, averaged where its windows overlap. Sizes in latent frames."""

    word: ClassVar[str] = "windowed"
    of: "Denoise"
    size: Annotated[int, Field(ge=1)]
    stride: Annotated[int, Field(ge=1)]
    weights: Literal["flat", "triangle", "sine", "pyramid"] = "flat"

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.stride > self.size:
            message = "stride {stride} leaves gaps between windows of {size}; take {size} or less"
            raise PydanticCustomError("gaps", message, {"stride": self.stride, "size": self.size})
        return self


class Pair(Worded):
    """A method that joins a spatial and a temporal denoiser."""

    spatial: "Denoise"
    temporal: "Denoise"


class Noisy(Pair):
    """A pair that hands estimates over through noise: one eps per pass, or fresh at every step."""

    noise: Literal["fixed", "fresh"] = "fixed"


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


PAIRS = (Coordinated, Alternating, Averaged, Fused, Relayed, TemporalFirst, Skipping)
METHODS = (Framewise, Windowed, *PAIRS)
Denoise = Annotated[
    Annotated[Leaf, Tag("(expert)")]
    | Annotated[Framewise, Tag("framewise")]
    | Annotated[Windowed, Tag("windowed")]
    | Annotated[Coordinated, Tag("coordinated")]
    | Annotated[Alternating, Tag("alternating")]
    | Annotated[Averaged, Tag("averaged")]
    | Annotated[Fused, Tag("fused")]
    | Annotated[Relayed, Tag("relayed")]
    | Annotated[TemporalFirst, Tag("temporal_first")]
    | Annotated[Skipping, Tag("skipping")],
    Discriminator(_word),
]


# --- experts and the whole ---------------------------------------------------------------------------------------

DTypes = Literal["float32", "float16", "bfloat16"]


class Pretrained(Part):
    """A network with weights: a hub id, a diffusers folder, or `sprites/NAME` for packaged ones."""

    family: Literal["stable-diffusion", "animatediff", "text-to-video-sd"]
    weights: str
    adapter: str | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: DTypes = "float32"
    device: str = "auto"
    batch: Annotated[int, Field(ge=1)] | None = None


class Exact(Part):
    """The optimal denoiser of a finite set of sprite renders: closed form, no weights."""

    family: Literal["exact"]
    kind: Literal["spatial", "control", "temporal"]
    candidates: Annotated[int, Field(ge=1, le=65_536)] = 256
    seed: Annotated[int, Field(ge=0)] = 0


FAMILIES = ("stable-diffusion", "animatediff", "text-to-video-sd", "exact")


def _family(data: Any) -> str:
    """The tag of an expert's model; an unknown family is no tag, and so an error."""
    family = data.get("family") if isinstance(data, dict) else getattr(data, "family", None)
    if isinstance(family, str) and family not in FAMILIES:
        return family
    return "(exact)" if family == "exact" else "(pretrained)"


ExpertSpec = Annotated[
    Annotated[Pretrained, Tag("(pretrained)")] | Annotated[Exact, Tag("(exact)")], Discriminator(_family)
]


class Pixels(Part):
    """A latent space without weights, for exact experts: squares of this many pixels, averaged."""

    pixels: Annotated[int, Field(ge=1, le=64)]


class Autoencoder(Part):
    """The autoencoder between pixels and latents. `chunk`: frames decoded at once."""

    weights: str
    subfolder: str | None = None
    dtype: DTypes = "float32"
    device: str = "auto"
    chunk: Annotated[int, Field(ge=1)] = 16


def _codec(data: Any) -> str:
    return "(pixels)" if isinstance(data, Pixels) or "pixels" in _keys(data) else "(autoencoder)"


Codec = Annotated[
    Annotated[Pixels, Tag("(pixels)")] | Annotated[Autoencoder, Tag("(autoencoder)")], Discriminator(_codec)
]


class Size(Part):
    """Frames, pixels and the seed. `longest`: the longest clip that the recipe's experts can make."""

    frames: Annotated[int, Field(ge=1, le=100_000)] = 16
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    height: Annotated[int, Field(ge=8, le=4096)] = 64
    width: Annotated[int, Field(ge=8, le=4096)] = 64
    fps: Annotated[float, Field(ge=0.1, le=240)] = 8.0
    longest: Annotated[int, Field(ge=1)] | None = None


class Start(Part):
    """A given video to refine: the first stage adds its noise to it. `digest` is its frames' sha256."""

    video: str
    digest: str | None = None


class Stage(Part):
    """One walk down a ladder. `window`: latent frames worked on at once; none is the whole video."""

    stage: Name
    ladder: Ladder
    denoise: Denoise
    solver: Literal["euler", "ancestral", "dpm++2m", "unipc"] = "euler"
    window: Annotated[int, Field(ge=1)] | None = None


class Recipe(Part):
    """A whole run, as values. `about` says what it is for; `prompt` is its own example."""

    about: Text = ""
    prompt: Text
    negative: Text = ""
    video: Size = Size()
    experts: Annotated[dict[Name, ExpertSpec], Field(min_length=1)]
    codec: Codec
    start: Start | None = None
    chain: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]

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
    def _fits(self) -> Self:
        longest = self.video.longest
        if longest is not None and self.video.frames > longest:
            message = (
                "video.frames: {frames} frames, but this recipe's experts make clips of at most {longest}. "
                "Use --frames {longest} or fewer, or a recipe that is made for long video (see `dovetail recipes`)"
            )
            raise PydanticCustomError("refers", message, {"frames": self.video.frames, "longest": longest})
        return self


def named(part: Any, path: str) -> "list[tuple[str, str]]":
    """Every expert's name in a part, with the path at which it stands."""
    if isinstance(part, RootModel):
        return named(part.root, f"{path}.{part.word}") if isinstance(part, Alone) else []
    if not isinstance(part, Part):
        return []
    path = f"{path}.{part.word}" if isinstance(part, Worded) else path
    found: list[tuple[str, str]] = []
    for key in type(part).model_fields:
        value = getattr(part, key)
        if (isinstance(part, Leaf) and key == "expert") or (key == "of" and isinstance(value, str)):
            found.append((f"{path}.{key}", value))
        else:
            found += named(value, f"{path}.{key}")
    return found


for model in (*METHODS, Stage, Recipe):
    model.model_rebuild()
