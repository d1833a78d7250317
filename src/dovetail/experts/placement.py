"""Precision and placement by name."""

import torch

from dovetail.errors import RecipeError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """float32, bfloat16 or float16. Raises RecipeError for any other word."""
    if name not in DTYPES:
        raise RecipeError(f"unknown dtype '{name}'; {nearest(name, DTYPES)}")
    return DTYPES[name]


def device_of(name: str) -> torch.device:
    """A torch device that is there; "auto" is cuda if there is one, else the CPU.

    Raises RecipeError for a word that is no device, or a device that is absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"unknown device '{name}'; for example: cpu, cuda, cuda:1, mps") from error
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(device.type, False):
        raise RecipeError(f"device '{name}' is not available on this machine; cpu always is")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise RecipeError(
            f"device '{name}' is not available: this machine has {torch.cuda.device_count()} cuda device(s)"
        )
    return device
