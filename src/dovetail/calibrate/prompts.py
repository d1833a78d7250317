"""Prompts that ask for different motions, subjects and light: eight to calibrate with, four to compare on."""

from dovetail.recipe import Recipe, models

GENERAL = (
    "a red panda drinks tea in the rain, close-up, shallow depth of field",
    "waves break on black rocks at sunset, aerial shot",
    "a chef flips a pancake in a bright kitchen, handheld camera",
    "an old steam train crosses a stone bridge in autumn",
    "a dancer in a white dress spins on an empty stage",
    "traffic at a busy crossing at night, neon reflections on wet asphalt, time lapse",
    "a hummingbird hovers at a purple flower, slow motion",
    "a paper boat drifts down a narrow mountain stream",
    "two children build a sandcastle while the tide comes in",
    "a potter shapes a clay bowl on a wheel, hands in focus",
    "a hot air balloon rises over a misty valley at dawn",
    "a black cat jumps from a wall onto a parked car",
)
CALIBRATE = 8


def usual(recipe: Recipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts to calibrate with and prompts to compare on; of the sprite world for experts that live in it."""
    prompts = _sprites() if of_sprites(recipe) else GENERAL
    return prompts[:CALIBRATE], prompts[CALIBRATE:]


def of_sprites(recipe: Recipe) -> bool:
    """Whether all of a recipe's experts live in the sprite world."""
    return all(
        isinstance(spec, models.Exact) or spec.weights.startswith("sprites/") for spec in recipe.experts.values()
    )


def _sprites() -> tuple[str, ...]:
    from dovetail.sprites.world import Ask, caption, imagine

    return tuple(caption(imagine(Ask(), seed).ask) for seed in range(len(GENERAL)))
