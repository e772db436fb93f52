"""A student's whole model beside the reference, module by module, with a diagnosis.

Both read the same checkpoint and the same batch. Modules with the same name, ours or Hugging
Face's, are compared by their outputs in the order of execution, then the results, then the gradient
of every parameter. Where the student's model first differs, the mistakes of the catalogue are put
into copies of the reference, one at a time: the mistake is the one that gives the same numbers up
to there.

B batch, T tokens, V vocabulary.
"""

import copy
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitransformer.exercises.exercise import Mistake
from minitransformer.exercises.models import model_mistakes
from minitransformer.exercises.runner import describe
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hf.config import family_of_model, reference_class
from minitransformer.hf.weight_names import is_transposed, stored_names
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.base import Model
from minitransformer.names import listed, unexpected_name
from minitransformer.parity import (
    SOURCE,
    TARGET,
    TOLERANCE,
    Batch,
    Comparison,
    PaddingMasks,
    Report,
    compare_tensors,
    module_pairs,
    padding_masks,
    random_batch,
    t5_norms_in_float64,
    their_inputs,
)

# What a model returns, in the order of preference for one that returns a single tensor.
_RESULTS = ("logits", "start_logits", "end_logits", "last_hidden_state")


@dataclass(frozen=True)
class Comparable:
    """A model that can be compared, and how its names correspond to ours.

    Attributes:
        model: the model.
        batch: what it is called with.
        masks: where the real tokens of the batch are.
        modules: our names of modules, to its.
        parameters: our names of parameters, to its.
        transposed: our names of matrices that it stores as (in, out).
    """

    model: nn.Module
    batch: Batch
    masks: PaddingMasks
    modules: dict[str, str]
    parameters: dict[str, str]
    transposed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FileReport:
    """What the comparison of a file's model with the reference found.

    Attributes:
        model: "FILE.py:Class".
        dtype: of both models.
        report: the pairs of tensors, in the order of execution.
        mistakes: the known mistakes that give the same numbers up to where they first differ.
        unpaired: modules of the reference, by our names, that the student's model does not have.
    """

    model: str
    dtype: torch.dtype
    report: Report
    mistakes: tuple[Mistake, ...] = ()
    unpaired: tuple[str, ...] = ()

    def text(self) -> str:
        """The report for a reader."""
        lines = [self.report.table()]
        if self.unpaired:
            lines.append(f"{self.model} has no modules named {listed(self.unpaired, 200)}")
        if self.report.equal:
            return "\n".join([*lines, "the same function"])
        if not self.mistakes:
            lines.append("This is none of the known mistakes; look at where it first differs.")
        for number, mistake in enumerate(self.mistakes):
            reason, line = mistake.lines()
            lines += [f"{'Or else' if number else 'The mistake'}: {reason}", line]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "model": self.model,
            "dtype": str(self.dtype).removeprefix("torch."),
            "tolerance": TOLERANCE[self.dtype],
            "equal": self.report.equal,
            "mistakes": [mistake.as_dict() for mistake in self.mistakes],
            "unpaired": list(self.unpaired),
            "rows": [asdict(row) for row in self.report.rows],
        }


def compare_with_file(
    model: str,
    path: str | Path,
    *,
    reference: str = "ours",
    length: int = 32,
    device: str | torch.device = "cpu",
) -> FileReport:
    """Compare the model in a file with the reference on a checkpoint.

    If they differ in float32, they are compared again in float64, as in
    :func:`minitransformer.parity.checkpoint_reports`.

    Args:
        model: "FILE.py:Class", see :func:`load_model`. The file is imported.
        path: the checkpoint: a directory, or a name on the hub.
        reference: "ours" or "transformers".
        length: tokens of each sequence of the random batch, which has padding on both sides.
        device: both run on it.

    Raises:
        ValueError: the file or the class cannot be used.
        CheckpointError: the checkpoint cannot be loaded.
        ImportError: the reference is transformers, which is not installed.
    """
    ours = from_pretrained(path, attention="eager").to(device)
    student = load_model(model, path, ours).to(device).eval()
    batch = {name: tensor.to(device) for name, tensor in random_batch(ours, length).items()}
    names = {*_arguments(student)} - {"labels", "start_positions", "end_positions"}
    batch = {name: tensor for name, tensor in batch.items() if name in names}
    theirs = _comparable_student(student, ours, batch)
    right = _comparable_reference(ours, batch)
    expected = right if reference == "ours" else _comparable_transformers(ours, path, batch)
    unpaired = tuple(
        name
        for name, module in ours.named_modules()
        if name not in theirs.modules and any(True for _ in module.parameters(recurse=False))
    )
    found, report = _compared(theirs, expected)
    dtype = torch.float32
    if not report.equal and _can_be(torch.float64, theirs):
        dtype = torch.float64
        right.model.to(dtype), expected.model.to(dtype)
        found, report = _compared(theirs, expected)
    mistakes = () if report.equal else _diagnose(theirs, found, right, report)
    return FileReport(model, dtype, report, mistakes, unpaired)


