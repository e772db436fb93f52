"""The command `minitransformer VERB`, a thin layer over the functions that do the work.

A verb that asks a model about texts is a row of `TEXT_VERBS`, any other one a row of `VERBS`.
`minitransformer train JOB` runs a job of `train/`.
"""

import importlib
import json
import os
import re
import shlex
import sys
import warnings
from argparse import SUPPRESS, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minitransformer.arguments import Parser, called_as, device, positive
from minitransformer.hub import BUNDLED
from minitransformer.inputs import answer_in_batches, read_source, read_whole
from minitransformer.names import cut, shortened, unexpected_name
from minitransformer.version import __version__

JOBS = {
    "mlm": "a RoBERTa on masked words, from scratch or pretrained",
    "lm": "a GPT-2 on plain text",
    "seq2seq": "an encoder-decoder on pairs of texts",
    "classify": "a model that classifies texts",
    "tag": "a model that finds entities",
    "qa": "a model that finds answers (SQuAD)",
}
_PATH = "a checkpoint: a directory, a run that may not have ended, or a name on the hub"
_OR_BUNDLED = (
    f"{_PATH}; without it, {BUNDLED} answers, which comes with the package. An argument that "
    "contains a space or a mask is a text, unless it is a directory"
)
# The exit statuses of a process that was ended by the signals SIGINT and SIGPIPE.
_INTERRUPTED, _PIPE_CLOSED = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status: 0 for success, 1 for an error.

    Raises:
        SystemExit: with status 2 if the arguments are wrong, with 0 after `VERB --help`.
    """
    try:
        with _warnings_in_one_line():
            status = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # such as `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if words[0] == "--version":
        print(f"minitransformer {__version__}")
        return 0
    name, *rest = words
    if name == "train":
        return _train(rest)
    if name == "exercise":
        return _exercise(rest)
    verb = VERBS.get(name)
    if verb is None:
        Parser(prog="minitransformer").error(_no_verb(name))
    description = f"{verb.help[0].upper()}{verb.help[1:]}."
    parser = Parser(prog=f"minitransformer {name}", description=description)
    verb.add_options(parser)
    if isinstance(verb, TextVerb):
        _add_texts(parser, verb)
        arguments = parser.parse_args(rest)
        arguments.verb, arguments.task = name, getattr(arguments, "task", verb.task)
        _split_path_and_texts(arguments, parser, may_omit_path=verb.bundled)
        return _ask(verb, arguments)
    return verb.run(parser.parse_args(rest))


def _help() -> str:
    verbs = {name: verb.help for name, verb in VERBS.items()}
    verbs["exercise"] = f"write a part of a transformer, and be told the mistake: {ACTIONS}"
    verbs["train"] = f"train a model: {', '.join(JOBS)}"
    lines = [f"  {name:12}{text}" for name, text in verbs.items()]
    return (
        "usage: minitransformer VERB ...\n\nTransformers from scratch.\n\nverbs:\n"
        + "\n".join(lines)
        + "\n\nminitransformer VERB --help shows the options of a verb; --version, the version.\n"
    )


def _no_verb(name: str) -> str:
    """The message for an unknown verb: the one whose task or job has this name, or the nearest."""
    from minitransformer.tasks.pipeline import ALIASES

    meant = {"text-generation": "generate", "text2text-generation": "generate"}
    meant |= {verb.task: known for known, verb in TEXT_VERBS.items() if verb.task}
    meant |= {alias: meant[task] for alias, task in ALIASES.items() if task in meant}
    meant |= {job: f"train {job}" for job in JOBS}
    return unexpected_name("verb", name, [*VERBS, "exercise", "train"], guess=meant.get(name))


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        yield


# ---- verbs that ask a model about texts ----


@dataclass(frozen=True)
class TextVerb:
    """A verb that prints the result of a task for each text.

    Attributes:
        help: what it does.
        task: of `pipeline`.
        add_options: adds its own options to the parser.
        ask: called with the task, some texts, the index of the first of them, and the arguments;
            returns a result for each text.
        show: the lines that are printed for a text and its result.
        bundled: whether the checkpoint that comes with the package can answer.
        gap: whether a blank line separates what is printed for two texts.
    """

    help: str
    task: str
    add_options: Callable[[Parser], None]
    ask: Callable[[Any, list[str], int, Namespace], Sequence[Any]]
    show: Callable[[str, Any], str]
    bundled: bool = False
    gap: bool = False


def _add_texts(parser: Parser, verb: TextVerb) -> None:
    """Add the checkpoint, the texts, and what all these verbs have in common."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PATH text",
        help=f"PATH: {_OR_BUNDLED if verb.bundled else _PATH}",
    )
    parser.add_argument(
        "--file", help="a UTF-8 file with one text on each line; - is standard input"
    )
    parser.add_argument("--field", help="the lines are JSON objects, and this field is the text")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each text")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--plain", action="store_true", help="run the plain model, without optimize()"
    )


