"""Train an encoder-decoder on pairs of texts: `python -m train.seq2seq --train FILE --dev FILE`.

A pair is a source and its target: a sentence and its translation, or a text and its summary; see
:mod:`train.pairs`. :func:`run` reads the pairs, trains one tokenizer for both sides, makes a model,
trains it, and generates from the dev file to compute the loss and the scores of its task. The
defaults are for about ten thousand short pairs and two cores.

Until the decoder has learnt where to attend in the source, it generates likely sentences that are
unrelated to it. On the pairs of the demo it learns that several times sooner with absolute
positions (Marian, BART) than with T5's relative ones.

With `--model` a pretrained BART, Marian or T5 is trained further instead, with its own tokenizer
and, if it has one, its prefix for the task.
"""

import argparse
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minitransformer.arguments import Parser, positive
from minitransformer.models.bart import BartForConditionalGeneration
from minitransformer.models.base import Seq2SeqLM
from minitransformer.models.marian import MarianMTModel
from minitransformer.models.t5 import T5ForConditionalGeneration
from minitransformer.names import cut, listed, shortened
from minitransformer.tasks.base import check_vocabularies
from minitransformer.tasks.generation import task_settings
from minitransformer.tasks.text_to_text import Summarization, TextToTextGeneration
from minitransformer.tasks.translation import Translation
from minitransformer.tokenization import BatchEncoding, Tokenizer
from minitransformer.tokenization.pipelines import library
from train.arguments import add_training_arguments, run_job, training_config
from train.config import TrainingConfig
from train.finetuning import write_results
from train.loop import Progress, Record, last_checkpoint, optimize_unless_plain, train
from train.metrics import draw_curve, try_to_draw
from train.pairs import PairBatches, TextPair, read_pairs
from train.pretrained import defaults_with_model, first_evaluation, load_to_train, parse_job
from train.text_scores import bleu_and_chrf, exact_match, mean_words, rouge, why_no_scores

ARCHITECTURES: dict[str, type[Seq2SeqLM]] = {
    architecture.__name__: architecture
    for architecture in (MarianMTModel, BartForConditionalGeneration, T5ForConditionalGeneration)
}
TASKS: dict[str, type[TextToTextGeneration]] = {
    task.name: task for task in (Translation, Summarization)
}
# The scores of each task in the tables: their names and their headings.
SCORES = {
    "translation": {"exact": "exact", "bleu": "BLEU", "chrf": "chrF"},
    "summarization": {
        "rouge1": "ROUGE-1",
        "rouge2": "ROUGE-2",
        "rougeL": "ROUGE-L",
        "words": "words",
    },
}
# The options that a given tokenizer and a given model determine.
_NEW_TOKENIZER = ("vocab_size", "algorithm")
_NEW_MODEL = (
    "architecture",
    "hidden_size",
    "num_hidden_layers",
    "num_decoder_layers",
    "num_attention_heads",
    "intermediate_size",
)
# The defaults with --model: gentle steps.
_PRETRAINED: dict[str, Any] = {
    "max_length": None,  # see fit_lengths
    "batch_size": 16,
    "eval_batch_size": 16,
    "epochs": 3,
    "learning_rate": 1e-4,
    "dropout": None,  # the checkpoint's
    "num_beams": None,  # the checkpoint's
}
_SHOWN = 200  # characters of a text in a sample


