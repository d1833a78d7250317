"""Pools of encoded clips: scenes drawn from the world, as latents with their words.

    python training/pool.py sharp 0 --vae DIR --out DIR      writes DIR/sharp-0.pt

A piece holds SCENES scenes of LENGTH consecutive frames. Pieces
differ by their number alone, so a trainer can be given fresh ones at any time.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dovetail.sprites.degrade import degrade
from dovetail.sprites.world import MOTIONS, Ask, backdrop, imagine, render

SCENES, LENGTH = 3750, 16


@torch.no_grad()
def piece(
    kind: str,
    number: int,
    vae: AutoencoderKL,
    scenes: int = SCENES,
    looks: int | None = None,
    motions: Sequence[str | None] = (None,),
) -> dict[str, object]:
    """latents "n f c h w" (scaled, float16), where the object is "n f h w" in [0, 1], and the asks.

    looks: how many there are in all; without it every scene has its own. See training/rivals.py.
    motions: which the scenes have, in turn; None is any.
    """
    latents, places, asks = [], [], []
    for i in range(scenes):
        seed = number * 1_000_000 + i + 1
        look = Ask() if looks is None else imagine(Ask(), seed=number + i % looks).ask
        motion = motions[i // (looks or 1) % len(motions)]
        scene = imagine(replace(look, motion=motion), seed)
        frames = render(scene, range(LENGTH))
        object_ = (frames - backdrop(scene)).abs().amax(1).gt(0.1).float()
        shown = degrade(frames) if kind == "degraded" else frames
        seen = vae.encode(shown.to(vae.device, memory_format=torch.channels_last)).latent_dist.mean
        latents.append((seen * vae.config.scaling_factor).half().cpu())
        places.append(avg_pool2d(object_, frames.shape[-1] // latents[-1].shape[-1]).half())
        asks.append(asdict(scene.ask))
    return {"latents": torch.stack(latents), "places": torch.stack(places), "asks": asks}


def load(folder: Path, kind: str) -> tuple[Tensor, Tensor, list[Ask]]:
    """Every piece of a kind that is there, joined."""
    pieces = [torch.load(path, weights_only=True) for path in sorted(folder.glob(f"{kind}-*.pt"))]
    if not pieces:
        raise FileNotFoundError(f"no {kind} pieces in {folder}: run training/pool.py {kind} 0 first")
    asks = [Ask(**ask) for piece in pieces for ask in piece["asks"]]
    return torch.cat([p["latents"] for p in pieces]), torch.cat([p["places"] for p in pieces]), asks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sharp", "degraded"])
    parser.add_argument("number", type=int)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--looks", type=int, help="so many looks in all, each in many motions (see rivals.py)")
    parser.add_argument("--motions", nargs="+", choices=MOTIONS, default=[None], help="these alone, in turn")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(args.vae).eval().to(args.device, memory_format=torch.channels_last)
    made = piece(args.kind, args.number, vae, looks=args.looks, motions=args.motions)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(made, args.out / f"{args.kind}-{args.number}.tmp")
    (args.out / f"{args.kind}-{args.number}.tmp").rename(args.out / f"{args.kind}-{args.number}.pt")


if __name__ == "__main__":
    main()
