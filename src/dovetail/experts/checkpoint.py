"""Where weights lie: a folder, the sprites that ship with the package, or a repository on the hub."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dovetail.errors import WeightsError, nearest
from dovetail.experts.cache import snapshot
from dovetail.experts.pins import is_repo, pin, repo_and_file, unpinned
from dovetail.experts.refusals import refusals
from dovetail.experts.single_file import OWN, USUAL_BASE, SingleFile, hollow, single
from dovetail.experts.soundness import again, brought, making, shards, sound
from dovetail.experts.tensors import PICKLES, is_file, keys_of, opened

OLD = (".bin", ".ckpt")
"""Ends of weights that are brought of a repository where a part has no .safetensors, the first before the second."""

VARIANTS = ("fp16", "bf16", "fp32", "non_ema", "ema")


@dataclass(frozen=True)
class Location:
    """Where weights are asked for.

    weights: "sprites/NAME" (packaged), a folder, "OWNER/REPO", or one file (a path, or "OWNER/REPO/FILE"); what is
    the hub's may say its revision (see `pins`). subfolder: of the one part that is meant, where it is not the usual. base:
    for one file, the checkpoint that has what it does not hold. revision, variant: of `weights`.
    """

    weights: str
    subfolder: str | None = None
    base: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A folder in diffusers' layout, one subfolder per part. weights, revision: the name it was asked by."""

    weights: str
    path: Path
    variant: str | None = None
    revision: str | None = None

    @property
    def asked(self) -> tuple[str, str | None, str | None]:
        """Weights, revision and variant."""
        return self.weights, self.revision, self.variant

    def part(self, name: str, where: str = "") -> Path:
        """The folder of a part, "" being the checkpoint itself. Raises WeightsError if it is not there.

        where: the end of that error's message, how to get the part.
        """
        folder = self.path / name
        if not folder.is_dir():
            what = f"no {name}/" if name else "none of a model's files"
            raise WeightsError(f"'{self.weights}' has {what} ({folder}){self._instead()}. {where}".strip())
        return folder

    def _instead(self) -> str:
        """What is there, for who expected something else, and how to get that."""
        # Of a repository without any of the files that were asked for, there is no folder either.
        there = sorted(self.path.iterdir()) if self.path.is_dir() else []
        if parts := [entry.name for entry in there if (entry / "config.json").is_file()]:
            return f"; it has {', '.join(f'{part}/' for part in parts)}. {brought(*self.asked)}"
        return (
            f": it is no model in diffusers' layout, which has a folder for each part (unet/ or transformer/, text_encoder/, "
            f"tokenizer/, scheduler/, vae/), each with its config; there is {', '.join(entry.name for entry in there[:6]) or 'nothing'}. "
            f"{brought(*self.asked)}"
        )

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """A part's config. Raises WeightsError if it is not there, or no config."""
        path = self.path / name / file
        if not path.is_file():
            raise WeightsError(f"'{self.weights}' has no {name}/{file} ({path}){self._instead()}")
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightsError(f"{path} is damaged: it is no JSON ({error}). {again(*self.asked)}") from None
        if not isinstance(found, dict):
            raise WeightsError(f"{path} is damaged: it names no values, but is {found!r:.40}. {again(*self.asked)}")
        return found

    def making(self, name: str, what: str, file: str = "config.json") -> AbstractContextManager[None]:
        """A context for the code, and no other, that makes `what` of a part's config; see `soundness.making`."""
        return making(what, self.path / name / file, again(*self.asked))

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a part."""
        return (self.path / name).is_dir()

    def file(self, name: str) -> Path:
        """A part's weights file (the first, if there are several): safetensors, or else a pickle that holds nothing but
        tensors. Raises WeightsError without one, and for one that is damaged or lacks another."""
        folder = self.part(name)
        if kept := sorted(f for f in folder.glob("*.safetensors") if _variant(f.name) == (self.variant or "")):
            what = f"{name or 'the folder'} of '{self.weights}'"
            shards(folder, kept, what, *self.asked)
            sound(kept, what, *self.asked)
            return kept[0]
        pickles = [f for f in folder.iterdir() if f.suffix in PICKLES and _variant(f.name) == (self.variant or "")]
        if pickles:
            keys_of(min(pickles))
            return min(pickles)
        there = sorted(f.name for f in folder.iterdir() if f.is_file())
        what = f"variant '{self.variant}'" if self.variant else "weights"
        where = f"{name}/" if name else "its folder"
        kinds = sorted({_variant(file) or "null" for file in there if is_file(file)})
        hint = f"; variant: {' or '.join(kinds)} takes what is there (--set experts.NAME.variant=..)" if kinds else ""
        raise WeightsError(
            f"'{self.weights}' has no {what} in {where}: no such .safetensors among {', '.join(there) or 'no files'}{hint}"
        )

    def tensors(self, name: str, starts: tuple[str, ...]) -> dict[str, Tensor]:
        """A part's tensors whose names begin so, of its first file; none if there is no file, in whatever variant."""
        files = [f for f in self.path.glob(f"{name}/*" if name else "*") if is_file(f.name)]
        if not files:
            return {}
        first = min(files, key=lambda f: (f.suffix != ".safetensors", _variant(f.name) != (self.variant or ""), f.name))
        sound([first], f"{name or 'the folder'} of '{self.weights}'", *self.asked)
        return opened(first, [key for key in keys_of(first) if key.startswith(starts)])


