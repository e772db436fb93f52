"""The command `minitransformer <verb>`: a thin layer over the functions that do the work."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minitransformer.arguments import Parser, device, positive

# The options of `generate` that are fields of GenerationConfig.
_GENERATION = {
    "max_new_tokens": "how many tokens are written at most; needed where the checkpoint is silent",
    "max_length": "the same with the prompt counted in, which an encoder-decoder has none of",
    "num_beams": "beams of the search; 1 is greedy",
    "num_return_sequences": "answers to each text",
    "top_k": "draw among so many tokens",
    "no_repeat_ngram_size": "no sequence of so many tokens comes twice",
}
_GENERATION_NUMBERS = {
    "temperature": "divides the scores before a draw",
    "top_p": "draw among the likeliest tokens that have this probability together",
    "repetition_penalty": "above 1 lowers what was written before",
    "length_penalty": "of beams; above 0 favours length",
}
_OF_TEXTS = {
    "prefix": "put before every text in place of the checkpoint's",
    "src_lang": "of a translation, the language of the texts, in the checkpoint's words",
    "tgt_lang": "of a translation, the language that is written",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0 well, 1 not, 2 called wrongly."""
    parser = Parser(prog="minitransformer", description="Transformers from scratch.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    fill_mask = verbs.add_parser("fill-mask", help="rank the words for each mask of a text")
    fill_mask.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    fill_mask.add_argument(
        "texts", nargs="+", metavar="text", help="with at least one mask, <mask> or [MASK]"
    )
    fill_mask.add_argument("--top-k", type=positive, default=5, help="answers for each mask")
    fill_mask.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    fill_mask.add_argument("--json", action="store_true", help="print JSON")

    answer = verbs.add_parser("answer", help="mark the answers to questions in a text")
    answer.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    answer.add_argument("--question", action="append", required=True, help="may be given again")
    source = answer.add_mutually_exclusive_group(required=True)
    source.add_argument("--context", help="the text to look in, of any length")
    source.add_argument("--context-file", type=Path, help="a UTF-8 file with the text")
    answer.add_argument("--top-k", type=positive, default=1, help="answers for each question")
    answer.add_argument(
        "--threshold",
        type=float,
        help="of 'no answer', as tuned by train.qa; if not given there always is an answer",
    )
    answer.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    answer.add_argument("--json", action="store_true", help="print JSON")

    _add_generate(verbs.add_parser("generate", help="let a model write: go on, sum up, translate"))

    attention = verbs.add_parser("attention", help="draw the attention maps of a text")
    attention.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    attention.add_argument("text", help="no longer than the model can take")
    attention.add_argument("--pair", help="a second text")
    attention.add_argument(
        "--kind",
        choices=("encoder", "decoder", "cross"),
        help="of an encoder-decoder the attention to draw, cross by default",
    )
    attention.add_argument(
        "--target", help="what an encoder-decoder writes; if not given it writes itself"
    )
    attention.add_argument("--layer", type=int, help="draw this layer large, counted from 0")
    attention.add_argument("--out", type=Path, required=True, help="a .png, .pdf or .svg file")
    attention.add_argument("--device", type=device, default="cpu", help="cpu or cuda")

    parity = verbs.add_parser(
        "parity", help="compare a checkpoint's model here and in transformers"
    )
    parity.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    parity.add_argument("--length", type=positive, default=32, help="tokens a row of the batch")
    parity.add_argument("--device", type=device, default="cpu", help="cpu or cuda")

    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "fill-mask":
            return _fill_mask(
                arguments.path, arguments.texts, arguments.top_k, arguments.device, arguments.json
            )
        if arguments.verb == "answer":
            return _answer(arguments)
        if arguments.verb == "generate":
            return _generate(arguments)
        if arguments.verb == "attention":
            return _attention(arguments)
        return _parity(arguments.path, arguments.length, arguments.device)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _fill_mask(path: str, texts: list[str], top_k: int, device: str, as_json: bool) -> int:
    from minitransformer.tasks import pipeline

    results = pipeline("fill-mask", path, device=device)(texts, top_k=top_k)
    if as_json:
        _print_json(results)
        return 0
    for text, answers in zip(texts, results, strict=True):
        print(text)
        for mask in [answers] if isinstance(answers[0], dict) else answers:
            for answer in mask:
                word = answer["token_str"].strip()
                print(f"  {answer['score']:6.1%}  {word:16}{answer['sequence']}")
            print()
    return 0


def _answer(arguments: argparse.Namespace) -> int:
    from minitransformer.tasks import pipeline

    context = arguments.context
    if context is None:
        try:
            context = arguments.context_file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{arguments.context_file} is not UTF-8 ({error})") from error
    results = pipeline("question-answering", arguments.path, device=arguments.device)(
        arguments.question,
        context,
        top_k=arguments.top_k,
        may_have_no_answer=arguments.threshold is not None,
        threshold=arguments.threshold or 0.0,
    )
    if arguments.json:
        _print_json(results)
        return 0
    for question, answers in zip(arguments.question, results, strict=True):
        print(question)
        for answer in [answers] if isinstance(answers, dict) else answers:
            text = answer["answer"] or "(no answer)"
            print(f"  {answer['score']:6.1%}  {text}  [{answer['start']}:{answer['end']}]")
    return 0


def _add_generate(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    generate.add_argument("texts", nargs="+", metavar="text", help="prompts, or texts to rewrite")
    generate.add_argument(
        "--task",
        help="text-generation, text2text-generation, summarization, translation, "
        "translation_en_to_de; if not given what the checkpoint's family is for",
    )
    for names, kind in ((_GENERATION, int), (_GENERATION_NUMBERS, float), (_OF_TEXTS, str)):
        for name, explanation in names.items():
            # Nothing that is not given goes before what the checkpoint says.
            generate.add_argument(
                _option(name),
                type=kind,
                help=explanation,
                default=argparse.SUPPRESS,
            )
    generate.add_argument(
        "--sample",
        dest="do_sample",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="draw the tokens, or take the likeliest; if not given as the checkpoint says",
    )
    generate.add_argument(
        "--stop",
        dest="stop_strings",
        action="append",
        default=argparse.SUPPRESS,
        help="a text that ends what is written; may be given again",
    )
    generate.add_argument("--seed", type=int, help="what is drawn is a function of it")
    generate.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    form = generate.add_mutually_exclusive_group()
    form.add_argument("--stream", action="store_true", help="print one text as it is written")
    form.add_argument("--json", action="store_true", help="print JSON")


def _generate(arguments: argparse.Namespace) -> int:
    from minitransformer.tasks.pipeline import pipeline, writing_task

    names = [*_GENERATION, *_GENERATION_NUMBERS, *_OF_TEXTS, "do_sample", "stop_strings"]
    fields = {name: value for name, value in vars(arguments).items() if name in names}
    task = arguments.task or writing_task(arguments.path)
    write = pipeline(task, arguments.path, device=arguments.device)
    if not hasattr(write, "stream"):
        raise ValueError(f"--task {task} does not write")
    if write.name != "translation" and {"src_lang", "tgt_lang"} & fields.keys():
        raise ValueError(f"--src-lang and --tgt-lang are for --task translation, not {write.name}")
    try:
        return _print_written(write, arguments, fields)
    except ValueError as error:
        raise ValueError(_by_options(str(error))) from error


def _print_written(write: Any, arguments: argparse.Namespace, fields: dict[str, Any]) -> int:
    if arguments.stream:
        return _stream(write, arguments.texts, arguments.seed, fields)
    results = write(arguments.texts, seed=arguments.seed, **fields)
    if arguments.json:
        _print_json(results)
        return 0
    # A blank line between two answers, which may be of several lines.
    every = [answer for some in results for answer in ([some] if isinstance(some, dict) else some)]
    print("\n\n".join(" ".join(answer.values()) for answer in every))
    return 0


def _option(field: str) -> str:
    """What a field is called here."""
    others = {"do_sample": "--sample", "stop_strings": "--stop"}
    return others.get(field, f"--{field.replace('_', '-')}")


def _by_options(message: str) -> str:
    """An error that speaks of fields, as who typed options knows them.

    Example:
        >>> _by_options("top_p=0.5 has no effect without do_sample=True; add that")
        '--top-p 0.5 has no effect without --sample; add that'
    """
    fields = [*_GENERATION, *_GENERATION_NUMBERS, *_OF_TEXTS, "do_sample", "stop_strings", "seed"]
    for field in fields:
        option, alone = _option(field), rf"(?<![\w./'\"-]){field}"
        message = re.sub(rf"{alone}=None", f"no {option}", message)
        message = re.sub(rf"{alone}=True", option, message)
        message = re.sub(rf"{alone}=False", option.replace("--", "--no-", 1), message)
        message = re.sub(rf"{alone}=", f"{option} ", message)
        if "_" in field:  # else it is a word of its own: "a prefix", "the seed"
            message = re.sub(rf"{alone}(?![\w.'\"-])", option, message)
    return re.sub(r"pipeline\('(\w+)', path\)", r"--task \1", message)


def _stream(write: Any, texts: list[str], seed: int | None, fields: dict[str, Any]) -> int:
    if len(texts) > 1:
        raise ValueError(f"--stream prints one text, not {len(texts)}")
    pieces = write.stream(texts[0], seed=seed, **fields)
    if write.name == "text-generation":
        print(texts[0], end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _attention(arguments: argparse.Namespace) -> int:
    from minitransformer.attention_maps import attention_picture

    attention_picture(
        arguments.path,
        arguments.text,
        arguments.out,
        pair=arguments.pair,
        kind=arguments.kind,
        target=arguments.target,
        layer=arguments.layer,
        device=arguments.device,
    )
    print(arguments.out)
    return 0


def _print_json(results: list[Any]) -> None:
    """What one input gives, or the list of what several give."""
    print(json.dumps(results[0] if len(results) == 1 else results, ensure_ascii=False, indent=2))


def _parity(path: str, length: int, device: str) -> int:
    from minitransformer.parity import check_checkpoint

    return 0 if check_checkpoint(path, length=length, device=device) else 1


if __name__ == "__main__":
    sys.exit(main())
