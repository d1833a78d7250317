"""Train a sprite expert, in pieces of any length: run it again and it goes on.

    python training/experts.py spatial --work DIR --minutes 30
    python training/experts.py control --work DIR --minutes 60 --start spatial
    python training/experts.py control --work DIR --minutes 20 --cool      the last piece: rate falls to 0
    python training/experts.py control --work DIR --minutes 60 --start shipped     go on from the package's weights

DIR holds the VAE (vae/), the pools (pools/) and one folder per expert: state.pt to go on from, and
log.jsonl with the error of the answer and of x0 per fifth of the timesteps.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from networks import LOUDNESS, PART, SHIFT, SPECS, WEIGHTS, Spec, network, scheduler
from optimizer import Optimizer
from pool import load
from rivals import expected, looks, means
from safetensors.torch import load_file
from text import LENGTH, text_model, tokenizer, told_apart
from torch import Tensor, nn

from dovetail.sprites.world import Ask, caption, forget

WARMUP, EMA = 100, 0.999
DROPOUT = 0.10
"""Share of examples trained without a caption, for guidance."""
FREE = 0.12
"""Share of attributes that captions leave out, of clips without rivals; those with rivals tell their look whole."""
FOCUS = 3.0
"""How much more the object's cells weigh than the background's, where there is no noise; from much noise the place is
not yet decided, and a weight that knows it would draw the object everywhere."""
RIVALS = 96
NOISIEST, UNDECIDED = 999, 500
"""The noisiest timestep, and the one down to which a sampler may still have the mean of several clips before it."""


@dataclass(eq=False)
class Trainee:
    """An expert in training: its network and text model, their slow averages, and the optimiser."""

    net: nn.ModuleDict
    slow: nn.ModuleDict
    optimizer: Optimizer
    step: int = 0

    @classmethod
    def new(cls, name: str) -> "Trainee":
        net, slow = (nn.ModuleDict({"unet": network(name), "text": text_model(len(tokenizer()))}) for _ in range(2))
        slow.load_state_dict(net.state_dict())
        return cls(net.train(), slow, Optimizer(net))

    def begin(self, known: dict[str, Tensor], of_stills: bool = False) -> None:
        """Take over what fits of another expert's weights: an image network's (`of_stills`), for a video network.

        Levels are counted from the outside, so that a deeper network takes over the outer ones.
        """
        ours = self.net.state_dict()
        known = outer_levels(known, ours)
        fitting = {k: v.float() for k, v in known.items() if k in ours and ours[k].shape == v.shape}
        self.net.load_state_dict(ours | fitting)
        if of_stills:
            told_apart(self.net["text"])
        self.slow.load_state_dict(self.net.state_dict())

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.slow.load_state_dict(state["slow"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self, path: Path) -> None:
        state = {"net": self.net.state_dict(), "slow": self.slow.state_dict(), "step": self.step}
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)

    def learn(self, loss: Tensor, rate: float) -> None:
        """One step down the loss; `rate` is relative, in [0, 1]."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step(rate * min(1.0, (self.step + 1) / WARMUP))
        self.step += 1
        keep = min(EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.slow.parameters()), list(self.net.parameters()), 1 - keep)


