"""Weights from the hub: what is taken, how it comes, whether it is what it should be. The hub is one in memory."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import originals
import pytest
import tiny
import torch
from fakehub import COMMIT, Hub, Repo, installed
from huggingface_hub import constants, snapshot_download
from safetensors.torch import save
from transformers import Dinov2Config, Dinov2Model
from typer.testing import CliRunner, Result

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.errors import DecodeError, EncodeError, RecipeError, WeightsError
from dovetail.experts import load, load_codec, loras, pulling
from dovetail.experts.cache import folder_of
from dovetail.experts.checkpoint import Checkpoint, Location, find, find_file
from dovetail.experts.encoders import load_encoder
from dovetail.experts.hub import Want, cached, listed, verified
from dovetail.experts.loading import words_of
from dovetail.experts.opensora import facts as opensora
from dovetail.experts.outline import outline
from dovetail.experts.pulling import kept, pull
from dovetail.experts.shelf import SHELF, licence_of
from dovetail.experts.tensors import opened
from dovetail.experts.wholeness import examined
from dovetail.recipe import models
from dovetail.run import weights_used
from dovetail.run.cast import same_words
from dovetail.run.manifest import sources
from dovetail.run.wants import EVERYTHING, commit_said, shelved, shipped, wants, wants_of

SD, LIGHTNING, MODELSCOPE = "some/sd", "some/lightning", "some/modelscope"
FILE = f"{LIGHTNING}/lightning_4step.safetensors"
SPARE = {
    "README.md": b"# a model",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "v1-5-pruned.safetensors": b"all of it",
}


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repo]:
    """Three repositories as they lie on the hub, with files that nobody here needs."""
    folder = tmp_path_factory.mktemp("hub")
    tiny.stable_diffusion(folder / "sd")
    tiny.text_to_video_sd(folder / "modelscope")
    tiny.lightning(folder / "lightning" / "lightning_4step.safetensors")
    found = {f"some/{name}": Repo.of(folder / name) for name in ("sd", "modelscope", "lightning")}
    found[SD].files.update(SPARE)
    for name in list(found[SD].files):
        if name.endswith("model.safetensors"):
            found[SD].files[name.replace(".safetensors", ".fp16.safetensors")] = b"half"
    return found


@pytest.fixture
def hub(repos: dict[str, Repo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    copies = {name: Repo(dict(repo.files), repo.licence) for name, repo in repos.items()}
    yield from installed(Hub(copies), tmp_path / "cache", monkeypatch)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of tiny weights that are on that hub."""
    asked = recipes.changed(
        recipes.load("confiner-sd15-modelscope"),
        {
            "video": {"frames": 2, "height": 16, "width": 16},
            "experts.control": {"family": "animatediff", "weights": SD, "adapter": FILE, "device": "cpu"},
            "experts.spatial": {"family": "stable-diffusion", "weights": SD, "device": "cpu"},
            "experts.temporal": {"family": "text-to-video-sd", "weights": MODELSCOPE, "device": "cpu"},
            "codec": {"weights": SD, "device": "cpu"},
        },
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(recipes.dump(asked))
    return path


def said(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["models", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def bring(want: Want) -> list[str]:
    return [file.name for file in pull(listed(want))]


WANT = Want(SD, ("unet", "text_encoder", "tokenizer", "scheduler", "vae"))
UNET = "unet/diffusion_pytorch_model.safetensors"


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_a_recipe_takes_each_repository_once_and_only_what_its_experts_load() -> None:
    found = {want.repo: want for want in wants(recipes.load("flowblending-wan21"))}
    large, small = (found[f"Wan-AI/Wan2.1-T2V-{size}-Diffusers"] for size in ("14B", "1.3B"))
    assert {"transformer", "text_encoder", "tokenizer", "scheduler", "vae"} <= set(large.parts)
    assert set(small.parts) == {"transformer", "scheduler", "vae"}, "it reads with the large one's text model"
    assert not wants(recipes.load("sprites")), "packaged weights are here"


def test_a_recipe_takes_what_it_loads_and_nothing_else(hub: Hub, recipe: Path) -> None:
    """Pulled, then played without a network: nothing is missing, and nothing was superfluous."""
    said("pull", recipe)
    taken = {
        path.relative_to(folder_of(repo) / "snapshots" / COMMIT).as_posix()
        for repo in hub.repos
        for path in (folder_of(repo) / "snapshots" / COMMIT).rglob("*")
        if path.is_file()
    }
    assert not taken & SPARE.keys()
    assert not any("fp16" in name for name in taken)
    hub.down = True
    before = len(hub.asked)
    constants.HF_HUB_OFFLINE = True  # The fixture's monkeypatch puts it back.
    video = dovetail.generate("a red circle", recipe)
    assert video.frames.shape == (2, 16, 16, 3)
    assert len(hub.asked) == before


def test_lora_weights_of_a_repository_are_taken_by_their_usual_names(hub: Hub, recipe: Path) -> None:
    hub.repos["some/style"] = Repo({name: save({"a": torch.ones(1)}) for name in (loras.USUAL[0], "x.safetensors")})
    asked = recipes.changed(recipes.load(recipe), {"experts.spatial.loras": ["some/style"]})
    (want,) = [want for want in wants(asked) if want.repo == "some/style"]
    assert bring(want) == [loras.USUAL[0]]
    hub.down = True
    assert loras._file("some/style").name == loras.USUAL[0]


def test_a_repository_of_lora_weights_is_pulled_by_its_id(hub: Hub) -> None:
    hub.repos["some/style"] = Repo({name: save({"a": torch.ones(1)}) for name in (loras.USUAL[0], "x.safetensors")})
    said("pull", "some/style")
    hub.down = True
    assert loras._file("some/style").name == loras.USUAL[0]
    assert cached(Want("some/style", EVERYTHING)).whole


def test_of_an_image_encoder_comes_what_it_is_loaded_from(hub: Hub, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3]}')
    hub.repos["some/dino"] = Repo.of(tmp_path / "dino")
    encoder = load_encoder("some/dino")
    assert encoder.mean == [0.1, 0.2, 0.3]
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 16)


def test_a_repository_of_other_files_is_no_model(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"'some/lightning' has no unet/config.json .*no model in diffusers' layout"):
        load("it", "stable-diffusion", LIGHTNING)
    with pytest.raises(WeightsError, match=r"'some/lightning' has none of a model's files .*there is nothing"):
        load_encoder(LIGHTNING)


def test_an_expert_whose_lora_weights_change_its_words_brings_its_own() -> None:
    """Though it is known that both repositories have one text model."""
    both = {"family": "stable-diffusion", "weights": "stable-diffusion-v1-5/stable-diffusion-v1-5", "subfolder": "unet"}
    plain, styled = models.Pretrained(**both), models.Pretrained(**both, loras=(models.Lora(weights="some/style"),))
    assert same_words(plain, plain)
    assert not same_words(plain, styled)


def test_a_file_reads_with_its_bases_text_model_unless_it_may_hold_one() -> None:
    base = "Lightricks/LTX-Video-0.9.5"
    file, folder = (
        models.Pretrained(family="ltx", **weights)
        for weights in ({"weights": "some/ltx/it.safetensors", "base": base}, {"weights": f"{base[:-1]}7-dev"})
    )
    assert same_words(folder, file)
    image = {
        "family": "stable-diffusion",
        "weights": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "subfolder": "unet",
    }
    one = models.Pretrained(**{**image, "weights": "some/sd/it.safetensors", "base": image["weights"]})
    assert not same_words(models.Pretrained(**image), one)


def test_what_is_named_alone_is_a_model_a_file_or_a_mistake() -> None:
    assert wants_of("someone/model") == (Want("someone/model", EVERYTHING),)
    assert wants_of(FILE) == (Want(LIGHTNING, (), "lightning_4step.safetensors"),)
    (wan,) = wants_of("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert "text_encoder" in wan.parts, "another shipped recipe reads with it"
    with pytest.raises(RecipeError, match=r"no recipe, .* and no model.*did you mean 'flowblending-wan21'"):
        wants_of("flowblending-wan2")


def test_a_model_by_its_id_is_taken_whole_whatever_recipes_take_of_it() -> None:
    for want in shipped():
        if want.file is None:
            # Of what is words for others alone, that is all there is.
            everything = opensora.WORDS_FILES if want.repo == opensora.WORDS else EVERYTHING
            assert wants_of(want.repo) == (Want(want.repo, everything),)
    assert wants_of("some/model", "v2", "fp16") == (Want("some/model", EVERYTHING, None, "v2", "fp16"),)
    assert wants_of(FILE, "v2") == (Want(LIGHTNING, (), "lightning_4step.safetensors", "v2"),)
    with pytest.raises(RecipeError, match=r"'sprites' is a recipe, whose experts and codec say their own revision"):
        wants_of("sprites", "v2")
    with pytest.raises(RecipeError, match=r"is one file, which has no variants; leave out --variant"):
        wants_of(FILE, None, "fp16")


@pytest.mark.parametrize(
    ("repo", "family"),
    [("Lightricks/LTX-Video-0.9.5", "ltx"), ("CompVis/stable-diffusion-v1-4", "stable-diffusion")],
)
def test_a_model_pulled_by_its_id_is_all_that_an_expert_of_it_needs(
    hub: Hub, tmp_path: Path, repo: str, family: str
) -> None:
    """Shipped recipes read with another's text model, and take no weights of the other's network."""
    hub.repos[repo] = Repo.of(tiny.MAKERS[family](tmp_path / "model"))
    said("pull", repo)
    hub.down = True
    constants.HF_HUB_OFFLINE = True  # The fixture's monkeypatch puts it back.
    assert load("it", family, repo).name == "it"


def test_the_command_that_an_error_prints_ends_it(hub: Hub) -> None:
    hub.repos[SD].branches["other"] = "2" * 40
    ask = Location(SD, revision="other", variant="fp16"), WANT.parts
    hub.down = True
    with pytest.raises(WeightsError) as caught:
        find(*ask)
    (command,) = re.findall("`dovetail models (.*?)`", str(caught.value))
    assert command == f"pull {SD} --revision other --variant fp16"
    hub.down = False
    said(*shlex.split(command))
    hub.down = True
    found = find(*ask)
    assert isinstance(found, Checkpoint)
    with pytest.raises(WeightsError, match=f"is damaged: .*`dovetail models {command}` brings it again"):
        found.file("unet")
    hub.down = False
    hub.repos["some/dino"] = Repo({"config.json": b"{}", "model.safetensors": save({"a": torch.ones(1)})})
    said("pull", "some/dino")
    assert cached(Want("some/dino", EVERYTHING)).whole


def test_a_video_says_of_which_commits_its_weights_are(hub: Hub, recipe: Path, tmp_path: Path) -> None:
    video = dovetail.generate("a red circle", recipe)
    assert video.settings["commits"] == dict.fromkeys((SD, LIGHTNING, MODELSCOPE), COMMIT)
    assert sources(recipes.load("sprites")) == {}
    assert sources(recipes.load("flowblending-wan21")) == {}, "the cache has nothing of it"


def test_the_shelf_knows_the_size_of_all_that_shipped_recipes_take() -> None:
    known = [want for want in shipped() if want.repo in SHELF]
    assert len(known) >= 9
    for want in known:
        told = SHELF[want.repo]
        taken = (want.file,) if want.file is not None else tuple(part for part in want.parts if part)
        assert (told.size(taken, want.variant) or 0) > 0.5, want
        assert told.licence


# --- how it comes -----------------------------------------------------------------------------------------------------


def test_a_pull_says_licence_and_size_first_and_ends_with_all_here(hub: Hub, recipe: Path) -> None:
    lines = said("pull", recipe).stdout.splitlines()
    assert f"{SD} @ {COMMIT[:12]}  licence: apache-2.0" in lines
    (total,) = [line for line in lines if "GB to come" in line]
    assert lines.index(total) < lines.index(f"    0.000 GB  {SD}/{UNET}")
    assert lines[-1] == f"all of {recipe} is here"
    before = len(hub.asked)
    again = said("pull", recipe, "--offline").stdout
    assert "0.00 GB to come" in again
    assert len(hub.asked) == before, "--offline asks nobody"


def test_a_pull_that_was_broken_off_goes_on_where_it_was(hub: Hub) -> None:
    hub.cut = 1000
    with pytest.raises(KeyboardInterrupt):
        bring(WANT)
    stock = listed(WANT)
    assert kept(stock) == 1000
    first = next(name for method, name, _ in hub.asked if method == "GET" and name.endswith(".safetensors"))
    hub.asked.clear()
    came: list[int] = []
    names = [file.name for file in pull(stock, came.append)]
    assert ("GET", first, "bytes=1000-") in hub.asked
    assert sum(came) == sum(file.size or 0 for file in stock.files if file.large)
    assert set(names) == {file.name for file in stock.files if file.large}
    assert [verdict for _, verdict in verified(cached(WANT))] == ["right"] * len(stock.files)


def test_who_stops_a_pull_is_told_how_to_go_on(hub: Hub) -> None:
    hub.cut = 1000
    told = said("pull", SD, code=130)
    assert f"stopped; `dovetail models pull {SD}` goes on where it was" in told.stderr
    assert said("pull", SD).stdout.splitlines()[-1] == f"all of {SD} is here"


def test_what_is_here_does_not_come_again(hub: Hub) -> None:
    bring(WANT)
    hub.asked.clear()
    assert bring(WANT) == []
    assert not [name for method, name, _ in hub.asked if method == "GET" and "/resolve/" in name]


def test_a_file_of_another_size_comes_again(hub: Hub) -> None:
    bring(WANT)
    place = folder_of(SD) / "snapshots" / COMMIT / UNET
    place.resolve().write_bytes(b"cut short")
    assert [file.name for file in cached(WANT).missing] == [UNET]
    assert bring(WANT) == [UNET]
    assert cached(WANT).whole


def test_what_comes_damaged_is_not_kept(hub: Hub) -> None:
    hub.spoilt.add(UNET)
    with pytest.raises(WeightsError, match=f"'{SD}/{UNET}' came damaged: its sha256 .* thrown away; pull it again"):
        bring(WANT)
    assert kept(listed(WANT)) == 0
    hub.spoilt.clear()
    bring(WANT)
    assert cached(WANT).whole


def test_a_pull_writes_the_cache_that_the_hub_library_reads(hub: Hub) -> None:
    bring(WANT)
    hub.down = True
    allow, ignore = WANT.patterns()
    found = snapshot_download(SD, allow_patterns=allow, ignore_patterns=ignore, local_files_only=True)
    assert Path(found) == folder_of(SD) / "snapshots" / COMMIT
    assert find(Location(SD), WANT.parts).path == Path(found)
    bring_file = Want(LIGHTNING, (), "lightning_4step.safetensors")
    hub.down = False
    bring(bring_file)
    hub.down = True
    assert find_file(FILE).stat().st_size == len(hub.repos[LIGHTNING].files["lightning_4step.safetensors"])


def test_a_revision_is_taken_as_it_was(hub: Hub) -> None:
    hub.repos[SD].branches["other"] = "2" * 40
    bring(Want(SD, WANT.parts, revision="other"))
    assert cached(Want(SD, WANT.parts, revision="other")).commit == "2" * 40
    assert cached(Want(SD, WANT.parts, revision="2" * 40)).whole
    assert cached(WANT).commit is None, "main was not asked for"


def test_a_pinned_commit_is_that_one_and_recipes_without_pins_take_what_is_here(hub: Hub, recipe: Path) -> None:
    """Who has another commit in the cache plays on without a network; only who asks for a commit needs that one."""
    mine, other = "a" * 40, "b" * 40
    hub.repos[SD].branches["main"] = mine
    said("pull", recipe)
    hub.repos[SD].branches["main"] = other
    hub.down = True
    assert dovetail.generate("a red circle", recipe).settings["commits"][SD] == mine
    pinned = [f"{part}.revision={mine}" for part in ("experts.control", "experts.spatial", "codec")]
    assert dovetail.generate("a red circle", recipe, overrides=pinned).settings["commits"][f"{SD}@{mine}"] == mine
    with pytest.raises(WeightsError, match=rf"`dovetail models pull {SD} --revision {other}` brings it"):
        dovetail.generate("a red circle", recipe, overrides=[f"codec.revision={other}"])


NEWER, OLDER = "c" * 40, "d" * 40


@pytest.fixture
def older(hub: Hub) -> Hub:
    """That hub, with a LoRA in it, where each repository has had another commit on main."""
    hub.repos["some/style"] = Repo({loras.USUAL[0]: save({"a": torch.ones(1)})})
    for repo in hub.repos.values():
        repo.branches = {"main": NEWER, "before": OLDER}
    return hub


def test_a_name_may_say_its_revision(older: Hub, recipe: Path) -> None:
    """The adapter's, which is no repository of the expert's: pulled, and then played without a network."""
    pinned = f"{LIGHTNING}@{OLDER}/lightning_4step.safetensors"
    asked = recipes.changed(recipes.load(recipe), {"experts.control.adapter": pinned})
    recipe.write_text(recipes.dump(asked))
    assert said("pull", recipe).stdout.count(f"@ {OLDER[:12]}") == 1
    assert (folder_of(LIGHTNING) / "snapshots" / OLDER).is_dir()
    assert not (folder_of(LIGHTNING) / "snapshots" / NEWER).exists()
    constants.HF_HUB_OFFLINE = True  # The fixture's monkeypatch puts it back.
    commits = dovetail.generate("a red circle", recipe).settings["commits"]
    assert commits == {SD: NEWER, MODELSCOPE: NEWER, f"{LIGHTNING}@{OLDER}": OLDER}
    assert f"{LIGHTNING}/lightning_4step.safetensors @ {OLDER}" in said("verify", recipe).stdout.splitlines()
    for other in (FILE, f"{LIGHTNING}@after/lightning_4step.safetensors"):
        with pytest.raises(WeightsError, match=rf"`dovetail models pull {other}` brings it"):
            dovetail.generate("a red circle", recipe, overrides=[f"experts.control.adapter={other}"])


NAMED = {
    "a folder": (f"{SD}@before", lambda name: find(Location(name), WANT.parts)),
    "a file": (f"{LIGHTNING}@before/lightning_4step.safetensors", find_file),
    "LoRA weights": ("some/style@before", loras._file),
    "a request of the hub's": (f"{SD}@refs/pr/3", lambda name: find(Location(name), WANT.parts)),
}


@pytest.mark.parametrize("what", NAMED)
def test_the_command_for_a_name_with_a_revision_brings_that_one(older: Hub, what: str) -> None:
    name, ask = NAMED[what]
    older.repos[SD].branches["refs/pr/3"] = OLDER
    constants.HF_HUB_OFFLINE = True  # The fixture's monkeypatch puts it back.
    with pytest.raises(WeightsError) as caught:
        ask(name)
    commands = [shlex.split(command) for command in re.findall("`dovetail models (.*?)`", str(caught.value))]
    constants.HF_HUB_OFFLINE = False
    said(*commands[0])
    constants.HF_HUB_OFFLINE = True
    found = ask(name)
    path = found.path if isinstance(found, Checkpoint) else found
    assert f"/snapshots/{OLDER}" in str(path)


def test_a_base_may_be_of_a_revision(older: Hub, tmp_path: Path) -> None:
    """Its tokenizer is all that a file of Stable Diffusion takes of it, and its configurations."""
    file = str(originals.stable_diffusion(tmp_path / "sd.safetensors"))
    assert load("it", "stable-diffusion", file, base=f"{SD}@before").name == "it"
    assert load_codec(file, base=f"{SD}@before").factor == 2
    assert [path.name for path in (folder_of(SD) / "snapshots").iterdir()] == [OLDER]
    constants.HF_HUB_OFFLINE = True  # The fixture's monkeypatch puts it back.
    assert outline("it", "stable-diffusion", Location(file, base=f"{SD}@before")).kind == "UNet2DConditionModel"
    with pytest.raises(WeightsError, match=rf"`dovetail models pull {SD}@after` brings it"):
        load("it", "stable-diffusion", file, base=f"{SD}@after")


def test_every_hub_id_of_a_recipe_may_say_its_revision(recipe: Path) -> None:
    asked = {
        "experts.control.adapter": f"{LIGHTNING}@v1/lightning_4step.safetensors",
        "experts.control.loras": ["some/style@v2", "some/style@v3/other.safetensors"],
        "experts.spatial": {
            "family": "stable-diffusion",
            "weights": f"{SD}@v4/v1-5-pruned.safetensors",
            "base": f"{SD}@v5",
        },
        "codec.weights": f"{SD}@v6",
    }
    found = {(want.repo, want.file, want.revision) for want in wants(recipes.changed(recipes.load(recipe), asked))}
    assert found == {
        (SD, None, None),
        (MODELSCOPE, None, None),
        (LIGHTNING, "lightning_4step.safetensors", "v1"),
        ("some/style", None, "v2"),
        ("some/style", "other.safetensors", "v3"),
        (SD, "v1-5-pruned.safetensors", "v4"),
        (SD, None, "v5"),
        (SD, None, "v6"),
    }


def test_the_words_of_open_sora_plan_may_be_of_a_revision() -> None:
    said_so = words_of("open-sora-plan", opensora.REPO, f"{opensora.WORDS}@v1")
    assert said_so == (f"{opensora.WORDS}@v1", opensora.WORDS_FILES), "the published one has what that one has"
    assert wants_of(f"{opensora.WORDS}@v1") == (Want(opensora.WORDS, opensora.WORDS_FILES, revision="v1"),)


def test_a_path_with_an_at_sign_is_a_path(
    hub: Hub, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.stable_diffusion(tmp_path / "some" / "sd@v2")
    file = tiny.lightning(tmp_path / "some" / "lightning@v2" / "lightning_4step.safetensors").relative_to(tmp_path)
    places = {"experts.control.adapter": str(file), "codec.weights": "some/sd@v2"}
    places |= {f"experts.{name}.weights": "some/sd@v2" for name in ("control", "spatial")}
    asked = recipes.changed(recipes.load(recipe), places)
    assert {want.repo for want in wants(asked)} == {MODELSCOPE}
    assert dovetail.generate("a red circle", asked).frames.shape == (2, 16, 16, 3)
    assert {path.split("/")[2] for _, path, _ in hub.asked if path.startswith("/some/")} == {"modelscope"}


def test_a_revision_is_said_once_and_after_the_repository(older: Hub, recipe: Path) -> None:
    for override in ("experts.control", "codec"):
        changes = {f"{override}.weights": f"{SD}@v1", f"{override}.revision": "v2"}
        asked = recipes.changed(recipes.load(recipe), changes)
        with pytest.raises(RecipeError, match=rf"'{SD}@v1' says its revision itself, and revision 'v2' beside it"):
            dovetail.generate("a red circle", asked)
    with pytest.raises(RecipeError, match="says its revision itself"):
        wants_of(f"{SD}@v1", "v2")
    assert wants_of(f"{SD}@v1", "v1") == wants_of(SD, "v1") == wants_of(f"{SD}@v1")
    assert not older.asked
    changes = {"experts.control.adapter": f"{FILE}@v1"}
    with pytest.raises(WeightsError, match=rf"stands after its repository: {LIGHTNING}@v1/lightning_4step.safetensors"):
        dovetail.generate("a red circle", recipes.changed(recipes.load(recipe), changes))
    assert not older.asked


def test_what_is_not_here_is_said_with_its_revision(older: Hub) -> None:
    bring(WANT)
    assert f"{SD}@v9 is not in the cache" in said("verify", f"{SD}@v9", code=1).stderr
    assert f"{SD}@v9: not here" in said("pull", SD, "--revision", "v9", "--offline", code=1).stderr
    assert said("size", f"{SD}@v9", "--offline", code=1).stdout.startswith(f"{SD}@v9  licence")
    with pytest.raises(WeightsError, match=rf"'{SD}' has no such revision .*{SD}/commits/main.*from the @ on"):
        find(Location(f"{SD}@v9"), WANT.parts)
    with pytest.raises(WeightsError, match=rf"'{LIGHTNING}' has no 'x.ckpt'; its files: .*{LIGHTNING}/tree/before"):
        find_file(f"{LIGHTNING}@before/x.ckpt")


def test_two_revisions_are_no_one_text_model() -> None:
    base, other = "Lightricks/LTX-Video-0.9.5", "Lightricks/LTX-Video-0.9.7-dev"

    def ltx(**options: str) -> models.Pretrained:
        return models.Pretrained(family="ltx", **{"weights": base, **options})

    file = {"weights": "some/ltx/it.safetensors"}
    assert same_words(ltx(weights=f"{base}@v1"), ltx(revision="v1"))
    assert not same_words(ltx(weights=f"{base}@v1"), ltx())
    assert same_words(ltx(weights=other), ltx(**file, base=base))
    assert not same_words(ltx(weights=other), ltx(**file, base=f"{base}@v1"))
    assert not same_words(ltx(**file, base=base), ltx(**file, base=f"{base}@v1"))
    plan = {"family": "open-sora-plan", "weights": opensora.REPO, "subfolder": opensora.PART}
    one, two = (models.Pretrained(**plan, words=f"{opensora.WORDS}@{at}") for at in ("v1", "v2"))
    assert same_words(one, one)
    assert not same_words(one, two)


def test_what_is_published_of_a_model_is_known_of_its_revisions() -> None:
    recipe = recipes.load("confiner-sd15-modelscope")
    pinned = {path: re.sub("^([^/]+/[^/]+)", r"\1@v1", place) for path, place in recipes.weights_in(recipe).items()}
    assert len(pinned) == 5
    assert all("@v1" in place for place in pinned.values())
    one, two = (dovetail.plan(asked) for asked in (recipe, recipes.changed(recipe, pinned)))
    assert replace(two, recipe=recipe, notes=one.notes) == one
    assert [re.sub("@v1", "", note) for note in two.notes] == list(one.notes)


def test_recipes_pin_nothing_and_the_shelf_knows_whole_commits() -> None:
    assert all(want.revision is None for want in shipped())
    commits = {repo: told.commit for repo, told in SHELF.items() if told.commit is not None}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits.values())
    same = {commits[repo] for repo in ("THUDM/CogVideoX-2b", "zai-org/CogVideoX-2b")}
    assert len(set(commits.values())) == len(commits) - 1
    assert len(same) == 1, "one repository under two names"


def test_list_and_verify_say_which_commit_is_here(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    known = SHELF["CompVis/stable-diffusion-v1-4"]
    assert known.commit is not None
    named = f"commit {known.commit} is named in public code"
    assert f"  {named}" in said("list").stdout.splitlines()
    bring(WANT)
    assert said("verify", SD).stdout.splitlines()[0] == f"{SD} @ {COMMIT}"
    assert commit_said(cached(WANT)) == f"commit {COMMIT} is here"
    monkeypatch.setitem(SHELF, SD, known)
    assert commit_said(cached(WANT)) == f"commit {COMMIT} is here, {named}"
    monkeypatch.setitem(SHELF, SD, replace(known, commit=COMMIT))
    assert commit_said(cached(WANT)) == f"commit {COMMIT} is here"


# --- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_told_before_anything_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "free", lambda folder: 1000)
    with pytest.raises(WeightsError, match=r"is full: 'some/sd' needs .* GB more there.*HF_HUB_CACHE.*kept"):
        bring(WANT)
    assert not folder_of(SD).exists()


def test_a_disk_that_fills_keeps_what_came(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(url: str, into: object, **options: object) -> None:
        into.write(b"x" * 10)  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(
        WeightsError, match=r"the disk of the cache \(.*\) is full: 'some/sd/.*does not fit.*`hf cache ls`"
    ):
        bring(WANT)
    assert kept(listed(WANT)) == 10


REFUSED = {
    "gone": (Want("some/sdd", WANT.parts), "the hub has no 'some/sdd', or it is private. Look at its spelling"),
    "revision": (Want(SD, WANT.parts, revision="v9"), "'some/sd' has no such revision .*revision=null"),
    "layout": (Want(SD, ("transformer",)), "has no transformer/: it is no model in diffusers' layout .*unet"),
    "file": (
        Want(LIGHTNING, (), "8step.safetensors"),
        r"has no '8step.safetensors'; its .safetensors: lightning_4step",
    ),
    "lora": (
        Want(LIGHTNING, loras.USUAL),
        r"has no 'pytorch_lora_weights.safetensors' or 'diff.*'; its .safetensors: lightning_4step",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_hub_does_not_have(hub: Hub, what: str) -> None:
    want, message = REFUSED[what]
    with pytest.raises(WeightsError, match=message):
        listed(want)


def test_a_gated_repository_says_where_to_accept(hub: Hub) -> None:
    hub.repos[SD].gated = True
    message = (
        r"'some/sd' gives its weights to those who have accepted .*: do so at https://.*/some/sd, then `hf auth login`"
    )
    with pytest.raises(WeightsError, match=message):
        listed(WANT)
    with pytest.raises(WeightsError, match=message):
        find(Location(SD), WANT.parts)


def test_a_revision_that_is_none_is_told_by_the_loader_too(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"no such revision .*commits/main"):
        find(Location(SD, revision="v9"), WANT.parts)


def test_no_network_says_what_is_not_here_and_how_it_comes(hub: Hub) -> None:
    hub.down = True
    for ask in (lambda: listed(WANT), lambda: find(Location(SD), WANT.parts)):
        with pytest.raises(
            WeightsError, match=r"no weights 'some/sd'.*not whole in the cache .*`dovetail models pull some/sd`"
        ):
            ask()
    error = said("pull", SD, "--offline", code=1).stderr
    assert "not all is here, and --offline brings nothing. some/sd: not here" in error


def test_half_a_model_is_told_without_a_network(hub: Hub) -> None:
    bring(Want(SD, ("unet", "scheduler")))
    assert next(file.name for file in cached(WANT).missing).startswith("text_encoder/")
    hub.down = True
    assert "partly here" in said("pull", SD, "--offline", code=1).stderr
    with pytest.raises(WeightsError, match="not whole in the cache"):
        find(Location(SD), WANT.parts)


# --- whether it is what it should be ----------------------------------------------------------------------------------


def test_verify_hashes_what_is_here(hub: Hub) -> None:
    bring(WANT)
    hub.down = True
    assert said("verify", SD).stdout.splitlines()[-1] == f"{len(cached(WANT).files)} right"
    place = folder_of(SD) / "snapshots" / COMMIT / UNET
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.resolve().write_bytes(content)
    told = said("verify", SD, code=1)
    assert f"  damaged  {SD}/{UNET}" in told.stdout.splitlines()
    assert f"{SD}/{UNET} is damaged; delete {place.resolve()}" in told.stderr
    assert f"`dovetail models pull {SD}`" in told.stderr
    hub.down = False
    place.resolve().unlink()
    bring(WANT)
    assert "right" in said("verify", SD).stdout


def test_a_small_file_is_verified_as_git_does(hub: Hub) -> None:
    bring(WANT)
    place = folder_of(SD) / "snapshots" / COMMIT / "unet" / "config.json"
    place.resolve().write_text(place.read_text().replace("8", "9", 1))
    assert [file.name for file, verdict in verified(cached(WANT)) if verdict == "damaged"] == ["unet/config.json"]


def test_a_cache_of_an_older_library_is_verified_by_the_names_of_its_blobs(hub: Hub) -> None:
    bring(WANT)
    shutil.rmtree(folder_of(SD) / "trees")
    stock = cached(WANT)
    assert not stock.listed
    assert {verdict for _, verdict in verified(stock)} == {"right"}
    (folder_of(SD) / "snapshots" / COMMIT / UNET).resolve().write_bytes(b"damaged")
    assert [file.name for file, verdict in verified(stock) if verdict == "damaged"] == [UNET]


def test_a_cache_without_links_or_list_is_not_called_right(hub: Hub) -> None:
    bring(WANT)
    shutil.rmtree(folder_of(SD) / "trees")
    place = folder_of(SD) / "snapshots" / COMMIT / UNET
    content = place.read_bytes()
    place.unlink()
    place.write_bytes(content)
    assert dict(verified(cached(WANT)))[next(f for f in cached(WANT).files if f.name == UNET)] == "unknown"


def test_verify_names_what_is_not_here(hub: Hub) -> None:
    assert f"{SD} is not in the cache" in said("verify", SD, code=1).stderr
    bring(Want(SD, ("unet",)))
    assert "is missing" in said("verify", SD, code=1).stderr


# --- weights that are not the hub's -----------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tiny.stable_diffusion(tmp_path / "mine")


def test_verify_tells_that_weights_of_ones_own_are_whole(hub: Hub, mine: Path) -> None:
    for what in (mine, mine / UNET, "sprites/temporal"):
        told = said("verify", what).stdout.splitlines()
        assert re.fullmatch(r"\d+ whole", told[-2]), told
        assert told[-1].startswith("whole: no digest tells whether these are their author's")
    assert f"  whole    {mine / UNET}" in said("verify", mine).stdout.splitlines()
    assert not hub.asked


def cut(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-3])


def not_numbers(folder: Path) -> None:
    found = opened(folder / "vae" / "diffusion_pytorch_model.safetensors")
    found["decoder.conv_out.bias"][0] = torch.nan
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(save(found))


def half_a_network(folder: Path) -> None:
    index = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "b.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


SPOILT = {
    cut: r"unet/diffusion_pytorch_model.safetensors: it has \d+ bytes, and by its header \d+; it is cut short",
    not_numbers: r"1 of its tensors hold NaN or infinity, the first is 'decoder.conv_out.bias'",
    half_a_network: r"unet: unet of '.*mine' cannot be loaded: 1 of its 2 files are not there, .*unet/b.safetensors",
    emptied: r"mine: it holds no weights: no .safetensors in it or in its unet/, .* there is nothing",
    lambda folder: (folder / UNET).unlink(): r"mine/unet: it holds no .safetensors",
    lambda folder: (folder / UNET).write_text("hi"): "its header is broken or cut off",
    lambda folder: (folder / "vae" / "config.json").write_text("{"): "vae/config.json: it is no JSON",
    lambda folder: (folder / "model_index.json").write_text(
        '{"unet": ["a", "B"], "transformer": [null, null], "transformer_2": ["a", "B"]}'
    ): "transformer_2: model_index.json names it",
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_verify_tells_what_is_wrong_with_weights_of_ones_own(mine: Path, spoil: Callable[[Path], object]) -> None:
    spoil(mine)
    told = said("verify", mine, code=1)
    assert re.search(SPOILT[spoil], told.stderr), told.stderr
    assert "Copy it again from where it came" in told.stderr
    assert len(re.findall("^  (?:damaged|missing) ", told.stdout, re.MULTILINE)) == 1


def test_verify_looks_at_the_weights_of_a_recipe_that_are_here(hub: Hub, recipe: Path, mine: Path) -> None:
    changed = recipes.changed(recipes.load(recipe), {"codec.weights": str(mine)})
    recipe.write_text(recipes.dump(changed))
    said("pull", recipe)
    right, whole = re.fullmatch(r"(\d+) right, (\d+) whole", said("verify", recipe).stdout.splitlines()[-2]).groups()
    assert min(int(right), int(whole)) > 5
    not_numbers(mine)
    assert "hold NaN" in said("verify", recipe, code=1).stderr
    assert f"{len(list(examined('sprites/vae')))} whole" in said("verify", "sprites/vae").stdout


@pytest.mark.parametrize("what", ["/no/such/path", "./nowhere", "../a/b.safetensors", "~/nowhere"])
@pytest.mark.parametrize("verb", ["verify", "size", "pull"])
def test_a_path_that_is_not_there_is_told_so(hub: Hub, verb: str, what: str) -> None:
    told = said(verb, what, code=1).stderr
    assert f"there is no '{what}' (/" in told
    assert "Known" not in told
    assert not hub.asked


def test_what_lies_here_takes_nothing_from_the_hub(hub: Hub, mine: Path) -> None:
    assert said("pull", mine).stdout.splitlines()[0] == f"{mine} takes nothing from the hub"
    assert not hub.asked
    assert "--revision and --variant are for a model" in said("size", mine, "--variant", "fp16", code=1).stderr
    assert (
        "'no/such/path' is no recipe, no file or folder here, and no model"
        in said("size", "no/such/path", code=1).stderr
    )
    assert "did you mean 'vae'" in said("verify", "sprites/vea", code=1).stderr


@pytest.mark.parametrize("error", [DecodeError, lambda weights: EncodeError(weights, "float32")])
def test_the_command_that_looks_at_a_codecs_weights_can_be_run(
    mine: Path, error: Callable[[str], Exception], tmp_path: Path
) -> None:
    not_numbers(mine)
    odd = mine.rename(tmp_path / "my own")
    (command,) = re.findall("`dovetail models (.*?)`", str(error(str(odd))))
    assert "hold NaN" in said(*shlex.split(command), code=1).stderr


# --- what is said -----------------------------------------------------------------------------------------------------


def test_size_says_what_is_to_come(hub: Hub) -> None:
    before = said("size", SD).stdout
    files = len(listed(Want(SD, EVERYTHING)).files)
    assert before.count("to come ") == files
    bring(WANT)
    after = said("size", SD, "--offline").stdout
    assert after.count(" here ") == files
    assert "0.00 GB to come" in after


def test_size_without_a_network_goes_by_what_is_written_down(hub: Hub) -> None:
    hub.down = True
    told = said("size", "flowblending-wan21", "--offline").stdout
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers  licence: Apache-2.0" in told
    assert "not here, about 6.19 GB to download" in told


@pytest.mark.parametrize("verb", ["size", "pull"])
def test_without_a_network_the_command_that_helps_is_of_what_was_asked(hub: Hub, verb: str) -> None:
    hub.down = True
    told = said(verb, "confiner-sd15-modelscope", code=1).stderr
    first, second = re.findall("`dovetail models (.*?)`", told)
    assert first == "pull confiner-sd15-modelscope"
    assert second == "size confiner-sd15-modelscope --offline"
    assert "to download" in said(*shlex.split(second)).stdout
    told = said(verb, SD, "--variant", "fp16", code=1).stderr
    assert f"`dovetail models size {SD} --variant fp16 --offline`" in told


def test_a_model_that_nothing_is_known_of_gets_the_nearest_name(hub: Hub) -> None:
    meant = "did you mean 'Wan-AI/Wan2.1-T2V-14B-Diffusers'?"
    wrong = "Wan-AI/Wan2.1-T2V-14B-Difusers"
    for words in (("size", wrong, "--offline"), ("pull", wrong, "--offline"), ("verify", wrong), ("pull", wrong)):
        assert meant in said(*words, code=1).stderr
    told = said("size", "someone/model", "--offline", code=1)
    assert "not here, and no size of it is written down\n" in told.stdout
    assert "nothing here tells how large 'someone/model' is; without --offline, the hub is asked" in told.stderr
    assert "did you mean" not in said("pull", "someone/model", code=1).stderr


def test_list_says_licence_size_and_users(hub: Hub) -> None:
    hub.down = True
    told = said("list").stdout
    assert "CC-BY-NC-4.0, which forbids commercial use" in told
    assert "used by flowblending-wan21" in told
    assert not hub.asked
    for want in shelved():
        assert f"\n{want}\n" in told
    last = told.rpartition("used by ")[2]
    assert "cerspense/zeroscope_v2_576w\n  CC-BY-NC-4.0, which forbids commercial use\n  not here\n" in last
    assert "animatediff_lightning_8step_diffusers.safetensors" in last


def test_experts_says_what_list_says(hub: Hub) -> None:
    hub.down = True
    rows = dict(
        line.split(" (", 1)
        for line in CliRunner().invoke(cli.app, ["experts"]).stdout.splitlines()
        if "used by" in line
    )
    listed = said("list").stdout
    for want, users in shipped().items():
        told = rows[str(want)]
        about = re.search(r"not here, about .* to download", told)
        assert about is not None
        assert f"{about[0]}; {licence_of(want.repo)}; used by " in told
        assert about[0] in listed
        by = told.rpartition("used by ")[2].split(", ")
        assert sorted(set(by)) == sorted(by)
        assert set(by) <= set(users)
    assert rows["YaohuiW/LaVie/lavie_base.pt"].startswith("adapter of lavie): not here, about 3.64 GB to download")
    assert rows["ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors"].startswith(
        "adapter of"
    )
    assert "CC-BY-NC-4.0, which forbids commercial use" in rows["ali-vilab/text-to-video-ms-1.7b"]
    assert {want.repo for want in shipped()} == {"/".join(row.split("/")[:2]) for row in rows if "sprites/" not in row}


def test_experts_says_what_of_it_is_here(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(WANT)
    monkeypatch.setattr("dovetail.run.wants.shipped", lambda: {WANT: ["one"]})
    monkeypatch.setattr("dovetail.run.catalogue._named", lambda recipe: [(SD, "stable-diffusion")])
    (line,) = weights_used()
    assert line.startswith(f"{SD} (stable-diffusion): here, 0.0")


def test_list_and_size_know_a_model_as_a_whole(hub: Hub) -> None:
    hub.down = True
    told = said("size", "stable-diffusion-v1-5/stable-diffusion-v1-5", "--offline").stdout
    assert "not here, about 4.27 GB to download" in told
    half = said("size", "stable-diffusion-v1-5/stable-diffusion-v1-5", "--offline", "--variant", "fp16").stdout
    assert "not here, about 2.13 GB to download" in half


def test_a_recipe_of_packaged_weights_takes_nothing(hub: Hub) -> None:
    assert said("pull", "sprites").stdout.splitlines() == [
        "sprites takes nothing from the hub",
        "all of sprites is here",
    ]
    assert not hub.asked


def test_the_fake_lays_the_cache_out_as_the_library_does(hub: Hub) -> None:
    """What the tests above rest on: huggingface_hub itself, against this hub, writes what `cached` reads."""
    allow, ignore = WANT.patterns()
    snapshot_download(SD, allow_patterns=allow, ignore_patterns=ignore)
    folder = folder_of(SD)
    assert (folder / "refs" / "main").read_text() == COMMIT
    tree = json.loads((folder / "trees" / f"{COMMIT}.json").read_text())
    assert tree["format_version"] == 1
    place = folder / "snapshots" / COMMIT / UNET
    assert place.is_symlink()
    assert place.resolve().name == tree["files"][UNET]["lfs_sha256"]
    assert {verdict for _, verdict in verified(cached(WANT))} == {"right"}


def test_the_page_says_what_list_says(hub: Hub) -> None:
    """docs/models.md: its table is the shelf's, its sizes are those that `list` prints."""
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    rows = {
        cells[0]: cells for line in page.splitlines() if len(cells := [c.strip() for c in line.split("|")[1:-1]]) == 4
    }
    told = said("list").stdout
    for want in shipped():
        if want.repo not in SHELF:
            continue
        _, taken, licence, commit = rows[want.repo]
        size, *_ = taken.split()
        assert f"about {size} GB to download" in told
        assert licence == licence_of(want.repo)
        assert commit == (SHELF[want.repo].commit or "")[:12]
    for want in shelved():
        _, size, licence, _ = rows[str(want)]
        assert not size or f"{want}\n  {licence}\n  not here, about {size} to download" in told
        assert licence == licence_of(want.repo)
