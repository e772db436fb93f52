"""Train an encoder-decoder from scratch on pairs of texts: `python -m train.seq2seq --train FILE`.

Each line of FILE contains a source, a tab and its target; see :mod:`train.pairs`. :func:`run` reads
the pairs, trains one tokenizer for both sides, makes a model, trains it, and translates the dev
file to compute loss, exact matches, BLEU and chrF. The defaults are for about ten thousand short
pairs and two cores.

Until the decoder has learnt where to attend in the source, it generates likely sentences that are
unrelated to it. On the pairs of the demo it learns that several times sooner with absolute
positions (Marian, BART) than with T5's relative ones.
"""

import argparse
import shlex
import sys
import tempfile
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
from minitransformer.tasks.base import check_vocabularies
from minitransformer.tasks.translation import Translation
from minitransformer.tokenization import BatchEncoding, Tokenizer
from minitransformer.tokenization.pipelines import library
from train.arguments import add_training_arguments, run_job, training_config
from train.config import TrainingConfig
from train.finetuning import write_results
from train.loop import Progress, Record, last_checkpoint, optimize_unless_plain, train
from train.metrics import draw_curve, try_to_draw
from train.pairs import PairBatches, TextPair, read_pairs

ARCHITECTURES: dict[str, type[Seq2SeqLM]] = {
    architecture.__name__: architecture
    for architecture in (MarianMTModel, BartForConditionalGeneration, T5ForConditionalGeneration)
}
# The default settings of a new tokenizer.
_NEW_TOKENIZER = {"vocab_size": 4000, "algorithm": "bpe"}