def _split_path_and_texts(arguments: Namespace, parser: Parser, *, may_omit_path: bool) -> None:
    """Set `path` and `texts`, which argparse cannot tell apart."""
    words = arguments.words
    if words and (_is_path(words[0]) or not may_omit_path):
        arguments.path, arguments.texts = words[0], words[1:] + getattr(arguments, "question", [])
    elif may_omit_path:
        arguments.path, arguments.texts = BUNDLED, words
        print(f"no checkpoint was given; using {BUNDLED}", file=sys.stderr)
    else:
        parser.error("the following arguments are required: PATH, a checkpoint")
    for word in words:
        if os.path.isfile(word):
            parser.error(
                f"{shortened(word)} is a file, not a checkpoint or a text; --file names one with "
                "texts"
            )


def _is_path(word: str) -> bool:
    """Whether an argument names a checkpoint, and is not a text for the bundled one."""
    return os.path.isdir(word) or not re.search(r"\s|<mask>|\[MASK\]|^-?$", word)


def _ask(verb: TextVerb, arguments: Namespace) -> int:
    """Print the result of every text, in their order, as soon as it is there."""
    from minitransformer.tasks import pipeline

    with _first_argument_explained(verb, arguments):
        source = read_source(arguments.texts, arguments.file, arguments.field)
        name = arguments.task or _generation_task(arguments.path)
        task = pipeline(name, arguments.path, device=arguments.device, optimize=not arguments.plain)
    if getattr(arguments, "stream", False):
        return _stream(task, arguments)
    gap = False

    def ask(texts: list[str], first: int) -> Sequence[Any]:
        return verb.ask(task, texts, first, arguments)

    for text, result in answer_in_batches(source, task.batch_size, ask):
        if arguments.json:
            print(json.dumps(result, ensure_ascii=False), flush=True)
        else:
            print("\n" * gap + verb.show(text, result), flush=True)
            gap = verb.gap
    return 0


@contextmanager
def _first_argument_explained(verb: TextVerb, arguments: Namespace) -> Iterator[None]:
    """Say in errors that the first argument is the checkpoint, if it may be meant as a text."""
    try:
        yield
    except ValueError as error:
        path = arguments.path
        if path == BUNDLED or "/" in path or os.path.exists(path):
            raise
        checkpoint = BUNDLED if verb.bundled else "PATH"
        raise ValueError(
            f"{error}. The first argument, {shortened(path)}, names the checkpoint; if it is a "
            f"text, put the checkpoint before it: minitransformer {arguments.verb} {checkpoint} "
            f"{cut(shlex.quote(path))}"
        ) from error


def _add_top_k(default: int, what: str) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        parser.add_argument("--top-k", type=positive, default=default, help=what)

    return add


def _show_fill_mask(text: str, answers: list[Any]) -> str:
    masks = []
    for mask in [answers] if isinstance(answers[0], dict) else answers:
        rows = [
            f"  {answer['score']:6.1%}  {answer['token_str'].strip():16}{answer['sequence']}"
            for answer in mask
        ]
        masks.append("\n".join(rows))
    return text + "\n" + "\n\n".join(masks)


def _classify(task: Any, texts: list[str], _first: int, arguments: Namespace) -> Sequence[Any]:
    answers = task(texts, top_k=arguments.top_k)
    return [[answer] if isinstance(answer, dict) else answer for answer in answers]


def _show_classes(text: str, answers: list[Any]) -> str:
    # The score of a regression is no probability.
    rows = [f"  {answer['score']:8.4f}  {answer['label']}" for answer in answers]
    return "\n".join([text, *rows])


def _add_tag(parser: Parser) -> None:
    parser.add_argument(
        "--aggregation-strategy",
        choices=("none", "simple", "first", "average", "max"),
        default="simple",
        help="none: the tokens; simple: entities of tokens; the others: entities of whole words",
    )


