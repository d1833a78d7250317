"""Where weights lie: a folder, the sprites that ship with the package, or a repository on the hub."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from dovetail.errors import WeightsError, nearest
from dovetail.experts.refusals import refusals
from dovetail.experts.soundness import again, shards, sound

UNSAFE = (".bin", ".pt", ".pth", ".ckpt")
VARIANTS = ("fp16", "bf16", "fp32", "non_ema", "ema")


@dataclass(frozen=True)
class Checkpoint:
    """A folder in diffusers' layout, one subfolder per part. weights: the name it was asked by."""

    weights: str
    path: Path
    variant: str | None = None

    def part(self, name: str, where: str = "") -> Path:
        """The folder of a part, "" being the checkpoint itself. Raises WeightsError if it is not there.

        where: the end of that error's message, how to get the part.
        """
        folder = self.path / name
        if not folder.is_dir():
            raise WeightsError(f"'{self.weights}' has no {name}/ ({folder}){self._instead()}. {where}".strip())
        return folder

    def _instead(self) -> str:
        """What is there, for who expected something else."""
        parts = sorted(entry.name for entry in self.path.iterdir() if (entry / "config.json").is_file())
        if parts:
            return f"; it has {', '.join(f'{part}/' for part in parts)}"
        found = sorted(entry.name for entry in self.path.iterdir())
        return (
            f": it is no model in diffusers' layout, which has a folder for each part (unet/ or transformer/, text_encoder/, "
            f"tokenizer/, scheduler/, vae/), each with its config; there is {', '.join(found[:6]) or 'nothing'}"
        )

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """A part's config. Raises WeightsError if it is not there."""
        path = self.path / name / file
        if not path.is_file():
            raise WeightsError(f"'{self.weights}' has no {name}/{file} ({path}){self._instead()}")
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightsError(f"{path} is damaged: it is no JSON ({error}). {again(self.weights)}") from None
        return found

    def safetensors(self, name: str) -> Path:
        """A part's weights file (the first, if there are several). Raises WeightsError without one, and for one that is
        damaged or lacks another."""
        folder = self.part(name)
        if kept := sorted(f for f in folder.glob("*.safetensors") if _variant(f.name) == (self.variant or "")):
            what = f"{name or 'the folder'} of '{self.weights}'"
            shards(folder, kept, what, self.weights)
            sound(kept, what, self.weights)
            return kept[0]
        there = sorted(f.name for f in folder.iterdir() if f.is_file())
        if any(file.endswith(UNSAFE) for file in there):
            raise WeightsError(
                f"'{self.weights}' has {f'{name}/' if name else 'its weights'} only as a pickle ({', '.join(f for f in there if f.endswith(UNSAFE))}), "
                "which can run any code when opened, so dovetail does not. Take a revision with .safetensors files, "
                "or convert it where you trust it: from_pretrained(...), then save_pretrained(..., safe_serialization=True)"
            )
        what = f"variant '{self.variant}'" if self.variant else "weights"
        raise WeightsError(
            f"'{self.weights}' has no {what} in {name}/: no such .safetensors among {', '.join(there) or 'no files'}"
        )


def _variant(file: str) -> str:
    """The variant that a weights file is of, "" for none.

    >>> [_variant(f"model{end}.safetensors") for end in ("", "-00001-of-00002", ".fp16", ".fp16-00001-of-00002")]
    ['', '', 'fp16', 'fp16']
    """
    _, _, rest = file.removesuffix(".safetensors").partition(".")
    return rest.partition("-")[0]


def find(weights: str, revision: str | None, variant: str | None, parts: Sequence[str], where: str = "") -> Checkpoint:
    """The checkpoint of this name on this machine, downloaded if it is a hub id.

    weights: "sprites/NAME" (packaged), a folder, or "OWNER/REPO". parts: the subfolders to download.
    Raises WeightsError if it is nowhere; `where` ends the message.
    """
    if weights.startswith("sprites/"):
        return Checkpoint(weights, _packaged(weights.removeprefix("sprites/")), variant)
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return Checkpoint(weights, folder, variant)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", weights) or weights.startswith("."):
        raise WeightsError(f"no weights at '{weights}': no such folder, and no hub id (OWNER/REPO). {where}".strip())
    return Checkpoint(weights, _download(weights, revision, variant, parts, where), variant)


