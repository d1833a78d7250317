"""A run's folder: what is in it, whose it is, and that only one process writes to it.

    recipe.yaml                 the recipe with all that the run found out, to read and to make again
    manifest.json               by which versions, weights and device, and where the video goes
    latents/00000.safetensors   each finished piece before decoding
    states/00000.safetensors    what the chain needs to go on after it; of the last two pieces, every sixteenth, and one to continue from
    step.safetensors            the same after a step on the whole video, while the first piece is under way
    video.mp4                   the video as far as it is made
    log.jsonl                   what happened when
    lock                        held by the process that writes here

All but the lock carry checksums, of the log each line. Design page: docs/decisions/0015-runs.md.
"""

import errno
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from dovetail import recipe as recipes
from dovetail.errors import OutputError
from dovetail.recipe import Recipe
from dovetail.run.sealed import (
    DamagedError,
    digest_of,
    opened,
    put,
    read_json,
    read_text,
    sealed_json,
    sealed_tensors,
    sealed_text,
    unwritten,
)
from dovetail.run.states import Standing, packed, unpacked
from dovetail.video import settings_of

FORMAT = 3
"""Of the files in a folder; another is refused."""

EVERY = 16
"""After every so many pieces a state is kept for good, so that a piece that is damaged later need not be made again from
the start."""


@dataclass(frozen=True)
class Origin:
    """What decides which video a run makes. weights: a sha256 for each network; given: of a run that continues
    another, how many pieces it was given, and their latents' sha256."""

    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    weights: Mapping[str, str]
    given: Mapping[str, Any] | None = None
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """What its files are known by."""
        return digest_of(json.dumps(recipes.said(asdict(self)), sort_keys=True))

    def differs(self, other: "Origin") -> list[str]:
        """How another origin differs, one line for each value."""
        mine, theirs = (_flat(asdict(one)) for one in (self, other))
        paths = sorted(path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path))
        told = {path: _brief(mine.get(path), theirs.get(path)) for path in paths}
        return [f"{path} is {there} there, {here} here" for path, (there, here) in told.items()]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{path}.{key}" if path else key).items()}
    if isinstance(value, list | tuple) and value and path == "recipe.chain":
        return {k: v for part in value for k, v in _flat(part, f"{path}.{part['stage']}").items()}
    return {path: value}


def _brief(there: Any, here: Any) -> tuple[str, str]:
    """Two values that differ, each in sixty letters at most, from near where they do."""
    both = [json.dumps(value, ensure_ascii=False) for value in (there, here)]
    same = next((i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b), 0)
    one, other = (_cut(said, same) for said in both)
    return (one, other) if one != other else (f"{one} ({len(both[0])} letters)", f"{other} ({len(both[1])} letters)")


def _cut(said: str, same: int) -> str:
    """A text of which so many letters need not be read."""
    if len(said) <= 60:
        return said
    begin = min(max(0, same - 20), len(said) - 54)
    end = begin + 54
    return f"{'...' if begin else ''}{said[begin:end]}{'...' if end < len(said) else ''}"


