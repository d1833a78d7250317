"""What the oracle thinks of an expert in training, alone in our sampler.

    python training/score.py control --work DIR --steps 4 --prompts 24

Prompts are scenes the trainers never draw (their seeds start at 0; these at 10^9). Prints a line per score with
its 95 % interval: Wilson's for shares of prompts that are right, else by a bootstrap over prompts; and how much
of the prompt fidelity is reached that renders of the same scenes have after the autoencoder, drawn as the expert
is taught. All of it is appended to DIR/NAME/score.jsonl as one JSON line; --sheet FILE.png shows the first videos,
a row each. `ceiling` and `degraded-ceiling` are such renders themselves, sharp and as the temporal expert is taught.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from experts import Trainee, predict
from networks import CELLS, CHANNELS, SHIFT, SHIPS, SPECS, scheduler
from PIL import Image
from text import LENGTH, tokenizer
from torch import Tensor

from dovetail.core.combine import Guided
from dovetail.core.denoiser import Condition, Expert, Target, predicts_flow, predicts_v, timeline
from dovetail.core.ladders import Ladder, shifted
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, last, sample
from dovetail.core.schedules import schedule_of
from dovetail.eval.stats import Cells, Interval, wilson
from dovetail.experts.schedulers import ladder_of
from dovetail.sprites.degrade import degrade
from dovetail.sprites.oracle import FrameVerdict, Verdict, average, judge, judge_frames
from dovetail.sprites.world import Ask, Scene, caption, imagine, render

HELD = 1_000_000_000

CEILINGS: dict[str, Callable[[Tensor], Tensor]] = {"ceiling": lambda frames: frames, "degraded-ceiling": degrade}

CEILING_OF = {"sharp": "ceiling", "degraded": "degraded-ceiling"}
"""The renders that an expert is compared with, by the kind of video that it is taught."""

Verdicts = Sequence[Verdict] | Sequence[FrameVerdict]


def expert(name: str, work: Path, quick: bool, ships: bool = False, device: str = "cpu") -> Expert:
    """The trainee's slow (or quick) weights behind the Expert contract, without the loading; or those that ship."""
    trainee = Trainee.new(name)
    trainee.load(work / (SHIPS.get(name, name) if ships else name) / "state.pt")
    net, words = (trainee.net if quick else trainee.slow).eval().to(device), tokenizer()

    def network(x: Tensor, time: float, conditions: tuple[Condition, ...], frames: Tensor) -> Tensor:
        ids = words([c.text for c in conditions], padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
        text = net["text"](torch.tensor(ids, device=device)).last_hidden_state
        return predict(net["unet"], x.to(device), torch.full((len(x),), time, device=device), text).to(x.device)

    return Expert(name, schedule_of(plan(name)), speaks(name), network)


def speaks(name: str) -> Target:
    """What an expert of training predicts."""
    return predicts_v if SPECS[name].betas else predicts_flow


def plan(name: str) -> dict[str, object]:
    """The config of an expert's scheduler."""
    made = scheduler(SPECS[name])
    return dict(made.config) | {"_class_name": type(made).__name__}


def ladder(name: str, steps: int) -> Ladder:
    """Steps from noise to video. A flow's as our recipes have them: diffusers' own spend the last one at next to 0."""
    return ladder_of(plan(name), steps) if SPECS[name].betas else shifted(steps, SHIFT)


@torch.no_grad()
def videos(one: Expert, prompts: list[str], steps: int, guidance: float, vae: AutoencoderKL) -> list[Tensor]:
    """A video "f c h w" per prompt."""
    spec, made = SPECS[one.name], []
    levels = ladder(one.name, steps)
    for i, prompt in enumerate(prompts):
        frames = timeline(spec.frames)
        x = levels.first * Noise(HELD + i).like(torch.zeros(1, CHANNELS, spec.frames, CELLS, CELLS), frames, "start")
        denoise = Guided(one.given(prompt), one.given(""), guidance) if guidance != 1 else one.given(prompt)
        x0 = last(sample(denoise, x, frames, levels.levels, Euler())).seen.x0
        shown = x0[0].transpose(0, 1).to(vae.device) / vae.config.scaling_factor
        made.append(vae.decode(shown).sample.clamp(-1, 1).cpu())
    return made


@torch.no_grad()
def renders(ceiling: str, scenes: list[Scene], vae: AutoencoderKL, frames: int = 16) -> list[Tensor]:
    """The scenes themselves through the autoencoder, a video "f c h w" for each."""
    drawn = (CEILINGS[ceiling](render(scene, range(frames))).to(vae.device) for scene in scenes)
    return [vae(video).sample.clamp(-1, 1).cpu() for video in drawn]


def judged(made: list[Tensor], asks: list[Ask]) -> Verdicts:
    """The oracle's verdict on each video, or on each still image."""
    if len(made[0]) == 1:
        return [judge_frames(video, asked)[0] for video, asked in zip(made, asks, strict=True)]
    return [judge(video, asked) for video, asked in zip(made, asks, strict=True)]


def score(name: str, made: list[Tensor], asks: list[Ask]) -> dict[str, float]:
    """The mean of each score, of videos "f c h w" of an expert's length."""
    return average(judged(made, asks))


def intervals(verdicts: Verdicts) -> dict[str, Interval]:
    """The mean of each score with its interval. A prompt has one video, so what is right of it is one trial."""
    rows: dict[str, list[float]] = {}
    for verdict in verdicts:
        for name, value in verdict.scores().items():
            rows.setdefault(name, []).append(value)
    return {
        name: wilson(sum(row) / len(row), len(row)) if name.endswith("_right") else cells(made=row).mean("made")
        for name, row in rows.items()
    }


def of_ceiling(made: Verdicts, ceiling: Verdicts) -> Interval:
    """Prompt fidelity as a share of that of renders of the same scenes."""
    both = cells(made=[one.prompt for one in made], ceiling=[one.prompt for one in ceiling])
    return both.interval(lambda means: means[..., 0] / means[..., 1])


def cells(**rows: list[float]) -> Cells:
    """Numbers of each prompt, by the name of what made them."""
    return Cells.of({name: {(i, 0): value for i, value in enumerate(row)} for name, row in rows.items()})


def line(name: str, settings: dict[str, object], found: dict[str, Interval]) -> str:
    """All of it as JSON: the means by name, and under `intervals` what holds each with 95 % confidence."""
    means = {key: one.value for key, one in found.items()}
    return json.dumps(
        {"expert": name, **settings, **means, "intervals": {key: [one.low, one.high] for key, one in found.items()}}
    )


def sheet(rows: list[Tensor], path: Path) -> None:
    """Every other frame of each video, a row each, at twice the size."""
    if len(rows[0]) == 1:
        across = min(8, len(rows))
        rows = [torch.cat(rows[i : i + across]) for i in range(0, len(rows) // across * across, across)]
    picture = torch.cat([torch.cat(list(row[:: max(1, len(row) // 8)]), -1) for row in rows], 1)
    image = Image.fromarray(((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*SPECS, *CEILINGS])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="the weights themselves, not their slow average")
    parser.add_argument("--ships", action="store_true", help="what ships of it, where that is distilled")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    scenes = [imagine(Ask(), HELD + i) for i in range(args.prompts)]
    asks = [scene.ask for scene in scenes]
    vae = AutoencoderKL.from_pretrained(args.work / "vae").eval().to(args.device)
    if args.name in CEILINGS:
        made = renders(args.name, scenes, vae)
        found = intervals(judged(made, asks))
    else:
        spec, one = SPECS[args.name], expert(args.name, args.work, args.quick, args.ships, args.device)
        made = videos(one, [caption(asked) for asked in asks], args.steps, args.guidance, vae)
        verdicts, best = judged(made, asks), judged(renders(CEILING_OF[spec.kind], scenes, vae, spec.frames), asks)
        found = intervals(verdicts) | {"prompt_of_ceiling": of_ceiling(verdicts, best)}
        settings = {name: getattr(args, name) for name in ("ships", "steps", "guidance", "prompts")}
        with (args.work / args.name / "score.jsonl").open("a") as log:
            log.write(line(args.name, settings, found) + "\n")
    print("\n".join(f"{name:<18}{one}" for name, one in found.items()))
    if args.sheet:
        sheet(made[:8] if len(made[0]) > 1 else made[:48], args.sheet)


if __name__ == "__main__":
    main()
