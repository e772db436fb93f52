"""`generate`, its checks, and the decoding loop of greedy search and sampling.

B prompts or sources, T their tokens, R generated sequences, L their tokens so far, N new tokens,
V vocabulary.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.elsewhere import GENERATION, without
from minitransformer.generation.beam_search import copy_prompts, search_beams
from minitransformer.generation.logits_processors import LogitsProcessor, make_processors
from minitransformer.generation.sampling import candidates, draw
from minitransformer.generation.stopping import StoppingCriteria, StopStrings, no_next_token
from minitransformer.generation_config import (
    FIELDS,
    GenerationConfig,
    check_tokens,
    padding_token,
    resolve,
    resolve_lengths,
)
from minitransformer.hf.config import class_name
from minitransformer.layers.attention import boolean_mask
from minitransformer.models.base import DecodingSession, LanguageModel, Seq2SeqLM, start_token
from minitransformer.models.validation import (
    check_attention_mask,
    check_evaluation_mode,
    check_ids,
    refuse_token_types,
)
from minitransformer.names import shortened
from minitransformer.tokenization import Tokenizer

# For each step of decoding: the new tokens, (R,), and which of them are not padding, (R,) bool.
Steps = Generator[tuple[Tensor, Tensor], None, None]


class Streamer(Protocol):
    """Receives the tokens while they are generated; transformers' streamers fit this protocol."""

    def put(self, value: Tensor) -> None:
        """Receive the prompt, (R, T), then the next token of each sequence, (R,), on the CPU."""

    def end(self) -> None:
        """No more tokens follow, whether generation was completed or interrupted."""


