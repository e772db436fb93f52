"""`generate`: what a user calls.

B prompts or sources, T their tokens, R rows that are written, L their tokens, N new tokens.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from minitransformer.generation.beams import Beam, search_beams
from minitransformer.generation.decoding import CausalDecoder, Decoder, Seq2SeqDecoder
from minitransformer.generation.fast_weights import fast_weights
from minitransformer.generation.graphed import LOOK_EVERY, graphed, writes_ahead
from minitransformer.generation.processors import Processor, make_processors
from minitransformer.generation.prompts import (
    align,
    check_prompts,
    check_tokenizer,
    device_of,
    mark_padding,
    width,
)
from minitransformer.generation.settings import (
    check_tokens,
    count_new_tokens,
    padding_token,
    settle,
)
from minitransformer.generation.stopping import Stopping, StopStrings
from minitransformer.generation.writing import write
from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.generative import CausalLM, Seq2SeqLM
from minitransformer.models.shifting import start_token

if TYPE_CHECKING:
    from minitransformer.tokenization import Tokenizer

# The parts of models that were training before :func:`evaluating`, and how many blocks each is in.
_TRAINING: Counter[nn.Module] = Counter()
_TRAINING_LOCK = RLock()


class Streamer(Protocol):
    """What tokens can be handed to as they come; transformers' streamers are such objects."""

    def put(self, value: Tensor) -> None:
        """First the prompt, (R, L), then the next token of every row, (R,), on the CPU."""

    def end(self) -> None:
        """Nothing more comes, be it that all is written or that it was broken off."""


@dataclass(frozen=True, kw_only=True)
class GenerationOutput:
    """What was written."""

    sequences: Tensor  # (R, L), the prompt (of an encoder-decoder, the start token) and what came
    sequences_scores: Tensor | None = None  # (R,), of beams: what they were ranked by
    prompt_length: int  # where in `sequences` the new tokens begin
    num_new_tokens: Tensor  # (R,) int64, how many a row has, without those that fill it up

    @property
    def new_tokens(self) -> Tensor:
        """(R, N), what was written alone; a row that ended early is filled up."""
        return self.sequences[:, self.prompt_length :]


