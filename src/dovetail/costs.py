"""What a run costs: operations, parameters, memory, changes of experts; counted on meta tensors, without weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from dovetail import recipe as recipes
from dovetail.errors import WeightsError
from dovetail.experts.flops import Operations
from dovetail.experts.outline import Outline, codec_parameters, outline, text_parameters
from dovetail.experts.placement import dtype_of
from dovetail.experts.residency import most, timetable
from dovetail.recipe import models
from dovetail.recipe.build import Plan
from dovetail.run import plan as planned
from dovetail.run import space_foreseen


@dataclass(frozen=True)
class Share:
    """An expert's part. look: one row, no guidance, of the most that it is shown at once; spent: all it does."""

    parameters: int
    bytes: int
    look: Operations
    spent: Operations


@dataclass(frozen=True)
class Costs:
    """experts: those whose sizes are known. alone: the whole run if one expert took all steps of each blended stage.

    memory: bytes of weights on the device at most while texts are read, in each stage, and while frames are decoded;
    what networks need beside their weights comes on top. notes: what is not counted.
    """

    experts: Mapping[str, Share]
    alone: Mapping[str, Operations]
    memory: Mapping[str, int]
    notes: tuple[str, ...] = field(default=())

    @property
    def spent(self) -> Operations:
        """All that networks do."""
        return _sum([share.spent for share in self.experts.values()])


def costs(plan: Plan) -> Costs:
    """What the run of a plan costs. Raises what planning raises."""
    notes: list[str] = []
    outlines = _outlines(plan.recipe, notes)
    spent = _spent(plan, outlines)
    largest: dict[str, Operations] = {}
    for name, one, _ in _looks(plan, outlines):
        largest[name] = max(one, largest.get(name, one), key=lambda look: look.total)
    experts = {
        name: Share(it.parameters, it.bytes, largest[name], spent[name])
        for name, it in outlines.items()
        if name in plan.counts
    }
    alone = {
        name: _sum(list(_spent(planned(changed), outlines).values())) for name, changed in _alone(plan.recipe).items()
    }
    return Costs(experts, alone, _memory(plan, outlines), tuple(notes))


def weights_needed(plan: Plan) -> Mapping[str, int]:
    """`Costs.memory` alone, which takes moments where operations take longer, without networks of unknown size."""
    return _memory(plan, _outlines(plan.recipe, []))


def _sum(parts: Sequence[Operations]) -> Operations:
    return reduce(Operations.__add__, parts, Operations())


def _outlines(recipe: recipes.Recipe, notes: list[str]) -> dict[str, Outline]:
    found = {}
    for name, spec in recipe.experts.items():
        if not isinstance(spec, models.Pretrained):
            continue
        try:
            found[name] = outline(
                name, spec.family, spec.weights, subfolder=spec.subfolder, dtype=spec.dtype, adapter=spec.adapter
            )
        except WeightsError as error:
            notes.append(f"{error}; its operations are not counted")
    return found


def _shape(plan: Plan) -> tuple[int, int, int, int]:
    assert plan.latent is not None
    return (space_foreseen(plan.recipe, []).channels, *plan.latent)


def _spent(plan: Plan, outlines: Mapping[str, Outline]) -> dict[str, Operations]:
    """What each expert does in all."""
    spent: dict[str, Operations] = {}
    for name, one, rows in _looks(plan, outlines):
        spent[name] = spent.get(name, Operations()) + one * rows
    return spent


def _looks(plan: Plan, outlines: Mapping[str, Outline]) -> Iterator[tuple[str, Operations, int]]:
    """An expert, operations of one row of what it is shown, and how many rows of that."""
    channels, _, height, width = _shape(plan)
    for look, rows in plan.shown.items():
        if look.expert in outlines:
            # A plan is made on latents of 2x2 cells.
            shown = (channels, look.frames, height * look.height // 2, width * look.width // 2)
            yield look.expert, outlines[look.expert].look(shown, look.skipped), rows


def _alone(recipe: recipes.Recipe) -> dict[str, recipes.Recipe]:
    """The recipe with one expert at every step of its blended stages, for each of theirs."""
    found: dict[str, recipes.Recipe] = {}
    for i, stage in enumerate(recipe.chain):
        if isinstance(stage.denoise, models.Blended):
            for part in stage.denoise.of.values():
                if isinstance(part, models.Leaf) and not (part.skip or part.reuse):
                    base = found.get(part.expert, recipe)
                    changes = {f"chain.{i}.denoise": part.model_dump(mode="json")}
                    found[part.expert] = recipes.changed(base, changes)
    return found


def _memory(plan: Plan, outlines: Mapping[str, Outline]) -> dict[str, int]:
    """Bytes of weights on the device, at most, in each part of a run."""
    recipe = plan.recipe
    sizes = {name: it.bytes for name, it in outlines.items() if name in plan.counts}
    texts = {(it.words.kind, it.size): text_parameters(it.words) * it.size for it in outlines.values()}
    codec = _codec_bytes(recipe)
    if recipe.residency == "all":
        everything = codec + sum(texts.values()) + sum(sizes.values())
        return dict.fromkeys(("text", *(stage.stage for stage in recipe.chain), "decode"), everything)
    here = timetable(plan.asked, recipe.residency)
    stages = {
        stage.stage: [names for (name, *_), names in zip(plan.steps, here, strict=True) if name == stage.stage]
        for stage in recipe.chain
    }
    experts = {name: codec + most(names, sizes) for name, names in stages.items()}
    return {"text": codec + max(texts.values(), default=0), **experts, "decode": codec}


def _codec_bytes(recipe: recipes.Recipe) -> int:
    codec = recipe.codec
    if not isinstance(codec, models.Autoencoder):
        return 0
    kind = space_foreseen(recipe, []).vae
    try:
        return codec_parameters(str(kind)) * dtype_of(codec.dtype).itemsize
    except KeyError:
        return 0  # an image autoencoder, which is small beside its networks
