"""What the hub has of a model, what the cache has of it, and whether they agree.

The cache is huggingface_hub's own, laid out as that library documents it: models--OWNER--REPO/ with refs/BRANCH, the
commit of a branch; snapshots/COMMIT/, whose files are links; blobs/, where they lie under their digests (sha256 of a
large file, git's sha1 of a small one); and trees/COMMIT.json, the names, sizes and digests of all the commit's files.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dovetail.errors import WeightsError
from dovetail.experts.cache import commit_of, folder_of
from dovetail.experts.checkpoint import OLD, patterns
from dovetail.experts.pins import pin
from dovetail.experts.refusals import refusals
from dovetail.experts.tensors import is_file


@dataclass(frozen=True)
class Want:
    """What is taken of a repository. repo: OWNER/REPO. parts: folders, "" for a network that lies at the top, and files,
    which need not all be there; or file: one file alone. revision: a branch, tag or commit; None is main."""

    repo: str
    parts: tuple[str, ...] = ()
    file: str | None = None
    revision: str | None = None
    variant: str | None = None

    def patterns(self) -> tuple[list[str], list[str] | None]:
        """As huggingface_hub takes them: names that are taken, names that are not."""
        return ([self.file], None) if self.file is not None else patterns(self.parts, self.variant)

    def of(self, names: Iterable[str]) -> list[str]:
        """Those of a repository's files that are taken."""
        from huggingface_hub.utils import filter_repo_objects

        names = list(names)
        allow, ignore = self.patterns()
        found = set(filter_repo_objects(names, allow_patterns=allow, ignore_patterns=ignore))
        # Repositories that are old have their weights as pickles alone.
        for end in OLD:
            kept = [name for name in found if name.endswith((".safetensors", *OLD))]
            old = [part for part in self.parts if not any(_lies_in(part, name) for name in kept)]
            allow, ignore = patterns(old, self.variant, end)
            found |= set(filter_repo_objects(names, allow_patterns=allow, ignore_patterns=ignore))
        return sorted(found)

    def __str__(self) -> str:
        return self.repo if self.file is None else f"{self.repo}/{self.file}"

    @property
    def pinned(self) -> str:
        """The same with its revision, where one is asked for."""
        return pin(str(self), self.revision)


def _lies_in(part: str, name: str) -> bool:
    """Whether a file lies in a folder, "" being the top."""
    return name.rpartition("/")[0] == part


@dataclass(frozen=True)
class File:
    """A file of a repository. size: bytes. digest: 64 digits of sha256 or 40 of git's sha1. place: where it is in the
    cache. None: not known, or not there."""

    name: str
    size: int | None
    digest: str | None
    place: Path | None

    @property
    def large(self) -> bool:
        """Whether it is kept beside git, as weights are."""
        return self.digest is not None and len(self.digest) == 64

    @property
    def here(self) -> bool:
        """Whether it is in the cache, of the size that it should be."""
        return self.place is not None and self.size in (None, self.place.stat().st_size)


@dataclass(frozen=True)
class Stock:
    """What is wanted of a repository, file by file. commit: None where the cache knows no such revision. listed:
    whether these are all its files; without a list, they are those that are here. licence: as the hub says it."""

    want: Want
    commit: str | None
    files: tuple[File, ...]
    listed: bool
    licence: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files, as far as known."""
        return sum(file.size or 0 for file in self.files)

    @property
    def missing(self) -> tuple[File, ...]:
        """Files that are not here, or not whole."""
        return tuple(file for file in self.files if not file.here)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, as far as the cache can tell."""
        return bool(self.files) and not self.missing


def cached(want: Want) -> Stock:
    """What the cache has, without asking the hub."""
    folder, commit = folder_of(want.repo), commit_of(want.repo, want.revision)
    if commit is None:
        return Stock(want, None, (), listed=False)
    known = _tree(folder, commit)
    snapshot = folder / "snapshots" / commit
    there = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if not path.is_dir()}
    names = want.of(there if known is None else known)
    return Stock(want, commit, tuple(_file(snapshot, name, known or {}) for name in names), known is not None)


