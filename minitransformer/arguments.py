"""The argument parser of every command: no abbreviations, and a hint for every unknown option.

An option of transformers' scripts is answered with ours (:data:`OTHER_NAMES`) or, if nothing here
corresponds to it, with the reason (:data:`NOT_NEEDED`).
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from minitransformer.names import cut, shortened, unexpected_name

# Our options, each with the names that it has elsewhere, above all in transformers' scripts. Of
# several options with the same other name, the first one that the command has is meant.
OTHER_NAMES = {
    "--accumulate": "gradient-accumulation-steps grad-accum accumulation-steps",
    "--architecture": "model-type",
    "--attention": "attn-implementation",
    "--best-metric": "metric-for-best-model",
    "--clip-norm": "max-grad-norm grad-clip clip-grad-norm",
    "--compile": "torch-compile",
    "--dev": "validation-file val-file eval-file test-file dev-file predict-file",
    "--device": "no-cuda use-cpu use-cuda cuda gpu",
    "--epochs": "num-train-epochs num-epochs n-epochs",
    "--eval-batch-size": "per-device-eval-batch-size per-gpu-eval-batch-size",
    "--batch-size": "per-device-train-batch-size per-gpu-train-batch-size train-batch-size bs "
    "per-device-eval-batch-size per-gpu-eval-batch-size eval-batch-size",
    "--evaluate-every": "eval-steps eval-strategy evaluation-strategy",
    "--freeze": "freeze-layers freeze-encoder freeze-embeddings",
    "--file": "input input-file text-file",
    "--hidden-size": "n-embd d-model",
    "--intermediate-size": "d-ff ffn-dim n-inner",
    "--keep-checkpoints": "save-total-limit",
    "--label-smoothing": "label-smoothing-factor",
    "--learning-rate": "lr",
    "--mask-probability": "mlm-probability",
    "--max-answer-tokens": "max-answer-length",
    "--max-length": "max-seq-length max-seq-len max-source-length max-target-length block-size",
    "--max-new-tokens": "max-tokens",
    "--max-question-length": "max-query-length",
    "--max-steps": "max-train-steps",
    "--model": "model-name-or-path model-name model-path model-checkpoint config-name",
    "--num-attention-heads": "n-head num-heads",
    "--num-hidden-layers": "n-layer num-layers",
    "--out": "output-file",
    "--output": "output-dir out-dir",
    "--patience": "early-stopping-patience",
    "--pooling": "pooling-strategy",
    "--prefix": "source-prefix",
    "--resume": "resume-from-checkpoint",
    "--sample": "do-sample",
    "--save-every": "save-steps save-strategy",
    "--schedule": "lr-scheduler-type lr-scheduler scheduler",
    "--src-lang": "source-lang",
    "--stop": "stop-strings stop-token",
    "--stride": "doc-stride",
    "--tgt-lang": "target-lang",
    "--threshold": "null-score-diff-threshold",
    "--tokenizer": "tokenizer-name",
    "--top-k": "n-best-size",
    "--train": "train-file train-data-file dataset-name input input-file",
    "--text": "train-file train-data-file dataset-name input input-file",
    "--warmup": "warmup-ratio warmup-steps num-warmup-steps",
    "--whole-words": "wwm whole-word-mask",
}
# Options of transformers' scripts that nothing here corresponds to: why they can be left out.
NOT_NEEDED = {
    "adam-beta1 adam-beta2 adam-epsilon optim": "the optimizer is AdamW",
    "dataloader-num-workers overwrite-cache preprocessing-num-workers": "texts are tokenized once, "
    "at the start, and kept in memory",
    "dataset-config-name": "the data are files on this machine",
    "ddp-backend deepspeed fsdp local-rank": "a job runs in one process, on one device",
    "disable-tqdm": "2> /dev/null silences the bars",
    "do-eval do-predict do-train": "a job always trains, and evaluates on the dev set",
    "group-by-length pad-to-max-length": "a batch is padded to its longest sequence only",
    "hub-model-id hub-token push-to-hub": "nothing is uploaded; transformers loads what is saved",
    "load-best-model-at-end": "--best-metric and --patience keep the best weights",
    "logging-dir logging-steps logging-strategy report-to run-name tensorboard wandb": "a run "
    "writes its losses and metrics to metrics.jsonl in --output",
    "overwrite-output-dir": "a run is never overwritten; choose another --output, or --resume",
    "remove-unused-columns task-name version-2-with-negative": "the data decide",
    "trust-remote-code": "no code from a checkpoint runs",
    "use-fast-tokenizer": "every tokenizer is a fast one",
}

# How the commands that are built now are called; None: each as it calls itself.
_called: ContextVar[str | None] = ContextVar("called", default=None)


@contextmanager
def called_as(command: str) -> Iterator[None]:
    """Make the parsers that are built inside call themselves `command`.

    `minitransformer train mlm` runs the parser of `python -m train.mlm`.
    """
    before = _called.set(command)
    try:
        yield
    finally:
        _called.reset(before)


def positive(text: str) -> int:
    """Parse an integer of at least 1; for argparse's `type`."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{shortened(text)} must be an integer of at least 1")
    return int(text)


