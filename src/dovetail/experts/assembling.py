"""From modules that are in memory to an `Expert`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dovetail.core.denoiser import TARGETS, Expert
from dovetail.core.schedules import schedule_of
from dovetail.errors import RecipeError, nearest
from dovetail.experts.adapter import Adapter, Convention, Packed, Text
from dovetail.experts.space import LatentSpace
from dovetail.experts.text import MT5, T5, UMT5, Borrowed, Clip

if TYPE_CHECKING:
    from dovetail.experts.loading import Family


def assembled(
    name: str,
    family: str,
    kind: "Family",
    module: Any,
    *,
    text: Text,
    scheduler: Mapping[str, Any],
    space: LatentSpace,
    device: torch.device,
    dtype: torch.dtype,
    batch: int | None = None,
    fps: float | None = None,
    weights: str = "(in memory)",
    stays: bool = False,
    waits: bool = False,
) -> Expert:
    """An expert whose network is this module, wherever it is now.

    kind: what FAMILIES says of `family`. scheduler: its scheduler's config, see `spoken`. space: the latents that it
    works on. device, dtype: what the module is shown is moved there. batch, fps: as for `load`. weights: what messages
    call the module. stays, waits: see `Adapter`.
    Raises RecipeError for a network that takes more than a latent.
    """
    _takes(name, family, kind, module, space, weights)
    network = Adapter(
        name=name,
        family=family,
        weights=weights,
        module=module,
        convention=_convention(kind, space, fps),
        text=text,
        batch=kind.batch if batch is None else batch,
        device=device,
        dtype=dtype,
        scheduler=scheduler,
        space=space,
        max_frames=places_of(module.config) or kind.max_frames,
        patch=patch_of(module.config),
        even=kind.even,
        stays=stays,
        waits=waits,
    )
    target = TARGETS[scheduler.get("prediction_type", "flow_prediction")]
    return Expert(name, schedule_of(scheduler), target, network, by_frame=kind.by_frame)


def spoken(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A scheduler's config, with what its network predicts. where: what an error calls the scheduler.

    Raises RecipeError for a prediction that nobody knows.
    """
    if "FlowMatch" in config.get("_class_name", ""):
        return dict(config)  # It has no such key, and predicts the flow.
    told = {"prediction_type": "epsilon", **config}
    if told["prediction_type"] not in TARGETS:
        raise RecipeError(
            f"{where} has an unknown prediction_type '{told['prediction_type']}'; "
            f"{nearest(told['prediction_type'], TARGETS)}"
        )
    return told


def reader(
    tokenizer: Any,
    encoder: nn.Module,
    config: Mapping[str, Any],
    expert: str,
    again: Callable[[], nn.Module] | None = None,
) -> Text:
    """A text model and its tokenizer, asked as a network of this config wants its words. again: loads the model once
    more, so that it need not stay in memory."""
    make, _ = TEXTS[type(encoder).__name__]
    text = make(tokenizer, Borrowed(encoder, again), expert)
    # CogVideoX joins words and latents to one sequence, so its network fixes how many words there are.
    length = config.get("max_text_seq_length")
    return replace(text, limit=length, masked=False) if length is not None and isinstance(text, T5) else text


TEXTS: dict[str, tuple[Callable[[Any, Borrowed, str], Text], str]] = {
    "CLIPTextModel": (Clip, "CLIPTokenizer"),
    "T5EncoderModel": (T5, "T5Tokenizer"),
    "UMT5EncoderModel": (UMT5, "T5Tokenizer"),
    "MT5EncoderModel": (MT5, "T5Tokenizer"),
}
"""How each of transformers' text models is asked, and its tokenizer there."""


def _takes(name: str, family: str, kind: "Family", module: Any, space: LatentSpace, weights: str) -> None:
    """Raise RecipeError unless the network takes a latent and nothing else."""
    if (takes := module.config["in_channels"]) != space.channels:
        raise RecipeError(
            f"expert '{name}': {weights} takes {takes} channels, but a latent has {space.channels}. Networks that also "
            f"want an image or a mask are none of family '{family}'; take weights for text to video: {kind.where}"
        )


def _convention(kind: "Family", space: LatentSpace, fps: float | None) -> Convention:
    if not isinstance(kind.convention, Packed):
        return kind.convention
    usual = kind.convention
    return Packed(fps or usual.fps, space.compression or usual.compression, space.factor or usual.factor)


def places_of(config: Any) -> int | None:
    """For how many latent frames a network was built, where its config tells."""
    if (frames := config.get("sample_frames")) is not None:  # CogVideoX counts frames of the video.
        return 1 + (int(frames) - 1) // int(config["temporal_compression_ratio"])
    found: int | None = config.get("motion_max_seq_length") or config.get("rope_max_seq_len")
    return found


def patch_of(config: Mapping[str, Any]) -> int:
    """Latent cells along each side of what a transformer of this config takes for one token."""
    size = config.get("patch_size", 1)
    return int(size if isinstance(size, int) else size[-1])
