"""Open-Sora Plan v1.3: the names and shapes of its published tensors, its attention and its places against plain formulas,
padding, words and their mask, loading, what is refused, sampling, what a plan counts."""

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
from diffusers import EulerAncestralDiscreteScheduler
from fakehub import Hub, Repo, installed
from safetensors.torch import load_file, save_file
from tiny import apart, noise, shapes
from torch import Tensor, nn
from transformers import MT5EncoderModel, MT5ForConditionalGeneration

import dovetail
from dovetail import recipe as recipes
from dovetail.core.combine import Guided, Windowed
from dovetail.core.denoiser import TARGETS, Condition, Expert, timeline
from dovetail.core.noise import Noise
from dovetail.core.sampler import Ancestral, last, sample
from dovetail.core.schedules import VariancePreserving, schedule_of
from dovetail.costs import costs
from dovetail.errors import PromptWarning, RecipeError, WeightsError
from dovetail.experts import FAMILIES, Adapter, load, load_codec, same_space
from dovetail.experts.adapter import masked
from dovetail.experts.checkpoint import Location, find
from dovetail.experts.flops import flops, operations
from dovetail.experts.hub import listed
from dovetail.experts.opensora import facts
from dovetail.experts.opensora.attention import Groups, TokenAttention, Way, WordAttention
from dovetail.experts.opensora.places import turns
from dovetail.experts.opensora.transformer import OpenSoraT2V_v1_3
from dovetail.experts.outline import Outline, outline, space_ahead, text_parameters
from dovetail.experts.published import MT5, PUBLISHED, Words
from dovetail.experts.pulling import pull
from dovetail.experts.schedulers import ladder_of
from dovetail.experts.shelf import SHELF
from dovetail.run.cast import same_words
from dovetail.run.wants import wants

PROMPT, AWAY = "a red circle, moving left", "blurred"
FRAMES, SIZE = 3, (6, 10)
TOKENS = 3 * 3 * 5
"""Of a clip of this size; no multiple of 16."""


def linear(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


# --- the published architecture ---------------------------------------------------------------------------------------


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the shards, as docs/open-sora-plan.md has them from the authors' code."""
    wide = 2304
    found = {"pos_embed.proj.weight": (wide, 8, 2, 2), "pos_embed.proj.bias": (wide,), "scale_shift_table": (2, wide)}
    time = "adaln_single.emb.timestep_embedder"
    found |= linear(f"{time}.linear_1", 256, wide) | linear(f"{time}.linear_2", wide, wide)
    found |= linear("adaln_single.linear", wide, 6 * wide) | linear("proj_out", wide, 2 * 2 * 8)
    found |= linear("caption_projection.linear_1", 4096, wide) | linear("caption_projection.linear_2", wide, wide)
    for block in (f"transformer_blocks.{i}" for i in range(32)):
        found[f"{block}.scale_shift_table"] = (6, wide)
        found |= linear(f"{block}.ff.net.0.proj", wide, 9216) | linear(f"{block}.ff.net.2", 9216, wide)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            found |= linear(f"{block}.attn1.{part}", wide, wide) | linear(f"{block}.attn2.{part}", wide, wide)
    return found


def test_names_and_shapes_are_those_of_the_published_files() -> None:
    with torch.device("meta"):
        network = OpenSoraT2V_v1_3(**facts.SIZES)
        assert shapes(OpenSoraT2V_v1_3()) == shapes(network), "its defaults are the published sizes"
    found = shapes(network)
    assert found == published()
    assert len(found) == 687
    numbers = sum(math.prod(shape) for shape in found.values())
    assert numbers == 2_771_981_600
    assert 4 * numbers / 1e9 == pytest.approx(9.98 + 1.11, abs=0.01), "the two shards, in float32"
    ways = [block.attn1.groups for block in network.transformer_blocks]
    assert [i for i, groups in enumerate(ways) if groups.way == "all"] == [0, 1, 30, 31]
    assert [i for i, groups in enumerate(ways) if groups == Groups("runs", 4)] == list(range(3, 30, 2))
    assert [i for i, groups in enumerate(ways) if groups == Groups("fourths", 4)] == list(range(2, 30, 2))


@pytest.mark.skipif("OPENSORA_SOURCE" not in os.environ, reason="OPENSORA_SOURCE names no clone of Open-Sora-Plan")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(3, 6, 10), (4, 8, 8), (1, 2, 2)])
def test_the_authors_code_gives_the_same(monkeypatch: pytest.MonkeyPatch, size: tuple[int, ...]) -> None:
    """Against a clone of github.com/PKU-YuanGroup/Open-Sora-Plan (f7fa604) whose modules import: OPENSORA_SOURCE=CLONE
    pytest tests/test_opensora.py"""
    from contextlib import nullcontext

    monkeypatch.syspath_prepend(os.environ["OPENSORA_SOURCE"])
    monkeypatch.setattr(torch.backends.cuda, "sdp_kernel", lambda **_: nullcontext())  # It asks for one of CUDA's.
    from opensora.models.diffusion.opensora_v1_3.modeling_opensora import OpenSoraT2V_v1_3 as Theirs

    ours = tiny.opensora_transformer(6)
    theirs = Theirs(**{key: value for key, value in ours.config.items() if not key.startswith("_")}).eval()
    theirs.load_state_dict(ours.state_dict())
    x, words, mask, time = noise(2, 4, *size), noise(2, 7, tiny.WIDE), hidden_behind(3, 6), torch.tensor([601.0, 20.0])
    told = {"attention_mask": torch.ones(2, *size), "encoder_attention_mask": mask[:, None].float()}
    with torch.no_grad():
        other = theirs(x, timestep=time, encoder_hidden_states=words[:, None], **told).sample
        assert apart(ours(x, time, words, mask).sample, other) <= 1e-6