def device(text: str) -> str:
    """Check that PyTorch has this device; for argparse's `type`."""
    if text.split(":")[0] not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is unknown; choose cpu or cuda")
    if text != "cpu":
        import torch  # takes seconds, which --help can do without

        if not torch.cuda.is_available():
            raise argparse.ArgumentTypeError(
                f"{shortened(text)}: PyTorch finds no CUDA device here; choose cpu"
            )
    return text


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse's parser, except that the error for `--lr` names `--learning-rate`.

    Unknown options are reported before missing ones, and all of them at once. The arguments of a
    parser that stores them in `words` may stand before, between and after its options.
    """

    def __init__(self, *, prog: str, **settings: Any) -> None:
        super().__init__(
            prog=_called.get() or prog,
            allow_abbrev=False,
            formatter_class=_Formatter,
            **settings,
        )

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments, or exit with status 2 and lines that say what is wrong."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)  # what follows is no option
        options = (word.split("=")[0] for word in given[:end] if word.startswith("--"))
        # A text with a space in it is no option, whatever it begins with.
        unknown = [o for o in options if o not in self._option_string_actions and " " not in o]
        if unknown:
            self.error("\n".join(map(self._explained, dict.fromkeys(unknown))))
        parsed, left = self.parse_known_args(given[:end], namespace)
        for word in left:
            if word.startswith("-") and word != "-" and " " not in word:
                self.error(self._explained(word))
        for word in [*left, *given[end + 1 :]]:
            if not hasattr(parsed, "words"):
                self.error(f"unexpected argument {shortened(word)}; quote a text with spaces")
            parsed.words.append(word)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the message, whose lines may echo an argument of any length.

        The options are not listed: a job has so many that they would hide the message.
        """
        lines = [f"error: {cut(line, limit=800)}\n" for line in message.splitlines()]
        self.exit(2, f"usage: {self.prog} [--help] ...\n" + "".join(lines))

    def _explained(self, option: str) -> str:
        """What to type instead of an option that this parser does not have."""
        name = option.lstrip("-").replace("_", "-").lower()
        names = [ours for ours, others in OTHER_NAMES.items() if name in others.split()]
        for ours in (f"--{name}", *names):
            if (action := self._option_string_actions.get(ours)) is not None:
                return f"unknown option {shortened(option)}; here it is {ours}: {action.help}"
        for others, reason in NOT_NEEDED.items():
            if name in others.split():
                return f"unknown option {shortened(option)}; leave it out: {reason}"
        known = sorted(known for known in self._option_string_actions if known.startswith("--"))
        return unexpected_name("option", option, known)