def _tree(folder: Path, commit: str) -> dict[str, Mapping[str, Any]] | None:
    """Every file of a commit, if the cache has kept the list."""
    try:
        kept = json.loads((folder / "trees" / f"{commit}.json").read_text(encoding="utf-8"))
        return dict(kept["files"]) if kept["format_version"] == 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(snapshot: Path, name: str, known: Mapping[str, Mapping[str, Any]]) -> File:
    place = snapshot / name
    told = known.get(name, {})
    digest = told.get("lfs_sha256") or told.get("blob_id")
    if digest is None and place.is_symlink():
        digest = place.readlink().name
    size = told.get("lfs_size") or told.get("size")
    return File(name, size, digest if digest and len(digest) in (40, 64) else None, place if place.is_file() else None)


def listed(want: Want, remedy: str | None = None) -> Stock:
    """What the hub has, and what of that the cache has already. Raises WeightsError where the hub does not answer;
    remedy: what helps without a network, where more than this is asked for."""
    from huggingface_hub import HfApi

    with refusals(str(want), revision=want.revision, variant=want.variant, remedy=remedy):
        found = HfApi().model_info(want.repo, revision=want.revision, files_metadata=True)
    snapshot = folder_of(want.repo) / "snapshots" / str(found.sha)
    known = {
        entry.rfilename: {
            "size": entry.size,
            "blob_id": entry.blob_id,
            "lfs_sha256": None if entry.lfs is None else entry.lfs.sha256,
            "lfs_size": None if entry.lfs is None else entry.lfs.size,
        }
        for entry in found.siblings or ()
    }
    files = tuple(_file(snapshot, name, known) for name in want.of(known))
    if not files:
        raise WeightsError(_nothing(want, list(known)))
    return Stock(want, found.sha, files, listed=True, licence=_licence(found))


def _nothing(want: Want, names: list[str]) -> str:
    """Why a repository has nothing that can be taken."""
    files = [want.file] if want.file is not None else list(want.parts)
    if all(map(is_file, files)):
        there = [name for name in names if name.endswith(".safetensors")]
        asked = " or ".join(f"'{name}'" for name in files)
        return f"'{want.repo}' has no {asked}; its .safetensors: {', '.join(there[:8]) or 'none'}"
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    asked = " or ".join(f"{part}/" for part in want.parts if part and not is_file(part))
    return (
        f"'{want.repo}' has no {asked}: it is no model in diffusers' layout "
        f"(its folders: {', '.join(folders) or 'none'}). Take a repository that is, as its authors' -Diffusers one"
    )


def _licence(found: Any) -> str | None:
    card = getattr(found, "card_data", None)
    said = getattr(card, "license", None)
    name = getattr(card, "license_name", None) or (card or {}).get("license_name") if card is not None else None
    return None if said is None else f"{said} ({name})" if said == "other" and name else str(said)


# --- whether it is what it should be -----------------------------------------------------------------------------

Verdict = Literal["right", "damaged", "missing", "unknown"]


def verified(stock: Stock) -> Iterator[tuple[File, Verdict]]:
    """Each file, and whether it is byte for byte what the hub has; "unknown" where no digest was kept."""
    for file in stock.files:
        if file.place is None:
            yield file, "missing"
        elif file.digest is None:
            yield file, "unknown"
        else:
            yield file, "right" if file.here and digest_of(file.place, file.digest) == file.digest else "damaged"


def digest_of(place: Path, like: str) -> str:
    """The digest of a file, of the kind that `like` is one of.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as empty:
    ...     digest_of(Path(empty.name), "0" * 40)  # as `git hash-object` says of an empty file
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    found = hashlib.sha256() if len(like) == 64 else hashlib.sha1(f"blob {place.stat().st_size}\0".encode())
    with place.open("rb") as file:
        while piece := file.read(1 << 22):
            found.update(piece)
    return found.hexdigest()
