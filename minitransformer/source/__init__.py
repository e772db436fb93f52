"""A model as one file: all code that runs for one class, and nothing else.

The file is made from the package's own code: :mod:`link` collects the definitions that the class
needs and merges each class with its bases, :mod:`simplify` puts constants in the place of arguments
that never vary and removes what is then unreachable, :mod:`prose` brings docstrings up to date, and
:mod:`syntax` writes what was changed as `ruff format` would.
"""

import ast
import copy
import sys
import textwrap
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from minitransformer.hf.config import FAMILIES
from minitransformer.hf.family import Family
from minitransformer.models.base import LanguageModel, Model, Seq2SeqLM, TaskModel
from minitransformer.names import unexpected_name
from minitransformer.source.link import (
    Key,
    Linker,
    Substitute,
    merge,
    module,
    names_in,
    rename,
    resolve,
)
from minitransformer.source.prose import Prose, legend
from minitransformer.source.simplify import Program, defined_names
from minitransformer.source.syntax import constant, expression, parse, statement, unparse, walk
from minitransformer.version import __version__

_ENTRY = "minitransformer.source.entry_points"
_VALIDATION = "minitransformer.models.validation"
# Decorators that serve torch.export and vmap alone.
_REGISTRATION = {"_registered"}
# Fields of outputs that a file does without, beside those that nobody fills.
_LEFT_OUT = {"num_supervised_tokens", "encoder_last_hidden_state"}


def source_of(
    class_name: str,
    *,
    checks: bool = False,
    generate: bool = False,
    train: bool = False,
    attention: str = "sdpa",
) -> str:
    """The text of a file with all code that runs for a class.

    Args:
        class_name: of a model, such as "RobertaForMaskedLM".
        checks: keep the checks of inputs and configs, with their messages.
        generate: add greedy search and sampling.
        train: add the optimizer and the training step.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.

    Raises:
        ValueError: no class has this name; it does not generate, or has no loss to train on; or the
            attention implementation is unknown.
    """
    known = {model.__name__: model for model in class_map()}
    if class_name not in known:
        raise ValueError(unexpected_name("class", class_name, known))
    class_ = known[class_name]
    family = class_map()[class_]
    if attention not in ("eager", "sdpa"):
        raise ValueError(unexpected_name("attention", attention, ("eager", "sdpa")))
    functions = ["load"]
    if generate:
        if not issubclass(class_, LanguageModel):
            generating = [c.__name__ for c in class_map() if issubclass(c, LanguageModel)]
            raise ValueError(f"{class_name} does not generate; these do: {', '.join(generating)}")
        is_seq2seq = issubclass(class_, Seq2SeqLM)
        functions += ["sample", "generate_from_source" if is_seq2seq else "generate"]
    if train:
        if not issubclass(class_, TaskModel):
            raise ValueError(f"{class_name} has no loss to train on; choose one for a task")
        functions += ["build_optimizer", "train_step"]
    config = family.config_class
    constants = _constants(class_, family)
    keys = [Key(class_.__module__, class_name), Key(config.__module__, config.__name__)]
    linker = Linker([*keys, *([Key("train.optimizer", "build_optimizer")] if train else [])])
    extra: list[ast.stmt] = []
    renamed = {"Model": class_name, "ModelConfig": config.__name__}
    final = {"generate_from_source": "generate"}
    for name in [name for name in functions if name in module(_ENTRY).definitions]:
        node = copy.deepcopy(module(_ENTRY).definitions[name])
        Substitute({n: v for n, v in constants.items() if not isinstance(v, ast.stmt)}).visit(node)
        rename(node, renamed)
        node.name = final.get(name, name)  # type: ignore[attr-defined]
        extra.append(node)
        meaning = {n: resolve(_ENTRY, n) for n in names_in(node)}
        if family.adjust({}, ()):
            meaning[family.adjust.__name__] = Key(family.adjust.__module__, family.adjust.__name__)
        linker.add(node, {n: found for n, found in meaning.items() if n not in constants})
    extra += [value for value in constants.values() if isinstance(value, ast.stmt)]
    body, aliases = merge(linker, {class_, config})
    fixed: dict[tuple[str, str], Any] = {(f"{class_name}.__init__", "attention"): attention}
    for name in ("output_hidden_states", "output_attentions"):
        fixed[f"{class_name}.forward", name] = False
    fixed[f"{class_name}.forward", "cache"] = None
    fixed["CrossAttention.forward", "per_source"] = 1  # more is for beam search
    if not train:
        for name in ("labels", "start_positions", "end_positions"):
            fixed[f"{class_name}.forward", name] = None
    validation = {*module(_VALIDATION).definitions} | _REGISTRATION
    program = Program(
        [*body, *extra],
        [config.__name__, class_name, *(final.get(name, name) for name in functions)],
        fixed,
        validation=None if checks else validation,
        initial_weights=train,
        absent_fields=_LEFT_OUT,
    )
    program.simplify()
    _drop_absent_parts(program.body)
    order = [class_name, *(final.get(name, name) for name in functions)]
    ordered = _in_reading_order(program.body, order)
    members = {
        name: {getattr(n, "name", "") for n in getattr(node, "body", [])}
        for node in ordered
        for name in defined_names(node)
    }
    Prose(members, aliases, checks, order).rewrite(ordered)
    text = unparse([*_imports(ordered, linker.imports), *ordered])
    modules = [class_.__module__, *dict.fromkeys(key.module for key in linker.linked)]
    command = " ".join(
        ["minitransformer source", class_name]
        + ["--checks"] * checks
        + ["--generate"] * generate
        + ["--train"] * train
        + ["--attention eager"] * (attention == "eager")
    )
    return _header(class_, command, text, [import_module(m).__doc__ or "" for m in modules]) + text