def _variant(file: str) -> str:
    """The variant that a weights file is of, "" for none.

    >>> [_variant(f"model{end}.safetensors") for end in ("", "-00001-of-00002", ".fp16", ".fp16-00001-of-00002")]
    ['', '', 'fp16', 'fp16']
    """
    _, _, rest = file.rpartition(".")[0].partition(".")
    return rest.partition("-")[0]


def here(weights: str) -> bool:
    """Whether weights lie on this machine under this name: packaged ones, a folder, a file."""
    return weights.startswith("sprites/") or Path(weights).expanduser().exists()


def own_folder(weights: str) -> bool:
    """Whether they are a folder that its user brought: not of the package, not one file, and not on the hub."""
    return here(weights) and not weights.startswith("sprites/") and not is_file(weights)


def nearby(weights: str) -> bool:
    """Whether weights are on this machine, or nowhere: the hub could have none of that name.

    >>> nearby("./missing"), nearby("~/missing.safetensors"), nearby("OWNER/REPO"), nearby("OWNER/REPO/FILE.safetensors")
    (True, True, False, False)
    """
    return here(weights) or not (repo_and_file(weights) if is_file(weights) else is_repo(weights))


def must_be(weights: str, where: str = "") -> None:
    """Raise WeightsError for what `find` will not take: a name that is no path on this machine and none that the hub
    could have, a GGUF file. `where` ends the message."""
    _no_gguf(weights)
    if nearby(weights) and not here(weights):
        raise _no_file(weights) if is_file(weights) else _nowhere(weights, where)


