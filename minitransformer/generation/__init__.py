"""Text generation, in the order of reading.

`logits_processors` change scores, `sampling` draws from them, `stopping` ends sequences;
`beam_search` continues several beginnings side by side; `generate` checks a call and holds the
decoding loop of greedy search and sampling; `streaming` gives the text as it comes.
"""

from minitransformer.generation.generate import GenerationOutput, generate
from minitransformer.generation.streaming import stream

__all__ = ["GenerationOutput", "generate", "stream"]
