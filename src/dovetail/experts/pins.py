"""Names of the hub: OWNER/REPO and OWNER/REPO/FILE, which may say their revision themselves, as huggingface_hub's own
paths do: OWNER/REPO@REVISION, and OWNER/REPO@REVISION/FILE."""

import re
from pathlib import Path

from dovetail.errors import RecipeError

PINNED = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w.-]+)@(?P<revision>refs/(?:pr|convert)/\w[\w.-]*|\w[\w.-]*)(?P<file>/.+)?"
)
"""Of a branch whose name has a / in it, only those that the hub makes itself; its name could be a file's too."""


def unpinned(weights: str, revision: str | None = None) -> tuple[str, str | None]:
    """A name of weights without its revision, and that revision, or else the one that is given beside it. A name under
    which something lies on this machine means that, and is left as it is.

    Raises RecipeError where the name says one revision and another is asked for.

    >>> unpinned("some/model@v2"), unpinned("some/model@v2/motion.ckpt"), unpinned("some/model", "v2")
    (('some/model', 'v2'), ('some/model/motion.ckpt', 'v2'), ('some/model', 'v2'))
    """
    found = PINNED.fullmatch(weights)
    if found is None or Path(weights).expanduser().exists():
        return weights, revision
    if revision not in (None, found["revision"]):
        raise RecipeError(
            f"'{weights}' says its revision itself, and revision '{revision}' beside it; leave out one of them"
        )
    return found["repo"] + (found["file"] or ""), found["revision"]


NAMED = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>.+))?")


def is_repo(name: str) -> bool:
    """Whether the hub could have a repository of this name.

    >>> is_repo("some/model@v2"), is_repo("some/model/motion.ckpt"), is_repo("./model")
    (True, False, False)
    """
    found = None if name.startswith(".") else NAMED.fullmatch(unpinned(name)[0])
    return found is not None and not found["file"]


def repo_and_file(name: str) -> tuple[str, str] | None:
    """The repository and the file that OWNER/REPO/FILE names; None if the hub could have no such file.

    >>> repo_and_file("some/model@v2/motion.ckpt"), repo_and_file("some/model")
    (('some/model', 'motion.ckpt'), None)
    """
    found = None if name.startswith(".") else NAMED.fullmatch(unpinned(name)[0])
    return (found["repo"], found["file"]) if found is not None and found["file"] else None


def pin(weights: str, revision: str | None) -> str:
    """A hub id with its revision, where it has one.

    >>> pin("some/model/motion.ckpt", "v2"), pin("some/model", None)
    ('some/model@v2/motion.ckpt', 'some/model')
    """
    owner, repo, *file = weights.split("/", 2)
    return weights if revision is None else "/".join((owner, f"{repo}@{revision}", *file))
