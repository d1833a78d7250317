"""Where the hub's cache keeps a repository, and which commit of it; the hub is not asked.

How it is laid out stands in `hub`.
"""

from pathlib import Path


def cache_folder() -> Path:
    """Where the cache is: HF_HUB_CACHE, or hub/ in HF_HOME, or ~/.cache/huggingface/hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def folder_of(repo: str) -> Path:
    """Where the cache keeps a repository."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def commit_of(repo: str, revision: str | None = None) -> str | None:
    """The commit that the cache has for a branch, tag or commit (None is main); None where it has no such revision."""
    folder = folder_of(repo)
    if revision is not None and (folder / "snapshots" / revision).is_dir():
        return revision
    ref = folder / "refs" / (revision or "main")
    return ref.read_text().strip() if ref.is_file() else None


def snapshot(repo: str, revision: str | None = None) -> Path | None:
    """The folder of a repository's files at a revision, those of them that are in the cache; None where none is."""
    commit = commit_of(repo, revision)
    place = None if commit is None else folder_of(repo) / "snapshots" / commit
    return place if place is not None and place.is_dir() else None
