"""Replaying a captured step generates the model's tokens; on the CPU, a stand-in captures it."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minitransformer.fast import cuda_graph, model_twins, optimize, restore
from minitransformer.fast.cuda_graph import EOS_CHECK_INTERVAL, CaptureError, GraphedSession
from minitransformer.generation import generate
from minitransformer.generation.generate import Decoding
from minitransformer.generation.logits_processors import make_processors
from minitransformer.generation.stopping import StoppingCriteria
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import CausalDecodingSession, DecodingSession
from minitransformer.models.validation import check_attention_mask, check_ids
from tests.tiny import GENERATING, GENERATING_UNTIED, language_model, prompts

# --- A CUDA graph on the CPU: the operations of one run, repeated on the same memory. Like a real
# one, it does not repeat Python code, and fails if Python reads a value.

Run = Callable[[], Tensor]
READING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select"}


class Operations(TorchDispatchMode):
    """Records each operation with its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in READING, f"{name} reads a value during the capture"
        results = func(*args, **(kwargs or {}))
        self.noted.append((func, args, kwargs or {}, results))
        return results

    def repeat(self) -> None:
        """Run the recorded operations again on the same memory."""
        for func, args, kwargs, results in self.noted:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                # Views, and results of in-place operations, keep their memory.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Captures:
    """A stand-in for `cuda_graph.capture` that counts captures and replays."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, run: Run, _device: torch.device) -> Run:
        self.captured += 1
        for _ in range(3):
            run()
        with pytest.MonkeyPatch.context() as patch, Operations() as operations:
            patch.setattr("minitransformer.models.validation.values_are_readable", lambda *_: False)
            output = run()
        assert operations.noted

        def replay() -> Tensor:
            self.replayed += 1
            operations.repeat()
            return output

        return replay


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Make the CPU count as a device that captures and replays steps."""
    made = Captures()
    monkeypatch.setattr(cuda_graph, "capture", made)
    for module in (cuda_graph, model_twins):
        monkeypatch.setattr(module, "runs_asynchronously", lambda _: True)
    return made


# --- What is generated

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 3, "top_k": 0},
    "several sequences": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "top_p": 0.9},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "ends": {"eos_token_id": list(range(3, 60)), "min_new_tokens": 1},
}


def optimized(family: str) -> Any:
    """An optimized model that shares no captured step with other tests."""
    return optimize(copy.deepcopy(language_model(family)))


def generated(model: Any, batch: dict[str, Any], **fields: Any) -> list[Any]:
    output = generate(model, **batch, **fields)
    return [output.sequences.tolist(), output.num_new_tokens.tolist(), output.prompt_length]


def streamed(model: Any, batch: dict[str, Any], **fields: Any) -> list[Any]:
    """The same with a streamer, and therefore with the cache that grows."""
    return generated(model, batch, **fields, streamer=SilentStreamer())


class SilentStreamer:
    """A streamer that does nothing with the tokens."""

    def put(self, _value: torch.Tensor) -> None:
        pass

    def end(self) -> None:
        pass


@pytest.mark.parametrize(
    ("lengths", "way"), [([5], "greedy"), *(([3, 7, 5], way) for way in WAYS)], ids=str
)
@pytest.mark.parametrize("family", [*GENERATING, *GENERATING_UNTIED])
def test_the_same_tokens(captures, family, lengths, way):
    model, batch = optimized(family), prompts(family, lengths)
    fields = {"max_new_tokens": 20, "pad_token_id": 1, **WAYS[way]}
    assert generated(model, batch, **fields) == streamed(language_model(family), batch, **fields)
    assert captures.captured == 1
    assert captures.replayed >= 15


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_up_to_the_last_position(captures, attention):
    sizes = language_model("GPT2").config
    model = optimize(type(language_model("GPT2"))(sizes, attention=attention).eval())
    batch = prompts("GPT2", [4, 10])
    fields = {"max_new_tokens": sizes.max_position_embeddings - 10, "eos_token_id": None}
    assert generated(model, batch, **fields) == streamed(model, batch, **fields)
    assert captures.replayed == fields["max_new_tokens"] - 1


