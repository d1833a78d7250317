"""LoRA weights, added to an expert's own when it is loaded: W + scale * alpha / rank * up @ down.

Adding costs nothing per step, needs no further package, and leaves a network like any other to whoever counts, moves or
hashes it. The price: a scale is fixed for a run. Files come in the spellings of kohya's scripts (`lora_unet_..`,
`lora_te_..`), of diffusers, old and new, of the original AnimateDiff (motion LoRA, v3's domain adapter), and for
transformers in all that diffusers reads.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError, WeightsError
from dovetail.experts.checkpoint import find_file
from dovetail.experts.tensors import SUFFIXES, header, is_file, opened

USUAL = ("pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors")
"""What the file is called in a folder or repository that holds nothing else."""

LOADERS = {"wan": "WanLoraLoaderMixin", "ltx": "LTXVideoLoraLoaderMixin", "cogvideox": "CogVideoXLoraLoaderMixin"}
"""Which of diffusers' loaders knows the names of a family's LoRA files."""

OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a Tucker decomposition",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
}
"""Other ways to say a change of weights, by a piece of their names."""

ROLE = re.compile(
    r"(?P<stem>.+?)(?:"
    r"[._]lora[._](?:linear_layer\.)?(?P<role>down|up|A|B)(?:\.[a-z]\w*(?=\.weight))?\.(?P<what>weight|bias)|\.(?P<alpha>alpha))"
)
"""A tensor's name: of which layer it is, and what."""


@dataclass(frozen=True)
class Lora:
    """One LoRA. weights: a file, a folder, OWNER/REPO or OWNER/REPO/FILE, either with @REVISION after REPO; scale: how much of it is added."""

    weights: str
    scale: float = 1.0


@dataclass
class _Pair:
    """What is told of one layer. down: "rank .."; up: "out rank"; bias: "out"."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    bias: Tensor | None = None


def add(name: str, family: str, loras: Sequence[Lora], network: nn.Module, encoder: nn.Module | None) -> None:
    """Add LoRA weights to a network and its text model, in place. encoder: None where its text model is another
    expert's, which has the same LoRA weights already.

    Raises WeightsError for a file that is missing, unsafe to open or another kind of thing, RecipeError for LoRA
    weights of another network.
    """
    for lora in loras:
        file = _file(lora.weights)
        layers = {**_layers(network, "unet"), **({} if encoder is None else _layers(encoder, "te"))}
        strange = []
        for stem, pair in _pairs(family, file).items():
            if stem in layers:
                _merge(layers[stem], pair, lora.scale, f"'{lora.weights}', layer {stem}")
            elif encoder is not None or not stem.startswith("te:"):
                strange.append(stem)
        if strange:
            raise RecipeError(_unfit(name, family, lora.weights, strange))


def add_to_words(family: str, loras: Sequence[Lora], encoder: nn.Module) -> None:
    """Add what LoRA weights, which were added once, say of a text model to it when it is loaded again."""
    for lora in loras:
        layers = _layers(encoder, "te")
        for stem, pair in _pairs(family, _file(lora.weights)).items():
            if stem in layers:
                _merge(layers[stem], pair, lora.scale, f"'{lora.weights}', layer {stem}")


def _unfit(name: str, family: str, weights: str, strange: Sequence[str]) -> str:
    first = strange[0].partition(":")[2]
    hint = "take LoRA weights that were made for this network"
    if any("motion_modules" in stem for stem in strange):
        hint = "these are for motion modules, which experts of family animatediff have"
    elif any(stem.startswith("te2:") for stem in strange):
        hint = "these were made for Stable Diffusion XL"
    return (
        f"expert '{name}' ({family}): LoRA '{weights}' changes {len(strange)} layer(s) that its network has not, the first "
        f"is '{first}'; {hint}"
    )


def _file(weights: str) -> Path:
    if is_file(weights):
        return find_file(weights)
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        return _on_the_hub(weights)
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    usual = [path for path in found if path.name in USUAL] or found
    if len(usual) != 1:
        names = ", ".join(path.name for path in found) or "no file of weights"
        raise WeightsError(f"LoRA '{weights}' is a folder with {names}; name the file")
    return usual[0]


def _on_the_hub(weights: str) -> Path:
    missed = None
    for usual in USUAL:
        try:
            return find_file(f"{weights}/{usual}")
        except WeightsError as error:
            missed = missed or error  # What helps is told of the more usual name.
    raise WeightsError(f"no LoRA '{weights}': {missed}. If its file has another name, say OWNER/REPO/FILE") from missed


# --- names -------------------------------------------------------------------------------------------------------


def _layers(module: nn.Module, part: str) -> dict[str, nn.Module]:
    """Layers with weights by `part:name`, and by the name that kohya's scripts make of it."""
    found: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        if isinstance(getattr(layer, "weight", None), Tensor):
            bare = name.removeprefix("text_model.") if part == "te" else name
            found[f"{part}:{bare}"] = found[f"{part}:{bare.replace('.', '_')}"] = layer
    return found


