"""`generate`: a call, its checks, and the decoding loop of greedy search and sampling.

B prompts or sources, T their tokens, R sequences that are generated, L their tokens so far, N new
tokens, V vocabulary.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from minitransformer.generation.beam_search import copy_prompts, search_beams
from minitransformer.generation.logits_processors import LogitsProcessor, make_processors
from minitransformer.generation.sampling import candidates, draw
from minitransformer.generation.stopping import StoppingCriteria, StopStrings, no_next_token
from minitransformer.generation_config import (
    GenerationConfig,
    check_tokens,
    count_new_tokens,
    padding_token,
    resolve,
)
from minitransformer.hf.config import class_name
from minitransformer.models.base import DecodingSession, LanguageModel, Seq2SeqLM, start_token
from minitransformer.models.validation import check_attention_mask, check_ids
from minitransformer.tokenization import Tokenizer

# For each new token of all sequences: the tokens, (R,), and which are not padding, (R,) bool.
Steps = Generator[tuple[Tensor, Tensor], None, None]


class Streamer(Protocol):
    """What tokens can be passed to as they come; transformers' streamers are such objects."""

    def put(self, value: Tensor) -> None:
        """First the prompt, (R, T), then the next token of every sequence, (R,), on the CPU."""

    def end(self) -> None:
        """Nothing more comes, whether generation is complete or was broken off."""


