"""What comes to a device and goes again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@runtime_checkable
class Passenger(Protocol):
    """What comes to a device and goes again."""

    def come(self) -> None: ...
    def go(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Weights:
    """A module that waits in the computer's memory. Its weights do not change, so going copies nothing back.

    home: where each tensor is held (a part's table and its name there), and the tensor.
    """

    module: nn.Module = field(repr=False)
    device: torch.device
    home: tuple[tuple[dict[str, Any], str, Tensor], ...] = field(repr=False)

    @classmethod
    def of(cls, module: nn.Module, device: torch.device) -> "Weights":
        """A module as it is now, home where it is."""
        tables: list[dict[str, Any]] = [t for part in module.modules() for t in (part._parameters, part._buffers)]
        held = [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]
        return cls(module, device, tuple(held))

    def come(self) -> None:
        # All are copied before the first is put in place: where there is no room, nothing has moved. A tensor that
        # stands in several places is copied once.
        there = {id(tensor): tensor for _, _, tensor in self.home}
        there = {key: self._copied(tensor) for key, tensor in there.items()}
        for table, name, tensor in self.home:
            table[name] = there[id(tensor)]

    def _copied(self, tensor: Tensor) -> Tensor:
        # On Apple's MPS a copy that is not waited for may hold other numbers (pytorch/pytorch#139550, #189690).
        copy = tensor.detach().to(self.device, non_blocking=self.device.type == "cuda")
        return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy

    def go(self) -> None:
        for table, name, tensor in self.home:
            table[name] = tensor

    @property
    def bytes(self) -> int:
        """What is copied when it comes."""
        held = {id(tensor): tensor for _, _, tensor in self.home}.values()
        return sum(inner.nbytes for tensor in held for _, inner in inside(tensor))


def inside(tensor: Tensor, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that one really is, with names that begin with its own: of a quantised weight, whose size and kind are
    those of what it stands for, the numbers and their scales; of any other, itself.

    >>> [(name, inner.shape) for name, inner in inside(torch.zeros(2), "weight")]
    [('weight', torch.Size([2]))]
    """
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for part in names:
        yield from inside(getattr(tensor, part), f"{name}.{part}")


@contextmanager
def visiting(passenger: Passenger) -> Iterator[None]:
    """A passenger that is there for the length of a block."""
    passenger.come()
    try:
        yield
    finally:
        passenger.go()


@contextmanager
def present(module: nn.Module, device: torch.device) -> Iterator[None]:
    """A module that is on its device for the length of a block, if it is not there anyway."""
    weight = next(module.parameters(), None)
    # Weights on the meta device are brought by hooks of accelerate's, layer by layer.
    if weight is None or weight.device.type in (device.type, "meta") or in_groups(module):
        yield
        return
    with visiting(Weights.of(module, device)):
        yield


def in_groups(module: nn.Module) -> bool:
    """Whether hooks of diffusers' group offloading bring its layers (see `tuning.offload`). They know each tensor, so none may be replaced."""
    hooks = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    return any(hook is not None and hook.get_hook("group_offloading") is not None for hook in hooks)
