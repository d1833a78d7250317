"""Changes of a recipe that make a run fit which does not fit: each is tried on the plan before it is named."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dovetail.errors import LESS_ROOM, RecipeError, RoomError, WeightsError
from dovetail.recipe import Recipe, changed, models
from dovetail.recipe.planning import Plan
from dovetail.run.budget import SPARE, Fit, fit, foreseen, said_bytes
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
    """What makes a recipe's run fit in so many bytes, in words: single changes, or else the fewest that do together. What a
    run does by itself where memory is short (turns, rows, tiles, blocks) is not among them."""
    options = _Trial.of(recipe, budget).options()
    if not options:
        return (
            "Experts in turns, in blocks and fewer rows or tiles at once are tried already, and neither weights kept in 8 "
            "bits nor a quarter of the frames and of each side makes it fit: take smaller experts (--set "
            "experts.NAME.weights=..) or a device with more memory"
        )
    if len(options[0]) > 1:
        return f"No single change makes it fit; these together do, added to the same command: {_said(options)}"
    return f"What makes it fit, added to the same command: {_said(options)}"


def _said(options: Sequence[Sequence["Change"]], first: str = "") -> str:
    """Sets of changes as the command line takes them, one or another; first: what begins each."""
    *rest, last = [f"`{' '.join([*first.split(), *(change.option for change in some)])}`" for some in options]
    return f"{', '.join(rest)}{' or ' if rest else ''}{last}"


# --- in the middle of a run -------------------------------------------------------------------------------------------

LIGHTER = 0.75
"""What a run needs by its plan is lessened to this share of what found no room."""


@contextmanager
def advising(recipe: Recipe, found: Fit | None) -> Iterator[None]:
    """A RoomError that is raised inside also says what would fit, if a plan can tell. found: how the run was made to fit;
    None where nothing was known of its device."""
    try:
        yield
    except RoomError as error:
        said = lighter(recipe, found, error.stage) if error.less == LESS_ROOM else None
        raise (error if said is None else error.advised(said)) from None


def lighter(recipe: Recipe, found: Fit | None, where: str | None) -> str | None:
    """What to do where a run found no room that its plan had let pass, in words: plan for a smaller device, with changes
    if that alone does not go. where: the stage; None is where the plan needs most. None where no plan tells."""
    try:
        # Fewer rows at once have been tried by then, down to one.
        one = {f"experts.{name}.batch": 1 for name, s in recipe.experts.items() if isinstance(s, models.Pretrained)}
        trial = _Trial.of(changed(recipe, one), 0)
        parts = fit(trial.plan, trial.known, None if found is None else found.budget).parts
    except (RecipeError, WeightsError):
        return None
    part = next((one for one in parts if one.name == where), max(parts, key=lambda one: one.total, default=None))
    if part is None or not part.total:
        return None
    trial = replace(trial, budget=int(part.total * LIGHTER))
    options = [()] if trial.fits(()) else trial.options()
    if not options:
        return None
    return (
        f"The plan counts {said_bytes(part.total)} there for one row at once, so it counts too little, or something else fills the "
        f"device. What makes it need a quarter less, added to the same command: {_said(options, _vram(trial.budget))}"
    )


def _vram(budget: int) -> str:
    """The option that lets a run fill so many bytes, in whole thousands.

    >>> _vram(7_500_000_000), _vram(2_812_000)
    ('--vram 8000MB', '--vram 2999KB')
    """
    unit, name = (10**6, "MB") if budget >= 10**9 else (10**3, "KB")
    return f"--vram {budget * SPARE // (SPARE - 1) // unit}{name}"


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

    def options(self) -> Sequence[Sequence[Change]]:
        """What makes it fit: single changes, or else the fewest that do together; none if none does."""
        kept, smaller, shorter = [list(kind(self.recipe)) for kind in (_kept, _smaller, _shorter)]
        least = [[*kept, *smaller[-1:], *shorter[-1:]], [*kept, *smaller[-1:]], [*kept, *shorter[-1:]]]
        if not self.first(least):
            return ()
        alone = [[change] for change in kept if self.fits([change])]
        alone += [[change] for kind in (smaller, shorter) for change in self.first([[change] for change in kind])]
        if alone:
            return alone
        pairs = [[*kept, *one, *two] for one in ([], *([c] for c in smaller)) for two in ([], *([c] for c in shorter))]
        return [self.first([pair for pair in pairs if len(pair) > 1])]

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