# ---- the student's model ----


def load_model(model: str, path: str | Path, ours: Model) -> nn.Module:
    """The model of a student's class with the weights of a checkpoint.

    A class with `from_pretrained(path)` loads itself. Any other one is built with one argument, our
    config, and its parameters, which have our names or Hugging Face's, are given the checkpoint's
    values.

    Args:
        model: "FILE.py:Class".
        path: the checkpoint.
        ours: the same in the library.

    Raises:
        ValueError: there is no such file or class, it cannot be built, or a parameter has a name
            that the checkpoint does not have.
    """
    file, _, name = model.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"{model!r:.200} is not FILE.py:Class, as in roberta.py:Roberta")
    made = getattr(_import(Path(file)), name, None)
    if not isinstance(made, type) or not issubclass(made, nn.Module):
        raise ValueError(f"{file} has no torch.nn.Module named {name}")
    try:
        if hasattr(made, "from_pretrained"):
            directory = resolve_checkpoint(path, ("config.json", "*.safetensors"))
            return made.from_pretrained(directory)
        student = made(ours.config)
    except (Exception, SystemExit) as error:
        described = describe(error, str(Path(file).resolve()))
        raise ValueError(f"{name} cannot be built: {described}") from error
    _give_weights(student, ours)
    return student


def _import(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(f"{file} is not a file")
    spec = importlib.util.spec_from_file_location("student_model", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules["student_model"] = importlib.util.module_from_spec(spec)
    sys.path.append(str(file.resolve().parent))  # files beside it may be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        described = describe(error, str(file.resolve()))
        raise ValueError(f"{file} cannot be imported: {described}") from error
    return module


def _give_weights(student: nn.Module, ours: Model) -> None:
    """Copy the values of parameters of the same name, ours or Hugging Face's."""
    values, transposed = dict(ours.named_parameters()), _transposed(student, ours)
    names = {name: name for name in values}
    names |= {theirs: n for n, theirs in stored_names(family_of_model(ours), ours).items()}
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name not in names:
                raise ValueError(
                    f"{unexpected_name('parameter', name, names)}; or give the class a method "
                    "from_pretrained(path)"
                )
            value = values[names[name]].detach()
            value = value.T if names[name] in transposed else value
            if parameter.shape != value.shape:
                shapes = f"{tuple(parameter.shape)}, not {tuple(value.shape)}"
                raise ValueError(f"the parameter {name} has shape {shapes}")
            parameter.copy_(value)


def _transposed(student: nn.Module, ours: Model) -> frozenset[str]:
    """Our names of the matrices that the student stores as (in, out): all that GPT-2 does, or none.

    That a square one is stored so can only be told from the others.
    """
    family, values = family_of_model(ours), dict(ours.named_parameters())
    stored = stored_names(family, ours).items()
    names = {name: theirs for name, theirs in stored if is_transposed(theirs, family)}
    found = dict(student.named_parameters())
    shapes = [(found[t].shape, values[n].shape) for n, t in names.items() if t in found]
    return frozenset(names if any(a == b[::-1] != b for a, b in shapes) else ())


# ---- names ----


def _comparable_reference(ours: Model, batch: Batch) -> Comparable:
    modules = {name: name for name, _ in ours.named_modules() if _is_compared(name)}
    parameters = {name: name for name, _ in ours.named_parameters()}
    return Comparable(ours, batch, padding_masks(ours, batch), modules, parameters)


def _is_compared(name: str) -> bool:
    """Whether a module's output is: not the model's, nor a bias of scores, (1, H, T, S)."""
    return bool(name) and not name.endswith(("position_bias", "layers"))


def _comparable_student(student: nn.Module, ours: Model, batch: Batch) -> Comparable:
    reference = _comparable_reference(ours, batch)
    stored, pairs = stored_names(family_of_model(ours), ours), module_pairs(ours)
    modules, parameters = dict(student.named_modules()), dict(student.named_parameters())
    return Comparable(
        student,
        batch,
        reference.masks,
        _present(reference.modules, pairs, modules),
        _present(reference.parameters, stored, parameters),
        _transposed(student, ours),
    )


def _present(
    names: dict[str, str], theirs: dict[str, str], present: dict[str, Any]
) -> dict[str, str]:
    """Our names to the student's, who uses ours or Hugging Face's."""
    found = {name: name if name in present else theirs.get(name, "") for name in names}
    return {name: other for name, other in found.items() if other in present and other}


def _arguments(student: nn.Module) -> list[str]:
    """The names of inputs that a model takes."""
    names = [*inspect.signature(student.forward).parameters]
    for name in ("input_ids", "attention_mask"):
        if name not in names:
            raise ValueError(
                f"{type(student).__name__}.forward takes {listed(names)}; it must take input_ids "
                "and attention_mask, (B, T) each"
            )
    return names


def _comparable_transformers(ours: Model, path: str | Path, batch: Batch) -> Comparable:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("--reference transformers needs it: pip install transformers") from error
    known = reference_class(ours)
    directory = resolve_checkpoint(path, ("config.json", "*.safetensors"))
    theirs = getattr(transformers, known.__name__).from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    )
    family, moved = family_of_model(ours), their_inputs(ours, batch)
    stored = stored_names(family, ours)
    parameters = dict(theirs.named_parameters())
    return Comparable(
        theirs.to(next(ours.parameters()).device).eval(),
        moved,
        padding_masks(ours, moved),
        module_pairs(ours),
        {name: other for name, other in stored.items() if other in parameters},
        frozenset(name for name, other in stored.items() if is_transposed(other, family)),
    )


# ---- running and comparing ----


def _compared(student: Comparable, right: Comparable) -> tuple[dict[str, Tensor], Report]:
    """What the student's model gives, and the comparison with the other."""
    found = outputs_of(student)
    return found, Report(tuple(_rows(student, found, right, outputs_of(right))))


def _can_be(dtype: torch.dtype, student: Comparable) -> bool:
    """Whether the student's model, moved to a dtype, computes in it; else it is moved back."""
    before = next((p.dtype for p in student.model.parameters()), dtype)
    student.model.to(dtype)
    try:
        results = _results(_call(student)).values()
        if all(tensor.dtype == dtype for tensor in results):
            return True
    except ValueError:  # some of its tensors are no parameters, which have another dtype
        pass
    student.model.to(before)
    return False


def _call(side: Comparable) -> Any:
    """Call the model.

    Raises:
        ValueError: it ends in an error, or ends the process.
    """
    kind = type(side.model)
    try:
        return side.model(**side.batch)
    except _Enough:
        raise
    except (Exception, SystemExit) as error:
        described = describe(error, inspect.getsourcefile(kind) or "")
        raise ValueError(f"{kind.__name__} cannot be called: {described}") from error


class _Enough(Exception):
    """Ends a forward pass after the module that is asked for."""


def outputs_of(side: Comparable, last: str = "") -> dict[str, Tensor]:
    """The outputs of modules, results and gradients, by our names, in the order of execution.

    Args:
        side: the model.
        last: the module after whose call no more is computed; by default all is.
    """
    calls: list[tuple[str, Tensor]] = []
    try:
        with _hooks(side, calls, last), t5_norms_in_float64(side.model):
            results = _results(_call(side))
    except _Enough:
        return _by_name(calls)
    outputs = _by_name(calls) | {name: tensor.detach() for name, tensor in results.items()}
    return outputs if last and last in outputs else outputs | _gradients(side, results)


@contextmanager
def _hooks(side: Comparable, calls: list[tuple[str, Tensor]], last: str) -> Iterator[None]:
    """Collect the output of every module, by our name of it."""

    def hook_of(name: str) -> Any:
        def hook(module: Any, _: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            output = getattr(output, "last_hidden_state", output)
            if isinstance(output, Tensor):
                # Hugging Face's BART scales inside the token embedding; all others after it.
                calls.append((name, output.detach() / getattr(module, "embed_scale", 1.0)))
            if name == last:
                raise _Enough

        return hook

    modules = side.modules.items()
    hooks = [side.model.get_submodule(o).register_forward_hook(hook_of(n)) for n, o in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _by_name(calls: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """By name; an encoder-decoder embeds the source first, then the target."""
    outputs: dict[str, Tensor] = {}
    for name, output in calls:
        if name.endswith("token_embedding") and name in outputs:
            outputs[name + SOURCE] = outputs.pop(name)
            name += TARGET
        outputs[name] = output
    return outputs


def _results(output: Any) -> dict[str, Tensor]:
    """The results of a model by name; "" if it returns one tensor, which has none."""
    if isinstance(output, tuple | list):
        output = output[0]
    if isinstance(output, Tensor):
        return {"": output}
    if not isinstance(output, dict):
        output = {name: getattr(output, name, None) for name in _RESULTS}
    found = {name: output[name] for name in _RESULTS if output.get(name) is not None}
    if not found:
        raise ValueError(f"the model returns neither a tensor nor one of {', '.join(_RESULTS)}")
    return found


def _gradients(side: Comparable, results: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of every parameter, for fixed gradients of the results at real tokens."""
    total = torch.zeros((), device=side.masks.target.device)
    for name, result in results.items():
        per_token = result.dim() == 3 or name in ("start_logits", "end_logits")
        real = result[side.masks.target] if per_token else result
        numbers = torch.arange(real.numel(), dtype=torch.float64, device=real.device)
        weights = (numbers.cos() / real.numel() ** 0.5).to(real.dtype)
        total = total + (real.flatten() * weights).sum()
    if not (total.requires_grad and side.parameters):
        return {}
    parameters = dict(side.model.named_parameters())
    found = [parameters[other] for other in side.parameters.values()]
    gradients = torch.autograd.grad(total, found, allow_unused=True)
    return {
        f"gradient of {name}": gradient.T if name in side.transposed else gradient
        for name, gradient in zip(side.parameters, gradients, strict=True)
        if gradient is not None
    }


def _rows(
    student: Comparable, found: dict[str, Tensor], right: Comparable, expected: dict[str, Tensor]
) -> Iterator[Comparison]:
    """Compare what both models have, in the order of the reference."""
    if "" in found:  # one tensor, which is the first result of the reference
        found = found | {name: found[""] for name in _RESULTS if name in expected}
    for name, tensor in expected.items():
        ours = found.get(name)
        gradient_of = name.removeprefix("gradient of ")
        is_gradient = gradient_of != name
        if ours is None and not (gradient_of in student.parameters or name in _RESULTS):
            continue  # the student's model does not run such a module
        masks = None if is_gradient else (student.masks, right.masks)
        if name in ("start_logits", "end_logits") and ours is not None:  # (B, T)
            ours, tensor = ours[..., None], tensor[..., None]
        if ours is not None and {ours.dim(), tensor.dim()} == {
            2,
            3,
        }:  # of positions, (T, E)
            ours, tensor = (each[None] if each.dim() == 2 else each for each in (ours, tensor))
        if ours is not None and (ours.dim() != tensor.dim() or ours.shape[1:] != tensor.shape[1:]):
            yield Comparison(name, "SHAPE", shape=tuple(ours.shape))
        else:
            yield compare_tensors(name, ours, tensor, masks)


def _diagnose(
    student: Comparable, found: dict[str, Tensor], right: Comparable, report: Report
) -> tuple[Mistake, ...]:
    """The mistakes with which the reference gives what the student's model does, as far as that
    first differs; of several, those that agree in most of what follows.
    """
    assert report.first_difference is not None
    first = report.first_difference.name
    if Report(tuple(_rows(student, found, right, outputs_of(right)))).equal:
        return ()  # it differs from transformers alone; a mistake without effect is no explanation
    agreeing: list[tuple[int, tuple[float, ...], Mistake]] = []
    mistakes = [*model_mistakes(right.model)]
    for mistake, put_into in tqdm(mistakes, "known mistakes", leave=False, disable=None):
        wrong = replace(right, model=copy.deepcopy(right.model))
        put_into(wrong.model)
        try:
            rows = [*_rows(student, found, wrong, outputs_of(wrong, first))]
            names = [row.name for row in rows]
            upto = rows[: names.index(first) + 1] if first in names else []
            if not upto or any(row.status != "OK" for row in upto):
                continue
            rows = [*_rows(student, found, wrong, outputs_of(wrong))]
        except (RuntimeError, IndexError, TypeError, ValueError):  # it ends in an error
            continue
        numbers = tuple(row.difference for row in rows)
        agreeing.append((sum(row.status == "OK" for row in rows), numbers, mistake))
    most = max((count for count, *_ in agreeing), default=0)
    # Exercises that build on each other tell the same mistake in their own words.
    told = {numbers: m for count, numbers, m in reversed(agreeing) if count == most}
    return tuple(reversed(told.values()))
