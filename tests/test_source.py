"""A model as one file: equal to the package, alone, readable, and within its length.

Files run in a process that can import neither the package nor transformers. Each process runs many
of them, because it takes seconds to import PyTorch.
"""

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minitransformer import generate
from minitransformer.source import source_of
from tests.tiny import (
    CLASSES,
    ENCODERS,
    LANGUAGE_MODELS,
    SEQ2SEQ,
    UNTIED,
    batch_of,
    class_of,
    config_of,
    family_of,
    new,
    pad,
    random_ids,
    random_sequences,
)

ROOT = Path(__file__).parents[1]
NAMES = [*CLASSES, *UNTIED]  # " 1.1" and " untied" share the file of the class
# For what concerns all files alike.
SOME = [
    "RobertaForMaskedLM",
    "GPT2LMHeadModel",
    "BartForSequenceClassification",
    "T5ForConditionalGeneration 1.1",
]
FAST = ["RobertaForMaskedLM", "T5ForConditionalGeneration", "T5ForConditionalGeneration 1.1"]
# Every head and every loss: the others are the same code in another family.
TRAINED = [
    *(name for name in CLASSES if name.startswith("BertFor")),
    "DistilBertForQuestionAnswering",
    "GPT2LMHeadModel",
    "BartForSequenceClassification",
    "T5ForConditionalGeneration",
]

# By the folder with its checkpoint, the text of a file, and its inputs by what is to be done.
Cases = dict[str, tuple[str, dict[str, Any]]]

# The other process. A case is a folder with a file, a checkpoint, and inputs; it gets the results.
RUN = """
import importlib.util, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("minitransformer", "train", "transformers"):
            raise ImportError(f"{name} is not needed")

sys.meta_path.insert(0, Refuse())
import torch

torch.set_num_threads(1)
for line in sys.stdin:
    case = Path(line.rstrip())
    spec = importlib.util.spec_from_file_location(case.name, case / "model.py")
    file = sys.modules[case.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    model = file.load(case / "checkpoint")
    results = {}
    for kind, inputs in torch.load(case / "inputs.pt").items():
        settings = {k: inputs.pop(k) for k in list(inputs) if k.startswith("set_")}
        if kind == "generate":
            settings = {k.removeprefix("set_"): v for k, v in settings.items()}
            if seed := settings.pop("seed", None):
                settings["generator"] = torch.Generator().manual_seed(seed)
            results[kind] = file.generate(model, **inputs, **settings)
        elif kind == "train":
            torch.manual_seed(0)
            fresh = type(model)(model.config).train()
            results["initial"] = {k: v.clone() for k, v in fresh.state_dict().items()}
            optimizer = file.build_optimizer(fresh, 1e-3, 0.01)
            steps = [file.train_step(fresh, inputs, optimizer, 0.1) for _ in range(3)]
            results[kind] = torch.tensor(steps)
        elif kind == "error":
            try:
                model(**inputs)
            except (TypeError, ValueError) as error:
                results[kind] = str(error)
        else:
            with torch.no_grad():
                output = model(**inputs)
            named = {"": output} if isinstance(output, torch.Tensor) else vars(output)
            results[kind] = {k: v for k, v in named.items() if v is not None}
    torch.save(results, case / "results.pt")
    print("done", flush=True)
"""


@functools.cache
def text_of(name: str, **options: Any) -> str:
    return source_of(name.split()[0], **options)


def checkpoint(name: str, path: Path) -> Any:
    """A model of the package, as it is loaded from a checkpoint at `path`."""
    new(name, dtype=torch.float32).save_pretrained(path)
    return class_of(name).from_pretrained(path)


def batch(name: str, *, left: bool) -> dict[str, Tensor]:
    """A padded batch of three sequences."""
    if family_of(name) in ENCODERS:
        return batch_of([7, 4, 9], left=left)
    padding = config_of(name).pad_token_id
    ids, mask = pad(
        [random_ids(length) for length in (7, 4, 9)], 1 if padding is None else padding, left=left
    )
    if name == "BartForSequenceClassification":  # which needs an end token in each
        last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
        ids[torch.arange(len(ids)), last] = 2
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name.removesuffix(" untied") in SEQ2SEQ:
        inputs["decoder_input_ids"] = random_sequences(3, 5)
        inputs["decoder_attention_mask"] = torch.tensor([[1] * 5, [0, 0, 1, 1, 1], [1] * 5])
    return inputs