def generate(
    model: CausalLM | Seq2SeqLM,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    config: GenerationConfig | None = None,
    seed: int | None = None,
    streamer: Streamer | None = None,
    tokenizer: "Tokenizer | None" = None,
    use_cache: bool = True,
    **changes: Any,
) -> GenerationOutput:
    """Let a model write: greedy search, sampling, beam search or beam sampling.

    How, is said by the checkpoint's `model.generation_config` and the fields given here, which go
    before it. With them, greedy and beam search give the tokens and scores of transformers'
    `generate`; what is drawn has the same distribution.

    Args:
        model: a decoder, which goes on from the prompts, or an encoder-decoder, which writes from
            its start token on.
        input_ids: (B, T) int64, prompts or sources.
        attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            Padding may stand on either side, and between tokens. A prompt comes back with all its
            padding on the left, so with its tokens in their order but not all in their places.
        config: takes the place of the checkpoint's, which stays where a field of this one is None.
        seed: what is drawn is a function of it; without one, of PyTorch's own generator. On CUDA,
            up to 15 more tokens a row may be drawn than are returned, which moves it further on
            than on the CPU.
        streamer: is handed each token as it comes; not with beams.
        tokenizer: needed for `stop_strings`.
        use_cache: False computes everything anew for each token, which takes longer and gives the
            same.
        changes: fields of GenerationConfig, such as `max_new_tokens=50` or `num_beams=4`.

    Returns:
        R = B * num_return_sequences rows, those of a prompt one after the other.

    Raises:
        TypeError: the model does not write, a field is unknown, or the tokenizer or the streamer is
            none.
        ValueError: an input or a field is off, fields contradict each other, nobody says how many
            tokens are wanted, or more are than the model has positions for.
    """
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(
            f"streamer is a {type(streamer).__name__}; an object with the methods put(tokens) and "
            "end() is needed"
        )
    job = prepare(
        model,
        input_ids,
        attention_mask,
        config=config,
        seed=seed,
        tokenizer=tokenizer,
        use_cache=use_cache,
        changes=changes,
    )
    if job.config.num_beams > 1:
        if streamer is not None:
            raise ValueError("a streamer needs num_beams=1: beams are not decided until the end")
        return job.search()
    return job.write(streamer)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call, checked and ready to run."""

    model: CausalLM | Seq2SeqLM
    decoder: Decoder
    prompt: Tensor  # (B, T), what is returned before the new tokens
    config: GenerationConfig
    processors: list[Processor]
    stopping: Stopping
    generator: torch.Generator | None

    def tokens(
        self, lengths: Tensor | None = None, *, watched: bool = True
    ) -> Generator[Tensor, None, None]:
        """The next token of each row, (R,), as they come; the model is in eval mode meanwhile.

        `lengths`, (R,) of zeros, counts those that do not only fill a row up. Where nobody watches
        the tokens as they come, a GPU may write some that only fill up after the last row's end.
        """
        watched = watched or self.stopping.strings is not None
        ahead = not watched and writes_ahead(self.prompt.device)
        with (
            evaluating(self.model),
            fast_weights(self.model, self.config),
            graphed(self.decoder, self.config, watched) as decoder,
        ):
            yield from write(
                decoder,
                self.config,
                self.processors,
                self.stopping,
                self.generator,
                lengths,
                look_every=LOOK_EVERY if ahead else 1,
            )

    def write(self, streamer: Streamer | None) -> GenerationOutput:
        """Greedy search and sampling."""
        prompt = self.prompt.repeat_interleave(self.config.num_return_sequences, dim=0)  # (R, T)
        columns, lengths = [], torch.zeros_like(prompt[:, 0])
        try:
            if streamer is not None:
                streamer.put(prompt.cpu())
            with closing(self.tokens(lengths, watched=streamer is not None)) as written:
                for tokens in written:
                    columns.append(tokens)
                    if streamer is not None:
                        streamer.put(tokens.cpu())
        finally:
            if streamer is not None:
                streamer.end()
        columns = columns[: int(lengths.max())]  # without what was written after the last row's end
        sequences = torch.cat([prompt, torch.stack(columns, dim=1)], dim=1)  # (R, L)
        return GenerationOutput(
            sequences=sequences, prompt_length=prompt.shape[1], num_new_tokens=lengths
        )

    def search(self) -> GenerationOutput:
        """Beam search and beam sampling."""
        with evaluating(self.model), fast_weights(self.model, self.config):
            answers = search_beams(
                self.decoder, self.config, self.processors, self.stopping, self.generator
            )
        beams = [beam for row in answers for beam in row]
        prompt = self.prompt.repeat_interleave(self.config.num_return_sequences, dim=0)  # (R, T)
        new = _in_rows(beams, self.config.pad_token_id).to(prompt.device)  # (R, N)
        scores = torch.tensor([beam.score for beam in beams], device=prompt.device)
        return GenerationOutput(
            sequences=torch.cat([prompt, new], dim=1),
            sequences_scores=scores,
            prompt_length=prompt.shape[1],
            num_new_tokens=torch.tensor([len(beam.tokens) for beam in beams], device=prompt.device),
        )


def prepare(
    model: CausalLM | Seq2SeqLM,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    *,
    config: GenerationConfig | None,
    seed: int | None,
    tokenizer: "Tokenizer | None",
    use_cache: bool,
    changes: Mapping[str, Any],
) -> Job:
    """Check everything that can be checked before the model runs; see :func:`generate`."""
    if not isinstance(model, CausalLM | Seq2SeqLM):
        raise TypeError(
            f"a {type(model).__name__} does not write; a decoder such as GPT2LMHeadModel or an "
            "encoder-decoder such as T5ForConditionalGeneration does"
        )
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    sizes: Any = model.config
    settled = settle(model.generation_config, config, changes)
    check_tokens(settled, sizes.vocab_size)
    mask = check_prompts(input_ids, attention_mask, settled, sizes.vocab_size)
    decoder: Decoder
    if isinstance(model, Seq2SeqLM):
        # The caller's mask: one of ones says that a padding token is meant as a word.
        decoder = Seq2SeqDecoder(
            model, input_ids, attention_mask, start_token(settled), use_cache=use_cache
        )
        prompt = decoder.prompt
        source = mark_padding(input_ids, mask, sizes.vocab_size)
    else:
        prompt, mask = align(input_ids, mask)
        # Columns that are padding in every row are returned, not computed.
        source = mark_padding(prompt, mask, sizes.vocab_size)[:, -width(mask, prompt) :]
        decoder = CausalDecoder(model, source, use_cache=use_cache)
    settled = count_new_tokens(settled, changes, prompt.shape[1])
    length = decoder.prompt.shape[1]
    _check_room(length, settled.max_new_tokens, sizes.max_sequence_length)
    rows = len(prompt) * settled.num_return_sequences
    settled = replace(settled, pad_token_id=padding_token(settled, rows))
    return Job(
        model=model,
        decoder=decoder,
        prompt=prompt,
        config=settled,
        processors=make_processors(settled, prompt_length=length, source_ids=source),
        stopping=_stopping(settled, tokenizer, sizes.vocab_size, input_ids.device),
        generator=_generator(seed, device_of(model)),
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout inside the block; afterwards, each part is in the mode that it was in.

    Blocks may overlap, as those of two streams that are read in turn: the last one to end is
    afterwards.
    """
    with _TRAINING_LOCK:
        training = [part for part in model.modules() if part.training or part in _TRAINING]
        _TRAINING.update(training)
        model.eval()
    try:
        yield
    finally:
        with _TRAINING_LOCK:
            _TRAINING.subtract(training)
            for part in training:
                if not _TRAINING[part]:
                    del _TRAINING[part]
                    part.training = True


