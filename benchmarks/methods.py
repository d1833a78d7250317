"""The rows of the tables: ways to make a video, as recipes. All parts come from one recipe of ConFiner.

A name says the steps: 4+5 is 4 of the control expert, then 5 of refinement below T_e 100.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dovetail import recipe as recipes
from dovetail.recipe import Recipe

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """What the rows are made of: the recipe, and its structure stage, its two experts, as plain data."""

    recipe: Recipe
    structure: Plain
    spatial: Plain
    temporal: Any

    @classmethod
    def of(cls, recipe: Recipe) -> "Parts":
        structure, refine = (stage.model_dump(mode="json") for stage in recipe.chain)
        pair = refine["denoise"]["coordinated"]
        return cls(recipe, structure, pair["spatial"], pair["temporal"])

    def chained(self, *stages: Plain) -> Recipe:
        """The recipe with these stages instead of its own."""
        return recipes.checked({**recipes.plain(self.recipe), "chain": list(stages)})

    def control(self, steps: int) -> Plain:
        """The structure stage in this many steps."""
        ((word, ladder),) = self.structure["ladder"].items()
        return {**self.structure, "ladder": {word: {**ladder, "steps": steps}}}

    def alone(self, steps: int) -> Recipe:
        """The temporal expert from noise. The stage has the structure's name, and so its noise."""
        of = self.expert(self.temporal)
        return self.chained(
            {**self.structure, "ladder": {"trailing": {"of": of, "steps": steps}}, "denoise": self.temporal}
        )

    def refined(self, control: int, steps: int, denoise: Any, timestep: int = 100, of: Any = None) -> Recipe:
        """Structure, then refinement on the ladder of the expert `of`, the spatial one by default."""
        below = {"of": self.expert(of or self.spatial), "timestep": timestep, "steps": steps}
        return self.chained(self.control(control), {"stage": "refine", "ladder": {"below": below}, "denoise": denoise})

    def pair(self, word: str, **options: Any) -> Plain:
        return {word: {"spatial": self.spatial, "temporal": self.temporal, **options}}

    def expert(self, leaf: Any) -> str:
        """The name of the expert at the bottom of a denoiser."""
        while "expert" not in leaf:
            (leaf,) = leaf.values()
        return str(leaf["expert"])


OPEN = "open "
"""Rows that begin so are asked for a shape and its motion alone: the prompt leaves the look open, so that frames may differ
in it."""

REFERENCES = ("renderer", "renderer, codec", "renderer, degraded", "wrong caption")
"""Rows that no method makes: the world itself, through the codec, as the temporal expert learned it; and the
world judged by another prompt, which is chance."""

CORE = (
    "temporal 100",
    "control 4",
    "control 8",
    "confiner 4+5",
    "confiner 8+10",
    "only S 4+5",
    "only T 4+5",
    "S-T then S 4+5",
    "open confiner 4+5",
    "open only S 4+5",
    "open only T 4+5",
)
"""Rows that the questions need, made for every prompt; the others are made for every second one."""


def rows(recipe: Recipe) -> dict[str, Recipe]:
    """Every row that a method makes, by its name; rows of Table 1, 5, 3, then what the paper does not have."""
    parts = Parts.of(recipe)
    both = parts.pair("coordinated")
    made = {f"temporal {n}": parts.alone(n) for n in (10, 20, 50, 100)}
    made |= {f"control {n}": parts.chained(parts.control(n)) for n in (4, 8)}
    for control, steps in ((4, 5), (8, 10)):
        name = f"{control}+{steps}"
        made[f"confiner {name}"] = parts.refined(control, steps, both)
        made |= ends(parts, control, steps)
    for control, steps in ((4, 5), (8, 10), (4, 10), (8, 5)):
        for timestep in (50, 200, 300, 500) if (control, steps) in ((4, 5), (8, 10)) else (300, 500):
            made[f"confiner {control}+{steps} T_e {timestep}"] = parts.refined(control, steps, both, timestep)
    made |= ends(parts, 8, 10, 300) | ends(parts, 8, 10, 500)
    made |= baselines(parts) | variants(parts)
    deep = {"confiner 4+10 T_e 500": made["confiner 4+10 T_e 500"], **ends(parts, 4, 10, 500)}
    shallow = {name: made[name] for name in ("confiner 4+5", "only S 4+5", "only T 4+5")}
    return made | {OPEN + name: recipe for name, recipe in (shallow | deep).items()}


def ends(parts: Parts, control: int, steps: int, timestep: int = 100) -> dict[str, Recipe]:
    """One expert alone refines: the two ends between which coordination stands."""
    name = f"{control}+{steps}" + ("" if timestep == 100 else f" T_e {timestep}")
    return {
        f"only S {name}": parts.refined(control, steps, parts.spatial, timestep),
        f"only T {name}": parts.refined(control, steps, parts.temporal, timestep, parts.temporal),
    }


def baselines(parts: Parts) -> dict[str, Recipe]:
    return {
        "alternating 4+5": parts.refined(4, 5, parts.pair("alternating")),
        "x0 average 4+5": parts.refined(4, 5, parts.pair("averaged")),
        "S-T 4+5": parts.refined(4, 5, parts.pair("relayed")),
    }


def variants(parts: Parts) -> dict[str, Recipe]:
    """Fewer calls than three per step; and, last, one noise per pass, and the paper's clock.

    In "then S" the last of five steps, from noise share .12 to the video, is the spatial expert's alone.
    """
    relayed = parts.pair("relayed", derived=True)
    return {
        "S-T then S 4+5": parts.refined(4, 5, {"blended": {"above 0.14": relayed, "else": parts.spatial}}),
        "T then S 4+5": parts.refined(4, 5, {"blended": {"above 0.14": parts.temporal, "else": parts.spatial}}),
        "S-T derived 4+5": parts.refined(4, 5, relayed),
        "T-S 4+5": parts.refined(4, 5, parts.pair("temporal_first")),
        "T-S 8+10": parts.refined(8, 10, parts.pair("temporal_first")),
        "fused 4+5": parts.refined(4, 5, parts.pair("fused")),
        "skipping .05 4+5": parts.refined(4, 5, parts.pair("skipping", tau=0.05)),
        "skipping .2 4+5": parts.refined(4, 5, parts.pair("skipping", tau=0.2)),
        "first step 4+5": parts.refined(4, 5, parts.pair("coordinated", steps=[1])),
        "first three 4+5": parts.refined(4, 5, parts.pair("coordinated", steps=[1, 2, 3])),
        "fixed noise 4+5": parts.refined(4, 5, parts.pair("coordinated", noise="fixed")),
        "paper's clock 4+5": parts.refined(4, 5, parts.pair("coordinated", clock="index")),
    }


CHEAPER = (
    "S-T then S 4+5",
    "T then S 4+5",
    "S-T derived 4+5",
    "T-S 4+5",
    "fused 4+5",
    "skipping .05 4+5",
    "skipping .2 4+5",
    "first step 4+5",
    "first three 4+5",
)
"""Variants that may replace the default if they are as good."""