@pytest.mark.parametrize("family", GENERATING)
def test_a_second_text_of_the_same_sizes_reuses_the_captured_step(captures, family):
    model = optimized(family)
    for seed in range(3):
        batch = prompts(family, [3, 7, 5], seed=seed)
        assert generated(model, batch, max_new_tokens=20) == streamed(
            model, batch, max_new_tokens=20
        )
    assert captures.captured == 1


@pytest.mark.parametrize("family", ["Bart", "Marian", "T5"])
def test_sources_with_other_padding_share_the_captured_step_but_not_the_mask(captures, family):
    model, masks, before = optimized(family), [], []
    # A sample depends on every probability, whereas the most likely token may stay the same.
    fields = {"max_new_tokens": 16, "do_sample": True, "top_k": 0, "temperature": 2.0, "seed": 0}
    for lengths in ([3, 7, 5], [7, 2, 4]):
        batch = prompts(family, lengths)
        batch["attention_mask"] = batch["attention_mask"].bool()
        masks.append(batch["attention_mask"])
        before.append(masks[-1].clone())
        assert generated(model, batch, **fields) == streamed(model, batch, **fields)
    assert captures.captured == 1
    assert all(torch.equal(mask, other) for mask, other in zip(masks, before, strict=True))


def test_a_prompt_of_another_length_may_reuse_the_captured_step(captures):
    model = optimized("GPT2")
    for lengths in ([9, 9], [2, 2], [4, 12]):
        batch = prompts("GPT2", lengths)
        assert generated(model, batch, max_new_tokens=16) == streamed(
            model, batch, max_new_tokens=16
        )
    assert captures.captured == 1


def test_other_sizes_are_captured_again(captures):
    model = optimized("Bart")
    for lengths in ([6], [6, 6], [7, 5]):
        batch = prompts("Bart", lengths)
        assert generated(model, batch, max_new_tokens=16) == streamed(
            model, batch, max_new_tokens=16
        )
    assert captures.captured == 3


def test_weights_changed_in_place_are_used_and_new_weights_are_captured_again(captures):
    model, batch = optimized("GPT2"), prompts("GPT2", [5])
    first = generated(model, batch, max_new_tokens=16)
    with torch.no_grad():
        model.backbone.token_embedding.weight.mul_(-1)
    second = generated(model, batch, max_new_tokens=16)
    assert second == streamed(model, batch, max_new_tokens=16) != first
    assert captures.captured == 1
    model.double()
    third = generated(model, batch, max_new_tokens=16)
    assert third == streamed(model, batch, max_new_tokens=16)
    assert captures.captured == 2


def test_a_replaced_module_is_captured_again(captures):
    model, batch = optimized("GPT2"), prompts("GPT2", [5])
    first = generated(model, batch, max_new_tokens=16)
    for number, layer in enumerate(model.backbone.layers, 2):
        layer.feed_forward.dropout = torch.nn.LayerNorm(17).eval()
        second = generated(model, batch, max_new_tokens=16)
        assert second == streamed(model, batch, max_new_tokens=16)
        assert captures.captured == number
    assert second != first


def test_another_precision_is_captured_again(captures):
    model, batch = optimized("GPT2"), prompts("GPT2", [5])
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for precision in ("ieee", "tf32", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = precision
            generate(model, **batch, max_new_tokens=16)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert captures.captured == 2


def test_inference_mode_has_its_own_captured_step(captures):
    model, batch = optimized("GPT2"), prompts("GPT2", [5])
    with torch.inference_mode():
        first = generated(model, batch, max_new_tokens=16)
    assert generated(model, batch, max_new_tokens=16) == first
    assert captures.captured == 2


def test_an_interrupted_generation_leaves_nothing_in_the_captured_step(captures, monkeypatch):
    model, batch = optimized("GPT2"), prompts("GPT2", [5])
    expected = generated(model, batch, max_new_tokens=16)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Decoding, "_all_ended", interrupt)
        generated(model, prompts("GPT2", [5], seed=1), max_new_tokens=16)
    assert generated(model, batch, max_new_tokens=16) == expected
    assert captures.captured == 1


def interrupt(*_: object) -> bool:
    raise KeyboardInterrupt