def class_map() -> dict[type[Model], Family]:
    """The classes that can be written as a file, and their families."""
    return {model: family for family in FAMILIES.values() for model in family.models}


def _constants(class_: type[Model], family: Family) -> dict[str, Any]:
    """What the capitals of `entry_points` stand for in a class: an expression or a statement."""
    has_head = issubclass(class_, TaskModel)
    tables = (family.weights, family.gated_weights or {}, family.aliases, family.models[class_])
    pairs = _parts(theirs_to_ours for table in tables for theirs_to_ours in table.items())
    layers = [f"config.{field}" for field in family.stacks.values()]
    constants: dict[str, Any] = {
        "NAMES": _table("NAMES", pairs, "Hugging Face's names of the parts, and those here."),
        "PREFIX": constant(f"{family.backbone_name}." * bool(family.backbone_name)),
        "LAYERS": expression(layers[0] if len(layers) == 1 else f"max({', '.join(layers)})"),
        "TRANSPOSED": constant(None),
        "CONFIG_NAMES": constant(None),
        "DEFAULTS": expression("{}"),
        "BACKBONE": constant("backbone." if has_head else None),
        "RESOLVED": constant(None),
        "OLD_ENDINGS": constant(None),
    }
    if family.config_names:
        names = {theirs: ours for ours, theirs in family.config_names.items()}
        comment = "Hugging Face's names of the fields in config.json, and those here."
        constants["CONFIG_NAMES"] = _table("CONFIG_NAMES", names, comment)
    if family.hf_defaults:
        comment = "Transformers' defaults of fields that config.json may leave out."
        constants["DEFAULTS"] = _table("DEFAULTS", family.hf_defaults, comment)
    if family.transposed:
        ends = sorted({name.split(".")[-2] + ".weight" for name in family.transposed})
        constants["TRANSPOSED"] = expression(repr(tuple(ends)).replace("'", '"'))
    if family.adjust({}, ()):
        constants["RESOLVED"] = ast.Name(family.adjust.__name__, ast.Load())
    if family.model_type == "bert":  # of the first checkpoints, TensorFlow's
        constants["OLD_ENDINGS"] = expression('{"gamma": "weight", "beta": "bias"}')
    return constants


def _drop_absent_parts(body: list[ast.stmt]) -> None:
    """Remove the names of parts that the class does not have from the table of names."""
    parts = {n.attr for node in body for n in walk(node) if isinstance(n, ast.Attribute)}
    for place, node in enumerate(body):
        if isinstance(node, ast.Assign) and defined_names(node) == ["NAMES"]:
            names = ast.literal_eval(node.value)
            parts |= {"weight", "bias"}
            kept = {k: v for k, v in names.items() if {*v.replace(".{}", "").split(".")} <= parts}
            comment = "Hugging Face's names of the parts, and those here; {} is the layer's number."
            body[place] = _table("NAMES", kept, comment)


