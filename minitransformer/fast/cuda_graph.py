"""Decoding on a GPU: the step of the model is captured once as a CUDA graph, and replayed.

A step is some hundred small kernels, and to launch each of them takes the host longer than the GPU
takes to run it. In a graph they are launched all at once. A graph repeats the same kernels on the
same memory, hence the static cache (:mod:`minitransformer.fast.static_kv_cache`). Nor does the host
wait for the GPU after each token: it looks every 16 tokens whether all sequences have ended.
Written for generation on a GPU without beams, tested with a stand-in for the graph, and not run on
a GPU.

B prompts, W their tokens, R decoded sequences, L tokens so far, S positions, V vocabulary.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from minitransformer.fast.dispatch import has_no_hooks
from minitransformer.fast.static_kv_cache import StaticKVCache
from minitransformer.models.base import (
    CausalDecodingSession,
    DecodingSession,
    Seq2SeqDecodingSession,
)

EOS_CHECK_INTERVAL = 16  # tokens between two looks of the host at whether all sequences ended
# Tokens: capturing takes as long as some five of them without it, which is estimated, not measured.
_WORTH_A_GRAPH = 16
_NUM_WARM_UPS = 3  # runs before the capture, in which libraries set up what they need
_STEP_OF_SIZES = 64  # S is a multiple of it, so that similar lengths share a graph
# All positions are allocated and attended to from the first token on: where a model sets no limit,
# a generous one of the caller's, which the text may never come near, must not cost its memory.
_MOST_POSITIONS = 4096
_CAPTURING = Lock()  # only one capture may be under way in a process

Session = CausalDecodingSession | Seq2SeqDecodingSession
Run = Callable[[], Tensor]


class CaptureError(RuntimeError):
    """The device refused to capture what it had run before."""


def runs_ahead(device: torch.device) -> bool:
    """Whether this device works while the host already hands it the next tokens."""
    return device.type == "cuda"


def capture(run: Run, device: torch.device) -> Run:
    """Capture what `run` does on a GPU; the answer does it once more, with the same memory.

    Args:
        run: without arguments; what it reads and writes lies in memory that stays, and to run it
            several times does what running it once does.
        device: the GPU.

    Returns:
        A function whose result is always the same tensor, with new numbers in it.

    Raises:
        CaptureError: `run` did what cannot be captured.
        torch.OutOfMemoryError: the memory of the GPU did not suffice.
    """
    main = torch.cuda.current_stream(device)
    # The stream too is set back: a capture that fails leaves its own one set.
    with _CAPTURING, torch.cuda.device(device), torch.cuda.stream(main):
        side = torch.cuda.Stream()
        side.wait_stream(main)
        try:
            with torch.cuda.stream(side):
                for _ in range(_NUM_WARM_UPS):
                    run()
        finally:  # the memory may be used again after an error
            main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The stream of the warm-up: what libraries set up, some of them set up for a stream.
        try:
            # What other threads do meanwhile, such as allocating memory, is theirs.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                output = run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(str(error)) from error

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class CapturedStep:
    """A step of one model for one set of sizes, with the memory that it works in.

    It holds no reference to the model, whose weights the graph knows by their address.

    Args:
        session: its prompt read. It gets a static cache; where the capture fails, it is left as it
            was.
        num_positions: S, of that cache.
        token: (R, 1), the first token that is read.

    Raises:
        CaptureError, torch.OutOfMemoryError: as :func:`capture`.
    """

    def __init__(self, session: Session, num_positions: int, token: Tensor) -> None:
        past = session.cache
        assert past is not None
        self.key = step_key(session, num_positions)
        self.token = token.clone()  # (R, 1)
        self.source_mask: Tensor | None = None  # (B, S of the source)
        self.cache = StaticKVCache(past, num_positions)
        encoded = session.encoded if isinstance(session, Seq2SeqDecodingSession) else None
        try:
            self._replay = self._captured(session)
        except BaseException:
            session.cache = past
            if isinstance(session, Seq2SeqDecodingSession):
                assert encoded is not None
                session.encoded = encoded
            raise
        self.cache.fill(past)  # as if nothing had been tried

    def _captured(self, session: Session) -> Run:
        """Let the session work in this memory, and capture its step there."""
        session.cache = self.cache
        if isinstance(session, Seq2SeqDecodingSession):
            self.source_mask = session.encoded.attention_mask.clone()
            session.encoded = replace(session.encoded, attention_mask=self.source_mask)
        self.cache.advance()  # to the position that is written while the step is captured
        return capture(lambda: session.step(self.token), self.token.device)

    def take_over(self, session: Session) -> None:
        """Hold what another session of the same sizes has read, and go on from there."""
        assert session.cache is not None
        self.cache.fill(session.cache)
        if isinstance(session, Seq2SeqDecodingSession):
            assert self.source_mask is not None
            self.source_mask.copy_(session.encoded.attention_mask)

    def __call__(self, token: Tensor) -> Tensor:
        """Read a token of each sequence, (R, 1): the scores of the next one, (R, V).

        The next call puts others into the same memory.
        """
        self.cache.advance()
        self.token.copy_(token)
        return self._replay()


# The last captured step of each model. It is taken out while it is in use: two texts that are
# decoded in turn cannot share its memory.
_KEPT: WeakKeyDictionary[nn.Module, CapturedStep] = WeakKeyDictionary()


class GraphedSession(DecodingSession):
    """A session whose steps, all but the reading of the prompt, are one captured step.

    Where that step cannot be captured, this is the session itself, and a warning says why.

    Args:
        session: the model with its prompts, and with a cache.
        max_new_tokens: tokens that will be generated at most.
    """

    eos_check_interval = EOS_CHECK_INTERVAL

    def __init__(self, session: Session, max_new_tokens: int) -> None:
        self.session = session
        self.prompt = session.prompt
        self.num_positions = positions_for(session, max_new_tokens)
        self.captured: CapturedStep | None = None
        self._failed = False

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        return self.session.start()

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        token = history[:, -1:]
        if self.captured is None and not self._failed:
            self._begin(token)
        return self.session.step(history) if self.captured is None else self.captured(token)

    def select(self, rows: Tensor) -> None:
        """Make sequence r what sequence `rows[r]` was, before the first step."""
        self.session.select(rows)

    def close(self) -> None:
        """Keep the captured step for the next text."""
        if self.captured is not None:
            _KEPT[self.session.model] = self.captured
        self.session.close()

    def _begin(self, token: Tensor) -> None:
        try:
            self.captured = self._kept_or_new(token)
        except (CaptureError, torch.OutOfMemoryError) as error:
            self._failed = True
            warnings.warn(
                f"the step for a token could not be captured on {token.device}, and is run anew "
                f"for each, which is slower; restore(model) does not try: {error}",
                stacklevel=2,
            )

    def _kept_or_new(self, token: Tensor) -> CapturedStep:
        kept = _KEPT.pop(self.session.model, None)
        if kept is not None and kept.key == step_key(self.session, self.num_positions):
            kept.take_over(self.session)
            return kept
        del kept  # its memory is free before a new one takes as much
        return CapturedStep(self.session, self.num_positions, token)


def graphed_session(
    session: DecodingSession, max_new_tokens: int, watched: bool
) -> DecodingSession:
    """The session itself, or one that replays a captured step where that is possible and pays.

    On a GPU, the host then looks only every :data:`EOS_CHECK_INTERVAL` tokens whether all sequences
    have ended. The captured step of the last text is kept as long as the model, for texts of the
    same sizes; :func:`forget_step` frees its memory.

    Args:
        session: the model with its prompts.
        max_new_tokens: of the resolved generation config.
        watched: whether the host looks at each token as it comes.
    """
    if watched or not isinstance(session, CausalDecodingSession | Seq2SeqDecodingSession):
        return session
    if runs_ahead(session.prompt.device):
        session.eos_check_interval = EOS_CHECK_INTERVAL
    if not _can_be_captured(session):
        forget_step(session.model)
        return session
    if max_new_tokens < _WORTH_A_GRAPH:
        return session
    quick = GraphedSession(session, max_new_tokens)
    return session if quick.num_positions > _MOST_POSITIONS else quick


def forget_step(model: nn.Module) -> None:
    """Free the memory of the step that is kept for this model."""
    _KEPT.pop(model, None)


def positions_for(session: Session, max_new_tokens: int) -> int:
    """S, for the prompt and all new tokens but the last, after which nothing is read."""
    needed = session.prompt.shape[1] + max_new_tokens - 1
    rounded = -(-needed // _STEP_OF_SIZES) * _STEP_OF_SIZES
    longest: int | None = session.model.config.max_sequence_length
    return rounded if longest is None else min(rounded, longest - 1)


def step_key(session: Session, num_positions: int) -> tuple[Any, ...]:
    """All that a captured step depends on beside the numbers in its memory."""
    assert session.cache is not None
    first = session.cache.layers[0]
    source = first.cross_attention
    weights = chain(session.model.parameters(), session.model.buffers())
    return (
        num_positions,
        len(first.self_attention.keys),  # R
        source.keys.shape[:3] if source.length else None,  # (B, H, S)
        torch.is_inference_mode_enabled(),  # its tensors cannot be written outside of it
        torch.backends.cuda.matmul.fp32_precision,  # by which kernels are chosen
        tuple((weight.data_ptr(), weight.dtype) for weight in weights),
        # A module that took the place of another may compute something else with the same weights.
        # Not their ids, which a later object may have again.
        tuple(ref(module) for module in session.model.modules()),
    )


def _can_be_captured(session: Session) -> bool:
    """Whether a step is nothing but kernels on a device that can repeat them."""
    return (
        session.cache is not None
        and runs_ahead(session.prompt.device)
        # Autocast's copies of the weights go with the block that it was turned on for.
        and not torch.is_autocast_enabled(session.prompt.device.type)
        # Hooks are Python, of which nothing is repeated.
        and has_no_hooks(*session.model.modules())
    )
