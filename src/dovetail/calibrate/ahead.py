"""What can be told of a calibration before anything is loaded: that it cannot be, and what will not be minded."""

from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.calibrate.candidates import check_ahead, check_kinds, place_of
from dovetail.calibrate.choose import FEWEST
from dovetail.calibrate.prompts import of_sprites
from dovetail.core.ladders import Ladder
from dovetail.errors import OutputError, RecipeError
from dovetail.recipe import Recipe
from dovetail.run.budget import foreseen

if TYPE_CHECKING:
    from dovetail.calibrate.running import Settings

RULES = ("fit", "budget", "dp", "sweep")
"""Two-knot fit; one interval within a budget; any schedule within a budget; the paper's sweeps (with features)."""

FEATURES = ("pixels", "oracle")
"""By which videos are compared without an encoder's weights."""


def check(recipe: Recipe, out: Path, settings: "Settings", loaded: bool) -> None:
    """Raises RecipeError, SpaceError, WeightsError or OutputError for what cannot be, as far as that is known without the
    recipe's weights. loaded: its experts are here already, so that nothing need be foreseen of them."""
    if settings.by not in RULES:
        raise RecipeError(f"unknown rule '{settings.by}'; known: {', '.join(RULES)}")
    if settings.by == "sweep" and settings.features is None:
        raise RecipeError(
            "the rule sweep compares videos; say by which features: pixels, oracle, or an encoder's weights"
        )
    check_kinds(settings.also)
    check_folder(out)
    place = place_of(recipe)
    if settings.features is not None:
        check_features(recipe, settings.features)
    if not loaded:
        check_ahead(recipe)
        # A plan knows what latents experts see, before their weights are missed.
        check_steps(recipe.chain[place].stage, foreseen(recipe, []).stages[place].ladder, settings)


def check_steps(stage: str, ladder: Ladder, settings: "Settings") -> None:
    """Raises RecipeError where the rule to write needs more steps than a stage's ladder has."""
    if settings.by == "fit" and ladder.steps < FEWEST:
        raise RecipeError(
            f"rule fit: three lines need six steps or more, and chain.{stage}.ladder has {ladder.steps}; take "
            "--by budget, or a ladder of six steps"
        )


def check_features(recipe: Recipe, name: str) -> None:
    """Raises RecipeError for the sprite oracle beside other videos than sprites', WeightsError for an encoder's weights
    that are nowhere; those on the hub come now."""
    height, width = recipe.video.height, recipe.video.width
    if name == "oracle" and not of_sprites(recipe):
        raise RecipeError(
            "--compare oracle: the oracle knows the sprite world alone, and these experts make other videos; take "
            "pixels, or an image encoder's weights, as facebook/dinov2-base"
        )
    if name == "oracle" and height != width:
        side = min(height, width)
        raise RecipeError(
            f"--compare oracle: the sprite world is square, not {height}x{width}; take pixels, or --set "
            f"video.height={side} --set video.width={side}"
        )
    if name not in FEATURES:
        from dovetail.experts.encoders import check_encoder

        check_encoder(
            name, f"Features are {', '.join(FEATURES)}, or an image encoder's weights, as facebook/dinov2-base"
        )


def check_folder(out: Path) -> None:
    """Raises OutputError where a folder cannot be, since a file is there or on the way."""
    taken = next((place for place in (out, *out.parents) if place.exists()), None)
    if taken is not None and not taken.is_dir():
        what = "which is a file" if taken == out else f"where {taken} is a file"
        raise OutputError(
            f"a calibration writes a folder, with a table, a picture and a recipe, and cannot write {out}, {what}; "
            "name another with --out"
        )


def unminded(settings: "Settings") -> list[str]:
    """Notes of what is asked for and does not count for the rule that is written."""
    given = [f"--{name}" for name in ("budget", "error") if getattr(settings, name) is not None]
    if settings.by in ("fit", "sweep") and given:
        said = f"{given[0]} counts" if len(given) == 1 else f"{' and '.join(given)} count"
        beside = "for the rules budget and dp beside it alone"
        return [f"rule {settings.by}: it minds neither cost nor error, so {said} {beside}"]
    if len(given) == 2:
        return [f"rule {settings.by}: --error stands in the place of --budget, which does not count"]
    return []