def test_a_captured_step_is_freed_with_its_model(captures):
    model = optimized("T5")
    generated(model, prompts("T5", [5]), max_new_tokens=16)
    gone = weakref.ref(model)
    assert model in cuda_graph._CAPTURED_STEPS
    del model
    gc.collect()
    assert gone() is None


def test_two_interleaved_sessions_do_not_share_a_captured_step(captures):
    model = optimized("GPT2")
    ids = [prompts("GPT2", [5], seed=seed)["input_ids"] for seed in range(2)]
    alone = [generate(model, one, max_new_tokens=16).new_tokens for one in ids]
    config = GenerationConfig(max_new_tokens=16, eos_token_id=())
    sessions = [model.decoding_session(one, config=config, read_every_step=False) for one in ids]
    histories = [*ids]
    with torch.no_grad():
        scores = [session.start() for session in sessions]
        for _ in range(16):
            for number, session in enumerate(sessions):
                token = scores[number].argmax(dim=1, keepdim=True)
                histories[number] = torch.cat([histories[number], token], dim=1)
                scores[number] = session.step(histories[number]).clone()
    for session, history, right in zip(sessions, histories, alone, strict=True):
        session.close()
        assert torch.equal(history[:, 5 : 5 + right.shape[1]], right)


def test_calls_that_capture_no_step(captures):
    model, batch = optimized("GPT2"), prompts("GPT2", [5])
    generate(model, **batch, max_new_tokens=15)  # too few
    generate(model, **batch, max_new_tokens=16, use_cache=False)
    generate(model, **batch, max_new_tokens=16, num_beams=2)
    generate(model, **batch, max_new_tokens=16, streamer=SilentStreamer())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        generate(model, **batch, max_new_tokens=16)
    seen = []
    hook = model.backbone.layers[0].register_forward_hook(lambda *_: seen.append(1))
    generate(model, **batch, max_new_tokens=16)
    assert len(seen) == 16
    hook.remove()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    generate(model, **batch, max_new_tokens=16)
    assert len(seen) > 32
    hook.remove()
    assert captures.captured == 0
    generate(model, **batch, max_new_tokens=16)
    assert captures.captured == 1
    assert model in cuda_graph._CAPTURED_STEPS
    generate(model, **batch, max_new_tokens=15)
    assert model in cuda_graph._CAPTURED_STEPS
    cuda_graph.free_captured_step(model)
    assert model not in cuda_graph._CAPTURED_STEPS  # nor its memory
    generate(restore(model), **batch, max_new_tokens=16)
    assert captures.captured == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, CaptureError])
