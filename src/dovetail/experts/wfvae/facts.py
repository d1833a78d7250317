"""What is published of Open-Sora Plan v1.3's autoencoder, as far as a plan must know it. Its sources: the table "The
autoencoder" of docs/open-sora-plan.md."""

from collections.abc import Mapping
from typing import Any, TypeVar

Tensor = TypeVar("Tensor")

WHERE = "LanguageBind/Open-Sora-Plan-v1.3.0 has it in vae/, as config.json and merged.ckpt"
"""Where its authors publish it."""

COMPRESSION, FACTOR = 4, 8
"""Frames per latent frame, but for the first; pixels per latent cell, along height and along width."""

SCALE = 0.18215
"""latent = code * SCALE, where a config names none."""

SIZES: dict[str, Any] = {
    "latent_dim": 8,
    "base_channels": 128,
    "encoder_num_resblocks": 2,
    "encoder_energy_flow_hidden_size": 64,
    "decoder_num_resblocks": 2,
    "decoder_energy_flow_hidden_size": 128,
    "connect_res_layer_num": 2,
}
"""Its sizes, by the names that its config has for them."""

KINDS: dict[str, Any] = {
    "norm_type": "layernorm",
    "t_interpolation": "trilinear",
    "use_attention": True,
    "attention_type": "AttnBlock3DFix",
    "l1_dowmsample_block": "Downsample",
    "l1_downsample_wavelet": "HaarWaveletTransform2D",
    "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l2_downsample_wavelet": "HaarWaveletTransform3D",
    "l1_upsample_block": "Upsample",
    "l1_upsample_wavelet": "InverseHaarWaveletTransform2D",
    "l2_upsample_block": "Spatial2xTime2x3DUpsample",
    "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
}
"""Of which layers it is made; others (of later releases, and of other compressions) are not built here."""

UNSAID: dict[str, Any] = {"norm_type": "groupnorm", "t_interpolation": "nearest", "connect_res_layer_num": 1}
"""What the authors' class takes where a config says nothing, if that is not as above."""

CODEC: tuple[str, dict[str, Any]] = ("WFVAEModel", SIZES)
"""Its class and its config."""

FILTERS = (".wavelet_transform_", ".inverse_wavelet_transform_")
"""Pieces of the names of the wavelets' filters."""


def learned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name without the wavelets' filters, which are constants and need not be there.

    >>> learned({"encoder.conv_out.conv.bias": 1, "encoder.wavelet_transform_l1.aa": 2})
    {'encoder.conv_out.conv.bias': 1}
    """
    return {name: tensor for name, tensor in tensors.items() if not any(piece in name for piece in FILTERS)}
