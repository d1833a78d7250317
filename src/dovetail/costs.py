"""What a run costs: operations, parameters, memory, changes of experts; counted on meta tensors, without weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from dovetail import recipe as recipes
from dovetail.experts.flops import Operations
from dovetail.experts.outline import Outline
from dovetail.recipe import models
from dovetail.recipe.planning import Plan
from dovetail.run import plan as planned
from dovetail.run.budget import Fit, fit
from dovetail.run.sizes import outlines as outlines_of
from dovetail.run.sizes import shape_of


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

    fit: what is on the device at most while texts are read, in each stage, and while frames are decoded. notes: what is
    not counted.
    """

    experts: Mapping[str, Share]
    alone: Mapping[str, Operations]
    fit: Fit
    notes: tuple[str, ...] = field(default=())

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes of weights on the device at most in each part of the run."""
        return {part.name: part.weights for part in self.fit.parts}

    @property
    def spent(self) -> Operations:
        """All that networks do."""
        return _sum([share.spent for share in self.experts.values()])


def costs(plan: Plan, budget: int | None = None) -> Costs:
    """What the run of a plan costs, made to fit in so many bytes of memory if that is said. Raises what planning
    raises."""
    notes: list[str] = []
    outlines = outlines_of(plan.recipe, notes)
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
    return Costs(experts, alone, fit(plan, outlines, budget), tuple(notes))


def _sum(parts: Sequence[Operations]) -> Operations:
    return reduce(Operations.__add__, parts, Operations())


def _spent(plan: Plan, outlines: Mapping[str, Outline]) -> dict[str, Operations]:
    """What each expert does in all."""
    spent: dict[str, Operations] = {}
    for name, one, rows in _looks(plan, outlines):
        spent[name] = spent.get(name, Operations()) + one * rows
    return spent


def _looks(plan: Plan, outlines: Mapping[str, Outline]) -> Iterator[tuple[str, Operations, int]]:
    """An expert, operations of one row of what it is shown, and how many rows of that."""
    for look, rows in plan.shown.items():
        if look.expert in outlines:
            yield look.expert, outlines[look.expert].look(shape_of(plan, look), look.skipped), rows


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
