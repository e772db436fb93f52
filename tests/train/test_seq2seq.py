"""The job, as a user runs it, on a few pairs; and the demo that is made of it."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from minitransformer import Tokenizer, from_pretrained, generate, pipeline
from tests import tiny
from train import seq2seq
from train.demos.italian_english import sentence_pairs, write_pairs
from train.metrics import read_metrics
from train.seq2seq import Scorer
from train.text_scores import rouge

SMALL = ["--vocab-size", "400", "--max-length", "30", "--batch-size", "8", "--hidden-size", "16"]
SMALL += ["--num-hidden-layers", "1", "--num-attention-heads", "2", "--curve-pairs", "2"]
RUN = ["--max-steps", "5", "--evaluate-every", "3", "--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Short sentences: with so few pairs, most words are several tokens."""
    directory = tmp_path_factory.mktemp("pairs")
    for name, count, held_out in (("train", 60, False), ("dev", 6, True)):
        drawn = sentence_pairs(20 * count, seed=held_out, held_out=held_out)
        short = {pair.italian: pair.english for pair in drawn if len(pair.italian) < 30}
        lines = [f"{italian}\t{english}\n" for italian, english in short.items()][:count]
        assert len(lines) == count
        (directory / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Path:
    """A run of five steps."""
    output = tmp_path_factory.mktemp("runs") / "trained"
    assert run(files, output, *RUN) == 0
    return output


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch) -> None:
    """Drawing takes longer than training; the run of `trained` comes before and has its picture."""
    monkeypatch.setattr(seq2seq, "draw_curve", lambda *_: None)


def run(files: Path, output: Path, *more: str) -> int:
    data = ["--train", str(files / "train.tsv"), "--dev", str(files / "dev.tsv")]
    return seq2seq.main([*data, "--output", str(output), *SMALL, *more])


def weights(path: Path) -> str:
    return tiny.digest(from_pretrained(path))


