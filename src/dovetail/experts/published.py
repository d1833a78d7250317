"""Published weights, as far as a plan must know them: their configurations, written down once.

They are used where the weights are not on this machine; where they are, their own files tell. Sources: for Wan,
`wan/configs` and the README of github.com/Wan-Video/Wan2.1 (9737cba) and Wan2.2 (42bf4cf), which diffusers' conversion
carries over; for LTX-Video, `ltx_video/utils/diffusers_config_mapping.py` of github.com/Lightricks/LTX-Video (5260738)
and diffusers' conversion script; for Stable Diffusion 1.5 and ModelScope the config.json of their repositories, whose
numbers of parameters are those of the files there; for CogVideoX, `sat/configs/cogvideox_2b.yaml` and
`cogvideox_5b.yaml`, `tools/convert_weight_sat2hf.py` and the README of github.com/THUDM/CogVideo (e519ece); for LaVie
and Open-Sora Plan, `facts` of their folders.
`tests/test_costs.py` holds what follows from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dovetail.experts.lavie import facts as lavie
from dovetail.experts.opensora import facts as opensora
from dovetail.experts.pins import unpinned
from dovetail.experts.wfvae.facts import CODEC as WFVAE_CODEC


@dataclass(frozen=True)
class Words:
    """A text model. kind: its class in transformers; limit: tokens; masked: whether the network is told the mask."""

    kind: str
    config: Mapping[str, Any]
    limit: int
    masked: bool = False

    @property
    def width(self) -> int:
        """Numbers per token."""
        return int(self.config.get("d_model") or self.config["hidden_size"])


@dataclass(frozen=True)
class Published:
    """A network, what it reads with, and its autoencoder. kind, codec: classes in diffusers, or ours, the codec with its
    config; scheduler: scheduler_config.json as the repository has it, or what its authors sample by."""

    kind: str
    config: Mapping[str, Any]
    words: Words
    codec: tuple[str, Mapping[str, Any]]
    scheduler: Mapping[str, Any]


def _wan(layers: int, heads: int, inner: int, channels: int = 16) -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": inner,
        "num_layers": layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
    }


def _ltx(layers: int, width: int) -> dict[str, Any]:
    return {
        "in_channels": 128,
        "out_channels": 128,
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": 32,
        "attention_head_dim": width // 32,
        "cross_attention_dim": width,
        "num_layers": layers,
        "caption_channels": 4096,
        "qk_norm": "rms_norm_across_heads",
        "norm_elementwise_affine": False,
    }


def _cogvideox(layers: int, heads: int, rotary: bool) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "time_embed_dim": 512,
        "text_embed_dim": 4096,
        "num_layers": layers,
        "sample_width": 90,
        "sample_height": 60,
        "sample_frames": 49,
        "patch_size": 2,
        "patch_size_t": None,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 226,
        "spatial_interpolation_scale": 1.875,
        "use_rotary_positional_embeddings": rotary,
    }


_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
_CROSS = ("CrossAttnDownBlock", "CrossAttnUpBlock")
SD_15: dict[str, Any] = {
    **_UNET,
    "sample_size": 64,
    "attention_head_dim": 8,  # the number of heads; diffusers keeps the misnomer
    "cross_attention_dim": 768,
    "down_block_types": (*(f"{_CROSS[0]}2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *(f"{_CROSS[1]}2D",) * 3),
}
MODELSCOPE: dict[str, Any] = {
    **_UNET,
    "sample_size": 32,
    "attention_head_dim": 64,
    "cross_attention_dim": 1024,
    "down_block_types": (*(f"{_CROSS[0]}3D",) * 3, "DownBlock3D"),
    "up_block_types": ("UpBlock3D", *(f"{_CROSS[1]}3D",) * 3),
}

MOTION_SD_15: dict[str, Any] = {
    **SD_15,
    "down_block_types": (*("CrossAttnDownBlockMotion",) * 3, "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", *("CrossAttnUpBlockMotion",) * 3),
    "motion_max_seq_length": 4096,  # An adapter has 32, others 64, which is known once it is loaded; places weigh nothing.
    "motion_num_attention_heads": 8,
    "use_motion_mid_block": True,
}
"""Stable Diffusion 1.5 with motion modules as AnimateDiff's second version has them, Lightning's among them."""

_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77}
CLIP_L = Words(
    "CLIPTextModel",
    {**_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    77,
)
"""openai/clip-vit-large-patch14's text model: Stable Diffusion 1's."""

CLIP_H = Words(
    "CLIPTextModel",
    {**_CLIP, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    77,
)
"""OpenCLIP's ViT-H text model without its last layer: Stable Diffusion 2's and ModelScope's."""