def _packaged(name: str) -> Path:
    shipped = Path(str(files("dovetail"))) / "sprites" / "weights"
    if not name or not (shipped / name).is_dir():
        known = [folder.name for folder in shipped.iterdir() if folder.is_dir()] if shipped.is_dir() else []
        hint = nearest(name, known) if known else "this installation ships none; training/ makes them"
        raise WeightsError(f"no packaged weights 'sprites/{name}' in {shipped}: {hint}")
    return shipped / name


def _download(repo: str, revision: str | None, variant: str | None, parts: Sequence[str], where: str) -> Path:
    from huggingface_hub import snapshot_download

    with refusals(repo, where):
        allow, ignore = patterns(parts, variant)
        return Path(snapshot_download(repo, revision=revision, allow_patterns=allow, ignore_patterns=ignore))


def patterns(parts: Sequence[str], variant: str | None) -> tuple[list[str], list[str] | None]:
    """Patterns of the files that are taken of a repository, for these of its folders, and of those left out."""
    # A pattern cannot say "no second dot", so the other variants are named.
    others = None if variant else [f"*.{other}{end}*" for other in VARIANTS for end in ".-"]
    return [pattern for part in parts for pattern in _wanted(part, variant)], others


def _wanted(part: str, variant: str | None) -> list[str]:
    """Patterns of the files of a part. In a pattern * also matches /, so at the top files are named from the start."""
    start = f"{part}/*" if part else "diffusion_pytorch_model"
    weights = (
        [f"{start}.{variant}.safetensors", f"{start}.{variant}-*.safetensors"] if variant else [f"{start}*.safetensors"]
    )
    return [*weights, *(f"{part}/*{end}" for end in (".json", ".txt", ".model"))] if part else [*weights, "config.json"]


def find_file(name: str, revision: str | None = None) -> Path:
    """A single .safetensors file: a path, or "OWNER/REPO/FILE.safetensors" on the hub."""
    from huggingface_hub import hf_hub_download

    path = Path(name).expanduser()
    if path.is_file():
        sound([path], f"'{name}'", name)
        return path
    pieces = name.split("/", 2)
    if len(pieces) < 3 or not all(pieces):
        raise WeightsError(f"no weights file '{name}': no such path, and no hub name (OWNER/REPO/FILE.safetensors)")
    with refusals(name):
        found = Path(hf_hub_download("/".join(pieces[:2]), pieces[2], revision=revision))
    sound([found], f"'{name}'", name)
    return found


def model(kind: Any, checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> Any:
    """A frozen model of diffusers or transformers from a part of a checkpoint.

    Raises WeightsError for weights that are missing, unsafe, damaged, incomplete, or of other shapes. (Both
    libraries would fill what is missing with random numbers, and only log it.)
    """
    checkpoint.safetensors(part)
    where = f"{part or 'the folder'} of '{checkpoint.weights}'"
    try:
        with quietly():
            found, info = kind.from_pretrained(
                checkpoint.path / part,
                dtype=dtype,
                use_safetensors=True,
                variant=checkpoint.variant,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        odd = (
            ". Its config.json and its weights are of different generations: take both from one revision of one repository"
            if re.search(r"shape|size mismatch", str(error))
            else ""
        )
        raise WeightsError(f"{where} cannot be loaded as {kind.__name__}: {error}{odd}") from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{where} lacks {len(missing)} tensors of a {kind.__name__}, the first is '{missing[0]}'")
    return found.requires_grad_(False).eval()


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars of transformers, no advice of diffusers while they load: a run says what it does itself."""
    import diffusers.utils.logging
    from transformers.utils import logging

    shown, told = logging.is_progress_bar_enabled(), diffusers.utils.logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    diffusers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(told)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
