"""Distil a video expert, so that few steps without guidance do what many did with it.

    python training/distil.py control --work DIR --minutes 40 [--steps 4] [--guidance 3]
    python training/distil.py control --work DIR --minutes 40 --after flow-large --start shipped

Progressive distillation (Salimans & Ho, 2022, arXiv:2202.00512, Alg. 2) in one go: from noised
training clips at the student's own levels, the guided teacher takes SUBSTEPS steps down to the next
level, and the student learns the x0 that gets there in one. From pure noise the teacher takes BEGINNING steps: there
it is decided what captions leave open, and of that they leave more open here than in training. The teacher is DIR/NAME,
or another video expert (--after), whatever its schedule: both know the same latents. The student grows in
DIR/NAME-STEPS, and goes on when run again.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from experts import Errors, Trainee, batches, begun, predict
from networks import SPECS
from score import ladder, plan, speaks
from text import LENGTH, tokenizer
from torch import Tensor, nn

from dovetail.core.denoiser import Target
from dovetail.core.path import mix, split
from dovetail.core.schedules import Flow, Schedule, schedule_of

SUBSTEPS, BEGINNING = 2, 4
FREE = 0.3
"""Share of attributes that captions leave out."""


class Teacher:
    """A trained expert with guidance: x0 of a path latent at noise share t."""

    def __init__(self, name: str, work: Path, guidance: float, device: str) -> None:
        trainee = Trainee.new(name)
        trainee.load(work / name / "state.pt")
        self.net = trainee.slow.eval().to(device)
        self.schedule, self.target, self.guidance = schedule_of(plan(name)), speaks(name), guidance
        self.nothing = torch.tensor([tokenizer()("", padding="max_length", max_length=LENGTH)["input_ids"]]).to(device)

    @torch.no_grad()
    def __call__(self, x: Tensor, t: float, ids: Tensor) -> Tensor:
        both = torch.cat([self.nothing.expand(len(ids), -1), ids])
        away, through = x0_of(self.net, torch.cat([x, x]), t, both, self.schedule, self.target).chunk(2)
        return away.lerp(through, self.guidance)

    def down(self, x: Tensor, t: float, to: float, ids: Tensor) -> Tensor:
        """DDIM from t to `to` in some steps, evenly spaced in the schedule's own time."""
        steps = BEGINNING if t == 1 else SUBSTEPS
        end = 0.0 if isinstance(self.schedule, Flow) else -1.0  # of a table, one before its first row
        high, low = self.schedule.native(t), self.schedule.native(to) if to else end
        inner = [self.schedule.share(round(high + (low - high) * i / steps)) for i in range(1, steps)]
        for here, there in zip([t, *inner], [*inner, to], strict=True):
            x = split(x, self(x, here, ids), here).mix(there)
        return x


def x0_of(net: nn.ModuleDict, x: Tensor, t: float, ids: Tensor, schedule: Schedule, target: Target) -> Tensor:
    """What a network says x0 is, of path latents that share one t."""
    scale = schedule.scale(t)
    alpha, sigma = scale * (1 - t), scale * t
    native, (a, b) = scale * x, target(alpha, sigma)
    times = torch.full((len(x),), schedule.native(t), device=x.device)
    answer = predict(net["unet"], native, times, net["text"](ids).last_hidden_state)
    return (b * native - sigma * answer) / (b * alpha - a * sigma)


def aim(x: Tensor, t: float, reached: Tensor, to: float) -> Tensor:
    """The x0 whose one DDIM step from x at t lands where the teacher landed at `to`."""
    return (reached - to / t * x) / (1 - to / t)


def distil(
    name: str,
    work: Path,
    minutes: float,
    count: int,
    guidance: float,
    size: int,
    device: str,
    fast: bool = False,
    after: str | None = None,
    start: str | None = None,
) -> None:
    folder = work / f"{name}-{count}"
    teacher, student = Teacher(after or name, work, guidance, device), begun(name, work, start or name, device, folder)
    schedule, target, shares = schedule_of(plan(name)), speaks(name), ladder(name, count).levels
    if fast:
        teacher.net["unet"].compile()
        student.net["unet"].compile()
    generator = torch.Generator().manual_seed(student.step)
    begin, told, errors = time.time(), time.time(), Errors()
    for batch in batches(SPECS[name], work / "pools", size, student.step + 1, device, FREE):
        at = int(torch.randint(count, (1,), generator=generator))
        t, to = shares[at], shares[at + 1]
        eps = torch.randn(batch.latents.shape, generator=generator).to(device)
        # The first step starts from pure noise, as sampling does; the others from noised clips.
        x = eps / schedule.scale(t) if at == 0 else mix(batch.latents, eps, t)
        wanted = aim(x, t, teacher.down(x, t, to, batch.ids), to)
        error = (x0_of(student.net, x, t, batch.ids, schedule, target) - wanted).square()
        spent = (time.time() - begin) / (60 * minutes)
        student.learn(error.mean(), 0.3 * min(1.0, 2 * (1 - spent)))
        errors.note(torch.full((size,), at * 200), error.detach().mean((1, 2, 3, 4)).cpu(), torch.ones(size))
        if time.time() - told > 60 or spent >= 1:
            told = time.time()
            line = {"step": student.step, "minutes": round((told - begin) / 60, 1), "x0": errors.read()["x0"]}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            student.save(folder / "state.pt")
        if spent >= 1:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[name for name, spec in SPECS.items() if spec.frames > 1])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=4, help="the student's; it serves more steps too, less well")
    parser.add_argument("--guidance", type=float, default=3.0, help="of the teacher; the student needs none")
    parser.add_argument("--size", type=int, default=4, help="clips per step")
    parser.add_argument("--after", help="the teacher, a video expert of DIR (default: the one that is distilled)")
    parser.add_argument("--start", help="an expert in DIR for the student to begin with, or: shipped")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fast", action="store_true", help="compile the networks (takes minutes, then a third faster)")
    args = parser.parse_args()
    distil(
        args.name,
        args.work,
        args.minutes,
        args.steps,
        args.guidance,
        args.size,
        args.device,
        fast=args.fast,
        after=args.after,
        start=args.start,
    )


if __name__ == "__main__":
    main()
