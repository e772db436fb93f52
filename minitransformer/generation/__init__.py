"""Text generation, in the order of reading.

`processors` change scores, `sampling` draws from them, `stopping` ends rows; `decoding` runs the
model, `graphed` repeats a recorded step of it; `writing` is greedy search and sampling, `beams`
beam search; `settings` and `prompts` check what was asked for, `run` puts all together, and
`streaming` gives the text as it comes.
"""

from minitransformer.generation.run import GenerationOutput, generate
from minitransformer.generation.streaming import stream

__all__ = ["GenerationOutput", "generate", "stream"]