@pytest.mark.parametrize("family", ["GPT2", "Bart"])
def test_a_step_that_cannot_be_captured_runs_as_usual(captures, monkeypatch, family, error):
    model, batch = optimized(family), prompts(family, [3, 7, 5])
    expected, tries = streamed(model, batch, max_new_tokens=20), []

    def fail(run: Any, _device: torch.device) -> Any:
        run()
        tries.append(run)
        raise error("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "capture", fail)
        with pytest.warns(UserWarning, match=r"no capture is tried.*out of memory"):
            assert generated(model, batch, max_new_tokens=20) == expected
    assert len(tries) == 1
    assert model not in cuda_graph._CAPTURED_STEPS
    assert generated(model, batch, max_new_tokens=20) == expected
    assert captures.captured == 1


def test_a_high_limit_of_new_tokens_takes_no_memory(captures):
    model, batch = optimized("T5"), prompts("T5", [5])
    first = generate(model, **batch, max_new_tokens=16).new_tokens
    for most, captured in ((4096, 1), (4097, 0), (100_000, 0)):
        captures.captured = 0
        generate(model, **batch, max_new_tokens=most, eos_token_id=int(first[0, 2]))
        assert captures.captured == captured


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_dead_end_found_later_gives_the_same_error(captures, do_sample):
    model, batch = optimized("GPT2"), prompts("GPT2", [5, 5])
    every = [[token] for token in range(97)]
    # After the first tokens, 97 or 98, only the other one is left, then none.
    fields = {"max_new_tokens": 20, "bad_words_ids": every, "no_repeat_ngram_size": 1}
    fields |= {"eos_token_id": None, "do_sample": do_sample, "seed": 0}
    messages = []
    for way in (generated, streamed):
        with pytest.raises(ValueError, match="cannot be continued after 2 new") as error:
            way(model, batch, **fields)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_tokens_after_the_last_end_are_cut_off(captures):
    model, batch = optimized("GPT2"), prompts("GPT2", [5, 5])
    first = generate(model, **batch, max_new_tokens=25, eos_token_id=None).new_tokens
    ends = first[:, 3].tolist()
    output = generate(model, **batch, max_new_tokens=25, eos_token_id=ends, pad_token_id=1)
    assert output.new_tokens.shape[1] == int(output.num_new_tokens.max()) <= 4
    assert captures.replayed == 24 + EOS_CHECK_INTERVAL - 1


def test_a_session_on_a_gpu_is_checked_every_16_tokens_captured_or_not(captures):
    model = optimized("GPT2")
    for length, use_cache, read_every_step, expected in (
        (20, True, False, EOS_CHECK_INTERVAL),
        (15, True, False, EOS_CHECK_INTERVAL),
        (20, False, False, EOS_CHECK_INTERVAL),
        (20, True, True, 1),
    ):
        session = cuda_graph.graphed_session(
            CausalDecodingSession(model, torch.tensor([[4, 5]]), use_cache=use_cache),
            length,
            read_every_step,
        )
        assert session.eos_check_interval == expected
        assert isinstance(session, GraphedSession) == (
            use_cache and length > 15 and not read_every_step
        )
    assert CausalDecodingSession.eos_check_interval == 1


FIELDS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "top_k": 5, "typical_p": 0.9},
    {"do_sample": True, "top_k": 0, "top_p": 0.8, "min_p": 0.1, "temperature": 0.7},
    {
        "repetition_penalty": 1.3,
        "encoder_repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 3,
        "bad_words_ids": ((4,), (5, 6)),
        "min_new_tokens": 4,
        "forced_eos_token_id": 2,
        "suppress_tokens": (7,),
        "begin_suppress_tokens": (8,),
        "exponential_decay_length_penalty": (2, 1.1),
    },
]


class Scores(DecodingSession):
    """Scores without values, which cannot be read."""

    eos_check_interval = EOS_CHECK_INTERVAL

    def __init__(self) -> None:
        self.prompt = torch.randint(0, 1999, (3, 4), device="meta")
        self.cache = None

    def start(self) -> torch.Tensor:
        return torch.randn(3, 2000, device="meta")

    def step(self, history: torch.Tensor) -> torch.Tensor:
        return self.start()


def decoding_of(session: DecodingSession, config: GenerationConfig) -> Decoding:
    """The decoding loop of a session."""
    return Decoding(
        model=language_model("GPT2"),
        open_session=lambda **_: session,
        prompt=session.prompt,
        config=config,
        processors=make_processors(config, prompt_length=4, source_ids=session.prompt),
        stopping=StoppingCriteria((2, 3), None, session.prompt.device),
        generator=None,
    )


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_between_two_checks_the_host_waits_for_nothing(fields):
    config = GenerationConfig(max_new_tokens=20, pad_token_id=1, eos_token_id=[2, 3], **fields)
    tokens = decoding_of(Scores(), config).tokens()
    for _ in range(15):
        next(tokens)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        next(tokens)


