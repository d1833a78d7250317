"""A run that is stopped anywhere goes on as if it had not been: chains, files, folders, commands."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dovetail.core.chain import run
from dovetail.core.combine import Windowed
from dovetail.core.denoiser import timeline
from dovetail.core.hold import Hold
from dovetail.core.ladders import even, levels
from dovetail.core.noise import Noise
from dovetail.core.path import Split, split
from dovetail.core.sampler import DPMSolver2M, UniPC
from dovetail.core.stages import Done, Event, Memory, Seen, Stage
from dovetail.methods.coherent import Coherent
from dovetail.methods.consistent import Consistent
from dovetail.methods.onward import Onward
from dovetail.methods.reinjected import Reinjected
from dovetail.methods.settling import Settling
from dovetail.methods.syncos import Coupled
from dovetail.run.folder import Folder
from dovetail.run.sealed import DamagedError, opened, sealed_tensors
from dovetail.run.states import Standing, packed, unpacked

L, SHAPE, NOISE = 8, (2, 3, 3), Noise(11)


@dataclass(frozen=True)
class Smeared:
    """A denoiser that looks over time: the video it sees is the latent's mean with both neighbours."""

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        wide = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
        return split(x, (wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]) * (1 - t) / 3, t)


# --- the chain ---------------------------------------------------------------------------------------------------

START = Consistent(NOISE.of("structure"), L, turn=0.1)
FINE = levels([0.5, 0.3, 0.1, 0.0])


def structure(**options: object) -> Stage:
    plain = Stage("structure", Coherent(Smeared(), 0.3, "aligned", START), even(3), window=L, start=START)
    return replace(plain, **options)  # type: ignore[arg-type]


CHAINS = {
    "staggered": [structure(), Stage("refine", Smeared(), FINE, window=L, offset=4)],
    "whole ends": [structure(), Stage("refine", Smeared(), FINE, window=L, offset=4, ends="full")],
    "a wavefront": [structure(), Stage("refine", Smeared(), FINE, UniPC(), window=L, hop=3, weights="triangle")],
    "two wavefronts": [
        structure(denoise=Smeared(), hop=4, start=None, solver=DPMSolver2M()),
        Stage("refine", Smeared(), FINE, window=6, hop=2),
        Stage("again", Smeared(), FINE, window=5),
    ],
    "wavefronts that are held": [
        structure(denoise=Smeared(), hop=4, start=None, hold=Hold(0.7)),
        Stage("refine", Smeared(), FINE, UniPC(), window=L, hop=3, weights="triangle", hold=Hold()),
    ],
    "wavefronts whose places are held": [
        structure(denoise=Smeared(), hop=4, start=None, hold=Hold(within=2.0, below=0.8)),
        Stage("refine", Smeared(), FINE, UniPC(), window=L, hop=3, weights="triangle", hold=Hold(within=2.0)),
    ],
    "reinjected": [structure(denoise=Reinjected(Smeared(), NOISE), hop=5), Stage("refine", Smeared(), FINE, window=4)],
    "going on, held": [
        structure(denoise=Onward(Smeared(), NOISE, below=0.6), hop=5, hold=Hold(within=2.0)),
        Stage("refine", Smeared(), FINE, window=4),
    ],
    "small windows of the whole": [
        structure(window=None, denoise=Smeared()),
        Stage("refine", Smeared(), FINE, window=5),
    ],
}


def same(one: Event, other: Event) -> bool:
    if isinstance(one, Seen) and isinstance(other, Seen):
        return one.stage == other.stage and one.state.t == other.state.t and torch.equal(one.state.x, other.state.x)
    assert isinstance(one, Done)
    assert isinstance(other, Done)
    return torch.equal(one.frames, other.frames) and torch.equal(one.video, other.video)


