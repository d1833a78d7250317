"""Models from the hub into the cache: only the files that are needed, and a file that was broken off goes on where it
was.

huggingface_hub begins a file anew that was broken off, which for weights is gigabytes. So large files are brought here,
to the place that the cache has for them, and checked; it then finds them there, and does the rest.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dovetail.errors import WeightsError
from dovetail.experts.cache import cache_folder, folder_of
from dovetail.experts.hub import File, Stock, cached, digest_of
from dovetail.experts.refusals import full, refusals

Told = Callable[[int], None]
"""Called with the number of bytes that have come since the last call."""


def pull(stock: Stock, told: Told = lambda count: None) -> Iterator[File]:
    """Bring what is missing of a stock that `listed` has found; yields each large file as it is finished.

    Raises WeightsError: no room for it, no network, a file that came damaged. What has come is kept.
    """
    _room(stock)
    for file in stock.missing:
        if file.place is not None:
            _forget(file)
        if file.large:
            _bring(stock, file, told)
            yield file
    _link(stock)
    if left := cached(stock.want).missing:
        raise WeightsError(f"'{stock.want}' is not whole after pulling: {left[0].name} is missing; pull it once more")


def kept(stock: Stock) -> int:
    """Bytes of files that were broken off, which need not come again."""
    return sum(part.stat().st_size for file in stock.missing if (part := _part(stock, file)) and part.is_file())


def free(folder: Path) -> int:
    """Bytes free on a folder's disk; the folder need not be there yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _room(stock: Stock) -> None:
    needed, there = sum(file.size or 0 for file in stock.missing) - kept(stock), free(folder_of(stock.want.repo))
    if needed > there:
        raise WeightsError(full(str(stock.want), needed, there))


def _part(stock: Stock, file: File) -> Path | None:
    """Where a large file is kept while it comes."""
    return folder_of(stock.want.repo) / "blobs" / f"{file.digest}.dovetail" if file.large else None


def _forget(file: File) -> None:
    """Remove a damaged file from the cache, the link and what it leads to."""
    assert file.place is not None
    file.place.resolve().unlink(missing_ok=True)
    file.place.unlink(missing_ok=True)


def _bring(stock: Stock, file: File, told: Told) -> None:
    from huggingface_hub.utils import WeakFileLock

    part = _part(stock, file)
    assert part is not None
    assert file.digest is not None
    whole = part.with_name(file.digest)
    lock = cache_folder() / ".locks" / folder_of(stock.want.repo).name / f"{file.digest}.lock"
    for folder in (lock.parent, part.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with refusals(f"{stock.want.repo}/{file.name}", revision=stock.want.revision), WeakFileLock(lock):
        if whole.exists():  # Another process has been here, or another commit has the same file.
            return
        if file.size is not None and part.is_file() and part.stat().st_size > file.size:
            part.unlink()
        _download(stock, file, part, told)
        if (found := digest_of(part, file.digest)) != file.digest:
            part.unlink()
            raise WeightsError(
                f"'{stock.want.repo}/{file.name}' came damaged: its sha256 is {found[:12]}.., the hub's {file.digest[:12]}.. "
                "What came is thrown away; pull it again, and if that does not help, without a proxy between"
            )
        part.replace(whole)


def _download(stock: Stock, file: File, part: Path, told: Told) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(stock.want.repo, file.name, revision=stock.commit)
    with part.open("ab") as into:
        begun = into.tell()
        told(begun)
        http_get(
            url,
            into,
            resume_size=begun,
            headers=build_hf_headers(),
            expected_size=file.size,
            tqdm_class=_bar(told),
        )


def _bar(told: Told) -> type:
    """What huggingface_hub takes for a progress bar, which says how much has come and shows nothing."""

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, count: float | None = 1) -> None:
            told(int(count or 0))

    return Bar


def _link(stock: Stock) -> None:
    """The small files, and links to the large ones, by huggingface_hub itself."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    want, names = stock.want, [file.name for file in stock.files]
    disable_progress_bars()
    try:
        with refusals(str(want), revision=want.revision, variant=want.variant):
            snapshot_download(want.repo, revision=want.revision, allow_patterns=names)
    finally:
        if shown:
            enable_progress_bars()
