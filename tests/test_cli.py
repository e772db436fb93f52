"""The command itself: its verbs and what they have in common, its options, its messages."""

import contextlib
import importlib.util
import io
import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest

import minitransformer
from minitransformer import cli, pipeline
from minitransformer.arguments import NOT_NEEDED, OTHER_NAMES, Parser
from minitransformer.hub import BUNDLED
from tests.tiny import TEXTS, save_checkpoint

MASKED = ["ciao, come <mask>?", "la <mask> legge un libro.", "il <mask>."]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return str(save_checkpoint(tmp_path_factory.mktemp("roberta"), "RobertaForMaskedLM"))


@pytest.fixture
def bundled(roberta, monkeypatch):
    """A tiny model in place of the one that comes with the package."""
    monkeypatch.setattr("minitransformer.hub.BUNDLED_PATH", Path(roberta))


@pytest.fixture
def piped(monkeypatch):
    """A function that puts bytes on the standard input."""

    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return pipe


def run(capsys, *arguments):
    """The standard output of a command that succeeds."""
    status = cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def failed(capsys, *arguments, status=1):
    """The message of a command that fails."""
    try:
        ended = cli.main([*map(str, arguments)])
    except SystemExit as error:
        ended = error.code
    assert ended == status
    return capsys.readouterr().err


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


# ---- verbs ----


def test_version_and_help(capsys):
    assert run(capsys, "--version") == f"minitransformer {minitransformer.__version__}\n"
    help_ = run(capsys)
    assert help_ == run(capsys, "--help")
    for verb in [*cli.VERBS, "train"]:
        assert re.search(rf"^  {verb} ", help_, re.MULTILINE)


@pytest.mark.parametrize("verb", [*cli.VERBS, "train"])
def test_every_verb_has_help(verb, capsys):
    with contextlib.suppress(SystemExit):  # of argparse
        cli.main([verb, "--help"])
    help_ = capsys.readouterr().out
    assert help_.startswith(f"usage: minitransformer {verb} ")
    assert verb != "fill-mask" or ("<mask> or [MASK]" in help_ and "[PATH text ...]" in help_)


@pytest.mark.parametrize("module", ["minitransformer", "minitransformer.cli"])
def test_the_package_runs_as_the_command(module, capsys, monkeypatch):
    attention = ["attention", "a-path", "a text", "--out", "a.jpg"]
    monkeypatch.setattr(sys, "argv", ["minitransformer", *attention])
    monkeypatch.delitem(sys.modules, "minitransformer.cli")  # runpy warns if it is imported
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 1  # the status of the verb is that of the process
    assert capsys.readouterr().err == "error: 'a.jpg' must end in one of .png, .pdf, .svg\n"


CASES = {
    "fill-mask": ("RobertaForMaskedLM", MASKED, {"top_k": 2}, ["--top-k", "2"]),
    "classify": ("BertForSequenceClassification", TEXTS, {"top_k": 2}, ["--top-k", "2"]),
    "tag": ("BertForTokenClassification", TEXTS, {"aggregation_strategy": "simple"}, []),
    "embed": ("BertModel", TEXTS, {"pooling": "mean"}, []),
    "generate": ("GPT2LMHeadModel", TEXTS, {"max_new_tokens": 4}, ["--max-new-tokens", "4"]),
    "translate": ("MarianMTModel", TEXTS, {"max_new_tokens": 4, "tgt_lang": "fra"},
                  ["--max-new-tokens", "4", "--tgt-lang", "fra"]),
    "summarize": ("BartForConditionalGeneration", TEXTS, {"max_new_tokens": 4},
                  ["--max-new-tokens", "4"]),
}  # fmt: skip


