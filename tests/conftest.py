"""What every test starts from: one thread, so that results do not hang on the machine's load."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Counts are kept for this run of the tests alone, by all its processes.
os.environ["HF_ASSETS_CACHE"] = os.environ.setdefault("DOVETAIL_TEST_ASSETS", tempfile.mkdtemp())
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    # diffusers' schedulers hand tensors to numpy.array, which numpy 2 has a word to say about.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning:diffusers")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["HF_ASSETS_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def benchmarks() -> Iterator[None]:
    """Benchmarks are scripts: they import each other from their own folder."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)