IMAGE_CODEC: tuple[str, dict[str, Any]] = (
    "AutoencoderKL",
    {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 512,
    },
)
"""Of Stable Diffusion 1, of all that shares its latents, and of ModelScope: vae/config.json of
stable-diffusion-v1-5."""

_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
UMT5 = Words("UMT5EncoderModel", {**_XXL, "vocab_size": 256384}, 512)
"""google/umt5-xxl, the encoder."""

T5 = Words("T5EncoderModel", {**_XXL, "vocab_size": 32128}, 128, masked=True)
"""google/t5-v1_1-xxl, the encoder; the tokens are those of LTXPipeline."""

MT5 = Words("MT5EncoderModel", {**_XXL, "vocab_size": 250112}, 512, masked=True)
"""google/mt5-xxl, the encoder, as Open-Sora Plan reads with it."""

COGVIDEOX_T5 = Words("T5EncoderModel", T5.config, 226)
"""The same encoder, as CogVideoX reads with it."""

USUAL_WORDS: dict[str, Words] = {
    **dict.fromkeys(("stable-diffusion", "animatediff", "lavie"), CLIP_L),
    "text-to-video-sd": CLIP_H,
    "wan": UMT5,
    "ltx": T5,
    "cogvideox": COGVIDEOX_T5,
    "open-sora-plan": MT5,
}
"""What the networks of a family usually read with."""

WAN_CODEC: tuple[str, dict[str, Any]] = ("AutoencoderKLWan", {})
"""Wan2.1_VAE.pth: of Wan 2.1 in both sizes and of Wan 2.2 A14B."""

WAN_22_CODEC: tuple[str, dict[str, Any]] = (
    "AutoencoderKLWan",
    {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "temperal_downsample": (False, True, True),
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "scale_factor_temporal": 4,
    },
)
"""Wan2.2_VAE.pth, of Wan 2.2 TI2V-5B alone: no other Wan works in its latents."""

LTX_CODEC: tuple[str, dict[str, Any]] = (
    "AutoencoderKLLTXVideo",
    {
        "latent_channels": 128,
        "block_out_channels": (128, 256, 512, 1024, 2048),
        "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
        "decoder_block_out_channels": (256, 512, 1024),
        "layers_per_block": (4, 6, 6, 2, 2),
        "decoder_layers_per_block": (5, 5, 5, 5),
        "spatio_temporal_scaling": (True,) * 4,
        "decoder_spatio_temporal_scaling": (True,) * 3,
        "decoder_inject_noise": (False,) * 4,
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "upsample_residual": (True,) * 3,
        "upsample_factor": (2,) * 3,
        "timestep_conditioning": True,
        "patch_size": 4,
        "patch_size_t": 1,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
)
"""Of LTX-Video 0.9.5 and later."""

COGVIDEOX_CODEC: tuple[str, dict[str, Any]] = (
    "AutoencoderKLCogVideoX",
    {
        "latent_channels": 16,
        "block_out_channels": (128, 256, 256, 512),
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "layers_per_block": 3,
        "temporal_compression_ratio": 4,
    },
)
"""Of CogVideoX 2B and 5B, which scale its latents each by a number of its own: .. * 1.15258426 and .. * 0.7."""

_UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
# PNDM and DDIM: what is taken of these are the betas.
_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "clip_sample": False,
    "steps_offset": 1,
}
_EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
# How timesteps are spaced is that of the conversion and of the authors' own script, which says so once more.
_COGVIDEOX = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "clip_sample": False,
    "timestep_spacing": "trailing",
}

WAN_14B, WAN_1_3B = _wan(layers=40, heads=40, inner=13824), _wan(layers=30, heads=12, inner=8960)
WAN_5B = _wan(layers=30, heads=24, inner=14336, channels=48)
LTX_13B, LTX_2B = _ltx(layers=48, width=4096), _ltx(layers=28, width=2048)
COGVIDEOX_2B = _cogvideox(layers=30, heads=30, rotary=False)
COGVIDEOX_5B = _cogvideox(layers=42, heads=48, rotary=True)


def _wan_weights(config: Mapping[str, Any]) -> Published:
    return Published("WanTransformer3DModel", config, UMT5, WAN_CODEC, _UNIPC)


def _ltx_weights(config: Mapping[str, Any]) -> Published:
    return Published("LTXVideoTransformer3DModel", config, T5, LTX_CODEC, _EULER)


def _cogvideox_weights(config: Mapping[str, Any], scaling: float, scheduler: str, shift: float) -> Published:
    kind, sizes = COGVIDEOX_CODEC
    return Published(
        "CogVideoXTransformer3DModel",
        config,
        COGVIDEOX_T5,
        (kind, {**sizes, "scaling_factor": scaling}),
        {"_class_name": scheduler, **_COGVIDEOX, "snr_shift_scale": shift},
    )


