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
    BeforeValidator,
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
from dovetail.recipe import story as stories

Steps = Annotated[int, Field(ge=1, le=1000)]
Text = Annotated[str, Field(max_length=2000)]
Share = Annotated[float, Field(ge=0, le=1)]


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
    """The ladder that the expert's own scheduler config describes; `shift` replaces that of a flow config."""

    word: ClassVar[str] = "own"
    of: str
    steps: Steps
    shift: Annotated[float, Field(gt=0)] | None = None


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
    Discriminator(_word),
]


# --- denoisers ---------------------------------------------------------------------------------------------------


class Leaf(Part):
    """An expert, given the prompt. `guidance` 1 is none; `joint`: both branches go in one call; `skip`: blocks of its
    network (from 0) that are left out; `reuse`: blocks in a row that are not asked again right after a look in full
    at the same stage, which left what they did."""

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
        return data[cls.word] if _keys(data) == [cls.word] else data

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


class Framewise(Around):
    """An image denoiser, shown every frame on its own."""

    word: ClassVar[str] = "framewise"


class Windows(Worded):
    """A short-video denoiser in windows that overlap."""

    of: "Denoise"
    size: Annotated[int, Field(ge=1)]
    stride: Any
    weights: Literal["flat", "triangle", "sine", "pyramid"] = "flat"
    first: Annotated[float, Field(gt=0, le=1)] = 1.0

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
    window goes by the others; `repulsion`: whether a Stein kernel keeps them apart. `minibatch`: windows asked in an
    iteration; none given is all. `again`: who is asked there, as an expert with a guidance of its own; none given is
    `of`. `tolerance`: it ends early once an iteration asks for a change of less than this share of the video. `base`:
    one noise to look through for each step, for the video, or for each iteration. `timestep`: it looks at the step's
    own level, or at any of the ladder. `stages`: all, the outer two (estimates and step), or the inner alone.

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
    kernel: Literal["stein", "mean", "identity"] = "stein"
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

    @property
    def automatic(self) -> bool:
        """Whether it goes by what earlier steps showed."""
        return "auto" in (self.floor, self.stride)


class Renoised(Worded):
    """A baseline: levels above `floor` are left along fresh noise that all windows share."""

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
        guidance = data.get("guidance")
        return {
            "(of)": of if guidance is None else {key: guided(part, guidance) for key, part in of.items()},
            **options,
        }

    @model_validator(mode="after")
    def _intervals(self) -> Self:
        if list(self.of)[-1:] != ["else"]:
            message = "the last interval is missing: say what sees the levels below the others, as in else: large"
            raise PydanticCustomError("falling", message, {})
        bounds = self.boundaries
        if not bounds:
            raise PydanticCustomError("falling", "one interval only; say where it ends, as in above 0.8: large", {})
        if bounds[0] > 1 or bounds[-1] < 0 or any(high <= low for high, low in pairwise(bounds)):
            message = "boundaries fall inside [0, 1], from noise to video; these do not: {bounds}"
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

    `strength` is lambda, 2 gamma of Eq. 12; 0 is none. `align`: which frames are compared. It is active where
    above < t <= below, and never at the last step. `hold`, beyond the paper: how far what stands still is held.
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


class Reinjected(Alone, RootModel["Denoise"]):
    """A baseline: each of a stage's overlapping windows begins with the frames that the one before has made."""

    model_config = ConfigDict(frozen=True)
    word: ClassVar[str] = "reinjected"

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return data[cls.word] if _keys(data) == [cls.word] else data

    @model_serializer(mode="wrap")
    def _close(self, inner: Any) -> dict[str, Any]:
        return {self.word: inner(self)}


PAIRS = (Coordinated, Alternating, Averaged, Fused, Relayed, TemporalFirst, Skipping)
METHODS = (Framewise, Windowed, Coupled, Renoised, *PAIRS, Blended, Halved, Probing, Coherent, Reinjected)
Denoise = Annotated[
    Annotated[Leaf, Tag("(expert)")]
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
    | Annotated[Reinjected, Tag("reinjected")],
    Discriminator(_word),
]


# --- experts and the whole ---------------------------------------------------------------------------------------

DTypes = Literal["float32", "float16", "bfloat16"]


class Lora(Part):
    """LoRA weights, added to an expert's when it is loaded; `scale` says how much of them. A bare name is its file."""

    weights: str
    scale: Annotated[float, Field(ge=-10, le=10)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"weights": data} if isinstance(data, str) else data


class Pretrained(Part):
    """A network with weights: a hub id, a diffusers folder, `sprites/NAME` for packaged ones, or one file. `subfolder`:
    the network's, where there are several. `base`: for one file, a checkpoint that has what it does not hold.
    `trust_space`: its latents are taken for those of its stage's codec, whatever its own autoencoder says. From `store`
    on: how it is kept and called (docs/memory.md)."""

    family: Literal["stable-diffusion", "animatediff", "text-to-video-sd", "lavie", "wan", "ltx", "cogvideox"]
    weights: str
    subfolder: str | None = None
    base: str | None = None
    adapter: str | None = None
    loras: Annotated[tuple[Lora, ...], Field(strict=False)] = ()
    revision: str | None = None
    variant: str | None = None
    dtype: DTypes = "float32"
    device: str = "auto"
    trust_space: bool = False
    batch: Annotated[int, Field(ge=1)] | None = None
    store: Literal["float8"] | None = None
    quantize: Literal["torchao-int8", "torchao-float8", "bitsandbytes-int8", "bitsandbytes-nf4"] | None = None
    channels_last: bool | None = None
    attention: str | None = None
    compile: bool | None = None
    offload: bool | None = None


