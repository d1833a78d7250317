"""Every word that a recipe knows, told by the models themselves: what it is, its keys, what these take, their defaults.

`dovetail words` prints it, and docs/recipes.md ends with it (`make words`).
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dovetail.errors import RecipeError, nearest
from dovetail.recipe import models

GROUPS: Mapping[str, Mapping[str, type[BaseModel]]] = {
    "The whole": {
        "recipe": models.Recipe,
        "video": models.Size,
        "still": models.Still,
        "start": models.Start,
        "story": models.Story,
        "event": models.Event,
    },
    "Stages": {"stage": models.Stage, "hold": models.Hold},
    "Ladders": {model.word: model for model in models.LADDERS},
    "Denoisers": {"expert": models.Leaf} | {model.word: model for model in models.METHODS},
    "Noises": {model.word: model for model in models.NOISES},
    "Experts and codecs": {
        "weights": models.Pretrained,
        "exact": models.Exact,
        "lora": models.Lora,
        "autoencoder": models.Autoencoder,
        "pixels": models.Pixels,
    },
}
"""All words, by what they are said of."""

SAID = {
    **{model.__name__: word for words in GROUPS.values() for word, model in words.items()},
    "Leaf": "a denoiser",
    "Trailing": "a ladder",
    "Consistent": "a noise",
    "Pretrained": "an expert",
    "Pixels": "a codec",
}
"""What a model is called where a key takes one; of those that stand for a group, the group."""


@dataclass(frozen=True)
class Key:
    """A key, what it takes, and what it is where nothing is said; None where something must be."""

    name: str
    takes: str
    default: str | None


@dataclass(frozen=True)
class Word:
    """A word, what it is, and its keys; none where it takes a value alone, which `takes` says."""

    name: str
    about: str
    keys: tuple[Key, ...]
    takes: str | None = None

    @property
    def brief(self) -> str:
        """The first sentence about it."""
        return re.split(r"\.(?: (?=[A-Z`])|$)", " ".join(self.about.split("\n\n")[0].split()))[0]

    def __str__(self) -> str:
        """The word as a section in Markdown."""
        lines = [f"### {self.name}", "", self.about, ""]
        if self.takes is not None:
            lines += [f"Written `{{{self.name}: ..}}`, with {self.takes}.", ""]
        if self.keys:
            lines += ["| key | takes | by default |", "|---|---|---|"]
            lines += [f"| `{key.name}` | {key.takes} | {_default(key)} |" for key in self.keys]
            lines += [""]
        return "\n".join(lines)


def _default(key: Key) -> str:
    return "must be said" if key.default is None else key.default


def word(name: str) -> Word:
    """What is known of a word. Raises RecipeError for one that no recipe knows."""
    known = {name: model for words in GROUPS.values() for name, model in words.items()}
    if name not in known:
        raise RecipeError(f"no word of recipes is '{name}'; {nearest(name, list(known))}")
    return _word(name, known[name])


def groups() -> Iterator[tuple[str, list[Word]]]:
    """All words, group by group."""
    for title, words in GROUPS.items():
        yield title, [_word(name, model) for name, model in words.items()]


def page() -> str:
    """All of it, as Markdown."""
    return "\n".join(f"## {title}\n\n" + "\n".join(map(str, words)) for title, words in groups())


def renewed(text: str) -> str:
    """A page that ends with all of it, told anew."""
    return text.partition(f"## {next(iter(GROUPS))}\n")[0] + page()


def _word(name: str, model: type[BaseModel]) -> Word:
    said = model.model_json_schema()
    said = said["$defs"][said["$ref"].rpartition("/")[2]] if "$ref" in said else said
    about = inspect.cleandoc(model.__doc__ or "")
    if "properties" not in said:
        return Word(name, about, (), _takes(said))
    must = said.get("required", [])
    keys = (
        Key(key, _named(key, _takes(value)), None if key in must else _else(value.get("default")))
        for key, value in said["properties"].items()
        if key != "(of)"
    )
    return Word(name, about, tuple(keys))


def _named(key: str, takes: str) -> str:
    """What a key takes that names an expert by its text."""
    return "an expert's name" if takes == "text" and key in ("of", "expert") else takes


def _else(default: Any) -> str:
    if default is None or default in ([], ""):
        return "none"
    if isinstance(default, dict):
        return "those below"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _takes(said: Mapping[str, Any]) -> str:
    """What a schema allows, in words."""
    if "enum" in said:
        return ", ".join(f"`{one}`" for one in said["enum"])
    if "const" in said:
        return f"`{said['const']}`"
    if "$ref" in said:
        return SAID[said["$ref"].rpartition("/")[2]]
    if "oneOf" in said:
        return _takes(said["oneOf"][0])
    if "anyOf" in said:
        return ", or ".join(_takes(one) for one in said["anyOf"] if one != {"type": "null"})
    match said["type"]:
        case "array":
            return f"a list: {_takes(said['items'])}"
        case "object":
            return f"{_takes(said['additionalProperties'])} for each name"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
    return f"{'a whole number' if said['type'] == 'integer' else 'a number'}{_range(said)}"


def _range(said: Mapping[str, Any]) -> str:
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    told = [f"{word} {said[bound]:g}" for bound, word in bounds.items() if bound in said and said[bound] < 2**62]
    return f", {' '.join(told)}" if told else ""