def pairs_of(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def test_the_job_leaves_a_translator_a_curve_and_a_report(files, trained):
    model, tokenizer = from_pretrained(trained), Tokenizer.from_pretrained(trained)
    assert type(model).__name__ == "MarianMTModel"
    assert model.config.max_sequence_length == 31 == model.generation_config.max_length
    assert model.generation_config.decoder_start_token_id == tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 30

    pairs = pairs_of(files / "dev.tsv")
    lines = (trained / "predictions.jsonl").read_text("utf-8").splitlines()
    written = [json.loads(line) for line in lines]
    assert [[row["source"], row["target"]] for row in written] == pairs
    answers = pipeline("translation", trained)([source for source, _ in pairs])
    assert [answer["translation_text"] for answer in answers] == [
        row["prediction"] for row in written
    ]

    records = read_metrics(trained / "metrics.jsonl")
    evaluated = [record for record in records if "eval_loss" in record]
    assert [record["step"] for record in evaluated] == [3, 5]
    assert evaluated[-1]["eval_samples"] == [row["prediction"] for row in written[:2]]
    report = json.loads((trained / "report.json").read_text())
    assert report["dev"]["this model"]["loss"] == pytest.approx(evaluated[-1]["eval_loss"])
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_text_ends_in_one_token_on_both_sides(files, trained):
    """As with T5 and Marian: no token before the text, and one vocabulary for both sides."""
    tokenizer = Tokenizer.from_pretrained(trained)
    source, target = pairs_of(files / "train.tsv")[0]
    for ids, text in (
        (tokenizer(source)["input_ids"], source),
        (tokenizer(text_target=target)["input_ids"], target),
    ):
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == text


def test_the_loss_is_that_of_every_token_of_the_targets(files, trained):
    """By hand: pair by pair, without padding, the decoder inputs shifted by one position."""
    model, tokenizer = from_pretrained(trained), Tokenizer.from_pretrained(trained)
    nats, count = 0.0, 0
    for source, target in pairs_of(files / "dev.tsv"):
        ids = torch.tensor([tokenizer(source)["input_ids"]])
        right = torch.tensor([tokenizer(text_target=target)["input_ids"]])
        read = torch.cat([torch.tensor([[tokenizer.pad_token_id]]), right[:, :-1]], dim=1)
        with torch.no_grad():
            logits = model(ids, decoder_input_ids=read).logits[0]
        nats += float(torch.nn.functional.cross_entropy(logits, right[0], reduction="sum"))
        count += right.shape[1]
    figures = json.loads((trained / "report.json").read_text())["dev"]["this model"]
    assert figures["loss"] == pytest.approx(nats / count, rel=1e-5)


def test_what_is_printed(files, tmp_path, capsys):
    more = ["--max-steps", "1", "--samples", "1"]
    assert run(files, tmp_path, *more) == 0
    out = capsys.readouterr().out
    source, target = pairs_of(files / "dev.tsv")[0]
    assert f"  | {source}\n  = {target}\n  > " in out
    assert out.count("\n  > ") == 1
    assert "train: 60 pairs (0 longer than --max-length 30 left out)" in out
    assert "dev: 6 pairs (0 with a source that is in the training file)" in out
    results = json.loads((tmp_path / "report.json").read_text())["dev"]
    for name, scores in results.items():
        [columns] = [line.split()[-3:] for line in out.splitlines() if line.startswith(name)]
        expected = [f"{scores['exact']:.1%}", f"{scores['bleu']:.1f}", f"{scores['chrf']:.1f}"]
        assert columns == expected


def test_the_score_of_a_model_that_has_learned_it(files, trained, tmp_path, monkeypatch, capsys):
    """Five of six: generated texts are compared with the targets, pair by pair."""
    pairs = pairs_of(files / "dev.tsv")
    answers = [target for _, target in pairs[:5]] + ["quite another text."]
    monkeypatch.setattr(Scorer, "generate", lambda _self, asked, *_: answers[: len(asked)])
    assert run(files, tmp_path, "--max-steps", "1") == 0
    scores = json.loads((tmp_path / "report.json").read_text())["dev"]
    assert scores["this model"]["exact"] == pytest.approx(5 / 6)
    assert scores["this model"]["bleu"] > 60
    assert scores["the sources, untranslated"]["exact"] == 0
    assert "exact 100.0%" in capsys.readouterr().out  # of the first two, while it is trained


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["BartForConditionalGeneration", "MarianMTModel", "T5ForConditionalGeneration"]
)
def test_transformers_takes_the_result_of_each_class(architecture, files, tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    more = ["--max-steps", "1", "--architecture", architecture]
    assert run(files, tmp_path, *more) == 0
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(model).__name__ == architecture
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        [source for source, _ in pairs_of(files / "dev.tsv")[:2]], padding=True, return_tensors="pt"
    )
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    theirs = model.generate(**inputs)
    assert theirs.shape[1] <= 31
    assert torch.equal(theirs, generate(from_pretrained(tmp_path), **inputs).sequences)


@pytest.mark.slow
def test_the_number_of_beams_is_an_option_and_saved(files, tmp_path, monkeypatch):
    assert run(files, tmp_path, "--max-steps", "1", "--num-beams", "3") == 0
    assert from_pretrained(tmp_path).generation_config.num_beams == 3
    assert json.loads((tmp_path / "report.json").read_text())["num_beams"] == 3


