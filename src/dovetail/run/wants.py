"""What a recipe, or a model by its name, takes of the hub: each repository once, and of it what experts load."""

from pathlib import Path

from dovetail import recipe as recipes
from dovetail.errors import RecipeError, WeightsError, nearest
from dovetail.experts.checkpoint import Location, here
from dovetail.experts.hub import Stock, Want
from dovetail.experts.loras import USUAL
from dovetail.experts.pins import is_repo, repo_and_file, unpinned
from dovetail.experts.shelf import SHELF, meant
from dovetail.experts.single_file import USUAL_BASE
from dovetail.experts.tensors import is_file
from dovetail.experts.wholeness import PARTS
from dovetail.recipe import Recipe, models
from dovetail.recipe.reading import weights_in
from dovetail.run.bridging import codecs_of
from dovetail.run.cast import reads_with_clip, same_words, used

EVERYTHING = (
    *PARTS,
    *("", "model.safetensors", "preprocessor_config.json", *USUAL),
)
"""The parts of any model, an image encoder's and LoRA weights among them; of those that a repository does not have, nothing is taken."""


def wants(recipe: Recipe) -> tuple[Want, ...]:
    """What the hub must give for a recipe; nothing for packaged weights and folders."""
    from dovetail.experts.codec import folders
    from dovetail.experts.loading import parts_of, words_of

    found: list[Want] = []
    specs = {name: spec for name, spec in recipe.experts.items() if isinstance(spec, models.Pretrained)}
    before: list[models.Pretrained] = []
    for name, spec in specs.items():
        if name not in used(recipe):
            continue
        shared = any(same_words(other, spec) for other in before)
        parts = tuple(parts_of(spec.family, spec.subfolder, spec.adapter, shared))
        found += _want(spec.location, parts)
        found += _base(spec, parts)
        if not shared and (apart := words_of(spec.family, spec.weights, spec.words)) is not None:
            found += _want(Location(apart[0]), apart[1])
        if spec.adapter is not None:
            found += _want(Location(spec.adapter), ("", "scheduler"))
        for lora in spec.loras:
            found += _want(Location(lora.weights), USUAL)
        before.append(spec)
    for codec in codecs_of(recipe).values():
        if isinstance(codec, models.Autoencoder):
            parts = tuple(folders(codec.subfolder))
            found += _want(codec.location, parts)
            found += _base(codec, parts)
    return _joined(found)


def _base(spec: models.Pretrained | models.Autoencoder, parts: tuple[str, ...]) -> list[Want]:
    """What one file takes of a checkpoint beside it. What the file holds itself is not known before it is here: one of
    Stable Diffusion is taken to hold all, another its network alone; of that, only configurations are taken."""
    image = isinstance(spec, models.Pretrained) and reads_with_clip(spec.family)
    if spec.base is None:
        return _want(Location(USUAL_BASE), ("tokenizer",)) if image and is_file(spec.weights) else []
    held = ("unet", "text_encoder", "vae") if image else parts[:1]
    rest = tuple(f"{part}/config.json" if part in held else part for part in parts if part)
    return _want(Location(spec.base), rest)


def _want(at: Location, parts: tuple[str, ...]) -> list[Want]:
    if local(at.weights):
        return []
    weights, revision = unpinned(at.weights, at.revision)
    if (file := _file(weights, revision)) is not None:
        return [file]
    return [Want(weights, parts, None, revision, at.variant)] if is_repo(weights) else []


def local(weights: str) -> bool:
    """Whether weights are no model of the hub's: packaged, a path by its spelling, or one that is there.

    >>> local("sprites/vae"), local("../mine"), local("Lightricks/LTX-Video")
    (True, True, False)
    """
    return weights.startswith((".", "/", "~")) or here(weights)


def local_of(what: str) -> tuple[str, ...]:
    """The weights of a recipe, or by one name, that lie on this machine or would.

    Raises RecipeError for a recipe that does not fit.
    """
    if not _is_recipe(what):
        return (what,) if local(what) else ()
    return tuple(dict.fromkeys(filter(local, weights_in(recipes.load(what)).values())))


def _is_recipe(what: str) -> bool:
    return what in recipes.names() or what.endswith((".yaml", ".yml"))


def _file(name: str, revision: str | None) -> Want | None:
    """What OWNER/REPO/FILE, a file of weights, takes."""
    if not is_file(name) or (named := repo_and_file(name)) is None:
        return None
    repo, file = named
    return Want(repo, (), file, revision)


def _joined(found: list[Want]) -> tuple[Want, ...]:
    """Each repository once, unless it is taken in several revisions or variants."""
    parts: dict[Want, dict[str, None]] = {}
    for want in found:
        key = Want(want.repo, (), want.file, want.revision, want.variant)
        parts.setdefault(key, {}).update(dict.fromkeys(want.parts))
    return tuple(Want(key.repo, tuple(taken), key.file, key.revision, key.variant) for key, taken in parts.items())


