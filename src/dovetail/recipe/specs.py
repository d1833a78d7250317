"""Experts and autoencoders, as recipes say them: which weights, and how they are kept and called."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from dovetail.recipe.parts import Part, Share, keys

if TYPE_CHECKING:
    from dovetail.experts.checkpoint import Location

DTypes = Literal["float32", "float16", "bfloat16"]

Networks = Literal[
    "stable-diffusion", "animatediff", "text-to-video-sd", "lavie", "wan", "ltx", "cogvideox", "open-sora-plan"
]


class Lora(Part):
    """LoRA weights, added to an expert's when it is loaded; `scale` says how much of them. A bare name is its file."""

    weights: str
    scale: Annotated[float, Field(ge=-10, le=10)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"weights": data} if isinstance(data, str) else data


class Located(Part):
    """What has weights; it has the keys of a `Location`."""

    @property
    def location(self) -> "Location":
        """Where its weights are."""
        from dovetail.experts.checkpoint import Location

        return Location(**self.model_dump(include={*Location.__dataclass_fields__}))


class Pretrained(Located):
    """A network with weights: a hub id, a diffusers folder, `sprites/NAME` for packaged ones, or one file. `subfolder`:
    the network's, where there are several. `revision`, `variant`: of `weights`; every other hub id says its own revision
    itself: OWNER/REPO@REVISION, OWNER/REPO@REVISION/FILE. `base`: for one file, a checkpoint that has what it does not hold. `words`: of
    open-sora-plan, where its text model and tokenizer lie, if not where they were published.
    `trust_space`: its latents are taken for those of its stage's codec, whatever its own autoencoder says. From `store`
    on: how it is kept and called (docs/memory.md)."""

    family: Networks
    weights: str
    subfolder: str | None = None
    base: str | None = None
    adapter: str | None = None
    words: str | None = None
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
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    schedule: Literal["own", "flow"] = "own"


FAMILIES = (*get_args(Networks), "exact")


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


class Autoencoder(Located):
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
    return "(pixels)" if isinstance(data, Pixels) or "pixels" in keys(data) else "(autoencoder)"


Codec = Annotated[
    Annotated[Pixels, Tag("(pixels)")] | Annotated[Autoencoder, Tag("(autoencoder)")], Discriminator(_codec)
]
