"""`pipeline`: every task by its name, optimized or plain."""

import inspect
import math
import typing

import pytest
from torch import Tensor
from torch.nn import Embedding

from minitransformer import BertForMaskedLM, Tokenizer, optimize, restore
from minitransformer.cli import main
from minitransformer.fast import is_optimized
from minitransformer.tasks.base import Task
from minitransformer.tasks.fill_mask import FillMask
from minitransformer.tasks.pipeline import ALIASES, TASKS, pipeline
from tests.tiny import TEXTS, same, save_checkpoint


def test_every_task_has_its_own_name():
    assert [*TASKS] == sorted(TASKS)
    for name, task in TASKS.items():
        assert issubclass(task, Task)
        assert task.name == name
        assert f'"{name}"' in inspect.getdoc(pipeline)


def test_the_type_of_every_task_is_declared():
    *named, other = map(typing.get_type_hints, typing.get_overloads(pipeline))
    names = TASKS | {alias: TASKS[name] for alias, name in ALIASES.items()}
    found = {name: form["return"] for form in named for name in typing.get_args(form["task"])}
    assert found == names
    assert other["task"] == str | None


def test_an_alias_is_the_name_of_no_task():
    for alias, name in ALIASES.items():
        assert alias not in TASKS
        assert name in TASKS
        assert f'"{alias}"' in inspect.getdoc(pipeline)


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(ValueError, match="'text-generaton'; did you mean 'text-generation'"):
        pipeline("text-generaton", tmp_path)


# ---- optimized and plain ----

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
EXAMPLES = {
    "feature-extraction": ("Model", {}, (TEXTS,)),
    "fill-mask": ("ForMaskedLM", {}, (["ciao, [MASK] va?", "la [MASK]"],)),
    "question-answering": ("ForQuestionAnswering", {}, (["come va?", "un libro?"], TEXTS[2])),
    "summarization": ("BartForConditionalGeneration", {}, (TEXTS,)),
    "text-classification": ("ForSequenceClassification", {"id2label": NLI}, (TEXTS,)),
    "text-generation": ("GPT2LMHeadModel", {}, (TEXTS,)),
    "text2text-generation": ("T5ForConditionalGeneration", {}, (TEXTS,)),
    "token-classification": ("ForTokenClassification", {"id2label": NLI}, (TEXTS,)),
    "translation": ("MarianMTModel", {"codes": ()}, (TEXTS,)),
    "zero-shot-classification": ("ForSequenceClassification", {"id2label": NLI}, (TEXTS, "libro")),
}


def save_example(task, directory):
    """A checkpoint for the task, and the arguments of a call."""
    name, fields, arguments = EXAMPLES[task]
    fields = {"hidden_dropout_prob": 0.5, **fields}
    if name.startswith(("For", "Model")):
        return save_checkpoint(directory, f"Bert{name}", **fields), arguments, {}
    return save_checkpoint(directory, name, **fields), arguments, {"max_new_tokens": 5}


def numbers(answers):
    """The answers with lists instead of tensors."""
    return [one.tolist() if isinstance(one, Tensor) else one for one in answers]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_is_optimized_unless_it_is_to_stay_plain(task, tmp_path):
    path, arguments, fields = save_example(task, tmp_path)
    optimized, plain = pipeline(task, path), pipeline(task, path, optimize=False)
    assert is_optimized(optimized.model)
    assert not is_optimized(plain.model)
    assert not is_optimized(TASKS[task].from_pretrained(path, optimize=False).model)
    same(numbers(optimized(*arguments, **fields)), numbers(plain(*arguments, **fields)))
    assert restore(optimized.model) is optimized.model
    assert not is_optimized(optimized.model)


def test_a_direction_of_translation_stays_plain_too(tmp_path):
    path = save_checkpoint(tmp_path, "MarianMTModel", codes=(">>ita<<",))
    assert is_optimized(pipeline("translation_en_to_ita", path).model)
    assert not is_optimized(pipeline("translation_en_to_ita", path, optimize=False).model)


