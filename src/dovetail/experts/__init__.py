"""Pretrained networks behind the `Expert` contract. diffusers and transformers are imported only here, when first used."""

from dovetail.experts.adapter import Adapter
from dovetail.experts.codec import Codec, VideoCodec, load_codec
from dovetail.experts.loading import FAMILIES, Family, load
from dovetail.experts.loras import Lora
from dovetail.experts.space import LatentSpace, same_space
from dovetail.experts.tuning import Tuning, tuning_of

__all__ = [
    "FAMILIES",
    "Adapter",
    "Codec",
    "Family",
    "LatentSpace",
    "Lora",
    "Tuning",
    "VideoCodec",
    "load",
    "load_codec",
    "same_space",
    "tuning_of",
]
