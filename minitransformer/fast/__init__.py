"""The same numbers, faster: :func:`optimize` replaces plain modules by their twins.

The table of twins is in `optimize.py`, the twins themselves are in `model_twins.py` and
`layer_twins.py`, and each of the other files holds one technique or a helper of several.
"""

from minitransformer.fast.optimize import Report, is_optimized, optimize, report, restore

__all__ = ["Report", "is_optimized", "optimize", "report", "restore"]
