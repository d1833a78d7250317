"""How much memory each part of a run needs on its device, and how it is made to fit: before anything is loaded.

What is given up comes in this order, and none of it before it must: everyone on the device always; rows, frames and
cells at once; an expert in one piece. Design page: docs/decisions/0021-memory.md.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dovetail.errors import RoomError, RoomWarning
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import leaves
from dovetail.recipe.planning import Plan
from dovetail.recipe.planning import plan as planned
from dovetail.run.bridging import crossing, rooms_of
from dovetail.run.outlook import check_outlook, latent_of, outlook, space_foreseen, spaces_foreseen
from dovetail.run.sizes import Decoder, Sizes, check_configs, filled, outlines, sizes

if TYPE_CHECKING:
    from dovetail.experts.outline import Outline

SPARE = 16
"""One part in so many of a device's memory is left for what is not counted."""


@dataclass(frozen=True)
class Part:
    """Bytes on the device at most, in one part of a run: weights, what networks work in, what they are shown and
    answer."""

    name: str
    weights: int
    activations: int = 0
    latents: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.latents


@dataclass(frozen=True)
class Fit:
    """How a run is made to fit. here: who is on the device during each turn; None is everyone, always.

    batches, chunks, tiles: less at once than asked, by expert and by codec; grouped: experts whose blocks come in
    turns; parts: of the run, with what they need; reads_at_home: texts are read on the CPU; short: what does not fit
    whatever is done, and where. sizes: bytes of each that comes and goes; rooms: bytes for all of them, by whom a turn
    asks.
    """

    here: tuple[frozenset[str], ...] | None
    parts: tuple[Part, ...]
    budget: int | None = None
    batches: Mapping[str, int] = field(default_factory=dict)
    grouped: frozenset[str] = frozenset()
    chunks: Mapping[str, int] = field(default_factory=dict)
    tiles: Mapping[str, int] = field(default_factory=dict)
    reads_at_home: bool = False
    short: Part | None = None
    sizes: Mapping[str, int] = field(default_factory=dict, repr=False)
    rooms: Mapping[frozenset[str], int] = field(default_factory=dict, repr=False)

    def during(self, asked: Sequence[frozenset[str]], residency: str) -> tuple[frozenset[str], ...]:
        """Who is on the device during other turns of the same run, or of several."""
        from dovetail.experts.residency import timetable, within

        if not self.rooms or residency == "turns":
            return timetable(asked, "ahead" if residency == "all" else residency)
        # A turn that the plan did not foresee has room for nobody but whom it asks.
        return within(asked, self.sizes, [self.rooms.get(names, 0) for names in asked])

    @property
    def given_up(self) -> tuple[str, ...]:
        """What is done so that it fits, in words."""
        found = ["texts are read on the CPU"] if self.reads_at_home else []
        found += ["experts and codec come in turns"] if self.here is not None else []
        found += [f"{name} sees {rows} row{'s' * (rows > 1)} at once" for name, rows in self.batches.items()]
        found += [f"the blocks of {name} come one after another" for name in sorted(self.grouped)]
        found += [f"{_the(name)} is given {n} frame{'s' * (n > 1)} at once" for name, n in self.chunks.items()]
        return (*found, *(f"{_the(name)} is given tiles of {n} cells a side" for name, n in self.tiles.items()))

    def checked(self, recipe: Recipe) -> "Fit":
        """Itself; raises RoomError if the recipe's run does not fit."""
        from dovetail.run.lessening import less

        if self.short is None or self.budget is None:
            return self
        part = self.short
        what = (
            f"at least {said_bytes(part.total)} (weights {said_bytes(part.weights)}, what networks work in {said_bytes(part.activations)}, latents "
            f"{said_bytes(part.latents)})"
        )
        raise RoomError(
            f"part '{part.name}' of the run",
            what,
            f"a device with {said_bytes(self.budget)} to fill",
            less=less(recipe, self.budget),
        )


def _the(codec: str) -> str:
    """A codec's name in a sentence."""
    return f"the {codec.strip('()')}"


def said_bytes(size: int) -> str:
    """Bytes in words: gigabytes, or megabytes where it is little."""
    return f"{size / 1e9:.2f} GB" if size >= 5e6 else f"{size / 1e6:.2f} MB"


def budget_of(recipe: Recipe) -> int | None:
    """Bytes that a run may fill: of what the recipe says that the device has, or of what is free there; None on a CPU
    that nothing is said of."""
    if recipe.vram is not None:
        return fillable(models.memory(recipe.vram))
    device = filled(recipe)
    return fillable(free_on(device)) if device is not None and device.startswith("cuda") else None


