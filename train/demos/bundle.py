"""The checkpoint that comes with the package: the demo's RoBERTa, in half precision.

`python -m train.demos.bundle RUN`, where RUN is the finished run of :mod:`train.demos.agreement`.
It writes model, tokenizer and model card. What the card says of the model's agreement is measured
after the rounding, on the files that were written.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from minitransformer.arguments import Parser, positive
from minitransformer.files import CheckpointError, atomic_directory
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hub import BUNDLED, BUNDLED_PATH
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job
from train.demos.agreement import TEXT, agreement_table, measure_checkpoint

CARD = """\
---
license: mit
language: it
pipeline_tag: fill-mask
---

# {name}

A RoBERTa for fill-mask that was trained from scratch in a few minutes, on two cores, by the demo of
minitransformer. It comes with the package, so that there is something to ask, draw and compare
without a network:

```python
from minitransformer import pipeline

pipeline("fill-mask")("se Laura <mask> scelto un altro giorno, avrebbe visto il mare.")
```

- **Size**: {layers} layers, hidden size {hidden}, {heads} heads, {vocabulary:,} tokens
  (byte-level BPE), at most {length} tokens a text, {parameters:,} parameters. The file is in half
  precision; the model is loaded in float32.
- **Data**: {sentences:,} sentences that a grammar of Italian generated (`train/demos/italian.py` in
  the repository); no text by people.
- **Licence**: MIT, like the package.

## What it can do

How often the right form ranks first among the forms of its word, in {questions:,} held-out
sentences with combinations that the training text never has, measured after the rounding to half
precision. "Unigram guess" is the most frequent form.

```
{table}
```

## Limits

It knows the words and constructions of that grammar: agreement, and which words go together in its
sentences. It knows nothing of the world, and has no answer for other text. It is good for trying
things out, and for nothing else.

## How to make it again

```
python -m train.demos.agreement --output runs/demo
python -m train.demos.bundle runs/demo
```
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the checkpoint and print its card."""
    parser = Parser(
        prog="python -m train.demos.bundle",
        description="Store the demo's model in half precision, with a model card.",
    )
    parser.add_argument("run", type=Path, help="directory of the finished demo")
    parser.add_argument("--output", type=Path, default=BUNDLED_PATH, help="directory")
    parser.add_argument(
        "--questions", type=positive, default=2000, help="held-out sentences to ask about"
    )
    arguments = parser.parse_args(argv)
    return run_job(lambda: bundle(arguments.run, arguments.output, arguments.questions))


def bundle(run: Path, output: Path, questions: int) -> int:
    """Round the model of a run, measure it, and write everything to `output`.

    Raises:
        CheckpointError: `run` is not the directory of a finished demo.
    """
    text = run / TEXT
    if not (run / "config.json").exists() or not text.exists():
        raise CheckpointError(
            f"{run} is not a finished demo; run: python -m train.demos.agreement --output {run}"
        )
    model, tokenizer = from_pretrained(run, dtype=torch.float16), Tokenizer.from_pretrained(run)
    with atomic_directory(output, last="config.json") as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        results = measure_checkpoint(directory, text, questions)
        card = CARD.format(
            name=BUNDLED,
            layers=model.config.num_hidden_layers,
            hidden=model.config.hidden_size,
            heads=model.config.num_attention_heads,
            vocabulary=model.config.vocab_size,
            length=model.config.max_sequence_length,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            sentences=len(text.read_text(encoding="utf-8").splitlines()),
            questions=questions,
            table=agreement_table(results),
        )
        (directory / "README.md").write_text(card, encoding="utf-8", newline="\n")
    print(card)
    print(f"{output}: {sum(path.stat().st_size for path in output.iterdir()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
