"""A model as one file: all code that runs for one class, and nothing else.

The file is made from the package's own code, in five steps:

1. `link` collects the definitions that the class needs, and merges each class with its bases;
2. `preparation` decides what the file is to do without, and what is constant in it;
3. `simplify` puts constants in the place of arguments that never vary, and removes what is then
   unreachable, until nothing changes; its passes are in `folding`, `inlining`, `signatures` and
   `unused`, and `types` tells them which function a call runs;
4. `prose` brings docstrings and comments up to date;
5. `syntax` writes the result; what was changed looks as `ruff format` would have it.

`entry_points` has what a file adds to its class: loading and, on request, generation and training.
"""

import ast
import copy
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from minitransformer.hf.config import FAMILIES
from minitransformer.models.base import (
    EncoderDecoder,
    LanguageModel,
    Model,
    Seq2SeqLM,
    SequenceClassifier,
    TaskModel,
)
from minitransformer.models.bert import BertForTokenClassification
from minitransformer.models.config import ClassifierConfig
from minitransformer.names import unexpected_name
from minitransformer.source.link import Key, Linker, bases_of, merge, module, rename, resolve
from minitransformer.source.preparation import prepare
from minitransformer.source.program import Program
from minitransformer.source.prose import Prose, legend
from minitransformer.source.simplify import simplify
from minitransformer.source.syntax import constant, expression, parse, statement, unparse, walk
from minitransformer.source.trees import Substitute, defined_names, free_names, names_in
from minitransformer.version import __version__

_ENTRY_POINTS = "minitransformer.source.entry_points"
_BASE = "minitransformer.models.base"
# Functions that check, and a decorator that serves torch.export and vmap alone.
_CHECKING = {*module("minitransformer.models.validation").definitions, "_registered"}
# Fields of outputs that a file does without, beside those that nobody fills.
_LEFT_OUT = {"num_supervised_tokens", "encoder_last_hidden_state"}
_LABELS = ("labels", "start_positions", "end_positions")
_COLLECTED = ("output_hidden_states", "output_attentions")
_CLASSES = {model: family for family in FAMILIES.values() for model in family.models}


def source_of(
    class_name: str,
    *,
    checks: bool = False,
    generate: bool = False,
    train: bool = False,
    attention: str = "sdpa",
) -> str:
    """The text of a file with all code that runs for a class, and a function that loads it.

    Args:
        class_name: of a model, such as "RobertaForMaskedLM".
        checks: keep the checks of inputs and configs, with their messages.
        generate: add greedy search and sampling.
        train: add labels and the loss, initial weights, the optimizer and the training step.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.

    Raises:
        ValueError: no class has this name; it does not generate, or has no loss to train on; or the
            attention implementation is unknown.
    """
    known = {model.__name__: model for model in _CLASSES}
    if class_name not in known:
        raise ValueError(unexpected_name("class", class_name, known))
    if attention not in ("eager", "sdpa"):
        raise ValueError(unexpected_name("attention", attention, ("eager", "sdpa")))
    class_ = known[class_name]
    if generate and not issubclass(class_, LanguageModel):
        generating = [name for name, model in known.items() if issubclass(model, LanguageModel)]
        raise ValueError(f"{class_name} does not generate; these do: {', '.join(generating)}")
    if train and not issubclass(class_, TaskModel):
        heads = [m.__name__ for m in _CLASSES[class_].models if issubclass(m, TaskModel)]
        raise ValueError(f"{class_name} has no loss to train on; these do: {', '.join(heads)}")
    return _File(class_, checks, generate, train, attention).text()


