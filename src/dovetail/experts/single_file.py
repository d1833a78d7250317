"""A whole model in one file, as communities share them: Stable Diffusion 1.x in its original layout, a bare network or
autoencoder. The file holds weights alone; its configuration is this page's, or a `base` checkpoint's.

diffusers knows how the names in such files become its own; where its `from_single_file` would fetch configurations from
the hub, this needs none.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dovetail.errors import WeightsError
from dovetail.experts.published import SD
from dovetail.experts.tensors import keys_of, opened

USUAL_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Whence a file of Stable Diffusion 1 takes what none holds: the tokenizer."""

OWN: dict[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "transformer": ("model.diffusion_model.",),
    "text_encoder": ("cond_stage_model.transformer.",),
    "vae": ("first_stage_model.", "vae."),
}
"""How the names of each part begin in a file that holds several."""

STATISTICS = {
    "per_channel_statistics.mean-of-means": "latents_mean",
    "per_channel_statistics.std-of-means": "latents_std",
}
"""How LTX-Video's authors call what its autoencoder normalises channels by, and how diffusers does."""

BARE: dict[str, tuple[tuple[str, ...], ...]] = {
    "unet": (("conv_in.", "down_blocks."), ("input_blocks.",)),
    "transformer": (("patch_embedding.",), ("patchify_proj.",), ("proj_in.", "transformer_blocks.")),
    "vae": (("encoder.", "decoder."),),
}
"""How names begin in a file that is one part alone: all of one of these."""