class Exact(Part):
    """The optimal denoiser of a finite set of sprite renders: closed form, no weights. `schedule`: the kind's own, or
    flow."""

    family: Literal["exact"]
    kind: Literal["spatial", "control", "temporal"]
    candidates: Annotated[int, Field(ge=1, le=65_536)] = 256
    seed: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["own", "flow"] = "own"


FAMILIES = ("stable-diffusion", "animatediff", "text-to-video-sd", "lavie", "wan", "ltx", "cogvideox", "exact")


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
    """The autoencoder between pixels and latents; `weights` and `base` as of an expert. `chunk`: frames decoded at
    once, by one that knows single frames. `tiles`: latent cells along each side of what is decoded at once.
    `decode_timestep`, `decode_noise_scale`: for decoders that are told a timestep, as LTX-Video's. From `store` on: how
    it is kept and called (docs/memory.md)."""

    weights: str
    subfolder: str | None = None
    base: str | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: DTypes = "float32"
    device: str = "auto"
    chunk: Annotated[int, Field(ge=1)] | None = None
    tiles: Annotated[int, Field(ge=4)] | None = None
    decode_timestep: Share | None = None
    decode_noise_scale: Share | None = None
    store: Literal["float8"] | None = None
    channels_last: bool | None = None
    compile: bool | None = None


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


class Consistent(Worded):
    """ConFiner-Long's consistency initialisation: each window starts from the first one's noise, its frames permuted.

    `strength`: how much of it the second window has; 0 is none. `turn`: radians by which each further one has less.
    """

    word: ClassVar[str] = "consistent"
    strength: Share = 1.0
    turn: Annotated[float, Field(ge=0, le=2)] = 0.0


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
    Annotated[Consistent, Tag("consistent")] | Annotated[Rescheduled, Tag("rescheduled")], Discriminator(_word)
]


class Stage(Part):
    """One walk down a ladder.

    `window`: latent frames worked on at once; none is the whole video. `hop`: from window to window; where windows
    overlap they are averaged at every step, with `weights`. `offset`: the first window's length, so that windows
    straddle those of the stage before. `ends`: what shorter windows at both ends see: what they make, or full windows.
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

    def _misfits(self) -> list[tuple[bool, str]]:
        """What may be wrong with the windows, and what fits."""
        window, hop, offset = self.window or 0, self.hop or self.window or 0, self.offset
        sequel = isinstance(self.denoise, Coherent | Reinjected)
        asked = self.hop is not None or offset > 0 or self.weights != "flat" or self.ends != "half"
        return [
            (not window and asked, "hop, offset, weights and ends are said of windows; add a window, as in window: 16"),
            (
                not window and isinstance(self.denoise, Coherent),
                "coherent draws each window to the one before, and without a window there is one only; add window: 16",
            ),
            (
                not window and isinstance(self.noise, Consistent),
                "consistent repeats the noise of the first window, and without a window there is one only; add window: 16",
            ),
            (hop > window, f"hop {hop} leaves gaps between windows of {window}; take {window} or less"),
            (0 < window <= offset, f"offset {offset} is no part of a window of {window}; half of it is {window // 2}"),
            (
                offset > 0 and hop < window,
                "an offset staggers windows that stand side by side, a hop makes them overlap; take one of the two",
            ),
            (
                isinstance(self.denoise, Reinjected) and hop >= window,
                f"reinjected windows begin with the end of the one before, so they overlap; take a hop below {window}, "
                f"as in hop: {max(1, window * 3 // 4)}",
            ),
            (
                self.weights != "flat" and (hop == window or sequel),
                "weights are those of averaged windows; these are not averaged"
                + ("" if sequel else f", so take a hop below {window} as well"),
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
        ]


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
    each change both texts count."""

    events: Annotated[tuple[Event, ...], Field(strict=False, min_length=1)]
    fade: Moment = None

    @model_validator(mode="before")
    @classmethod
    def _open(cls, data: Any) -> Any:
        return {"events": data} if isinstance(data, list | tuple) else data


def memory(text: str) -> int:
    """Bytes of a text like 8GB, 500 MB or 7.5GiB. Raises ValueError.

    >>> memory("8GB"), memory("500 MB"), memory("1.5 GiB")
    (8000000000, 500000000, 1610612736)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG])(i?)B", text.strip())
    if found is None:
        raise ValueError(f"memory is a number and a unit, as in 8GB, 500MB or 7.5GiB, not {text!r}")
    number, unit, binary = found.groups()
    thousand: int = 1024 if binary else 1000
    return round(float(number) * float(thousand ** ("kMG".index(unit) + 1)))


def _memory(text: str) -> str:
    try:
        memory(text)
    except ValueError as error:
        raise PydanticCustomError("memory", "{said}", {"said": str(error)}) from None
    return text


Memory = Annotated[str, AfterValidator(_memory)] | None


class Recipe(Part):
    """A whole run, as values. `about` says what it is for; `prompt` is its own example.

    `story`: events over time. The prompt is then the text that they share; `story.shared` is another word for it.

    `residency`: which experts are on their device: `all` of them, always; or only those whose `turns` it is, the others
    waiting in the computer's memory; or these, and `ahead` of a change, while the last step before it is taken, the
    next. `vram`: how much memory the device is taken to have, as 8GB; none given is what is free there. Where `all` do
    not fit, those come that are asked soonest (docs/memory.md).
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
                "Use --frames {longest} or fewer, or a recipe that is made for long video, as sprites-long"
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


for model in (*METHODS, Stage, Recipe):
    model.model_rebuild()
