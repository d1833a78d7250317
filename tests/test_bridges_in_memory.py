"""Stages joined through pixels on a device that is small: their codecs come and go with the experts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_bridges import long, sd_then_wan, wan_then_sd
from test_memory import TravellingCodec, fit_in, vram
from test_residency import Log, Traveller, moves

from dovetail import recipe as recipes
from dovetail import run
from dovetail.errors import RoomError
from dovetail.experts.residency import CODEC
from dovetail.run.budget import fitted, foreseen, whom
from dovetail.run.sizes import decoders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bridges")
    return {family: tiny.MAKERS[family](root / family) for family in ("stable-diffusion", "wan")}


STRUCTURE = "(codec of structure)"
BOTH = {STRUCTURE, CODEC}


def test_a_bridge_asks_both_codecs_in_the_step_behind_it(folders: dict[str, Path]) -> None:
    told = [set(names) for names in whom(foreseen(wan_then_sd(folders), []))]
    assert told == [{"motion"}, {"motion"}, {"image", *BOTH}, {"image"}, {CODEC}]
    pieces = foreseen(recipes.changed(long(), {"chain.structure.window": 8}), [])
    crossed = [names & BOTH for names in whom(pieces) if names != {CODEC}]
    assert [len(names) for names in crossed].count(2) == 2, "each piece of the structure comes over by itself"
    assert set(whom(pieces, 1)[0]) == set(whom(pieces)[whom(pieces).index(frozenset({CODEC})) + 1])


@pytest.mark.parametrize("make", [wan_then_sd, sd_then_wan])
def test_a_budget_counts_both_codecs_and_changes_no_byte(folders: dict[str, Path], make: Any) -> None:
    recipe = make(folders)
    whole, alone = fit_in(recipe, None), run.finished(run.play(recipe))
    assert [part.name for part in whole.parts] == ["text", "structure", "refine", "decode"]
    assert whole.sizes.keys() == {"motion", "image", *BOTH}
    assert min(whole.sizes.values()) > 0
    tight = vram(recipe, max(part.total for part in whole.parts) - 100)
    cast = run.load(tight)
    assert cast.fit is not None
    assert cast.fit.here is not None
    assert cast.moves(tight)
    assert (run.finished(run.play(tight, cast)).frames == alone.frames).all()


def test_codecs_of_a_bridge_are_there_for_it_and_gone_after(folders: dict[str, Path]) -> None:
    recipe = recipes.changed(wan_then_sd(folders), {"residency": "turns"})
    cast, log, here = run.load(recipe), Log(), set[str]()
    experts = {
        name: replace(expert, network=Traveller(name, expert.network, log, here))
        for name, expert in cast.experts.items()
    }

    class Named(TravellingCodec):
        name = CODEC

        def come(self) -> None:
            log.append(("come", self.name))
            self.here.add(CODEC)

        def go(self) -> None:
            log.append(("go", self.name))
            self.here.discard(CODEC)

        def encode(self, frames: Any) -> Any:
            assert self.here, "the codec is asked while it is away"
            return self.codec.encode(frames)

    class Structure(Named):
        name = STRUCTURE

    last, first = Named(cast.codec, log), Structure(cast.codec_at("structure"), log)
    cast = replace(cast, experts=experts, codec=last, codecs={"structure": first, "refine": last})
    run.finished(run.play(recipe, cast))
    seen = [(what, name) for what, name in moves(log) if name in BOTH]
    came, went = [("come", STRUCTURE), ("come", CODEC)], [("go", STRUCTURE), ("go", CODEC)]
    # Both come for the bridge; the video's own comes again for its frames.
    assert seen == [*came, *went, ("come", CODEC), ("go", CODEC)]


def test_less_at_once_is_settled_codec_by_codec(folders: dict[str, Path]) -> None:
    """What was given up stands in the recipe that is kept, at the codec that it was given up for."""
    recipe = wan_then_sd(folders, **{"chain.structure.height": 96, "chain.structure.width": 128})
    budget = max(part.total for part in fit_in(recipe, None).parts)
    while not (found := fit_in(recipe, budget)).tiles.get(STRUCTURE):
        assert found.short is None
        budget = budget * 9 // 10
    assert any("the codec of structure is given tiles of" in said for said in found.given_up)
    tight = vram(recipe, budget)
    cast = run.load(tight)
    settled = run.settled(tight, cast, None)
    codec = settled.chain[0].codec
    assert codec is not None
    assert getattr(codec, "tiles", None) == cast.fit.tiles[STRUCTURE] == cast.codec_at("structure").tiles  # type: ignore[union-attr,attr-defined]
    assert run.finished(run.play(tight, cast)).frames.shape == (4, 24, 32, 3)


def test_a_bridge_that_cannot_fit_is_refused_before_it_is_loaded(folders: dict[str, Path]) -> None:
    tight = recipes.changed(wan_then_sd(folders), {"vram": "20kB"})
    with pytest.raises(RoomError, match=r"part '\w+' of the run: at least"):
        fitted(tight)


def test_what_is_encoded_behind_a_bridge_is_counted_whole(folders: dict[str, Path]) -> None:
    """It is never encoded in tiles, so tiles alone make no room for it."""
    recipe = sd_then_wan(folders)
    tiled = recipes.changed(recipe, {"codec.tiles": 4})
    whole, less = (decoders(foreseen(one, []))[CODEC] for one in (recipe, tiled))
    assert whole.encoded == whole.shape == less.encoded == (4, 2, 6, 8)
    assert less.work == whole.work > replace(less, encoded=None).work