def outer_levels(known: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """`known` with its up blocks renamed so that the last of them is the last of `ours`."""

    def count(names: Iterable[str]) -> int:
        return len({name.split(".")[2] for name in names if name.startswith("unet.up_blocks.")})

    more, renamed = count(ours) - count(known), {}
    for name, value in known.items():
        parts = name.split(".")
        if parts[:2] == ["unet", "up_blocks"]:
            parts[2] = str(int(parts[2]) + more)
        renamed[".".join(parts)] = value
    return renamed


def weights_of(name: str, start: str, work: Path) -> dict[str, Tensor]:
    """The weights to start from: "shipped" is the package's own `name`, else an expert trained in DIR."""
    if start != "shipped":
        return torch.load(work / start / "state.pt", weights_only=True)["slow"]
    parts = {"unet": f"{PART[name]}/diffusion_pytorch_model", "text": "text_encoder/model"}
    files = {part: load_file(WEIGHTS / name / f"{path}.safetensors") for part, path in parts.items()}
    return {f"{part}.{key}": value for part, file in files.items() for key, value in file.items()}


@dataclass(frozen=True, eq=False)
class Batch:
    """latents "b c f h w", object places "b 1 f h w", token ids "b n", and the rivals "n c f h w" of each clip."""

    latents: Tensor
    places: Tensor
    ids: Tensor
    rivals: tuple[Tensor | None, ...]


def batches(spec: Spec, pools: Path, size: int, seed: int, device: str, free: float | None = None) -> Iterator[Batch]:
    """Examples without end. free: the share of attributes that captions of all clips leave out; see FREE for None."""
    latents, places, asks = load(pools, spec.kind)
    words, dice = tokenizer(), random.Random(seed)
    known: dict[str, list[int]] = {}

    families = looks(asks) if spec.frames > 1 else {}

    def ids(told: Ask | None) -> list[int]:
        said = "" if told is None else caption(told, apart=dice.random() < 0.3)
        if said not in known:
            known[said] = words(said, padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
        return known[said]

    def example(i: int, frames: list[int]) -> tuple[Tensor, Tensor, list[int], Tensor | None]:
        family, quiet = families.get(replace(asks[i], motion=None)), dice.random() < DROPOUT
        told, rivals = forget(asks[i], dice.getrandbits(48), FREE if free is None else free), None
        if family is not None:
            if free is None:
                told = asks[i] if told.motion else replace(asks[i], motion=None)
            alike = [j for j in family if quiet or told.motion in (None, asks[j].motion)]
            rivals = latents[dice.sample(alike, min(len(alike), RIVALS))][:, frames].transpose(1, 2)
        return latents[i, frames].transpose(0, 1), places[i, frames][None], ids(None if quiet else told), rivals

    while True:
        picks = [(dice.randrange(len(asks)), slice_of(spec.frames, latents.shape[1], dice)) for _ in range(size)]
        cut, where, said, rivals = zip(*(example(i, frames) for i, frames in picks), strict=True)
        yield Batch(
            torch.stack(cut).float().to(device),
            torch.stack(where).float().to(device),
            torch.tensor(said).to(device),
            rivals,
        )


def lessons(spec: Spec, pools: Path, size: int, seed: int, device: str) -> Iterator[Batch]:
    """What words say about motion, without chance: the mean clips of looks and motions, to be told from pure noise.

    A direction shows in such a mean as something odd in time and odd in place at once, whose sign hangs on the word. A
    product of three begins with no slope at all, and the noise of usual training drowns its small beginnings for hours.
    """
    latents, _, asks = load(pools, spec.kind)
    known, words, dice = means(latents, asks), tokenizer(), random.Random(seed)
    if not known:
        raise ValueError(f"no look in {pools} has clips enough: run training/pool.py {spec.kind} 1 --looks 8 first")
    nowhere = torch.zeros(size, 1, spec.frames, *latents.shape[-2:], device=device)
    while True:
        told = dice.choices(list(known), k=size)
        said = [caption(asked, apart=dice.random() < 0.3) for asked in told]
        ids = words(said, padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]
        clips = torch.stack([known[asked] for asked in told])
        yield Batch(clips.to(device), nowhere, ids.to(device), (None,) * size)


def slice_of(count: int, length: int, dice: random.Random) -> list[int]:
    """Consecutive frames of a scene."""
    first = dice.randint(0, length - count)
    return list(range(first, first + count))


def predict(unet: nn.Module, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The network's answer for a latent "b c f h w", whatever its family's calling convention."""
    if isinstance(unet, UNet2DConditionModel):
        return unet(x[:, :, 0], t, text).sample[:, :, None]
    per_frame = type(unet).__name__ == "UNetMotionModel"
    return unet(x, t, text.repeat_interleave(x.shape[2], 0) if per_frame else text).sample


@dataclass(frozen=True, eq=False)
class Levels:
    """Noise levels, one per example: native latent = alpha x0 + sigma eps; answer = to_eps eps - to_x0 x0."""

    times: Tensor  # in [0, 1000), as the network is told
    alpha: Tensor
    sigma: Tensor
    to_eps: Tensor
    to_x0: Tensor


@cache
def signals(name: str) -> Tensor:
    return scheduler(SPECS[name]).alphas_cumprod


def levels(name: str, size: int, generator: torch.Generator) -> Levels:
    """Noise levels to train on. Half of a video expert's are high, where words decide on the motion; control's high
    ones are the first of 8 trailing steps."""
    spec = SPECS[name]
    if spec.betas is None:
        even = torch.rand(size, generator=generator)
        return levels_at(name, 1000 * SHIFT * even / (1 + (SHIFT - 1) * even))
    times = torch.randint(0, 1000, (size,), generator=generator)
    if spec.frames > 1:
        high = torch.randint(650, 1000, (size,), generator=generator)
        if name == "control":
            high = torch.randint(6, 9, (size,), generator=generator) * 125 - 1
        times = torch.where(torch.rand(size, generator=generator) < 0.5, high, times)
    return levels_at(name, times)


def levels_at(name: str, times: Tensor) -> Levels:
    """The levels of times in [0, 1000), in an expert's own schedule and for what it predicts."""
    if SPECS[name].betas is None:
        t, even = times / 1000, torch.ones(len(times))
        return Levels(times, 1 - t, t, even, even)
    signal = signals(name)[times]
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    return Levels(times, alpha, sigma, alpha, sigma)


def undecided(batch: Batch, at: Levels, share: float, generator: torch.Generator) -> Tensor:
    """The batch's clips, a share of them drawn to the mean of their rivals, where there is much noise.

    A sampler begins with that mean, and has to leave it: the phase of a pulse, of which every one is as likely. Noised
    clips never show such a latent, so a network that has seen no other takes it for a thing that stands still.
    """
    shown = batch.latents.clone()
    for i, (rivals, t) in enumerate(zip(batch.rivals, at.times.tolist(), strict=True)):
        if rivals is not None and t >= UNDECIDED and float(torch.rand(1, generator=generator)) < share:
            shown[i].lerp_(rivals.to(shown).mean(0), float(torch.rand(1, generator=generator)))
    return shown


def aims(x: Tensor, batch: Batch, at: Levels) -> Tensor:
    """What x0 is to be learned: the clip itself, or the mean of its rivals (and itself) as the latent has it."""
    found = []
    for one, clip, rivals, alpha, sigma in zip(x, batch.latents, batch.rivals, at.alpha, at.sigma, strict=True):
        if rivals is None:
            found.append(clip)
        else:
            found.append(expected(one, float(alpha), float(sigma), torch.cat([clip[None], rivals.to(clip)])))
    return torch.stack(found)


@torch.no_grad()
def answers(expert: Trainee, x: Tensor, at: Levels, ids: Tensor) -> Tensor:
    """What a trained expert answers where a trainee of the same schedule is asked."""
    text = expert.slow["text"](ids).last_hidden_state
    return predict(expert.slow["unet"], x, at.times.to(x.device), text).float()


def begun(name: str, work: Path, start: str | None, device: str, folder: Path | None = None) -> Trainee:
    """The trainee as its folder (DIR/NAME) has it, else with the weights to start from, else new."""
    trainee, state = Trainee.new(name), (folder or work / name) / "state.pt"
    state.parent.mkdir(parents=True, exist_ok=True)
    if start and not state.exists():
        of_stills = SPECS[name].frames > 1 and start in SPECS and SPECS[start].frames == 1
        trainee.begin(weights_of(name, start, work), of_stills)
    trainee.net.to(device)
    trainee.slow.to(device)
    if state.exists():
        trainee.load(state)
    return trainee


def train(
    name: str,
    work: Path,
    minutes: float,
    size: int,
    start: str | None = None,
    cool: bool = False,
    device: str = "cpu",
    fast: bool = False,
    share: float = 0.0,
    after: str | None = None,
    between: float = 0.0,
    rate: float = 1.0,
    free: float | None = None,
) -> None:
    if after is not None and SPECS[after].betas != SPECS[name].betas:
        raise ValueError(f"{name} can learn from an expert of its own schedule alone, and {after} has another")
    spec, folder = SPECS[name], work / name
    teacher = None if after is None else begun(after, work, None, device)
    trainee = begun(name, work, start, device)
    if fast:
        trainee.net["unet"].compile()
    generator = torch.Generator().manual_seed(trainee.step)
    begin, told, errors = time.time(), time.time(), Errors()
    taught = lessons(spec, work / "pools", size, trainee.step, device)
    for batch in batches(spec, work / "pools", size, trainee.step, device, free):
        at = levels(name, size, generator)
        if float(torch.rand(1, generator=generator)) < share:
            batch, at = next(taught), levels_at(name, torch.full((size,), NOISIEST))
        alpha, sigma, to_eps, to_x0 = (
            part.view(-1, 1, 1, 1, 1).to(device) for part in (at.alpha, at.sigma, at.to_eps, at.to_x0)
        )
        eps = torch.randn(batch.latents.shape, generator=generator).to(device)
        seen = trainee.net["text"](batch.ids).last_hidden_state
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            x = alpha * undecided(batch, at, between, generator) + sigma * eps
            answer = predict(trainee.net["unet"], x, at.times.to(device), seen).float()
        if teacher is not None:
            wanted = answers(teacher, x, at, batch.ids)
        else:
            x0 = aims(x, batch, at)
            wanted = to_eps * (x - alpha * x0) / sigma - to_x0 * x0
        error = (answer - wanted).square()
        # An error of x0 weighs as it would if the latents' own deviation were 1.
        weight = (alpha.square() + (sigma / LOUDNESS).square()) * (1 + FOCUS * alpha.square() * batch.places)
        spent = (time.time() - begin) / (60 * minutes)
        trainee.learn((error * weight).mean(), rate * (max(0.0, 1 - spent) if cool else 1.0))
        errors.note(at.times, error.detach().mean((1, 2, 3, 4)).cpu(), at.sigma.square())
        if time.time() - told > 60 or spent >= 1:
            told = time.time()
            line = {"step": trainee.step, "minutes": round((told - begin) / 60, 1), **errors.read()}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            trainee.save(folder / "state.pt")
        if spent >= 1:
            return


class Errors:
    """Running mean errors of the answer (v or flow) and of x0, per fifth of the timesteps (the cleanest first)."""

    def __init__(self) -> None:
        self.v: dict[int, float] = {}
        self.x0: dict[int, float] = {}

    def note(self, t: Tensor, error: Tensor, noise: Tensor) -> None:
        for step, v, x0 in zip(t.tolist(), error.tolist(), (noise * error).tolist(), strict=True):
            fifth = int(step) // 200
            self.v[fifth] = 0.97 * self.v.get(fifth, v) + 0.03 * v
            self.x0[fifth] = 0.97 * self.x0.get(fifth, x0) + 0.03 * x0

    def read(self) -> dict[str, list[float]]:
        return {k: [round(e[i], 4) for i in sorted(e)] for k, e in (("v", self.v), ("x0", self.x0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SPECS)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--size", type=int, help="examples per step (default: 64 images or 6 clips)")
    parser.add_argument("--start", help="an expert in DIR to begin with, or: shipped")
    parser.add_argument("--cool", action="store_true", help="let the learning rate fall to 0 in this piece")
    parser.add_argument("--lessons", type=float, default=0.0, help="share of steps on the words of motion alone")
    parser.add_argument("--between", type=float, default=0.0, help="share of noisy clips drawn to their rivals' mean")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the full learning rate, to go on gently")
    parser.add_argument("--free", type=float, help="share of attributes that captions of all clips leave out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fast", action="store_true", help="compile the network (takes minutes, then a third faster)")
    parser.add_argument("--after", help="learn what this expert of DIR, of the same schedule, answers")
    args = parser.parse_args()
    size = args.size or (64 if SPECS[args.name].frames == 1 else 6)
    train(
        args.name,
        args.work,
        args.minutes,
        size,
        start=args.start,
        cool=args.cool,
        device=args.device,
        fast=args.fast,
        share=args.lessons,
        after=args.after,
        between=args.between,
        rate=args.rate,
        free=args.free,
    )


if __name__ == "__main__":
    main()