def config_at(checkpoint: Checkpoint | SingleFile, part: str) -> Path:
    """The file that a part's config is read from; for one file whose contents tell its config, that file."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.path / part / "config.json"
    base, asks = checkpoint.base, checkpoint.told or not checkpoint.holds(part)
    return config_at(base, part) if isinstance(base, Checkpoint) and asks and base.has(part) else checkpoint.file


def at_hand(at: Location, parts: Sequence[str]) -> Checkpoint | SingleFile | None:
    """A checkpoint as far as it is on this machine or in the hub's cache; None where it is in neither. Nothing is
    downloaded; for one file that is not here its `base` stands. Arguments and errors as for `find`."""
    if here(at.weights):
        return find(at, parts)
    if not is_file(at.weights):
        place = snapshot(*unpinned(at.weights, at.revision)) if is_repo(at.weights) else None
        return None if place is None else Checkpoint(at.weights, place, at.variant, at.revision)
    beside = None if at.base is None else at_hand(Location(at.base), parts)
    file = _cached_file(at.weights, at.revision)
    if file is None:
        return beside
    sound([file], f"'{at.weights}'", at.weights, at.revision)
    return replace(single(at.weights, file), base=beside, told=beside is not None)


def _cached_file(name: str, revision: str | None) -> Path | None:
    """Where OWNER/REPO/FILE is in the cache."""
    if (hub := repo_and_file(name)) is None or (place := snapshot(hub[0], unpinned(name, revision)[1])) is None:
        return None
    return place / hub[1] if (place / hub[1]).is_file() else None


def bring_configs(weights: str, revision: str | None, parts: Sequence[str], where: str = "") -> None:
    """Bring the configurations alone of a repository's parts into the cache. Raises WeightsError where the hub does not
    give them; `where` ends the message."""
    if not is_repo(weights):
        raise _nowhere(weights, where)
    _download(Location(weights, revision=revision), [], where, parts)


def find(at: Location, parts: Sequence[str], where: str = "") -> Checkpoint | SingleFile:
    """The checkpoint there, downloaded if it is the hub's. parts: the subfolders to download, or single files. Raises
    WeightsError if it is nowhere; `where` ends the message."""
    weights = at.weights
    _no_gguf(weights)
    if is_file(weights):
        return _completed(single(weights, find_file(weights, at.revision)), parts, at.base)
    if at.base is not None:
        raise WeightsError(f"'{weights}' is a checkpoint in itself, so it takes no base ('{at.base}'); leave it out")
    if weights.startswith("sprites/"):
        return Checkpoint(weights, _packaged(weights.removeprefix("sprites/")), at.variant)
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return Checkpoint(weights, folder, at.variant)
    if not is_repo(weights):
        raise _nowhere(weights, where)
    return Checkpoint(weights, _download(at, parts, where), at.variant, at.revision)


def _no_gguf(weights: str) -> None:
    if weights.lower().endswith(".gguf"):
        raise WeightsError(
            f"'{weights}' is a GGUF file, whose quantised tensors nothing here unpacks; take the .safetensors of the same "
            "model. What makes that smaller in memory: `store: float8`, or `quantize` for a folder, as an option of the expert"
        )


def _nowhere(weights: str, where: str) -> WeightsError:
    name, _, revision = weights.partition("@")
    if is_file(name) and (hub := repo_and_file(name)) is not None:
        where = f"The revision of a file stands after its repository: {pin('/'.join(hub), revision)}"
    return WeightsError(f"no weights at '{weights}': no such folder, and no hub id (OWNER/REPO). {where}".strip())


def _no_file(name: str) -> WeightsError:
    return WeightsError(f"no weights file '{name}': no such path, and no hub name (OWNER/REPO/FILE.safetensors)")


def _completed(file: SingleFile, parts: Sequence[str], base: str | None) -> SingleFile:
    """A file with the checkpoint that it goes with: the one that is named, or the usual one for a tokenizer. The first
    part is what it was named for."""
    if parts[0] in OWN:
        file.must_hold(parts[0])
    if base is None:
        if parts[0] in OWN:
            file.config(parts[0])  # Sizes that nobody knows are told before anything is fetched.
        missing = [part for part in parts if part in ("tokenizer", "text_encoder") and not file.holds(part)]
        if not missing:
            return file
        hint = (
            f"A file of weights holds no {missing[0]}, so it is taken from there; name another checkpoint that has "
            f"{'/ and '.join(missing)}/ as `base`"
        )
        return replace(file, base=find(Location(USUAL_BASE), missing, hint))
    if here(base):
        return replace(file, base=find(Location(base), parts), told=True)
    # Of what the file holds itself, only the configuration is asked.
    held = [part for part in parts if file.holds(part)]
    rest = [part for part in parts if part not in held]
    return replace(file, base=Checkpoint(base, _download(Location(base), rest, "", held)), told=True)


def _packaged(name: str) -> Path:
    shipped = Path(str(files("dovetail"))) / "sprites" / "weights"
    if not name or not (shipped / name).is_dir():
        known = [folder.name for folder in shipped.iterdir() if folder.is_dir()] if shipped.is_dir() else []
        hint = nearest(name, known) if known else "this installation ships none; training/ makes them"
        raise WeightsError(f"no packaged weights 'sprites/{name}' in {shipped}: {hint}")
    return shipped / name


def _download(at: Location, parts: Sequence[str], where: str, bare: Sequence[str] = ()) -> Path:
    """The folder of a repository with these parts, and with the configurations alone of the `bare` ones."""
    from huggingface_hub import snapshot_download

    repo, commit = unpinned(at.weights, at.revision)

    def fetched(parts: Sequence[str], end: str = ".safetensors", more: Sequence[str] = ()) -> Path:
        allow, ignore = patterns(parts, at.variant, end)
        allow = [*allow, *more]
        return Path(snapshot_download(repo, revision=commit, allow_patterns=allow, ignore_patterns=ignore))

    with refusals(at.weights, where, at.revision, at.variant):
        path = fetched(parts, more=[f"{part}/*.json" if part else "config.json" for part in bare])
        # Repositories that are old have their weights as pickles alone.
        for end in OLD:
            old = [part for part in parts if (path / part / "config.json").is_file() and not _weights(path / part)]
            path = fetched(old, end) if old else path
        return path


def patterns(
    parts: Sequence[str], variant: str | None, end: str = ".safetensors"
) -> tuple[list[str], list[str] | None]:
    """Patterns of the files that are taken of a repository, for these of its folders, and of those left out."""
    # A pattern cannot say "no second dot", so the other variants are named.
    others = None if variant else [f"*.{other}{dot}*" for other in VARIANTS for dot in ".-"]
    return [pattern for part in parts for pattern in _wanted(part, variant, end)], others


def _weights(folder: Path) -> bool:
    """Whether there are weights in a folder, of a kind that is looked for before another."""
    return any(file.suffix in (".safetensors", *OLD) for file in folder.iterdir())


def _wanted(part: str, variant: str | None, end: str = ".safetensors") -> list[str]:
    """Patterns of the files of a part, or of the one file that it names. In a pattern * also matches /, so at the top
    files are named from the start."""
    if part.endswith((".json", ".model")) or is_file(part):
        return [part]
    start = f"{part}/*" if part else "diffusion_pytorch_model"
    weights = [f"{start}.{variant}{end}", f"{start}.{variant}-*{end}"] if variant else [f"{start}*{end}"]
    return [*weights, *(f"{part}/*{end}" for end in (".json", ".txt", ".model"))] if part else [*weights, "config.json"]


def find_file(name: str, revision: str | None = None) -> Path:
    """A single file of weights: a path, or "OWNER/REPO/FILE.safetensors" on the hub."""
    from huggingface_hub import hf_hub_download

    path = Path(name).expanduser()
    if path.is_file():
        sound([path], f"'{name}'", name)
        return path
    if (hub := repo_and_file(name)) is None:
        raise _no_file(name)
    with refusals(name, revision=revision):
        found = Path(hf_hub_download(*hub, revision=unpinned(name, revision)[1]))
    sound([found], f"'{name}'", name, revision)
    return found


def model(kind: Any, checkpoint: Checkpoint | SingleFile, part: str, dtype: torch.dtype, **options: Any) -> Any:
    """A frozen model of diffusers or transformers from a part of a checkpoint. options: further ones of
    from_pretrained, which one file does not take.

    Raises WeightsError for weights that are missing, unsafe, damaged, incomplete, of other shapes, or of more blocks than
    the config makes. (Both libraries would fill what is missing with random numbers, leave out what is over, and only log
    it.)
    """
    if isinstance(checkpoint, SingleFile):
        if checkpoint.holds(part) or not isinstance(checkpoint.base, Checkpoint):
            if options:
                raise WeightsError(
                    f"'{checkpoint.weights}' is one file, which cannot be quantised as it is loaded; leave out quantize, or take "
                    "a folder in diffusers' layout (store: float8 works with both)"
                )
            with quietly():
                return checkpoint.model(kind, part, dtype)
        checkpoint = checkpoint.base
    file = checkpoint.file(part)
    where = f"{part or 'the folder'} of '{checkpoint.weights}'"
    # What quantises has errors of its own.
    with quietly(), nullcontext() if options else checkpoint.making(part, kind.__name__):
        try:
            found, info = kind.from_pretrained(
                checkpoint.path / part,
                dtype=dtype,
                use_safetensors=file.suffix == ".safetensors",
                variant=checkpoint.variant,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            with checkpoint.making(part, kind.__name__):
                hollow(kind, checkpoint.config(part))
            odd = (
                ". Its config.json and its weights are of different generations: take both from one revision of one repository"
                if re.search(r"shape|size mismatch", str(error))
                else ""
            )
            raise WeightsError(f"{where} cannot be loaded as {kind.__name__}: {error}{odd}") from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{where} lacks {len(missing)} tensors of a {kind.__name__}, the first is '{missing[0]}'")
    if over := further(info["unexpected_keys"], found.state_dict()):
        raise WeightsError(
            f"{where} holds {len(over)} tensors for which the {kind.__name__} that its config.json makes has no place, the "
            f"first is '{over[0]}': the weights have more blocks. Take both from one revision of one repository"
        )
    return found.requires_grad_(False).eval()


def further(over: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of the spare names that differ from known ones by a number alone: further blocks of the same kind.

    >>> further(["blocks.2.ff.weight", "position_ids"], ["blocks.0.ff.weight", "blocks.1.ff.weight"])
    ['blocks.2.ff.weight']
    """
    kinds = {re.sub(r"\.\d+\.", ".#.", name) for name in known}
    return sorted(name for name in over if re.sub(r"\.\d+\.", ".#.", name) in kinds)


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
