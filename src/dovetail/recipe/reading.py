"""Recipes as text: YAML in and out, overrides, and errors that name the place."""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

from dovetail.errors import RecipeError, nearest
from dovetail.recipe.models import FAMILIES, LADDERS, METHODS, NOISES, Autoencoder, Pretrained, Recipe

SHIPPED = resources.files("dovetail") / "recipes"


def names() -> tuple[str, ...]:
    """The recipes that ship with the package."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in SHIPPED.iterdir() if entry.name.endswith(".yaml"))
    )


def load(name: str | Path) -> Recipe:
    """A shipped recipe by its name, or a recipe file (a path, or a name that ends in .yaml or .yml).

    What a file says of other files (its video, weights that start with ./ or ../) is meant from its own folder.
    Raises RecipeError: no such recipe or file, no YAML, or something in it that does not fit.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}")
        return _anchored(parse(_text(path), str(path)), path.absolute().parent)
    try:
        written = text_of(text)
    except RecipeError as error:
        raise RecipeError(f"{error}; or give the path of a .yaml file") from None
    return parse(written, text)


def text_of(name: str) -> str:
    """A shipped recipe as it is written. Raises RecipeError for a name that none has."""
    if name not in names():
        raise RecipeError(f"unknown recipe '{name}'; {nearest(name, names())}")
    return (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no recipe that can be read: {error}") from None


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, with its paths from `folder` made absolute, so that they mean the same wherever it runs."""
    places = {path: place for path, place in weights_in(recipe).items() if place.startswith(("./", "../"))}
    if recipe.start is not None:
        places["start.video"] = recipe.start.video
    return changed(recipe, {path: str((folder / place).resolve()) for path, place in places.items()})


def weights_in(recipe: Recipe) -> dict[str, str]:
    """Every path or hub id of weights in a recipe, by the place where it stands."""
    owners: dict[str, Any] = {
        "codec": recipe.codec,
        **{f"chain.{stage.stage}.codec": stage.codec for stage in recipe.chain},
        **{f"experts.{name}": spec for name, spec in recipe.experts.items()},
    }
    found: dict[str, str | None] = {}
    for path, spec in owners.items():
        if isinstance(spec, Autoencoder | Pretrained):
            found |= {f"{path}.{key}": getattr(spec, key, None) for key in ("weights", "base", "adapter", "words")}
            found |= {f"{path}.loras.{i}.weights": lora.weights for i, lora in enumerate(getattr(spec, "loras", ()))}
    return {path: place for path, place in found.items() if place is not None}


NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Plain YAML, but a key that stands twice is an error; otherwise the first would be lost in silence. A revision is
    text: a commit may have digits alone, and those that begin with 0 would be read as another number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConstructorError(None, None, f"the key '{key.value}' stands twice", key.start_mark)
                seen.add(key.value)
                if key.value == "revision" and isinstance(value, yaml.ScalarNode) and value.tag != NULL:
                    value.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def _yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise RecipeError(f"{source} is no YAML that can be read: it is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a day that is none, a number of 5000 digits
        raise RecipeError(f"{source} is no YAML: {error}") from None


def parse(text: str, source: str = "recipe") -> Recipe:
    """A recipe from YAML. `source` is what errors call it."""
    data = _yaml(text, source)
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    return checked(data, source)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `parse` reads back equal; what is at its default stands there too."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dicts, lists, text and numbers, with every default written out."""
    return recipe.model_dump(mode="json")


def said(value: Any) -> Any:
    """Plain data without what is not set, for digests: a key that is new in recipes makes nothing old until it is set.

    >>> said({"frames": 16, "still": None, "stages": [{"hop": None}]})
    {'frames': 16, 'stages': [{}]}
    """
    if isinstance(value, Mapping):
        return {name: said(each) for name, each in value.items() if each is not None}
    return [said(each) for each in value] if isinstance(value, list | tuple) else value


Overrides = Iterable[str] | Mapping[str, Any]


def by_path(overrides: Overrides) -> dict[str, Any]:
    """What is to change in a recipe, path -> value, of texts "path=value" (or one such) or a mapping; a path that comes twice has
    the last value. Raises RecipeError.

    >>> by_path(["video.frames=16", "prompt=a red circle"])
    {'video.frames': 16, 'prompt': 'a red circle'}
    """
    if isinstance(overrides, Mapping):
        return dict(overrides)
    return dict(map(_pair, [overrides] if isinstance(overrides, str) else overrides))


def changed(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe with some values replaced: texts "path=value", or a mapping from path to value.

    A path is keys with dots between; a stage goes by its name or its place: chain.refine.solver=unipc. A key that holds
    a dot or an equals sign itself stands in double quotes: chain.video.denoise.blended."above 0.8"=small.
    A text's value is read as YAML. Raises RecipeError, as for a recipe that is written so.
    """
    data = plain(recipe)
    for path, value in ((path, _bare(value)) for path, value in by_path(overrides).items()):
        try:
            _put(data, path, value)
        except RecipeError:
            data = _written_out(data)  # a change before this one may have been short for a mapping
            _put(data, path, value)
    return checked(data)


def _bare(value: Any) -> Any:
    """A number of numpy's or torch's as Python's own, which a recipe is made of; what other changes may be put into, apart
    from the caller's."""
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_bare(each) for each in value]
    return value.item() if getattr(value, "shape", None) == () else value


def _written_out(data: dict[str, Any]) -> dict[str, Any]:
    """Plain data with every default, if it is a recipe as it is; changes to come may be needed to make it one."""
    try:
        return plain(checked(data))
    except RecipeError:
        return data


def checked(data: dict[str, Any], source: str = "") -> Recipe:
    """A recipe from plain data; `source` is what errors call it. Raises RecipeError with the path of each thing that
    does not fit."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = _joined([_line(detail, data) for detail in _told(error.errors(include_url=False))])
        raise RecipeError("\n".join(f"{source}: {line}" if source else line for line in lines)) from None


KEY = r'(?:"[^"]+"|[^".=]+)'
"""A key in a path, in double quotes where it holds what would end it."""


def _pair(text: str) -> tuple[str, Any]:
    written = re.fullmatch(rf"({KEY}(?:\.{KEY})*)=(.*)", text, re.DOTALL)
    if written is None:
        raise RecipeError(
            "a change is written path=value, as in video.frames=16, with keys that hold dots in double quotes, as in "
            f"""chain.video.denoise.blended."above 0.8"=small; {text!r} came"""
        )
    path, text, source = written[1], written[2], f"{written[1]}: the value"
    if _keys(path)[-1] == "revision":
        return path, _yaml(f"revision: {text}", source)["revision"]
    return path, _yaml(text, source)


def _keys(path: str) -> list[str]:
    """The keys of a path, without their quotes."""
    if not re.fullmatch(rf"{KEY}(?:\.{KEY})*", path):
        raise RecipeError(f"{path}: a path is keys with dots between, those that hold dots in double quotes")
    return [key.strip('"') for key in re.findall(KEY, path)]


def _spelt(keys: Iterable[str]) -> str:
    """The path of these keys."""
    return ".".join(f'"{key}"' if re.search("[.=]", key) else key for key in keys)


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path. A last key that is new is set all the same; the check then finds it."""
    *way, last = _keys(path)
    at: Any = data
    for depth, key in enumerate(way):
        at = _into(at, key, _spelt(way[: depth + 1]))
    if isinstance(at, list):
        at[_place(at, last, path)] = value
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise RecipeError(f"{path}: '{_spelt(way)}' is {at!r} and has no parts")


def _into(at: Any, key: str, path: str) -> Any:
    if isinstance(at, list):
        return at[_place(at, key, path)]
    if not isinstance(at, dict):
        raise RecipeError(f"{path}: what stands before '{key}' is {at!r} and has no parts")
    if key not in at:
        raise RecipeError(f"{path}: unknown key; {nearest(key, [_spelt([known]) for known in at])}")
    if at[key] is None:
        at[key] = {}
    return at[key]


def _place(items: list[Any], key: str, path: str) -> int:
    """A list's place by number, or by the name of the stage there."""
    if key.isdigit() and int(key) < len(items):
        return int(key)
    stages = [str(item["stage"]) for item in items if isinstance(item, dict) and "stage" in item]
    if key in stages:
        return stages.index(key)
    known = stages or [str(i) for i in range(len(items))]
    raise RecipeError(f"{path}: nothing is called '{key}' there; {nearest(key, known)}")


def _told(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists that are too short only because something in them does not fit."""
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(place) > len(detail["loc"]) and place[: len(detail["loc"])] == detail["loc"] for place in places)
    ]


FITS = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "int_type": "a whole number",
    "too_short": "one or more",
}
"""What fits, where pydantic's own words speak of Python."""


FIT = " came; what fits is "


def _joined(lines: list[str]) -> list[str]:
    """What fits at one place, of whatever kind, in one line."""
    found: dict[str, str] = {}
    for line in lines:
        head, fit, tail = line.partition(FIT)
        found[head + fit] = f"{found[head + fit]}, or {tail}" if fit and head + fit in found else tail
    return [head + tail for head, tail in found.items()]


def _line(detail: ErrorDetails, data: Any) -> str:
    """One thing that does not fit: where, what came, what fits."""
    kind, context = detail["type"], detail.get("ctx", {})
    path, came = _path(detail["loc"], data), detail["input"]
    fits = FITS.get(kind) or detail["msg"].removeprefix("Input should be ").removeprefix("String should have ")
    if kind == "refers":
        return detail["msg"]
    if kind == "unknown_key":
        return f"{path}.{_spelt([context['key']])}".removeprefix(".") + f": {detail['msg']}"
    if kind == "room":
        return f"{path}: {detail['msg']}, as by --set {path}.steps={context['timestep']}"
    if kind in ("gaps", "falling", "name", "story", "unheard"):
        return f"{path}: {detail['msg']}"
    if kind == "missing":
        return f"{path}: missing"
    if kind.startswith("union_tag") and isinstance(came, dict) and "family" in came:
        return f"{path}.family: unknown family '{came['family']}'; {nearest(came['family'], FAMILIES)}"
    if kind.startswith("union_tag"):
        return _no_word(path, detail["loc"][-1], came)
    if kind == "literal_error" and isinstance(came, str):
        return f"{path}: unknown value '{came}'; {nearest(came, _quoted(context['expected']))}"
    return f"{path}: {_shown(came)}{FIT}{fits}"


def _no_word(path: str, last: int | str, came: Any) -> str:
    """A ladder, noise or method that is none: not one word, or a word that nobody knows."""
    kind = "ladder" if last in ("ladder", "own") else "noise" if last == "noise" else "method"
    words = [model.word for model in {"ladder": LADDERS, "noise": NOISES, "method": METHODS}[kind]]
    keys = [str(key) for key in came] if isinstance(came, dict) else []
    if len(keys) == 1:
        return f"{path}.{_spelt(keys)}: unknown {kind}; {nearest(keys[0], words)}"
    what = f"{len(keys)} words ({', '.join(keys)})" if keys else _shown(came)
    return f"{path}: {what} came; a {kind} is one word with what it takes, as in {{{words[0]}: ...}}"


def _quoted(text: str) -> list[str]:
    """The words that pydantic quotes in a message."""
    return re.findall(r"'([^']*)'", text)


def _shown(came: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", tuple: "a list", type(None): "nothing", bool: "true or false"}
    if type(came) in kinds:
        return "an empty list" if kinds[type(came)] == "a list" and not came else kinds[type(came)]
    if not isinstance(came, str):
        digits = str(came) if len(str(came)) <= 80 else f"{str(came)[:60]}..."
        return f"{digits} ({'a number' if isinstance(came, int | float) else f'a {type(came).__name__}'})"
    hint = ", as YAML writes numbers with a dot: 1.0e-3" if re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", came) else ""
    return f"{came!r} (text{hint})" if len(came) <= 80 else f"{came[:60]!r}... ({len(came)} characters)"


TAG = re.compile(r"[(]|\[key\]|literal\[|constrained-|(int|float|str|bool)$")
"""How a place goes on where it could be of several kinds; no part of a path."""


def _path(loc: tuple[int | str, ...], data: Any) -> str:
    """The place as --set would name it: stages by name, without the tags in parentheses."""
    parts = []
    for part in loc:
        if isinstance(part, str) and TAG.match(part) and not (isinstance(data, dict) and part in data):
            continue
        data = _child(data, part)
        named = (
            isinstance(part, int) and isinstance(data, dict) and isinstance(data.get("stage"), str) and data["stage"]
        )
        parts.append(data["stage"] if named else str(part))
    return _spelt(parts)


def _child(data: Any, part: int | str) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    return data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None
