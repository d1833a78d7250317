"""A plan in words: the video, its stages and their windows, what experts are asked, what it costs, what fits."""

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from dovetail.cli.saying import err, say
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.core.hold import Hold
    from dovetail.core.stages import Stage
    from dovetail.costs import Costs
    from dovetail.experts.flops import Operations
    from dovetail.recipe.planning import Plan


def describe(plan: "Plan") -> None:
    from dovetail.run import storyboard
    from dovetail.run.bridging import described

    recipe, video = plan.recipe, plan.recipe.video
    latent = f" ({plan.latent[0]} latent frames)" if plan.latent and plan.latent[0] != video.frames else ""
    say(f"{video.frames} frames{latent} of {video.width}x{video.height} at {video.fps:g} fps, seed {video.seed}")
    what = "prompt" if recipe.story is None else "shared by all events"
    say(f'{what}: "{recipe.prompt}"' + (f', not "{recipe.negative}"' if recipe.negative else ""))
    for line in storyboard(plan):
        say(line)
    for stage in plan.stages:
        frames = plan.length(stage.name)
        levels = " ".join(f"{level:.4g}" for level in stage.ladder.levels)
        solver = type(stage.solver).__name__
        say(f"\nstage {stage.name}: {stage.ladder.steps} steps by {solver}, noise shares {levels}")
        for line in described(plan, stage.name):
            say(f"  {line}")
        asked = next(one for one in recipe.chain if one.stage == stage.name)
        if stage.window is not None:
            begin = f"; starts from noise that is {_words(asked.noise)}" if asked.noise is not None else ""
            say(f"  {_windows(stage, frames)}{begin}")
        for line in _tree(asked.denoise, 1):
            say(line)
        if switches := plan.switches[stage.name]:
            say(f"  {switches} change{'s' * (switches > 1)} from one step's experts to the next's")
    if video.still is not None:
        first = f"first {video.still.frames}" if video.still.frames > 1 else "first one"
        say(f"\nfinished frames are held to what stands still in the {first}, within {video.still.within:g} medians")
    known = _priced(plan)
    say("\nexpert        calls   looks at the whole video, both branches of guidance counted")
    for name, count in plan.counts.items():
        say(f"{name:<12} {count.calls:>6}   {plan.passes(name):g}")
    for note in dict.fromkeys((*plan.notes, *known.notes)):
        err.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)


def _priced(plan: "Plan") -> "Costs":
    """What a run costs, as far as its networks are known."""
    from dovetail.costs import costs
    from dovetail.run.budget import budget_of

    known = costs(plan, budget_of(plan.recipe))
    if known.experts:
        say("\nexpert       parameters   weights   TFLOPs of a look   in all   (in linear layers / with attention)")
        for name, share in known.experts.items():
            say(
                f"{name:<12} {share.parameters / 1e9:>7.3f} B  {_gigabytes(share.bytes)}   {_tera(share.look)}"
                f"   {_tera(share.spent)}"
            )
        for name, spent in known.alone.items():
            say(f"{name} at every step: {_tera(spent)}")
        part = ""
        if known.alone:
            dearest = max(known.alone.values(), key=lambda spent: spent.total)
            shares = known.spent.linear / dearest.linear, known.spent.total / dearest.total
            part = f", {shares[0]:.0%} / {shares[1]:.0%} of the dearest expert at every step"
        say(f"this recipe: {_tera(known.spent)}{part}")
        _room(known, plan.recipe)
    return known


def _room(known: "Costs", recipe: Recipe) -> None:
    """What is on the device at most in each part of a run, and what is done so that it fits. Raises RoomError."""
    fit = known.fit
    say(f"\non the device at most, residency {recipe.residency}\n             weights      work   latents    in all")
    for part in fit.parts:
        each = (part.weights, part.activations, part.latents, part.total)
        say(f"{part.name:<12}" + " ".join(_gigabytes(size) for size in each))
    if fit.budget is None:
        return
    if fit.short is None:
        how = "; ".join(fit.given_up) or "as it is asked"
        say(f"in {_gigabytes(fit.budget).strip()} that may be filled it fits: {how}")
    fit.checked(recipe)


def _tera(spent: "Operations") -> str:
    return " / ".join(f"{part / 1e12:,.{2 if part < 1e15 else 0}f}" for part in (spent.linear, spent.total))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:>6.2f} GB"


def _windows(stage: "Stage", frames: int) -> str:
    """Where a stage's windows lie."""
    lengths = [window.stop - window.start for window in stage.windows(frames)]
    count = (
        f"{len(lengths)} windows of {stage.window} latent frames" if len(lengths) > 1 else f"1 window of {lengths[0]}"
    )
    short = [str(length) for length in dict.fromkeys((lengths[0], lengths[-1])) if length != stage.window]
    ends = f", at the ends {' and '.join(short)}" if short and len(lengths) > 1 else ""
    how = "straddling those before" if stage.offset else "side by side"
    if stage.overlaps:
        how = f"one every {stage.hop}, " + (f"averaged at each step ({stage.weights})" if stage.fuses else "in turn")
    held = f", held to the first one ({_held(stage.hold)})" if stage.hold else ""
    return f"{count}, {how}{held}{ends}"


def _held(hold: "Hold") -> str:
    """Windows' colours and places, what stands out of these, and frames: how far, and from which level on."""
    below = f" where t <= {hold.below:g}" if hold.below < 1 else ""
    places = f", places within {hold.within:g} medians{below}" if hold.within else ""
    objects = f", what stands out in its colour by {hold.objects:g} where t <= {hold.painted:g}" if hold.objects else ""
    frames = f", frames to their windows by {hold.frames:g}{below}" if hold.frames else ""
    return f"colours by {hold.share:g}{places}{objects}{frames}"


def _tree(part: Any, depth: int, name: str = "") -> Iterator[str]:
    """A denoiser in the words of its recipe, one line for each part: what is said of it that is not so by default
    (`dovetail words` has the rest), and below it its denoisers."""
    from dovetail.recipe import models

    head = "  " * depth + (f"{name}: " if name else "")
    if isinstance(part, models.Around):
        yield head + part.word
        yield from _tree(part.root, depth + 1)
        return
    inner = part.of if isinstance(part, models.Blended) else {key: value for key, value in part if _asks(value)}
    yield head + _words(part, (*inner, "of", "expert"))
    for key, below in inner.items():
        yield from _tree(below, depth + 1, "" if key == "of" else key)


def _words(part: Any, but: Collection[str] = ()) -> str:
    """A part's word, or its expert, and what is said of it."""
    known = {key: field.default for key, field in type(part).model_fields.items() if key not in but}
    said = [_value(key, getattr(part, key)) for key, default in known.items() if getattr(part, key) != default]
    return ", ".join([getattr(part, "expert", part.word), *said])


def _asks(value: Any) -> bool:
    """Whether a part of a denoiser is itself one."""
    from dovetail.recipe import models

    return isinstance(value, (models.Leaf, models.Around, *models.METHODS))


def _value(key: str, value: Any) -> str:
    """A word of a recipe and its value, as a recipe has it."""
    shown = value.model_dump(mode="json", exclude_defaults=True) if hasattr(value, "model_dump") else value
    return f"{key} {json.dumps(shown)}".replace('"', "")
