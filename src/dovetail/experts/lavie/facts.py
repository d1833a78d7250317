"""What is published of LaVie's base model, as far as a plan must know it.

Sources: `base/models` and `base/configs/sample.yaml` of github.com/Vchitect/LaVie (6ce851e), which takes all sizes from
Stable Diffusion 1.4's unet/config.json.
"""

from pathlib import Path

FILE = "YaohuiW/LaVie/lavie_base.pt"
"""Where its authors publish it; it stands over CompVis/stable-diffusion-v1-4."""

SIZES = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
}
"""Its config, by the names that Stable Diffusion has for it."""

BETAS = {"_class_name": "DDIMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
"""What its authors change of Stable Diffusion's scheduler; DDIM is one of the three solvers that they offer."""

LICENCE = "open for research and commerce, says its README"


def named(adapter: str | None) -> bool:
    """Whether an adapter is LaVie's file, by its name.

    >>> named(FILE), named("weights/lavie_base.safetensors"), named("weights/lavie_vsr.pt"), named(None)
    (True, True, False, False)
    """
    return adapter is not None and Path(adapter).stem == "lavie_base"