def main(
    argv: Sequence[str] | None = None, *, resume_with: str = "the same command and --resume"
) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it.

    `resume_with` tells the user how to resume it.
    """
    return run_job(lambda: run(_parse(argv), resume_with))


def run(arguments: argparse.Namespace, resume_with: str) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    # Comes first, because it raises if --output contains another run.
    is_new = last_checkpoint(config) is None
    pairs, dev_pairs = (_read(arguments, path) for path in (arguments.train, arguments.dev))
    torch.manual_seed(arguments.seed)
    model, tokenizer = model_and_tokenizer(arguments, pairs, is_new)
    prefix = prepare_generation(arguments, model, tokenizer, [*pairs, *dev_pairs])
    optimize_unless_plain(model, config, plain=arguments.plain)
    batches = training_batches(arguments, tokenizer, with_prefix(pairs, prefix, arguments.train))
    scorer = Scorer(arguments, model, tokenizer, config, dev_pairs, prefix)
    _print_sizes(arguments, pairs, scorer)
    if is_new:
        tokenizer.save_pretrained(config.output)

    progress = train(
        model,
        batches,
        config,
        evaluate=scorer.measure,
        evaluate_first=arguments.model is not None,
        callbacks=[scorer.print_samples],
        tokenizer=tokenizer,
        fingerprint={
            "task": arguments.task,
            "pretrained": arguments.model,
            "prefix": prefix,
            "architecture": type(model).__name__,
            "model": model.config.__dict__,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            **{n: getattr(arguments, n) for n in ("tokenizer", *_NEW_TOKENIZER)},
            "checksum of the training pairs": batches.checksum(),
            "checksum of the dev pairs": scorer.batches.checksum(),
        },
    )
    if progress.stop_signal is not None:
        print(f"stopped after step {progress.step}; continue with {resume_with}")
        return 128 + progress.stop_signal

    model.cpu().save_pretrained(config.output)
    try_to_draw(draw_curve, config.output / "metrics.jsonl", config.output / "loss.png")
    model.to(config.device)
    scorer.report(progress.step)
    print(f"\nmodel, tokenizer, predictions.jsonl, report.json, loss.png: {config.output}")
    verb = {"translation": "translate", "summarization": "summarize"}[arguments.task]
    print(f'try it: minitransformer {verb} {shlex.quote(str(config.output))} "..."')
    return 0


def model_and_tokenizer(
    arguments: argparse.Namespace, pairs: Sequence[TextPair], is_new: bool
) -> tuple[Seq2SeqLM, Tokenizer]:
    """Make or load the model to train and its tokenizer.

    Args:
        arguments: of the job.
        pairs: of the training file, that a new tokenizer is trained on.
        is_new: False if the run is resumed, so that the output contains its tokenizer.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
        ValueError: the tokenizer does not fit the model, or a size is invalid.
    """
    if arguments.model is None:
        tokenizer = _new_tokenizer(arguments, pairs, is_new)
        model = new_model(arguments, tokenizer)
    else:
        dropout = arguments.dropout
        changes = {} if dropout is None else {"hidden_dropout_prob": dropout}
        model, tokenizer = load_to_train(Seq2SeqLM, arguments, **changes)
        if arguments.max_target_length is None:
            arguments.max_target_length = arguments.max_length
    _end_of_text(tokenizer)
    return model, tokenizer


def prepare_generation(
    arguments: argparse.Namespace,
    model: Seq2SeqLM,
    tokenizer: Tokenizer,
    pairs: Sequence[TextPair],
) -> str:
    """Set how the model generates, and return the prefix of every source.

    The prefix is `--prefix`; or the language code that a Marian of several target languages needs;
    or what the checkpoint's config.json says for the task. It is saved with the model, so that the
    pipeline adds it too.

    Raises:
        ValueError: the languages are none of the model's, or a source lacks its code.
    """
    languages = arguments.src_lang, arguments.tgt_lang
    task = arguments.task
    if task == "translation" and isinstance(model, T5ForConditionalGeneration) and all(languages):
        task = "translation_{}_to_{}".format(*languages)
    settings = task_settings(model, task)
    prefix = settings.prefix if arguments.prefix is None else arguments.prefix
    codes = Translation(model, tokenizer).codes
    if codes and arguments.prefix is None:
        prefix = _language_code(arguments, codes, prefix, pairs)
    elif any(languages) and arguments.prefix is None and not (prefix and task != arguments.task):
        raise ValueError(_no_languages(arguments, model))
    model.task_specific_params = (
        {"task_specific_params": {arguments.task: {"prefix": prefix}}} if prefix else {}
    )
    longest = arguments.max_target_length + 1  # and the start token
    config = settings.config
    model.generation_config = replace(
        config,
        max_length=longest,
        max_new_tokens=None,
        min_length=config.min_length if config.min_length < longest else 0,
        num_beams=config.num_beams if arguments.num_beams is None else arguments.num_beams,
    )
    return prefix


def _language_code(
    arguments: argparse.Namespace, codes: Sequence[str], prefix: str, pairs: Sequence[TextPair]
) -> str:
    """The code of `--tgt-lang`; without it the prefix, if each source then has a code."""
    if arguments.tgt_lang is not None:
        code = f">>{arguments.tgt_lang}<<"
        if code not in codes:
            raise ValueError(
                f"--tgt-lang {shortened(arguments.tgt_lang)} has no language code; the codes are: "
                f"{listed(codes)}"
            )
        return f"{code} "
    if len(codes) > 1:
        for pair in pairs:
            if not (prefix + pair.source).startswith(tuple(codes)):
                raise ValueError(
                    "the model has several target languages; choose one with --tgt-lang, as in "
                    f"--tgt-lang {codes[0].strip('<>')}, or begin every source with its code; the "
                    f"codes are: {listed(codes)}"
                )
    return prefix


def _no_languages(arguments: argparse.Namespace, model: Seq2SeqLM) -> str:
    if not isinstance(model, T5ForConditionalGeneration):
        return (
            f"--src-lang and --tgt-lang: a {type(model).__name__} without language codes "
            "translates in the direction of its pairs; leave them out"
        )
    if arguments.src_lang is None or arguments.tgt_lang is None:
        return "a T5 needs both --src-lang and --tgt-lang, or --prefix"
    return (
        f"the checkpoint has no prefix for {arguments.src_lang} to {arguments.tgt_lang}; say it "
        'in words, as in --prefix "translate English to Italian: "'
    )


def with_prefix(pairs: Sequence[TextPair], prefix: str, path: Path) -> list[TextPair]:
    """The pairs with the prefix before every source.

    Raises:
        ValueError: a source begins with it already.
    """
    for pair in pairs:
        if prefix.strip() and pair.source.startswith(prefix.strip()):
            raise ValueError(
                f"{path}, line {pair.line_number}: the source begins with the prefix "
                f"{shortened(prefix)}, which is added to every source; remove it from the file, "
                "or add --prefix ''"
            )
    return [replace(pair, source=prefix + pair.source) for pair in pairs]


def new_model(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Seq2SeqLM:
    """A new model of the class `--architecture`.

    The decoder starts with the padding token, as Marian's and T5's always do, and ends with the
    token that the tokenizer adds to the end of a text.
    """
    architecture = ARCHITECTURES[arguments.architecture]
    width, heads = arguments.hidden_size, arguments.num_attention_heads
    inner = arguments.intermediate_size or 4 * width
    # The start token of the decoder is not part of the text.
    longest = max(arguments.max_length, arguments.max_target_length) + 1
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": width,
        "num_hidden_layers": arguments.num_hidden_layers,
        "num_decoder_layers": arguments.num_decoder_layers or arguments.num_hidden_layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_dropout_prob": arguments.dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "eos_token_id": _end_of_text(tokenizer),
    }
    if architecture is T5ForConditionalGeneration:
        if width % heads:
            raise ValueError(
                f"--hidden-size {width} must be a multiple of --num-attention-heads {heads}"
            )
        sizes |= {"head_size": width // heads}
    else:
        sizes |= {
            "num_decoder_attention_heads": heads,
            "decoder_intermediate_size": inner,
            "max_position_embeddings": longest,
            "bos_token_id": None,
            # About 0.05 for the default width. With 0.02, the default of the families, it takes
            # longer until the decoder attends to the source; with 0.09 a little longer.
            "scale_embedding": True,
            "initializer_range": 0.6 * width**-0.5,
        }
    model = architecture(architecture.config_class(**sizes), attention=arguments.attention)
    check_vocabularies(model, tokenizer)
    return model


def training_batches(
    arguments: argparse.Namespace, tokenizer: Tokenizer, pairs: Sequence[TextPair]
) -> PairBatches:
    """Batches of the pairs that are short enough; truncated ones would teach to omit the end.

    Texts to summarize are truncated: most of what a summary says is at their beginning.

    Raises:
        ValueError: no pair is short enough.
    """
    limits = arguments.max_length, arguments.max_target_length
    sources, targets = _encode(tokenizer, pairs)
    truncated = 0
    fitting, shortest = [], sys.maxsize
    for pair, *sides in zip(pairs, sources.encodings, targets.encodings, strict=True):
        source, target = (len(side) - limit for side, limit in zip(sides, limits, strict=True))
        if arguments.task == "summarization":
            truncated += source > 0 >= target
            source = 0
        shortest = min(shortest, max(source, target))
        if max(source, target) <= 0:
            fitting.append(pair)
    options = _limits(arguments)
    if not fitting:
        raise ValueError(
            f"{options}: all pairs of {arguments.train} are longer; at least {shortest} more is "
            "needed for the shortest"
        )
    left_out = len(pairs) - len(fitting)
    print(f"train: {len(fitting):,} pairs ({left_out:,} longer than {options} left out)")
    if truncated:
        print(f"{truncated:,} of their sources are truncated to {arguments.max_length} tokens")
    return _batches(arguments, tokenizer, fitting, arguments.batch_size)


class Scorer:
    """Generates from the sources of the dev file and scores what was generated.

    Args:
        arguments: of the job.
        model, tokenizer: to evaluate.
        config: for the device and the precision.
        pairs: of the dev file, without the prefix.
        prefix: before every source.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        model: Seq2SeqLM,
        tokenizer: Tokenizer,
        config: TrainingConfig,
        pairs: Sequence[TextPair],
        prefix: str = "",
    ) -> None:
        self.arguments = arguments
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.pairs = pairs
        self.prefix = prefix
        prefixed = with_prefix(pairs, prefix, arguments.dev)
        self.batches = _batches(arguments, tokenizer, prefixed, arguments.eval_batch_size)

    def measure(self, should_stop: Callable[[], bool]) -> Record | None:
        """The loss on the dev file, and the scores of its first pairs.

        Returns:
            `loss` (nats per token), the scores of the task, and `samples`, the first generated
            texts. None if `should_stop` returned True.
        """
        first = self.pairs[: self.arguments.curve_pairs]
        loss = self.loss(should_stop)
        generated = self.generate(first, should_stop)
        if loss is None or generated is None:
            return None
        scores = {
            name: value
            for name, value in self.scores(generated, first).items()
            if isinstance(value, float)  # not the signatures
        }
        return {"loss": loss, **scores, "samples": generated[: self.arguments.samples]}

    def loss(self, should_stop: Callable[[], bool] = lambda: False) -> float | None:
        """The mean loss in nats per target token; None if `should_stop` returned True."""
        total, count = 0.0, 0
        device = next(self.model.parameters()).device
        for index in range(self.batches.num_batches):
            if should_stop():
                return None
            batch = self.batches.batch(0, index)
            with torch.inference_mode(), self.config.autocast():
                loss, tokens = self.model.loss_sum(**{n: t.to(device) for n, t in batch.items()})
            total += float(loss)
            count += int(tokens)
        return total / count

    def generate(
        self, pairs: Sequence[TextPair], should_stop: Callable[[], bool] = lambda: False
    ) -> list[str] | None:
        """A text for each source; None if `should_stop` returned True."""
        size = self.arguments.eval_batch_size
        task = TASKS[self.arguments.task](self.model, self.tokenizer, batch_size=size)
        # A call sorts its texts by length, so calls with several batches have little padding.
        starts = range(0, len(pairs), 4 * size)
        generated: list[str] = []
        # As in training, sources end at --max-length; the model may take more, and so may its user.
        limit, self.tokenizer.model_max_length = (
            self.tokenizer.model_max_length,
            self.arguments.max_length,
        )
        try:
            for start in tqdm(starts, desc="generating", leave=False, unit="part"):
                if should_stop():
                    return None
                sources = [pair.source for pair in pairs[start : start + 4 * size]]
                with self.config.autocast(), warnings.catch_warnings():
                    if self.arguments.task == "summarization":  # where truncation is no surprise
                        warnings.simplefilter("ignore")
                    answers = task(sources, prefix=self.prefix)
                generated += [answer[task.result] for answer in answers]
        finally:
            self.tokenizer.model_max_length = limit
        return generated

    def print_samples(self, progress: Progress, record: Record) -> None:
        """Print the metrics of an evaluation and the first generated texts, below the targets."""
        if "eval_loss" not in record:
            return
        names = SCORES[self.arguments.task]
        scores = [
            f"{heading} {_number(name, record[f'eval_{name}'])}"
            for name, heading in names.items()
            if f"eval_{name}" in record
        ]
        lines = [f"step {progress.step}: loss {record['eval_loss']:.4f}, {', '.join(scores)}"]
        for pair, generated in zip(self.pairs, record["eval_samples"], strict=False):
            texts = zip("|=>", (pair.source, pair.target, generated), strict=True)
            lines += [f"  {mark} {cut(text, _SHOWN)}" for mark, text in texts]
        tqdm.write("\n".join(lines))

    def report(self, steps: int) -> Record:
        """Score the whole dev file, print a table, and write what was generated."""
        loss, generated = self.loss(), self.generate(self.pairs)
        assert loss is not None and generated is not None
        results: dict[str, Record] = {
            "this model": {"loss": loss, **self.scores(generated, self.pairs)}
        }
        if self.arguments.model is not None:
            before = first_evaluation(self.config)
            del before["samples"]
            count = self.arguments.curve_pairs
            where = "" if count >= len(self.pairs) else f", the first {count:,} pairs"
            results[f"before training{where}"] = before
        name, texts = self._baseline()
        results[name] = self.scores(texts, self.pairs)
        columns = SCORES[self.arguments.task]
        headings = "".join(f"{heading:>9}" for heading in columns.values())
        print(f"\n{f'{len(self.pairs):,} pairs of {self.arguments.dev}':42}{headings}")
        for name, scores in results.items():
            numbers = "".join(f"{_number(column, scores.get(column)):>9}" for column in columns)
            print(f"{name:42}{numbers}")
        rows = [
            {"source": pair.source, "target": pair.target, "prediction": text}
            for pair, text in zip(self.pairs, generated, strict=True)
        ]
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        beams = self.model.generation_config.num_beams
        report = {"steps": steps, "parameters": parameters, "num_beams": beams, "dev": results}
        write_results(self.config.output, {"predictions.jsonl": rows, "report.json": report})
        return results["this model"]

    def scores(self, generated: Sequence[str], pairs: Sequence[TextPair]) -> Record:
        """The scores of the task; without sacrebleu there is no BLEU and no chrF."""
        targets = [pair.target for pair in pairs]
        if self.arguments.task == "summarization":
            return {**rouge(generated, targets), "words": mean_words(generated)}
        exact = {"exact": exact_match(generated, targets)}
        return exact if why_no_scores() else exact | bleu_and_chrf(generated, targets)

    def _baseline(self) -> tuple[str, list[str]]:
        """The name and the texts of what needs no model, to compare with."""
        sources = [pair.source for pair in self.pairs]
        if self.arguments.task == "translation":
            return "the sources, untranslated", sources
        length = round(mean_words([pair.target for pair in self.pairs]))
        return (
            f"the first {length} words of the sources",
            [" ".join(source.split()[:length]) for source in sources],
        )