def labelled(name: str) -> dict[str, Tensor]:
    """A batch with labels."""
    inputs = batch(name, left=False)
    if "QuestionAnswering" in name:
        return {
            **inputs,
            "start_positions": torch.tensor([1, 0, 2]),
            "end_positions": torch.tensor([3, 2, 2]),
        }
    if "SequenceClassification" in name:
        return {**inputs, "labels": torch.tensor([0, 2, 1])}
    if "decoder_input_ids" in inputs:
        inputs = {n: v for n, v in inputs.items() if not n.startswith("decoder")}
        return {**inputs, "labels": random_sequences(3, 6, seed=9)}
    if "TokenClassification" in name:
        labels = torch.arange(27).view(3, 9) % 3
    else:
        labels = inputs["input_ids"].clone()
    return {**inputs, "labels": labels.masked_fill(inputs["attention_mask"] == 0, -100)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs files in the other process, and gives their results."""
    command = [sys.executable, "-I", "-c", RUN]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=elsewhere, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def run_cases(cases: Cases, path: Path) -> dict[str, dict[str, Any]]:
            for folder, (text, inputs) in cases.items():
                (path / folder / "model.py").write_text(text)
                torch.save(inputs, path / folder / "inputs.pt")
                print(path / folder, file=process.stdin, flush=True)
                assert process.stdout.readline() == "done\n", f"{folder} fails"
            return {folder: torch.load(path / folder / "results.pt") for folder in cases}

        yield run_cases
        process.stdin.close()


@pytest.fixture
def one_thread():
    """Sums depend on how many threads add them up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_equal(run: Any, names: list[str], path: Path, **options: Any) -> None:
    """Compare files with the package: the same bits for batches padded on either side."""
    cases, expected = {}, {}
    for name in names:
        model = checkpoint(name, path / name / "checkpoint")
        if options.get("attention") == "eager":
            model = class_of(name).from_pretrained(path / name / "checkpoint", attention="eager")
        inputs = {side: batch(name, left=side == "left") for side in ("left", "right")}
        cases[name] = text_of(name, **options), inputs
        with torch.no_grad():
            expected[name] = {side: model(**dict(given)) for side, given in inputs.items()}
    for name, results in run(cases, path).items():
        assert results.keys() == {"left", "right"}
        for side, found in results.items():
            assert found, name
            for field, values in found.items():
                output = expected[name][side]
                field = field or ("logits" if "logits" in output else "last_hidden_state")
                assert torch.equal(values, output[field]), f"{name}, {side}: {field}"


def test_files_compute_the_same(run, tmp_path, one_thread):
    check_equal(run, FAST, tmp_path)


@pytest.mark.slow
def test_files_of_all_classes_compute_the_same(run, tmp_path, one_thread):
    check_equal(run, [name for name in NAMES if name not in FAST], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"attention": "eager"}, {"checks": True}], ids=str)
def test_so_do_files_with_the_formula_and_with_checks(run, options, tmp_path, one_thread):
    check_equal(run, SOME, tmp_path, **options)


def generated(model: Any, name: str, settings: dict[str, Any]) -> Tensor:
    inputs = batch(name, left=True)
    inputs = {n: v for n, v in inputs.items() if not n.startswith("decoder")}
    return generate(model, **inputs, **settings).sequences


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 7, "top_p": 0.8, "seed": 5}


def check_generation(run: Any, names: list[str], path: Path, **more: Any) -> None:
    settings = {"max_new_tokens": 9, **more}
    cases, expected = {}, {}
    for name in names:
        model = checkpoint(name, path / name / "checkpoint")
        expected[name] = generated(model, name, settings)
        inputs = batch(name, left=True)
        inputs = {n: v for n, v in inputs.items() if not n.startswith("decoder")}
        given = {**inputs, **{f"set_{n}": v for n, v in settings.items()}}
        cases[name] = text_of(name, generate=True), {"generate": given}
    for name, results in run(cases, path).items():
        assert results["generate"].tolist() == expected[name].tolist(), name


def test_a_file_generates_the_same_tokens(run, tmp_path, one_thread):
    check_generation(run, ["GPT2LMHeadModel"], tmp_path)
    check_generation(run, ["GPT2LMHeadModel"], tmp_path, **SAMPLED)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_all_files_generate_the_same_tokens(run, settings, tmp_path, one_thread):
    untied = [name for name in UNTIED if "MaskedLM" not in name]
    check_generation(run, [*LANGUAGE_MODELS, *untied], tmp_path, **settings)