def test_ids_are_not_read_while_they_are_captured(monkeypatch):
    with FakeTensorMode():
        ids = torch.ones(2, 3, dtype=torch.int64, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr("minitransformer.tracing.FakeTensor", type(None))
    check_ids("input_ids", ids, size=9, size_name="vocab_size")
    check_attention_mask(None, ids, 1)
    check_attention_mask(ids, ids, 1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(RuntimeError):
        check_ids("input_ids", ids, size=9, size_name="vocab_size")


def test_the_calls_that_capture_a_graph(monkeypatch):
    """In the order of PyTorch's documentation: a side stream, warm-ups, the capture."""
    calls: list[str] = []

    class Note:
        def __init__(self, *names: Any, **_: Any) -> None:
            self.name = names[0] if names and isinstance(names[0], str) else "side"

        def wait_stream(self, other: "Note") -> None:
            calls.append(f"{self.name} waits for {other.name}")

        def replay(self) -> None:
            calls.append("replay")

    class Block(Note):
        def __init__(self, stream: Any, name: str = "") -> None:
            self.name = name or f"stream {stream.name}"

        def __enter__(self) -> None:
            calls.append(f"{self.name} begins")

        def __exit__(self, *_: object) -> None:
            calls.append(f"{self.name} ends")

    for name, double in {
        "Stream": Note,
        "current_stream": lambda _: Note("main"),
        "CUDAGraph": Note,
        "device": lambda _: Block(None, name="device"),
        "stream": Block,
        "graph": lambda _, stream, capture_error_mode: Block(
            stream, name=f"graph on {stream.name}, {capture_error_mode}"
        ),
    }.items():
        monkeypatch.setattr(torch.cuda, name, double)
    output = torch.ones(1)

    def run() -> torch.Tensor:
        calls.append("run")
        assert cuda_graph._CAPTURE_LOCK.locked()  # another thread would have to wait
        return output

    replay = cuda_graph.capture(run, torch.device("cuda"))
    assert replay() is output
    assert calls == [
        "device begins",
        "stream main begins",
        "side waits for main",
        "stream side begins",
        *["run"] * 3,
        "stream side ends",
        "main waits for side",
        "graph on side, thread_local begins",
        "run",
        "graph on side, thread_local ends",
        "stream main ends",
        "device ends",
        "replay",
    ]

    def refuse() -> torch.Tensor:
        calls.append("run")
        if len(calls) > 8:
            raise RuntimeError("not permitted when stream is capturing")
        return output

    assert not cuda_graph._CAPTURE_LOCK.locked()
    calls.clear()
    with pytest.raises(CaptureError, match="when stream is capturing"):
        cuda_graph.capture(refuse, torch.device("cuda"))
    assert calls[-4:] == [
        "run",
        "graph on side, thread_local ends",
        "stream main ends",
        "device ends",
    ]
    assert not cuda_graph._CAPTURE_LOCK.locked()


def test_more_steps_than_positions(captures):
    ids = torch.tensor([[4, 5, 6]])
    session = GraphedSession(CausalDecodingSession(optimized("GPT2"), ids, use_cache=True), 37)
    assert session.num_positions == 39  # of 40, the last of which is not read
    with torch.no_grad():
        session.start()
        for _ in range(36):
            session.step(ids)
        with pytest.raises(ValueError, match="all 39 positions of the cache are written"):
            session.step(ids)


@pytest.mark.cuda
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", GENERATING)
def test_a_gpu_decodes_the_same_with_and_without_a_graph(family, way):
    fields = {"max_new_tokens": 25, "pad_token_id": 1, **WAYS[way]}
    model, plain = optimized(family).cuda(), copy.deepcopy(language_model(family)).cuda()
    for seed in range(2):
        batch = {n: t.cuda() for n, t in prompts(family, [3, 7, 5], seed=seed).items()}
        assert generated(model, batch, **fields) == generated(plain, batch, **fields)
        assert model in cuda_graph._CAPTURED_STEPS


@pytest.mark.cuda
def test_a_gpu_decodes_greedily_what_the_cpu_decodes():
    batch = prompts("GPT2", [3, 7, 5])
    there = {name: tensor.cuda() for name, tensor in batch.items()}
    assert generated(optimized("GPT2").cuda(), there, max_new_tokens=25) == generated(
        language_model("GPT2"), batch, max_new_tokens=25
    )


@pytest.mark.cuda
def test_between_two_checks_the_host_does_not_wait_for_the_gpu():
    model = optimized("GPT2").cuda()
    ids = prompts("GPT2", [7, 7])["input_ids"].cuda()
    config = GenerationConfig(max_new_tokens=20, pad_token_id=1, eos_token_id=2)
    session = GraphedSession(CausalDecodingSession(model, ids, use_cache=True), 20)
    tokens = decoding_of(session, config).tokens()
    for _ in range(2):  # the prompt, and the capture
        next(tokens)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(13):
            next(tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
