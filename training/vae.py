"""Train the sprites' KL-VAE (8x down, 16 channels), in pieces of any length: run it again and it goes on.

    python training/vae.py --work DIR --minutes 9 --shallow      first a 4x one, which learns sooner,
    python training/vae.py --work DIR --minutes 10               then the deep one, grown from it
    python training/vae.py --work DIR --minutes 40 --steady      and a decoder of its own, over the same encoder

Each piece ends with a falling rate and writes DIR/vae, with the scaling factor that gives latents unit
variance. Once experts are trained on a latent space its encoder must not change any more. The steady
decoder, which begins as the other one (or, with --start shipped, as the package's), goes to DIR/vae-steady.
It learns from latents as experts draw them, too: without an object or with one that is too large, and with
a background that has moved as a whole.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from networks import CHANNELS, LOUDNESS, WEIGHTS
from torch import Tensor
from torch.nn.functional import mse_loss

from dovetail.sprites.degrade import degrade
from dovetail.sprites.world import Ask, Dice, Scene, backdrop, imagine, render

WIDTHS = (16, 32, 32, 64)
SHALLOW = 4
"""Latent channels of the 4x VAE: as many numbers per frame as the 8x one has with 16."""
RATE, BATCH, SCENES = 1e-3, 16, 3000
KL = 1e-4
FRAMES = 4
"""Frames of each scene."""
FLASH, STRAY = 1.5, 0.25
"""How far backgrounds move at most, as a multiple of what another frame of their scene has them moved, and besides."""
FOCUS = 4.0
"""How much more a pixel of the object weighs than one of the background."""


def autoencoder(shallow: bool = False) -> AutoencoderKL:
    widths = WIDTHS[:-1] if shallow else WIDTHS
    levels = len(widths)
    return AutoencoderKL(
        latent_channels=SHALLOW if shallow else CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def grown(shallow: AutoencoderKL) -> AutoencoderKL:
    """The deep autoencoder, its outer levels those of a trained shallow one."""
    deep = autoencoder()
    ours, theirs = deep.state_dict(), shallow.state_dict()
    inner = len(WIDTHS) - len(shallow.config.block_out_channels)
    renamed = {}
    for name, value in theirs.items():
        if name.startswith("decoder.up_blocks."):
            block = int(name.split(".")[2])
            name = name.replace(f"up_blocks.{block}", f"up_blocks.{block + inner}", 1)
        renamed[name] = value
    fitting = {name: value for name, value in renamed.items() if name in ours and ours[name].shape == value.shape}
    deep.load_state_dict({**ours, **fitting})
    return deep


def pictures(seed: int, scenes: int = SCENES, odd: bool = False) -> tuple[Tensor, Tensor]:
    """FRAMES frames each of many scenes, uint8 "n c h w", and where their object is, bool "n 1 h w".

    One scene in four is degraded, as the temporal expert's videos are; one in three is `unlikely`, if `odd`.
    """
    made, places = [], []
    for i in range(scenes):
        number = seed * 1_000_000 + i
        scene = imagine(Ask(), number)
        frames = unlikely(scene, number) if odd and i % 3 == 2 else render(scene, (0, 30, 70, 110))
        places.append((frames - backdrop(scene)).abs().amax(1, keepdim=True) > 0.1)
        made.append(bytes_of(degrade(frames) if i % 4 == 0 else frames))
    return torch.cat(made), torch.cat(places)


def unlikely(scene: Scene, seed: int) -> Tensor:
    """A scene's frames in which its object is missing, too small, as large as a pulse ever is, or larger, anywhere.

    Experts draw such frames at times, and a decoder that has hardly seen any shows all of their background in another
    colour: what its group norms measure is then another thing.
    """
    dice, frames = Dice(seed), [backdrop(scene)[None]]
    for smallest, largest in ((0.1, 0.35), (0.5, 0.7), (0.7, 0.85)):
        size, x, y = dice.uniform(smallest, largest), dice.uniform(-1, 1), dice.uniform(-1, 1)
        frames.append(render(replace(scene, motion="still", radius=size, x=x, y=y), (0,)))
    return torch.cat(frames)


def flashed(codes: Tensor) -> Tensor:
    """Latents "(s f) c h w" of scenes' frames, in three of five of which all places have moved: as far as the border of
    another frame of the scene has them moved, or farther, and a little any way.

    What a background's latents are hangs on how large the object is, since the encoder has group norms too. Experts are
    not as exact about that as the encoder, and to hold windows to each other takes it from them.
    """
    scenes = rearrange(codes, "(s f) c h w -> s f c h w", f=FRAMES)
    apart = (scenes.roll(1, 1) - scenes).flatten(0, 1)
    border = torch.cat([apart[..., 0, :], apart[..., -1, :], apart[..., 1:-1, 0], apart[..., 1:-1, -1]], -1)
    moved = border.median(-1).values[..., None, None] * FLASH * _sometimes(codes)
    return codes + moved + STRAY * torch.randn_like(codes[..., :1, :1]) * _sometimes(codes)


def _sometimes(codes: Tensor) -> Tensor:
    """From 0 to 1 for three latents of five, 0 for the others."""
    much, often = torch.rand(2, len(codes), 1, 1, 1, device=codes.device)
    return much * (often < 0.6)


def bytes_of(frames: Tensor) -> Tensor:
    return ((frames + 1) * 127.5).round().byte()


def floats_of(frames: Tensor) -> Tensor:
    return frames.float() / 127.5 - 1


def begun(state: Path, shallow: bool = False, origin: Path | None = None) -> AutoencoderKL:
    """The autoencoder as the last piece left it, or else the one in a folder to begin with, or a new one."""
    vae = autoencoder(shallow)
    if state.exists():
        vae.load_state_dict(torch.load(state, weights_only=True, map_location="cpu"))
    elif origin is not None:
        vae = AutoencoderKL.from_pretrained(origin, torch_dtype=torch.float32)
    elif not shallow and (first := state.with_name("shallow.pt")).exists():
        vae = grown(begun(first, shallow=True))
    return vae


def train(work: Path, minutes: float, name: str, seed: int, device: str, start: str | None = None) -> None:
    """name: shallow, vae, or vae-steady, whose decoder alone learns."""
    state, steady = work / f"{name}.pt", name == "vae-steady"
    origin = (WEIGHTS if start == "shipped" else work) / "vae"
    vae = begun(state, name == "shallow", origin if steady else None)
    vae.to(device, memory_format=torch.channels_last)
    (shown, places), held = pictures(seed, odd=steady), floats_of(pictures(999, 64, odd=steady)[0]).to(device)
    learning = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if steady else [*vae.parameters()]
    for parameter in set(vae.parameters()) - set(learning):
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(learning, RATE, betas=(0.9, 0.99), weight_decay=0)
    begin, step, spent = time.time(), 0, 0.0
    while spent < 1:
        spent = min(1.0, (time.time() - begin) / (60 * minutes))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100, (1 - spent) / 0.5)
        picks = torch.randint(len(shown), (BATCH,)) if not steady else whole_scenes(len(shown))
        x = floats_of(shown[picks]).to(device, memory_format=torch.channels_last)
        weight = 1 + FOCUS * places[picks].to(device)
        seen = vae.encode(x).latent_dist
        codes = seen.sample()
        y = vae.decode(flashed(codes) if steady else codes).sample
        error = (y - x).abs()
        loss = ((error + 0.5 * error.square()) * weight).mean() + KL * seen.kl().mean() / seen.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0 or spent >= 1:
            with (work / f"{name}.jsonl").open("a") as log:
                log.write(
                    json.dumps({"step": step, "minutes": round(spent * minutes, 1), "psnr": psnr(vae, held)}) + "\n"
                )
            torch.save(vae.state_dict(), state)
    if name != "shallow":
        save(vae, held, work / name, origin if steady else work / name)


def whole_scenes(count: int) -> Tensor:
    """A batch of all frames of each of its scenes."""
    scenes = torch.randint(count // FRAMES, (BATCH // FRAMES, 1))
    return (FRAMES * scenes + torch.arange(FRAMES)).flatten()


@torch.no_grad()
def psnr(vae: AutoencoderKL, held: Tensor) -> float:
    seen = vae.decode(vae.encode(held).latent_dist.mean).sample.clamp(-1, 1)
    return round(-10 * float(torch.log10(mse_loss(seen, held) / 4)), 2)


@torch.no_grad()
def save(vae: AutoencoderKL, held: Tensor, folder: Path, like: Path) -> None:
    """Into the folder, with the scaling factor of the one that it is like, if that is there."""
    latents = vae.encode(held).latent_dist.mean
    known = json.loads((like / "config.json").read_text())["scaling_factor"] if like.exists() else None
    vae.register_to_config(scaling_factor=known or round(LOUDNESS / float(latents.std()), 5))
    vae.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--shallow", action="store_true", help="train the 4x autoencoder that the 8x one grows from")
    parser.add_argument("--steady", action="store_true", help="train the steady decoder, the encoder as it is")
    parser.add_argument("--start", choices=("shipped",), help="begin the steady one with the package's vae")
    parser.add_argument("--seed", type=int, default=0, help="of the training pictures: another one shows fresh scenes")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    name = "shallow" if args.shallow else "vae-steady" if args.steady else "vae"
    train(args.work, args.minutes, name, args.seed, args.device, args.start)


if __name__ == "__main__":
    main()