@dataclass(frozen=True, kw_only=True)
class GenerationOutput:
    """The generated sequences."""

    # (R, L), the prompt (for an encoder-decoder, the start of the target) and the new tokens
    sequences: Tensor
    # (R,), with beams only: the scores of the hypotheses; -inf for those that were not found
    sequences_scores: Tensor | None = None
    prompt_length: int  # index of the first new token in `sequences`
    num_new_tokens: Tensor  # (R,) int64, for each sequence, without the padding after its end

    @property
    def new_tokens(self) -> Tensor:
        """(R, N), the new tokens without the prompt; sequences that ended early are padded."""
        return self.sequences[:, self.prompt_length :]


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    token_type_ids: Tensor | None = None,
    decoder_input_ids: Tensor | None = None,
    config: GenerationConfig | None = None,
    defaults: GenerationConfig | None = None,
    seed: int | None = None,
    streamer: Streamer | None = None,
    tokenizer: Tokenizer | None = None,
    use_cache: bool = True,
    **changes: Any,
) -> GenerationOutput:
    """Generate text by greedy search, sampling, beam search or beam sampling.

    Fields passed here override those of `model.generation_config`, which comes from the checkpoint.
    With the same fields, greedy search and beam search return the tokens and scores of
    transformers' `generate`, and sampling draws from the same distribution.

    Args:
        model: a decoder, which continues the prompts, or an encoder-decoder, which begins with its
            start token; in evaluation mode.
        input_ids: (B, T) int64, prompts or sources.
        attention_mask: (B, T), 1 or True at real tokens; may be omitted if nothing is padded.
            Padding may be on either side, or between tokens. Prompts are returned with all their
            padding on the left.
        token_type_ids: refused; there are none.
        decoder_input_ids: (B, P) int64: what the targets begin with, all of one length.
        config: replaces `model.generation_config`, except where one of its fields is None.
        defaults: used instead of `model.generation_config`, for example for one task.
        seed: makes sampling reproducible; None uses PyTorch's global random generator.
        streamer: receives each token as soon as it is generated; not with beams.
        tokenizer: needed for `stop_strings`.
        use_cache: False recomputes all tokens at each step, with the same result.
        changes: fields of :class:`GenerationConfig`, such as `max_new_tokens=50` or `num_beams=4`.

    Returns:
        R = B * num_return_sequences sequences; those of one prompt are adjacent.

    Raises:
        TypeError: the model is not a language model, a field is unknown, or an argument has the
            wrong type.
        ValueError: the model is in training mode, an input or a field is invalid, fields contradict
            each other, the number of tokens is not set, the model does not have enough positions
            or the device enough memory, the logits are NaN or infinite, or a sequence cannot be
            continued.
    """
    if streamer is not None:
        _check_streamer(streamer)
    inputs = input_ids, attention_mask, decoder_input_ids
    decoding = prepare(model, inputs, config, defaults, seed, tokenizer, use_cache, changes)
    if token_type_ids is not None:
        refuse_token_types(token_type_ids, class_name(model))
    if decoding.config.num_beams > 1:
        return _search(decoding, streamer)
    return _decode(decoding, streamer)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A checked call, ready to run."""

    model: LanguageModel
    open_session: Callable[..., DecodingSession]  # takes read_every_step=...
    prompt: Tensor  # (B, T), returned before the new tokens
    config: GenerationConfig  # resolved
    processors: list[LogitsProcessor]
    stopping: StoppingCriteria
    generator: torch.Generator | None

    @torch.no_grad()
    def tokens(self, *, read_every_step: bool = True) -> Steps:
        """The decoding loop: the next token of every sequence, until all sequences have ended.

        The model runs when the next tokens are requested. After its end, a sequence continues with
        the padding token. If `read_every_step` is False, the session may check only every few
        tokens whether all sequences have ended, so that the last steps may yield only padding.

        Args:
            read_every_step: whether the caller reads the tokens of each step as soon as they come.

        Yields:
            The tokens, (R,), and which of them are not padding, (R,) bool.

        Raises:
            ValueError: a sequence cannot be continued.
        """
        max_new_tokens, pad_token_id = self.config.max_new_tokens, self.config.pad_token_id
        assert max_new_tokens is not None and pad_token_id is not None
        read_every_step = read_every_step or self.stopping.strings is not None
        with closing(self.open_session(read_every_step=read_every_step)) as session:
            scores, history = session.start(), session.prompt  # (B, V), (B, L)
            if self.config.num_return_sequences > 1:
                scores, history = copy_prompts(session, scores, self.config.num_return_sequences)
            running = torch.ones_like(history[:, 0], dtype=torch.bool)  # (R,)
            best_scores: list[Tensor] = []  # (R,) for each step since the last check
            for step in range(1, max_new_tokens + 1):
                tokens, best = self._choose(history, scores)  # (R,) twice
                best_scores.append(best.masked_fill(~running, 0.0))
                tokens = tokens.masked_fill(~running, pad_token_id)
                history = torch.cat([history, tokens[:, None]], dim=1)  # (R, L)
                was_running, running = running, running & ~self.stopping.ended(history)
                is_last = step == max_new_tokens
                if is_last or step % session.eos_check_interval == 0:
                    is_last = self._all_ended(running, best_scores, step) or is_last
                    best_scores.clear()
                yield tokens, was_running
                if is_last:
                    return
                scores = session.step(history)  # (R, V)

    def _choose(self, history: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens and the highest scores: (R, L), (R, V) to (R,), (R,).

        The highest score is -inf if every token is forbidden, and NaN or inf if the logits are.
        """
        scores = scores.float()
        for process in self.processors:
            scores = process(history, scores)
        if self.config.do_sample:
            return draw(candidates(scores, self.config), self.generator)
        best, tokens = scores.max(dim=1)  # (R,) twice; NaN if any score is NaN
        return tokens, best

    def _all_ended(self, running: Tensor, best_scores: list[Tensor], step: int) -> bool:
        """Whether all sequences have ended. Only here does the host wait for the device.

        Args:
            running: (R,) bool, which have not.
            best_scores: (R,) each, the highest scores of the last steps; 0 after a sequence's end.
            step: the number of the last one.

        Raises:
            ValueError: a sequence could not be continued.
        """
        best = torch.stack(best_scores)  # (steps, R)
        has_dead_end, is_running = torch.stack([~best.isfinite().all(), running.any()]).tolist()
        if has_dead_end:
            raise self._dead_end(best, step)
        return not is_running

    def _dead_end(self, best: Tensor, step: int) -> ValueError:
        """The error for the first sequence without a next token; `best` as above, (steps, R)."""
        index, sequence = (~best.isfinite()).nonzero()[0].tolist()
        num_new_tokens, score = step - len(best) + index, float(best[index, sequence])
        return no_next_token(sequence, num_new_tokens, score, self.config, self.model)


