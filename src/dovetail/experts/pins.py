"""Hub ids that say their revision themselves, as huggingface_hub's own paths do: OWNER/REPO@REVISION, and
OWNER/REPO@REVISION/FILE."""

import re
from pathlib import Path

from dovetail.errors import RecipeError

PINNED = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w.-]+)@(?P<revision>refs/(?:pr|convert)/\w[\w.-]*|\w[\w.-]*)(?P<file>/.+)?"
)
"""Of a branch whose name has a / in it, only those that the hub makes itself; its name could be a file's too."""


def unpinned(weights: str, revision: str | None = None) -> tuple[str, str | None]:
    """A name of weights without the revision that it says, and that revision, or else the one that is asked for beside it.
    What lies on this machine under a name is what it means, whatever stands in it.

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


def pin(weights: str, revision: str | None) -> str:
    """A hub id with its revision, where it has one.

    >>> pin("some/model/motion.ckpt", "v2"), pin("some/model", None)
    ('some/model@v2/motion.ckpt', 'some/model')
    """
    owner, repo, *file = weights.split("/", 2)
    return weights if revision is None else "/".join((owner, f"{repo}@{revision}", *file))