def test_pairs_that_do_not_fit(files, tmp_path, capsys):
    """Skipped in training, where they would teach to stop too early; truncated in evaluation."""
    (tmp_path / "dev.tsv").write_text("ciao.\thello.\nciao.\t" + "hello, " * 30 + "hello.\n")
    rows = [*pairs_of(files / "train.tsv"), ["ciao " * 40, "hello."], ["ciao.", "hello " * 40]]
    (tmp_path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    assert run(tmp_path, tmp_path / "out", "--max-steps", "1") == 0
    out = capsys.readouterr().out
    assert "train: 60 pairs (2 longer than --max-length 30 left out)" in out
    assert "dev: 2 pairs (2 with a source that is in the training file)" in out


def test_no_pair_fits(files, tmp_path, capsys):
    assert run(files, tmp_path / "out", "--max-length", "3") == 1
    assert "--max-length 3: all pairs of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_sacrebleu_there_are_exact_matches(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert run(files, tmp_path, "--max-steps", "1") == 0
    out = capsys.readouterr().out
    sentence = "BLEU and chrF need sacrebleu: pip install sacrebleu"
    assert f"only exact matches will be counted: {sentence}\n" in out
    scores = json.loads((tmp_path / "report.json").read_text())["dev"]["this model"]
    assert scores.keys() == {"loss", "exact"}
    assert re.search(r"this model +0.0% +- +-\n", out)


def test_stopped_in_an_evaluation_and_resumed(files, trained, tmp_path, monkeypatch, capsys):
    """A signal during the first samples changes nothing in the end."""
    generate_all = Scorer.generate

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return generate_all(*arguments)

    monkeypatch.setattr(Scorer, "generate", interrupted)
    assert run(files, tmp_path, *RUN) == 128 + signal.SIGINT
    assert "stopped after step 3; continue with the same command and --resume" in (
        capsys.readouterr().out
    )
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    assert run(files, tmp_path, *RUN, "--resume") == 0
    assert weights(tmp_path) == weights(trained)

    def without_clock(path: Path) -> list[dict]:
        return [r | {"seconds": 0} for r in read_metrics(path / "metrics.jsonl")]

    assert without_clock(tmp_path) == without_clock(trained)


def test_a_refused_run_changes_nothing(files, trained, tmp_path, capsys):
    contents = {path: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    write_pairs(tmp_path / "train.tsv", 61, seed=5, held_out=False)
    write_pairs(tmp_path / "dev.tsv", 7, seed=6, held_out=True)
    for more, message in [
        ([], "already contains a run"),
        (["--train", str(tmp_path / "train.tsv"), "--resume"], "of the training pairs was"),
        (["--dev", str(tmp_path / "dev.tsv"), "--resume"], "of the dev pairs was"),
        (["--resume", "--hidden-size", "32"], "hidden_size was 16, now it is 32"),
        (["--resume", "--max-length", "25"], "max_position_embeddings was"),
        (["--resume", "--vocab-size", "500"], "vocab_size was"),
        (["--resume", "--architecture", "T5ForConditionalGeneration"], "architecture was"),
    ]:
        assert run(files, trained, *RUN, *more) == 1
        assert message in capsys.readouterr().err
        assert {path: path.read_bytes() for path in contents} == contents


@pytest.mark.slow
def test_a_given_tokenizer_is_used(files, trained, tmp_path):
    arguments = ["--train", str(files / "train.tsv"), "--dev", str(files / "dev.tsv")]
    arguments += ["--tokenizer", str(trained), "--output", str(tmp_path), "--max-steps", "1"]
    assert seq2seq.main([*arguments, "--hidden-size", "16", "--curve-pairs", "1"]) == 0
    theirs, ours = (Tokenizer.from_pretrained(path) for path in (trained, tmp_path))
    assert theirs("la ragazza")["input_ids"] == ours("la ragazza")["input_ids"]
    assert ours.model_max_length == 64


@pytest.mark.slow
def test_a_tokenizer_that_changes_texts_or_does_not_end_them(files, tmp_path, capsys):
    (tmp_path / "dev.tsv").write_text("ciao.\tLaura's aunt.\nciao.\thello\n")
    bert = Tokenizer.train(files / "train.tsv", 400, "wordpiece", show_progress=False)
    bert.save_pretrained(tmp_path / "bert")
    arguments = ["--train", str(files / "train.tsv"), "--dev", str(tmp_path / "dev.tsv")]
    arguments += ["--output", str(tmp_path / "out"), "--max-steps", "1", "--hidden-size", "16"]
    assert seq2seq.main([*arguments, "--tokenizer", str(tmp_path / "bert")]) == 0
    assert "1 of the dev targets cannot be generated exactly" in capsys.readouterr().out

    tokenizer = Tokenizer.train(files / "train.tsv", 300, show_progress=False)
    tokenizer.backend.post_processor = None
    tokenizer.save_pretrained(tmp_path / "bare")
    arguments[5] = str(tmp_path / "other")
    assert seq2seq.main([*arguments, "--tokenizer", str(tmp_path / "bare")]) == 1
    assert "bare adds no token to the end of a text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train", "nowhere.tsv"], "nowhere.tsv cannot be read: No such file"),
        (["--dev", "nowhere.tsv"], "nowhere.tsv cannot be read: No such file"),
        (["--dev", "BAD"], "bad.tsv, line 2: there is no tab in"),
        (["--seed", "-1"], "seed=-1"),
        (["--dropout", "1.5"], "hidden_dropout_prob=1.5"),
        (["--hidden-size", "15"], "hidden_size=15"),
        (["--hidden-size", "15", "--architecture", "T5ForConditionalGeneration"], "a multiple of"),
        (["--vocab-size", "9"], "vocab_size=9 is too small"),
        (["--tokenizer", "nowhere"], "--vocab-size has no effect together with --tokenizer"),
    ],
)
def test_a_mistake_is_one_line(more, message, files, tmp_path, capsys):
    (tmp_path / "bad.tsv").write_text("ciao\thello\nno tab\n")
    more = [str(tmp_path / "bad.tsv") if word == "BAD" else word for word in more]
    assert run(files, tmp_path / "out", *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


# ---- --model: a pretrained model is trained further ----

BART, T5 = "BartForConditionalGeneration", "T5ForConditionalGeneration"
TEACH = ["--max-length", "24", "--batch-size", "4", "--curve-pairs", "1", "--num-beams", "1"]
TEACH += ["--max-target-length", "16"]


def train_on(model: Path, output: Path, rows: list[tuple[str, str]], *more: str) -> int:
    """Train a checkpoint further on these pairs, which are the dev pairs too."""
    file = output.parent / "pairs.tsv"
    file.write_text("".join(f"{source}\t{target}\n" for source, target in rows))
    data = ["--train", str(file), "--dev", str(file)]
    return seq2seq.main([*data, "--model", str(model), "--output", str(output), *TEACH, *more])


ROWS = [(text, text.lower()[:15].strip()) for text in tiny.TEXTS if len(text) < 30]


@pytest.mark.parametrize("name", [BART, T5, "MarianMTModel"])
def test_a_pretrained_model_is_trained_further(name, tmp_path, capsys):
    """With its own tokenizer, sizes and dropout; the loss before it is that of the checkpoint."""
    path = tiny.save_checkpoint(tmp_path / "pretrained", name, codes=(), hidden_dropout_prob=0.2)
    more = ["--max-steps", "6", "--learning-rate", "1e-2", "--evaluate-every", "20"]
    assert train_on(path, tmp_path / "out", ROWS, *more) == 0
    before, after = from_pretrained(path), from_pretrained(tmp_path / "out")
    assert (type(after).__name__, after.config) == (name, before.config)
    tokenizer = Tokenizer.from_pretrained(path)
    again = Tokenizer.from_pretrained(tmp_path / "out")
    assert again.model_max_length == tokenizer.model_max_length
    nats, count = 0.0, 0
    for source, target in ROWS:
        ids = tokenizer(source, return_tensors="pt")["input_ids"]
        labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
        assert torch.equal(ids, again(source, return_tensors="pt")["input_ids"])
        with torch.no_grad():
            nats += float(before(ids, labels=labels).loss) * labels.shape[1]
        count += labels.shape[1]
    first = read_metrics(tmp_path / "out" / "metrics.jsonl")[0]
    assert first["step"] == 0
    assert first["eval_loss"] == pytest.approx(nats / count, rel=1e-4)
    assert f"step 0: loss {nats / count:.4f}, exact" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "report.json").read_text())["dev"]
    assert results["this model"]["loss"] < results["before training, the first 1 pairs"]["loss"]
    assert after.generation_config.max_length == 17  # the start token and a target
    assert pipeline("translation", tmp_path / "out")(ROWS[0][0])