@dataclass(frozen=True, kw_only=True)
class GenerationOutput:
    """What was generated."""

    sequences: Tensor  # (R, L), the prompt (of an encoder-decoder, the start token) and what came
    sequences_scores: Tensor | None = None  # (R,), of beams: what they were ranked by
    prompt_length: int  # where in `sequences` the new tokens begin
    num_new_tokens: Tensor  # (R,) int64, how many a sequence has, without padding after its end

    @property
    def new_tokens(self) -> Tensor:
        """(R, N), the new tokens alone; a sequence that ended early is filled up."""
        return self.sequences[:, self.prompt_length :]


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    config: GenerationConfig | None = None,
    defaults: GenerationConfig | None = None,
    seed: int | None = None,
    streamer: Streamer | None = None,
    tokenizer: Tokenizer | None = None,
    use_cache: bool = True,
    **changes: Any,
) -> GenerationOutput:
    """Generate by greedy search, sampling, beam search or beam sampling.

    The fields given here override those of the checkpoint's `model.generation_config`. With the
    same fields, greedy and beam search give the tokens and scores of transformers' `generate`;
    what is drawn has the same distribution.

    Args:
        model: a decoder, which continues the prompts, or an encoder-decoder, which begins with its
            start token; in evaluation mode.
        input_ids: (B, T) int64, prompts or sources.
        attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            Padding may stand on either side, and between tokens. A prompt comes back with all its
            padding on the left.
        config: replaces the checkpoint's, which stays where a field of this one is None.
        defaults: takes the place of `model.generation_config`, as for a task.
        seed: makes what is drawn reproducible; without one, PyTorch's own generator draws.
        streamer: gets each token as it comes; not with beams.
        tokenizer: needed for `stop_strings`.
        use_cache: False computes everything anew for each token, which takes longer and gives the
            same.
        changes: fields of GenerationConfig, such as `max_new_tokens=50` or `num_beams=4`.

    Returns:
        R = B * num_return_sequences sequences, those of a prompt one after the other.

    Raises:
        TypeError: the model is no language model, a field is unknown, or an argument is of a wrong
            type.
        ValueError: the model is in training mode, an input or a field is off, fields contradict
            each other, no number of tokens is given, or the model has positions for fewer.
    """
    if streamer is not None:
        _check_streamer(streamer)
    decoding = prepare(
        model, input_ids, attention_mask, config, defaults, seed, tokenizer, use_cache, changes
    )
    if decoding.config.num_beams > 1:
        return _search(decoding, streamer)
    return _decode(decoding, streamer)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """One call, checked and ready to run."""

    open_session: Callable[..., DecodingSession]  # with watched=...
    prompt: Tensor  # (B, T), what is returned before the new tokens
    config: GenerationConfig  # resolved
    processors: list[LogitsProcessor]
    stopping: StoppingCriteria
    generator: torch.Generator | None

    @torch.no_grad()
    def tokens(self, *, watched: bool = True) -> Steps:
        """The decoding loop: the next token of every sequence, until all have ended.

        The model runs when the next token is asked for. A sequence that has ended continues with
        the padding token. Where the caller does not watch each token as it comes, the last tokens
        may be padding in every sequence: the session may look at the end only every few tokens.

        Yields:
            The tokens, (R,), and whether each belongs to its sequence or is padding, (R,) bool.

        Raises:
            ValueError: no token can follow in a sequence.
        """
        last, pad_token_id = self.config.max_new_tokens, self.config.pad_token_id
        assert last is not None and pad_token_id is not None
        watched = watched or self.stopping.strings is not None
        with closing(self.open_session(watched=watched)) as session:
            scores, history = session.start(), session.prompt  # (B, V), (B, L)
            if self.config.num_return_sequences > 1:
                scores, history = copy_prompts(session, scores, self.config.num_return_sequences)
            running = torch.ones_like(history[:, 0], dtype=torch.bool)  # (R,)
            # (R,), after how many new tokens none could follow; `last` where one always could.
            dead_ends = torch.full_like(history[:, 0], last)
            for number in range(1, last + 1):
                tokens, found = self._choose(history, scores)  # (R,) twice
                dead_ends = dead_ends.where(found | ~running, dead_ends.clamp(max=number - 1))
                tokens = tokens.masked_fill(~running, pad_token_id)
                history = torch.cat([history, tokens[:, None]], dim=1)  # (R, L)
                before, running = running, running & ~self.stopping.ended(history)
                is_last = number == last
                if is_last or number % session.eos_check_interval == 0:
                    is_last = _all_ended(running, dead_ends, last) or is_last
                yield tokens, before
                if is_last:
                    return
                scores = session.step(history)  # (R, V)

    def _choose(self, history: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each sequence, (R,), and whether there is one; of (R, L) and (R, V)."""
        scores = scores.float()
        for process in self.processors:
            scores = process(history, scores)
        if self.config.do_sample:
            return draw(candidates(scores, self.config), self.generator)
        best, tokens = scores.max(dim=1)  # NaN where there is one
        return tokens, best > -torch.inf


def prepare(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    config: GenerationConfig | None,
    defaults: GenerationConfig | None,
    seed: int | None,
    tokenizer: Tokenizer | None,
    use_cache: bool,
    changes: Mapping[str, Any],
) -> Decoding:
    """Check everything that can be checked before the model runs; see :func:`generate`."""
    _check_model(model)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    vocab_size = model.config.vocab_size
    config = resolve(model.generation_config if defaults is None else defaults, config, changes)
    check_tokens(config, vocab_size)
    mask = _check_prompts(input_ids, attention_mask, config, vocab_size)  # (B, T) bool
    if isinstance(model, Seq2SeqLM):  # to which a mask of ones and no mask are not the same
        prompt, length = torch.full_like(input_ids[:, :1], start_token(config)), 1  # (B, 1)
    else:
        prompt, mask = _move_padding_left(input_ids, mask)  # (B, T) twice
        # Columns that are padding in every sequence are returned, but not computed.
        length = int(mask.sum(dim=1).max())
        input_ids, attention_mask = prompt[:, -length:], mask[:, -length:]
        mask = attention_mask
    config = count_new_tokens(config, changes, prompt.shape[1])
    _check_length(length, config.max_new_tokens, model.config.max_sequence_length)
    pad_token_id = padding_token(config, len(prompt) * config.num_return_sequences)
    config = replace(config, pad_token_id=pad_token_id)
    source_ids = input_ids.masked_fill(~mask, vocab_size)
    texts = config.stop_strings
    strings = None if texts is None else StopStrings(texts, tokenizer, vocab_size)
    options: dict[str, Any] = {"config": config, "use_cache": use_cache}
    return Decoding(
        open_session=partial(model.decoding_session, input_ids, attention_mask, **options),
        prompt=prompt,
        config=config,
        processors=make_processors(config, prompt_length=length, source_ids=source_ids),
        stopping=StoppingCriteria(config.eos_token_ids, strings, prompt.device),
        generator=None if seed is None else _generator(seed, prompt.device),
    )


def check_tokenizer(tokenizer: Any) -> None:
    """Check that what is to turn tokens into text is a tokenizer.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}; a minitransformer.Tokenizer is needed"
        )


def _decode(decoding: Decoding, streamer: Streamer | None) -> GenerationOutput:
    """Greedy search and sampling, to the end."""
    prompt = decoding.prompt.repeat_interleave(decoding.config.num_return_sequences, dim=0)
    columns, lengths = [prompt], torch.zeros_like(prompt[:, 0], dtype=torch.int64)  # (R,)
    steps = decoding.tokens(watched=streamer is not None)
    if streamer is not None:
        steps = _streamed(steps, prompt, streamer)
    with closing(steps):
        for tokens, running in steps:
            columns.append(tokens[:, None])
            lengths += running
    columns = columns[: int(lengths.max()) + 1]  # without those that are padding alone
    sequences, length = torch.cat(columns, dim=1), prompt.shape[1]  # (R, L)
    return GenerationOutput(sequences=sequences, prompt_length=length, num_new_tokens=lengths)


