"""Measuring videos without learned weights, and saying how sure a comparison is.

`pixel` holds stand-ins for the learned measures that papers report; `stats` holds paired comparisons
over prompts and seeds. Ground truth about sprites is the oracle's (`dovetail.sprites.oracle`).
"""