# Its own script shifts its levels by 5.
_WAN_5B = replace(_wan_weights(WAN_5B), codec=WAN_22_CODEC, scheduler={**_UNIPC, "flow_shift": 5.0})
_COG_2B = _cogvideox_weights(COGVIDEOX_2B, 1.15258426, "CogVideoXDDIMScheduler", 3.0)
_COG_5B = _cogvideox_weights(COGVIDEOX_5B, 0.7, "CogVideoXDPMScheduler", 1.0)

SD = Published(
    "UNet2DConditionModel",
    SD_15,
    CLIP_L,
    IMAGE_CODEC,
    {"_class_name": "PNDMScheduler", **_BETAS, "skip_prk_steps": True},
)
_MODELSCOPE = Published(
    "UNet3DConditionModel", MODELSCOPE, CLIP_H, IMAGE_CODEC, {"_class_name": "DDIMScheduler", **_BETAS}
)
# Of the same sizes, and nobody says whether its text model was trained as well: no other expert reads with it.
_ZEROSCOPE = replace(_MODELSCOPE, words=replace(CLIP_H))

PUBLISHED: dict[tuple[str, str], Published] = {
    (lavie.FILE, "unet"): Published("LaVieUNet", lavie.SIZES, CLIP_L, IMAGE_CODEC, {**_BETAS, **lavie.BETAS}),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "unet"): SD,
    ("CompVis/stable-diffusion-v1-4", "unet"): SD,
    ("ali-vilab/text-to-video-ms-1.7b", "unet"): _MODELSCOPE,
    ("damo-vilab/text-to-video-ms-1.7b", "unet"): _MODELSCOPE,
    ("cerspense/zeroscope_v2_576w", "unet"): _ZEROSCOPE,
    ("cerspense/zeroscope_v2_XL", "unet"): _ZEROSCOPE,
    ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "transformer"): _wan_weights(WAN_14B),
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "transformer"): _wan_weights(WAN_1_3B),
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "transformer"): _wan_weights(WAN_14B),
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "transformer_2"): _wan_weights(WAN_14B),
    ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "transformer"): _WAN_5B,
    ("Lightricks/LTX-Video-0.9.7-dev", "transformer"): _ltx_weights(LTX_13B),
    ("Lightricks/LTX-Video-0.9.7-distilled", "transformer"): _ltx_weights(LTX_13B),
    ("Lightricks/LTX-Video-0.9.8-13B-distilled", "transformer"): _ltx_weights(LTX_13B),
    ("Lightricks/LTX-Video-0.9.5", "transformer"): _ltx_weights(LTX_2B),
    # The authors' organisation has two names.
    ("THUDM/CogVideoX-2b", "transformer"): _COG_2B,
    ("THUDM/CogVideoX-5b", "transformer"): _COG_5B,
    ("zai-org/CogVideoX-2b", "transformer"): _COG_2B,
    ("zai-org/CogVideoX-5b", "transformer"): _COG_5B,
    (opensora.REPO, opensora.PART): Published(opensora.KIND, opensora.SIZES, MT5, WFVAE_CODEC, opensora.SCHEDULER),
}
"""By hub id and the folder of the network; LaVie's by its file, whatever it is laid over."""


def known(weights: str, part: str = "transformer", adapter: str | None = None) -> Published | None:
    """What is published of a hub id, in whatever revision, and of an adapter over it; None if nothing is written down here.
    With another adapter than LaVie's it is Stable Diffusion 1 with the largest motion modules that there are."""
    if lavie.named(adapter):
        return PUBLISHED[lavie.FILE, "unet"]
    found = PUBLISHED.get((unpinned(weights)[0], part))
    if adapter is None or found is None:
        return found
    if found.config is not SD_15:
        return None
    spacing = {"timestep_spacing": "trailing"} if "lightning" in Path(adapter).name.lower() else {}
    scheduler = {**found.scheduler, "beta_schedule": "linear", **spacing}
    return replace(found, kind="UNetMotionModel", config=MOTION_SD_15, scheduler=scheduler)


def known_codec(weights: str) -> tuple[str, Mapping[str, Any]] | None:
    """The class and config of the autoencoder that is published of a hub id; None if nothing is written down here."""
    bare, _ = unpinned(weights)
    return next((told.codec for (repo, _), told in PUBLISHED.items() if repo == bare), None)


def over_time(image: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an image network with motion modules in it. AnimateDiff's first and third versions have none in the
    middle, so they are a little smaller."""
    blocks = {
        name: tuple(str(kind).replace("2D", "Motion") for kind in image[name])
        for name in ("down_block_types", "up_block_types")
    }
    motion = {name: value for name, value in MOTION_SD_15.items() if "motion_" in name}
    heads = image.get("num_attention_heads") or image.get("attention_head_dim", 8)
    return {**image, **blocks, **motion, "num_attention_heads": heads}
