"""Tiny checkpoints under the names of the original code, written from diffusers' by rules of our own: what communities
share in one file. Conversion the other way is diffusers' and ours, and is what the tests of these files try."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "o.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
}


def put(name: str, rules: Mapping[str, str]) -> str:
    for theirs, ours in rules.items():
        name = name.replace(theirs, ours)
    return name


def unet(module: UNet2DConditionModel) -> dict[str, Tensor]:
    """As CompVis' LDM names it: one list of blocks down, one up, whatever their resolution."""
    per = module.config.layers_per_block + 1
    found = {}
    for key, tensor in module.state_dict().items():
        found["model.diffusion_model." + _ldm(key, per, module)] = tensor
    return found


def _ldm(key: str, per: int, module: Any) -> str:
    for theirs, ours in OUTSIDE.items():
        if key.startswith(theirs + "."):
            return ours + key.removeprefix(theirs)
    way = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key)
    if way is None:
        mid, i, rest = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", key).groups()
        return f"middle_block.{1 if mid == 'attentions' else 2 * int(i)}." + (
            put(rest, RESNET) if mid == "resnets" else rest
        )
    side, block, kind, j, rest = way[1], int(way[2]), way[3], int(way[4]), way[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * per}.0.op." + rest.removeprefix("conv.")
    if kind == "upsamplers":
        place = 2 if getattr(module.up_blocks[block], "attentions", None) else 1
        return f"output_blocks.{block * per + per - 1}.{place}.{rest}"
    number = block * per + j + (1 if side == "down" else 0)
    start = f"{'input' if side == 'down' else 'output'}_blocks.{number}"
    return f"{start}.0.{put(rest, RESNET)}" if kind == "resnets" else f"{start}.1.{rest}"


