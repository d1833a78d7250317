"""What is published of Open-Sora Plan v1.3, as far as a plan must know it.

Sources: `any93x640x640/config.json` of huggingface.co/LanguageBind/Open-Sora-Plan-v1.3.0 (5bf3335), and `opensora/` of
github.com/PKU-YuanGroup/Open-Sora-Plan (f7fa604): `models/diffusion/opensora_v1_3`, `utils/sample_utils.py`; line by line
in docs/open-sora-plan.md.
"""

from collections.abc import Mapping
from typing import Any

REPO, PART = "LanguageBind/Open-Sora-Plan-v1.3.0", "any93x640x640"
"""Where its authors publish it, and the folder of the network for texts there. `any93x640x640_i2v` is another network."""

KIND = "OpenSoraT2V_v1_3"
"""What its config calls it."""

WORDS = "google/mt5-xxl"
"""The text model it reads with, in a repository of its own: the network's has neither that nor a tokenizer."""

WORDS_FILES = ("config.json", "pytorch_model.bin", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")
"""What is taken of that; its weights are one pickle, the decoder's among them."""

SIZES: dict[str, Any] = {
    "num_attention_heads": 24,
    "attention_head_dim": 96,
    "in_channels": 8,
    "out_channels": 8,
    "num_layers": 32,
    "patch_size": 2,
    "cross_attention_dim": 2304,
    "caption_channels": 4096,
    "norm_eps": 1e-6,
    "sparse1d": True,
    "sparse_n": 4,
}
"""Its config, as far as networks of its kind differ."""

FIXED: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "double_self_attention": False,
    "norm_elementwise_affine": False,
    "only_cross_attention": False,
    "patch_size_t": 1,
    "upcast_attention": False,
}
"""What its authors' code could build otherwise, and the network here cannot."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""The scheduler with which its authors sample; the betas are diffusers' defaults. The repository has no config of one."""

LICENCE = "MIT"
FRAMES = 24
"""Latent frames that it was trained on, 93 of the video."""


def sparse(config: Mapping[str, Any], block: int) -> bool:
    """Whether a token meets but a part of the others in this block, counted from 0. Which blocks these are does not depend
    on how many there are.

    >>> [block for block in range(32) if not sparse(SIZES, block)]
    [0, 1, 30, 31]
    """
    return bool(config.get("sparse1d", SIZES["sparse1d"])) and 1 < block < 30


def odd(config: Mapping[str, Any]) -> str | None:
    """What a config says that the network here cannot be, in words; None if nothing.

    >>> odd(SIZES), odd({**SIZES, "patch_size_t": 2})
    (None, 'patch_size_t is 2, not 1')
    """
    width = config.get("num_attention_heads", 1) * config.get("attention_head_dim", 1)
    wanted = {**FIXED, "cross_attention_dim": width}
    differs = [
        f"{key} is {config[key]}, not {value}" for key, value in wanted.items() if config.get(key, value) != value
    ]
    return ", ".join(differs) or None
