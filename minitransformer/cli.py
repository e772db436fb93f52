"""The command `minitransformer <verb>`: a thin layer over the functions that do the work."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minitransformer.arguments import Parser, device, positive


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

    attention = verbs.add_parser("attention", help="draw the attention maps of a text")
    attention.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    attention.add_argument("text", help="no longer than the model can take")
    attention.add_argument("--pair", help="a second text")
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


def _attention(arguments: argparse.Namespace) -> int:
    from minitransformer.attention_maps import attention_picture

    attention_picture(
        arguments.path,
        arguments.text,
        arguments.out,
        pair=arguments.pair,
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
