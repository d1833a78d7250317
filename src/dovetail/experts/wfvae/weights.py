"""WF-VAE from the files in which its authors publish it: a config.json, and a merged.ckpt or any other file of weights.

`merged.ckpt` is opened as a pickle of tensors alone. Of what it holds beside the autoencoder nothing is taken: the
authors' `WFVAEModel.init_from_ckpt` leaves it out too, and lacks nothing without the wavelets' filters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import RecipeError, WeightsError
from dovetail.experts.checkpoint import quietly
from dovetail.experts.tensors import fitting, opened
from dovetail.experts.wfvae.autoencoder import WFVAEModel
from dovetail.experts.wfvae.facts import KINDS, SIZES, UNSAID, WHERE, learned

OURS = ("encoder.", "decoder.")
"""How names of the autoencoder's tensors begin; others are of what it was trained with."""

APART = (
    "If these are weights of a WF-VAE, its config.json is of another generation: take both from one revision of one "
    f"repository. {WHERE}"
)

ROUNDED = 1e-3
"""How far filters of this code are from those of a file, which may be in half precision."""


def sizes(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a WF-VAE out of its config.json: its sizes, and what its latents are scaled by.

    Raises RecipeError, which begins with `where`, for one that is made of other layers.
    """
    said = {**UNSAID, **config}
    for name, fits in KINDS.items():
        if (came := said.get(name, fits)) != fits:
            raise RecipeError(f"{where} is a WF-VAE with {name} {came!r}, and only {fits!r} is known. {WHERE}")
    return {name: said[name] for name in (*SIZES, "scale", "shift") if name in said}


def autoencoder(config: Mapping[str, Any], file: Path, dtype: torch.dtype) -> WFVAEModel:
    """A frozen WF-VAE of these `sizes`, with the tensors of a file.

    Raises WeightsError for a file that cannot be opened safely, is damaged, or holds another network.
    """
    with quietly(), torch.device("meta"):
        module = WFVAEModel.from_config(dict(config))
    found = _fitting(opened(file), module.state_dict(), file)
    module.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in found.items()}, assign=True)
    return module.requires_grad_(False).eval()  # type: ignore[no-any-return]


def _fitting(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of the autoencoder, if they are those of this one."""
    mine = {name: tensor for name, tensor in tensors.items() if name.startswith(OURS)}
    found = fitting(learned(mine), wanted, file, "this WF-VAE", APART)
    for name in mine.keys() - found.keys():
        share = 0.5 if mine[name].numel() == 4 else 0.3536
        if not torch.allclose(mine[name].float().abs(), torch.tensor(share), rtol=0, atol=ROUNDED):
            raise WeightsError(f"'{file}': '{name}' is no filter of Haar's wavelets, which is what this WF-VAE has")
    return found