def _show_entities(text: str, entities: list[Any]) -> str:
    rows = [
        f"  {entity['score']:6.1%}  {entity.get('entity_group') or entity['entity']:8}"
        f"{entity['word']}  [{entity['start']}:{entity['end']}]"
        for entity in entities
    ]
    return "\n".join([text, *(rows or ["  (no entity)"])])


def _add_embed(parser: Parser) -> None:
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls"),
        default="mean",
        help="the mean over the vectors of all tokens, or the vector of the first one",
    )


def _add_answer(parser: Parser) -> None:
    parser.add_argument(
        "--question", action="append", default=[], help="the same as a text; may be repeated"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--context", help="the text to search, of any length")
    source.add_argument("--context-file", help="a UTF-8 file with that text; - is standard input")
    parser.add_argument("--top-k", type=positive, default=1, help="answers per question")
    parser.add_argument(
        "--threshold",
        type=float,
        help="threshold for 'no answer', as tuned by train.qa; by default always answer",
    )


def _answer(task: Any, questions: list[str], _first: int, arguments: Namespace) -> Sequence[Any]:
    if arguments.context is None:
        arguments.context = read_whole(arguments.context_file)
    return task(
        questions,
        arguments.context,
        top_k=arguments.top_k,
        may_have_no_answer=arguments.threshold is not None,
        threshold=arguments.threshold or 0.0,
    )


def _show_answers(question: str, answers: Any) -> str:
    rows = [
        f"  {answer['score']:6.1%}  {answer['answer'] or '(no answer)'}  "
        f"[{answer['start']}:{answer['end']}]"
        for answer in ([answers] if isinstance(answers, dict) else answers)
    ]
    return "\n".join([question, *rows])


# ---- verbs that generate ----

# The options with an integer, a number or a text. The first two kinds are fields of
# GenerationConfig.
_INTEGER_OPTIONS = {
    "max_new_tokens": "the most tokens to generate; required if the checkpoint sets no limit",
    "max_length": "the same limit, but including the prompt (encoder-decoders: the start token)",
    "num_beams": "number of beams; 1 is greedy search",
    "num_return_sequences": "number of results for each text",
    "top_k": "sample from this many of the likeliest tokens",
    "no_repeat_ngram_size": "no sequence of this many tokens is generated twice",
}
_FLOAT_OPTIONS = {
    "temperature": "divides the logits before sampling",
    "top_p": "sample from the likeliest tokens, up to this total probability",
    "repetition_penalty": "above 1: lowers the scores of tokens that have already occurred",
    "length_penalty": "for beam search; above 0 favours longer texts",
}
_TEXT_OPTIONS = {
    "prefix": "put before every text instead of the checkpoint's prefix",
    "src_lang": "source language of a translation, as the checkpoint names it",
    "tgt_lang": "target language of a translation",
}
_FIELDS = (*_INTEGER_OPTIONS, *_FLOAT_OPTIONS, *_TEXT_OPTIONS, "do_sample", "stop_strings")


def _add_generate(parser: Parser) -> None:
    parser.add_argument(
        "--task",
        help="text-generation, text2text-generation, summarization, translation, "
        "translation_en_to_de; by default the task of the checkpoint's family",
    )
    _add_generation_options(parser)


def _add_generation_options(parser: Parser) -> None:
    for names, kind in ((_INTEGER_OPTIONS, int), (_FLOAT_OPTIONS, float), (_TEXT_OPTIONS, str)):
        for name, explanation in names.items():
            # An option that is not given overrides nothing in the checkpoint.
            parser.add_argument(_option(name), type=kind, help=explanation, default=SUPPRESS)
    parser.add_argument(
        "--sample",
        dest="do_sample",
        action=BooleanOptionalAction,
        default=SUPPRESS,
        help="sample the tokens, or take the likeliest; by default as the checkpoint says",
    )
    parser.add_argument(
        "--stop",
        dest="stop_strings",
        action="append",
        default=SUPPRESS,
        help="generation stops at this text; may be repeated",
    )
    parser.add_argument("--seed", type=int, help="makes sampling reproducible")
    parser.add_argument("--stream", action="store_true", help="print one text as it is generated")


def _generation_task(path: str) -> str:
    from minitransformer.tasks.pipeline import generation_task

    return generation_task(path)


def _generate(task: Any, texts: list[str], first: int, arguments: Namespace) -> Sequence[Any]:
    """The answers to each text, in a list each; another batch has another seed."""
    seed = None if arguments.seed is None else arguments.seed + first
    with _option_names_in_errors(task, arguments):
        results = task(texts, seed=seed, **_generation_fields(task, arguments))
    return [[result] if isinstance(result, dict) else result for result in results]


def _stream(task: Any, arguments: Namespace) -> int:
    if arguments.json:
        raise ValueError("--stream prints a text as it is generated; leave out --stream or --json")
    if len(arguments.texts) != 1:
        raise ValueError(f"--stream prints one text, not {len(arguments.texts)}")
    [text] = arguments.texts
    with _option_names_in_errors(task, arguments):
        fields = _generation_fields(task, arguments)
        pieces = task.stream(text, seed=arguments.seed, **fields)
    if task.name == "text-generation":
        print(text, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _generation_fields(task: Any, arguments: Namespace) -> dict[str, Any]:
    """The fields that options set."""
    fields = {name: value for name, value in vars(arguments).items() if name in _FIELDS}
    if not hasattr(task, "stream"):
        raise ValueError(f"--task {task.name} does not generate text")
    if task.name != "translation" and {"src_lang", "tgt_lang"} & fields.keys():
        raise ValueError(
            "--src-lang and --tgt-lang are for translation: `minitransformer translate`, or "
            f"--task translation, not {task.name}"
        )
    return fields


def _show_block(_text: str, results: list[dict[str, str]]) -> str:
    """The results of a text, separated by blank lines, because one may have several lines."""
    return "\n\n".join(" ".join(result.values()) for result in results)


def _show_lines(_text: str, results: list[dict[str, str]]) -> str:
    """One line for each result, so that the lines of two files correspond."""
    return "\n".join(" ".join(" ".join(result.values()).split("\n")) for result in results)


def _option(field: str) -> str:
    """The option that sets a field."""
    others = {"do_sample": "--sample", "stop_strings": "--stop"}
    return others.get(field, f"--{field.replace('_', '-')}")


@contextmanager
def _option_names_in_errors(task: Any, arguments: Namespace) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        message = _with_option_names(str(error))
        if arguments.verb != "generate":  # the only one with this option
            message = message.replace("--task ", "`generate` with --task ")
        raise ValueError(message) from error


def _with_option_names(message: str) -> str:
    """An error message with the names of options in place of those of fields.

    Example:
        >>> _with_option_names("top_p=0.5 has no effect without do_sample=True; add that")
        '--top-p 0.5 has no effect without --sample; add that'
    """
    for field in (*_FIELDS, "seed"):
        option, alone = _option(field), rf"(?<![\w./'\"-]){field}"
        message = re.sub(rf"{alone}=None", f"no {option}", message)
        message = re.sub(rf"{alone}=True", option, message)
        message = re.sub(rf"{alone}=False", option.replace("--", "--no-", 1), message)
        message = re.sub(rf"{alone}=", f"{option} ", message)
        if "_" in field:  # "a prefix" and "the seed" are plain English
            message = re.sub(rf"{alone}(?![\w.'\"-])", option, message)
    return re.sub(r"pipeline\('(\w+)', path\)", r"--task \1", message)


TEXT_VERBS = {
    "fill-mask": TextVerb(
        "rank the tokens for each mask in a text, <mask> or [MASK]",
        "fill-mask",
        _add_top_k(5, "predictions per mask"),
        lambda task, texts, _, arguments: task(texts, top_k=arguments.top_k),
        _show_fill_mask,
        bundled=True,
        gap=True,
    ),
    "answer": TextVerb(
        "find the answers to questions in a text",
        "question-answering",
        _add_answer,
        _answer,
        _show_answers,
    ),
    "classify": TextVerb(
        "name the class of a text",
        "text-classification",
        _add_top_k(1, "classes per text"),
        _classify,
        _show_classes,
    ),
    "tag": TextVerb(
        "find the entities in a text",
        "token-classification",
        _add_tag,
        lambda task, texts, _, arguments: task(
            texts, aggregation_strategy=arguments.aggregation_strategy
        ),
        _show_entities,
    ),
    "embed": TextVerb(
        "print the vector of a text",
        "feature-extraction",
        _add_embed,
        lambda task, texts, _, arguments: task(texts, pooling=arguments.pooling).tolist(),
        lambda _, vector: " ".join(f"{number:.6g}" for number in vector),
        bundled=True,
    ),
    "generate": TextVerb(
        "continue a text, or do another --task that generates",
        "",
        _add_generate,
        _generate,
        _show_block,
        gap=True,
    ),
    "translate": TextVerb(
        "translate a text", "translation", _add_generation_options, _generate, _show_lines
    ),
    "summarize": TextVerb(
        "summarize a text", "summarization", _add_generation_options, _generate, _show_lines
    ),
}


# ---- other verbs ----


@dataclass(frozen=True)
class Verb:
    """Another verb: what it does, its options, and the function that runs it."""

    help: str
    add_options: Callable[[Parser], None]
    run: Callable[[Namespace], int]


def _add_attention(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="PATH text", help=f"PATH: {_OR_BUNDLED}")
    parser.add_argument("--pair", help="a second text")
    parser.add_argument(
        "--kind",
        choices=("encoder", "decoder", "cross"),
        help="for an encoder-decoder: which attention to draw; cross by default",
    )
    parser.add_argument(
        "--target", help="for an encoder-decoder: the target text; generated by default"
    )
    parser.add_argument("--layer", type=int, help="draw only this layer, large; counted from 0")
    parser.add_argument(
        "--out", type=Path, help="a .png, .pdf or .svg file; required without --json"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the tokens and the maps (layer, head, from, to)"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.set_defaults(parser=parser)


def _attention(arguments: Namespace) -> int:
    from minitransformer.attention_maps import attention_picture

    if arguments.out is None and not arguments.json:
        arguments.parser.error("the following arguments are required: --out, or --json")
    _split_path_and_texts(arguments, arguments.parser, may_omit_path=True)
    if len(arguments.texts) != 1:
        arguments.parser.error(
            f"there are {len(arguments.texts)} texts after the path {shortened(arguments.path)}; "
            "it must be one, and a second one is --pair"
        )
    maps = attention_picture(
        arguments.path,
        arguments.texts[0],
        arguments.out,
        pair=arguments.pair,
        kind=arguments.kind,
        target=arguments.target,
        layer=arguments.layer,
        device=arguments.device,
    )
    if not arguments.json:
        print(arguments.out)
        return 0
    layers = [*range(len(maps.maps))] if arguments.layer is None else [arguments.layer]
    print(
        json.dumps(
            {
                "from": maps.queries.tokens,
                "to": maps.keys.tokens,
                "layers": layers,
                "attention": maps.maps[layers].tolist(),
            },
            ensure_ascii=False,
        )
    )
    return 0


def _add_parity(parser: Parser) -> None:
    parser.add_argument("path", nargs="?", default=BUNDLED, metavar="PATH", help=_PATH)
    parser.add_argument(
        "--length", type=positive, default=32, help="tokens per sequence of the batch"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    help = "compare your own model, a class in a file, and name its mistake"
    parser.add_argument("--against", metavar="FILE.py:CLASS", help=help)
    help = "what --against is compared with; ours by default"
    parser.add_argument("--reference", choices=("ours", "transformers"), help=help)
    parser.add_argument("--json", action="store_true", help="print one document of JSON")
    parser.set_defaults(parser=parser)


def _parity(arguments: Namespace) -> int:
    from minitransformer.parity import TOLERANCE, check_checkpoint, checkpoint_reports

    settings = {"length": arguments.length, "device": arguments.device}
    if arguments.against is not None:
        from minitransformer.exercises.against import compare_with_file

        reference = arguments.reference or "ours"
        found = compare_with_file(
            arguments.against, arguments.path, reference=reference, **settings
        )
        print(json.dumps(found.as_dict(), indent=2) if arguments.json else found.text())
        return 0 if found.report.equal else 1
    if arguments.reference is not None:
        arguments.parser.error("--reference goes with --against FILE.py:CLASS")
    if not arguments.json:
        return 0 if check_checkpoint(arguments.path, **settings) else 1
    reports = [
        {
            "model": name,
            "dtype": str(dtype).removeprefix("torch."),
            "tolerance": TOLERANCE[dtype],
            "equal": report.equal,
            "rows": [asdict(row) for row in report.rows],
        }
        for name, dtype, report in checkpoint_reports(arguments.path, **settings)
    ]
    equal = reports[-1]["equal"]
    print(json.dumps({"equal": equal, "reports": reports}, indent=2))
    return 0 if equal else 1


def _add_curves(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the --output of a training job")
    parser.add_argument("--metric", default="eval_loss", help="a number in their metrics.jsonl")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture")


def _curves(arguments: Namespace) -> int:
    _check_jobs()
    from train.metrics import draw_curves

    draw_curves({run: run for run in arguments.runs}, arguments.out, arguments.metric)
    print(arguments.out)
    return 0


def _add_cost(parser: Parser) -> None:
    add: Any = parser.add_argument
    help = "a checkpoint, or a well-known name, which is not downloaded"
    add("--model", default="roberta-base", metavar="NAME", help=help)
    add("--length", type=positive, required=True, help="tokens of each sequence")
    add("--batch", type=positive, default=1, help="sequences")
    task: Any = parser.add_mutually_exclusive_group()
    help = "a training step instead of a call of the model"
    task.add_argument("--train", dest="task", action="store_const", const="train", help=help)
    help = "a decoded token, with --length tokens in the cache"
    task.add_argument("--decode", dest="task", action="store_const", const="decode", help=help)
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the model")
    help = "its implementation; optimized: sdpa in a model after optimize(model)"
    add("--attention", choices=["eager", "sdpa", "optimized"], default="sdpa", help=help)
    add("--threads", type=positive, help="of the CPU; by default as many as PyTorch uses")
    help = "where measured rates are kept; what it lacks is measured, for a minute a dtype"
    add("--machine", type=Path, metavar="FILE", help=help)
    add("--calibrate", action="store_true", help="measure again")
    add("--json", action="store_true", help="print one document of JSON")


def _cost(arguments: Namespace) -> int:
    import torch

    from minitransformer.cost import answer as cost

    question = cost.Question(
        config=cost.config_of(arguments.model),
        batch=arguments.batch,
        length=arguments.length,
        task=arguments.task or "read",
        dtype=arguments.dtype,
        attention=arguments.attention,
    )
    threads = arguments.threads or torch.get_num_threads()
    path = arguments.machine or cost.machine_file(threads)
    machine = cost.load_or_calibrate(path, threads, [arguments.dtype], again=arguments.calibrate)
    found = cost.answer(question, machine)
    if arguments.json:
        rows = [row._asdict() for row in found.rows]
        document = {**asdict(found), "rows": rows, "machine": machine.about}
        print(json.dumps(document, indent=2))
    else:
        print(cost.describe(question, found, machine))
    return 0


def _add_source(parser: Parser) -> None:
    parser.add_argument("name", metavar="CLASS", help="a class of a model: RobertaForMaskedLM")
    add: Any = parser.add_argument
    add("--checks", action="store_true", help="with the checks of inputs and configs")
    add("--generate", action="store_true", help="with greedy search and sampling")
    add("--train", action="store_true", help="with the loss and a training step")
    help = "its implementation; eager: the formula"
    add("--attention", choices=["eager", "sdpa"], default="sdpa", help=help)


def _source(arguments: Namespace) -> int:
    from minitransformer.source import source_of

    text = source_of(
        arguments.name,
        checks=arguments.checks,
        generate=arguments.generate,
        train=arguments.train,
        attention=arguments.attention,
    )
    print(text, end="")
    return 0


VERBS: dict[str, TextVerb | Verb] = {
    **TEXT_VERBS,
    "attention": Verb("draw the attention maps of a text", _add_attention, _attention),
    "parity": Verb("compare a checkpoint here and in transformers", _add_parity, _parity),
    "curves": Verb("draw a metric of several runs in one picture", _add_curves, _curves),
    "cost": Verb("predict time and memory for any length", _add_cost, _cost),
    "source": Verb("print a model as one file of plain PyTorch", _add_source, _source),
}


# ---- verbs with an action ----


def _add_exercise_list(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one document of JSON")


def _exercise_list(arguments: Namespace) -> int:
    from minitransformer.exercises.catalogue import EXERCISES

    rows = [
        {"name": e.name, "title": e.title, "mistakes": len(e.mistakes)} for e in EXERCISES.values()
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max(map(len, EXERCISES))
    for number, row in enumerate(rows, start=1):
        print(f"{number:3}  {row['name']:{width}}  {row['title']}")
    return 0


def _add_exercise_start(parser: Parser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="an exercise; all: every one")
    parser.add_argument("--out", type=Path, default=Path(), help="the directory; made if missing")
    parser.add_argument(
        "--tests", action="store_true", help="write test_exercises.py too, which pytest runs"
    )


def _exercise_start(arguments: Namespace) -> int:
    from minitransformer.exercises.catalogue import start

    paths = start(arguments.names, arguments.out, tests=arguments.tests)
    for path in paths:
        print(path)
    print(f"then: minitransformer exercise check {paths[0]}", file=sys.stderr)
    return 0


def _add_exercise_check(parser: Parser) -> None:
    help = "a solution, or a directory with files of `exercise start`"
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help=help)
    parser.add_argument("--exercise", metavar="NAME", help="by default all that the file defines")
    parser.add_argument("--time-limit", type=positive, help="seconds for each; 60 by default")
    parser.add_argument("--json", action="store_true", help="print one document of JSON")
    parser.set_defaults(parser=parser)


def _exercise_check(arguments: Namespace) -> int:
    """Exit status 0: all are right; 1: one is not; 2: there is nothing to check."""
    from minitransformer.exercises.catalogue import exercises_in, find, solutions_in
    from minitransformer.exercises.checking import TIME_LIMIT, Report, check

    try:
        only = [find(arguments.exercise)] if arguments.exercise else None
        files = [file for path in arguments.files for file in solutions_in(path)]
    except (ValueError, OSError) as error:
        arguments.parser.error(str(error))
    reports = []
    for file in files:
        try:
            exercises = only or exercises_in(file)
        except (ValueError, OSError) as error:
            if len(files) == 1:
                arguments.parser.error(str(error))
            found = iter([Report("no exercise", str(file), failure=str(error))])
        else:
            limit = arguments.time_limit or TIME_LIMIT
            found = (check(exercise, file, time_limit=limit) for exercise in exercises)
        for report in found:  # each as soon as it is known
            reports.append(report)
            if not arguments.json:
                print(report.text(), end="\n\n" if len(files) > 1 else "\n", flush=True)
    passed = all(report.passed for report in reports)
    if arguments.json:
        document = {"passed": passed, "reports": [report.as_dict() for report in reports]}
        print(json.dumps(document, indent=2))
    return 0 if passed else 1


EXERCISE_ACTIONS = {
    "list": Verb("list the exercises in the order of a course", _add_exercise_list, _exercise_list),
    "start": Verb("write the file of an exercise", _add_exercise_start, _exercise_start),
    "check": Verb("check a solution and name its mistake", _add_exercise_check, _exercise_check),
}
ACTIONS = ", ".join(EXERCISE_ACTIONS)


def _exercise(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        actions = "\n".join(f"  {name:8}{a.help}" for name, a in EXERCISE_ACTIONS.items())
        print(f"usage: minitransformer exercise ACTION ...\n\nactions:\n{actions}")
        return 0
    name, *rest = words
    if name not in EXERCISE_ACTIONS:
        message = unexpected_name("action", name, EXERCISE_ACTIONS)
        Parser(prog="minitransformer exercise").error(message)
    action = EXERCISE_ACTIONS[name]
    description = f"{action.help[0].upper()}{action.help[1:]}."
    parser = Parser(prog=f"minitransformer exercise {name}", description=description)
    action.add_options(parser)
    return action.run(parser.parse_args(rest))


def _train(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        jobs = "\n".join(f"  {name:12}{text}" for name, text in JOBS.items())
        print(f"usage: minitransformer train JOB ...\n\njobs:\n{jobs}")
        return 0
    job, *rest = words
    if job not in JOBS:
        Parser(prog="minitransformer train").error(unexpected_name("job", job, JOBS))
    _check_jobs()
    with called_as(f"minitransformer train {job}"):
        return importlib.import_module(f"train.{job}").main(rest)


def _check_jobs() -> None:
    """Check that `train` is the package of the jobs, which any file train.py may hide.

    Raises:
        ImportError: it is not.
    """
    spec = find_spec("train")
    found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    if found is None or found.parents[1] != Path(__file__).resolve().parents[1]:
        raise ImportError(
            f"the jobs are the package train beside minitransformer, but `import train` finds "
            f"{found}; rename that, or run the command in another directory"
        )


if __name__ == "__main__":
    raise SystemExit(main())
