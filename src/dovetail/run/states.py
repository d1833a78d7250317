"""Where a run stands, as tensors and plain data, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor

from dovetail.core.path import Split
from dovetail.core.sampler import Carrying, State
from dovetail.core.stages import Done, Memory, Part, Said, Segment
from dovetail.methods.probing import Lead
from dovetail.methods.settling import Accord

KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Memory, Done, Segment, Part, Said, State, Split, Carrying, Lead, Accord)
}
"""What a memory is made of; the last two are carries, with which walks leave their states."""


@dataclass(frozen=True, eq=False)
class Standing:
    """Where a run stands after a piece: what its chain needs to go on, and what has been done up to there.

    memory: the chain's; None before the first piece. pieces, frames: how many there are, in latent frames. steps: how
    many each stage has taken. calls: how often each expert was asked. seconds: in all; networks: in them and the codec.
    less: what was done with less at once than asked, for lack of memory (see `Lessened`).
    """

    memory: Memory | None = field(default=None, repr=False)
    pieces: int = 0
    frames: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    networks: float = 0.0
    less: tuple[str, ...] = ()


NUMBERS = ("pieces", "frames", "steps", "calls", "seconds", "networks", "less")


def packed(standing: Standing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors by name, and all else as plain data."""
    tensors: dict[str, Tensor] = {}
    numbers = {name: getattr(standing, name) for name in NUMBERS}
    numbers |= {"steps": dict(standing.steps), "calls": dict(standing.calls), "less": list(standing.less)}
    return tensors, {**numbers, "memory": _plain(standing.memory, "memory", tensors)}


def unpacked(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Standing:
    """What was packed."""
    numbers = {name: said[name] for name in NUMBERS if name != "less"}
    return Standing(_value(said["memory"], tensors), **numbers, less=tuple(said.get("less", ())))


def _plain(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A value without its tensors, which are put aside under their path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, tuple):
        return [_plain(part, f"{path}.{i}", tensors) for i, part in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        of = {one.name: _plain(getattr(value, one.name), f"{path}.{one.name}", tensors) for one in fields(value)}
        return {"kind": type(value).__name__, "of": of}
    return value


def _value(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return tuple(_value(part, tensors) for part in plain)
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        return tensors[plain["tensor"]]
    return KINDS[plain["kind"]](**{name: _value(part, tensors) for name, part in plain["of"].items()})
