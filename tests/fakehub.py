"""A hub that lives in memory: huggingface_hub's own client, with what it sends and receives replaced.

It answers as huggingface.co does, as far as models are read from it: what a repository is at a revision, its tree, the
metadata of a file (HEAD), and a file, whole or from some byte on. Large files are those that end in .safetensors or .bin.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub import _tree_cache, constants

COMMIT = "1" * 40


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repo:
    """Files by name; branches, each at a commit. gated: whether its licence has to be accepted first."""

    files: dict[str, bytes]
    licence: str = "apache-2.0"
    gated: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})

    @classmethod
    def of(cls, folder: Path, **options: Any) -> "Repo":
        """The repository of a folder's files."""
        names = [path for path in folder.rglob("*") if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in names}, **options)


class Broken(httpx2.SyncByteStream):
    """The first bytes of a file, then what a pulled cable does."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise KeyboardInterrupt


@dataclass
class Hub:
    """repos: by OWNER/REPO. cut: bytes of a large file after which the next download of one breaks off; once. spoilt: names
    of files that come with another byte than they should. asked: what has been requested, in order."""

    repos: dict[str, Repo] = field(default_factory=dict)
    cut: int | None = None
    spoilt: set[str] = field(default_factory=set)
    down: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.asked.append((request.method, path, request.headers.get("Range", "")))
        if self.down:
            raise httpx2.ConnectError("no route to host")
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/(.+))?", path):
            name, what, revision = found.groups()
            return self._repo(name, revision or "main", what == "tree")
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        assert found, path
        return self._file(request, *found.groups())

    def _refused(self, name: str, revision: str) -> httpx2.Response | None:
        repo = self.repos.get(name)
        if repo is None:
            return httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"})
        if repo.gated:
            return httpx2.Response(403, headers={"X-Error-Code": "GatedRepo"})
        if revision not in {*repo.branches, *repo.branches.values()}:
            return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        return None

    def _repo(self, name: str, revision: str, tree: bool) -> httpx2.Response:
        if (refused := self._refused(name, revision)) is not None:
            return refused
        repo = self.repos[name]
        if tree:
            return httpx2.Response(200, json=[{"type": "file", "path": n, **told(n, c)} for n, c in repo.files.items()])
        files = [{"rfilename": n, "blobId": t["oid"], "size": t["size"], **_lfs(t)} for n, t in _all(repo)]
        card = {"license": repo.licence}
        commit = repo.branches.get(revision, revision)
        return httpx2.Response(200, json={"id": name, "sha": commit, "siblings": files, "cardData": card, "tags": []})

    def _file(self, request: httpx2.Request, name: str, revision: str, file: str) -> httpx2.Response:
        if (refused := self._refused(name, revision)) is not None:
            return refused
        if file not in self.repos[name].files:
            return httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound"})
        content = self.repos[name].files[file]
        digest = sha256(content) if large(file) else git_sha1(content)
        commit = self.repos[name].branches.get(revision, revision)
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if request.method == "HEAD":
            return httpx2.Response(200, headers={**headers, "Content-Length": str(len(content))})
        if file in self.spoilt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin = int(found[1]) if (found := re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))) else 0
        rest = content[begin:]
        headers["Content-Length"] = str(len(rest))
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if self.cut is not None and large(file):
            rest, self.cut = rest[: self.cut], None
            return httpx2.Response(206 if begin else 200, headers=headers, stream=Broken(rest))
        return httpx2.Response(206 if begin else 200, headers=headers, content=rest)


def large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def told(name: str, content: bytes) -> dict[str, Any]:
    """What the tree of a repository says of a file."""
    if not large(name):
        return {"oid": git_sha1(content), "size": len(content)}
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\nsize {len(content)}\n".encode()
    )
    lfs = {"oid": sha256(content), "size": len(content), "pointerSize": len(pointer)}
    return {"oid": git_sha1(pointer), "size": len(content), "lfs": lfs}


def _all(repo: Repo) -> list[tuple[str, dict[str, Any]]]:
    return [(name, told(name, content)) for name, content in repo.files.items()]


def _lfs(entry: dict[str, Any]) -> dict[str, Any]:
    if "lfs" not in entry:
        return {}
    lfs = entry["lfs"]
    return {"lfs": {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}}


def installed(hub: Hub, cache: Path, monkeypatch: Any) -> Iterator[Hub]:
    """The hub in place of huggingface.co, and an empty cache in place of the user's; to be yielded from by a fixture."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    hooks = {"request": [huggingface_hub.utils._http.hf_request_event_hook]}
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(transport=httpx2.MockTransport(hub), event_hooks=hooks, follow_redirects=True)
    )
    yield hub
    huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)