def main(
    argv: Sequence[str] | None = None, *, resume_with: str = "the same command and --resume"
) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it.

    `resume_with` tells the user how to resume it.
    """
    arguments = _parser().parse_args(argv)
    return run_job(lambda: run(arguments, resume_with))


def run(arguments: argparse.Namespace, resume_with: str) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    # Comes first, because it raises if --output contains another run.
    is_new = last_checkpoint(config) is None
    pairs, dev_pairs = (read_pairs(path) for path in (arguments.train, arguments.dev))
    tokenizer = _tokenizer(arguments, pairs, is_new)
    torch.manual_seed(arguments.seed)
    model = new_model(arguments, tokenizer)
    optimize_unless_plain(model, config, plain=arguments.plain)
    batches = training_batches(arguments, tokenizer, pairs)
    scorer = Scorer(arguments, model, tokenizer, config, dev_pairs)
    _print_sizes(arguments, pairs, scorer)
    if is_new:
        tokenizer.save_pretrained(config.output)

    progress = train(
        model,
        batches,
        config,
        evaluate=scorer.measure,
        callbacks=[scorer.print_samples],
        fingerprint={
            "architecture": arguments.architecture,
            "model": model.config.__dict__,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "tokenizer": arguments.tokenizer or _new_tokenizer(arguments),
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
    print(f"\nmodel, tokenizer, translations.json, report.json, loss.png: {config.output}")
    path = shlex.quote(str(config.output))
    print(f'try it: minitransformer generate {path} "..." --task translation')
    return 0


def new_model(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Seq2SeqLM:
    """A new model of the class `--architecture`.

    The decoder starts with the padding token, as Marian's and T5's always do, and ends with the
    token that the tokenizer adds to the end of a text.
    """
    architecture = ARCHITECTURES[arguments.architecture]
    width, heads = arguments.hidden_size, arguments.num_attention_heads
    inner = arguments.intermediate_size or 4 * width
    longest = arguments.max_length + 1  # the start token of the decoder is not part of the text
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
    model.generation_config = replace(
        model.generation_config, max_length=longest, num_beams=arguments.num_beams
    )
    return model


def training_batches(
    arguments: argparse.Namespace, tokenizer: Tokenizer, pairs: Sequence[TextPair]
) -> PairBatches:
    """Batches of the pairs that are short enough; truncated ones would teach to omit the end.

    Raises:
        ValueError: no pair is short enough.
    """
    limit = arguments.max_length
    sources, targets = _encode(tokenizer, pairs)
    sides = zip(sources.encodings, targets.encodings, strict=True)
    lengths = [max(len(source), len(target)) for source, target in sides]
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]
    if not fitting:
        raise ValueError(
            f"--max-length {limit}: all pairs of {arguments.train} are longer; choose at least "
            f"{min(lengths)}, the length of the shortest"
        )
    left_out = len(pairs) - len(fitting)
    print(f"train: {len(fitting):,} pairs ({left_out:,} with more than {limit} tokens left out)")
    return _batches(tokenizer, fitting, arguments.batch_size, arguments.seed)


class Scorer:
    """Translates the dev file and scores the translations.

    Args:
        arguments: of the job.
        model, tokenizer: to evaluate.
        config: for the device and the precision.
        pairs: of the dev file.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        model: Seq2SeqLM,
        tokenizer: Tokenizer,
        config: TrainingConfig,
        pairs: Sequence[TextPair],
    ) -> None:
        self.arguments = arguments
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.pairs = pairs
        self.batches = _batches(tokenizer, pairs, arguments.eval_batch_size, arguments.seed)

    def measure(self, should_stop: Callable[[], bool]) -> Record | None:
        """The loss on the dev file, and the exact matches among its first pairs.

        Returns:
            `loss` (nats per token), `exact`, and `samples`, the first translations. None if
            `should_stop` returned True.
        """
        first = self.pairs[: self.arguments.curve_pairs]
        loss = self.loss(should_stop)
        generated = self.translate(first, should_stop)
        if loss is None or generated is None:
            return None
        exact = exact_match(generated, [pair.target for pair in first])
        return {"loss": loss, "exact": exact, "samples": generated[: self.arguments.samples]}

    def loss(self, should_stop: Callable[[], bool] = lambda: False) -> float | None:
        """The mean loss in nats per target token; None if `should_stop` returned True."""
        total, count = 0.0, 0
        device = next(self.model.parameters()).device
        for index in range(self.batches.num_batches):
            if should_stop():
                return None
            batch = self.batches.batch(0, index)
            with torch.inference_mode(), self._precision(device):
                loss, tokens = self.model.loss_sum(**{n: t.to(device) for n, t in batch.items()})
            total += float(loss)
            count += int(tokens)
        return total / count

    def translate(
        self, pairs: Sequence[TextPair], should_stop: Callable[[], bool] = lambda: False
    ) -> list[str] | None:
        """Translate the sources; None if `should_stop` returned True."""
        size = self.arguments.eval_batch_size
        translation = Translation(self.model, self.tokenizer, batch_size=size)
        device = next(self.model.parameters()).device
        # A call sorts its texts by length, so calls with several batches have little padding.
        starts = range(0, len(pairs), 4 * size)
        generated: list[str] = []
        for start in tqdm(starts, desc="translating", leave=False, unit="part"):
            if should_stop():
                return None
            sources = [pair.source for pair in pairs[start : start + 4 * size]]
            with self._precision(device):
                generated += [answer["translation_text"] for answer in translation(sources)]
        return generated

    def print_samples(self, progress: Progress, record: Record) -> None:
        """Print the metrics of an evaluation and the first translations, below the targets."""
        if "eval_loss" not in record:
            return
        metrics = f"loss {record['eval_loss']:.4f}, exact {record['eval_exact']:.1%}"
        lines = [f"step {progress.step}: {metrics}"]
        for pair, generated in zip(self.pairs, record["eval_samples"], strict=False):
            lines += [f"  | {pair.source}", f"  = {pair.target}", f"  > {generated}"]
        tqdm.write("\n".join(lines))

    def report(self, steps: int) -> Record:
        """Score the whole dev file, print a table, and write the translations."""
        loss, generated = self.loss(), self.translate(self.pairs)
        assert loss is not None and generated is not None
        results = {
            "this model": {"loss": loss, **self.scores(generated)},
            "the sources, untranslated": self.scores([pair.source for pair in self.pairs]),
        }
        print(f"\n{f'{len(self.pairs):,} pairs of {self.arguments.dev}':42}  exact    BLEU    chrF")
        for name, scores in results.items():
            numbers = [scores.get(metric) for metric in ("bleu", "chrf")]
            columns = "".join(f"{'-' if n is None else f'{n:.1f}':>8}" for n in numbers)
            print(f"{name:42}{scores['exact']:>7.1%}{columns}")
        translations = [
            {"source": pair.source, "target": pair.target, "translation": text}
            for pair, text in zip(self.pairs, generated, strict=True)
        ]
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        report = {"steps": steps, "parameters": parameters, "num_beams": self.arguments.num_beams}
        files = {"translations.json": translations, "report.json": {**report, "dev": results}}
        write_results(self.config.output, files)
        return results["this model"]

    def scores(self, generated: Sequence[str]) -> Record:
        """Exact matches and, if sacrebleu is installed, BLEU and chrF."""
        targets = [pair.target for pair in self.pairs]
        exact = {"exact": exact_match(generated, targets)}
        return exact if why_no_scores() else exact | bleu_and_chrf(generated, targets)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The fraction of texts that equal their reference, ignoring white space around them."""
    pairs = zip(hypotheses, references, strict=True)
    return sum(text.strip() == reference.strip() for text, reference in pairs) / len(references)


def bleu_and_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus with one reference each.

    They are computed by sacrebleu, so that they can be compared between papers (Post 2018): the
    scores depend on how texts are tokenized.

    Returns:
        `bleu` and `chrf`, from 0 to 100, and for each its signature, which describes how it was
        computed and should be reported with it.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    metrics = _metrics()
    scores: dict[str, Any] = {}
    for name, metric in (("bleu", metrics.BLEU()), ("chrf", metrics.CHRF())):
        scores[name] = float(metric.corpus_score(list(hypotheses), [list(references)]).score)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores


def why_no_scores() -> str | None:
    """Why BLEU and chrF cannot be computed; None if they can."""
    try:
        _metrics()
    except ImportError as error:
        return str(error)
    return None


def _metrics() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ImportError("BLEU and chrF need sacrebleu: pip install sacrebleu") from error
    return metrics


def _batches(
    tokenizer: Tokenizer, pairs: Sequence[TextPair], batch_size: int, seed: int
) -> PairBatches:
    sources, targets = _encode(tokenizer, pairs, truncation=True)
    return PairBatches(
        sources, targets, pad_token_id=tokenizer.pad_token_id, batch_size=batch_size, seed=seed
    )


def _encode(
    tokenizer: Tokenizer, pairs: Sequence[TextPair], truncation: bool = False
) -> tuple[BatchEncoding, BatchEncoding]:
    """Tokenize the sources and the targets."""
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    return (
        tokenizer(sources, truncation=truncation),
        tokenizer(text_target=targets, truncation=truncation),
    )


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


def _tokenizer(arguments: argparse.Namespace, pairs: Sequence[TextPair], is_new: bool) -> Tokenizer:
    """The tokenizer that was given, that of the resumed run, or a new one for both sides."""
    given = [name for name in _NEW_TOKENIZER if hasattr(arguments, name)]
    if arguments.tokenizer is not None:
        if given:
            raise ValueError(
                f"--{given[0].replace('_', '-')} has no effect together with --tokenizer, which "
                "determines it; leave one of the two out"
            )
        tokenizer = Tokenizer.from_pretrained(arguments.tokenizer)
    elif not is_new:
        tokenizer = Tokenizer.from_pretrained(arguments.output)
    else:
        tokenizer = train_tokenizer(pairs, **_new_tokenizer(arguments))
    tokenizer.model_max_length = arguments.max_length
    tokenizer.token_types = False
    return tokenizer


def _new_tokenizer(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of a new tokenizer."""
    return {name: getattr(arguments, name, value) for name, value in _NEW_TOKENIZER.items()}


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
    _, targets = _encode(tokenizer, dev_pairs)
    lost = sum(
        tokenizer.decode(ids, skip_special_tokens=True).strip() != pair.target
        for pair, ids in zip(dev_pairs, targets["input_ids"], strict=True)
    )
    if lost:
        print(f"{lost:,} of the dev targets cannot be generated exactly with this tokenizer")
    parameters = sum(parameter.numel() for parameter in scorer.model.parameters())
    print(f"{parameters:,} parameters; a vocabulary of {tokenizer.vocab_size:,} for both sides")
    if reason := why_no_scores():
        print(f"only exact matches will be counted: {reason}")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m train.seq2seq", description="Train an encoder-decoder on pairs of texts."
    )
    parser.add_argument("--train", type=Path, required=True, help="lines of source, tab, target")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to evaluate on")
    parser.add_argument(
        "--tokenizer", help="directory of a tokenizer; by default trained on the pairs"
    )
    # Without a default in the namespace, so that only given options can contradict --tokenizer.
    parser.add_argument(
        "--vocab-size",
        type=positive,
        default=argparse.SUPPRESS,
        help="of a new tokenizer (default: 4000)",
    )
    parser.add_argument(
        "--algorithm",
        choices=("bpe", "unigram"),
        default=argparse.SUPPRESS,
        help="of a new tokenizer (default: bpe)",
    )
    parser.add_argument(
        "--architecture",
        choices=tuple(ARCHITECTURES),
        default=MarianMTModel.__name__,
        help="class of the model",
    )
    parser.add_argument(
        "--max-length", type=positive, default=64, help="tokens per source or target"
    )
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs per batch")
    parser.add_argument("--hidden-size", type=positive, default=128, help="of the model")
    parser.add_argument("--num-hidden-layers", type=positive, default=2, help="of the encoder")
    parser.add_argument(
        "--num-decoder-layers", type=positive, help="by default as many as in the encoder"
    )
    parser.add_argument("--num-attention-heads", type=positive, default=4, help="of the model")
    parser.add_argument(
        "--intermediate-size", type=positive, help="by default 4 times the hidden size"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="outside of attention weights")
    parser.add_argument(
        "--num-beams", type=positive, default=1, help="for translations; 1 is greedy search"
    )
    parser.add_argument("--eval-batch-size", type=positive, default=64, help="pairs per batch")
    parser.add_argument(
        "--curve-pairs", type=positive, default=200, help="dev pairs to translate while training"
    )
    parser.add_argument("--samples", type=positive, default=3, help="number of these to print")
    parser.add_argument("--seed", type=int, default=0, help="for weights, order, dropout")
    add_training_arguments(
        parser, epochs=2, learning_rate=1.5e-3, evaluate_every=250, save_every=500
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