@dataclass(frozen=True)
class _File:
    """One file; arguments as in :func:`source_of`."""

    class_: type[Model]
    checks: bool
    generate: bool
    train: bool
    attention: str

    def text(self) -> str:
        """The file's text."""
        linker, program, aliases = self._program()
        simplify(program)
        _drop_absent_parts(program.body)
        roots = [self.class_.__name__, *self._functions().values()]
        body = _in_reading_order(program.body, roots)
        Prose(body, aliases, roots, with_checks=self.checks).rewrite()
        text = unparse([*_imports(body, linker.imports), *body])
        modules = [base.__module__ for base in bases_of(self.class_) if base.__module__ != _BASE]
        others = {key.module for key in linker.linked}
        modules += sorted(others, key=lambda name: (".layers." not in name, name))
        documents = [import_module(name).__doc__ or "" for name in modules]
        return self._header(documents[0], legend(text, documents)) + text

    def _functions(self) -> dict[str, str]:
        """The functions beside the class: their names where they come from, and in the file."""
        names = {"load": "load"}
        if self.generate:
            of_sources = issubclass(self.class_, Seq2SeqLM)
            names["sample"] = "sample"
            names["generate_from_source" if of_sources else "generate"] = "generate"
        if self.train:
            names |= {"build_optimizer": "build_optimizer", "train_step": "train_step"}
        return names

    def _program(self) -> tuple[Linker, Program, dict[str, str]]:
        """All definitions that may be needed, and the names of bases that were merged away."""
        class_, family = self.class_, _CLASSES[self.class_]
        config, constants = family.config_class, _constants(self.class_)
        if not (self.checks or issubclass(class_, SequenceClassifier | BertForTokenClassification)):
            constants["LABELS"] = constant(None)
        keys = [Key(class_.__module__, class_.__name__), Key(config.__module__, config.__name__)]
        if self.train:
            keys.append(Key("train.optimizer", "build_optimizer"))
        linker = Linker(keys)
        added = [value for value in constants.values() if isinstance(value, ast.stmt)]
        values = {name: v for name, v in constants.items() if isinstance(v, ast.expr)}
        meant = {"Model": keys[0], "ModelConfig": keys[1]}
        resolved = family.adjust
        for name, final in self._functions().items():
            if name not in module(_ENTRY_POINTS).definitions:
                continue
            node = copy.deepcopy(module(_ENTRY_POINTS).definitions[name])
            assert isinstance(node, ast.FunctionDef)
            meanings = {n: resolve(_ENTRY_POINTS, n) for n in names_in(node) - constants.keys()}
            meanings |= {resolved.__name__: Key(resolved.__module__, resolved.__name__)}
            Substitute(values).visit(node)
            rename(node, {name: key.name for name, key in meant.items()})
            node.name = final
            added.append(node)
            linker.add(node, {n: found for n, found in meanings.items() if n not in meant})
        body, aliases = merge(linker, {class_, config})
        program = Program(
            [*body, *added],
            roots=[config.__name__, class_.__name__, *self._functions().values()],
            with_checks=self.checks,
        )
        prepare(
            program,
            self._fixed(),
            checking=_CHECKING,
            initial_weights=self.train,
            absent_fields=_LEFT_OUT,
        )
        return linker, program, aliases

    def _fixed(self) -> dict[tuple[str, str], Any]:
        """Parameters and local names that are constants in this file, by their function."""
        name = self.class_.__name__
        absent = () if self.train else _LABELS
        return {
            (f"{name}.__init__", "attention"): self.attention,
            **{(f"{name}.forward", parameter): False for parameter in _COLLECTED},
            **{(f"{name}.forward", parameter): None for parameter in ("cache", *absent)},
            ("CrossAttention.forward", "per_source"): 1,  # more is for beam search
            ("DistilBertModel.__init__", "add_pooling_layer"): False,  # it never has one
        }

    def _header(self, family: str, letters: str) -> str:
        """The docstring of the file.

        Args:
            family: the docstring of the family's module.
            letters: the legend of shapes.
        """
        is_seq2seq = issubclass(self.class_, Seq2SeqLM | EncoderDecoder)
        inputs = "input_ids, attention_mask"
        usage = [
            "model = load(path)  # a directory with config.json and model.safetensors",
            f"output = model({inputs}{', decoder_input_ids' * is_seq2seq})",
        ]
        options = ["--checks"] * self.checks + ["--generate"] * self.generate
        options += ["--train"] * self.train + ["--attention eager"] * (self.attention == "eager")
        if self.generate:
            usage.append(f"tokens = generate(model, {inputs}, max_new_tokens=20)")
        if self.train:
            usage.append(
                "optimizer = build_optimizer(model.train(), learning_rate=1e-4, weight_decay=0.01)"
            )
            usage.append("loss = train_step(model, batch, optimizer, clip_norm=1.0)")
        absent = [*(["checks"] * (not self.checks)), "hidden states", "attention maps"]
        if not self.train and issubclass(self.class_, TaskModel):
            absent += ["the loss", "initial weights"]
        command = " ".join(["minitransformer source", self.class_.__name__, *options])
        paragraphs = [
            f"{self.class_.__name__} in one file of plain PyTorch.",
            family.strip().split("\n\n")[0],
            "\n".join(f"    {line}" for line in usage),
            f"Written by `{command}`, version {__version__}: what runs there, without "
            f"{', '.join(absent[:-1])} and {absent[-1]}.",
            letters,
        ]
        filled = [
            p
            if p.startswith(" ")
            else textwrap.fill(" ".join(p.split()), 100, break_on_hyphens=False)
            for p in paragraphs
            if p
        ]
        return '"""' + "\n\n".join(filled) + '\n"""\n\n'


# ---- the tables of a class ----


