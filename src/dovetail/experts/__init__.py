"""Pretrained networks behind the `Expert` contract. diffusers and transformers are imported only here, when first
used, and in `dovetail.pipelines`."""

from dovetail.experts.adapter import Adapter
from dovetail.experts.assembling import assembled
from dovetail.experts.codec import Codec, VideoCodec, codec_of, load_codec
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
    "assembled",
    "codec_of",
    "load",
    "load_codec",
    "same_space",
    "tuning_of",
]
