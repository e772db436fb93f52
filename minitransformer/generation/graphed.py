"""Writing on a GPU: the step of the model is recorded once and repeated for every token.

A step is some hundred small kernels, and to start each of them takes the host longer than the GPU
takes to run it. Recorded as a CUDA graph, they are started all at once. A graph repeats the same
kernels on the same memory, hence the static cache (:mod:`minitransformer.layers.static_cache`).

R rows that are written, L tokens so far, V vocabulary.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from minitransformer.generation.decoding import CausalDecoder, Decoder, Seq2SeqDecoder
from minitransformer.layers.static_cache import StaticCache
from minitransformer.models.generation_config import GenerationConfig

LOOK_EVERY = 16  # tokens that are written on a GPU before the host looks whether all rows ended
# Tokens: recording takes as long as some five of them without it, which is estimated, not measured.
_WORTH_A_GRAPH = 16
_WARM_UPS = 3  # runs before the recording, in which libraries set up what they need
_PLACES = 64  # the number of places is a multiple of it, so that like lengths share a graph
# All places are allocated and attended to from the first token on: where a model sets no limit, a
# generous one of the caller's, which the text may never come near, must not cost its memory.
_MOST_PLACES = 4096
_RECORDING = Lock()  # only one recording may be under way in a process

Cached = CausalDecoder | Seq2SeqDecoder
Run = Callable[[], Tensor]


class RecordingError(RuntimeError):
    """The device refused to record what it had run before."""


def writes_ahead(device: torch.device) -> bool:
    """Whether this device works while the host already hands it the next tokens."""
    return device.type == "cuda"


def record(run: Run, device: torch.device) -> Run:
    """Record what `run` does on a GPU; the answer does it once more, with the same memory.

    Args:
        run: without arguments; what it reads and writes lies in memory that stays, and to run it
            several times does what running it once does.
        device: the GPU.

    Returns:
        A function whose result is always the same tensor, with new numbers in it.

    Raises:
        RecordingError: `run` did what cannot be recorded.
        torch.OutOfMemoryError: the memory of the GPU did not suffice.
    """
    main = torch.cuda.current_stream(device)
    # The stream too is set back: a recording that fails leaves its own one set.
    with _RECORDING, torch.cuda.device(device), torch.cuda.stream(main):
        side = torch.cuda.Stream()
        side.wait_stream(main)
        try:
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    run()
        finally:  # whose memory may be used again after an error
            main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The stream of the warm-up: what libraries set up, some of them set up for a stream.
        try:
            # What other threads do meanwhile, such as to allocate memory, is theirs.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                output = run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RecordingError(str(error)) from error

    def repeat() -> Tensor:
        graph.replay()
        return output

    return repeat


class RecordedStep:
    """A step of one model for one set of sizes, with the memory that it works in.

    It holds no reference to the model, whose weights the graph knows by their place in memory.

    Args:
        decoder: at work, its prompt read. It gets a static cache; where recording fails, it is
            left as it was.
        num_places: of that cache.
        token: (R, 1), the first token that is read.

    Raises:
        RecordingError, torch.OutOfMemoryError: as :func:`record`.
    """

    def __init__(self, decoder: Cached, num_places: int, token: Tensor) -> None:
        past = decoder.cache
        assert past is not None
        self.sizes = sizes(decoder, num_places)
        self.token = token.clone()  # (R, 1)
        self.source_mask: Tensor | None = None  # (B, S)
        self.cache = StaticCache(past, num_places)
        encoded = decoder.encoded if isinstance(decoder, Seq2SeqDecoder) else None
        try:
            self._repeat = self._recorded(decoder)
        except BaseException:
            decoder.cache = past
            if isinstance(decoder, Seq2SeqDecoder):
                decoder.encoded = encoded
            raise
        self.cache.fill(past)  # as if nothing had been tried

    def _recorded(self, decoder: Cached) -> Run:
        """Let the decoder work in this memory, and record its step there."""
        decoder.cache = self.cache
        if isinstance(decoder, Seq2SeqDecoder):
            assert decoder.encoded is not None
            mask = decoder.encoded.attention_mask
            self.source_mask = None if mask is None else mask.clone()
            decoder.encoded = replace(decoder.encoded, attention_mask=self.source_mask)
        self.cache.advance()  # the place that is written while the step is tried and recorded
        return record(lambda: decoder.step(self.token), self.token.device)

    def take_over(self, decoder: Cached) -> None:
        """Hold what another decoder of the same sizes has read, and go on from there."""
        assert decoder.cache is not None
        self.cache.fill(decoder.cache)
        mask = _source_mask(decoder)
        if self.source_mask is not None and mask is not None:
            self.source_mask.copy_(mask)

    def __call__(self, token: Tensor) -> Tensor:
        """Read a token of each row, (R, 1): the scores of the next one, (R, V).

        The next call puts others into the same memory.
        """
        self.cache.advance()
        self.token.copy_(token)
        return self._repeat()


# The last recorded step of each model. It is taken out while it is in use: two texts that are
# written in turn cannot share its memory.
_KEPT: WeakKeyDictionary[nn.Module, RecordedStep] = WeakKeyDictionary()


class GraphedDecoder:
    """A decoder whose steps, all but the reading of the prompt, are one recorded step.

    Where that step cannot be recorded, this is the decoder itself, and a warning says why.

    Args:
        decoder: the model with its prompts, and with a cache.
        num_new: tokens that will be written at most.
    """

    def __init__(self, decoder: Cached, num_new: int) -> None:
        self.decoder = decoder
        self.prompt = decoder.prompt
        self.num_places = places_for(decoder, num_new)
        self.recorded: RecordedStep | None = None
        self._failed = False

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        return self.decoder.start()

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        token = history[:, -1:]
        if self.recorded is None and not self._failed:
            self._begin(token)
        return self.decoder.step(history) if self.recorded is None else self.recorded(token)

    def select(self, rows: Tensor) -> None:
        """Make row r what row `rows[r]` was, before the first step."""
        self.decoder.select(rows)

    def keep(self) -> None:
        """Let the next text have the recorded step."""
        if self.recorded is not None:
            _KEPT[self.decoder.model] = self.recorded

    def _begin(self, token: Tensor) -> None:
        try:
            self.recorded = self._kept_or_new(token)
        except (RecordingError, torch.OutOfMemoryError) as error:
            self._failed = True
            warnings.warn(
                f"the step for a token could not be recorded on {token.device}, and is run anew "
                f"for each, which is slower; model.record_steps = False does not try: {error}",
                stacklevel=2,
            )

    def _kept_or_new(self, token: Tensor) -> RecordedStep:
        kept = _KEPT.pop(self.decoder.model, None)
        if kept is not None and kept.sizes == sizes(self.decoder, self.num_places):
            kept.take_over(self.decoder)
            return kept
        del kept  # its memory is free before a new one takes as much
        return RecordedStep(self.decoder, self.num_places, token)


@contextmanager
def graphed(decoder: Decoder, config: GenerationConfig, watched: bool) -> Iterator[Decoder]:
    """The decoder itself, or one that repeats a recorded step where that is possible and pays.

    The recorded step of the last text is kept as long as the model, for texts of the same sizes;
    `model.record_steps = False` does without.

    Args:
        decoder: the model with its prompts.
        config: of the call, `max_new_tokens` known.
        watched: whether the host looks at each token as it comes.
    """
    if not isinstance(decoder, CausalDecoder | Seq2SeqDecoder) or watched:
        yield decoder
        return
    assert config.max_new_tokens is not None
    possible = _can_be_recorded(decoder)
    if not possible:
        _KEPT.pop(decoder.model, None)  # which frees its memory
    if not possible or config.max_new_tokens < _WORTH_A_GRAPH:
        yield decoder
        return
    quick = GraphedDecoder(decoder, config.max_new_tokens)
    if quick.num_places > _MOST_PLACES:
        yield decoder
        return
    yield quick
    quick.keep()  # not where an error broke the text off


def places_for(decoder: Cached, num_new: int) -> int:
    """Places for the prompt and all new tokens but the last, which nothing is read after."""
    needed = decoder.prompt.shape[1] + num_new - 1
    rounded = -(-needed // _PLACES) * _PLACES
    longest = _longest(decoder)
    return rounded if longest is None else min(rounded, longest - 1)


def sizes(decoder: Cached, num_places: int) -> tuple[Any, ...]:
    """All that a recorded step depends on beside the numbers in its memory."""
    assert decoder.cache is not None
    first = decoder.cache.layers[0]
    shapes = [past.tokens()[0].shape[:3] for past in (first.own, first.source) if past.length]
    weights = chain(decoder.model.parameters(), decoder.model.buffers())
    return (
        num_places,
        shapes[0][0],  # R
        shapes[1:],  # (B, H, S) of the source
        _source_mask(decoder) is None,
        torch.is_inference_mode_enabled(),  # whose tensors cannot be written outside of it
        torch.backends.cuda.matmul.fp32_precision,  # by which kernels are chosen
        tuple((weight.data_ptr(), weight.dtype) for weight in weights),
        # A module that took the place of another may compute something else with the same weights.
        # Not their ids, which a later object may have again.
        tuple(ref(part) for part in decoder.model.modules()),
    )


def _can_be_recorded(decoder: Cached) -> bool:
    """Whether a step is nothing but kernels on a device that can repeat them."""
    model = decoder.model
    return (
        decoder.cache is not None
        and model.record_steps
        and writes_ahead(decoder.prompt.device)
        # Its copies of the weights in another dtype go with the block that it was turned on for.
        and not torch.is_autocast_enabled(decoder.prompt.device.type)
        # Hooks are Python, of which nothing is repeated.
        and not torch.nn.modules.module._has_any_global_hook()
        and not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    )


def _source_mask(decoder: Cached) -> Tensor | None:
    if isinstance(decoder, CausalDecoder) or decoder.encoded is None:
        return None
    return decoder.encoded.attention_mask


def _longest(decoder: Cached) -> int | None:
    config: Any = decoder.model.config
    return config.max_sequence_length
