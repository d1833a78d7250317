"""Training-free video generation by joining pretrained diffusion experts.

>>> import dovetail
>>> video = dovetail.generate("a red circle moving left", recipe="sprites-exact", frames=4)
>>> len(video.frames)
4
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.recipe import Recipe
    from dovetail.run import End, Piece, Step, Take, generate, plan, play, refine, stream, takes
    from dovetail.video import Video

__all__ = ["End", "Piece", "Recipe", "Step", "Take", "Video", "generate", "plan", "play", "refine", "stream", "takes"]

_HOMES = {"Recipe": "recipe", "Video": "video"}


def __getattr__(name: str) -> Any:
    # Names come when they are asked for, so that `dovetail --help` does not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    return getattr(import_module(f"dovetail.{_HOMES.get(name, 'run')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
