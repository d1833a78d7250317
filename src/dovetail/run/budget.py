"""How much memory each part of a run needs on its device, and how it is made to fit: before anything is loaded.

What is given up comes in this order, and none of it before it must: everyone on the device always; rows, frames and cells
at once; an expert in one piece. Design page: docs/decisions/0021-memory.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from dovetail.errors import RoomError, WeightsError
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import Look, Plan
from dovetail.recipe.build import plan as planned
from dovetail.run.outlook import latent_of, outlook, space_foreseen

if TYPE_CHECKING:
    from dovetail.experts.outline import Outline

SPARE = 16
"""One part in so many of a device's memory is left for what is not counted."""


@dataclass(frozen=True)
class Part:
    """Bytes on the device at most, in one part of a run: weights, what networks work in, what they are shown and answer."""

    name: str
    weights: int
    activations: int = 0
    latents: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.latents


@dataclass(frozen=True)
class Sizes:
    """What is known of a run's networks. weights: bytes by expert; grouped: of those that come in blocks; looks: what an
    expert is shown, in latents of its own shape, and rows of it at once at most; text: weights of the largest text model,
    and what it works in; codec: its weights."""

    outlines: Mapping[str, "Outline"]
    weights: Mapping[str, int]
    grouped: Mapping[str, int]
    looks: Mapping[str, Mapping[tuple[int, int, int, int], int]]
    batches: Mapping[str, int]
    text: tuple[int, int]
    codec: int

    def work(self, name: str, batch: int) -> tuple[int, int]:
        """What an expert works in, and what it is shown and answers, with so many rows at once."""
        from dovetail.experts.footprint import activations, latents

        it, found = self.outlines[name], (0, 0)
        for shape, rows in self.looks.get(name, {}).items():
            once = min(rows, batch)
            # Answers are joined on the device before they go back.
            each = activations(it, shape, once), latents(shape, once, it.size) + latents(shape, rows, 0)
            found = max(found, each, key=sum)
        return found


@dataclass(frozen=True)
class Fit:
    """How a run is made to fit. here: who is on the device during each turn; None is everyone, always.

    batches, chunk, tiles: less at once than asked; grouped: experts whose blocks come in turns; parts: of the run, with
    what they need; reads_at_home: texts are read on the CPU; short: what does not fit whatever is done, and where. sizes: bytes of each; rooms: bytes for all of
    them, by whom a turn asks.
    """

    here: tuple[frozenset[str], ...] | None
    parts: tuple[Part, ...]
    budget: int | None = None
    batches: Mapping[str, int] = field(default_factory=dict)
    grouped: frozenset[str] = frozenset()
    chunk: int | None = None
    tiles: int | None = None
    reads_at_home: bool = False
    short: Part | None = None
    sizes: Mapping[str, int] = field(default_factory=dict, repr=False)
    rooms: Mapping[frozenset[str], int] = field(default_factory=dict, repr=False)

    def during(self, asked: Sequence[frozenset[str]], residency: str) -> tuple[frozenset[str], ...]:
        """Who is on the device during other turns of the same run, or of several."""
        from dovetail.experts.residency import timetable, within

        if not self.rooms or residency == "turns":
            return timetable(asked, "ahead" if residency == "all" else residency)
        return within(asked, self.sizes, [self.rooms[names] for names in asked])

    @property
    def given_up(self) -> tuple[str, ...]:
        """What is done so that it fits, in words."""
        found = ["texts are read on the CPU"] if self.reads_at_home else []
        found += ["experts and codec come in turns"] if self.here is not None else []
        found += [f"{name} sees {rows} row{'s' * (rows > 1)} at once" for name, rows in self.batches.items()]
        found += [f"the blocks of {name} come one after another" for name in sorted(self.grouped)]
        found += [f"the codec is given {self.chunk} frame{'s' * (self.chunk > 1)} at once"] if self.chunk else []
        return (*found, *([f"the codec is given tiles of {self.tiles} cells a side"] if self.tiles else []))

    def checked(self) -> "Fit":
        """Itself; raises RoomError if the run does not fit."""
        if self.short is None or self.budget is None:
            return self
        part = self.short
        what = (
            f"at least {_gb(part.total)} (weights {_gb(part.weights)}, what networks work in {_gb(part.activations)}, latents "
            f"{_gb(part.latents)})"
        )
        raise RoomError(f"part '{part.name}' of the run", what, f"a device with {_gb(self.budget)} to fill")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 5e6 else f"{size / 1e6:.2f} MB"