def test_a_prefix_is_put_before_every_source_and_saved(tmp_path, monkeypatch, capsys):
    path = tiny.save_checkpoint(tmp_path / "pretrained", T5)
    prefix, seen = "a: ", []
    encode = seq2seq._encode
    monkeypatch.setattr(
        seq2seq, "_encode", lambda tokenizer, pairs, *more: seen.append(pairs) or encode(
            tokenizer, pairs, *more)
    )  # fmt: skip
    more = ["--max-steps", "2", "--prefix", prefix]
    assert train_on(path, tmp_path / "out", ROWS, *more) == 0
    prefixed = [prefix + source for source, _ in ROWS]  # to train on (twice), and to evaluate on
    assert [[pair.source for pair in pairs] for pairs in seen[:3]] == [prefixed] * 3
    assert f"  | {prefix}{ROWS[0][0]}\n  = {ROWS[0][1]}\n" in capsys.readouterr().out
    written = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    task = pipeline("translation", tmp_path / "out")
    assert task.settings.prefix == prefix
    assert [json.loads(line)["prediction"] for line in written] == [
        answer["translation_text"] for answer in task([source for source, _ in ROWS])
    ]
    # The next run finds it in the checkpoint of the first.
    assert train_on(tmp_path / "out", tmp_path / "next", ROWS, "--max-steps", "1") == 0
    assert f"  | {prefix}{ROWS[0][0]}\n" in capsys.readouterr().out
    rows = [ROWS[0], (prefix + ROWS[1][0], "x")]
    assert train_on(tmp_path / "out", tmp_path / "twice", rows) == 1
    assert "line 2: the source begins with the prefix 'a: '" in capsys.readouterr().err