def check_training(run: Any, names: list[str], path: Path) -> None:
    """Compare initial weights, losses and three steps of training."""
    from train.optimizer import build_optimizer

    cases, expected = {}, {}
    for name in names:
        model = checkpoint(name, path / name / "checkpoint")
        inputs = labelled(name)
        with torch.no_grad():
            loss = model(**inputs).loss
        torch.manual_seed(0)
        fresh = class_of(name)(model.config).train()
        initial = {n: v.clone() for n, v in fresh.state_dict().items()}
        optimizer = build_optimizer(fresh, 1e-3, 0.01)
        losses = []
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            losses.append(fresh.loss(**inputs))
            losses[-1].backward()
            torch.nn.utils.clip_grad_norm_(fresh.parameters(), 0.1)
            optimizer.step()
        expected[name] = loss, initial, torch.stack(losses).detach()
        cases[name] = text_of(name, train=True), {"loss": dict(inputs), "train": dict(inputs)}
    for name, results in run(cases, path).items():
        loss, initial, losses = expected[name]
        assert torch.equal(results["loss"]["loss"], loss), name
        assert initial.keys() == results["initial"].keys()
        for tensor, values in initial.items():
            assert torch.equal(results["initial"][tensor], values), f"{name}: {tensor}"
        torch.testing.assert_close(results["train"], losses, msg=name)
        assert losses[2] < losses[0]


def test_a_file_trains_as_the_package_does(run, tmp_path, one_thread):
    check_training(run, ["RobertaForMaskedLM"], tmp_path)


@pytest.mark.slow
def test_all_files_train_as_the_package_does(run, tmp_path, one_thread):
    check_training(run, TRAINED, tmp_path)


def test_fields_that_config_json_leaves_out_have_the_same_meaning(run, tmp_path, one_thread):
    left_out: dict[str, dict[str, Any]] = {
        "RobertaForMaskedLM": {"type_vocab_size": 2, "layer_norm_eps": 1e-12},
        "T5ForConditionalGeneration 1.1": {
            "num_decoder_layers": 2,
            "scale_decoder_outputs": False,  # follows from a head of its own
        },
    }
    cases, expected = {}, {}
    for name, fields in left_out.items():
        path = tmp_path / name / "checkpoint"
        new(name, dtype=torch.float32, **fields).save_pretrained(path)
        content = json.loads((path / "config.json").read_text())
        kept = {field: value for field, value in content.items() if field not in fields}
        (path / "config.json").write_text(json.dumps(kept))
        inputs = batch(name, left=False)
        with torch.no_grad():
            expected[name] = class_of(name).from_pretrained(path)(**inputs).logits
        cases[name] = text_of(name), {"run": inputs}
    for name, results in run(cases, tmp_path).items():
        assert torch.equal(results["run"][""], expected[name]), name


@pytest.mark.slow
def test_without_a_pooler_a_file_loads_too(run, tmp_path, one_thread):
    model = class_of("BertModel")(config_of("BertModel"), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "case" / "checkpoint")
    inputs = batch("BertModel", left=False)
    results = run({"case": (text_of("BertModel"), {"run": inputs})}, tmp_path)["case"]["run"]
    with torch.no_grad():
        expected = model(**inputs)
    assert torch.equal(results["last_hidden_state"], expected.last_hidden_state)
    assert "pooler_output" not in results


@pytest.mark.slow
def test_without_the_bias_of_barts_logits_it_is_zero(run, tmp_path, one_thread):
    from safetensors.torch import load_file, save_file

    name, path = "BartForConditionalGeneration", tmp_path / "case" / "checkpoint"
    checkpoint(name, path)
    tensors = load_file(path / "model.safetensors")
    del tensors["final_logits_bias"]
    save_file(tensors, path / "model.safetensors")
    inputs = batch(name, left=False)
    results = run({"case": (text_of(name), {"run": inputs})}, tmp_path)["case"]["run"]
    with torch.no_grad():
        expected = class_of(name).from_pretrained(path)(**inputs)
    assert torch.equal(results[""], expected.logits)


@pytest.mark.slow
def test_with_checks_a_file_has_the_errors_of_the_package(run, tmp_path):
    name = "RobertaForMaskedLM"
    model = checkpoint(name, tmp_path / "0" / "checkpoint")
    ids = torch.tensor([[5, 6, 7]])
    wrong: list[dict[str, Any]] = [
        {"input_ids": torch.tensor([[5, 99]])},
        {"input_ids": ids[0]},
        {"input_ids": torch.tensor([[5, 1]])},  # padding without a mask
        {"input_ids": ids, "attention_mask": torch.tensor([[1, 2, 1]])},
        {"input_ids": ids, "token_type_ids": torch.tensor([[0, 1, 0]])},
        {"input_ids": ids, "atention_mask": ids},
        {"input_ids": ids, "labels": torch.tensor([[5, 6, 100]])},
        {"input_ids": torch.ones(1, 30, dtype=torch.int64)},
    ]
    expected, cases = [], {}
    for number, inputs in enumerate(wrong):
        with pytest.raises((TypeError, ValueError)) as caught:
            model(**inputs)
        said = str(caught.value).replace("output_attentions, output_hidden_states, ", "")
        expected.append(said)  # of what a file can do
        if number:
            shutil.copytree(tmp_path / "0" / "checkpoint", tmp_path / str(number) / "checkpoint")
        cases[str(number)] = text_of(name, checks=True, train=True), {"error": inputs}
    found = run(cases, tmp_path)
    assert [found[folder]["error"] for folder in cases] == expected


