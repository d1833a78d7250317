"""What a recipe leaves open that makes a run fit which does not: each change is tried on the plan before it is named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dovetail.errors import RecipeError, WeightsError
from dovetail.recipe import Recipe, changed, models
from dovetail.recipe.planning import Plan
from dovetail.run.budget import fit, foreseen
from dovetail.run.sizes import outlines

if TYPE_CHECKING:
    from dovetail.experts.outline import Outline

SHARES = (0.75, 0.5, 0.25)
"""Of the frames and of the sides that a video has; the largest that fits is named."""


@dataclass(frozen=True)
class Change:
    """Values of a recipe that need less. option: as the command line takes them."""

    values: Mapping[str, Any]
    option: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Change":
        return cls(values, " ".join(f"--set {path}={value}" for path, value in values.items()))


def less(recipe: Recipe, budget: int) -> str:
    """What makes a recipe's run fit in so many bytes, in words: single changes, or else what does together. What a run
    does by itself where memory is short (turns, rows, tiles, blocks) is none of them."""
    trial = _Trial.of(recipe, budget)
    kept, smaller, shorter = [list(kind(recipe)) for kind in (_kept, _smaller, _shorter)]
    least = [[*kept, *smaller[-1:], *shorter[-1:]], [*kept, *smaller[-1:]], [*kept, *shorter[-1:]]]
    if not trial.first(least):
        return (
            "Experts in turns, in blocks and fewer rows or tiles at once are tried already, and neither weights kept in 8 "
            "bits nor a quarter of the frames and of each side makes it fit: take smaller experts (--set "
            "experts.NAME.weights=..) or a device with more memory"
        )
    alone = [change for change in kept if trial.fits([change])]
    alone += [change for kind in (smaller, shorter) for change in trial.first([[change] for change in kind])]
    if alone:
        *rest, last = [f"`{change.option}`" for change in alone]
        return f"What makes it fit, added to the same command: {', '.join(rest)}{' or ' if rest else ''}{last}"
    pairs = [[*kept, *one, *two] for one in ([], *([c] for c in smaller)) for two in ([], *([c] for c in shorter))]
    options = " ".join(change.option for change in trial.first([pair for pair in pairs if len(pair) > 1]))
    return f"No single change makes it fit; these together do, added to the same command: `{options}`"


def _kept(recipe: Recipe) -> Iterator[Change]:
    """Weights kept in 8 bits, or else in 16: of each expert, and of the codec."""
    specs: dict[str, models.Pretrained | models.Autoencoder] = {
        f"experts.{name}": spec for name, spec in recipe.experts.items() if isinstance(spec, models.Pretrained)
    }
    if isinstance(recipe.codec, models.Autoencoder):
        specs["codec"] = recipe.codec
    open_ = [path for path, spec in specs.items() if spec.store is None and getattr(spec, "quantize", None) is None]
    wide = [path for path, spec in specs.items() if spec.dtype == "float32"]
    for word, value, paths in (("dtype", "bfloat16", wide), ("store", "float8", open_)):
        yield from (Change.of({f"{path}.{word}": value}) for path in paths)


def _smaller(recipe: Recipe) -> Iterator[Change]:
    """Smaller pictures, their sides multiples of what any network takes."""
    sides = recipe.video.height, recipe.video.width
    unit = 32 if min(sides) >= 128 else 16
    for share in SHARES:
        height, width = (max(unit, int(side * share) // unit * unit) for side in sides)
        if (height, width) != sides:
            yield Change.of({"video.height": height, "video.width": width})


def _shorter(recipe: Recipe) -> Iterator[Change]:
    """Fewer frames, as many as an autoencoder makes: 8k + 1 or 4k + 1 where it is so now."""
    frames = recipe.video.frames
    unit = next((unit for unit in (8, 4) if frames % unit == 1), None)
    for share in SHARES:
        fewer = int(frames * share) if unit is None else int(frames * share) // unit * unit + 1
        if 1 <= fewer < frames:
            yield Change({"video.frames": fewer}, f"--frames {fewer}")


@dataclass(frozen=True)
class _Trial:
    """A recipe whose changes are tried: its plan, and what is known of its networks."""

    recipe: Recipe
    budget: int
    plan: Plan
    known: Mapping[str, "Outline"]

    @classmethod
    def of(cls, recipe: Recipe, budget: int) -> "_Trial":
        plan = foreseen(recipe, [])
        return cls(recipe, budget, plan, outlines(recipe, [], plan.counts))

    def first(self, changes: Sequence[Sequence[Change]]) -> Sequence[Change]:
        """The first of these sets of changes that makes it fit; none if none does."""
        return next((some for some in changes if self.fits(some)), ())

    def fits(self, changes: Sequence[Change]) -> bool:
        """Whether the run fits with these changes; not, where they do not go with the recipe."""
        values = {path: value for change in changes for path, value in change.values.items()}
        try:
            recipe = changed(self.recipe, values)
            filmed = any(path.startswith("video.") for path in values)
            plan = foreseen(recipe, []) if filmed else replace(self.plan, recipe=recipe)
            retyped = any(path.endswith(".dtype") for path in values)
            known = outlines(recipe, [], plan.counts) if retyped else self.known
            return fit(plan, known, self.budget).short is None
        except (RecipeError, WeightsError):
            return False