def vae(module: AutoencoderKL, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """As CompVis' LDM names it; attention is in convolutions of one pixel."""
    last, found = len(module.config.block_out_channels) - 1, {}
    for key, tensor in module.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0." in name:
            head, _, rest = name.partition("mid_block.attentions.0.")
            name = f"{head}mid.attn_1.{put(rest, ATTENTION)}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[prefix + name] = tensor
    return found


def clip(module: nn.Module) -> dict[str, Tensor]:
    found = {f"cond_stage_model.transformer.text_model.{key}": tensor for key, tensor in module.state_dict().items()}
    places = torch.arange(module.config.max_position_embeddings)[None]
    return {**found, "cond_stage_model.transformer.text_model.embeddings.position_ids": places}


def motion(module: MotionAdapter, longest: int = 32) -> dict[str, Tensor]:
    """As guoyww's mm_sd_v15_v2.ckpt names it (v1 and v3: the same without mid_block)."""
    found = {}
    for key, tensor in module.state_dict().items():
        name = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", key)
        name = name.replace(".norm1.", ".norms.0.").replace(".norm2.", ".norms.1.").replace(".norm3.", ".ff_norm.")
        name = name.replace(".attn1.", ".attention_blocks.0.").replace(".attn2.", ".attention_blocks.1.")
        if name.endswith("pos_embed.pe"):
            stem = name.removesuffix("pos_embed.pe")
            for i in range(2):
                found[f"{stem}attention_blocks.{i}.pos_encoder.pe"] = tensor[:, :longest]
        else:
            found[name] = tensor
    return found


def wan(module: WanTransformer3DModel) -> dict[str, Tensor]:
    """As Wan-Video's own code names it."""
    found = {}
    for key, tensor in module.state_dict().items():
        name = "head.modulation" if key == "scale_shift_table" else key.replace("scale_shift_table", "modulation")
        found[put(name, WAN)] = tensor
    return found


LTX = {"proj_in.": "patchify_proj.", "time_embed.": "adaln_single.", "norm_q.": "q_norm.", "norm_k.": "k_norm."}


def ltx(module: nn.Module) -> dict[str, Tensor]:
    """As Lightricks' own code names it, in a file that would hold the autoencoder too."""
    return {f"model.diffusion_model.{put(key, LTX)}": tensor for key, tensor in module.state_dict().items()}


LTX_PARTS = ("resnets", "downsamplers.0", "conv_out")
"""What the authors count as blocks of their own, in each of diffusers' on the way down."""
LTX_UP_PARTS = ("conv_in", "upsamplers.0", "resnets")
"""The same on the way up."""


def ltx_vae(module: nn.Module) -> dict[str, Tensor]:
    """The autoencoder in that file, blocks counted as the authors of 0.9.0, 0.9.1 and 0.9.5 do: resnets, and what makes
    a block smaller, larger, or of other channels, each by itself in one list that holds the middle too."""
    late = module.config.downsample_type != ("conv",) * len(module.config.downsample_type)
    down = ["resnets 0", "downsamplers.0 0", "conv_out 0", "resnets 1", "downsamplers.0 1", "conv_out 1", "resnets 2"]
    down = [*down, "downsamplers.0 2", "resnets 3", "mid"]
    if late:
        down = [f"{part} {i}" for i in range(4) for part in LTX_PARTS[:2]] + ["mid"]
    up = ["mid", "resnets 0", "upsamplers.0 1", "resnets 1"]
    up += [f"{part} {i}" for i in (2, 3) for part in LTX_UP_PARTS]
    if late or module.config.timestep_conditioning:
        up = ["mid"] + [f"{part} {i}" for i in range(4) for part in LTX_UP_PARTS[1:]]
    return {"vae." + _ltx_vae(key, down, up): tensor for key, tensor in module.state_dict().items()}


def _ltx_vae(key: str, down: list[str], up: list[str]) -> str:
    told = {
        "latents_mean": "per_channel_statistics.mean-of-means",
        "latents_std": "per_channel_statistics.std-of-means",
        "decoder.scale_shift_table": "decoder.last_scale_shift_table",
    }
    if key in told:
        return told[key]
    key = key.replace("decoder.time_embedder.", "decoder.last_time_embedder.").replace(".norm3.", ".norm3.norm.")
    key = key.replace("conv_shortcut.conv", "conv_shortcut")
    side, blocks = ("down", down) if key.startswith("encoder.") else ("up", up)
    way = re.fullmatch(r"(\w+)\.(?:mid_block|\w+_blocks\.(\d))\.(.*)", key)
    if way is None:
        return key
    half, block, rest = way.groups()
    own = next((part for part in (*LTX_PARTS[1:], *LTX_UP_PARTS[:2]) if rest.startswith(part + ".")), None)
    place = "mid" if block is None else f"{own or 'resnets'} {block}"
    rest = rest.removeprefix(f"{own}.") if own else rest.replace("resnets.", "res_blocks.")
    return f"{half}.{side}_blocks.{blocks.index(place)}.{rest}"


def written(file: Path, *parts: Mapping[str, Tensor], half: bool = False) -> Path:
    """A .safetensors file of these tensors, or a pickle if its name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.clone().contiguous() for part in parts for key, value in part.items()}
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    save_file(tensors, file) if file.suffix == ".safetensors" else torch.save({"state_dict": tensors}, file)
    return file


def stable_diffusion(file: Path, *, autoencoder: Any = None, half: bool = False) -> Path:
    """A whole Stable Diffusion 1 in one file."""
    _, encoder = tiny.clip()
    parts = (unet(tiny.unet2d()), vae(autoencoder or tiny.vae()), clip(encoder))
    return written(file, *parts, {"model_ema.decay": torch.tensor(0.9)}, half=half)


def lora_of(
    layers: Mapping[str, nn.Module], named: Callable[[str], tuple[str, str]], rank: int = 2
) -> dict[str, Tensor]:
    """Random LoRA weights for these layers; `named` makes the names of a layer's two halves."""
    found = {}
    for i, (name, layer) in enumerate(sorted(layers.items())):
        made = torch.Generator().manual_seed(i)
        out, *into = layer.weight.shape
        down, up = named(name)
        found[down] = torch.randn(rank, *into, generator=made) * 0.3
        found[up] = torch.randn(out, rank, *(1 for _ in into[1:]), generator=made) * 0.3
    return found