LIMITS = {
    "RobertaForMaskedLM": (350, {}),
    "GPT2LMHeadModel": (400, {"generate": True}),
    "T5ForConditionalGeneration": (500, {}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_files_are_short(name):
    limit, options = LIMITS[name]
    assert len(text_of(name, **options).splitlines()) < limit


def ruff(path: Path, *arguments: str) -> str:
    command = [shutil.which("ruff") or sys.executable, *arguments, "--config"]
    if command[0] == sys.executable:
        pytest.importorskip("ruff", reason="checks the style of files")
        command[1:1] = ["-m", "ruff"]
    done = subprocess.run(
        [*command, str(ROOT / "pyproject.toml"), str(path)], capture_output=True, text=True
    )
    return done.stdout if done.returncode else ""


def check_style(texts: dict[str, str], path: Path) -> None:
    for name, text in texts.items():
        (path / f"{name}.py").write_text(text)
    assert ruff(path, "check", "--no-cache") == ""
    assert ruff(path, "format", "--no-cache", "--diff") == ""
    for name, text in texts.items():
        check_prose(name, text)


def check_prose(name: str, text: str) -> None:
    """Nothing is said of what is not there, and no sentence is missing that something needs."""
    tree = ast.parse(text)
    members: dict[str, set[str]] = {}
    for node in tree.body:
        for target in getattr(node, "targets", [node]):
            inner = {getattr(n, "name", "") for n in getattr(node, "body", [])}
            members[getattr(target, "id", getattr(target, "name", ""))] = inner
    body = text.split('"""', 2)[2]
    assert "minitransformer" not in re.sub(r"`?minitransformer\.\w+[^\n]*", "", body) or (
        "--checks" in text
    ), name
    for target in re.findall(r":\w+:`~?([\w.]+)`", text):
        first, _, rest = target.partition(".")
        assert first in members and (not rest or rest in members[first]), f"{name}: {target}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        said = ast.get_docstring(node)
        where = f"{name}: {node.name}"
        if said is not None:
            assert said and not said.startswith(("Args:", "Returns:")), where
            assert "--checks" in text or "Raises:" not in said, where
        if isinstance(node, ast.FunctionDef):
            taken = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]}
            described = re.findall(r"^    ([\w, ]+): ", (said or "").partition("Args:\n")[2], re.M)
            for names in described:
                assert set(names.split(", ")) <= taken | {"ValueError", "TypeError"}, where


def test_files_are_clean(tmp_path):
    texts = {name: text_of(name, **options) for name, (_, options) in LIMITS.items()}
    texts["train"] = text_of("RobertaForMaskedLM", train=True)
    check_style(texts, tmp_path)


@pytest.mark.slow
def test_all_files_are_clean(tmp_path):
    """Of those that the tests above have run, and with all options at once."""
    classes = [name for name in CLASSES if " " not in name]
    some = {name.split()[0] for name in SOME}
    texts = {name: text_of(name) for name in classes}
    texts |= {f"{name}_train": text_of(name, train=True) for name in classes if name in TRAINED}
    texts |= {
        f"{name}_generate": text_of(name, generate=True)
        for name in classes
        if name in LANGUAGE_MODELS
    }
    texts |= {f"{name}_eager": text_of(name, attention="eager") for name in some}
    texts |= {f"{name}_checks": text_of(name, checks=True) for name in some}
    everything: dict[str, Any] = {"checks": True, "train": True, "generate": True}
    texts["everything"] = text_of("MarianMTModel", attention="eager", **everything)
    check_style(texts, tmp_path)


def test_what_cannot_be_written_is_said():
    with pytest.raises(ValueError, match="unknown class 'RobertaForMaskLM'; did you mean 'Roberta"):
        source_of("RobertaForMaskLM")
    with pytest.raises(ValueError, match="BertModel does not generate; these do: GPT2LMHeadModel"):
        source_of("BertModel", generate=True)
    with pytest.raises(ValueError, match="T5Model has no loss to train on; these do: T5ForCond"):
        source_of("T5Model", train=True)
    with pytest.raises(ValueError, match="unknown attention 'flash'"):
        source_of("T5Model", attention="flash")


def test_a_file_says_how_it_was_written():
    header = ast.get_docstring(ast.parse(text_of("GPT2LMHeadModel", generate=True)))
    assert header is not None
    assert "`minitransformer source GPT2LMHeadModel --generate`" in header
    assert "GPT-2 (Radford et al. 2019)" in header and "B batch" in header
