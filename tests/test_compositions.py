"""Any parts, in any nesting: recipes drawn at random over exact experts. What a recipe is not refused for it does, and what
it does obeys the laws of all recipes."""

import random
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import recipe as recipes
from dovetail.errors import DovetailError
from dovetail.recipe import Recipe
from dovetail.run import finished, keep, plan, play, resume
from dovetail.video import read

BASE = recipes.plain(recipes.load("sprites-exact"))
EXPERTS = {name: {**spec, "candidates": 8} for name, spec in BASE["experts"].items()}
VIDEO = {**BASE["video"], "height": 32, "width": 32}
PAIRS = ("coordinated", "relayed", "alternating", "averaged", "fused", "temporal_first")


class Drawn:
    """Recipes from one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def recipes(self) -> Iterator[Recipe]:
        """Those that are not refused."""
        for _ in count():
            try:
                recipe = recipes.checked(self.data())
                plan(recipe)
            except DovetailError:
                continue
            yield recipe

    def data(self) -> dict[str, Any]:
        pick = self.dice.choice
        chain = [self.stage("first"), *([self.stage("second")] if pick([True, False]) else [])]
        story = pick([None, None, {"events": ["it moves left", "it moves up"], "by": pick(["frame", "window"])}])
        video = {**VIDEO, "frames": pick([1, 2, 5, 9, 16, 20])}
        return {**BASE, "experts": EXPERTS, "video": video, "chain": chain, "story": story}

    def stage(self, name: str) -> dict[str, Any]:
        pick, window, steps = self.dice.choice, self.dice.choice([None, 4, 6, 8, 16]), self.dice.randint(1, 5)
        after = {"below": {"of": "temporal", "timestep": pick([100, 400]), "steps": steps}}
        ladder = pick([{"shifted": {"steps": steps, "shift": 3.0}}, {"trailing": {"of": "control", "steps": steps}}])
        made = {"stage": name, "ladder": ladder if name == "first" else after, "denoise": self.whole()}
        return made | {"solver": pick(["euler", "ancestral", "dpm++2m", "unipc"])} | self.windows(window)

    def windows(self, window: int | None) -> dict[str, Any]:
        if window is None:
            return {}
        pick, hop = self.dice.choice, self.dice.randint(1, window - 1)
        return {"window": window} | pick(
            [
                {},
                {"offset": hop, "ends": pick(["half", "full"])},
                {"hop": hop, "hold": self.hold()},
                {"hop": hop, "hold": self.hold(), "weights": pick(["triangle", "sine", "pyramid"])},
            ]
        )

    def hold(self) -> Any:
        pick = self.dice.choice
        places = {"within": 2.0, "objects": pick([0.0, 1.0]), "frames": pick([0.0, 1.0]), "below": pick([1.0, 0.8])}
        return pick([None, 1.0, places])

    def whole(self) -> Any:
        """A whole stage's: most often what may stand inside another, too."""
        word, part = self.dice.choice(["", "", "", "", "coherent", "reinjected", "onward", "probing"]), self.part(2)
        if word == "probing":
            return {word: {"large": part, "small": self.part(0)}}
        return {word: {"of": part}} if word else part

    def part(self, depth: int) -> Any:
        pick, size = self.dice.choice, self.dice.choice([4, 6, 8])
        if depth == 0 or pick([True, False, False]):
            return pick(["control", "temporal", {"expert": "temporal", "guidance": 2.5}, {"framewise": "spatial"}])
        of, stride = self.part(depth - 1), self.dice.randint(1, size)
        windows = {"of": of, "size": size, "stride": stride, "hold": self.hold()}
        again = {"floor": pick([0.0, 0.5, 0.9, "auto"]), "iterations": pick([0, 1, 3]), "anchor": pick([0.0, 0.5])}
        return pick(
            [
                {"framewise": of},
                {"windowed": {**windows, "first": pick([1.0, 0.1])}},
                {"coupled": {**windows, **again, "minibatch": pick([None, 2]), "keyframes": pick([0.0, 0.5])}},
                {"renoised": {"of": of, "floor": pick([0.5, 0.9])}},
                {"blended": {"above 0.7": of, "else": self.part(depth - 1)}},
                {pick(PAIRS): {"spatial": of, "temporal": self.part(depth - 1)}},
            ]
        )


FEW = [(0, 12), (1, 12), (2, 12)]
MANY = [pytest.param(seed, 150, marks=pytest.mark.slow) for seed in (3, 4, 5, 6)]


@pytest.mark.parametrize(("seed", "number"), [*FEW, *MANY])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_not_refused_is_made_as_planned_and_again_after_a_stop(seed: int, number: int, tmp_path: Path) -> None:
    drawn = Drawn(seed)
    for i, recipe in enumerate(islice(drawn.recipes(), number)):
        video, said = finished(play(recipe)), recipes.dump(recipe)
        assert video.frames.shape == (recipe.video.frames, 32, 32, 3), said
        assert video.pixels.isfinite().all(), said
        if not on_the_way(recipes.plain(recipe)["chain"]):
            assert video.settings["calls"] == {name: one.calls for name, one in plan(recipe).counts.items()}, said
        run, target = tmp_path / f"{i}.run", tmp_path / f"{i}.npz"
        events = keep(recipe, target, run)
        for _ in islice(events, drawn.dice.randint(1, 25)):
            pass
        events.close()  # type: ignore[attr-defined]
        for _ in resume(run):
            pass
        assert (read(target).frames == video.frames).all(), said


@pytest.mark.parametrize(("seed", "number"), [(10, 12), (11, 12), pytest.param(12, 150, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_windows_in_a_stream_are_windows_of_the_whole(seed: int, number: int) -> None:
    """Of any part, held or not: `hop` and `weights` of a stage are `windowed` around what it does."""
    pairs = ((recipe, jointly(recipe)) for recipe in Drawn(seed).recipes())
    for recipe, whole in islice(((one, other) for one, other in pairs if other is not None), number):
        streamed, joint = (finished(play(one)).pixels for one in (recipe, whole))
        torch.testing.assert_close(
            streamed, joint, atol=1e-3, rtol=1e-3, msg=lambda m, r=recipe: f"{m}\n{recipes.dump(r)}"
        )


def jointly(recipe: Recipe) -> Recipe | None:
    """The same with the windows of its first stage in its denoiser; None where these are not averaged. Noise that is drawn
    anew is drawn for what windows have in common, so that stays outermost."""
    data = recipes.plain(recipe)
    stage = data["chain"][0]
    denoise, size = stage["denoise"], stage["window"]
    word = next(iter(denoise)) if isinstance(denoise, dict) else ""
    if stage["hop"] is None or word in ("coherent", "reinjected", "onward", "probing"):
        return None
    windows = {"size": size, "stride": stage["hop"], "weights": stage["weights"], "hold": stage["hold"]}
    inner = denoise["renoised"]["of"] if word == "renoised" else denoise
    joint: Any = {"windowed": {"of": inner, **windows}}
    joint = {"renoised": {**denoise["renoised"], "of": joint}} if word == "renoised" else joint
    plain = {"window": None, "hop": None, "weights": "flat", "hold": None}
    try:
        return recipes.checked({**data, "chain": [{**stage, **plain, "denoise": joint}, *data["chain"][1:]]})
    except DovetailError:
        return None


def on_the_way(chain: Any) -> bool:
    """Whether it is found on the way who is asked."""
    if isinstance(chain, Mapping):
        return "probing" in chain or any(map(on_the_way, chain.values()))
    return chain == "auto" or (isinstance(chain, list) and any(map(on_the_way, chain)))
