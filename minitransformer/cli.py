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
    "max_new_tokens": "most tokens to generate; needed where the checkpoint does not say",
    "max_length": "the same with the prompt counted in; of an encoder-decoder, the start token",
    "num_beams": "beams of the search; 1 is greedy",
    "num_return_sequences": "answers to each text",
    "top_k": "sample among so many tokens",
    "no_repeat_ngram_size": "no sequence of so many tokens comes twice",
}
_GENERATION_NUMBERS = {
    "temperature": "divides the logits before sampling",
    "top_p": "sample among the likeliest tokens that have this probability together",
    "repetition_penalty": "above 1 lowers the scores of tokens that are there already",
    "length_penalty": "of beams; above 0 favours length",
}
_OF_TEXTS = {
    "prefix": "put before every text in place of the checkpoint's",
    "src_lang": "of a translation, the source language, in the checkpoint's words",
    "tgt_lang": "of a translation, the target language",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0 well, 1 not, 2 called wrongly."""
    parser = Parser(prog="minitransformer", description="Transformers from scratch.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    fill_mask = verbs.add_parser("fill-mask", help="rank the tokens for each mask of a text")
    _add_path(fill_mask)
    fill_mask.add_argument(
        "texts", nargs="+", metavar="text", help="with at least one mask, <mask> or [MASK]"
    )
    fill_mask.add_argument("--top-k", type=positive, default=5, help="answers for each mask")
    _add_device(fill_mask)
    _add_plain(fill_mask)
    fill_mask.add_argument("--json", action="store_true", help="print JSON")

    answer = verbs.add_parser("answer", help="mark the answers to questions in a text")
    _add_path(answer)
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
    _add_device(answer)
    _add_plain(answer)
    answer.add_argument("--json", action="store_true", help="print JSON")

    _add_generate(verbs.add_parser("generate", help="continue, summarize or translate texts"))

    attention = verbs.add_parser("attention", help="draw the attention maps of a text")
    _add_path(attention)
    attention.add_argument("text", help="no longer than the model can take")
    attention.add_argument("--pair", help="a second text")
    attention.add_argument(
        "--kind",
        choices=("encoder", "decoder", "cross"),
        help="of an encoder-decoder the attention to draw, cross by default",
    )
    attention.add_argument(
        "--target", help="of an encoder-decoder the target text; if not given it is generated"
    )
    attention.add_argument("--layer", type=int, help="draw this layer large, counted from 0")
    attention.add_argument("--out", type=Path, required=True, help="a .png, .pdf or .svg file")
    _add_device(attention)

    parity = verbs.add_parser(
        "parity", help="compare a checkpoint's model here and in transformers"
    )
    _add_path(parity)
    parity.add_argument(
        "--length", type=positive, default=32, help="tokens of each sequence of the batch"
    )
    _add_device(parity)

    arguments = parser.parse_args(argv)
    run = {
        "fill-mask": _fill_mask,
        "answer": _answer,
        "generate": _generate,
        "attention": _attention,
        "parity": _parity,
    }
    try:
        return run[arguments.verb](arguments)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_path(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("path", help="directory of a checkpoint, or a name on the hub")


def _add_device(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", type=device, default="cpu", help="cpu or cuda")


def _add_plain(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--plain", action="store_true", help="run the model as it is loaded, not optimized"
    )


def _pipeline(task: str, arguments: argparse.Namespace) -> Any:
    from minitransformer.tasks import pipeline

    return pipeline(task, arguments.path, device=arguments.device, optimize=not arguments.plain)


def _fill_mask(arguments: argparse.Namespace) -> int:
    results = _pipeline("fill-mask", arguments)(arguments.texts, top_k=arguments.top_k)
    if arguments.json:
        _print_json(results)
        return 0
    for text, answers in zip(arguments.texts, results, strict=True):
        print(text)
        for mask in [answers] if isinstance(answers[0], dict) else answers:
            for answer in mask:
                token = answer["token_str"].strip()
                print(f"  {answer['score']:6.1%}  {token:16}{answer['sequence']}")
            print()
    return 0


def _answer(arguments: argparse.Namespace) -> int:
    context = arguments.context
    if context is None:
        try:
            context = arguments.context_file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{arguments.context_file} is not UTF-8 ({error})") from error
    results = _pipeline("question-answering", arguments)(
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
    _add_path(generate)
    generate.add_argument("texts", nargs="+", metavar="text", help="prompts, or sources")
    generate.add_argument(
        "--task",
        help="text-generation, text2text-generation, summarization, translation, "
        "translation_en_to_de; if not given that of the checkpoint's family",
    )
    for names, kind in ((_GENERATION, int), (_GENERATION_NUMBERS, float), (_OF_TEXTS, str)):
        for name, explanation in names.items():
            # An option that is not given overrides nothing of the checkpoint.
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
        help="sample the tokens, or take the likeliest; if not given as the checkpoint says",
    )
    generate.add_argument(
        "--stop",
        dest="stop_strings",
        action="append",
        default=argparse.SUPPRESS,
        help="a text that ends what is generated; may be given again",
    )
    generate.add_argument("--seed", type=int, help="makes sampling reproducible")
    _add_device(generate)
    _add_plain(generate)
    form = generate.add_mutually_exclusive_group()
    form.add_argument("--stream", action="store_true", help="print one text as it is generated")
    form.add_argument("--json", action="store_true", help="print JSON")


def _generate(arguments: argparse.Namespace) -> int:
    from minitransformer.tasks.pipeline import generation_task

    names = [*_GENERATION, *_GENERATION_NUMBERS, *_OF_TEXTS, "do_sample", "stop_strings"]
    fields = {name: value for name, value in vars(arguments).items() if name in names}
    name = arguments.task or generation_task(arguments.path)
    task = _pipeline(name, arguments)
    if not hasattr(task, "stream"):
        raise ValueError(f"--task {name} does not generate text")
    if task.name != "translation" and {"src_lang", "tgt_lang"} & fields.keys():
        raise ValueError(f"--src-lang and --tgt-lang are for --task translation, not {task.name}")
    try:
        return _print_generated(task, arguments, fields)
    except ValueError as error:
        raise ValueError(_by_options(str(error))) from error


def _print_generated(task: Any, arguments: argparse.Namespace, fields: dict[str, Any]) -> int:
    if arguments.stream:
        return _stream(task, arguments.texts, arguments.seed, fields)
    results = task(arguments.texts, seed=arguments.seed, **fields)
    if arguments.json:
        _print_json(results)
        return 0
    # A blank line between two answers, which may be of several lines.
    every = [answer for some in results for answer in ([some] if isinstance(some, dict) else some)]
    print("\n\n".join(" ".join(answer.values()) for answer in every))
    return 0


def _option(field: str) -> str:
    """The option that sets a field."""
    others = {"do_sample": "--sample", "stop_strings": "--stop"}
    return others.get(field, f"--{field.replace('_', '-')}")


def _by_options(message: str) -> str:
    """An error message with options in place of fields.

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
        if "_" in field:  # "a prefix" and "the seed" are plain English
            message = re.sub(rf"{alone}(?![\w.'\"-])", option, message)
    return re.sub(r"pipeline\('(\w+)', path\)", r"--task \1", message)


def _stream(task: Any, texts: list[str], seed: int | None, fields: dict[str, Any]) -> int:
    if len(texts) > 1:
        raise ValueError(f"--stream prints one text, not {len(texts)}")
    pieces = task.stream(texts[0], seed=seed, **fields)
    if task.name == "text-generation":
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


def _parity(arguments: argparse.Namespace) -> int:
    from minitransformer.parity import check_checkpoint

    same = check_checkpoint(arguments.path, length=arguments.length, device=arguments.device)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
