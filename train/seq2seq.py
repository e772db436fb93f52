"""Train an encoder-decoder from scratch on pairs of texts: `python -m train.seq2seq --train FILE`.

FILE has a source, a tab and its target on every line, as :mod:`train.pairs` says. The steps, each
one call in :func:`run`: pairs, one tokenizer for both sides, a new model, the training loop, and at
the end the translations of the dev file with their loss, exact matches, BLEU and chrF. The defaults
suit some ten thousand short pairs and two cores.

Until the decoder has learnt where to attend in the source, it generates likely sentences that have
nothing to do with it. On the demo's pairs it learns that several times sooner with absolute
positions, Marian's or BART's, than with T5's relative ones.
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
from minitransformer.tokenization.loading import library
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
# What a new tokenizer is made by, by default.
_NEW_TOKENIZER = {"vocab_size": 4000, "algorithm": "bpe"}


def main(argv: Sequence[str] | None = None, *, again: str = "the same command and --resume") -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it.

    `again` is what to type to go on after that.
    """
    arguments = _parser().parse_args(argv)
    return run_job(lambda: run(arguments, again))


def run(arguments: argparse.Namespace, again: str) -> int:
    """The job, top to bottom."""
    config = training_config(arguments)
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    # Before anything is written: an output that holds another run must stay as it is.
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
        print(f"stopped after step {progress.step}; go on with {again}")
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
    """The class named by `--architecture`, with new weights.

    The decoder begins with the padding token, as Marian's and T5's always do, and ends with what
    the tokenizer puts behind a text.
    """
    architecture = ARCHITECTURES[arguments.architecture]
    width, heads = arguments.hidden_size, arguments.num_attention_heads
    inner = arguments.intermediate_size or 4 * width
    longest = arguments.max_length + 1  # the decoder's first token is not of the text
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
            raise ValueError(f"--hidden-size {width} is no multiple of {heads} attention heads")
        sizes |= {"head_size": width // heads}
    else:
        sizes |= {
            "num_decoder_attention_heads": heads,
            "decoder_intermediate_size": inner,
            "max_position_embeddings": longest,
            "bos_token_id": None,
            # About 0.05 for the default width. With 0.02, the families' own, it takes longer until
            # the decoder attends to the source; with 0.09 a little longer too.
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
    """Batches of the pairs of which both sides fit; a cut one would teach to leave out the end.

    Raises:
        ValueError: none fits.
    """
    limit = arguments.max_length
    sources, targets = _encode(tokenizer, pairs)
    sides = zip(sources.encodings, targets.encodings, strict=True)
    lengths = [max(len(source), len(target)) for source, target in sides]
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]
    if not fitting:
        raise ValueError(
            f"--max-length {limit}: every pair of {arguments.train} is longer, the shortest has "
            f"{min(lengths)} tokens"
        )
    left_out = len(pairs) - len(fitting)
    print(f"train: {len(fitting):,} pairs ({left_out:,} left out, longer than {limit} tokens)")
    return _batches(tokenizer, fitting, arguments.batch_size, arguments.seed)


class Scorer:
    """Translates the dev file, as the arguments say, and scores the translations.

    Args:
        arguments: of the job.
        model, tokenizer: to be scored.
        config: device and precision.
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
        """The loss of the dev file, and the exact matches among its first pairs.

        Returns:
            `loss`, nats a token; `exact`; `samples`, the first translations. None if `should_stop`
            said so.
        """
        first = self.pairs[: self.arguments.curve_pairs]
        loss = self.loss(should_stop)
        generated = self.translate(first, should_stop)
        if loss is None or generated is None:
            return None
        exact = exact_match(generated, [pair.target for pair in first])
        return {"loss": loss, "exact": exact, "samples": generated[: self.arguments.samples]}

    def loss(self, should_stop: Callable[[], bool] = lambda: False) -> float | None:
        """Nats a token of the targets, of which each is predicted from those before it.

        None if `should_stop` said so.
        """
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
        """What the model makes of the sources; None if `should_stop` said so."""
        size = self.arguments.eval_batch_size
        translation = Translation(self.model, self.tokenizer, batch_size=size)
        device = next(self.model.parameters()).device
        # The texts of a call are sorted by length: a call of some batches has little padding.
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
        """Print the translations of an evaluation, under what they should be."""
        if "eval_loss" not in record:
            return
        figures = f"loss {record['eval_loss']:.4f}, exact {record['eval_exact']:.1%}"
        lines = [f"step {progress.step}: {figures}"]
        for pair, generated in zip(self.pairs, record["eval_samples"], strict=False):
            lines += [f"  | {pair.source}", f"  = {pair.target}", f"  > {generated}"]
        tqdm.write("\n".join(lines))

    def report(self, steps: int) -> Record:
        """Score all of the dev file, print the table, and write the translations."""
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
        """Exact matches, and BLEU and chrF where sacrebleu is installed."""
        targets = [pair.target for pair in self.pairs]
        exact = {"exact": exact_match(generated, targets)}
        return exact if why_no_scores() else exact | bleu_and_chrf(generated, targets)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of texts that are, but for white space around them, what they should be."""
    pairs = zip(hypotheses, references, strict=True)
    return sum(generated.strip() == right.strip() for generated, right in pairs) / len(references)


def bleu_and_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of whole corpora, with one reference.

    They are those of sacrebleu, whose numbers can be compared between papers (Post 2018): what it
    does to texts before it counts is part of them.

    Returns:
        `bleu` and `chrf`, from 0 to 100, and for each the signature that says how it was computed,
        to be printed beside it.

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
    """Why BLEU and chrF cannot be computed; None where they can."""
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
    """The tokens of the sources, and those of the targets."""
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    return (
        tokenizer(sources, truncation=truncation),
        tokenizer(text_target=targets, truncation=truncation),
    )


def _end_of_text(tokenizer: Tokenizer) -> int:
    """The token that the tokenizer puts behind a target.

    Raises:
        ValueError: there is none.
    """
    last: int = tokenizer(text_target="a")["input_ids"][-1]
    if last not in tokenizer.special_ids:
        raise ValueError(
            f"{tokenizer.source} puts no token behind a text, and a decoder must learn where to "
            "end; take a tokenizer that does, as T5's, or leave --tokenizer out to train one"
        )
    return last


def _tokenizer(arguments: argparse.Namespace, pairs: Sequence[TextPair], is_new: bool) -> Tokenizer:
    """The given one, the one that this run was begun with, or a new one for both sides."""
    given = [name for name in _NEW_TOKENIZER if hasattr(arguments, name)]
    if arguments.tokenizer is not None:
        if given:
            raise ValueError(
                f"--{given[0].replace('_', '-')} has no effect beside --tokenizer, which brings "
                "its own; leave one of the two out"
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
    """What a new tokenizer is made by."""
    return {name: getattr(arguments, name, value) for name, value in _NEW_TOKENIZER.items()}


def train_tokenizer(pairs: Sequence[TextPair], vocab_size: int, algorithm: str) -> Tokenizer:
    """One vocabulary for both sides; as with T5 and Marian, `</s>` ends a text."""
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
    """Sizes, and what makes the scores mean less than they seem to."""
    tokenizer, dev_pairs = scorer.tokenizer, scorer.pairs
    known = {pair.source for pair in pairs}
    seen = sum(pair.source in known for pair in dev_pairs)
    print(f"dev: {len(dev_pairs):,} pairs ({seen:,} whose source is in the training file)")
    _, targets = _encode(tokenizer, dev_pairs)
    lost = sum(
        tokenizer.decode(ids, skip_special_tokens=True).strip() != pair.target
        for pair, ids in zip(dev_pairs, targets["input_ids"], strict=True)
    )
    if lost:
        print(f"{lost:,} of the dev targets cannot be generated with this tokenizer as they stand")
    parameters = sum(parameter.numel() for parameter in scorer.model.parameters())
    print(f"{parameters:,} parameters; a vocabulary of {tokenizer.vocab_size:,} for both sides")
    if reason := why_no_scores():
        print(f"there will be exact matches alone: {reason}")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m train.seq2seq", description="Train an encoder-decoder on pairs of texts."
    )
    parser.add_argument("--train", type=Path, required=True, help="lines of source, tab, target")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to score on")
    parser.add_argument("--tokenizer", help="directory of one; trained on the pairs if not given")
    # No default in the namespace: what was not given cannot contradict --tokenizer.
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
    parser.add_argument("--max-length", type=positive, default=64, help="tokens a source or target")
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs")
    parser.add_argument("--hidden-size", type=positive, default=128, help="of the model")
    parser.add_argument("--num-hidden-layers", type=positive, default=2, help="of the encoder")
    parser.add_argument(
        "--num-decoder-layers", type=positive, help="as many as the encoder's if not given"
    )
    parser.add_argument("--num-attention-heads", type=positive, default=4, help="of the model")
    parser.add_argument(
        "--intermediate-size", type=positive, help="4 times the hidden size if not given"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="outside the attention maps")
    parser.add_argument("--num-beams", type=positive, default=1, help="of a translation; 1: greedy")
    parser.add_argument("--eval-batch-size", type=positive, default=64, help="pairs")
    parser.add_argument(
        "--curve-pairs", type=positive, default=200, help="dev pairs translated while training"
    )
    parser.add_argument("--samples", type=positive, default=3, help="translations printed of them")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, dropout")
    add_training_arguments(
        parser, epochs=2, learning_rate=1.5e-3, evaluate_every=250, save_every=500
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