def _pairs(family: str, file: Path) -> dict[str, _Pair]:
    """What a file tells of each layer, by `unet:name` (or te:, te2:). Raises WeightsError."""
    tensors, told = opened(file), header(file).get("lora_adapter_metadata", {})
    for piece, kind in OTHER_KINDS.items():
        if any(piece in key for key in tensors):
            raise WeightsError(f"'{file}' is {kind}, not LoRA; dovetail adds LoRA only")
    pairs: dict[str, _Pair] = {}
    for key, tensor in _read_by_diffusers(family, tensors, file).items():
        read = ROLE.fullmatch(key)
        if read is None:
            raise WeightsError(f"'{file}' is no LoRA, or a kind that dovetail does not know: '{key}' is in it")
        pair = pairs.setdefault(_stem(read["stem"]), _Pair())
        if read["alpha"] is not None:
            pair.alpha = float(tensor)
        elif read["what"] == "bias":
            pair.bias = tensor
        elif read["role"] in ("down", "A"):
            pair.down = tensor
        else:
            pair.up = tensor
    if not pairs:
        raise WeightsError(f"'{file}' holds no weights")
    if isinstance(told, Mapping):
        _alphas(pairs, told)
    return pairs


def _read_by_diffusers(family: str, tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """For transformers, whose names communities spell in many ways: as diffusers spells them."""
    if family not in LOADERS:
        return tensors
    import diffusers.loaders.lora_pipeline as loaders

    try:
        found: dict[str, Tensor] = getattr(loaders, LOADERS[family]).lora_state_dict(tensors)
    except (ValueError, KeyError, IndexError) as error:
        raise WeightsError(f"'{file}' is no LoRA that diffusers reads for family '{family}': {error}") from error
    return found


def _stem(stem: str) -> str:
    """A layer's name as `_layers` has it.

    >>> _stem("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out")
    'unet:mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0'
    >>> _stem("down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor.to_q")
    'unet:down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_q'
    >>> _stem("lora_te_text_model_encoder_layers_0_mlp_fc1"), _stem("text_encoder.text_model.encoder.layers.0.self_attn.to_q")
    ('te:encoder_layers_0_mlp_fc1', 'te:encoder.layers.0.self_attn.q_proj')
    """
    kohya = re.match(r"lora_(unet|transformer|te1?|te2)_", stem)
    if kohya is not None:
        part = {"transformer": "unet", "te1": "te"}.get(kohya[1], kohya[1])
        return f"{part}:{stem[kohya.end() :].removeprefix('text_model_' if part == 'te' else '')}"
    part, rest = "unet", stem
    for start, told in (("text_encoder_2.", "te2"), ("text_encoder.", "te")):
        if stem.startswith(start):
            part, rest = told, stem.removeprefix(start).removeprefix("text_model.")
    if part != "unet":
        return f"{part}:" + re.sub(r"to_(q|k|v|out)$", r"\1_proj", rest)
    rest = re.sub(r"^(?:base_model\.model\.|unet\.|transformer\.|diffusion_model\.|module\.)+", "", rest)
    rest = rest.replace(".processor.", ".").replace(".temporal_transformer.", ".")
    rest = rest.replace(".attention_blocks.0.", ".attn1.").replace(".attention_blocks.1.", ".attn2.")
    return f"unet:{rest}.0" if rest.endswith(".to_out") else f"unet:{rest}"


def _alphas(pairs: Mapping[str, _Pair], told: Mapping[str, Any]) -> None:
    """Set what diffusers writes into a file's header: alphas, which its tensors' names do not hold."""
    for stem, pair in pairs.items():
        part, _, layer = stem.partition(":")
        for prefix in ("unet", "transformer") if part == "unet" else ("text_encoder",):
            alpha = told.get(f"{prefix}.lora_alpha")
            own: Mapping[str, float] = told.get(f"{prefix}.alpha_pattern") or {}
            alpha = next((value for end, value in own.items() if f".{layer}".endswith(f".{end}")), alpha)
            if alpha is None or pair.down is None or pair.alpha is not None:
                continue
            rank = len(pair.down)
            pair.alpha = float(alpha) * (sqrt(rank) if told.get(f"{prefix}.use_rslora") else 1.0)


# --- weights -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _merge(layer: nn.Module, pair: _Pair, scale: float, where: str) -> None:
    for part, change in _changes(pair, where):
        weight: Any = getattr(layer, part, None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise RecipeError(
                f"LoRA {where}: this layer's {part} cannot be added to; quantise after adding, not before"
            )
        if change.flatten(1).shape != weight.flatten(1).shape:
            raise RecipeError(
                f"LoRA {where}: it changes {tuple(change.shape)} numbers, and this layer has {tuple(weight.shape)}; take LoRA "
                "weights that were made for this network"
            )
        weight.copy_(weight.float() + scale * change.reshape(weight.shape).to(weight.device))


def _changes(pair: _Pair, where: str) -> Iterator[tuple[str, Tensor]]:
    """What is added to a layer's weight, and to its bias."""
    if (pair.down is None) != (pair.up is None):
        raise WeightsError(f"LoRA {where}: one half of it is missing")
    share = 1.0 if pair.alpha is None or pair.down is None else pair.alpha / len(pair.down)
    if pair.down is not None and pair.up is not None:
        yield "weight", share * (pair.up.float().flatten(1) @ pair.down.float().flatten(1))
    if pair.bias is not None:
        yield "bias", share * pair.bias.float()