def _constants(class_: type[Model]) -> dict[str, ast.expr | ast.stmt]:
    """What the capitals of `entry_points` stand for: expressions, or constants of the file."""
    family = _CLASSES[class_]
    tables = (family.weights, family.gated_weights or {}, family.aliases, family.models[class_])
    parts = _parts(names for table in tables for names in table.items())
    has_head = issubclass(class_, TaskModel)
    optional = family.optional & {*family.models[class_].values()}
    has_pooler = "pooler.dense.weight" in family.weights
    layers = [f"model.config.{field}" for field in family.stacks.values()]
    constants: dict[str, ast.expr | ast.stmt] = {
        "NAMES": _table("NAMES", parts),
        "PREFIX": constant(f"{family.backbone_name}." * bool(family.backbone_name)),
        "BACKBONE": constant("backbone." if has_head else None),
        "LAYERS": expression(layers[0] if len(layers) == 1 else f"max({', '.join(layers)})"),
        "POOLER": constant(True if has_pooler and not has_head else None),
        "LABELS": constant(True if issubclass(family.config_class, ClassifierConfig) else None),
        "OPTIONAL": constant(next(iter(optional), None)),
        "TRANSPOSED": constant(None),
        "CONFIG_NAMES": constant(None),
        "DEFAULTS": expression("{}"),
        "RESOLVED": constant(None),
        "OLD_ENDINGS": constant(None),
    }
    if family.config_names:
        names = {theirs: ours for ours, theirs in family.config_names.items()}
        constants["CONFIG_NAMES"] = _table("CONFIG_NAMES", names)
    if family.hf_defaults:
        constants["DEFAULTS"] = _table("DEFAULTS", family.hf_defaults)
    if family.transposed:
        ends = sorted({name.split(".")[-2] + ".weight" for name in family.transposed})
        constants["TRANSPOSED"] = expression(f"({', '.join(map(_literal, ends))},)")
    if family.adjust({}, ()):
        constants["RESOLVED"] = ast.Name(family.adjust.__name__, ast.Load())
    if family.model_type == "bert":  # of the first checkpoints, which TensorFlow wrote
        constants["OLD_ENDINGS"] = expression('{"gamma": "weight", "beta": "bias"}')
    return constants


# The comments above these tables in a file.
_COMMENTS = {
    "NAMES": "Hugging Face's names of the parts, and those here; {} is the layer's number.",
    "CONFIG_NAMES": "Hugging Face's names of the fields in config.json, and those here.",
    "DEFAULTS": "Transformers' defaults of fields that config.json may leave out.",
}


def _parts(names: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Hugging Face's names and ours of the modules that tensors belong to.

    A tensor keeps its whole name where Hugging Face's module stands for two of ours.
    """
    tensors = {theirs: ours for theirs, ours in names if ours is not None and "." in ours}
    found: dict[str, set[str]] = {}
    for theirs, ours in tensors.items():
        found.setdefault(_part(theirs), set()).add(_part(ours))
    pairs = {}
    for theirs, ours in tensors.items():
        is_one = len(found[_part(theirs)]) == 1
        pairs[_part(theirs) if is_one else theirs] = _part(ours) if is_one else ours
    return pairs


def _part(name: str) -> str:
    """The module that a tensor belongs to."""
    return name.removesuffix(".weight").removesuffix(".bias")


def _table(name: str, pairs: Mapping[str, Any]) -> ast.stmt:
    """A constant that is a dict, with its comment above it."""
    short = ", ".join(f'"{key}": {_literal(value)}' for key, value in pairs.items())
    if len(name) + len(short) < 95:
        return statement(f"# {_COMMENTS[name]}\n{name} = {{{short}}}")
    lines = [f'    "{key}": {_literal(value)},' for key, value in pairs.items()]
    return statement("\n".join([f"# {_COMMENTS[name]}", f"{name} = {{", *lines, "}"]))


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _drop_absent_parts(body: list[ast.stmt]) -> None:
    """Remove the names of parts that the class does not have from the table of names."""
    parts = {n.attr for node in body for n in walk(node) if isinstance(n, ast.Attribute)}
    parts |= {"weight", "bias"}
    for place, node in enumerate(body):
        if isinstance(node, ast.Assign) and defined_names(node) == ["NAMES"]:
            names = ast.literal_eval(node.value)
            kept = {k: v for k, v in names.items() if {*v.replace(".{}", "").split(".")} <= parts}
            body[place] = _table("NAMES", kept)


# ---- order and imports ----


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
    used = set().union(*map(free_names, body))
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

    def order(name: str) -> tuple[int, str]:  # constants, classes, then functions
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    lines = [(line.split()[1], 0, line) for line in plain]
    for source, names in members.items():
        lines.append((source, 1, f"from {source} import {', '.join(sorted(names, key=order))}"))
    sections: list[list[str]] = [[], []]
    for source, _, line in sorted(lines, key=lambda item: (item[1], item[0])):
        sections[source.split(".")[0] not in sys.stdlib_module_names].append(line)
    return parse("\n".join([*sections[0], "", *sections[1]])).body