def test_summaries(tmp_path, capsys):
    """The settings of the task are the checkpoint's; long texts are truncated; there is ROUGE."""
    settings = {"num_beams": 2, "min_length": 99, "prefix": "b: "}
    config = {"task_specific_params": {"summarization": settings}}
    path = tiny.save_checkpoint(tmp_path / "pretrained", T5, config=config)
    rows = [(f"{text} {text}", text.split()[0]) for text in tiny.TEXTS]
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"article": text, "highlights": short}) + "\n" for text, short in rows)
    )
    file = str(tmp_path / "pairs.jsonl")
    job = ["--train", file, "--dev", file, "--model", str(path), "--output", str(tmp_path / "out")]
    job += ["--task", "summarization", "--max-steps", "2", "--batch-size", "4", "--samples", "1"]
    job += ["--max-length", "20", "--max-target-length", "12", "--best-metric", "rougeL"]
    assert seq2seq.main(job) == 0
    out = capsys.readouterr().out
    assert "train: 5 pairs (0 longer than --max-target-length 12 left out)" in out
    assert "3 of their sources are truncated to 20 tokens" in out
    assert "minitransformer summarize" in out

    model = from_pretrained(tmp_path / "out")
    assert model.generation_config.num_beams == 2
    assert (model.generation_config.max_length, model.generation_config.min_length) == (13, 0)
    assert pipeline("summarization", tmp_path / "out").settings.prefix == "b: "
    written = [
        json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open(encoding="utf-8")
    ]
    generated = [row["prediction"] for row in written]
    shorts = [row["target"] for row in written]
    results = json.loads((tmp_path / "out" / "report.json").read_text())["dev"]
    scores = results["this model"]
    assert {name: scores[name] for name in ("rouge1", "rouge2", "rougeL")} == rouge(
        generated, shorts
    )
    assert scores["words"] == sum(len(text.split()) for text in generated) / 5
    assert results["the first 1 words of the sources"]["rouge1"] == 100
    evaluated = [r for r in read_metrics(tmp_path / "out" / "metrics.jsonl") if "eval_loss" in r]
    assert scores["rougeL"] == max(record["eval_rougeL"] for record in evaluated)


def test_the_best_weights_by_a_score(files, tmp_path, monkeypatch):
    """Of the second evaluation, whose exact matches are the most."""
    values = iter([0.1, 0.9, 0.5])
    scores = Scorer.scores
    monkeypatch.setattr(
        Scorer, "scores",
        lambda self, generated, pairs: scores(self, generated, pairs)
        | {"exact": next(values, 0.9)},
    )  # fmt: skip
    more = ["--max-steps", "3", "--evaluate-every", "1", "--best-metric", "exact"]
    assert run(files, tmp_path / "out", *more) == 0
    monkeypatch.undo()
    same = ["--max-steps", "3", "--save-every", "1", "--keep-checkpoints", "3"]
    assert run(files, tmp_path / "all", *same) == 0
    second = weights(tmp_path / "all" / "checkpoints" / "step-00000002")
    assert weights(tmp_path / "out") == second != weights(tmp_path / "all")


