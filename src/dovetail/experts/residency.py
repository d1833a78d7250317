"""Which expert is on the device when, and the codec.

A plan knows before a run whom each turn asks (a step asks experts, a piece that is decoded asks the codec), so who is
where is a timetable and no cache: experts come before the turn that asks them, and go when none of the next turns does.
With "ahead", the ones that the next turn adds come while this one is taken. Design pages:
docs/decisions/0014-residency.md and 0021-memory.md.
"""

import warnings
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from dovetail.core.denoiser import Expert
from dovetail.errors import RoomError, RoomWarning
from dovetail.experts.adapter import Adapter
from dovetail.experts.codec import Codec, VideoCodec
from dovetail.experts.halving import is_short, released, told
from dovetail.experts.moving import Passenger, Weights, in_groups, visiting
from dovetail.experts.text import Borrowed, borrowed_of

Names = frozenset[str]


def timetable(asked: Sequence[Collection[str]], residency: str) -> tuple[Names, ...]:
    """Who is on the device during each step.

    asked: whom each step may ask. residency: with "all" everyone is there always; with "turns" only those whom the step
    asks; with "ahead" these and those of the next step.

    >>> [sorted(here) for here in timetable(["L", "L", "S", "L"], "ahead")]
    [['L'], ['L', 'S'], ['L', 'S'], ['L']]
    """
    if residency == "all":
        return (frozenset().union(*asked),) * len(asked)
    if residency == "turns":
        return tuple(frozenset(names) for names in asked)
    return tuple(frozenset({*now, *after}) for now, after in pairwise([*asked, ()]))


CODEC = "(codec)"
"""The video's codec among the experts' names, of which none can be called so."""

DECODING: Names = frozenset({CODEC})
"""Whom a turn asks that makes frames of a finished piece of the video, and no other turn: codecs of a bridge are asked
in a step, beside its experts."""


def turns(asked: Sequence[Names], pieces: Sequence[int], done: int = 0, taken: int = 0) -> tuple[Names, ...]:
    """Whom each turn asks: a step its experts, a piece of video that is finished after it the codec.

    asked: whom each step asks. pieces: how many steps are taken when each piece is finished. done, taken: so many
    pieces and steps are there already, and what led to them is behind.

    >>> [sorted(names) for names in turns([frozenset("L"), frozenset("S")], [1, 2])]
    [['L'], ['(codec)'], ['S'], ['(codec)']]
    """
    found: list[Names] = []
    first = max(taken, pieces[done - 1] if done else 0)
    for stop in pieces[done:]:
        found += [*asked[first:stop], DECODING]
        first = max(first, stop)
    return (*found, *asked[first:])


def within(asked: Sequence[Names], sizes: Mapping[str, int], room: Sequence[int]) -> tuple[Names, ...]:
    """Who is on the device during each turn where not all fit: whom it asks; then of those who were there, and of those
    whom the next turn asks, whoever is asked soonest, as long as they fit.

    sizes: bytes of each. room: bytes for all of them in each turn; whom it asks is there in any case.

    >>> here = within([frozenset(name) for name in "LLSL"], {"L": 6, "S": 3}, [10, 10, 10, 10])
    >>> ["".join(sorted(names)) for names in here]
    ['L', 'LS', 'LS', 'L']
    """
    found: list[Names] = []
    here: Names = frozenset()
    for turn, names in enumerate(asked):
        after = asked[turn + 1] if turn + 1 < len(asked) else frozenset()
        left = room[turn] - sum(sizes.get(name, 0) for name in names)
        kept = set(names)
        later = [(_next(asked, turn, name), name) for name in (here | after) - names]
        for _, name in sorted((when, name) for when, name in later if when is not None):
            if sizes.get(name, 0) <= left:
                kept.add(name)
                left -= sizes.get(name, 0)
        here = frozenset(kept)
        found.append(here)
    return tuple(found)


def _next(asked: Sequence[Names], turn: int, name: str) -> int | None:
    """The next turn that asks this one."""
    return next((later for later in range(turn + 1, len(asked)) if name in asked[later]), None)


def switches(asked: Sequence[Collection[str]]) -> int:
    """How often a step asks others than the step before it.

    >>> switches("LLSSL")
    2
    """
    return sum(set(before) != set(after) for before, after in pairwise(asked))