def _number(name: str, value: float | None) -> str:
    """A score as it is printed: exact matches are a share, the others numbers up to 100."""
    if value is None:
        return "-"
    return f"{value:.1%}" if name == "exact" else f"{value:.1f}"


def _limits(arguments: argparse.Namespace) -> str:
    """The options that limit the lengths, as the user would type them."""
    source, target = arguments.max_length, arguments.max_target_length
    if arguments.task == "summarization":
        return f"--max-target-length {target}"
    return f"--max-length {source}" + f" --max-target-length {target}" * (source != target)


def _batches(
    arguments: argparse.Namespace,
    tokenizer: Tokenizer,
    pairs: Sequence[TextPair],
    batch_size: int,
) -> PairBatches:
    sources, targets = _encode(
        tokenizer, pairs, (arguments.max_length, arguments.max_target_length)
    )
    return PairBatches(
        sources,
        targets,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=batch_size,
        seed=arguments.seed,
    )


def _encode(
    tokenizer: Tokenizer, pairs: Sequence[TextPair], limits: tuple[int, int] | None = None
) -> tuple[BatchEncoding, BatchEncoding]:
    """Tokenize the sources and the targets, truncated to these numbers of tokens."""
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    if limits is None:
        return tokenizer(sources), tokenizer(text_target=targets)
    return (
        tokenizer(sources, truncation=True, max_length=limits[0]),
        tokenizer(text_target=targets, truncation=True, max_length=limits[1]),
    )