@pytest.mark.parametrize("task", [*TASKS, "translation_en_to_ita"])
def test_a_model_is_loaded_onto_the_device(task, tmp_path):
    path, *_ = save_example(task.partition("_")[0], tmp_path)
    model = pipeline(task, path, device="meta", optimize=False).model
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("task", "command"),
    [
        ("fill-mask", ["fill-mask", "PATH", "la [MASK]"]),
        ("question-answering", ["answer", "PATH", "--question", "come va?", "--context", TEXTS[2]]),
        ("text-generation", ["generate", "PATH", "ciao", "--max-new-tokens", "3"]),
    ],
)
def test_the_commands_can_run_the_plain_model(task, command, tmp_path, capsys, monkeypatch):
    path, *_ = save_example(task, tmp_path)
    optimized = []
    monkeypatch.setattr("minitransformer.tasks.base.optimize_model", optimized.append)
    command = [str(path) if word == "PATH" else word for word in command]
    assert main(command) == 0
    assert len(optimized) == 1
    printed = capsys.readouterr().out
    assert main([*command, "--plain"]) == 0
    assert len(optimized) == 1
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("optimized", [False, True])
def test_a_task_of_a_model_in_hand(optimized, tmp_path):
    """It takes the model as it is, and names it by its plain class."""
    path, arguments, _ = save_example("fill-mask", tmp_path)
    model, tokenizer = BertForMaskedLM.from_pretrained(path), Tokenizer.from_pretrained(path)
    if optimized:
        optimize(model)
    fill = FillMask(model, tokenizer)
    assert is_optimized(fill.model) is optimized
    same(fill(*arguments), pipeline("fill-mask", path)(*arguments))
    with pytest.raises(
        ValueError,
        match="this is a BertForMaskedLM, which is for feature-extraction, fill-mask; "
        "BertForTokenClassification.from_pretrained",
    ):
        TASKS["token-classification"](model, tokenizer)


@pytest.mark.parametrize("task", TASKS)
def test_a_model_is_left_in_the_mode_in_which_it_was(task, tmp_path):
    path, arguments, fields = save_example(task, tmp_path)
    loaded = pipeline(task, path, optimize=False)
    model = loaded.model
    expected = numbers(loaded(*arguments, **fields))

    def modes():
        return [module.training for module in model.modules()]

    in_training = []  # for each time that the model runs
    assert not any(modes())
    model.train()
    [*model.children()][-1].eval()
    before = modes()
    run = TASKS[task](model, loaded.tokenizer)
    assert modes() == before
    embedding = next(module for module in model.modules() if isinstance(module, Embedding))
    embedding.register_forward_pre_hook(lambda *_: in_training.append(any(modes())))
    same(numbers(run(*arguments, **fields)), expected)
    assert modes() == before
    if fields:
        for piece in run.stream(TEXTS[0], **fields):
            assert piece
            assert modes() == before
    assert in_training
    assert not any(in_training)
    next(model.parameters()).data.fill_(math.nan)
    with pytest.raises(ValueError, match="NaN"):
        run(*arguments, **fields)
    assert modes() == before


@pytest.mark.parametrize(
    ("task", "broken"),
    # T5's norm divides by a root mean square that is infinite, which leaves zeros.
    [(task, broken) for task in TASKS for broken in (True, False) if broken or "2" not in task],
)
def test_outputs_that_are_not_finite(task, broken, tmp_path):
    path, arguments, fields = save_example(task, tmp_path)
    run = pipeline(task, path)
    if broken:
        name, weight = list(run.model.named_parameters())[3]
        weight.data[0] = math.nan
        message = f"contain NaN or infinity, and so does the weight {name}; "
    else:
        for weight in run.model.parameters():
            weight.data.mul_(1e38)
        message = "though all weights .torch.float32. are finite: a number exceeded the range"
    with pytest.raises(ValueError, match=message):
        run(*arguments, **fields)


LONG = "ciao va " * 10_000


@pytest.mark.parametrize(
    ("task", "arguments", "fields"),
    [
        *((task, ["ciao", [LONG]], {}) for task in TASKS),
        ("fill-mask", LONG, {}),
        ("fill-mask", "[MASK]", {"targets": LONG}),
        ("fill-mask", "[MASK]", {"targets": [3]}),
        ("fill-mask", "[MASK]", {"top_k": LONG}),
        ("question-answering", "ciao", {"threshold": LONG}),
        ("summarization", "ciao", {"prefix": [LONG]}),
        ("summarization", LONG, {"prefix": LONG.strip()}),
        ("translation", f">>{LONG}<< ciao", {}),
        ("zero-shot-classification", "ciao", {"hypothesis_template": LONG}),
    ],
)
def test_an_error_shows_little_of_a_long_argument(task, arguments, fields, tmp_path):
    path, (_, *others), _ = save_example(task, tmp_path)
    run = pipeline(task, path)
    with pytest.raises((TypeError, ValueError)) as error:
        run(arguments, *others, **fields)
    assert len(str(error.value)) < 350
    names = {"texts", "questions", "target", *fields}
    assert any(name in str(error.value) for name in names)