def wants_of(what: str, revision: str | None = None, variant: str | None = None) -> tuple[Want, ...]:
    """What is taken for a recipe (a shipped one's name, or a .yaml file), which says revisions and variants itself, or
    of a model (OWNER/REPO, or a file in it; either may say its revision, see `pins`): all that any expert could load of it. Nothing for what lies on this machine.

    Raises RecipeError for what is none of these, and for an option that it does not take, WeightsError for a path that is
    not there.
    """
    recipe = _is_recipe(what)
    if recipe and (revision, variant) != (None, None):
        raise RecipeError(
            f"'{what}' is a recipe, whose experts and codec say their own revision and variant; --revision and --variant "
            "are for a model, OWNER/REPO"
        )
    if recipe:
        return wants(recipes.load(what))
    if local(what):
        return _nothing_of(what, revision, variant)
    bare, revision = unpinned(what, revision)
    file = _file(bare, revision)
    if file is not None and variant is not None:
        raise RecipeError(f"'{what}' is one file, which has no variants; leave out --variant, or name its repository")
    if file is not None:
        return (file,)
    if is_file(bare) or not is_repo(bare):
        known = "" if "/" in what else f"; {nearest(what, recipes.names())}"
        raise RecipeError(
            f"'{what}' is no recipe, no file or folder here, and no model of the hub (OWNER/REPO, or OWNER/REPO/FILE, "
            f"@REVISION after REPO in either){known}"
        )
    return (Want(bare, _parts_of_all(bare), None, revision, variant),)


def _parts_of_all(repo: str) -> tuple[str, ...]:
    """All that any expert could load of a model; of one that is nothing but words for others, what those take."""
    from dovetail.experts.loading import FAMILIES

    words = [kind.words for kind in FAMILIES.values() if kind.words is not None]
    return next((parts for place, parts in words if place == repo), EVERYTHING)


def _nothing_of(what: str, revision: str | None, variant: str | None) -> tuple[Want, ...]:
    """What the hub gives for weights on this machine. Raises WeightsError where they are not there, RecipeError for an
    option that is the hub's."""
    if not here(what):
        raise WeightsError(
            f"there is no '{what}' ({Path(what).expanduser().absolute()}): no such file or folder; what fits is one that is "
            "there, a recipe, or a model of the hub, OWNER/REPO"
        )
    if (revision, variant) != (None, None):
        raise RecipeError(
            f"'{what}' lies on this machine, and is taken as it is; --revision and --variant are for a model, OWNER/REPO"
        )
    return ()


def shipped() -> dict[Want, list[str]]:
    """What the shipped recipes take, and which of them do."""
    found: list[tuple[Want, str]] = []
    for name in recipes.names():
        found += [(want, name) for want in wants(recipes.load(name))]
    joined = _joined([want for want, _ in found])
    return {whole: [name for want, name in found if _joined([whole, want]) == (whole,)] for whole in joined}


def shelved() -> tuple[Want, ...]:
    """What no shipped recipe takes of the repositories that are written down in `shelf`: models whole, and files."""
    taken = {(want.repo, part) for want in shipped() for part in (want.file, *want.parts)}
    found: list[Want] = []
    for repo, told in SHELF.items():
        files = [part for part in told.parts if is_file(part)]
        found += [Want(repo, (), file) for file in files] if files else [Want(repo, EVERYTHING)]
    return tuple(want for want in found if (want.repo, want.file) not in taken)


def commit_said(stock: Stock) -> str:
    """Of which commit what is here is, and which one is written down, in words; nothing where neither is known."""
    told = SHELF.get(stock.want.repo)
    known = None if told is None else told.commit
    here = stock.commit if stock.files else None
    found = [] if here is None else [f"commit {here} is here"]
    if known is not None and known != here:
        found.append(f"commit {known} is named in public code")
    return ", ".join(found)


def state(stock: Stock) -> str:
    """How much of what is wanted is here, in words; of what is not, how large it is about, where that is written down."""
    here = sum(file.size or (file.place.stat().st_size if file.place else 0) for file in stock.files if file.here)
    if stock.whole:
        doubt = "" if stock.listed else ", as far as the cache can tell"
        return f"here, {here / 1e9:.2f} GB{doubt}"
    if stock.files:
        return f"partly here, {here / 1e9:.2f} of {stock.size / 1e9:.2f} GB; {len(stock.missing)} files are missing"
    want, told = stock.want, SHELF.get(stock.want.repo)
    if told is None:
        return f"not here, and no size of it is written down{meant(want.repo)}"
    taken = (want.file,) if want.file is not None else tuple(part for part in want.parts if part)
    if want.parts == EVERYTHING:
        taken = tuple(part for part in EVERYTHING if told.knows(part, want.variant))
    about = None if not taken else told.size(taken, want.variant)
    return "not here" + ("" if about is None else f", about {about:.2f} GB to download")
