"""Where experts of one latent space should change places: measured, chosen, drawn, written down.

`curves` measures candidates on the large expert's trajectory, `choose` picks boundaries from what was measured,
`judging` compares videos, `plot` draws, and `running` does all of it for a recipe.
"""

from dovetail.calibrate.running import Calibration, Look, calibrate

__all__ = ["Calibration", "Look", "calibrate"]
