"""Counts are kept on disk: read and not made again, made again where they are damaged, and never in the way."""

import pytest

from dovetail.experts import remembered
from dovetail.experts.outline import parameters_of

CONFIG = {"in_channels": 4, "out_channels": 4, "block_out_channels": [32], "down_block_types": ["DownBlock2D"]}
CONFIG |= {"up_block_types": ["UpBlock2D"], "mid_block_type": None, "cross_attention_dim": 8}


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """A count as a process that has just begun has it, and what it was asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))

    def begun():
        remembered._known.cache_clear()
        remembered._file.cache_clear()
        asked = []

        @remembered.remembered
        def count(number: int, shape: tuple[int, ...]) -> tuple[int, int]:
            asked.append(number)
            return number, sum(shape)

        return count, asked

    yield begun
    remembered._known.cache_clear()
    remembered._file.cache_clear()


def test_what_was_counted_is_read_and_not_counted_again(afresh):
    count, asked = afresh()
    assert [count(1, (2, 3)), count(1, (2, 3)), count(2, ())] == [(1, 5), (1, 5), (2, 0)]
    assert asked == [1, 2]
    count, asked = afresh()
    assert [count(2, ()), count(1, (2, 3)), count(1, (2, 4))] == [(2, 0), (1, 5), (1, 6)]
    assert asked == [1]


@pytest.mark.parametrize(
    "damage", [b'["cut', b"7", b'["name", "text"]', b"[3, 4]", b'["name", 1, 2]', b"\xff\xfe", b""]
)
def test_what_cannot_be_read_is_counted_again(afresh, damage):
    count, _ = afresh()
    count(1, ())
    file = remembered._file()
    file.write_bytes(damage + file.read_bytes()[5:])
    count, asked = afresh()
    assert (count(1, ()), asked) == ((1, 0), [1])
    count, asked = afresh()
    assert (count(1, ()), asked) == ((1, 0), [])


def test_other_code_counts_anew(afresh, monkeypatch):
    count, _ = afresh()
    count(1, ())
    monkeypatch.setattr(remembered, "version", lambda name: "0")
    count, asked = afresh()
    assert (count(1, ()), asked) == ((1, 0), [1])


def test_a_folder_that_takes_no_file_is_no_error(afresh, tmp_path):
    (tmp_path / "dovetail").write_text("a file where the folder should be")
    count, asked = afresh()
    assert (count(1, ()), count(1, ()), asked) == ((1, 0), (1, 0), [1])


def test_errors_are_not_kept(afresh, monkeypatch):
    afresh()
    config = CONFIG | {"attention_head_dim": 5, "down_block_types": ["no block"]}
    for _ in range(2):
        with pytest.raises(ValueError, match="no block"):
            parameters_of("UNet2DConditionModel", config)
    assert parameters_of("UNet2DConditionModel", CONFIG) > 0