# --- where tokens lie -------------------------------------------------------------------------------------------------


def plainly_turned(x: Tensor, size: tuple[int, int, int], scales: tuple[float, ...] = (1, 1, 1)) -> Tensor:
    """Numbers i and k + i of each third 2k of a head are a complex number, times e^(i * place * 10000^(-2i / 2k)), the
    place being the token's in time, height or width. x "n d"."""
    third, found = x.shape[-1] // 3, x.clone()
    for n in range(len(x)):
        places = (n // (size[1] * size[2]), n // size[2] % size[1], n % size[2])
        for axis in range(3):
            for i in range(third // 2):
                a, b = axis * third + i, axis * third + third // 2 + i
                angle = places[axis] / scales[axis] * 10_000 ** (-2 * i / third)
                pair = complex(float(x[n, a]), float(x[n, b])) * complex(math.cos(angle), math.sin(angle))
                found[n, a], found[n, b] = pair.real, pair.imag
    return found


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (2.0, 1.5, 1.25)])
def test_turning_is_multiplication_with_a_phase(scales: tuple[float, float, float]) -> None:
    size, x = (3, 2, 5), noise(1, 30, 2, 24)
    found = turns(size, 24, scales, torch.float32, torch.device("cpu"))(x)
    for head in range(2):
        assert torch.allclose(found[0, :, head], plainly_turned(x[0, :, head], size, scales), atol=1e-5)
    assert torch.equal(found[:, 0], x[:, 0]), "the first token stays"


def test_only_distances_count() -> None:
    """The product of two turned vectors is the same wherever both are moved to, along each axis."""
    made = turns((4, 4, 4), 24, (1.0, 1.0, 1.0), torch.float32, torch.device("cpu"))
    q, k = (made(noise(2, 1, 1, 24)[i][None].expand(1, 64, 1, 24))[0, :, 0].view(4, 4, 4, 24) for i in range(2))
    scores = torch.einsum("fhwd,ijkd->fhwijk", q, k)
    for step in range(3):
        whole, moved = (scores[at, at, at][..., at, at, at] for at in (slice(0, 4 - step), slice(step, 4)))
        assert torch.allclose(whole, moved, atol=1e-4)
    assert scores.std() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_angles_are_rounded_before_their_cosines(dtype: torch.dtype) -> None:
    """As the authors' code has it: 39 * 10000^(-2 / 32) is 21.931 in float32, 21.9375 and 21.875 in halves."""
    made = turns((1, 1, 40), 96, (1.0, 1.0, 1.0), dtype, torch.device("cpu"))
    angle = torch.tensor(39 * 10_000 ** (-2 / 32)).to(dtype)
    assert float(angle) == {torch.float16: 21.9375, torch.bfloat16: 21.875}[dtype]
    assert made.cosines[39, 0, 2, 1] == angle.cos()
    assert made.cosines.dtype == made.sines.dtype == dtype


# --- who meets whom ---------------------------------------------------------------------------------------------------