def prepare(
    model: LanguageModel,
    inputs: tuple[Tensor, Tensor | None, Tensor | None],
    config: GenerationConfig | None,
    defaults: GenerationConfig | None,
    seed: int | None,
    tokenizer: Tokenizer | None,
    use_cache: bool,
    changes: Mapping[str, Any],
) -> Decoding:
    """Check all that can be checked before the model runs; arguments as in :func:`generate`."""
    _check_model(model)
    input_ids, attention_mask, prefix = inputs
    changes = changes if changes.keys() <= {*FIELDS} else without(changes, GENERATION)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    vocab_size = model.config.vocab_size
    config = resolve(model.generation_config if defaults is None else defaults, config, changes)
    check_tokens(config, vocab_size)
    mask = _check_prompts(input_ids, attention_mask, config, vocab_size)  # (B, T) bool
    options: dict[str, Any] = {"use_cache": use_cache}
    # An encoder-decoder gets the mask as it was given: None and a mask of ones differ.
    if isinstance(model, Seq2SeqLM):
        prompt, length = torch.full_like(input_ids[:, :1], start_token(config)), 1  # (B, 1)
        if prefix is not None:
            prompt = _target_prefix(prefix, input_ids, config, vocab_size)  # (B, P)
            length, options["decoder_input_ids"] = prompt.shape[1], prompt
    elif prefix is not None:
        raise _no_target(model)
    else:
        prompt, mask = _move_padding_left(input_ids, mask)  # (B, T) twice
        # Columns that are padding in every sequence are returned, but the model does not see them.
        length = int(mask.sum(dim=1).max())
        input_ids, attention_mask = prompt[:, -length:], mask[:, -length:]
        mask = attention_mask
    config = resolve_lengths(config, changes, prompt.shape[1])
    _check_length(length, config.max_new_tokens, model.config.max_sequence_length)
    if config.num_beams > 1 or config.num_return_sequences > 1:
        _check_memory(model, config, len(prompt), prompt.device)
    pad_token_id = padding_token(config, len(prompt) * config.num_return_sequences)
    config = replace(config, pad_token_id=pad_token_id)
    source_ids = input_ids.masked_fill(~mask, vocab_size)
    stops = StopStrings(config.stop_strings, tokenizer, vocab_size) if config.stop_strings else None
    return Decoding(
        model=model,
        open_session=partial(
            model.decoding_session, input_ids, attention_mask, config=config, **options
        ),
        prompt=prompt,
        config=config,
        processors=make_processors(config, prompt_length=length, source_ids=source_ids),
        stopping=StoppingCriteria(config.eos_token_ids, stops, prompt.device),
        generator=None if seed is None else _generator(seed, prompt.device),
    )


def check_tokenizer(tokenizer: Any) -> None:
    """Check the type of a tokenizer.

    Raises:
        TypeError: it is not a :class:`Tokenizer`.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}; it must be a minitransformer.Tokenizer"
        )


def _decode(decoding: Decoding, streamer: Streamer | None) -> GenerationOutput:
    """Run greedy search or sampling to the end."""
    prompt = decoding.prompt.repeat_interleave(decoding.config.num_return_sequences, dim=0)
    columns, lengths = [prompt], torch.zeros_like(prompt[:, 0], dtype=torch.int64)  # (R,)
    steps = decoding.tokens(read_every_step=streamer is not None)
    if streamer is not None:
        steps = _streamed(steps, prompt, streamer)
    with closing(steps):
        for tokens, running in steps:
            columns.append(tokens[:, None])
            lengths += running
    columns = columns[: int(lengths.max()) + 1]  # drop columns that contain only padding
    sequences, length = torch.cat(columns, dim=1), prompt.shape[1]  # (R, L)
    return GenerationOutput(sequences=sequences, prompt_length=length, num_new_tokens=lengths)


def _streamed(steps: Steps, prompt: Tensor, streamer: Streamer) -> Steps:
    """Pass on the steps, and give the streamer the prompt, (R, T), and then each step's tokens."""
    try:
        with closing(steps):
            streamer.put(prompt.cpu())
            for tokens, running in steps:
                streamer.put(tokens.cpu())
                yield tokens, running
    finally:
        streamer.end()


def _search(decoding: Decoding, streamer: Streamer | None) -> GenerationOutput:
    """Run beam search or beam sampling."""
    if streamer is not None:
        raise ValueError(
            f"a streamer needs num_beams=1, not {decoding.config.num_beams}: the best beam is not "
            "known before the end"
        )
    config = decoding.config
    with closing(decoding.open_session(read_every_step=True)) as session:
        found = search_beams(
            session,
            config,
            decoding.processors,
            decoding.stopping,
            decoding.generator,
            decoding.model,
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


def _check_model(model: Any) -> None:
    if not isinstance(model, LanguageModel):
        raise TypeError(
            f"a {class_name(model)} does not generate text; use a decoder such as GPT2LMHeadModel "
            "or an encoder-decoder such as T5ForConditionalGeneration"
        )
    check_evaluation_mode(model)


def _check_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, config: GenerationConfig, vocab_size: int
) -> Tensor:
    """Check the prompts or sources, (B, T), and return their padding mask, (B, T) bool."""
    check_ids("input_ids", input_ids, size=vocab_size, size_name="vocab_size")
    # A padding token that is an end token too may occur in a text.
    padding = None if config.pad_token_id in config.eos_token_ids else config.pad_token_id
    check_attention_mask(attention_mask, input_ids, padding)
    mask = boolean_mask(attention_mask, input_ids)
    if not bool((has_token := mask.any(dim=1)).all()):
        raise ValueError(
            f"sequence {int(has_token.int().argmin())} of input_ids is all padding; give each "
            "sequence at least one real token"
        )
    return mask


