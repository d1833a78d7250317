"""What a calibration leaves in its folder: measurements per prompt, a table, a picture, a recipe."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail import recipe as recipes
from dovetail.calibrate.choose import FEWEST, two_knots, u_shaped
from dovetail.calibrate.plot import Line, draw
from dovetail.calibrate.stability import Stability
from dovetail.errors import OutputError

if TYPE_CHECKING:
    from dovetail.calibrate.running import Calibration


DASHES = {"guided": (), "conditional": (9, 5), "unconditional": (2, 4)}
"""How a curve of each view is drawn: pixels of ink and of none, in turns; nothing is a whole line."""


@dataclass(frozen=True)
class Kept:
    """Plain data in a file that is there whole or not at all."""

    path: Path

    def read(self) -> Any:
        """What was written; None where nothing was, or something broken lies."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, data: Any) -> None:
        """Raises OutputError where that cannot be written."""
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(data), encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error}") from None

    def made(self, make: Callable[[], Any]) -> Any:
        """What was written, made first if need be."""
        if self.read() is None:
            self.write(make())
        return self.read()


def kept(out: Path, what: str, digest: str, prompt: str, seed: int, more: Any = None) -> Kept:
    """Where a measurement of a prompt lies: other settings lie elsewhere, so nothing stale is ever read. more: plain
    data that it hangs on too."""
    said = [what, digest, prompt, seed, *([] if more is None else [more])]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    return Kept(out / "measured" / f"{what.replace('/', '-')[:80]}-{key}.json")


def written(found: "Calibration", out: Path, name: str, prompts: Sequence[str]) -> tuple[Path, ...]:
    """Write curves.png, calibration.json and the recipe. Raises OutputError where that cannot be done."""
    table, picture, recipe = out / "calibration.json", out / "curves.png", out / f"{name}.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        table.write_text(json.dumps(told(found, prompts), indent=1), encoding="utf-8")
        drawn(found).save(picture)
        recipe.write_text(recipes.dump(found.recipe), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the calibration to {out}: {error}") from None
    return table, picture, recipe


def told(found: "Calibration", prompts: Sequence[str]) -> dict[str, Any]:
    """All of a calibration as plain data."""
    case, whole = found.case, found.case.costs[0] * found.ladder.steps
    return {
        "stage": case.stage.stage,
        "levels": list(found.ladder.levels),
        "prompts": list(prompts),
        "seed": case.recipe.video.seed,
        "large": case.names[0],
        "flops_per_step": dict(zip(case.names, case.costs, strict=True)),
        "notes": list(case.notes),
        "choices": {
            rule: {
                "steps": [case.names[who] for who in schedule.choice],
                "boundaries": list(found.boundaries(rule)),
                "placed": found.placed(rule),
                "switches": schedule.switches,
                "cost": schedule.cost / whole,
                "error": schedule.error,
                **({"stability": _stability(found.stability[rule])} if rule in found.stability else {}),
            }
            for rule, schedule in found.choices.items()
        },
        "u_shaped": shapes(found),
        "likeness": found.likeness,
        "curves": found.curves,
        "gains": found.gains,
        "gain_times_state": found.weighted,
    }


def _stability(it: Stability) -> dict[str, Any]:
    """Of prompts drawn anew: what share gives the same letters, what shares give which, and where boundaries are then."""
    return {
        "letters": it.letters,
        "same": it.same,
        "shares": dict(it.shares),
        "intervals": list(map(list, it.intervals)),
    }


def shapes(found: "Calibration") -> dict[str, dict[str, bool]]:
    """For each candidate and measure, whether the curve is lower between its own two knots than on either side.

    What reuses the step before has no first step of its own, so its curves begin at the second.
    """
    begins = {found.case.names[i]: 1 for i in found.case.follows}
    measures = {
        name: {**views["guided"], "gain times state": found.weighted[name]} for name, views in found.curves.items()
    }
    return {
        name: {m: _falls_and_rises(found.ladder.levels[:-1], v, begins.get(name, 0)) for m, v in curves.items()}
        for name, curves in measures.items()
    }


def _falls_and_rises(levels: Sequence[float], values: Sequence[float], first: int) -> bool:
    levels, values = levels[first:], values[first:]
    return len(levels) >= FEWEST and max(values) > 0 and u_shaped(values, two_knots(levels, values))


def drawn(found: "Calibration") -> Any:
    """The picture: divergence in each view, state errors, what is left of them in the video; and the boundaries."""
    names, levels = found.case.names[1:], found.ladder.levels[:-1]
    apart = [
        Line(f"{name}, {view}", found.curves[name][view]["velocity"], i, DASHES[view])
        for i, name in enumerate(names)
        for view in DASHES
        if view in found.curves[name]
    ]
    state = [Line(name, found.curves[name]["guided"]["state"], i) for i, name in enumerate(names)]
    video = [Line(name, found.curves[name]["guided"]["video"], i) for i, name in enumerate(names)]
    left = [Line(name, found.weighted[name], i) for i, name in enumerate(names)]
    panels = {
        f"velocity: distance from {found.case.names[0]}, relative": apart,
        "video: distance of x0": video,
        "state: error that one step adds": state,
        "what of it is left in the final video": left,
    }
    return draw(
        levels,
        panels,
        {rule: found.boundaries(rule) for rule in found.choices},
        {rule: found.placed(rule) for rule in found.choices},
    )
