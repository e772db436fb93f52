"""Decoding on a GPU: the step of the model is captured once as a CUDA graph, and replayed.

A step consists of hundreds of small kernels, and the host takes longer to launch each of them than
the GPU takes to run it. A graph launches them all at once. It repeats the same kernels on the same
memory, and therefore needs a static cache (:mod:`minitransformer.fast.static_kv_cache`). The host
does not wait for the GPU after each token either: it checks every 16 tokens whether all sequences
have ended.

Meant to speed up generation on a GPU without beams, which the speed tables do not measure: it is
tested with a stand-in for the graph and has not run on a GPU.

B prompts, W tokens of a prompt, R decoded sequences, L tokens so far, S positions, V vocabulary.
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

EOS_CHECK_INTERVAL = 16  # tokens between two checks whether all sequences have ended
# For fewer tokens no step is captured. Capturing takes about as long as five steps without a graph,
# which is an estimate, not a measurement.
_MIN_NEW_TOKENS = 16
_NUM_WARM_UPS = 3  # runs before the capture, in which libraries allocate what they need
_POSITIONS_MULTIPLE = 64  # S is a multiple of this, so that similar lengths share a graph
# All positions are allocated and attended to from the first token on. If neither the model nor the
# caller sets a low limit, a cache for all of them would take far more memory than the text needs.
_MAX_POSITIONS = 4096
_CAPTURE_LOCK = Lock()  # only one capture may be under way in a process

Session = CausalDecodingSession | Seq2SeqDecodingSession
Run = Callable[[], Tensor]


class CaptureError(RuntimeError):
    """The device could not capture a step that it had run before."""


def runs_asynchronously(device: torch.device) -> bool:
    """Whether this device runs its kernels while the host goes on."""
    return device.type == "cuda"


def capture(run: Run, device: torch.device) -> Run:
    """Capture what `run` does on a GPU, and return a function that replays it.

    Args:
        run: takes no arguments. It reads and writes memory that stays allocated, and running it
            several times has the effect of running it once.
        device: the GPU.

    Returns:
        A function that returns the same tensor each time, with new values in it.

    Raises:
        CaptureError: `run` contains something that cannot be captured.
        torch.OutOfMemoryError: the GPU does not have enough memory.
    """
    main = torch.cuda.current_stream(device)
    # This block also restores the current stream: a failed capture leaves its own stream current.
    with _CAPTURE_LOCK, torch.cuda.device(device), torch.cuda.stream(main):
        side = torch.cuda.Stream()
        side.wait_stream(main)
        try:
            with torch.cuda.stream(side):
                for _ in range(_NUM_WARM_UPS):
                    run()
        finally:  # also after an error, for the memory may then be used again
            main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Captured on the stream of the warm-up, since some libraries allocate memory per stream.
        try:
            # Other threads may go on, and may allocate memory, during the capture.
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
    """A captured step of one model for one set of sizes, with the memory that it uses.

    It holds no reference to the model: the graph contains the addresses of the weights.

    Args:
        session: a session that has read its prompt. It gets a static cache; if the capture fails,
            it is left unchanged.
        num_positions: S, of that cache.
        token: (R, 1), the first token to read.

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
        self.cache.fill(past)  # undo what the warm-up and the capture wrote

    def _captured(self, session: Session) -> Run:
        """Make the session use this memory, and capture its step."""
        session.cache = self.cache
        if isinstance(session, Seq2SeqDecodingSession):
            self.source_mask = session.encoded.attention_mask.clone()
            session.encoded = replace(session.encoded, attention_mask=self.source_mask)
        self.cache.advance()  # to the position that the capture writes
        return capture(lambda: session.step(self.token), self.token.device)

    def continue_from(self, session: Session) -> None:
        """Copy what another session of the same sizes has read, and continue from there."""
        assert session.cache is not None
        self.cache.fill(session.cache)
        if isinstance(session, Seq2SeqDecodingSession):
            assert self.source_mask is not None
            self.source_mask.copy_(session.encoded.attention_mask)

    def __call__(self, token: Tensor) -> Tensor:
        """Read one token of each sequence, (R, 1), and return the scores of the next, (R, V).

        The next call overwrites the returned scores.
        """
        self.cache.advance()
        self.token.copy_(token)
        return self._replay()


# The last captured step of each model. A session removes it while it is in use, because two
# sessions that run at the same time cannot share its memory.
_CAPTURED_STEPS: WeakKeyDictionary[nn.Module, CapturedStep] = WeakKeyDictionary()