def budget_of(recipe: Recipe) -> int | None:
    """Bytes that a run may fill: of what the recipe says that the device has, or of what is free there; None on a CPU that
    nothing is said of. A sixteenth is left."""
    if recipe.vram is not None:
        whole = models.memory(recipe.vram)
    else:
        specs = [spec for spec in recipe.experts.values() if isinstance(spec, models.Pretrained)]
        device = free_on([spec.device for spec in specs])
        if device is None:
            return None
        whole = device
    return whole - whole // SPARE


def free_on(devices: Sequence[str]) -> int | None:
    """Bytes that are free on the first of these devices that is a CUDA one."""
    from dovetail.experts.placement import device_of

    for name in devices:
        device = device_of(name)
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
    return None


def foreseen(recipe: Recipe, notes: list[str]) -> Plan:
    """The plan of a recipe whose weights are not loaded; adds notes of what is a guess."""
    cast = {name: outlook(name, spec, notes) for name, spec in recipe.experts.items()}
    return planned(recipe, cast, notes, latent_of(recipe, space_foreseen(recipe, notes)))


def fitted(recipe: Recipe) -> Fit | None:
    """How a recipe's run is made to fit on its device; None where nothing is known of that device's memory.

    Raises RoomError for a run that cannot fit, and what planning raises.
    """
    budget, notes = budget_of(recipe), list[str]()
    if budget is None:
        return None
    return fit(foreseen(recipe, notes), outlines(recipe, notes), budget).checked()


def outlines(recipe: Recipe, notes: list[str]) -> dict[str, "Outline"]:
    """What is known of a recipe's networks without their weights; adds a note for each that is not."""
    from dovetail.experts.outline import outline

    found = {}
    for name, spec in recipe.experts.items():
        if not isinstance(spec, models.Pretrained):
            continue
        try:
            if spec.adapter is not None:
                raise WeightsError(f"expert '{name}' is put together from two checkpoints")
            found[name] = outline(name, spec.family, spec.weights, subfolder=spec.subfolder, dtype=spec.dtype)
        except WeightsError as error:
            notes.append(f"{error}; its operations are not counted")
    return found


def shape_of(plan: Plan, look: Look | None = None) -> tuple[int, int, int, int]:
    """Channels, frames, height and width of a plan's latent, or of what a look shows of it."""
    assert plan.latent is not None
    channels, (frames, height, width) = space_foreseen(plan.recipe, []).channels, plan.latent
    if look is None:
        return channels, frames, height, width
    # A plan is made on latents of 2x2 cells.
    return channels, look.frames, height * look.height // 2, width * look.width // 2


def weights_of(recipe: Recipe, name: str, it: "Outline") -> int:
    """Bytes of an expert's weights, as they are kept."""
    spec = recipe.experts[name]
    assert isinstance(spec, models.Pretrained)
    if spec.store is not None or (spec.quantize or "").endswith(("int8", "float8")):
        return it.parameters
    return it.parameters // 2 if spec.quantize is not None else it.bytes


def codec_weights(recipe: Recipe) -> int:
    """Bytes of the codec's weights, as far as they are known."""
    from dovetail.experts.outline import parameters_of
    from dovetail.experts.placement import dtype_of

    if not isinstance(recipe.codec, models.Autoencoder) or (told := _autoencoder(recipe)) is None:
        return 0
    return parameters_of(*told) * (1 if recipe.codec.store else dtype_of(recipe.codec.dtype).itemsize)


def _autoencoder(recipe: Recipe) -> tuple[str, Mapping[str, object]] | None:
    """The class and config of the codec's autoencoder; None if it has none, or nobody knows."""
    from dovetail.experts.outline import codec_outline

    if not isinstance(recipe.codec, models.Autoencoder):
        return None
    families = [spec.family for spec in recipe.experts.values() if isinstance(spec, models.Pretrained)]
    try:
        return codec_outline(recipe.codec.weights, recipe.codec.subfolder, families[0] if families else None)
    except WeightsError:
        return None