def _parts(names: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Hugging Face's names and ours of the modules that tensors belong to.

    A tensor keeps its whole name where Hugging Face's module stands for two of ours.
    """
    tensors = {theirs: ours for theirs, ours in names if ours is not None and "." in ours}
    found: dict[str, set[str]] = {}
    for theirs, ours in tensors.items():
        found.setdefault(_part(theirs), set()).add(_part(ours))
    return {
        (_part(theirs) if len(found[_part(theirs)]) == 1 else theirs): (
            _part(ours) if len(found[_part(theirs)]) == 1 else ours
        )
        for theirs, ours in tensors.items()
    }


def _part(name: str) -> str:
    """The module that a tensor belongs to."""
    return name.removesuffix(".weight").removesuffix(".bias")


def _table(name: str, pairs: Mapping[str, Any], comment: str) -> ast.stmt:
    """A constant that is a dict, with a comment above it."""
    short = ", ".join(f'"{key}": {_literal(value)}' for key, value in pairs.items())
    if len(name) + len(short) < 95:
        return statement(f"# {comment}\n{name} = {{{short}}}")
    lines = [f'    "{key}": {_literal(value)},' for key, value in pairs.items()]
    lines = [
        line if len(line) <= 100 else line.replace(': "', ': (\n        "', 1)[:-1] + "\n    ),"
        for line in lines
    ]
    return statement("\n".join([f"# {comment}", f"{name} = {{", *lines, "}"]))


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _in_reading_order(body: list[ast.stmt], roots: list[str]) -> list[ast.stmt]:
    """The definitions, each after those that it uses."""
    by_name = {name: node for node in body for name in defined_names(node)}
    ordered: list[ast.stmt] = []
    visited: set[str] = set()

    def visit(name: str) -> None:
        if name in visited or name not in by_name:
            return
        visited.add(name)
        for used in _names_in_order(by_name[name]):
            visit(used)
        ordered.append(by_name[name])

    for root in roots:
        visit(root)
    return ordered


def _names_in_order(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    return [name for child in ast.iter_child_nodes(node) for name in _names_in_order(child)]


def _imports(body: list[ast.stmt], known: Mapping[str, ast.stmt]) -> list[ast.stmt]:
    """The imports that definitions need, in isort's order."""
    used = set().union(*map(names_in, body))
    plain: set[str] = set()
    members: dict[str, set[str]] = {}
    for name in used & known.keys():
        node = known[name]
        assert isinstance(node, ast.Import | ast.ImportFrom)
        alias = node.names[0]
        if isinstance(node, ast.ImportFrom):
            assert node.module
            members.setdefault(node.module, set()).add(alias.name)
        else:
            plain.add(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))

    def order(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    lines = [(line.split()[1], 0, line) for line in plain]
    for source, names in members.items():
        lines.append((source, 1, f"from {source} import {', '.join(sorted(names, key=order))}"))
    sections: list[list[str]] = [[], []]
    for source, _, line in sorted(lines, key=lambda item: (item[1], item[0])):
        sections[source.split(".")[0] not in sys.stdlib_module_names].append(line)
    return parse("\n".join([*sections[0], "", *sections[1]])).body


def _header(class_: type[Model], command: str, text: str, docstrings: list[str]) -> str:
    """The docstring of a file."""
    family = docstrings[0].strip().split("\n\n")[0]
    paragraphs = [
        f"{class_.__name__} in one file of plain PyTorch.",
        family,
        "    model = load(path)  # a directory with config.json and model.safetensors\n"
        "    output = model(input_ids, attention_mask)",
        f"Written by `{command}`, version {__version__}: what runs there, but for checks, and for "
        "what collects hidden states and attention maps.",
        legend(text, docstrings),
    ]
    filled = [
        p if p.startswith(" ") else textwrap.fill(" ".join(p.split()), 100, break_on_hyphens=False)
        for p in paragraphs
        if p
    ]
    return '"""' + "\n\n".join(filled) + '\n"""\n\n'


__all__ = ["source_of"]
