"""The tensors in a file: safetensors, or a pickle that holds nothing but tensors."""

import json
import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from dovetail.errors import WeightsError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
"""Ends of files that torch.save writes."""

WRAPS = ("ema_state_dict", "ema", "state_dict", "gen_model")
"""Under what checkpoints keep their tensors, where these lie beside other things; the first that holds any is taken."""

SUFFIXES = (".safetensors", *PICKLES)
"""Ends of files that hold weights."""


def fitting(
    tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], file: Path, network: str, where: str
) -> dict[str, Tensor]:
    """The tensors of a file, if they are those of a network by name and shape. network: which, in words; where: what to
    do otherwise. Raises WeightsError."""
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise WeightsError(f"'{file}' lacks {len(missing)} tensors of {network}, the first is '{missing[0]}'. {where}")
    if more := sorted(tensors.keys() - wanted.keys()):
        raise WeightsError(
            f"'{file}' has {len(more)} tensors that {network} has not, the first is '{more[0]}'. {where}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            came, fits = (tuple(it.shape) for it in (tensor, wanted[name]))
            raise WeightsError(f"'{file}': '{name}' is of shape {came}, and {fits} fits its config. {where}")
    return tensors


def is_file(name: str) -> bool:
    """Whether a name is that of one file of weights, not of a folder or repository.

    >>> is_file("./dreamshaper_8.safetensors"), is_file("stable-diffusion-v1-5/stable-diffusion-v1-5")
    (True, False)
    """
    return name.endswith(SUFFIXES)


def keys_of(file: Path) -> list[str]:
    """The names of all tensors in a file. Raises WeightsError as `opened`."""
    if file.suffix != ".safetensors":
        return list(opened(file))
    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def opened(file: Path, only: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors in a file by name, in the precision in which they lie there; `only` those, if they are named.

    A pickle can run any code when it is opened, so it is opened by torch's own reader of tensors, which refuses all
    else; of what checkpoints wrap around their tensors (`WRAPS`, `module.`), nothing is left.

    Raises WeightsError for a file that is damaged or holds more than tensors.
    """
    if file.suffix != ".safetensors":
        found = _unwrapped(_unpickled(file))
        return found if only is None else {name: found[name] for name in only}
    try:
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys() if only is None else only
            return {name: tensors.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def header(file: Path) -> dict[str, Any]:
    """What a .safetensors file says of itself, JSON values read; nothing for other files.

    >>> header(Path("a.ckpt"))
    {}
    """
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, framework="pt") as tensors:
        said: Mapping[str, str] = tensors.metadata() or {}
    return {key: _value(text) for key, text in said.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unpickled(file: Path) -> Any:
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of protocols that other writers of pickles use
            safe_globals([Namespace]),  # the options of a training, which often lie beside its tensors
        ):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except pickle.UnpicklingError as error:
        # What torch says of a pickle that makes no sense begins with advice to open it unsafely.
        raise _unsafe(file, str(error)) or _damaged(file, "it is no pickle of torch's") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise _damaged(file, error) from error


def _unsafe(file: Path, said: str) -> WeightsError | None:
    """What is said of a pickle that wants more than tensors; None if that is not what is wrong."""
    asks = re.search(r"(?:GLOBAL|function|class) ([\w.]+)", said)
    if asks is None:
        return None
    return WeightsError(
        f"'{file}' is a pickle that holds more than tensors (it asks for {asks[1]}), and opening it could run any code, so "
        "dovetail does not. Take the .safetensors of these weights; or, if you trust this file, convert it once, which runs what "
        f"it holds, and name the new one instead: python -c \"import torch, safetensors.torch as s; t = torch.load('{file}', "
        f"weights_only=False); [t := t[k] for k in {WRAPS} if t.get(k)]; s.save_file({{k.removeprefix('module.'): v.clone() for "
        "k, v in t.items() if "
        f"torch.is_tensor(v)}}, '{file.with_suffix('.safetensors').name}')\""
    )


def _unwrapped(found: Any) -> dict[str, Tensor]:
    """The tensors themselves: of a training's state, the averaged ones."""
    while isinstance(found, dict) and (inner := [found[key] for key in WRAPS if _items(found.get(key))]):
        found = inner[0]
    tensors = {str(name): part for name, part in _items(found) if isinstance(part, Tensor)}
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _items(found: Any) -> list[tuple[Any, Any]]:
    return list(found.items()) if isinstance(found, dict) else []


def _damaged(file: Path, error: Exception | str) -> WeightsError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return WeightsError(
        f"'{file}' cannot be read as weights ({said}); it may be cut short, or a pointer to a large file, so fetch it again"
    )