def _no_target(model: LanguageModel) -> ValueError:
    return ValueError(
        f"decoder_input_ids: a {class_name(model)} continues its input_ids; put them there"
    )


def _target_prefix(
    decoder_input_ids: Tensor, input_ids: Tensor, config: GenerationConfig, vocab_size: int
) -> Tensor:
    """What the targets of an encoder-decoder begin with, (B, P): the start token, and what follows.

    As in transformers, the start token is put before prefixes that do not begin with it.
    """
    check_ids("decoder_input_ids", decoder_input_ids, size=vocab_size, size_name="vocab_size")
    if len(decoder_input_ids) != len(input_ids):
        raise ValueError(
            f"decoder_input_ids has {len(decoder_input_ids)} prefixes for {len(input_ids)} sources "
            "in input_ids; each source needs one"
        )
    prefix, start = decoder_input_ids.to(torch.int64), config.decoder_start_token_id
    if start is not None:
        begins = prefix[:, 0] == start  # (B,)
        if not bool(begins.any()):
            prefix = F.pad(prefix, (1, 0), value=start)
        elif not bool(begins.all()):
            raise ValueError(
                f"decoder_input_ids begins with the start token, {start}, in some sequences only; "
                "give it in all of them or in none"
            )
    if config.pad_token_id is not None and bool((prefix[:, 1:] == config.pad_token_id).any()):
        raise ValueError(
            f"decoder_input_ids contains padding, pad_token_id={config.pad_token_id}; prefixes of "
            "one call have one length, so generate those of each length by themselves"
        )
    return prefix


def _move_padding_left(input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move all padding to the left, so that each sequence ends with a real token: (B, T) twice.

    This does not change the positions of real tokens, which never count padding.
    """
    if bool((mask[:, 1:] >= mask[:, :-1]).all()):  # all padding is on the left already
        return input_ids, mask
    order = mask.byte().argsort(dim=1, stable=True)  # padding first, real tokens in their order
    return input_ids.gather(1, order), mask.gather(1, order)


def _check_length(
    prompt_length: int, max_new_tokens: int | None, max_sequence_length: int | None
) -> None:
    assert max_new_tokens is not None
    if max_sequence_length is not None and prompt_length + max_new_tokens > max_sequence_length:
        left = max_sequence_length - prompt_length
        fix = f"set max_new_tokens to at most {left}" if left > 0 else "shorten the prompt"
        raise ValueError(
            f"{prompt_length} prompt token{'s' * (prompt_length > 1)} and {max_new_tokens} new "
            f"one{'s' * (max_new_tokens > 1)} exceed the model's {max_sequence_length} positions; "
            f"{fix}"
        )


def _check_memory(
    model: LanguageModel, config: GenerationConfig, num_prompts: int, device: torch.device
) -> None:
    """Check that the device has memory for the scores of a step, before any of it is taken."""
    name = "num_beams" if config.num_beams > 1 else "num_return_sequences"
    per_prompt, memory = getattr(config, name), memory_size(device)
    # In float32: the logits, the processed scores, and what beams or candidates make of them.
    largest = memory // (3 * 4 * model.config.vocab_size * num_prompts)
    if per_prompt > max(1, largest):
        raise ValueError(
            f"{name}={per_prompt} gives {num_prompts * per_prompt} sequences, whose scores of "
            f"{model.config.vocab_size} tokens do not fit into the {memory / 2**30:.1f} GiB of "
            f"memory of {device}; set {name} to at most {max(1, largest)}"
        )


def memory_size(device: torch.device) -> int:
    """The memory of a device in bytes; without limit where PyTorch and Python cannot tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2**63


def _check_streamer(streamer: Any) -> None:
    if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(
            f"streamer is a {type(streamer).__name__}; it must be an object with the methods "
            "put(tokens) and end()"
        )


def _generator(seed: int, device: torch.device) -> torch.Generator:
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed={shortened(seed)} must be an integer from 0 to {2**63 - 1}")
    return torch.Generator(device=device).manual_seed(seed)
