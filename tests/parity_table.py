"""The table of families, tasks and measured parity in the README.

`python -m tests.parity_table` measures and updates it. The pairs of models and the comparison are
those of the parity tests. A number is the largest of the plain model and of the optimized one.
"""

import re
import tempfile
from pathlib import Path

import torch

import minitransformer
from minitransformer.parity import Report, compare, random_batch
from minitransformer.tasks.pipeline import TASKS
from tests.models.test_parity import CLASSES
from tests.tiny import FAMILIES, family_of, pair

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- parity: begin -->\n", "<!-- parity: end -->\n"
HEAD = ["family", "classes", "pipelines", "states, logits", "maps", "loss", "gradients", "float64"]

# Our models: with the formula, and optimized.
VARIANTS = ("eager", "optimized")

# What transformers' class names spell otherwise than the papers.
SPELLED = {
    "Bert": "BERT",
    "Roberta": "RoBERTa",
    "DistilBert": "DistilBERT",
    "GPT2": "GPT-2",
    "Bart": "BART",
}

# Which comparisons of a report belong to which column.
KINDS = {
    "states, logits": r"(encoder_|decoder_)?hidden_states|(encoder_)?last_hidden|pooler|.*logits$",
    "maps": r"(encoder_|decoder_|cross_)?attentions",
    "loss": r"loss$",
    "gradients": r"gradient of",
}


def measure(name: str, dtype: torch.dtype, variant: str) -> Report:
    """The report on one class, made small, with every parameter perturbed."""
    torch.manual_seed(0)  # transformers initializes the weights
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = pair(name, Path(directory), variant, dtype)
    return compare(ours, theirs, random_batch(ours, length=11))


def classes_by_family() -> dict[str, list[str]]:
    """Every class of the parity tests, by the name of its family."""
    return {family: [n for n in CLASSES if family_of(n) == family] for family in FAMILIES}


def pipelines_of(names: list[str]) -> list[str]:
    """The tasks that take one of these classes."""
    classes = [getattr(minitransformer, name.removesuffix(" 1.1")) for name in names]
    found = {}
    for task, made_by in TASKS.items():
        if any(made_by.supports(model) for model in classes):
            found.setdefault(made_by, task)  # one name of several
    return sorted(found.values())


def row(family: str, names: list[str]) -> list[str]:
    """One line of the table."""
    single, double = (
        [measure(name, dtype, variant) for name in names for variant in VARIANTS]
        for dtype in (torch.float32, torch.float64)
    )
    assert all(report.equal for report in [*single, *double]), family
    columns = [SPELLED.get(family, family), classes(family, names), ", ".join(pipelines_of(names))]
    for pattern in KINDS.values():
        columns.append(largest(single, pattern))
    return [*columns, largest(double, ".*")]


def classes(family: str, names: list[str]) -> str:
    """`BertModel`, `...ForMaskedLM`: the first whole, of the others what differs."""
    first, *others = [name.removesuffix(" 1.1") for name in names]
    before = family.removesuffix(" 1.1")
    return ", ".join([f"`{first}`", *(f"`...{name.removeprefix(before)}`" for name in others)])


def largest(reports: list[Report], pattern: str) -> str:
    """The largest |ours - theirs| / (1 + |theirs|) of some comparisons, in one digit."""
    rows = [r for report in reports for r in report.rows if re.match(pattern, r.name)]
    number = max(r.relative for r in rows)
    return "0" if number == 0 else f"{number:.0e}".replace("e-0", "e-")


def table() -> str:
    """The table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD)]
    lines += [row(family, names) for family, names in classes_by_family().items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(readme: str) -> str:
    """The table in the README."""
    return readme.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    assert BEGIN in text, f"{README.name} has no place for the table"
    README.write_text(text.replace(BEGIN + shown(text), BEGIN + table()), encoding="utf-8")