def test_a_language_is_a_code_of_marian(tmp_path, capsys):
    path = tiny.save_checkpoint(tmp_path / "pretrained", "MarianMTModel")
    assert train_on(path, tmp_path / "none", ROWS) == 1
    assert "several target languages; choose one with --tgt-lang, as in --tgt-lang fra" in (
        capsys.readouterr().err
    )
    assert train_on(path, tmp_path / "other", ROWS, "--tgt-lang", "deu") == 1
    assert "'deu' has no language code; the codes are: >>fra<<, >>ita<<" in capsys.readouterr().err
    assert train_on(path, tmp_path / "out", ROWS, "--tgt-lang", "ita", "--max-steps", "1") == 0
    assert f"  | >>ita<< {ROWS[0][0]}\n" in capsys.readouterr().out
    assert pipeline("translation", tmp_path / "out")(ROWS[0][0])


def test_a_direction_of_t5_has_its_prefix(tmp_path, capsys):
    tasks = {"translation_en_to_de": {"prefix": "b: "}, "translation_en_to_fr": {"prefix": "c: "}}
    config = {"task_specific_params": tasks}
    path = tiny.save_checkpoint(tmp_path / "pretrained", T5, config=config)
    more = ["--src-lang", "en", "--max-steps", "1"]
    assert train_on(path, tmp_path / "out", ROWS, *more, "--tgt-lang", "fr") == 0
    assert f"  | c: {ROWS[0][0]}\n" in capsys.readouterr().out
    assert pipeline("translation", tmp_path / "out").settings.prefix == "c: "
    for wrong, message in [
        (["--tgt-lang", "it"], "has no prefix for en to it; say it in words, as in --prefix"),
        ([], "a T5 needs both --src-lang and --tgt-lang, or --prefix"),
    ]:
        assert train_on(path, tmp_path / "wrong", ROWS, *more, *wrong) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hidden-size", "8", "--architecture", BART],
         "--architecture, --hidden-size have no effect together with --model"),
        (["--max-length", "61"], "--max-length 61: the model takes at most 60 tokens"),
        (["--max-target-length", "61"], "--max-target-length 61: the model takes at most 60"),
        (["--tgt-lang", "it"], "translates in the direction of its pairs; leave them out"),
        (["--source-column", "it"], "pairs.tsv has no column 'it'"),
        (["--task", "summarization"], "so they are swapped: swap"),
        (["--best-metric", "bleau", "--max-steps", "1"], "did you mean 'bleu'"),
    ],
)  # fmt: skip
def test_what_contradicts_the_model_is_one_line(more, message, tmp_path, capsys):
    path = tiny.save_checkpoint(tmp_path / "pretrained", BART)
    rows = [(target.split()[0], source) for source, target in ROWS]
    assert train_on(path, tmp_path / "out", rows, *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.slow
def test_a_model_learns_to_turn_words_round(tmp_path):
    """Which no decoder could do that does not look at the source, word by word."""
    turned = {"uno": "one", "due": "two", "tre": "three", "quattro": "four", "cinque": "five"}
    random = Random(0)
    rows = {tuple(random.choices(list(turned), k=length)): None for length in [3, 4] * 500}
    lines = [f"{' '.join(row)}\t{' '.join(turned[w] for w in row[::-1])}\n" for row in rows]
    (tmp_path / "train.tsv").write_text("".join(lines[:-60]))
    (tmp_path / "dev.tsv").write_text("".join(lines[-60:]))
    more = ["--hidden-size", "48", "--batch-size", "32", "--learning-rate", "3e-3"]
    more += ["--max-steps", "300", "--evaluate-every", "300"]
    assert run(tmp_path, tmp_path / "out", *more) == 0
    scores = json.loads((tmp_path / "out" / "report.json").read_text())["dev"]
    assert scores["this model"]["exact"] > 0.9
    assert scores["this model"]["bleu"] > 90 > scores["the sources, untranslated"]["bleu"]