def fillable(whole: int) -> int:
    """Bytes of a device's memory that a run may fill: all but a sixteenth."""
    return whole - whole // SPARE


def free_on(cuda: str) -> int:
    """Bytes that are free on a CUDA device. Raises RecipeError for one that is absent."""
    from dovetail.experts.placement import device_of

    device = device_of(cuda)
    # What torch was given back and keeps, another run in this process takes.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def foreseen(recipe: Recipe, notes: list[str]) -> Plan:
    """The plan of a recipe whose weights are not loaded; adds notes of what is a guess. Raises what `check_outlook` and
    `check_configs` raise, before anything is counted, and what planning raises."""
    check_outlook(recipe)
    check_configs(recipe, recipe.experts)
    cast = {name: outlook(name, spec, notes) for name, spec in recipe.experts.items()}
    rooms = rooms_of(recipe, spaces_foreseen(recipe, notes)) if recipe.bridged else {}
    last = recipe.chain[-1].stage
    latent = rooms[last].latent if rooms else latent_of(recipe, space_foreseen(recipe, notes))
    return planned(recipe, cast, notes, latent, rooms)


def fitted(recipe: Recipe) -> Fit | None:
    """How a recipe's run is made to fit on its device; None where nothing is known of that device's memory.

    Raises RoomError for a run that cannot fit, and what planning raises. Warns with RoomWarning of an expert whose size
    nothing tells.
    """
    if (budget := budget_of(recipe)) is None:
        return None
    plan, notes = foreseen(recipe, []), list[str]()
    known = outlines(recipe, notes, plan.counts)
    for note in notes:
        warnings.warn(note, RoomWarning, stacklevel=2)
    return fit(plan, known, budget).checked(recipe)


def fit(plan: Plan, known: Mapping[str, "Outline"], budget: int | None) -> Fit:
    """How a plan's run is made to fit in so many bytes; without a budget, as the recipe says."""
    from dovetail.experts.residency import timetable, within

    recipe, asked, now = plan.recipe, whom(plan), _Now.of(plan.recipe, sizes(plan, known))
    every = frozenset(now.weights)
    if budget is None:
        here = None if recipe.residency == "all" else timetable(asked, recipe.residency)
        return now.fit(plan, asked, here, None)
    if recipe.residency == "all" and now.most([every] * len(asked), asked) <= budget:
        here = None
    else:
        now.lessen(asked, budget)
        room = {names: now.room(names, budget) for names in dict.fromkeys(asked)}
        each = [room[names] for names in asked]
        here = timetable(asked, "turns") if recipe.residency == "turns" else within(asked, now.moving, each)
    return now.fit(plan, asked, here, budget)


def whom(plan: Plan, pieces: int = 0, taken: int = 0) -> tuple[frozenset[str], ...]:
    """Whom each turn asks after so many pieces and steps: a step its experts, and the codecs of a bridge that video
    comes over before it; a piece that is finished the video's codec."""
    from dovetail.experts.residency import turns

    codecs = crossing(plan)
    asked = [names | codecs.get(step, frozenset()) for step, names in enumerate(plan.asked)]
    return turns(asked, [steps for steps, _ in plan.pieces], pieces, taken)