def _streamed(steps: Steps, prompt: Tensor, streamer: Streamer) -> Steps:
    """The same steps; the streamer gets the prompt, (R, T), and then the tokens of each."""
    try:
        with closing(steps):
            streamer.put(prompt.cpu())
            for tokens, running in steps:
                streamer.put(tokens.cpu())
                yield tokens, running
    finally:
        streamer.end()


def _search(decoding: Decoding, streamer: Streamer | None) -> GenerationOutput:
    """Beam search and beam sampling."""
    if streamer is not None:
        raise ValueError("a streamer needs num_beams=1: beams are not decided until the end")
    config = decoding.config
    with closing(decoding.open_session(watched=True)) as session:
        found = search_beams(
            session, config, decoding.processors, decoding.stopping, decoding.generator
        )
    beams = [beam for hypotheses in found for beam in hypotheses]
    prompt = decoding.prompt.repeat_interleave(config.num_return_sequences, dim=0)  # (R, T)
    lengths = [len(beam.tokens) for beam in beams]
    padding = [config.pad_token_id] * max(lengths)
    padded = [[*beam.tokens, *padding[len(beam.tokens) :]] for beam in beams]
    new = torch.tensor(padded, dtype=torch.int64, device=prompt.device)  # (R, N)
    return GenerationOutput(
        sequences=torch.cat([prompt, new], dim=1),
        sequences_scores=torch.tensor([beam.score for beam in beams], device=prompt.device),
        prompt_length=prompt.shape[1],
        num_new_tokens=torch.tensor(lengths, device=prompt.device),
    )


def _all_ended(running: Tensor, dead_ends: Tensor, last: int) -> bool:
    """Whether all sequences have ended: here alone the host waits for the device."""
    first = dead_ends.amin()
    is_dead_end, is_running = torch.stack([first < last, running.any()]).tolist()
    if is_dead_end:
        raise no_next_token(int(dead_ends.argmin()), int(first))
    return not is_running


def _check_model(model: Any) -> None:
    if not isinstance(model, LanguageModel):
        raise TypeError(
            f"a {class_name(model)} does not generate text; a decoder such as GPT2LMHeadModel "
            "or an encoder-decoder such as T5ForConditionalGeneration does"
        )
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model, or a part of it, is in training mode, in which dropout would change the "
            "answer; call model.eval() first"
        )


def _check_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, config: GenerationConfig, vocab_size: int
) -> Tensor:
    """Check prompts or sources, (B, T), and give the padding mask, (B, T) bool."""
    check_ids("input_ids", input_ids, size=vocab_size, size_name="vocab_size")
    # A padding token that also ends sequences may stand in a text.
    padding = None if config.pad_token_id in config.eos_token_ids else config.pad_token_id
    mask = check_attention_mask(attention_mask, input_ids, padding)
    if not bool((has_token := mask.any(dim=1)).all()):
        raise ValueError(
            f"sequence {int(has_token.int().argmin())} of input_ids is padding alone: there is "
            "nothing to continue"
        )
    return mask


def _move_padding_left(input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Let the last token of each sequence be the newest: (B, T) twice.

    Padding between tokens moves as well; no position counts it.
    """
    if bool((mask[:, 1:] >= mask[:, :-1]).all()):  # padding is on the left already
        return input_ids, mask
    order = mask.byte().argsort(dim=1, stable=True)  # padding first, all else in its order
    return input_ids.gather(1, order), mask.gather(1, order)


def _check_length(prompt_length: int, most: int | None, longest: int | None) -> None:
    assert most is not None
    if longest is not None and prompt_length + most > longest:
        left = longest - prompt_length
        fix = f"ask for at most {left}" if left > 0 else "shorten the prompt"
        raise ValueError(
            f"{prompt_length} token{'s' * (prompt_length > 1)} of the prompt and {most} new ones "
            f"are more than the {longest} that the model has positions for; {fix}"
        )


def _check_streamer(streamer: Any) -> None:
    if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(
            f"streamer is a {type(streamer).__name__}; an object with the methods put(tokens) and "
            "end() is needed"
        )


def _generator(seed: int, device: torch.device) -> torch.Generator:
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} must be an integer from 0 to {2**63 - 1}")
    return torch.Generator(device=device).manual_seed(seed)
