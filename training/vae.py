"""Train the sprites' KL-VAE (8x down, 16 channels), in pieces of any length: run it again and it goes on.

    python training/vae.py --work DIR --minutes 9 --shallow      first a 4x one, which learns sooner,
    python training/vae.py --work DIR --minutes 10               then the deep one, grown from it
    python training/vae.py --work DIR --minutes 30 --decoder     with the encoder as it is

Once experts are trained on a latent space its encoder must not change any more; the decoder may
still learn to draw sharper. Each piece ends with a falling rate and writes DIR/vae, with the scaling
factor that gives latents unit variance.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from networks import CHANNELS, LOUDNESS
from torch import Tensor
from torch.nn.functional import mse_loss

from dovetail.sprites.degrade import degrade
from dovetail.sprites.world import Ask, backdrop, imagine, render

WIDTHS = (16, 32, 32, 64)
SHALLOW = 4
"""Latent channels of the 4x VAE: as many numbers per frame as the 8x one has with 16."""
RATE, BATCH, SCENES = 1e-3, 16, 3000
KL = 1e-4
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


def pictures(seed: int, scenes: int = SCENES) -> tuple[Tensor, Tensor]:
    """Four frames each of many scenes, uint8 "n c h w", and where their object is, bool "n 1 h w".

    One scene in four is degraded, as the temporal expert's videos are.
    """
    made, places = [], []
    for i in range(scenes):
        scene = imagine(Ask(), seed * 1_000_000 + i)
        frames = render(scene, (0, 30, 70, 110))
        places.append((frames - backdrop(scene)).abs().amax(1, keepdim=True) > 0.1)
        made.append(bytes_of(degrade(frames) if i % 4 == 0 else frames))
    return torch.cat(made), torch.cat(places)


def bytes_of(frames: Tensor) -> Tensor:
    return ((frames + 1) * 127.5).round().byte()


def floats_of(frames: Tensor) -> Tensor:
    return frames.float() / 127.5 - 1


def begun(state: Path, shallow: bool) -> AutoencoderKL:
    """The autoencoder as the last piece left it, or else a new one."""
    vae = autoencoder(shallow)
    if state.exists():
        vae.load_state_dict(torch.load(state, weights_only=True, map_location="cpu"))
    elif not shallow and (first := state.with_name("shallow.pt")).exists():
        vae = grown(begun(first, shallow=True))
    return vae


def train(work: Path, minutes: float, shallow: bool, decoder_only: bool, seed: int, device: str) -> None:
    name = "shallow" if shallow else "vae"
    state = work / f"{name}.pt"
    vae = begun(state, shallow)
    vae.to(device, memory_format=torch.channels_last)
    (shown, places), held = pictures(seed), floats_of(pictures(999, 64)[0]).to(device)
    learning = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if decoder_only else [*vae.parameters()]
    for parameter in set(vae.parameters()) - set(learning):
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(learning, RATE, betas=(0.9, 0.99), weight_decay=0)
    begin, step, spent = time.time(), 0, 0.0
    while spent < 1:
        spent = min(1.0, (time.time() - begin) / (60 * minutes))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100, (1 - spent) / 0.5)
        picks = torch.randint(len(shown), (BATCH,))
        x = floats_of(shown[picks]).to(device, memory_format=torch.channels_last)
        weight = 1 + FOCUS * places[picks].to(device)
        seen = vae.encode(x).latent_dist
        y = vae.decode(seen.sample()).sample
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
    if not shallow:
        save(vae, held, work / "vae")


@torch.no_grad()
def psnr(vae: AutoencoderKL, held: Tensor) -> float:
    seen = vae.decode(vae.encode(held).latent_dist.mean).sample.clamp(-1, 1)
    return round(-10 * float(torch.log10(mse_loss(seen, held) / 4)), 2)


@torch.no_grad()
def save(vae: AutoencoderKL, held: Tensor, folder: Path) -> None:
    latents = vae.encode(held).latent_dist.mean
    known = json.loads((folder / "config.json").read_text())["scaling_factor"] if folder.exists() else None
    vae.register_to_config(scaling_factor=known or round(LOUDNESS / float(latents.std()), 5))
    vae.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--shallow", action="store_true", help="train the 4x autoencoder that the 8x one grows from")
    parser.add_argument("--decoder", action="store_true", help="leave the encoder, and so the latent space, as it is")
    parser.add_argument("--seed", type=int, default=0, help="of the training pictures: another one shows fresh scenes")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.work, args.minutes, args.shallow, args.decoder, args.seed, args.device)


if __name__ == "__main__":
    main()