@dataclass
class _Now:
    """What is done at once, as far as it has been lessened. stays: experts that never leave the device; undivided:
    those whose blocks cannot come in turns."""

    sizes: Sizes
    batches: dict[str, int]
    grouped: set[str]
    decoders: dict[str, Decoder]
    stays: frozenset[str]
    undivided: frozenset[str]

    @classmethod
    def of(cls, recipe: Recipe, asked: Sizes) -> "_Now":
        """All at once that is asked for."""
        from dovetail.experts.tuning import Tuning

        spec = {
            n: spec for n, spec in recipe.experts.items() if n in asked.weights and isinstance(spec, models.Pretrained)
        }
        stays = frozenset(name for name, one in spec.items() if Tuning(quantize=one.quantize).stays)
        changed = {leaf.expert for s in recipe.chain for leaf in leaves(s.denoise) if leaf.skip or leaf.reuse}
        grouped = {name for name, one in spec.items() if one.offload}
        return cls(asked, dict(asked.batches), grouped, dict(asked.decoders), stays, stays | changed)

    @property
    def weights(self) -> dict[str, int]:
        kept = {name: self.sizes.grouped[name] if name in self.grouped else w for name, w in self.sizes.weights.items()}
        return {**kept, **self.sizes.codecs}

    def work(self, names: frozenset[str]) -> tuple[int, int]:
        """What those work in whom a turn asks, one after another, and their latents."""
        return max((self._works(name) for name in names), key=sum, default=(0, 0))

    def _works(self, name: str) -> tuple[int, int]:
        """The same of one expert or codec."""
        if name in self.batches:
            return self.sizes.work(name, self.batches[name])
        return (self.decoders[name].work, 0) if name in self.decoders else (0, 0)

    def held(self, names: frozenset[str]) -> int:
        """Weights on the device where these are, and those that never leave it."""
        weights = self.weights
        return sum(weights.get(name, 0) for name in names | self.stays)

    @property
    def moving(self) -> dict[str, int]:
        """Weights that come and go."""
        return {name: size for name, size in self.weights.items() if name not in self.stays}

    def room(self, names: frozenset[str], budget: int) -> int:
        """What a turn leaves for these."""
        return budget - sum(self.work(names)) - self.held(frozenset())

    def most(self, here: Sequence[frozenset[str]], asked: Sequence[frozenset[str]]) -> int:
        """The most there is at once, if these are there; texts are read before."""
        turns = dict.fromkeys(zip(here, asked, strict=True))
        each = (self.held(there) + sum(self.work(names)) for there, names in turns)
        return max([*each, self.held(here[0]) + sum(self.sizes.text)])

    def lessen(self, asked: Sequence[frozenset[str]], budget: int) -> None:
        """Do less at once until each turn fits, as far as it can. Where weights alone are too much, nothing but blocks
        in turns makes room."""
        for names in dict.fromkeys(asked):
            while (held := self.held(names)) + sum(self.work(names)) > budget:
                if not ((held > budget and self._group(names)) or self._less(names) or self._group(names)):
                    break

    def _less(self, names: frozenset[str]) -> bool:
        """Do less at once in a turn, of the one that works in the most. Whether that could be done."""
        largest = max(sorted(names), key=lambda name: sum(self._works(name)))
        if largest in self.batches and (rows := min(self.batches[largest], self._rows(largest))) > 1:
            self.batches[largest] = rows // 2
            return True
        if largest in self.decoders and (less := self.decoders[largest].less) is not None:
            self.decoders[largest] = less
            return True
        return False

    def _group(self, names: frozenset[str]) -> bool:
        """Let the blocks of the largest expert of a turn come one after another. Whether that could be done."""
        whole = (names & self.batches.keys()) - self.grouped - self.undivided
        if not whole:
            return False
        self.grouped.add(max(whole, key=lambda name: self.sizes.weights[name]))
        return True

    def _rows(self, name: str) -> int:
        return max(self.sizes.looks.get(name, {}).values(), default=1)

    def fit(
        self,
        plan: Plan,
        asked: Sequence[frozenset[str]],
        here: tuple[frozenset[str], ...] | None,
        budget: int | None,
    ) -> Fit:
        """What came of it, part by part."""
        parts = self._parts(plan, asked, here)
        at_home = budget is not None and parts[0].total > budget
        if at_home:
            parts = (Part("text", 0), *parts[1:])
        over = [part for part in parts if budget is not None and part.total > budget]
        lower = {name: rows for name, rows in self.batches.items() if rows < self.sizes.batches[name]}
        was = self.sizes.decoders
        chunks = {name: now.chunk for name, now in self.decoders.items() if now.chunk < was[name].chunk}
        tiles = {name: now.tiles for name, now in self.decoders.items() if now.tiles and now.tiles != was[name].tiles}
        short = max(over, key=lambda part: part.total, default=None)
        rooms = {} if budget is None else {names: self.room(names, budget) for names in dict.fromkeys(asked)}
        return Fit(
            here, parts, budget, lower, frozenset(self.grouped), chunks, tiles, at_home, short, self.moving, rooms
        )

    def _parts(
        self, plan: Plan, asked: Sequence[frozenset[str]], here: tuple[frozenset[str], ...] | None
    ) -> tuple[Part, ...]:
        from dovetail.experts.residency import CODEC, DECODING

        every = frozenset(self.weights)
        base = self.held(every if here is None else frozenset())
        names = iter(name for name, *_ in plan.steps)
        # No stage is called as a codec is.
        keys = [CODEC if who == DECODING else next(names) for who in asked]
        found: dict[str, Part] = {}
        for key, who, there in dict.fromkeys(
            zip(keys, asked, [every] * len(asked) if here is None else here, strict=True)
        ):
            each = Part("decode" if key == CODEC else key, self.held(there), *self.work(who))
            found[key] = max(each, found.get(key, each), key=lambda one: one.total)
        return (Part("text", base + self.sizes.text[0], self.sizes.text[1]), *found.values())
