"""A lesson that comes first: what the words of motion mean.

    python training/words.py control --work DIR --minutes 4

From the noisiest level, the answer is the mean of all clips that the words allow. It shows a direction
only as something odd in time and odd in place at once, whose sign hangs on the word. Such a product
begins with no slope at all, and the noise of usual training drowns its small beginnings for hours. So
here the network answers at the noisiest level alone, and the target is that mean itself, over all the
clips of a look and motion: within some hundred steps the direction is there, and usual training keeps it.

Needs pieces of few looks (training/pool.py --looks). Goes on from DIR/NAME/state.pt, as experts.py does.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import torch
from experts import Trainee, levels_at, predict
from networks import LOUDNESS, SPECS
from pool import load
from rivals import looks
from text import LENGTH, tokenizer
from torch import Tensor

from dovetail.sprites.world import DIRECTIONS, Ask, caption

CLIPS, LEVEL = 3, 999


def means(pools: Path, kind: str) -> dict[str, Tensor]:
    """The mean clip "c f h w" of each caption that names a direction, for looks with clips enough."""
    latents, _, asks = load(pools, kind)
    found: dict[Ask, list[int]] = defaultdict(list)
    for clips in looks(asks).values():
        for i in clips:
            if asks[i].motion in DIRECTIONS:
                found[asks[i]].append(i)
    if not found:
        raise ValueError(f"no look in {pools} has clips enough: run training/pool.py {kind} 1 --looks 8 first")
    return {caption(asked): latents[clips].float().mean(0).transpose(0, 1) for asked, clips in found.items()}


def turning(answer: Tensor, wanted: Tensor) -> float:
    """How much of what is odd in time is there in the answer: 1 all of it, 0 nothing. Clips are "b c f h w"."""
    ours, theirs = (clip - clip.flip(2) for clip in (answer.detach(), wanted))
    return float((ours * theirs).sum() / theirs.square().sum())


def teach(name: str, work: Path, minutes: float, device: str) -> None:
    known, words, dice = means(work / "pools", SPECS[name].kind), tokenizer(), torch.Generator().manual_seed(0)
    captions = list(known)
    trainee = Trainee.new(name)
    trainee.net.to(device)
    trainee.slow.to(device)
    if (work / name / "state.pt").exists():
        trainee.load(work / name / "state.pt")
    at = levels_at(name, torch.tensor([LEVEL]))
    alpha, sigma, to_eps, to_x0 = (float(part) for part in (at.alpha, at.sigma, at.to_eps, at.to_x0))
    begin, turned, lesson = time.time(), 0.0, 0
    while True:
        told = [captions[i] for i in torch.randint(len(captions), (CLIPS,), generator=dice)]
        ids = words(told, padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"].to(device)
        wanted = torch.stack([known[one] for one in told]).to(device)
        x = alpha * wanted + sigma * torch.randn(wanted.shape, generator=dice).to(device)
        time_ = torch.full((CLIPS,), LEVEL, device=device)
        answer = predict(trainee.net["unet"], x, time_, trainee.net["text"](ids).last_hidden_state)
        x0 = (to_eps * x - sigma * answer) / (to_eps * alpha + to_x0 * sigma)
        trainee.learn((x0 - wanted).square().mean() / LOUDNESS**2, 1.0)
        turned, lesson = 0.9 * turned + 0.1 * turning(x0, wanted), lesson + 1
        over = time.time() - begin >= 60 * minutes
        if lesson % 20 == 0 or over:
            print(json.dumps({"step": trainee.step, "turning": round(turned, 3)}), flush=True)
        if over:
            (work / name).mkdir(parents=True, exist_ok=True)
            # What the slow weights have averaged so far knew nothing of this.
            trainee.slow.load_state_dict(trainee.net.state_dict())
            return trainee.save(work / name / "state.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[name for name, spec in SPECS.items() if spec.frames > 1])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    teach(args.name, args.work, args.minutes, args.device)


if __name__ == "__main__":
    main()
