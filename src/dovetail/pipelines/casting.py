"""Components to a cast: experts, who are told what was read before, and a codec."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from dovetail import recipe as recipes
from dovetail.core.denoiser import Expert
from dovetail.errors import RecipeError, nearest
from dovetail.experts import FAMILIES, assembled, codec_of
from dovetail.experts.adapter import Embedding, Packed
from dovetail.experts.assembling import spoken
from dovetail.experts.codec import KINDS, Conditioning
from dovetail.experts.decoders import COGVIDEOX
from dovetail.experts.space import space_of
from dovetail.pipelines.asking import Embeds
from dovetail.recipe import Recipe
from dovetail.run import Codec

MEMORY = "(in memory)"
"""What a recipe calls weights that are components."""

SOLVERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "CogVideoXDDIMScheduler": ("euler", {}),
    "DDIMScheduler": ("euler", {"clip_sample": False, "thresholding": False}),
    "DPMSolverMultistepScheduler": (
        "dpm++2m",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "thresholding": False},
    ),
    "EulerAncestralDiscreteScheduler": ("ancestral", {}),
    "EulerDiscreteScheduler": ("euler", {}),
    "FlowMatchEulerDiscreteScheduler": ("euler", {"stochastic_sampling": False}),
    "UniPCMultistepScheduler": (
        "unipc",
        {"predict_x0": True, "solver_order": 2, "solver_type": "bh2", "disable_corrector": [], "thresholding": False},
    ),
}
"""The solver that takes the steps of a scheduler, and what the scheduler's config says then."""


def solver_of(scheduler: Any) -> str:
    """The solver that steps as a scheduler does. Raises RecipeError for a scheduler that no solver is known for."""
    name = type(scheduler).__name__
    if name not in SOLVERS:
        raise RecipeError(
            f"no solver here takes the steps of a {name}. Put another in its place, as in pipe.scheduler = "
            f"DDIMScheduler.from_config(pipe.scheduler.config); known: {', '.join(sorted(SOLVERS))}"
        )
    solver, options = SOLVERS[name]
    for key, fits in options.items():
        if (value := scheduler.config.get(key, fits)) != fits:
            raise RecipeError(
                f"no solver here takes the steps of a {name} with {key}={value!r}. Put one in its place that has "
                f"{key}={fits!r}: {name}.from_config(pipe.scheduler.config, {key}={fits!r})"
            )
    return solver


def bare(module: Any) -> Any:
    """The module that `torch.compile` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def family_of(module: Any) -> str:
    """The family that a network belongs to, by its class. Raises RecipeError for one of none."""
    found = type(bare(module)).__name__
    families = {kind.networks[0]: name for name, kind in FAMILIES.items()}
    if found not in families:
        raise RecipeError(f"no family calls a {found}; {nearest(found, families)}")
    return families[found]


@dataclass(frozen=True, eq=False)
class Told:
    """A text model that has read already: embeddings, by what stands for their texts."""

    known: Mapping[str, Embedding]
    limit: int = 0

    def __call__(self, text: str) -> Embedding:
        if text not in self.known:
            raise RecipeError(
                "no negative prompt was read, for there was no guidance when the call began; begin with a guidance_scale "
                "above 1, or give negative_prompt_embeds"
            )
        return self.known[text]


def told(embeds: Embeds, asked: list[str], against: list[str], dtype: torch.dtype, prefix: str = "") -> Told:
    """What a network of this dtype is told. asked, against: what stands for each row of the prompts, and of the
    negative ones. prefix: of the names of the embeddings of its text model."""
    known: dict[str, Embedding] = {}
    for start, texts in (("", asked), ("negative_", against)):
        rows, masks = (embeds.get(f"{start}{prefix}prompt_{what}") for what in ("embeds", "attention_mask"))
        if rows is None:
            continue
        parts = [rows.to(dtype)] if masks is None else [rows.to(dtype), masks]
        known |= {text: tuple(part[i : i + 1] for part in parts) for i, text in enumerate(texts)}
    return Told(known)


def expert(name: str, module: Any, scheduler: Any, text: Told, codec: Codec, fps: float | None = None) -> Expert:
    """A component as an expert. Raises RecipeError for a network or a scheduler that none here can be made of."""
    family, found = family_of(module), type(bare(module)).__name__
    kind = FAMILIES[family]
    _check_caches(name, bare(module))
    if isinstance(kind.convention, Packed) and any(len(told) < 2 for told in text.known.values()):
        raise RecipeError(
            f"a {found} is told with each embedding which of its tokens are words: give prompt_attention_mask with "
            "prompt_embeds, and negative_prompt_attention_mask with negative_prompt_embeds, as encode_prompt returns them"
        )
    return assembled(
        name,
        family,
        kind,
        module,
        text=text,
        scheduler=config_of(scheduler),
        space=codec.space,
        device=get_module_execution_device(module),
        dtype=module.dtype,
        fps=fps,
        weights=f"the {found}",
    )


def _check_caches(name: str, module: nn.Module) -> None:
    """Raise RecipeError for a network that remembers calls, as diffusers' caches have it do."""
    registries = [hooks for part in module.modules() if (hooks := getattr(part, "_diffusers_hook", None)) is not None]
    if any(hook._is_stateful for registry in registries for hook in registry.hooks.values()):
        raise RecipeError(
            f"expert '{name}': a cache of diffusers is on in the {type(module).__name__}, which would answer from its last "
            "call. That may have been of another video, window or prompt here, since all of them ask one network in turns. "
            "Turn it off first: transformer.disable_cache() if enable_cache put it there, else load the network again"
        )


def config_of(scheduler: Any) -> dict[str, Any]:
    """A scheduler's config, as a checkpoint's file would say it."""
    name = type(scheduler).__name__
    told = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return spoken({**told, "_class_name": name}, f"the {name}")


def codec(vae: Any) -> Codec:
    """An autoencoder as a codec. Raises RecipeError for one that none here can be made of."""
    vae = bare(vae)
    kind = type(vae).__name__
    if kind not in KINDS:
        raise RecipeError(f"vae: no codec is made of a {kind}; {nearest(kind, KINDS)}")
    space = space_of({**vae.config, "_class_name": kind})
    # LTX-Video's decoder from 0.9.1 on is told a timestep.
    conditioning = Conditioning() if vae.config.get("timestep_conditioning") else None
    # CogVideoX's decoder is called part by part, so its `enable_tiling` is heard here; others hear it in `decode`.
    tiles = vae.tile_latent_min_height if kind == COGVIDEOX and vae.use_tiling else None
    return codec_of(vae, space, get_module_execution_device(vae), vae.dtype, conditioning=conditioning, tiles=tiles)


def rows(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor | None]:
    """Embeddings and, where there are any, masks, a row for each text."""
    hidden, *mask = (torch.cat(part) for part in zip(*parts, strict=True))
    return hidden, mask[0] if mask else None


def written(
    prompt: str,
    negative: str,
    video: Mapping[str, Any],
    families: Mapping[str, str],
    chain: Sequence[Mapping[str, Any]],
    story: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe of components: experts of these families, whose weights it does not name. Raises RecipeError."""
    experts = {name: {"family": family, "weights": MEMORY} for name, family in families.items()}
    told = {} if story is None else {"story": dict(story)}
    said = {"prompt": prompt, "negative": negative, "video": dict(video), "chain": list(chain), **told}
    return recipes.checked({**said, "experts": experts, "codec": {"weights": MEMORY}})
