"""The same numbers, faster: :func:`optimize` puts the twins in place.

`optimize` has the table of twins; `model_twins` and `layer_twins` the twins; every other file is
one technique.
"""

from minitransformer.fast.optimize import Report, is_optimized, optimize, report, restore

__all__ = ["Report", "is_optimized", "optimize", "report", "restore"]