@pytest.mark.parametrize("verb", CASES)
def test_a_verb_prints_what_its_task_returns_for_each_text(verb, tmp_path, capsys, piped):
    """As JSON: texts in arguments, in a file, and piped, by line and by field."""
    model, texts, settings, options = CASES[verb]
    path = save_checkpoint(tmp_path / "model", model)
    task = pipeline(cli.TEXT_VERBS[verb].task or "text-generation", path)
    expected = [task(text, **settings) for text in texts]
    expected = [result.tolist() if verb == "embed" else result for result in expected]
    options += ["--json"]
    found = json_lines(run(capsys, verb, path, *options, *texts))
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ([x] if isinstance(x, dict) else x for x in (ours, theirs))
        assert json.dumps(rounded(ours)) == json.dumps(rounded(theirs))
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8-sig")
    lines = [json.dumps({"id": 1, "text": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n\n")
    by_field = ["--field", "text", *options]
    assert json_lines(run(capsys, verb, path, "--file", tmp_path / "texts.txt", *options)) == found
    assert (
        json_lines(run(capsys, verb, "--file", tmp_path / "texts.jsonl", path, *by_field)) == found
    )
    piped("\r\n".join(texts).encode())
    assert json_lines(run(capsys, verb, path, *options)) == found
    piped("\n".join(lines).encode())
    assert json_lines(run(capsys, verb, path, "-", *by_field)) == found
    table = run(capsys, verb, path, *options[:-1], *texts)
    if verb in ("embed", "translate", "summarize"):
        assert len(table.splitlines()) == len(texts)  # one line for each
    elif verb != "generate":
        assert [text for text in texts if text in table.splitlines()] == texts


def rounded(value):
    """Padding in a batch changes the last digits of a score."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def test_questions_are_texts(tmp_path, capsys, piped):
    path = save_checkpoint(tmp_path / "model", "RobertaForQuestionAnswering")
    answer = ["answer", path, "--json"]
    expected = json_lines(run(capsys, *answer, TEXTS[0], TEXTS[1], "--context", TEXTS[2]))
    assert (
        len(expected) == 2
        and expected[0]
        == json_lines(run(capsys, *answer, "--question", TEXTS[0], "--context", TEXTS[2]))[0]
    )
    piped(TEXTS[2].encode())
    assert json_lines(run(capsys, *answer, *TEXTS[:2], "--context-file", "-")) == expected
    piped("\n".join(TEXTS[:2]).encode())
    assert json_lines(run(capsys, *answer, "--context", TEXTS[2])) == expected


@pytest.mark.parametrize(("given", "threshold"), [([], None), (["--threshold", "0"], 0.0)])
def test_a_threshold_of_zero_is_a_threshold(given, threshold, monkeypatch, capsys):
    asked = []

    def answer(questions, context, **settings):
        asked.append(settings)
        return [{"answer": "", "score": 1.0, "start": 0, "end": 0} for _ in questions]

    answer.batch_size = 32
    monkeypatch.setattr("minitransformer.tasks.pipeline", lambda *_, **__: answer)
    assert "(no answer)" in run(capsys, "answer", "path", "who?", "--context", "a", *given)
    assert asked[0]["may_have_no_answer"] is (threshold is not None)
    assert asked[0]["threshold"] == (threshold or 0.0)


def test_the_attention_and_the_parity_of_a_checkpoint_as_json(roberta, capsys):
    maps = json.loads(run(capsys, "attention", roberta, "ciao, va?", "--json"))
    tokens = len(maps["from"])
    assert maps["from"] == maps["to"] and len(maps["attention"]) == len(maps["layers"]) > 1
    assert sum(maps["attention"][1][0][tokens - 1]) == pytest.approx(1)
    one = json.loads(run(capsys, "attention", roberta, "ciao, va?", "--json", "--layer", "1"))
    assert one["layers"] == [1] and one["attention"] == [maps["attention"][1]]
    pytest.importorskip("transformers", reason="parity needs transformers")
    document = json.loads(run(capsys, "parity", roberta, "--length", "5", "--json"))
    [report] = document["reports"]
    assert document["equal"] and report["equal"] and report["dtype"] == "float32"
    assert report["rows"][-1]["name"].startswith("gradient of")


def test_a_translation_of_several_lines_is_printed_on_one():
    results = [{"translation_text": "uno\ndue"}, {"translation_text": "tre"}]
    assert cli._show_lines("", results) == "uno due\ntre"
    assert cli._show_block("", results) == "uno\ndue\n\ntre"


# ---- the checkpoint that comes with the package ----


@pytest.mark.parametrize("words", [[], [BUNDLED]])
def test_without_a_path_the_bundled_checkpoint_answers(words, bundled, capsys, tmp_path):
    by_name = run(capsys, "fill-mask", BUNDLED, *MASKED)
    assert run(capsys, "fill-mask", *words, *MASKED) == by_name
    assert run(capsys, "fill-mask", *words, "--top-k", "5", MASKED[0]) in by_name
    (tmp_path / "texts.txt").write_text("\n".join(MASKED))
    assert run(capsys, "fill-mask", *words, "--file", tmp_path / "texts.txt") == by_name
    assert run(capsys, "embed", *words, *MASKED) == run(capsys, "embed", BUNDLED, *MASKED)
    assert json.loads(run(capsys, "attention", *words, "ciao, va?", "--json"))["from"]
    pytest.importorskip("transformers", reason="parity needs transformers")
    assert "the same function" in run(capsys, "parity", *words, "--length", "5")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["ciao <mask>"], BUNDLED),
        (["<mask>"], BUNDLED),
        (["[MASK]!"], BUNDLED),
        (["due parole"], BUNDLED),
        ([""], BUNDLED),
        (["-"], BUNDLED),
        ([], BUNDLED),
        (["runs/demo", "ciao <mask>"], "runs/demo"),
        (["runs/demo"], "runs/demo"),
        (["bert-base", "ciao"], "bert-base"),
        (["ciao"], "ciao"),  # it might be a name on the hub
        (["mein Modell", "ciao"], "mein Modell"),  # a directory
        (["./dein_Modell", "ciao"], "./dein_Modell"),
    ],
)
def test_what_is_a_path_and_what_a_text(words, path, tmp_path, monkeypatch, capsys):
    (tmp_path / "mein Modell").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = Parser(prog="").parse_args([])
    arguments.words = words
    cli._split_path_and_texts(arguments, Parser(prog=""), may_omit_path=True)
    named = [] if path == BUNDLED else [path]
    assert (arguments.path, [*named, *arguments.texts]) == (path, words)
    assert (BUNDLED in capsys.readouterr().err) == (path == BUNDLED)  # it is said
    if words:
        cli._split_path_and_texts(arguments, Parser(prog=""), may_omit_path=False)
        assert [arguments.path, *arguments.texts] == words


@pytest.mark.parametrize(
    ("verb", "text", "command"),
    [
        ("embed", "ciao", f"embed {BUNDLED} ciao"),
        ("classify", "che bello", "classify PATH 'che bello'"),
    ],
)
def test_a_first_argument_that_may_be_meant_as_a_text(
    verb, text, command, capsys, piped, monkeypatch
):
    def no_such_name(*_, **__):
        raise OSError("no such name")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_such_name)
    piped(b"")
    error = failed(capsys, verb, text)
    assert "names the checkpoint; if it is a text, put the checkpoint before it: " in error
    assert error.endswith(f" minitransformer {command}\n")
    assert "before it" not in failed(capsys, verb, "./nowhere", text)


def test_a_file_is_neither_a_checkpoint_nor_a_text(tmp_path, roberta, capsys):
    (tmp_path / "a.txt").write_text("ciao")
    for words in ([tmp_path / "a.txt"], [roberta, tmp_path / "a.txt"]):
        assert "--file names one with texts" in failed(capsys, "embed", *words, status=2)


# ---- where texts come from ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; it must have one text on each line"),
        (b"\n\n", "is empty"),
        ("ciao <mask>\nè <mask>\n".encode("latin-1"), "line 2 is not UTF-8 .*iconv"),
        ("ciao <mask>".encode("utf-16"), "line 1 is not UTF-8"),
        (b"ciao <mask>\n\n\nva <mask>\n", "line 2 is blank, but every line is a text"),
        (b"ciao <mask>\nciao\n", "line 2 has no <mask>: 'ciao'"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end(content, message, tmp_path, roberta, capsys, piped):
    (tmp_path / "a.txt").write_bytes(content)
    error = failed(capsys, "fill-mask", roberta, "--file", tmp_path / "a.txt")
    assert re.fullmatch(rf"error: {tmp_path}/a.txt,? {message}.*\n", error)
    piped(content)
    assert re.fullmatch(
        rf"error: standard input,? {message}.*\n", failed(capsys, "fill-mask", roberta)
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ciao <mask>", "line 1 is not JSON"),
        ("[1]", r"line 1 is \[1\]; it must be an object with 'text'"),
        ('{"a": 1, "b": 2}', "the field 'text' must be a text; found only a, b"),
        ('{"text": 3}', "the field 'text' must be a text; found 3"),
    ],
)
def test_json_lines_without_the_field(line, message, tmp_path, roberta, capsys):
    (tmp_path / "a.jsonl").write_text(line)
    command = ["fill-mask", roberta, "--file", tmp_path / "a.jsonl"]
    assert re.search(message, failed(capsys, *command, "--field", "text"))
    assert "name the field with the text: --field NAME" in failed(capsys, *command)


def test_no_source_of_texts_or_two(roberta, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "there is no text; add it after the path, name a file" in failed(
        capsys, "fill-mask", roberta
    )
    both = ["fill-mask", roberta, "ciao <mask>", "--file", "a.txt"]
    assert "there are texts and --file; give one of them" in failed(capsys, *both)
    nowhere = ["fill-mask", roberta, "--file", "nowhere.txt"]
    assert "nowhere.txt" in failed(capsys, *nowhere)
    assert "--field" in failed(capsys, "fill-mask", roberta, "ciao <mask>", "--field", "a")


def test_results_come_as_soon_as_their_batch_is_done(tmp_path, roberta, capsys):
    """So the ones before an error, or an interruption, are there."""
    lines = [*MASKED * 11, "ciao"]  # more than a batch
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert cli.main(["fill-mask", roberta, "--json", "--file", str(tmp_path / "a.txt")]) == 1
    out, err = capsys.readouterr()
    assert len(json_lines(out)) == 32
    assert "a.txt, line 34 has no <mask>" in err
    arguments = ["fill-mask", roberta, "--json", *lines]
    assert "error: texts[33] has no <mask>" in failed(capsys, *arguments)


def test_sampled_texts_of_two_batches_have_two_seeds(tmp_path, capsys):
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel")
    options = ["--sample", "--seed", "1", "--max-new-tokens", "6", "--json"]
    lines = json_lines(run(capsys, "generate", path, *options, *["ciao"] * 16))
    assert lines[:8] != lines[8:]
    assert lines == json_lines(run(capsys, "generate", path, *options, *["ciao"] * 16))


def test_a_truncated_text_is_named_by_its_line(tmp_path, capsys):
    path = save_checkpoint(tmp_path / "model", "BertModel", max_length=16)
    (tmp_path / "a.txt").write_text("ciao\n" + "ciao " * 40)
    assert cli.main(["embed", str(path), "--file", str(tmp_path / "a.txt")]) == 0
    assert re.match(
        rf"warning: 1 of 2 texts had .* {tmp_path}/a.txt, line 2 has \d+\n", capsys.readouterr().err
    )


def test_a_bar_is_shown_where_it_disturbs_nothing(tmp_path, roberta, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text("\n".join(MASKED))
    command = ["embed", roberta, "--file", str(tmp_path / "a.txt")]
    assert cli.main(command) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    assert "3/3" in err and "/" not in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(command) == 0
    assert capsys.readouterr().err == ""


# ---- how a command ends ----


def test_ctrl_c_ends_a_command_quietly(roberta, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("minitransformer.tasks.pipeline", interrupted)
    assert failed(capsys, "embed", roberta, "ciao", status=128 + signal.SIGINT) == ""


def test_a_pipe_that_is_closed_ends_a_command_quietly(roberta, capsys, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed_pipe:
        monkeypatch.setattr(sys, "stdout", closed_pipe)
        assert cli.main(["embed", roberta, "ciao", "--plain"]) == 128 + signal.SIGPIPE
        print("what Python writes when it ends is no error either")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-msk", "path", "a"], "unknown verb 'fill-msk'; did you mean 'fill-mask'?"),
        (["token-classification", "path"], "did you mean 'tag'?"),
        (["text2text", "path"], "did you mean 'generate'?"),
        (["lm"], "did you mean 'train lm'?"),
        (["--device", "cuda"], "unknown verb '--device'"),
        (["embed", "path", "ciao", "--lenght", "3"], "unknown option '--lenght'; "),
        (
            ["parity", "path", "--lenght", "3"],
            "unknown option '--lenght'; did you mean '--length'?",
        ),
        (["parity", "path", "--len", "3"], "unknown option '--len'; did you mean '--length'?"),
        (["parity", "path", "-l", "3"], "unknown option '-l'; "),
        (["parity", "path", "more"], "unexpected argument 'more'; quote a text with spaces"),
        (["parity", "path", "--length", "0"], "'0' must be an integer of at least 1"),
        (["parity", "path", "--length", "2.5"], "'2.5' must be an integer of at least 1"),
        (["parity", "path", "--device", "gpu"], "'gpu' is unknown; choose cpu or cuda"),
        (["classify"], "the following arguments are required: PATH"),
        (["attention", "path", "due parole"], "are required: --out, or --json"),
        (
            ["attention", "path", "--json"],
            "there are 0 texts after the path 'path'; it must be one",
        ),
        (["generate", "path", "a", "--do_sample"], "unknown option '--do_sample'; here it is --sa"),
        (["train", "mlx"], "unknown job 'mlx'; did you mean 'mlm'?"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert message in failed(capsys, *arguments, status=2)


# As transformers' scripts are started.
THEIR_OPTIONS = {
    "mlm": "--model_name_or_path FacebookAI/roberta-base --train_file a.txt --do_train --do_eval "
    "--per_device_train_batch_size 8 --max_seq_length=128 --mlm_probability 0.15 --fp16 "
    "--output_dir runs/mlm --report_to none --lr_scheduler_type cosine --save_total_limit 2",
    "lm": "--model_name_or_path gpt2 --dataset_name wikitext --dataset_config_name wikitext-2 "
    "--block_size 128 --num_train_epochs 3 --overwrite_output_dir --gradient_checkpointing",
    "qa": "--model_name_or_path bert-base-cased --dataset_name squad --learning_rate 3e-5 "
    "--num_train_epochs 2 --doc_stride 128 --version_2_with_negative --max_answer_length 30",
    "classify": "--model_name_or_path bert-base-cased --task_name mrpc --train_file a.csv "
    "--validation_file b.csv --lr 2e-5 --warmup_ratio 0.1 --gradient_accumulation_steps 4 "
    "--metric_for_best_model f1 --load_best_model_at_end --logging_steps 50 --push_to_hub",
    "tag": "--model_name_or_path bert-base-cased --train_file a.json --eval_steps 100 "
    "--eval_strategy steps --no_cuda --pad_to_max_length --label_smoothing_factor 0.1 --optim adam",
    "seq2seq": "--model_name_or_path t5-small --source_prefix summarize: --max_source_length 512 "
    "--source_lang en --target_lang ro --per_device_eval_batch_size 4 --early_stopping_patience 2",
}


@pytest.mark.parametrize("job", cli.JOBS)
def test_options_of_transformers_are_answered_with_ours(job, capsys):
    """All of them in one error, which names the command as it was typed."""
    words = THEIR_OPTIONS[job].split()
    known = set(importlib.import_module(f"train.{job}").parser()._option_string_actions)
    theirs = [word.split("=")[0] for word in words if word.startswith("--")]
    error = failed(capsys, "train", job, *words, status=2)
    answers = dict(
        re.findall(r"^error: unknown option '(.*?)'; (here it is --|leave it out: )", error, re.M)
    )
    assert answers.keys() == {option for option in theirs if option not in known}
    assert error.splitlines()[0] == f"usage: minitransformer train {job} [--help] ..."
    assert len(answers) == len(error.splitlines()) - 1


def test_every_option_with_another_name_exists():
    parsers = [importlib.import_module(f"train.{job}").parser() for job in cli.JOBS]
    for name, verb in cli.VERBS.items():
        parsers.append(Parser(prog=name))
        verb.add_options(parsers[-1])
        if isinstance(verb, cli.TextVerb):
            cli._add_texts(parsers[-1], verb)
    every = {option for parser in parsers for option in parser._option_string_actions}
    assert OTHER_NAMES.keys() <= every
    named = [
        f"--{name}" for names in (*OTHER_NAMES.values(), *NOT_NEEDED) for name in names.split()
    ]
    for parser in parsers:
        for name in named:
            assert len(parser._explained(name)) < 900


@pytest.mark.parametrize("job", cli.JOBS)
def test_a_job_runs_by_both_names(job, capsys):
    for command, name in (
        (importlib.import_module(f"train.{job}").main, f"python -m train.{job}"),
        (lambda words: cli.main(["train", job, *words]), f"minitransformer train {job}"),
    ):
        with pytest.raises(SystemExit) as ended:
            command(["--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: {name} ")
    assert f"  {job} " in run(capsys, "train")


def test_another_file_that_hides_the_jobs_is_named(tmp_path, capsys, monkeypatch):
    theirs = importlib.util.spec_from_file_location("train", tmp_path / "train.py")
    monkeypatch.setattr(cli, "find_spec", lambda name: theirs)
    assert f"`import train` finds {tmp_path}/train.py" in failed(capsys, "train", "mlm")


def test_the_curves_of_several_runs(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        records = [{"step": step, "eval_loss": 3.0 - step} for step in (1, 2)]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / name / "metrics.jsonl").write_text(lines)
    picture = tmp_path / "curves.png"
    command = ["curves", tmp_path / "one", tmp_path / "two", "--out", picture]
    assert run(capsys, *command) == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "eval_los" in failed(capsys, *command, "--metric", "eval_los")
    assert "nowhere" in failed(capsys, "curves", tmp_path / "nowhere", "--out", picture)


def test_texts_may_stand_between_options_and_begin_with_a_dash(roberta, capsys):
    expected = run(capsys, "embed", roberta, "--json", "--", "ciao", "--due parole", "-x")
    assert len(json_lines(expected)) == 3
    for words in (
        ["--json", roberta, "ciao", "--device", "cpu", "--due parole", "--", "-x"],
        [roberta, "ciao", "--due parole", "--json", "--", "-x"],
    ):
        assert run(capsys, "embed", *words) == expected