def met(way: Way, token: int, tokens: int) -> list[int]:
    """The tokens that one meets, by the page's words."""
    if way == "fourths":
        return [other for other in range(tokens) if (other - token) % 4 == 0]
    if way == "runs":
        return [other for other in range(tokens) if (other // 4 - token // 4) % 4 == 0]
    return list(range(tokens))


def formula(attention: TokenAttention, x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """softmax_j(<turned q_i, turned k_j> / sqrt(d)) v_j over the j that i meets, head by head, token by token. x "n c"."""
    width, heads, tokens = x.shape[1], attention.heads, len(x)
    q, k, v = (to(x) for to in (attention.to_q, attention.to_k, attention.to_v))
    rows = torch.zeros_like(x)
    for mine in (slice(h * width // heads, (h + 1) * width // heads) for h in range(heads)):
        turned_q, turned_k = plainly_turned(q[:, mine], size), plainly_turned(k[:, mine], size)
        for i in range(tokens):
            there = met(attention.groups.way, i, tokens)
            scores = (turned_k[there] @ turned_q[i] / (width / heads) ** 0.5).exp()
            rows[i, mine] = scores / scores.sum() @ v[there][:, mine]
    return attention.to_out[0](rows)  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [(3, 3, 5), (2, 4, 4), (1, 1, 3), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("way", ["all", "fourths", "runs"])
@torch.no_grad()
def test_attention_is_the_plain_formula_over_sets_of_tokens(way: Way, size: tuple[int, int, int]) -> None:
    """Without any padding in the formula, so what is padded here changes nothing: 45 tokens, 3 and 1 are no multiples of
    16, and of 3 there are groups with nothing in them."""
    attention = tiny.grown(lambda: TokenAttention(24, 2, Groups(way, 4)), 3, 0.3)
    x = noise(2, math.prod(size), 24)
    found = attention(x, turns(size, 12, (1.0, 1.0, 1.0), x.dtype, x.device))
    for row in range(2):
        assert apart(found[row], formula(attention, x[row], size)) <= 1e-5


@pytest.mark.parametrize("way", ["all", "fourths", "runs"])
@pytest.mark.parametrize("tokens", [1, 15, 16, 33, 64, 85])
def test_groups_part_tokens_and_join_them_again(way: Way, tokens: int) -> None:
    groups, x = Groups(way, 4), torch.arange(tokens).float()[None, :, None, None].repeat(3, 1, 2, 1)
    rows = groups.apart(x)
    assert torch.equal(groups.back(rows, tokens), x)
    there = groups.there(x)
    assert (there is None) == (way == "all" or tokens % 16 == 0)
    sets = rows[:4, 0, :, 0] if way != "all" else rows[:1, 0, :, 0]
    kept = torch.ones_like(sets, dtype=torch.bool) if there is None else there[:4, 0, 0]
    for row, real in zip(sets, kept, strict=True):
        mine = [int(token) for token in row[real]]
        assert all(met(way, token, tokens) == mine for token in mine)
    assert int(kept.sum()) == tokens
    assert rows.shape[2] == (tokens if way == "all" else -(-tokens // 16) * 4)


@torch.no_grad()
def test_two_blocks_bring_every_token_to_every_other() -> None:
    """A change anywhere is seen everywhere after one block of each kind, and in a part of the tokens after one."""
    x = noise(1, 4, 4, 8, 8)
    changed = x.clone()
    changed[..., 0, 0, :2] += 1  # Of the first row of each frame, the first token; 4 tokens, that lie 16 apart.
    for layers in (3, 4):
        network = tiny.opensora_transformer(layers)
        for block in network.transformer_blocks[:2]:
            block.attn1.to_out[0].weight.zero_()
        difference = (answer(network, changed) - answer(network, x)).abs().amax((0, 1))
        tokens = difference.unfold(1, 2, 2).unfold(2, 2, 2).amax((3, 4)).flatten() > 1e-6
        there = [0, 16, 32, 48]
        once = {other for token in there for other in met("fourths", token, 64)}
        twice = {other for token in once for other in met("runs", token, 64)}
        assert set(tokens.nonzero().flatten().tolist()) == (once if layers == 3 else twice)
    assert len(twice) == 64


# --- the network ------------------------------------------------------------------------------------------------------


def answer(network: OpenSoraT2V_v1_3, x: Tensor, words: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    told = noise(len(x), 7, tiny.WIDE) if words is None else words
    with torch.no_grad():
        return network(x, torch.tensor([601.0, 20.0])[: len(x)], told, mask).sample  # type: ignore[union-attr]


def hidden_behind(*lengths: int) -> Tensor:
    """A mask "b 7" of texts of these lengths."""
    return torch.arange(7)[None] < torch.tensor(lengths)[:, None]


def at_time(time: float, wide: int = 256) -> Tensor:
    """Cosines and then sines of the time, from fast to slow."""
    angles = time * 10_000 ** (-torch.arange(wide // 2) / (wide // 2))
    return torch.cat((angles.cos(), angles.sin()))


@torch.no_grad()
def test_the_network_is_the_plain_formula() -> None:
    """PixArt's block without a norm before the words, on one clip, token by token."""
    silu, gelu = nn.functional.silu, lambda x: nn.functional.gelu(x, approximate="tanh")
    net, x, said = tiny.opensora_transformer(4), noise(1, 4, FRAMES, *SIZE), noise(1, 7, tiny.WIDE)
    corners = [(f, h, w) for f in range(FRAMES) for h in range(0, 6, 2) for w in range(0, 10, 2)]
    cells = torch.stack([x[0, :, f, h : h + 2, w : w + 2].flatten() for f, h, w in corners])
    hidden = cells @ net.pos_embed.proj.weight.flatten(1).T + net.pos_embed.proj.bias
    embedder = net.adaln_single.emb.timestep_embedder
    time = embedder.linear_2(silu(embedder.linear_1(at_time(601.0))))
    steps = net.adaln_single.linear(silu(time)).view(6, -1)
    words = net.caption_projection.linear_2(gelu(net.caption_projection.linear_1(said[0, :3])))

    def normed(rows: Tensor) -> Tensor:
        return (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True, correction=0) + 1e-6).sqrt()

    for block in net.transformer_blocks:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = block.scale_shift_table + steps
        hidden = hidden + gate * formula(block.attn1, normed(hidden) * (1 + scale) + shift, (FRAMES, 3, 5))
        attn = block.attn2
        q, k, v = (part.view(len(part), 2, 12) for part in (attn.to_q(hidden), attn.to_k(words), attn.to_v(words)))
        scores = torch.einsum("nhd,lhd->hnl", q, k).div(12**0.5).softmax(-1)
        hidden = hidden + attn.to_out[0](torch.einsum("hnl,lhd->nhd", scores, v).flatten(1))
        inner = gelu(block.ff.net[0].proj(normed(hidden) * (1 + scale_ff) + shift_ff))
        hidden = hidden + gate_ff * block.ff.net[2](inner)
    shift, scale = net.scale_shift_table + time
    rows = net.proj_out(normed(hidden) * (1 + scale) + shift).view(-1, 2, 2, 4)
    right = torch.zeros_like(x)
    for row, (f, h, w) in zip(rows, corners, strict=True):
        right[0, :, f, h : h + 2, w : w + 2] = row.permute(2, 0, 1)
    assert apart(answer(net, x, said, hidden_behind(3)), right) <= 1e-5


def test_hidden_words_are_not_seen() -> None:
    network, x, words = tiny.opensora_transformer(), noise(2, 4, FRAMES, *SIZE), noise(2, 7, tiny.WIDE)
    other = words.clone()
    other[0, 3:], other[1, 6:] = 5, 5
    mask = hidden_behind(3, 6)
    assert torch.equal(answer(network, x, words, mask), answer(network, x, other, mask))
    assert apart(answer(network, x, words, mask), answer(network, x, words)) > 1e-3
    right = [answer(network, x[:1], words[:1, :3]), network(x[1:], torch.tensor([20.0]), words[1:, :6]).sample.detach()]
    assert apart(answer(network, x, words, mask), torch.cat(right)) <= 1e-5


def test_rows_are_free_of_each_other() -> None:
    """Groups stand on the batch axis, and none of them holds tokens of two clips."""
    network, x, words = tiny.opensora_transformer(), noise(2, 4, FRAMES, *SIZE), noise(2, 7, tiny.WIDE)
    assert apart(answer(network, x[:1], words[:1]), answer(network, x, words)[:1]) <= 1e-5


def test_words_take_no_part_in_groups() -> None:
    attention = tiny.grown(lambda: WordAttention(24, 2), 5, 0.3)
    x, words = noise(1, TOKENS, 24), noise(1, 7, 24)
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert apart(attention(x[:, order], words, None), attention(x, words, None)[:, order]) <= 1e-6


def test_the_answer_comes_as_a_tuple_too() -> None:
    network, x = tiny.opensora_transformer(), noise(1, 4, 2, 4, 4)
    with torch.no_grad():
        (found,) = network(x, torch.tensor([601.0]), noise(1, 7, tiny.WIDE), return_dict=False)
    assert torch.equal(found, answer(network, x))


def test_without_sparse_attention_all_tokens_meet() -> None:
    network = tiny.opensora_transformer(sparse1d=False)
    assert all(block.attn1.groups == Groups() for block in network.transformer_blocks)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; tests do not change it."""
    return tiny.open_sora_plan(tmp_path_factory.mktemp("open-sora-plan"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The network's folder, and the text model's, as published."""
    place = tmp_path_factory.mktemp("two")
    return tiny.open_sora_plan(place / "it", apart=place / "words"), place / "words"


@pytest.fixture(scope="module")
def expert(folder: Path) -> Expert:
    return load("it", "open-sora-plan", str(folder))


def network(expert: Expert) -> Adapter:
    assert isinstance(expert.network, Adapter)
    return expert.network


def look(expert: Expert) -> Tensor:
    return expert.network(noise(1, tiny.CHANNELS, FRAMES, *SIZE), 601.0, [Condition(PROMPT)], timeline(FRAMES))


def test_what_comes_without_a_scheduler_has_the_authors(expert: Expert) -> None:
    assert expert.schedule == schedule_of(facts.SCHEDULER)
    plain = VariancePreserving.betas("linear", 1e-4, 0.02, zero_terminal_snr=True)
    assert expert.schedule.share(998) == plain.share(998)
    assert expert.target is TARGETS["v_prediction"]
    shares = expert.schedule.shares
    assert shares[998] > shares[999], "what steps in sigma leaves more signal in pure noise than there is before it"
    assert expert.schedule.native(shares[999]) == 999
    it = network(expert)
    assert (it.patch, it.max_frames, it.text_limit, it.space.channels) == (2, 24, 512, tiny.CHANNELS)
    assert type(it.module) is OpenSoraT2V_v1_3
    assert not any(p.requires_grad for p in it.module.parameters())


def test_a_scheduler_that_is_there_is_taken(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "it")
    EulerAncestralDiscreteScheduler(prediction_type="epsilon").save_pretrained(tmp_path / "it" / "scheduler")
    assert network(load("it", "open-sora-plan", str(tmp_path / "it"))).scheduler["prediction_type"] == "epsilon"


def test_every_tensor_is_the_files(folder: Path, expert: Expert) -> None:
    (file,) = (folder / facts.PART).glob("*.safetensors")
    saved = load_file(file)
    assert set(saved) == set(network(expert).module.state_dict())
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network(expert).module.state_dict().items())


def test_tensors_come_in_shards(folder: Path, expert: Expert, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "it")
    part = tmp_path / "it" / facts.PART
    (file,) = part.glob("*.safetensors")
    tensors = load_file(file)
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves = [[*tensors][:40], [*tensors][40:]]
    for name, keys in zip(names, halves, strict=True):
        save_file({key: tensors[key] for key in keys}, part / name, {"format": "pt"})
    where = {key: name for name, keys in zip(names, halves, strict=True) for key in keys}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    file.unlink()
    assert torch.equal(look(load("it", "open-sora-plan", str(tmp_path / "it"))), look(expert))
    (part / names[1]).unlink()
    with pytest.raises(WeightsError, match="1 of its 2 files are not there"):
        load("it", "open-sora-plan", str(tmp_path / "it"))


def test_the_folder_may_have_another_name(folder: Path, expert: Expert, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "it")
    (tmp_path / "it" / facts.PART).rename(tmp_path / "it" / "transformer")
    found = load("it", "open-sora-plan", str(tmp_path / "it"), subfolder="transformer")
    assert torch.equal(look(found), look(expert))


def test_half_precision_is_half_of_everything(folder: Path, expert: Expert) -> None:
    half = load("it", "open-sora-plan", str(folder), dtype="bfloat16")
    assert {p.dtype for p in network(half).module.parameters()} == {torch.bfloat16}
    assert 0 < apart(look(half), look(expert)) < 0.1


# --- words ------------------------------------------------------------------------------------------------------------


def test_words_are_hidden_where_there_are_none(folder: Path, expert: Expert) -> None:
    """Padded to 512, read as they are; encoder and network see no padding."""
    tokenizer, encoder = tiny.mt5()
    hidden, mask = network(expert).text("Red  &amp; ")
    read = tokenizer("Red  &amp; ", return_tensors="pt")
    length = read.input_ids.shape[1]
    assert (hidden.shape, mask.dtype) == ((1, 512, tiny.WIDE), torch.bool)
    assert mask.nonzero()[:, 1].tolist() == list(range(length))
    with torch.no_grad():
        assert apart(hidden[:, :length], encoder(read.input_ids)[0]) <= 1e-5
        seen = encoder(tokenizer("a", padding="max_length", max_length=512, return_tensors="pt").input_ids)[0]
    assert apart(network(expert).text("a")[0][:, :2], seen[:, :2]) > 1e-3, "padding would be seen without a mask"


def test_words_beyond_the_limit_are_told(expert: Expert) -> None:
    with pytest.warns(PromptWarning, match="reads 512 tokens"):
        network(expert).text("a " * 600)


def test_the_convention_hands_on_the_mask(expert: Expert) -> None:
    module, x, time = network(expert).module, noise(1, tiny.CHANNELS, 2, 4, 4), torch.tensor([601.0])
    hidden, mask = network(expert).text(PROMPT)
    with torch.no_grad():
        found = masked(module, x, time, (hidden, mask))
        length = int(mask.sum())
        assert apart(found, module(x, time, hidden[:, :length]).sample) <= 1e-5


def test_a_text_model_may_lie_elsewhere(two: tuple[Path, Path], expert: Expert, tmp_path: Path) -> None:
    """At the top of a folder, as google/mt5-xxl has it, or in its parts."""
    it, words = two
    assert (words / "config.json").is_file()
    assert torch.equal(look(load("it", "open-sora-plan", str(it), words=str(words))), look(expert))
    tokenizer, encoder = tiny.mt5()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder.save_pretrained(tmp_path / "text_encoder")
    assert torch.equal(look(load("it", "open-sora-plan", str(it), words=str(tmp_path))), look(expert))


@pytest.fixture
def hub(two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Both repositories as they are published: the text model with its decoder, as a pickle and a spiece.model."""
    it, place = two[0], tmp_path / "mt5"
    _, encoder = tiny.mt5()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = MT5ForConditionalGeneration(encoder.config)
    whole.load_state_dict(encoder.state_dict(), strict=False)
    whole.save_pretrained(place)
    (place / "model.safetensors").unlink()
    torch.save(whole.state_dict(), place / "pytorch_model.bin")
    tokenizer, _ = tiny.mt5()
    tokenizer.save_pretrained(place / "tokenizer")
    tiny.pieces(place, ids=0)
    for file in (place / "tokenizer").iterdir():
        file.rename(place / file.name)
    (place / "tokenizer").rmdir()
    (place / "tf_model.h5").write_bytes(b"large")
    (place / "flax_model.msgpack").write_bytes(b"large")
    repos = {facts.REPO: Repo.of(it), facts.WORDS: Repo.of(place)}
    yield from installed(Hub(repos), tmp_path / "cache", monkeypatch)


def test_the_published_text_model_comes_from_its_own_repository(hub: Hub, expert: Expert) -> None:
    found = load("it", "open-sora-plan", facts.REPO)
    assert apart(look(found), look(expert)) <= 1e-5
    brought = {path.name for path in Path(huggingface_hub.constants.HF_HUB_CACHE).rglob("*") if path.is_file()}
    assert {"pytorch_model.bin", "spiece.model"} <= brought
    assert not brought & {"tf_model.h5", "flax_model.msgpack"}


def test_the_text_model_may_be_of_a_revision(hub: Hub, expert: Expert, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played without a network, by what was pulled; another revision is not here."""
    before = "d" * 40
    hub.repos[facts.WORDS].branches["before"] = before
    words = f"{facts.WORDS}@{before}"
    recipe = recipes.changed(recipes.load("opensora-plan"), {"experts.base.words": words})
    for want in wants(recipe):
        if want.repo == facts.WORDS:
            assert want.revision == before
            list(pull(listed(want)))
    find(Location(facts.REPO), [facts.PART, "vae"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert apart(look(load("it", "open-sora-plan", facts.REPO, words=words)), look(expert)) <= 1e-5
    with pytest.raises(WeightsError, match=r"`dovetail models pull google/mt5-xxl` brings it"):
        load("it", "open-sora-plan", facts.REPO)


def test_what_lies_beside_the_network_is_not_asked_for_elsewhere(folder: Path, two: tuple[Path, Path]) -> None:
    recipe = recipes.load("opensora-plan")
    for place, repos in ((folder, []), (two[0], [facts.WORDS])):
        changes = {"experts.base.weights": str(place), "codec.weights": str(place)}
        assert [want.repo for want in wants(recipes.changed(recipe, changes))] == repos
    apart = {**changes, "experts.base.words": str(two[1])}
    assert not wants(recipes.changed(recipe, apart))
    assert recipes.weights_in(recipes.changed(recipe, apart))["experts.base.words"] == str(two[1])


def test_two_experts_of_it_share_their_words() -> None:
    one = recipes.load("opensora-plan").experts["base"]
    assert same_words(one, one)
    other = recipes.changed(recipes.load("opensora-plan"), {"experts.base.words": "some/mt5"}).experts["base"]
    assert not same_words(one, other)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch_size_t", 2), ("activation_fn", "geglu"), ("attention_bias", False), ("cross_attention_dim", 32)],
)
def test_another_network_of_that_name_is_told(folder: Path, tmp_path: Path, key: str, value: object) -> None:
    shutil.copytree(folder, tmp_path / "it")
    file = tmp_path / "it" / facts.PART / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    weights = str(tmp_path / "it")
    for attempt, where in ((load, weights), (outline, Location(weights))):
        with pytest.raises(RecipeError, match=rf"no network of Open-Sora Plan v1\.3 .*: {key} is {value}, not"):
            attempt("it", "open-sora-plan", where)
    with pytest.raises(ValueError, match=f"{key} is {value}"), torch.device("meta"):
        OpenSoraT2V_v1_3(**{key: value})


def test_other_families_come_with_their_words(folder: Path) -> None:
    with pytest.raises(RecipeError, match="asks for words 'google/mt5-xxl', but weights of family 'wan'"):
        load("it", "wan", str(folder), words=facts.WORDS)
    assert [name for name, kind in FAMILIES.items() if kind.words] == ["open-sora-plan"]


def test_the_network_for_images_is_another(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "it")
    file = tmp_path / "it" / facts.PART / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "OpenSoraInpaint_v1_3"}))
    with pytest.raises(RecipeError, match="is a OpenSoraInpaint_v1_3, which no family calls"):
        load("it", "open-sora-plan", str(tmp_path / "it"))


def test_what_is_missing_is_told(two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match=r"no weights 'google/mt5-xxl'.*`dovetail models pull google/mt5-xxl`"):
        load("it", "open-sora-plan", str(two[0]))
    with pytest.raises(WeightsError, match=r"no such folder.*read with google/mt5-xxl"):
        load("it", "open-sora-plan", str(two[0]), words=str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"'.*empty' has no tokenizer/"):
        load("it", "open-sora-plan", str(two[0]), words=str(tmp_path / "empty"))


def test_more_frames_than_it_was_trained_on_want_windows(expert: Expert) -> None:
    x = noise(1, tiny.CHANNELS, 25, 4, 4)
    with pytest.raises(RecipeError, match="sees at most 24 frame"):
        expert.given("red")(x, 0.6, timeline(25))
    assert Windowed(expert.given("red"), size=24, stride=1)(x, 0.6, timeline(25)).x0.shape == x.shape


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_an_expert_alone_is_its_authors_loop(expert: Expert, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OpenSoraPipeline` with `--sample_method EulerAncestralDiscrete --rescale_betas_zero_snr --prediction_type
    v_prediction`: both branches in one call, the negative first, each text with its mask."""
    it = network(expert)
    (positive, seen), (negative, unseen) = it.text(PROMPT), it.text(AWAY)
    ladder, solver, frames = ladder_of(it.scheduler, 5), Ancestral(Noise(3)), timeline(FRAMES)
    start = noise(1, tiny.CHANNELS, FRAMES, *SIZE)
    fresh = iter([solver.noise.like(start, frames, "ancestral", t) for t in ladder.levels[:-1]])
    drawn = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(drawn, lambda *_, **__: next(fresh))
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = EulerAncestralDiscreteScheduler(**options)
    scheduler.set_timesteps(5)
    x = start * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        shown = scheduler.scale_model_input(torch.cat([x, x]), time)
        with torch.no_grad():
            both = it.module(shown, time.expand(2), torch.cat([negative, positive]), torch.cat([unseen, seen])).sample
        unguided, guided = both.chunk(2)
        x = scheduler.step(unguided + scale * (guided - unguided), time, x).prev_sample

    denoise = expert.given(PROMPT) if scale == 1 else Guided(expert.given(PROMPT), expert.given(AWAY), scale)
    end = last(sample(denoise, start * ladder.first, frames, ladder.levels, solver))
    assert ladder.levels[-1] == 0
    assert apart(end.seen.x0, x) <= 1e-4


def test_windows_begin_anywhere(expert: Expert) -> None:
    """Positions are distances and count from a window's own start, so a window shows a clip as if it were alone."""
    denoise, x = expert.given("red"), noise(1, tiny.CHANNELS, 6, 4, 4)
    inside = Windowed(denoise, size=3, stride=3)(x, 0.6, timeline(6)).x0
    alone = denoise(x[:, :, 3:], 0.6, timeline(6)[:, 3:]).x0
    assert apart(inside[:, :, 3:], alone) <= 1e-5


# --- plans and recipes ------------------------------------------------------------------------------------------------


def test_files_on_this_machine_are_counted_as_they_are(folder: Path, expert: Expert) -> None:
    found, shape = outline("it", "open-sora-plan", Location(str(folder))), (tiny.CHANNELS, FRAMES, *SIZE)
    assert found.parameters == network(expert).parameters
    assert (found.kind, found.words.limit, found.words.width) == (facts.KIND, 512, tiny.WIDE)
    assert found.look(shape).total == flops(expert, shape)
    # Two blocks in which 45 tokens meet; two of 48, padded, in which each meets 12; all meet 512 words.
    met = 2 * 45 * 45 + 2 * 48 * 12 + 4 * 45 * 512
    assert found.look(shape).attention == 4 * 24 * met


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 32])
@pytest.mark.parametrize("skipped", [(), (0,), (4, 2)])
def test_three_blocks_tell_the_whole_stack(layers: int, skipped: tuple[int, ...]) -> None:
    skipped = tuple(block for block in skipped if 0 < layers - 1 >= block)
    config = {**facts.SIZES, "num_layers": layers, "num_attention_heads": 2, "attention_head_dim": 12}
    config |= {"cross_attention_dim": 24, "caption_channels": 16}
    words = Words("MT5EncoderModel", {"d_model": 16}, 32, masked=True)
    with torch.device("meta"):
        module = OpenSoraT2V_v1_3(**config)
        module.transformer_blocks = nn.ModuleList(
            [block for i, block in enumerate(module.transformer_blocks) if i not in skipped]
        )
        row, time, text = torch.zeros(1, 8, 3, 6, 10), torch.zeros(1), torch.zeros(1, 32, 16)
        mask = torch.ones(1, 32, dtype=torch.bool)
    found = Outline("open-sora-plan", facts.KIND, config, words, 4)
    assert found.look((8, 3, 6, 10), skipped) == operations(lambda: masked(module, row, time, (text, mask)))
    if not skipped:
        assert found.parameters == sum(p.numel() for p in module.parameters())


def test_a_plan_knows_it_before_it_is_there() -> None:
    plan = dovetail.plan("opensora-plan")
    assert plan.latent == (24, 44, 80)
    found = costs(plan).experts["base"]
    assert found.parameters == 2_771_981_600
    assert found.bytes == 2 * found.parameters
    assert found.spent.total == found.look.total * 100 * 2, "100 steps, both branches of guidance"
    (note,) = [note for note in plan.notes if "'base'" in note]
    assert "planned by its published configuration" in note
    # 21120 tokens, which meet a quarter of them in 28 blocks and all in 4, and 512 words in all.
    met = 4 * 21120**2 + 28 * 21120 * 5280 + 32 * 21120 * 512
    assert found.look.attention == 4 * 2304 * met


def test_sparse_attention_is_what_makes_it_cheap() -> None:
    shape, told = (8, 24, 44, 80), PUBLISHED[facts.REPO, facts.PART]
    sparse = Outline("open-sora-plan", told.kind, told.config, told.words, 2)
    dense = Outline("open-sora-plan", told.kind, {**told.config, "sparse1d": False}, told.words, 2)
    assert sparse.parameters == dense.parameters
    assert sparse.look(shape).linear == dense.look(shape).linear
    assert sparse.look(shape).attention / dense.look(shape).attention == pytest.approx(0.36, abs=0.01)


def test_what_is_downloaded_weighs_what_it_should() -> None:
    told = PUBLISHED[facts.REPO, facts.PART]
    with torch.device("meta"):
        numbers = sum(p.numel() for p in OpenSoraT2V_v1_3(**told.config).parameters())
    assert SHELF[facts.REPO].parts[facts.PART] == pytest.approx(4 * numbers / 1e9, abs=0.005)
    assert 4 * text_parameters(MT5) / 1e9 == pytest.approx(22.6, abs=0.05), "the encoder; the file has the decoder too"
    network, words = wants(recipes.load("opensora-plan"))
    assert (network.repo, words.repo, words.parts) == (facts.REPO, facts.WORDS, facts.WORDS_FILES)
    assert not {"text_encoder", "tokenizer", "scheduler"} & set(network.parts)


def test_its_usual_space_is_that_of_its_autoencoder() -> None:
    assert space_ahead("it", "open-sora-plan", Location(facts.REPO)) == FAMILIES["open-sora-plan"].space
    usual = FAMILIES["open-sora-plan"].space
    assert (usual.channels, usual.factor, usual.latent_frames(93), usual.whole(90)) == (8, 8, 24, 93)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny checkpoint with its autoencoder, as training left it."""
    return str(tiny.wfvae_published(tiny.open_sora_plan(tmp_path_factory.mktemp("whole"))))


SMALL: dict[str, dict[str, Any]] = {
    "opensora-plan": {"chain.video.ladder.own.steps": 3},
    "syncos-opensora-plan": {
        "chain.video.ladder.trailing.steps": 4,
        "chain.video.denoise.coupled.size": 3,
        "chain.video.denoise.coupled.stride": 2,
        "story": {"events": ["it moves left", "it moves right"]},
    },
}


def small(weights: str) -> dict[str, Any]:
    """A recipe's changes for tiny weights: 5 latent frames of 4x6 cells."""
    here = {"weights": weights, "dtype": "float32", "device": "cpu"}
    placed = {f"{part}.{key}": value for part in ("experts.base", "codec") for key, value in here.items()}
    return {**placed, "video.frames": 17, "video.height": 32, "video.width": 48}


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_runs_on_tiny_weights(name: str, whole: str) -> None:
    recipe = recipes.changed(recipes.load(name), {**small(whole), **SMALL[name]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        made = dovetail.generate("a red circle", recipe)
    assert made.frames.shape == (17, 32, 48, 3)
    assert set(made.settings["calls"]) == {"base"}


def test_its_latents_are_its_autoencoders(whole: str) -> None:
    it = network(load("it", "open-sora-plan", whole))
    usual = FAMILIES["open-sora-plan"].space
    assert (it.space.vae, it.space.factor, it.space.compression) == (usual.vae, usual.factor, usual.compression)
    assert (it.space.scaling, it.space.shift) == (usual.scaling, usual.shift)
    same_space(it.space, load_codec(whole).space)


def test_blocks_can_be_left_out_and_reused(whole: str) -> None:
    changes, ladder = {**small(whole), "negative": ""}, {"own": {"of": "base", "steps": 4}}

    def made(denoise: Any) -> Any:
        chain = [{"stage": "video", "ladder": ladder, "denoise": denoise}]
        return dovetail.generate(
            "red", recipes.changed(recipes.load("opensora-plan"), {**changes, "chain": chain})
        ).frames

    right = made("base")
    for denoise in ({"expert": "base", "skip": [2]}, {"expert": "base", "reuse": [1, 2]}):
        assert (made(denoise) != right).any()


def test_the_text_model_reads_what_it_is_named_for() -> None:
    assert MT5.kind == MT5EncoderModel.__name__
    assert (MT5.limit, MT5.masked, MT5.width) == (512, True, 4096)
