"""Training: the loop, what it is made of, and the jobs, each a module with a command line.

The names below are imported when they are used, so that `import train` stays cheap.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from minitransformer.elsewhere import advice

if TYPE_CHECKING:
    from train.callbacks import CSVLog, PrintSamples, StopAfter
    from train.collators import (
        DataCollatorForLanguageModeling,
        DataCollatorForSeq2Seq,
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        default_data_collator,
    )
    from train.config import TrainingConfig
    from train.evaluation import Evaluator
    from train.loop import Progress, take_step, train
    from train.metrics import draw_curve, draw_curves, read_metrics
    from train.optimizer import SCHEDULES, build_optimizer

_MODULES = {
    "callbacks": ("CSVLog", "PrintSamples", "StopAfter"),
    "collators": (
        "DataCollatorForLanguageModeling",
        "DataCollatorForSeq2Seq",
        "DataCollatorForTokenClassification",
        "DataCollatorWithPadding",
        "default_data_collator",
    ),
    "config": ("TrainingConfig",),
    "evaluation": ("Evaluator",),
    "loop": ("Progress", "take_step", "train"),
    "metrics": ("draw_curve", "draw_curves", "read_metrics"),
    "optimizer": ("SCHEDULES", "build_optimizer"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "SCHEDULES",
    "CSVLog",
    "DataCollatorForLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorForTokenClassification",
    "DataCollatorWithPadding",
    "Evaluator",
    "PrintSamples",
    "Progress",
    "StopAfter",
    "TrainingConfig",
    "build_optimizer",
    "default_data_collator",
    "draw_curve",
    "draw_curves",
    "read_metrics",
    "take_step",
    "train",
]


def __getattr__(name: str) -> Any:
    """What is imported when it is used, or the error for a name that is not here.

    An ImportError can say what to type, as in `minitransformer.__getattr__`.
    """
    if name not in _MODULE_OF:
        is_module = name.startswith("_") or find_spec(f"train.{name}") is not None
        if not is_module and (said := advice(name, __all__)) is not None:
            raise ImportError(f"train has no {name}: {said}", name="train")
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(import_module(f"train.{_MODULE_OF[name]}"), name)
