"""What the hub says no with, as errors that say what to do: no such repository, file or revision, a licence that is not
accepted, no network, a full disk."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from dovetail.errors import WeightsError
from dovetail.experts.pins import repo_and_file, unpinned
from dovetail.experts.shelf import meant


def pulls(name: str, revision: str | None = None, variant: str | None = None, verb: str = "pull") -> str:
    """The command that brings a model, or another command about it.

    >>> pulls("some/model", variant="fp16")
    '`dovetail models pull some/model --variant fp16`'
    """
    options = {"revision": revision, "variant": variant}
    said = "".join(f" --{option} {value}" for option, value in options.items() if value is not None)
    return f"`dovetail models {verb} {quote(name)}{said}`"


EXAMPLE = ", as in stable-diffusion-v1-5/stable-diffusion-v1-5"


@contextmanager
def refusals(
    name: str, where: str = "", revision: str | None = None, variant: str | None = None, remedy: str | None = None
) -> Iterator[None]:
    """Turn what huggingface_hub raises inside the block into WeightsError about `name`.

    where: the end of the message. revision, variant: those that were asked for. remedy: what helps without a network, by
    default to pull `name`.
    """
    from huggingface_hub.errors import RevisionResolutionError

    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        # A RuntimeError is how hf_xet, by which huggingface_hub brings large files, says that it could not.
        ours = isinstance(error, OSError | ValueError | RuntimeError | RevisionResolutionError) or _network(error)
        if not ours:
            raise
        raise WeightsError(
            f"{_told(name, revision, error, remedy or f'{pulls(name, revision, variant)} brings it')} {where}".strip()
        ) from error


def _network(error: Exception) -> bool:
    """Whether the library below huggingface_hub, httpx or httpx2 by its release, found no way; its errors are no
    OSError."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2")


def _told(name: str, revision: str | None, error: Exception, remedy: str) -> str:
    """One message for each kind of refusal; subclasses stand before what they are subclasses of. remedy: what helps where
    there is no network."""
    from huggingface_hub import constants, errors

    bare, at = unpinned(name, revision)
    repo, file = repo_and_file(name) or (bare, "")
    said = (str(error).strip() or "no reason given").splitlines()[0]
    if isinstance(error, errors.GatedRepoError):
        return (
            f"'{repo}' gives its weights to those who have accepted its licence: do so at {constants.ENDPOINT}/{repo}, "
            "then `hf auth login` on this machine, and try again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no '{repo}', or it is private. Look at its spelling{meant(repo) or EXAMPLE}; for one of your own, "
            "`hf auth login` first."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"'{repo}' has no such revision ({said}). Take a branch, a tag or a whole commit of its history at "
            f"{constants.ENDPOINT}/{repo}/commits/main, or leave it out: --set experts.NAME.revision=null, or in a name that "
            "says it, from the @ on"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        files = f"{constants.ENDPOINT}/{repo}/tree/{at or 'main'}"
        return f"'{repo}' has no '{file}'; its files: {files}"
    if is_full(error):
        return full(name)
    offline = (
        errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | errors.RevisionResolutionError | RuntimeError
    )
    if isinstance(error, offline) or _network(error):
        return (
            f"no weights '{name}': no such path here, not whole in the cache ({constants.HF_HUB_CACHE}), and the hub does "
            f"not give it ({type(error).__name__}: {said}). With a network, and without HF_HUB_OFFLINE, "
            f"{remedy}; a copied cache is found where HF_HUB_CACHE points."
        )
    return f"no weights '{name}': no such path here, and the hub does not give it ({type(error).__name__}: {said})."


def is_full(error: BaseException | None) -> bool:
    """Whether a disk or a quota being full is why, here or in what led here."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):  # As hf_xet says it, which is not written in Python.
            return True
        error = error.__cause__ or error.__context__
    return False


def full(name: str, needed: int | None = None, free: int | None = None) -> str:
    """What to do where the disk of the cache is full."""
    from huggingface_hub import constants

    lacks = (
        ""
        if needed is None or free is None
        else f" needs {needed / 1e9:.2f} GB more there, and {free / 1e9:.2f} GB are free"
    )
    return (
        f"the disk of the cache ({Path(constants.HF_HUB_CACHE)}) is full: '{name}'{lacks or ' does not fit'}. "
        "Make room (`hf cache ls` says what is there, `hf cache rm` removes it), or let HF_HUB_CACHE name a folder on "
        "another disk; what has come so far is kept, and the next pull goes on from there."
    )
