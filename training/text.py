"""The sprite experts' text side: a CLIP tokenizer of whole words, and a small CLIP text model."""

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dovetail.sprites.world import MEANINGS, VOCABULARY

LENGTH = 16
"""Tokens of a caption, start and end included."""
WIDTH = 64
TOLD = 20.0
"""Length of an embedding that outweighs all that a text model adds to it."""


def tokenizer() -> CLIPTokenizer:
    """Byte-pair merges that build every word of the world, letter by letter, into one token.

    Long merges come first, and merges that also occur inside other words last, so that no word is
    torn by the beginning of another. Letters and digits remain for words outside the grammar.
    """
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in VOCABULARY}
    letters = sorted({letter for word in spelled.values() for letter in word})
    letters += [c + end for c in "abcdefghijklmnopqrstuvwxyz0123456789" for end in ("", "</w>")]
    steps = {("".join(word[:i]), word[i]) for word in spelled.values() for i in range(1, len(word))}

    def inside(step: tuple[str, str]) -> int:
        return sum("".join(step) in word[1:] for word in VOCABULARY)

    merges = sorted(steps, key=lambda step: (-len("".join(step).replace("</w>", "")), inside(step), step))
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *("".join(step) for step in merges)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    torn = [word for word in VOCABULARY if len(made.tokenize(word)) != 1]
    if torn:
        raise ValueError(f"these words do not stay whole: {torn}")
    return made


def text_model(vocab_size: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            projection_dim=WIDTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


@torch.no_grad()
def told_apart(model: CLIPTextModel) -> None:
    """Give the motions' words embeddings that are long and at right angles.

    To an image expert they are all the same, and its text model has learned to make nothing of them: a video
    expert that begins with it sees no difference that it could learn from.
    """
    table, words = model.get_input_embeddings().weight, tokenizer()
    meanings = sorted({meaning for meaning in MEANINGS.values() if meaning[0] == "motion"})
    axes = torch.linalg.qr(torch.randn(WIDTH, len(meanings), generator=torch.Generator().manual_seed(0))).Q
    for word, meaning in MEANINGS.items():
        if meaning in meanings:
            table[words(word)["input_ids"][1]] = TOLD * axes[:, meanings.index(meaning)]
