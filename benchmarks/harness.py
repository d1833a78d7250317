"""What benchmarks that make many videos share: their arguments, files that outlive a kill, and the keys of results."""

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

import dovetail.sprites
from dovetail import recipe as recipes
from dovetail.eval.stats import holm
from dovetail.recipe import Recipe
from dovetail.sprites.world import Ask, forget

HELD = 1_000_000_000
"""Scenes of these seeds and up are never trained on."""
RESULTS = Path(__file__).parent / "results"


def opened(ask: Ask, seed: int) -> Ask:
    """A scene's attributes without some of them, one of the look at least: what a prompt that leaves something open asks."""
    tries = (forget(ask, seed + i, p=0.4) for i in count())
    return next(one for one in tries if None in (one.texture, one.colour, one.background, one.pattern))


def arguments(doc: str, experts: Iterable[str], prompts: int, budget: str) -> argparse.ArgumentParser:
    """What every one of them takes; `budget` says what its minutes are."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("--experts", choices=list(experts), required=True)
    parser.add_argument("--budget", type=float, default=90, help=budget)
    parser.add_argument("--prompts", type=int, default=prompts)
    parser.add_argument("--only", nargs="*", metavar="ROW", help="these rows alone, for every prompt")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="the K-th (from 0) of N processes' prompts")
    parser.add_argument("--threads", type=int, help="of torch, all cores by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def part_of(args: argparse.Namespace) -> tuple[int, int]:
    """Which part this process is, of how many; its threads are set on the way."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    part, parts = map(int, args.part.split("/"))
    return part, parts


def must_be_rows(parser: argparse.ArgumentParser, only: Iterable[str] | None, names: Iterable[str]) -> None:
    """End with an error that names the rows there are, where `--only` asks for others: nothing would be made of them."""
    there = list(dict.fromkeys(names))
    unknown = ", ".join(repr(name) for name in only or () if name not in there)
    if unknown:
        parser.error(f"--only: no rows {unknown}; rows: {', '.join(map(repr, there))}")


def mine(prompt: int, part: tuple[int, int]) -> bool:
    """Whether a prompt is this part's. Prompts go in pairs, so that each part has even ones and odd ones."""
    return prompt // 2 % part[1] == part[0]


def weights_of(recipe: Recipe) -> str:
    """A digest of the packaged weights that a recipe names."""
    digest, shipped = hashlib.sha256(), Path(dovetail.sprites.__file__).parent
    for place in sorted(set(recipes.weights_in(recipe).values())):
        for path in sorted((shipped / place.replace("sprites/", "weights/", 1)).rglob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def told(recipe: Recipe) -> str:
    """A recipe as text for a key, without what it says about itself. What is not set is left out, so that a field that
    recipes did not have before, and that is not set, makes no result old."""
    return json.dumps(recipes.said({**recipes.plain(recipe), "about": None}))


def along(recipe: Recipe) -> str:
    """What a key says of a change of the code that makes other videos of some recipes, so that their results of before are
    old: of 2026-11-29, for coordinated refinements whose windows are held. `tests/test_made.py` tells of such changes."""
    held = any(stage.hold and "coordinated" in stage.model_dump_json() for stage in recipe.chain)
    return "held windows leave along one noise" if held else ""


def key(*texts: str) -> str:
    """A short name for all that a result depends on."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def read(file: Path) -> list[dict[str, Any]]:
    """All whole lines; the last may be cut, if a run was killed."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def mend(file: Path) -> None:
    """Close a line that a killed run has left open, so that the next one begins anew."""
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as out:
            out.write("\n")


def add(file: Path, line: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Claim:
    """A comparison, what it says, and its p-value before adjustment, if it was tested. bound: it says that something is
    no less or no more, which no test of a difference takes back."""

    text: str
    verdict: str
    p: float | None = None
    bound: bool = False


DECIDED = ("yes", "better", "worse", "no, it is better without", "no, lower", "no, worse")
"""Verdicts that claim a difference, by its interval."""
LEVEL = 0.05
"""A difference that is less likely than this under none, after Holm, is one however many were asked for."""


def questions(asked: list[tuple[str, list[Claim]]], head: str) -> str:
    """Each question and what answers it; `head` may hold {n}, the number of tests among them (Holm). A difference whose
    interval leaves out zero and that does not hold after adjustment is said to be that."""
    tests = [claim.p for _, claims in asked for claim in claims if claim.p is not None]
    adjusted = iter(holm(tests))
    parts = [head.format(n=len(tests))]
    for title, claims in asked:
        parts.append(title)
        for claim in claims:
            p = None if claim.p is None else next(adjusted)
            tested, verdict = "" if p is None else f", p {p:.4f}", claim.verdict
            if p is not None and p > LEVEL and verdict in DECIDED and not claim.bound:
                verdict += ", not after Holm"
            parts.append(f"  {claim.text}{tested}: {verdict}")
    return "\n".join(parts)