def sizes(plan: Plan, known: Mapping[str, "Outline"]) -> Sizes:
    """What is known of the networks that a plan asks."""
    from dovetail.experts.footprint import blockwise, reading
    from dovetail.experts.loading import FAMILIES
    from dovetail.experts.outline import text_parameters

    recipe, asked = plan.recipe, {name: it for name, it in known.items() if name in plan.counts}
    looks: dict[str, dict[tuple[int, int, int, int], int]] = {}
    for look, rows in plan.rows.items():
        if look.expert in asked:
            looks.setdefault(look.expert, {})[shape_of(plan, look)] = rows
    specs = {name: spec for name in asked if isinstance(spec := recipe.experts[name], models.Pretrained)}
    kept = {name: weights_of(recipe, name, it) for name, it in asked.items()}
    texts = {(it.words.kind, it.size): text_parameters(it.words) * it.size for it in asked.values()}
    largest = max(asked.values(), key=lambda it: text_parameters(it.words) * it.size, default=None)
    return Sizes(
        asked,
        kept,
        {name: min(kept[name], blockwise(it) * kept[name] // it.bytes) for name, it in asked.items()},
        looks,
        {name: spec.batch or FAMILIES[spec.family].batch for name, spec in specs.items()},
        (max(texts.values(), default=0), 0 if largest is None else reading(largest)),
        codec_weights(recipe),
    )


def fit(plan: Plan, known: Mapping[str, "Outline"], budget: int | None) -> Fit:
    """How a plan's run is made to fit in so many bytes; without a budget, as the recipe says."""
    from dovetail.experts.residency import CODEC, timetable, turns, within

    recipe, all_sizes = plan.recipe, sizes(plan, known)
    asked = turns(plan.asked, [steps for steps, _ in plan.pieces])
    spec = {name: spec for name, spec in recipe.experts.items() if isinstance(spec, models.Pretrained)}
    now = _Now(all_sizes, dict(all_sizes.batches), {n for n in all_sizes.weights if spec[n].offload}, _decoder(plan))
    every = frozenset(all_sizes.weights) | {CODEC}
    if budget is None:
        here = None if recipe.residency == "all" else timetable(asked, recipe.residency)
        return now.fit(plan, asked, here, None)
    if recipe.residency == "all" and now.most([every] * len(asked), asked, all_sizes.text) <= budget:
        here = None
    else:
        now.lessen(asked, budget)
        room = [budget - sum(now.work(names)) for names in asked]
        here = timetable(asked, "turns") if recipe.residency == "turns" else within(asked, now.weights, room)
    return now.fit(plan, asked, here, budget)


def _decoder(plan: Plan) -> "_Decoder | None":
    """What the codec is given at once, if it has weights that are known."""
    from dovetail.experts.codec import CHUNK
    from dovetail.experts.placement import dtype_of
    from dovetail.run.decoding import CONTEXT

    codec, (channels, frames, height, width) = plan.recipe.codec, shape_of(plan)
    if not isinstance(codec, models.Autoencoder) or (told := _autoencoder(plan.recipe)) is None:
        return None
    longest = max((length for _, length in plan.pieces), default=frames)
    again = CONTEXT if told[0] != "AutoencoderKL" and len(plan.pieces) > 1 else 0
    shape = channels, min(frames, longest + again), height, width
    return _Decoder(*told, shape, dtype_of(codec.dtype).itemsize, codec.chunk or CHUNK, codec.tiles)


@dataclass(frozen=True)
class _Decoder:
    """An autoencoder and what it is given at once."""

    kind: str
    config: Mapping[str, object]
    shape: tuple[int, int, int, int]
    size: int
    chunk: int
    tiles: int | None

    @property
    def work(self) -> int:
        from dovetail.experts.footprint import decoding

        return decoding(self.kind, self.config, self.shape, self.size, self.chunk, self.tiles)

    @property
    def less(self) -> "_Decoder | None":
        """The same with half as much at once; None if that is the least."""
        from dovetail.experts.halving import LEAST

        once = min(self.chunk, self.shape[1])
        if self.kind == "AutoencoderKL" and once > 1:
            return replace(self, chunk=once // 2)
        side = min(max(self.shape[2:]), self.tiles or max(self.shape[2:]))
        return replace(self, tiles=max(LEAST, -(-side // 2))) if side > LEAST else None


@dataclass
class _Now:
    """What is done at once, as far as it has been lessened."""

    sizes: Sizes
    batches: dict[str, int]
    grouped: set[str]
    decoder: _Decoder | None

    @property
    def weights(self) -> dict[str, int]:
        from dovetail.experts.residency import CODEC

        kept = {name: self.sizes.grouped[name] if name in self.grouped else w for name, w in self.sizes.weights.items()}
        return {**kept, CODEC: self.sizes.codec}

    def work(self, names: frozenset[str]) -> tuple[int, int]:
        """What those work in whom a turn asks, one after another, and their latents."""
        from dovetail.experts.residency import CODEC

        found = [self.sizes.work(name, self.batches[name]) for name in names if name in self.batches]
        if CODEC in names and self.decoder is not None:
            found.append((self.decoder.work, 0))
        return max(found, key=sum, default=(0, 0))

    def need(self, names: frozenset[str]) -> int:
        """All that a turn needs."""
        return sum(self.weights.get(name, 0) for name in names) + sum(self.work(names))

    def most(self, here: Sequence[frozenset[str]], asked: Sequence[frozenset[str]], text: tuple[int, int]) -> int:
        """The most there is at once, if these are there; texts are read before."""
        each = (sum(self.weights.get(n, 0) for n in h) + sum(self.work(a)) for h, a in zip(here, asked, strict=True))
        return max([*each, sum(self.weights.get(name, 0) for name in here[0]) + sum(text)])

    def lessen(self, asked: Sequence[frozenset[str]], budget: int) -> None:
        """Do less at once until each turn fits, as far as it can."""
        for names in dict.fromkeys(asked):
            while self.need(names) > budget and self._less(names):
                pass

    def _less(self, names: frozenset[str]) -> bool:
        from dovetail.experts.residency import CODEC

        many = [name for name in names if min(self.batches.get(name, 1), self._rows(name)) > 1]
        if many:
            name = max(many, key=lambda n: sum(self.sizes.work(n, self.batches[n])))
            self.batches[name] = min(self.batches[name], self._rows(name)) // 2
            return True
        if CODEC in names and self.decoder is not None and self.decoder.less is not None:
            self.decoder = self.decoder.less
            return True
        whole = [name for name in names if name in self.batches and name not in self.grouped]
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
        was = _decoder(plan)
        chunk = self.decoder.chunk if self.decoder and was and self.decoder.chunk < was.chunk else None
        tiles = self.decoder.tiles if self.decoder and was and self.decoder.tiles != was.tiles else None
        short = max(over, key=lambda part: part.total, default=None)
        rooms = {} if budget is None else {names: budget - sum(self.work(names)) for names in dict.fromkeys(asked)}
        return Fit(
            here, parts, budget, lower, frozenset(self.grouped), chunk, tiles, at_home, short, self.weights, rooms
        )

    def _parts(
        self, plan: Plan, asked: Sequence[frozenset[str]], here: tuple[frozenset[str], ...] | None
    ) -> tuple[Part, ...]:
        from dovetail.experts.residency import CODEC

        every, weights = frozenset(self.weights), self.weights
        base = sum(weights.values()) if here is None else 0
        found = {"text": Part("text", base + self.sizes.text[0], self.sizes.text[1])}
        names, step = [name for name, *_ in plan.steps], 0
        for turn, who in enumerate(asked):
            part = "decode" if CODEC in who else names[step]
            step += CODEC not in who
            there = every if here is None else here[turn]
            each = Part(part, sum(weights.get(name, 0) for name in there), *self.work(who))
            found[part] = max(each, found.get(part, each), key=lambda one: one.total)
        return tuple(found.values())
