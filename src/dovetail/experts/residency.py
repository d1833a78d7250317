"""Which expert is on the device when.

A plan knows before a run whom each step asks, so who is where is a timetable and no cache: experts come before the step
that asks them, and go when none of the next steps does. With "ahead", the ones that the next step adds come while this
step is taken. Design page: docs/decisions/0014-residency.md.
"""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dovetail.core.denoiser import Expert
from dovetail.experts.adapter import Adapter

Names = frozenset[str]


def timetable(asked: Sequence[Collection[str]], residency: str) -> tuple[Names, ...]:
    """Who is on the device during each step.

    asked: whom each step may ask. residency: "all" are there always, or only those whose "turns" it is, or these and,
    "ahead" of a change, those of the next step.

    >>> [sorted(here) for here in timetable(["L", "L", "S", "L"], "ahead")]
    [['L'], ['L', 'S'], ['L', 'S'], ['L']]
    """
    if residency == "all":
        return (frozenset().union(*asked),) * len(asked)
    if residency == "turns":
        return tuple(frozenset(names) for names in asked)
    return tuple(frozenset({*now, *after}) for now, after in pairwise([*asked, ()]))


def most(here: Sequence[Collection[str]], sizes: Mapping[str, int]) -> int:
    """The most bytes that are on the device at once."""
    return max((sum(sizes.get(name, 0) for name in names) for names in here), default=0)


def switches(asked: Sequence[Collection[str]]) -> int:
    """How often a step asks others than the step before it.

    >>> switches("LLSSL")
    2
    """
    return sum(set(before) != set(after) for before, after in pairwise(asked))


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
        copy = tensor.detach().to(self.device, non_blocking=True)
        return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy

    def go(self) -> None:
        for table, name, tensor in self.home:
            table[name] = tensor


@dataclass(frozen=True)
class Platform:
    """Passengers by name."""

    passengers: Mapping[str, Passenger]

    def during(self, asked: Sequence[Collection[str]], residency: str) -> Generator[None, None, None]:
        """Each yield begins a step, and everyone whom it asks is there. Nobody is left at the end, nor when the
        generator is closed before.

        Those who come ahead come on a thread beside the step under way; the step that asks them waits for them.
        """
        coming: dict[str, Future[None]] = {}
        here: set[str] = set()
        with ThreadPoolExecutor(1) as lane:
            try:
                for now, known in zip(asked, timetable(asked, residency), strict=True):
                    self._go(here - known)
                    here &= known
                    for name in sorted(set(now) - here):
                        coming.pop(name).result() if name in coming else self.passengers[name].come()
                        here.add(name)
                    # Who is not asked yet comes while this step is taken.
                    coming |= {name: lane.submit(self._ahead, name) for name in sorted(known - here - coming.keys())}
                    yield
            finally:
                self._go({*here, *(name for name, future in coming.items() if future.exception() is None)})

    def _go(self, names: Collection[str]) -> None:
        # No work on a device still reads them: a step has ended once its answer was found finite.
        for name in sorted(names):
            self.passengers[name].go()

    def _ahead(self, name: str) -> None:
        """Bring a passenger on a stream of its own, so that the step under way goes on meanwhile."""
        device: Any = getattr(self.passengers[name], "device", None)
        if not isinstance(device, torch.device) or device.type != "cuda":
            self.passengers[name].come()
            return
        with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
            self.passengers[name].come()
            torch.cuda.current_stream(device).synchronize()


@contextmanager
def visiting(passenger: Passenger) -> Iterator[None]:
    """A passenger that is there for the length of a block."""
    passenger.come()
    try:
        yield
    finally:
        passenger.go()


def interleaved(asked: Sequence[Names], runs: int) -> Iterator[tuple[int, int]]:
    """(run, step) of several runs of one plan, in the order that changes experts least: each stretch of steps that asks
    the same experts is walked by all runs before the next.

    >>> list(interleaved([frozenset("L"), frozenset("S"), frozenset("S")], 2))
    [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
    """
    changes = [0, *(k for k in range(1, len(asked)) if asked[k] != asked[k - 1]), len(asked)]
    for start, stop in pairwise(changes):
        for run in range(runs):
            for step in range(start, stop):
                yield run, step


def passengers(experts: Mapping[str, Expert]) -> dict[str, Passenger]:
    """The experts that come and go: networks with weights, and any other network that has `come` and `go` itself."""
    found: dict[str, Passenger] = {}
    for name, expert in experts.items():
        network: Any = expert.network
        if isinstance(network, Adapter):
            found[name] = Weights.of(network.module, network.device)
        elif isinstance(network, Passenger):
            found[name] = network
    return found


def read(experts: Mapping[str, Expert], said: Mapping[str, Sequence[str]]) -> None:
    """Show experts their texts; each text model is on the device for that long, once for all that share it.

    A text that is not among them is read later, wherever the text model is then.
    """
    adapters = [(experts[name].network, texts) for name, texts in said.items() if name in experts]
    known = [(network, texts) for network, texts in adapters if isinstance(network, Adapter)]
    for text in {id(network.text): network.text for network, _ in known}.values():
        sharing = [(network, texts) for network, texts in known if network.text is text]
        encoder = getattr(text, "encoder", None)
        with visiting(Weights.of(encoder, sharing[0][0].device)) if encoder is not None else nullcontext():
            for network, texts in sharing:
                network.read(texts)
