"""Write trained experts into the package, as diffusers folders in fp16 safetensors.

python training/export.py --work DIR [--only NAME ...]
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from networks import PART, SHIPS, SPECS, WEIGHTS, network, scheduler
from text import text_model, tokenizer

VAES = ("vae", "vae-steady")


def export(name: str, work: Path) -> None:
    """Network, text model, tokenizer and scheduler config; the VAE's config tells the latent space."""
    known = torch.load(work / SHIPS.get(name, name) / "state.pt", weights_only=True, map_location="cpu")["slow"]
    unet, text = network(name), text_model(len(tokenizer()))
    unet.load_state_dict({k[5:]: v for k, v in known.items() if k.startswith("unet.")})
    text.load_state_dict({k[5:]: v for k, v in known.items() if k.startswith("text.")})
    folder = WEIGHTS / name
    unet.half().save_pretrained(folder / PART[name])
    text.half().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    scheduler(SPECS[name]).save_pretrained(folder / "scheduler")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[*VAES, *SPECS])
    args = parser.parse_args()
    for name in args.only:
        if name in VAES:
            vae = AutoencoderKL.from_pretrained(args.work / name).half()
            vae.register_to_config(_name_or_path=f"sprites/{name}")  # else it names a folder of this machine
            vae.save_pretrained(WEIGHTS / name)
        else:
            export(name, args.work)
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    print(f"{WEIGHTS}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