def _read(arguments: argparse.Namespace, path: Path) -> list[TextPair]:
    """The pairs of a file.

    Raises:
        ValueError: as in :func:`train.pairs.read_pairs`; or summaries are longer than their texts.
    """
    pairs = read_pairs(path, arguments.source_column, arguments.target_column)
    if arguments.task == "summarization":
        texts = mean_words([pair.source for pair in pairs])
        summaries = mean_words([pair.target for pair in pairs])
        if summaries > texts:
            raise ValueError(
                f"{path}: the texts have {texts:.1f} words, their summaries {summaries:.1f}, so "
                "they are swapped: swap --source-column and --target-column, or the columns of "
                "the file"
            )
    return pairs


def _end_of_text(tokenizer: Tokenizer) -> int:
    """The token that the tokenizer adds to the end of a target.

    Raises:
        ValueError: it adds none.
    """
    last: int = tokenizer(text_target="a")["input_ids"][-1]
    if last not in tokenizer.special_ids:
        raise ValueError(
            f"{tokenizer.source} adds no token to the end of a text, so a decoder cannot learn "
            "where to stop; use a tokenizer that does, such as T5's, or leave --tokenizer out to "
            "train one"
        )
    return last


def _new_tokenizer(
    arguments: argparse.Namespace, pairs: Sequence[TextPair], is_new: bool
) -> Tokenizer:
    """The tokenizer that was given, that of the resumed run, or a new one for both sides."""
    if arguments.tokenizer is not None:
        tokenizer = Tokenizer.from_pretrained(arguments.tokenizer)
    elif not is_new:
        tokenizer = Tokenizer.from_pretrained(arguments.output)
    else:
        tokenizer = train_tokenizer(pairs, arguments.vocab_size, arguments.algorithm)
    tokenizer.model_max_length = max(arguments.max_length, arguments.max_target_length)
    tokenizer.token_types = False
    return tokenizer


