"""The command `minitransformer <verb>`: a thin layer over the functions of the same names."""

import json
import sys
from collections.abc import Sequence

from minitransformer.arguments import Parser, device, positive


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0 well, 1 not, 2 called wrongly."""
    parser = Parser(prog="minitransformer", description="Transformers from scratch.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    fill_mask = verbs.add_parser("fill-mask", help="rank the words for each <mask> of a text")
    fill_mask.add_argument("path", help="directory of a checkpoint, or a name on the hub")
    fill_mask.add_argument("texts", nargs="+", metavar="text", help="with at least one <mask>")
    fill_mask.add_argument("--top-k", type=positive, default=5, help="answers for each mask")
    fill_mask.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    fill_mask.add_argument("--json", action="store_true", help="print JSON")

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
        return _parity(arguments.path, arguments.length, arguments.device)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _fill_mask(path: str, texts: list[str], top_k: int, device: str, as_json: bool) -> int:
    from minitransformer.tasks import pipeline

    results = pipeline("fill-mask", path, device=device)(texts, top_k=top_k)
    if as_json:
        print(
            json.dumps(results[0] if len(results) == 1 else results, ensure_ascii=False, indent=2)
        )
        return 0
    for text, answers in zip(texts, results, strict=True):
        print(text)
        for mask in [answers] if isinstance(answers[0], dict) else answers:
            for answer in mask:
                word = answer["token_str"].strip()
                print(f"  {answer['score']:6.1%}  {word:16}{answer['sequence']}")
            print()
    return 0


def _parity(path: str, length: int, device: str) -> int:
    from minitransformer.parity import check_checkpoint

    return 0 if check_checkpoint(path, length=length, device=device) else 1


if __name__ == "__main__":
    sys.exit(main())
