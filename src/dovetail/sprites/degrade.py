"""What the temporal expert is made to believe videos look like: well moving, poorly drawn.

Open video models were trained on worse frames than image models. The sprite world builds that
division of labour in: its temporal expert has only ever seen blurred, low-contrast clips.
"""

from torch import Tensor

from dovetail.core.blur import blurred

BLUR = 1.5
"""Standard deviation of the blur, in pixels of a 64-pixel frame."""
CONTRAST = 0.75
"""What is left of the contrast, toward each frame's mean colour."""


def degrade(frames: Tensor) -> Tensor:
    """Blur frames "f c h w" and pull them toward their mean colour."""
    soft = blurred(frames, BLUR)
    return soft.mean((2, 3), keepdim=True).lerp(soft, CONTRAST)