def train_tokenizer(pairs: Sequence[TextPair], vocab_size: int, algorithm: str) -> Tokenizer:
    """Train one vocabulary for both sides; as with T5 and Marian, a text ends in `</s>`."""
    with tempfile.TemporaryDirectory() as directory:
        texts = Path(directory, "texts.txt")
        lines = (f"{pair.source}\n{pair.target}\n" for pair in pairs)
        texts.write_text("".join(lines), encoding="utf-8", newline="\n")
        tokenizer = Tokenizer.train(texts, vocab_size=vocab_size, algorithm=algorithm)
    tokenizer.backend.post_processor = library().processors.TemplateProcessing(
        single="$A </s>",
        pair="$A </s> $B </s>",
        special_tokens=[("</s>", tokenizer.eos_token_id)],
    )
    return tokenizer


def _print_sizes(arguments: argparse.Namespace, pairs: Sequence[TextPair], scorer: Scorer) -> None:
    """Print sizes, and facts that limit what the scores mean."""
    tokenizer, dev_pairs = scorer.tokenizer, scorer.pairs
    known = {pair.source for pair in pairs}
    seen = sum(pair.source in known for pair in dev_pairs)
    print(f"dev: {len(dev_pairs):,} pairs ({seen:,} with a source that is in the training file)")
    source, target = (cut(text, _SHOWN) for text in (pairs[0].source, pairs[0].target))
    print(f"the first source and its target:\n  | {scorer.prefix}{source}\n  = {target}")
    _, targets = _encode(tokenizer, dev_pairs)
    lost = sum(
        tokenizer.decode(ids, skip_special_tokens=True).strip() != pair.target
        for pair, ids in zip(dev_pairs, targets["input_ids"], strict=True)
    )
    if lost:
        print(f"{lost:,} of the dev targets cannot be generated exactly with this tokenizer")
    parameters = sum(parameter.numel() for parameter in scorer.model.parameters())
    print(f"{parameters:,} parameters; a vocabulary of {tokenizer.vocab_size:,} for both sides")
    if arguments.task == "translation" and (reason := why_no_scores()):
        print(f"only exact matches will be counted: {reason}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parse_job(
        parser(),
        argv,
        pretrained=_PRETRAINED,
        new_model=_NEW_MODEL,
        new_tokenizer=_NEW_TOKENIZER,
    )
    if arguments.max_target_length is None:
        arguments.max_target_length = arguments.max_length
    return arguments