class GraphedSession(DecodingSession):
    """A session that reads the prompt as usual and then replays one captured step.

    If the step cannot be captured, a warning says why, and the wrapped session runs each step.

    Args:
        session: the session to speed up; it has a cache.
        max_new_tokens: the most tokens that will be generated.
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

    def select(self, sequences: Tensor) -> None:
        """Make sequence r what sequence `sequences[r]` was, before the first step."""
        self.session.select(sequences)

    def close(self) -> None:
        """Keep the captured step for the next session."""
        if self.captured is not None:
            _CAPTURED_STEPS[self.session.model] = self.captured
        self.session.close()

    def _begin(self, token: Tensor) -> None:
        try:
            self.captured = self._kept_or_new(token)
        except (CaptureError, torch.OutOfMemoryError) as error:
            self._failed = True
            warnings.warn(
                f"the step of the model could not be captured as a CUDA graph on {token.device}; "
                "generation continues without it, which is slower. After restore(model) no "
                f"capture is tried. The error was: {error}",
                stacklevel=2,
            )

    def _kept_or_new(self, token: Tensor) -> CapturedStep:
        kept = _CAPTURED_STEPS.pop(self.session.model, None)
        if kept is not None and kept.key == step_key(self.session, self.num_positions):
            kept.continue_from(self.session)
            return kept
        del kept  # frees its memory before a new step takes as much
        return CapturedStep(self.session, self.num_positions, token)


def graphed_session(
    session: DecodingSession, max_new_tokens: int, read_every_step: bool
) -> DecodingSession:
    """A session that replays a captured step if that is possible and pays, else the given session.

    On a GPU, the host then checks only every :data:`EOS_CHECK_INTERVAL` tokens whether all
    sequences have ended. The last captured step is kept as long as the model, for later sessions
    of the same sizes; :func:`free_captured_step` frees its memory.

    Args:
        session: the session to speed up.
        max_new_tokens: of the resolved generation config.
        read_every_step: whether the host reads the tokens of each step as soon as they are chosen.
    """
    if read_every_step or not isinstance(session, CausalDecodingSession | Seq2SeqDecodingSession):
        return session
    if runs_asynchronously(session.prompt.device):
        session.eos_check_interval = EOS_CHECK_INTERVAL
    if not _can_be_captured(session):
        free_captured_step(session.model)
        return session
    if max_new_tokens < _MIN_NEW_TOKENS:
        return session
    graphed = GraphedSession(session, max_new_tokens)
    return session if graphed.num_positions > _MAX_POSITIONS else graphed


def free_captured_step(model: nn.Module) -> None:
    """Free the memory of this model's captured step."""
    _CAPTURED_STEPS.pop(model, None)


def positions_for(session: Session, max_new_tokens: int) -> int:
    """S, for the prompt and all new tokens but the last, which the model never reads."""
    needed = session.prompt.shape[1] + max_new_tokens - 1
    rounded = -(-needed // _POSITIONS_MULTIPLE) * _POSITIONS_MULTIPLE
    limit: int | None = session.model.config.max_sequence_length
    return rounded if limit is None else min(rounded, limit - 1)


def step_key(session: Session, num_positions: int) -> tuple[Any, ...]:
    """Everything that a captured step depends on, except the values in its memory."""
    assert session.cache is not None
    first = session.cache.layers[0]
    source = first.cross_attention
    weights = chain(session.model.parameters(), session.model.buffers())
    return (
        num_positions,
        len(first.self_attention.keys),  # R
        source.keys.shape[:3] if source.length else None,  # (B, H, S)
        torch.is_inference_mode_enabled(),  # its tensors cannot be written outside it
        torch.backends.cuda.matmul.fp32_precision,  # the choice of kernels depends on it
        tuple((weight.data_ptr(), weight.dtype) for weight in weights),
        # A module that replaced another may compute something else with the same weights. Weak
        # references, because a later object may have the same id.
        tuple(ref(module) for module in session.model.modules()),
    )


def _can_be_captured(session: Session) -> bool:
    """Whether a step consists of kernels only, on a device that can replay them."""
    return (
        session.cache is not None
        and runs_asynchronously(session.prompt.device)
        # Autocast's copies of the weights are freed at the end of its block.
        and not torch.is_autocast_enabled(session.prompt.device.type)
        # Hooks are Python code, which a graph does not repeat.
        and has_no_hooks(*session.model.modules())
    )
