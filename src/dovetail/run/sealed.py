"""Files that say whether they are whole: tensors under a checksum, text under a checksum, written whole or not at all.

What does not fit its checksum is a `DamagedError`, and is never used.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dovetail.errors import OutputError
from dovetail.experts.moving import inside
from dovetail.video.places import settled


class DamagedError(Exception):
    """A file is not there, or is not what was written: which, and what is wrong with it."""


def put(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; once this returns it outlives a loss of power. Raises OutputError."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        settled(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise unwritten(path, error) from None


def unwritten(path: Path, error: OSError) -> OutputError:
    """The error to raise for a file of a run that could not be written; a full disk says what to do."""
    folder = path.parent.parent if path.parent.name in ("latents", "states") else path.parent
    on = f"then go on with `dovetail resume {folder}`"
    if error.errno == errno.EFBIG:
        return OutputError(
            f"cannot write {path}: a file here may be no larger. All that was finished is kept; raise that limit (ulimit -f, "
            f"or that of the file system), {on}"
        )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"cannot write {path}: {error.strerror or error}")
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free / 2**20
        return OutputError(
            f"the disk is full ({free:.1f} MB free): cannot write {path}. All that was finished is kept; make room, {on}"
        )
    return OutputError(f"the disk is full: cannot write {path}")


def sealed_tensors(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> bytes:
    """A safetensors file with tensors, what is said of them, and the checksum of both."""
    text = json.dumps(said, sort_keys=True)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One key, as safetensors does not keep the order of several, and the same content is to be the same bytes.
    return save(whole, {"sealed": f"{_checksum(whole, text)} {text}"})


def opened(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `sealed_tensors` was given. Raises DamagedError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{_short(path)}: {error}") from None
    digest, _, text = metadata.get("sealed", "").partition(" ")
    if digest != _checksum(tensors, text):
        raise DamagedError(f"{_short(path)}: its checksum is another")
    said: dict[str, Any] = json.loads(text)
    return tensors, said


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        _add(found, name, tensors[name])
    return found.hexdigest()


def _add(found: Any, name: str, tensor: Tensor) -> None:
    found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def fingerprint(module: nn.Module) -> str:
    """A sha256 of a network's weights as they are in memory."""
    found = hashlib.sha256()
    for key, weight in module.state_dict().items():
        for name, tensor in inside(weight, key):
            _add(found, name, tensor)
    return found.hexdigest()


def sealed_json(said: Mapping[str, Any]) -> bytes:
    """JSON to read, with its own checksum as the last key."""
    text = json.dumps({**said, "sha256": _digest(said)}, indent=2)
    return f"{text}\n".encode()


def read_json(path: Path) -> dict[str, Any]:
    """What `sealed_json` was given. Raises DamagedError."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path.name}: {error}") from None
    if not isinstance(said, dict) or said.pop("sha256", None) != _digest(said):
        raise DamagedError(f"{path.name}: its checksum is another")
    return said


def _digest(said: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(said, sort_keys=True))


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


SEAL = "# sha256 of the lines above: "


def sealed_text(text: str) -> bytes:
    """Text of any language in which # begins a comment, with its checksum in the last line."""
    return f"{text}{SEAL}{digest_of(text)}\n".encode()


def read_text(path: Path) -> str:
    """What `sealed_text` was given. Raises DamagedError."""
    try:
        text, seal, digest = path.read_bytes().decode().rpartition(SEAL)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path.name}: {error}") from None
    if not seal or digest.strip() != digest_of(text):
        raise DamagedError(f"{path.name}: its checksum is another")
    return text