FULL_SD1: dict[tuple[str, str], Mapping[str, Any]] = {
    ("unet", "config.json"): {"_class_name": SD.kind, **SD.config},
    ("text_encoder", "config.json"): {
        "architectures": [SD.words.kind],
        **SD.words.config,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    ("scheduler", "scheduler_config.json"): SD.scheduler,
    ("vae", "config.json"): {"_class_name": SD.codec[0], **SD.codec[1], "scaling_factor": 0.18215},
}
"""Stable Diffusion 1: CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml, in diffusers' words; its
text model is openai/clip-vit-large-patch14."""

ELSEWHERE: tuple[tuple[str, str], ...] = (
    ("lora", "LoRA weights, which belong under `loras` of an expert"),
    (
        "motion_modules.",
        "motion modules, which are the `adapter` of an animatediff expert over weights of Stable Diffusion",
    ),
    ("decoder.", "an autoencoder, which belongs in the recipe's `codec`"),
    ("input_blocks.", "a network of Stable Diffusion's"),
)
"""What else a file may be, by a piece of its names."""

OVER_TIME = ("temp_convs.", "temopral_conv.")
"""Layers of ModelScope's networks, by diffusers' names and by their authors'; else they are named as images' are."""

OTHERS: tuple[tuple[str, str], ...] = (
    ("conditioner.embedders.", "a Stable Diffusion XL, whose latents and networks are none that dovetail calls"),
    ("cond_stage_model.model.", "a Stable Diffusion 2, of which dovetail reads diffusers' folders only"),
    (
        ".attn_temp.",
        "LaVie's own network, which is the `adapter` of a lavie expert over CompVis/stable-diffusion-v1-4",
    ),
)
"""What is none of these, by a piece of its names."""


class Parts(Protocol):
    """A checkpoint in diffusers' layout."""

    def has(self, name: str) -> bool: ...
    def part(self, name: str, where: str = "") -> Path: ...
    def config(self, name: str, file: str = "config.json") -> dict[str, Any]: ...
    def tensors(self, name: str, starts: tuple[str, ...]) -> dict[str, Tensor]: ...
    def making(self, name: str, what: str, file: str = "config.json") -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class SingleFile:
    """One file of weights. keys: the names in it; base: a checkpoint for what it does not hold; told: whether the
    recipe named that, so that configurations are its."""

    weights: str
    file: Path
    keys: frozenset[str]
    base: Parts | None = None
    told: bool = False

    def holds(self, name: str) -> bool:
        """Whether the weights of a part are in the file."""
        return bool(self._names(name))

    def has(self, name: str) -> bool:
        """Whether there are weights of a part, in the file or in its base."""
        return self.holds(name) or (self.base is not None and self.base.has(name))

    def part(self, name: str, where: str = "") -> Path:
        """The folder of a part that no file holds. Raises WeightsError if it is not there."""
        if self.base is None:
            raise WeightsError(
                f"'{self.weights}' is one file, and a {name} is in none; name a checkpoint that has {name}/ as `base`"
            )
        return self.base.part(name, where)

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """A part's config: of the base, or of what the file is known to be. Raises WeightsError if neither tells."""
        if (base := self._telling(name)) is not None:
            return base.config(name, file)
        if (known := self._known(name, file)) is not None:
            return dict(known)
        if name in OWN:
            self.must_hold(name)
        raise WeightsError(
            f"'{self.weights}' is one file and says nothing of its sizes; name a checkpoint in diffusers' layout that has "
            f"the same, as `base`, for its {name}/{file}"
        )

    def making(self, name: str, what: str, file: str = "config.json") -> AbstractContextManager[None]:
        """As for a `Checkpoint`; it does nothing where the config is one of this module's."""
        base = self._telling(name)
        return nullcontext() if base is None else base.making(name, what, file)

    def _telling(self, name: str) -> Parts | None:
        """The base, if the config of a part is its."""
        asks = self.base is not None and (self.told or not self.holds(name)) and self.base.has(name)
        return self.base if asks else None

    def _known(self, name: str, file: str) -> Mapping[str, Any] | None:
        if any(piece in key for piece in OVER_TIME for key in self.keys):
            return None
        first = any(key.startswith(("model.diffusion_model.input_blocks.", "input_blocks.")) for key in self.keys)
        image = any(key.startswith(("first_stage_model.encoder.down.", "encoder.down.")) for key in self.keys)
        if first or (image and name == "vae") or (name == "unet" and self.holds("unet")):
            return FULL_SD1.get((name, file))
        return None

    def must_hold(self, name: str) -> None:
        """Raise WeightsError for a file that is something else than what it was named for."""
        if self.holds(name):
            return
        what = next((what for piece, what in ELSEWHERE if any(piece in key for key in self.keys)), None)
        first = min(self.keys, default="nothing")
        raise WeightsError(
            f"'{self.weights}' holds no {name}: it is {what}"
            if what
            else f"'{self.weights}' holds no {name}, but {first}"
        )

    def tensors(self, name: str, starts: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
        """A part's tensors whose names begin so, the part's own prefix left out. Statistics of channels have diffusers'
        names."""
        if not self.holds(name):
            return {} if self.base is None else self.base.tensors(name, starts)
        long = {_short(name, key): key for key in self._names(name)}
        found = opened(self.file, [key for short, key in long.items() if short.startswith(starts)])
        return {_short(name, key): tensor for key, tensor in found.items()}

    def model(self, kind: Any, name: str, dtype: torch.dtype) -> Any:
        """A part of the file as a frozen model of diffusers or transformers. Raises WeightsError."""
        config = self.config(name)
        with self.making(name, kind.__name__):
            module = hollow(kind, config)
        found = self.tensors(name)
        if not found.keys() >= module.state_dict().keys():
            found = _renamed(kind.__name__, found, config)
        return filled(module, found, dtype, f"{name} in '{self.weights}'")

    def _names(self, name: str) -> list[str]:
        """The names of a part's tensors."""
        if ours := [key for key in self.keys if key.startswith(OWN.get(name, ()))]:
            return ours
        if any(key.startswith(start) for starts in OWN.values() for start in starts for key in self.keys):
            return []  # Several parts, but not this one.
        alone = any(
            all(any(key.startswith(start) for key in self.keys) for start in starts) for starts in BARE.get(name, ())
        )
        return list(self.keys) if alone else []


def single(weights: str, file: Path) -> SingleFile:
    """A file of weights, its names read. Raises WeightsError for one that cannot be read, or is of no use here."""
    keys = frozenset(keys_of(file))
    for piece, what in OTHERS:
        if any(piece in key for key in keys):
            raise WeightsError(f"'{weights}' is {what}")
    return SingleFile(weights, file, keys)


def _short(name: str, key: str) -> str:
    for start in OWN.get(name, ()):
        if key.startswith(start):
            key = key.removeprefix(start)
            break
    return STATISTICS.get(key, key) if name == "vae" else key


def _renamed(kind: str, found: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by diffusers' names, from those of the original code."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as KNOWN

    if kind == "CLIPTextModel":
        # transformers 5.6 flattened this class; before, and in files, all stands in text_model.
        return {key.removeprefix("text_model."): found[key] for key in found if not key.endswith("position_ids")}
    # diffusers looks for them under these.
    prefix = {"UNet2DConditionModel": OWN["unet"][0], "AutoencoderKLLTXVideo": "vae."}.get(kind, "")
    try:
        convert = KNOWN[kind]["checkpoint_mapping_fn"]
        renamed: dict[str, Tensor] = convert(
            checkpoint={prefix + key: tensor for key, tensor in found.items()}, config=dict(config)
        )
    except (KeyError, IndexError, AttributeError):
        return found  # Its names are no original's; that they fit nothing is said where they are filled in.
    return renamed


def hollow(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    """A model of diffusers or transformers whose weights are not there yet."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        if hasattr(kind, "from_config"):
            module: nn.Module = kind.from_config(dict(config))
        else:
            module = kind(kind.config_class.from_dict(dict(config)))
    return module


def filled(module: nn.Module, found: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> nn.Module:
    """A hollow model with its weights, frozen. Raises WeightsError for weights that are missing, left over or of other
    shapes."""
    wanted = module.state_dict()
    spare = [key for key in found if key not in wanted and not key.endswith("position_ids")]
    missing = sorted(key for key in wanted if key not in found)
    shapes = [key for key in wanted if key in found and found[key].shape != wanted[key].shape]
    what = type(module).__name__
    if missing or shapes:
        first = f"lacks {len(missing)} tensors of a {what}, the first is '{missing[0]}'" if missing else ""
        if shapes:
            key = shapes[0]
            first = f"has '{key}' of shape {tuple(found[key].shape)} where a {what} of this configuration has " + str(
                tuple(wanted[key].shape)
            )
        raise WeightsError(f"{where} {first}. If it is of another size, name a checkpoint of that size as `base`")
    if spare:
        raise WeightsError(f"{where} has {len(spare)} tensors that are none of a {what}'s, the first is '{spare[0]}'")
    # diffusers names what stays in full precision, whatever the rest is in.
    full: list[str] = getattr(module, "_keep_in_fp32_modules", None) or []
    kept = {key: torch.float32 if any(part in key.split(".") for part in full) else dtype for key in wanted}
    module.load_state_dict(
        {key: found[key].to(kept[key], copy=True) if found[key].is_floating_point() else found[key] for key in wanted},
        assign=True,
    )
    return module.requires_grad_(False).eval()