@dataclass(frozen=True)
class Platform:
    """Passengers by name."""

    passengers: Mapping[str, Passenger]

    def during(self, asked: Sequence[Collection[str]], residency: str | Sequence[Names]) -> Generator[None, None, None]:
        """Each yield begins a turn, and everyone whom it asks is there. Nobody is left at the end, nor when the
        generator is closed before. residency: as `timetable`'s, or who is there during each turn.

        Those who come ahead come on a thread beside the turn under way; the turn that asks them waits for them.
        Raises RoomError for one that does not fit.
        """
        known_by_turn = timetable(asked, residency) if isinstance(residency, str) else residency
        coming: dict[str, Future[None]] = {}
        here: set[str] = set()
        with ThreadPoolExecutor(1) as lane:
            try:
                for now, known in zip(asked, known_by_turn, strict=True):
                    wait([coming[name] for name in now if name in coming])
                    self._go(here - known)
                    here &= known
                    for name in sorted(set(now) - here):
                        self._arrived(name, coming.pop(name, None))
                        here.add(name)
                    # Who is not asked yet comes while this step is taken.
                    coming |= {name: lane.submit(self._ahead, name) for name in sorted(known - here - coming.keys())}
                    yield
            finally:
                self._go({*here, *(name for name, future in coming.items() if future.exception() is None)})

    def _arrived(self, name: str, coming: Future[None] | None) -> None:
        """Have a passenger here. One that found no room while others left, finds it now, or nowhere."""
        try:
            if coming is not None:
                coming.result()
                return
        except RuntimeError as error:
            if not is_short(error):
                raise
        device = getattr(self.passengers[name], "device", torch.device("cpu"))
        try:
            released(device)
            self.passengers[name].come()
        except RuntimeError as error:
            if not is_short(error):
                raise
            who = f"the {name.strip('()')}" if name.startswith("(") else f"expert '{name}'"
            raise RoomError(who, f"{_gigabytes(self.passengers[name])}its weights", told(device)) from None

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


def _gigabytes(passenger: Passenger) -> str:
    return f"{passenger.bytes / 1e9:.1f} GB, " if isinstance(passenger, Weights) else ""


def passengers(
    experts: Mapping[str, Expert], codec: Any = None, others: Mapping[str, Any] | None = None
) -> dict[str, Passenger]:
    """The experts that come and go, the codec, and `others` by name: networks with weights, and any other that has
    `come` and `go` itself.

    A network whose blocks come in turns is brought by nobody else; one that cannot be moved stays.
    """
    found: dict[str, Passenger] = {}
    networks: dict[str, Any] = {name: expert.network for name, expert in experts.items()}
    for name, network in {**networks, CODEC: codec, **(others or {})}.items():
        if isinstance(network, Adapter | Codec | VideoCodec) and not (network.stays or in_groups(network.module)):
            found[name] = Weights.of(network.module, network.device)
        elif isinstance(network, Passenger):
            found[name] = network
    return found


def read(experts: Mapping[str, Expert], said: Mapping[str, Sequence[str]], at_home: bool = False) -> tuple[str, ...]:
    """Have experts read their texts; what did not fit on the device, in words. Each text model is there only meanwhile,
    once for all experts that share it; `at_home`, it stays and reads in the computer's memory.

    Then the text models of all experts are given back. One is loaded again for a text that is not among these, when it
    is read.
    """
    asked = [(experts[name].network, texts) for name, texts in said.items() if name in experts]
    adapters = [(network, texts) for network, texts in asked if isinstance(network, Adapter)]
    short = []
    for text in {id(network.text): network.text for network, texts in adapters if network.unread(texts)}.values():
        sharing = [(network, texts) for network, texts in adapters if network.text is text]
        lent = None if at_home else borrowed_of(sharing[0][0])
        short += _reading(sharing, lent, sharing[0][0].device)
    for lent in borrowed(experts):
        lent.give_back()
    return tuple(short)


def borrowed(experts: Mapping[str, Expert]) -> Iterator[Borrowed]:
    """The text models of experts that have one."""
    for expert in experts.values():
        if (lent := borrowed_of(expert.network)) is not None:
            yield lent


def _reading(
    sharing: Sequence[tuple[Adapter, Sequence[str]]], lent: Borrowed | None, device: torch.device
) -> list[str]:
    """Read with a text model on the device; where it does not fit there, in the computer's memory, which is said."""
    try:
        with visiting(Weights.of(lent.network, device)) if lent is not None else nullcontext():
            for network, texts in sharing:
                network.read(texts)
        return []
    except RuntimeError as error:
        if not is_short(error):
            raise
    released(device)
    message = f"expert '{sharing[0][0].name}': its text model did not fit in the memory of {told(device)} and reads on the CPU"
    warnings.warn(message, RoomWarning, stacklevel=3)
    for network, texts in sharing:
        network.read(texts)
    return [message]