def parser() -> Parser:
    """The options of the job."""
    parser = Parser(
        prog="python -m train.seq2seq",
        description="Train an encoder-decoder on pairs of texts: a new one, or a pretrained one.",
        epilog=defaults_with_model(_PRETRAINED),
    )
    parser.add_argument(
        "--train",
        type=Path,
        required=True,
        help="lines of source, tab, target; or CSV, JSON lines, or TSV with a header",
    )
    parser.add_argument("--dev", type=Path, required=True, help="the same, to evaluate on")
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-column",
            metavar="NAME",
            help=f"the column of the {side}s; by default the one called {side}",
        )
    parser.add_argument(
        "--task",
        choices=tuple(TASKS),
        default="translation",
        help="decides the scores: exact matches, BLEU and chrF; or ROUGE and the number of words",
    )
    parser.add_argument(
        "--model",
        help="a pretrained BART, Marian or T5 to train further: a directory, a run, or a name on "
        "the hub",
    )
    parser.add_argument(
        "--prefix",
        metavar="TEXT",
        help='put before every source, such as "translate English to Italian: "; by default the '
        "one that the checkpoint has for the task",
    )
    for option, side in (("--src-lang", "source"), ("--tgt-lang", "target")):
        parser.add_argument(
            option,
            metavar="CODE",
            help=f"the {side} language, for a T5 that has a prefix for it or a Marian of several "
            "languages",
        )
    parser.add_argument(
        "--tokenizer", help="directory of a tokenizer; by default trained on the pairs"
    )
    parser.add_argument("--vocab-size", type=positive, default=4000, help="of a new tokenizer")
    parser.add_argument(
        "--algorithm", choices=("bpe", "unigram"), default="bpe", help="of a new tokenizer"
    )
    parser.add_argument(
        "--architecture",
        choices=tuple(ARCHITECTURES),
        default=MarianMTModel.__name__,
        help="class of a new model",
    )
    parser.add_argument("--max-length", type=positive, default=64, help="tokens per source")
    parser.add_argument(
        "--max-target-length", type=positive, help="tokens per target; by default --max-length"
    )
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs per batch")
    parser.add_argument("--hidden-size", type=positive, default=128, help="of a new model")
    parser.add_argument("--num-hidden-layers", type=positive, default=2, help="of a new encoder")
    parser.add_argument(
        "--num-decoder-layers", type=positive, help="by default as many as in the encoder"
    )
    parser.add_argument("--num-attention-heads", type=positive, default=4, help="of a new model")
    parser.add_argument(
        "--intermediate-size", type=positive, help="by default 4 times the hidden size"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="outside of attention weights")
    parser.add_argument(
        "--num-beams", type=positive, default=1, help="to generate with; 1 is greedy search"
    )
    parser.add_argument("--eval-batch-size", type=positive, default=64, help="pairs per batch")
    parser.add_argument(
        "--curve-pairs",
        type=positive,
        default=200,
        help="dev pairs to generate from while training",
    )
    parser.add_argument("--samples", type=positive, default=3, help="number of these to print")
    parser.add_argument("--seed", type=int, default=0, help="for weights, order, dropout")
    add_training_arguments(
        parser, epochs=2, learning_rate=1.5e-3, evaluate_every=250, save_every=500
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