def _check_room(prompt_length: int, most: int | None, longest: int | None) -> None:
    assert most is not None
    if longest is not None and prompt_length + most > longest:
        left = longest - prompt_length
        fix = f"ask for at most {left}" if left > 0 else "shorten the prompt"
        raise ValueError(
            f"{prompt_length} token{'s' * (prompt_length > 1)} of the prompt and {most} new ones "
            f"are more than the {longest} that the model has positions for; {fix}"
        )


def _stopping(
    config: GenerationConfig,
    tokenizer: "Tokenizer | None",
    vocab_size: int,
    device: torch.device,
) -> Stopping:
    strings = None
    if config.stop_strings:
        if tokenizer is None:
            raise ValueError(
                f"stop_strings={config.stop_strings}: pass tokenizer=..., which turns tokens "
                "into the text in which they are looked for"
            )
        strings = StopStrings(config.stop_strings, tokenizer, vocab_size)
    return Stopping(config.eos_token_ids, strings, device)


def _generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    if seed is None:
        return None
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} must be an integer from 0 to {2**63 - 1}")
    return torch.Generator(device=device).manual_seed(seed)


def _in_rows(beams: list[Beam], pad_token_id: int | None) -> Tensor:
    """Answers of unequal length, filled up on the right: (R, N)."""
    longest = max(len(beam.tokens) for beam in beams)
    new = torch.zeros(len(beams), longest, dtype=torch.int64)
    for row, beam in enumerate(beams):
        new[row, len(beam.tokens) :] = 0 if pad_token_id is None else pad_token_id
        new[row, : len(beam.tokens)] = torch.tensor(beam.tokens, dtype=torch.int64)
    return new