@dataclass(frozen=True)
class Folder:
    """The places in a run's folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def latent(self, number: int) -> Path:
        return self.path / "latents" / f"{number:05d}.safetensors"

    def state(self, number: int) -> Path:
        return self.path / "states" / f"{number:05d}.safetensors"

    def states(self) -> list[int]:
        """The pieces after which a state is there, whole or not."""
        return _numbers(self.path / "states")

    def latents(self) -> list[int]:
        """The pieces that are there, whole or not."""
        return _numbers(self.path / "latents")

    @property
    def step(self) -> Path:
        return self.path / "step.safetensors"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def video(self) -> Path:
        return self.path / "video.mp4"

    @property
    def target(self) -> Path:
        """Where the finished video goes. Raises OutputError if nothing in the folder says so."""
        return Path(os.path.normpath(self.path.absolute() / self._head()["output"]))

    @property
    def given(self) -> dict[str, Any] | None:
        """What the run was given, if it continues another."""
        found: dict[str, Any] | None = self._head().get("given")
        return found

    def read(self) -> Recipe:
        """The recipe, as the run settled it. Raises OutputError if it can be read nowhere in the folder."""
        with suppress(DamagedError):
            return recipes.checked(read_json(self.manifest)["recipe"], str(self.manifest))
        with suppress(DamagedError):
            return recipes.parse(read_text(self.recipe), str(self.recipe))
        raise self._lost()

    def origin(self) -> Origin | None:
        """What the manifest says, if it is whole."""
        try:
            said = read_json(self.manifest)
            return Origin(**{name: said[name] for name in ("recipe", "versions", "weights", "given", "format")})
        except (DamagedError, KeyError):
            return None

    def _head(self) -> dict[str, Any]:
        """Where the video goes, and what was given: in the manifest, and as the first line of the recipe."""
        with suppress(DamagedError):
            return read_json(self.manifest)
        with suppress(DamagedError, ValueError):
            found: dict[str, Any] = json.loads(read_text(self.recipe).partition("\n")[0].removeprefix("# "))
            return found
        raise self._lost()

    def _lost(self) -> OutputError:
        if not self.path.is_dir():
            return OutputError(f"no run at {self.path}")
        return OutputError(
            f"{self.path} is no run, or one whose manifest.json and recipe.yaml are both damaged; then the command that "
            f"began it, with --run {self.path}, goes on with it"
        )

    def write(self, origin: Origin, target: Path, machine: Mapping[str, Any]) -> None:
        """Write down whose folder this is, unless that is written there already. Raises OutputError."""
        with made(self.path):
            for name in ("latents", "states"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        output = os.path.relpath(target.absolute(), self.path.absolute())
        head = {"output": output, "given": origin.given}
        said = {**asdict(origin), "identity": origin.identity, **machine, **head}
        text = f"# {json.dumps(head)}\n{recipes.dump(recipes.checked(dict(origin.recipe)))}"
        for path, data in ((self.manifest, sealed_json(said)), (self.recipe, sealed_text(text))):
            with suppress(OSError):
                if path.read_bytes() == data:
                    continue
            put(path, data)

    # --- pieces --------------------------------------------------------------------------------------------------

    def keep(self, identity: str, latent: Tensor, after: Standing, stay: Sequence[int] = ()) -> None:
        """Write a finished piece and where the run stands after it; of older states only some stay. Raises OutputError.

        stay: pieces whose states are kept in any case.
        """
        number = after.pieces - 1
        said = {"run": identity, "number": number}
        put(self.latent(number), sealed_tensors({"latent": latent}, said))
        tensors, plain = packed(after)
        put(self.state(number), sealed_tensors(tensors, {**said, "standing": plain}))
        self.step.unlink(missing_ok=True)
        old = number - 2
        if old >= 0 and old % EVERY != EVERY - 1 and old not in stay:
            self.state(old).unlink(missing_ok=True)

    def keep_step(self, identity: str, after: Standing) -> None:
        """Write where the run stands after a step, in the place of the one before. Raises OutputError."""
        tensors, plain = packed(after)
        put(self.step, sealed_tensors(tensors, {"run": identity, "number": after.pieces, "standing": plain}))

    def stepped(self, identity: str) -> Standing:
        """Where the run stood after the last step that was kept, before its first piece. Raises DamagedError."""
        tensors, said = self._tensors(self.step, identity, 0)
        return unpacked(tensors, said["standing"])

    def piece(self, identity: str, number: int) -> Tensor:
        """A piece's latent "1 c f h w". Raises DamagedError."""
        return self._tensors(self.latent(number), identity, number)[0]["latent"]

    def standing(self, identity: str, number: int) -> Standing:
        """Where the run stands after a piece. Raises DamagedError."""
        tensors, said = self._tensors(self.state(number), identity, number)
        return unpacked(tensors, said["standing"])

    def _tensors(self, path: Path, identity: str, number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, said = opened(path)
        if said.get("run") != identity or said.get("number") != number:
            raise DamagedError(f"{path.parent.name}/{path.name} is of another run")
        return tensors, said

    def foreign(self) -> str | None:
        """The name of something that no run puts in its folder, if there is one."""
        ours = {"latents", "states", "lock", "log.jsonl"} | {
            one.name for one in (self.manifest, self.recipe, self.video, self.step)
        }
        names = {path.name for path in self.path.iterdir()} - ours - {f".{name}.part" for name in ours}
        return min(names, default=None)

    def stranger(self, identity: str) -> str | None:
        """The name of a whole file of another run, if there is one."""
        for path in sorted([*self.path.glob("*/*.safetensors"), *self.path.glob("*.safetensors")]):
            with suppress(DamagedError):
                if opened(path)[1].get("run") != identity:
                    return f"{path.parent.name}/{path.name}"
        return None

    def refuse_moved(self, recipe: Recipe) -> None:
        """Raise OutputError if the folder was moved, or its video was finished before, and something else lies now where
        the video would go."""
        was, target = self.logged("begun", "place")[-1:], self.target
        moved = was not in ([], [str(self.path.absolute())])
        if not (moved or self.logged("finished", "video")) or not target.exists():
            return
        with suppress(OutputError):
            if recipes.said(settings_of(target).get("recipe")) == recipes.said(recipes.plain(recipe)):
                return
        why = f"was moved here from {was[0]}, so its" if moved else "is finished, and its"
        raise OutputError(f"{self} {why} video goes to {target}, and what stands there is not that; move one of them")

    def refuse(self, target: str | Path) -> None:
        """Raises OutputError for a video that would be written into the folder, where nothing but the run's own may be."""
        video = Path(target).resolve()
        if self.path.resolve() in (video, *video.parents):
            raise OutputError(
                f"cannot write {target}: it lies in the folder of a run, {self}; take a place beside that"
            )

    # --- one at a time, and what it did --------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the folder, which is made if it is not there; the system lets go of it for a
        process that dies. Raises OutputError if another is at it, and for a folder that is no run's, which stays as it
        is."""
        self._check_ours()
        new = not self.path.is_dir()
        with made(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._lock() as file:
            with suppress(OSError):  # who it is serves people; a full disk need not stop a run here
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            try:
                yield
            finally:
                self._leave(new)

    def _check_ours(self) -> None:
        """Raise OutputError for a folder that holds something, and nothing that a run wrote."""
        with made(self.path):
            strange = self._strange() if self.path.is_dir() and not self._sealed() else None
        if strange is not None:
            raise OutputError(f"{self} is no folder of a run: there is {strange} in it. Take another --run")

    def _strange(self) -> str | None:
        """The name of a file in a folder without a sealed one that no run can have left there."""
        if (foreign := self.foreign()) is not None:
            return foreign
        lock = self.path / "lock"
        if lock.is_file() and not re.fullmatch(rb"(process .*)?", lock.read_bytes().rstrip()):
            return lock.name
        files = sorted(path.name for path in self.path.iterdir() if path.is_file() and path != lock)
        return next((name for name in files if not name.endswith(".part")), None)

    def _sealed(self) -> bool:
        """Whether some file here is whole, and one that a run wrote."""
        with suppress(DamagedError):
            return bool(read_json(self.manifest))
        with suppress(DamagedError):
            return bool(read_text(self.recipe))
        for path in (*self.path.glob("*/*.safetensors"), self.step):
            with suppress(DamagedError):
                return bool(opened(path))
        return False

    def _lock(self) -> IO[str]:
        """The file that the lock is on, locked. Raises OutputError if another process has it."""
        path = self.path / "lock"
        while True:
            with made(path):
                file = path.open("a+", encoding="utf-8")
            try:
                taken = _taken(file)
            except OutputError:
                file.close()
                self._leave(False)
                raise
            if not taken:
                file.seek(0)
                who = file.read().strip() or "which one is not said"
                file.close()
                raise OutputError(
                    f"another process is at work in {self.path} ({who}); wait for it, or take another --run"
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            # It was another's, who left between our opening and locking it.
            file.close()
            with made(self.path):
                self.path.mkdir(parents=True, exist_ok=True)

    def _leave(self, new: bool) -> None:
        """Leave nothing behind of a run that did not begin."""
        with suppress(OSError):
            if [path.name for path in self.path.iterdir()] == ["lock"]:
                (self.path / "lock").unlink()
                if new:
                    self.path.rmdir()

    def log(self, event: str, **said: Any) -> None:
        """Add a line to the log. A log that cannot be written stops no run."""
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **said}
        line["sha256"] = digest_of(json.dumps(line))
        with suppress(OSError), (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def logged(self, event: str, key: str = "what") -> list[str]:
        """What the log says of one kind of event under a key, in lines that are whole."""
        lines, found = list[str](), list[str]()
        with suppress(OSError, ValueError):
            lines = (self.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines:
            with suppress(ValueError):  # a line that was cut when the machine stopped
                said = json.loads(line)
                whole = isinstance(said, dict) and said.pop("sha256", None) == digest_of(json.dumps(said))
                found += [said[key]] if whole and said["event"] == event and key in said else []
        return found


def _numbers(folder: Path) -> list[int]:
    """Of the files in a folder those that we number."""
    return sorted(int(path.stem) for path in folder.glob("*.safetensors") if re.fullmatch(r"\d{5,}", path.stem))


@contextmanager
def made(path: Path) -> Iterator[None]:
    """A block that makes folders or files there; what it cannot make is an OutputError."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from None


def _taken(file: IO[str]) -> bool:
    """Take the lock on a file, if nobody has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise OutputError(
            f"cannot lock {file.name}: {error.strerror or error}; some disks of a network know no locks, so take a --run on "
            "a disk of this machine"
        ) from None
    return True
