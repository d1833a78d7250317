"""Image encoders (DINOv2, CLIP) by which videos of real models are compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dovetail.errors import WeightsError
from dovetail.experts.checkpoint import Checkpoint, Location, find, must_be
from dovetail.experts.placement import device_of

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Encoder:
    """Frames "f 3 h w" in [-1, 1] -> features "f d": the projected embedding of a CLIP, else the first token.

    Frames are resized to a square of `side`, as they are: nothing is cropped away.
    """

    weights: str
    module: nn.Module = field(repr=False)
    side: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        small = interpolate((frames + 1) / 2, (self.side, self.side), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(list(values))[:, None, None] for values in (self.mean, self.std))
        seen = self.module(pixel_values=((small - mean) / std).to(self.device))
        found = getattr(seen, "image_embeds", None)
        features: Tensor = seen.last_hidden_state[:, 0] if found is None else found
        return features.float().cpu()


def load_encoder(weights: str, device: str = "cpu") -> Encoder:
    """An encoder from a folder or a hub id, such as facebook/dinov2-base or openai/clip-vit-base-patch32.

    Raises WeightsError for weights that are missing or damaged.
    """
    from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection

    checkpoint = _brought(weights)
    config = AutoConfig.from_pretrained(checkpoint.path)
    kind = CLIPVisionModelWithProjection if "clip" in config.model_type else AutoModel
    place = device_of(device)
    module: nn.Module = kind.from_pretrained(checkpoint.path, use_safetensors=True)
    file = checkpoint.path / "preprocessor_config.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    side = getattr(config, "vision_config", config).image_size if told.get("crop_size") is None else told["crop_size"]
    return Encoder(
        weights,
        module.eval().to(place),
        side if isinstance(side, int) else side["height"],
        told.get("image_mean", IMAGENET[0]),
        told.get("image_std", IMAGENET[1]),
        place,
    )


def check_encoder(weights: str, where: str = "") -> None:
    """Raise WeightsError for weights that are missing, or no image encoder's; those on the hub come. Nothing is loaded.

    where: the end of that error's message, what else to name.
    """
    from transformers import AutoConfig

    must_be(weights, where)
    checkpoint = _brought(weights, where)
    try:
        config = AutoConfig.from_pretrained(checkpoint.path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"'{weights}' is no image encoder that can be read: {error} {where}".strip()) from None
    if not hasattr(getattr(config, "vision_config", config), "image_size"):
        raise WeightsError(f"'{weights}' is a {config.model_type}, which sees no images. {where}".strip())


def _brought(weights: str, where: str = "") -> Checkpoint:
    """The checkpoint with an encoder's files, which come from the hub if they lie there."""
    found = find(Location(weights), ["config.json", "model.safetensors", "preprocessor_config.json"], where)
    if not isinstance(found, Checkpoint):
        raise WeightsError(f"'{weights}' is one file, and an encoder is a folder with its config. {where}".strip())
    found.file("")
    return found
