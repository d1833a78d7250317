"""Checkpoints spelled as they are published, which is not how today's libraries write them."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiny
import torch
from transformers import CLIPTokenizer, T5Tokenizer

from dovetail.errors import WeightsError
from dovetail.experts import load, load_codec, loading
from dovetail.experts.checkpoint import Location
from dovetail.experts.single_file import SingleFile
from dovetail.experts.tokenizing import tokenizer

PROMPT = "a red circle, moving left"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints; tests do not change them."""
    families = ("stable-diffusion", "text-to-video-sd", "cogvideox", "ltx")
    return {name: tiny.MAKERS[name](tmp_path_factory.mktemp(name)) for name in families}


def copied(whole: dict[str, Path], family: str, folder: Path) -> Path:
    return Path(shutil.copytree(whole[family], folder / family))


def said(family: str, folder: Path) -> tuple[torch.Tensor, ...]:
    """What an expert of a checkpoint is told of a text, and what its codec makes of a latent."""
    codec = load_codec(str(folder))
    latent = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    expert: Any = load("it", family, str(folder))
    assert expert.network.space == codec.space
    return *expert.network.text(PROMPT), codec.decode(latent)


def same(family: str, one: Path, two: Path) -> None:
    for a, b in zip(said(family, one), said(family, two), strict=True):
        assert torch.equal(a, b)


# --- one spelling each ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", tiny.IMAGE_SPELLINGS)
def test_a_checkpoint_of_images_means_the_same_in_old_spellings(
    whole: dict[str, Path], tmp_path: Path, spelling: str
) -> None:
    folder = copied(whole, "stable-diffusion", tmp_path)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    tiny.IMAGE_SPELLINGS[spelling](folder)
    assert before != {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    same("stable-diffusion", whole["stable-diffusion"], folder)


def test_and_in_all_of_them_at_once(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole, "text-to-video-sd", tmp_path)
    for spelled in tiny.IMAGE_SPELLINGS.values():
        spelled(folder)
    same("text-to-video-sd", whole["text-to-video-sd"], folder)


@pytest.mark.parametrize("family", ["cogvideox", "ltx"])
def test_words_of_a_t5_are_the_same_out_of_its_pieces_alone(
    whole: dict[str, Path], tmp_path: Path, family: str
) -> None:
    folder = copied(whole, family, tmp_path)
    tiny.pieces(folder)
    assert not (folder / "tokenizer" / "tokenizer.json").exists()
    same(family, whole[family], folder)


# --- a model of pieces that sentencepiece has trained -----------------------------------------------------------------


@pytest.fixture
def trained(whole: dict[str, Path], tmp_path: Path) -> Path:
    """CogVideoX with a spiece.model and nothing beside it but its config, as it is on the hub."""
    folder = copied(whole, "cogvideox", tmp_path)
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"extra_ids": 0, "tokenizer_class": "T5Tokenizer"}')
    text = "a red circle moving right on a teal striped background, a blue triangle moving left under a green ring"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 3 + text.split()),
        model_prefix=str(folder / "tokenizer" / "spiece"),
        vocab_size=42,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder


def test_pieces_are_those_of_sentencepiece_itself(trained: Path) -> None:
    expert: Any = load("it", "cogvideox", str(trained))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained / "tokenizer" / "spiece.model"))
    for text in (PROMPT, "a  blue triangle", "z"):
        assert expert.network.text.tokenizer(text).input_ids == [*processor.encode(text), 1]


@pytest.mark.parametrize("gone", ["sentencepiece", "google.protobuf"])
def test_the_packages_that_read_pieces_are_both_named(
    trained: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = importlib.import_module

    def missing(name: str) -> Any:
        if name == gone:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return honest(name)

    monkeypatch.setattr("dovetail.experts.tokenizing.import_module", missing)
    with pytest.raises(WeightsError, match=rf"{trained}/tokenizer\) .*pip install sentencepiece protobuf .*'{gone}'"):
        load("it", "cogvideox", str(trained))


@pytest.mark.parametrize("cut", [0, 300])
def test_damaged_pieces_are_named_and_no_other_kind_is_tried(trained: Path, cut: int) -> None:
    file = trained / "tokenizer" / "spiece.model"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(WeightsError, match=rf"{trained}/tokenizer\) cannot be read: .*Copy it again") as caught:
        load("it", "cogvideox", str(trained))
    assert "tiktoken" not in str(caught.value)
    assert "pip install" not in str(caught.value)


# --- tokenizers without their words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "spelled", "gone", "takes"),
    [
        ("stable-diffusion", None, "tokenizer.json", "tokenizer.json or vocab.json with merges.txt"),
        ("stable-diffusion", tiny.words_apart, "vocab.json", "tokenizer.json or vocab.json with merges.txt"),
        ("stable-diffusion", tiny.words_apart, "merges.txt", "tokenizer.json or vocab.json with merges.txt"),
        ("ltx", None, "tokenizer.json", "tokenizer.json or spiece.model"),
        ("cogvideox", tiny.pieces, "spiece.model", "tokenizer.json or spiece.model"),
    ],
)
def test_a_tokenizer_without_a_vocabulary_is_refused(
    whole: dict[str, Path],
    tmp_path: Path,
    family: str,
    spelled: Callable[[Path], None] | None,
    gone: str,
    takes: str,
) -> None:
    """Transformers makes one of two or four words of it, to which all prompts are alike."""
    folder = copied(whole, family, tmp_path)
    if spelled is not None:
        spelled(folder)
    (folder / "tokenizer" / gone).unlink()
    where = rf"tokenizer of '{folder}' \({folder / 'tokenizer'}\)"
    with pytest.raises(WeightsError, match=rf"{where} has no vocabulary, which is {takes}; there is ") as caught:
        load("it", family, str(folder))
    assert ". Copy it again from where it came" in str(caught.value)
    assert gone not in str(caught.value).partition("; there is ")[2]


@pytest.mark.parametrize("content", ["{}", '{"version": "1.0", "mod', "version https://git-lfs.github.com/spec/v1"])
def test_a_damaged_tokenizer_is_named_with_a_remedy(whole: dict[str, Path], tmp_path: Path, content: str) -> None:
    folder = copied(whole, "stable-diffusion", tmp_path)
    (folder / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"\({folder / 'tokenizer'}\) cannot be read: .*Copy it again") as caught:
        load("it", "stable-diffusion", str(folder))
    assert "sentencepiece" not in str(caught.value)


def test_the_remedy_for_a_tokenizer_beside_one_file_is_that_of_its_base(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole, "stable-diffusion", tmp_path)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    beside = SingleFile("one.safetensors", tmp_path / "one", frozenset(), loading.find(Location(str(folder)), []))
    with pytest.raises(WeightsError, match=rf"tokenizer of '{folder}' .*has no vocabulary"):
        tokenizer(CLIPTokenizer, beside)


def test_extra_marks_come_after_the_words(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole, "ltx", tmp_path)
    words = len(json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    tiny.pieces(folder)
    found = tokenizer(T5Tokenizer, loading.find(Location(str(folder)), []))
    assert found.convert_tokens_to_ids("<extra_id_0>") == words + 99
