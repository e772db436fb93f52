"""Text generation: greedy search, sampling and beam search.

The files, in reading order: `logits_processors` change the scores of the next token, `sampling`
draws from them, `stopping` decides when a sequence has ended, `beam_search` extends several
hypotheses side by side, `generate` checks a call and holds the decoding loop of greedy search and
sampling, and `streaming` yields text while it is generated.
"""

from minitransformer.generation.generate import GenerationOutput, generate
from minitransformer.generation.streaming import stream

__all__ = ["GenerationOutput", "generate", "stream"]
