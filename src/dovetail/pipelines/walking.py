"""Videos side by side: each takes a step before any takes the next, so that a callback sees them all."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dovetail.core.denoiser import timeline
from dovetail.core.noise import Noise
from dovetail.core.sampler import State, Walk, step
from dovetail.core.stages import Done, Sequel, Stage, entered
from dovetail.recipe import models
from dovetail.run.playing import Ready


@dataclass(frozen=True, eq=False)
class Given:
    """A stage's start that was given: unit noise for the whole video, "1 c f h w"."""

    noise: Tensor

    def eps(self, x: Tensor, frames: Tensor) -> Tensor:
        return self.noise.to(x)


@dataclass(frozen=True, eq=False)
class Place:
    """A step of a run: its number in the run and in its stage, and the stage's own, all from 0; whether it ends the
    stage; the experts that it may ask; and its timestep, as the expert counts that the stage's ladder is of."""

    number: int
    step: int
    stage: int
    ends: bool
    asked: frozenset[str]
    timestep: Tensor


def places_of(run: Ready) -> list[Place]:
    """All steps of a run."""
    names, found = [stage.name for stage in run.plan.stages], []
    for i, (name, number, _) in enumerate(run.plan.steps):
        stage = names.index(name)
        asked, ladder = run.recipe.chain[stage].ladder, run.plan.stages[stage].ladder
        assert isinstance(asked, models.Own | models.Below)  # The recipes of pipelines have no other ladders.
        timestep = torch.tensor(run.cast.experts[asked.of].schedule.native(ladder.levels[number - 1]))
        found.append(Place(i, number - 1, stage, number == ladder.steps, run.plan.asked[i], timestep))
    return found


@dataclass(frozen=True, eq=False)
class Way:
    """Where a video stands: its latent "1 c f h w" at the next level (at a stage's end its video), what was last seen
    to be the video, and what the solver remembers."""

    x: Tensor
    video: Tensor
    before: tuple[State, ...] = ()

    @classmethod
    def begin(cls, latent: tuple[int, int, int, int]) -> "Way":
        """Before the first step; latent: frames, channels, height and width."""
        frames, channels, height, width = latent
        nothing = torch.zeros(()).expand(1, channels, frames, height, width)
        return cls(nothing, nothing)

    def onward(self, stage: Stage, place: Place, noise: Noise) -> "Way":
        """After a step of a stage without windows, as `chain.run` takes it. noise: the run's."""
        frames, x, before = timeline(self.x.shape[2]), self.x, self.before
        if place.step == 0:
            x, before = entered(stage, noise.of(stage.name), Done(frames, x), fresh=place.stage == 0), ()
        t, to = stage.ladder.levels[place.step : place.step + 2]
        assert not isinstance(stage.denoise, Walk | Sequel)
        now, x, before = step(stage.denoise, x, frames, (t, to), stage.solver, before)
        return Way(x, now.seen.x0, before).at(now.seen.x0 if place.ends else x, place)

    def at(self, x: Tensor, place: Place) -> "Way":
        """With another latent after a step; that with which a stage ends is its video."""
        return replace(self, x=x, video=x if place.ends else self.video)


def starting_with(stages: tuple[Stage, ...], noise: Tensor | None) -> tuple[Stage, ...]:
    """Stages of which the first begins with the noise that is given, if any is."""
    return stages if noise is None else (replace(stages[0], start=Given(noise)), *stages[1:])