@pytest.mark.parametrize("given", [False, True], ids=["from noise", "from a video"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_goes_on_from_any_piece_as_if_it_had_not_stopped(tmp_path: Path, name: str, given: bool) -> None:
    """Every event after it, to the bit; what it needs has been on the disk in between."""
    stages, video = CHAINS[name], torch.randn(1, 2, 29, 3, 3) if given else None
    if given:
        stages = [replace(stages[0], ladder=FINE), *stages[1:]]
    whole = list(run(stages, NOISE, timeline(29), SHAPE, video))
    places = [i for i, event in enumerate(whole) if isinstance(event, Done)]
    assert len(places) > 3
    for place in places:
        event = whole[place]
        assert isinstance(event, Done)
        tensors, said = packed(Standing(event.memory))
        (tmp_path / "state").write_bytes(sealed_tensors(tensors, said))
        again = unpacked(*opened(tmp_path / "state")).memory
        assert isinstance(again, Memory)
        rest = list(run(stages, NOISE, timeline(29), SHAPE, video, again))
        assert len(rest) == len(whole) - place - 1
        assert all(same(one, other) for one, other in zip(rest, whole[place + 1 :], strict=True))


@pytest.mark.parametrize("name", [name for name in CHAINS if CHAINS[name][0].window is not None])
def test_what_is_kept_does_not_grow_with_the_video(name: str) -> None:
    most = {}
    for frames in (48, 96):
        done = [event for event in run(CHAINS[name], NOISE, timeline(frames), SHAPE) if isinstance(event, Done)]
        states = [packed(Standing(event.memory))[0] for event in done]
        most[frames] = max(sum(tensor.nbytes for tensor in state.values()) for state in states)
    assert 0 < most[96] <= 1.05 * most[48], "windows at the end may meet otherwise"


# --- sealed files ------------------------------------------------------------------------------------------------


def test_a_sealed_file_tells_every_change_of_a_byte(tmp_path: Path) -> None:
    """Bit by bit, through the whole file; and every length that it may be cut to."""
    tensors, said = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([3])}, {"number": 4, "x": 0.1}
    data = sealed_tensors(tensors, said)
    file = tmp_path / "a.safetensors"
    file.write_bytes(data)
    found, told = opened(file)
    assert told == said
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            found, told = opened(file)
        except DamagedError:
            continue
        # Blanks that pad the header mean nothing, whatever they are.
        assert told == said
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(DamagedError):
            opened(file)
    file.unlink()
    with pytest.raises(DamagedError):
        opened(file)


def test_a_log_is_read_past_a_line_that_was_cut(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.log("less", what="one")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"at": "2026-11-\n')
    folder.log("less", what="two")
    assert folder.logged("less") == ["one", "two"]


# --- a stage that works on the whole video -----------------------------------------------------------------------

COARSE = Windowed(Smeared(), 6, 3)
JOINT = {
    "alone": [Stage("story", COARSE, even(5))],
    "a solver that remembers": [Stage("story", COARSE, even(6), UniPC())],
    "a walk": [Stage("story", Settling(Coupled(COARSE, NOISE, kernel="mean"), strides=(3, 2)), even(6), DPMSolver2M())],
    "then windows": [Stage("story", COARSE, even(4)), Stage("refine", Smeared(), FINE, window=L, offset=4)],
    "then a wavefront": [Stage("story", COARSE, even(4)), Stage("refine", Smeared(), FINE, UniPC(), window=L, hop=3)],
    "after windows": [structure(), Stage("story", COARSE, FINE, DPMSolver2M()), Stage("refine", Smeared(), FINE, window=5)],
    "twice": [Stage("story", COARSE, even(3)), Stage("again", COARSE, FINE)],
}  # fmt: skip


@pytest.mark.parametrize("given", [False, True], ids=["from noise", "from a video"])
@pytest.mark.parametrize("name", JOINT)
def test_a_stage_on_the_whole_video_goes_on_from_any_step(tmp_path: Path, name: str, given: bool) -> None:
    """Every event after it, to the bit; what it needs has been on the disk in between. After a last step comes a piece."""
    stages, video = JOINT[name], torch.randn(1, 2, 29, 3, 3) if given else None
    whole = list(run(stages, NOISE, timeline(29), SHAPE, video))
    places = [i for i, event in enumerate(whole) if isinstance(event, Seen) and event.memory is not None]
    joint = [stage for stage in stages if stage.window is None]
    assert len(places) == sum(stage.ladder.steps - 1 for stage in joint)
    for place in places:
        tensors, said = packed(Standing(whole[place].memory))
        (tmp_path / "state").write_bytes(sealed_tensors(tensors, said))
        again = unpacked(*opened(tmp_path / "state")).memory
        rest = list(run(stages, NOISE, timeline(29), SHAPE, video, again))
        assert len(rest) == len(whole) - place - 1
        assert all(same(one, other) for one, other in zip(rest, whole[place + 1 :], strict=True))


def test_windows_are_short_and_keep_no_steps() -> None:
    assert all(
        event.memory is None
        for event in run(CHAINS["staggered"], NOISE, timeline(29), SHAPE)
        if isinstance(event, Seen)
    )
