"""A recorded step, repeated, writes what the model writes; on the CPU by way of a recorder."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from minitransformer.generation import generate, graphed
from minitransformer.generation.decoding import CausalDecoder
from minitransformer.generation.graphed import GraphedDecoder
from minitransformer.generation.processors import make_processors
from minitransformer.generation.stopping import Stopping
from minitransformer.generation.writing import write
from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.inputs import check_attention_mask, check_ids
from tests.generation.pairs import ENCODER_DECODERS, FAMILIES, ours, prompts
from tests.generation.recording import Recorder, recorder  # noqa: F401

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 3, "top_k": 0},
    "some answers each": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "top_p": 0.9},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "ends": {"eos_token_id": list(range(3, 60)), "min_new_tokens": 1},
}


def written(model: Any, batch: dict[str, Any], **fields: Any) -> list[Any]:
    output = generate(model, **batch, **fields)
    return [output.sequences.tolist(), output.num_new_tokens.tolist(), output.prompt_length]


def plainly(model: Any, batch: dict[str, Any], **fields: Any) -> list[Any]:
    """With the cache that grows and a look at each token, as when somebody watches."""
    return written(model, batch, **fields, streamer=Silence())


class Silence:
    """A streamer that listens to nothing."""

    def put(self, _value: torch.Tensor) -> None:
        pass

    def end(self) -> None:
        pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [[5], [5, 5], [3, 7, 5]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_tokens(recorder, family, lengths, way):  # noqa: F811
    model, batch = copy.deepcopy(ours(family)), prompts(family, lengths)
    fields = {"max_new_tokens": 20, "pad_token_id": 1, **WAYS[way]}
    assert written(model, batch, **fields) == plainly(model, batch, **fields)
    assert recorder.recorded == 1
    assert recorder.repeated >= 15


@pytest.mark.parametrize("attention", ["eager", "sdpa", "packed"])
def test_up_to_the_last_position(recorder, attention):  # noqa: F811
    sizes = ours("GPT2").config
    model = type(ours("GPT2"))(sizes, attention=attention)
    batch = prompts("GPT2", [4, 10])
    fields = {"max_new_tokens": sizes.max_position_embeddings - 10, "eos_token_id": None}
    assert written(model, batch, **fields) == plainly(model, batch, **fields)
    assert recorder.repeated == fields["max_new_tokens"] - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_text_of_the_same_sizes_records_nothing(recorder, family):  # noqa: F811
    model = copy.deepcopy(ours(family))
    for seed in range(3):
        batch = prompts(family, [3, 7, 5], seed=seed)
        assert written(model, batch, max_new_tokens=20) == plainly(model, batch, max_new_tokens=20)
    assert recorder.recorded == 1


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_sources_that_are_padded_otherwise_share_a_step_and_no_mask(recorder, family):  # noqa: F811
    model, masks, kept = copy.deepcopy(ours(family)), [], []
    # What is drawn depends on every probability, where the likeliest token may stay the same.
    fields = {"max_new_tokens": 16, "do_sample": True, "top_k": 0, "temperature": 2.0, "seed": 0}
    for lengths in ([3, 7, 5], [7, 2, 4]):
        batch = prompts(family, lengths)
        batch["attention_mask"] = batch["attention_mask"].bool()
        masks.append(batch["attention_mask"])
        kept.append(masks[-1].clone())
        assert written(model, batch, **fields) == plainly(model, batch, **fields)
    assert recorder.recorded == 1
    assert all(torch.equal(mask, before) for mask, before in zip(masks, kept, strict=True))


def test_a_prompt_of_another_length_may_share_the_step(recorder):  # noqa: F811
    model = copy.deepcopy(ours("GPT2"))
    for lengths in ([9, 9], [2, 2], [4, 12]):
        batch = prompts("GPT2", lengths)
        assert written(model, batch, max_new_tokens=16) == plainly(model, batch, max_new_tokens=16)
    assert recorder.recorded == 1


def test_other_sizes_are_recorded_anew(recorder):  # noqa: F811
    model = copy.deepcopy(ours("Bart"))
    for lengths in ([6], [6, 6], [6, 5], [7, 5]):
        batch = prompts("Bart", lengths)
        assert written(model, batch, max_new_tokens=16) == plainly(model, batch, max_new_tokens=16)
    assert recorder.recorded == 4


def test_weights_that_changed_in_place_are_read_and_new_ones_recorded_anew(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5])
    model.reorder_weights = False  # those copies are the CPU's
    first = written(model, batch, max_new_tokens=16)
    with torch.no_grad():
        model.transformer.words.weight.mul_(-1)
    second = written(model, batch, max_new_tokens=16)
    assert second == plainly(model, batch, max_new_tokens=16) != first
    assert recorder.recorded == 1
    model.double()
    assert written(model, batch, max_new_tokens=16) == plainly(model, batch, max_new_tokens=16)
    assert recorder.recorded == 2


def test_another_module_in_its_place_is_recorded_anew(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5])
    model.reorder_weights = False  # those copies are the CPU's
    first = written(model, batch, max_new_tokens=16)
    for number, layer in enumerate(model.transformer.layers, 2):
        layer.feed_forward.dropout = torch.nn.Tanh()
        second = written(model, batch, max_new_tokens=16)
        assert second == plainly(model, batch, max_new_tokens=16)
        assert recorder.recorded == number
    assert second != first


def test_another_precision_is_recorded_anew(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5])
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for precision in ("ieee", "tf32", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = precision
            generate(model, **batch, max_new_tokens=16)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert recorder.recorded == 2


def test_inference_mode_has_a_step_of_its_own(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5])
    with torch.inference_mode():
        first = written(model, batch, max_new_tokens=16)
    assert written(model, batch, max_new_tokens=16) == first
    assert recorder.recorded == 2


def test_what_an_error_broke_off_is_not_kept(recorder, monkeypatch):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5])
    expected = written(model, batch, max_new_tokens=16)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recorder, "__call__", None)
        patch.setattr("minitransformer.generation.writing._is_over", interrupt)
        written(model, batch, max_new_tokens=16)
    assert written(model, batch, max_new_tokens=16) == expected
    assert recorder.recorded == 2


def interrupt(*_: object) -> bool:
    raise KeyboardInterrupt


def test_a_kept_step_goes_with_its_model(recorder):  # noqa: F811
    model = copy.deepcopy(ours("T5"))
    written(model, prompts("T5", [5]), max_new_tokens=16)
    gone = weakref.ref(model)
    assert model in graphed._KEPT
    del model
    gc.collect()
    assert gone() is None


def test_what_records_nothing(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5])
    generate(model, **batch, max_new_tokens=15)  # too few
    generate(model, **batch, max_new_tokens=16, use_cache=False)
    generate(model, **batch, max_new_tokens=16, num_beams=2)
    generate(model, **batch, max_new_tokens=16, streamer=Silence())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        generate(model, **batch, max_new_tokens=16)
    seen = []
    hook = model.transformer.layers[0].register_forward_hook(lambda *_: seen.append(1))
    generate(model, **batch, max_new_tokens=16)
    assert len(seen) == 16
    hook.remove()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    generate(model, **batch, max_new_tokens=16)
    assert len(seen) > 32
    hook.remove()
    assert recorder.recorded == 0
    generate(model, **batch, max_new_tokens=16)
    assert recorder.recorded == 1
    assert model in graphed._KEPT
    generate(model, **batch, max_new_tokens=15)
    assert model in graphed._KEPT
    model.record_steps = False
    generate(model, **batch, max_new_tokens=16)
    assert recorder.recorded == 1
    assert model not in graphed._KEPT  # nor its memory


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, graphed.RecordingError])
@pytest.mark.parametrize("family", ["GPT2", "Bart"])
def test_a_step_that_cannot_be_recorded_is_run(recorder, monkeypatch, family, error):  # noqa: F811
    model, batch = copy.deepcopy(ours(family)), prompts(family, [3, 7, 5])
    expected, tries = plainly(model, batch, max_new_tokens=20), []

    def fail(run: Any, _device: torch.device) -> Any:
        run()
        tries.append(run)
        raise error("no room")

    with monkeypatch.context() as patch:
        patch.setattr(graphed, "record", fail)
        with pytest.warns(UserWarning, match="record_steps = False does not try: no room"):
            assert written(model, batch, max_new_tokens=20) == expected
    assert len(tries) == 1
    assert model not in graphed._KEPT
    assert written(model, batch, max_new_tokens=20) == expected
    assert recorder.recorded == 1


def test_a_limit_that_no_text_comes_near_costs_no_memory(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("T5")), prompts("T5", [5])
    first = generate(model, **batch, max_new_tokens=16).new_tokens
    for most, recorded in ((4096, 1), (4097, 0), (100_000, 0)):
        recorder.recorded = 0
        generate(model, **batch, max_new_tokens=most, eos_token_id=int(first[0, 2]))
        assert recorder.recorded == recorded


@pytest.mark.parametrize("do_sample", [False, True])
def test_the_row_without_a_way_on_is_named_though_it_is_seen_later(recorder, do_sample):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5, 5])
    every = [[token] for token in range(97)]
    # After the first tokens, 97 or 98, only the other one is left, then none.
    fields = {"max_new_tokens": 20, "bad_words_ids": every, "no_repeat_ngram_size": 1}
    fields |= {"eos_token_id": None, "do_sample": do_sample, "seed": 0}
    messages = []
    for way in (written, plainly):
        with pytest.raises(ValueError, match="no token can follow in row 0 after 2 new") as error:
            way(model, batch, **fields)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_tokens_of_a_look_that_comes_late_are_cut_off(recorder):  # noqa: F811
    model, batch = copy.deepcopy(ours("GPT2")), prompts("GPT2", [5, 5])
    first = generate(model, **batch, max_new_tokens=25, eos_token_id=None).new_tokens
    ends = first[:, 3].tolist()
    output = generate(model, **batch, max_new_tokens=25, eos_token_id=ends, pad_token_id=1)
    assert output.new_tokens.shape[1] == int(output.num_new_tokens.max()) <= 4
    assert recorder.repeated == 24 + graphed.LOOK_EVERY - 1


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


class Scores:
    """A decoder of shapes without numbers, which nobody can read."""

    def __init__(self) -> None:
        self.prompt = torch.randint(0, 1999, (3, 4), device="meta")

    def start(self) -> torch.Tensor:
        return torch.randn(3, 2000, device="meta")

    def step(self, _history: torch.Tensor) -> torch.Tensor:
        return self.start()

    def select(self, rows: torch.Tensor) -> None:
        pass


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_between_two_looks_the_host_waits_for_nothing(fields):
    config = GenerationConfig(max_new_tokens=20, pad_token_id=1, eos_token_id=[2, 3], **fields)
    decoder = Scores()
    processors = make_processors(config, prompt_length=4, source_ids=decoder.prompt)
    stopping = Stopping((2, 3), None, decoder.prompt.device)
    lengths = torch.zeros(3, dtype=torch.int64, device="meta")
    tokens = write(decoder, config, processors, stopping, None, lengths, look_every=16)
    for _ in range(15):
        next(tokens)
    with pytest.raises(RuntimeError, match="meta"):
        next(tokens)


def test_ids_are_not_read_while_they_are_recorded(monkeypatch):
    with FakeTensorMode():
        ids = torch.ones(2, 3, dtype=torch.int64, device="cuda")
        capturing = True
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        check_ids("input_ids", ids, size=9, size_name="vocab_size")
        assert check_attention_mask(None, ids, 1) is None
        assert check_attention_mask(ids, ids, 1) is not None
        capturing = False
        with pytest.raises(RuntimeError):
            check_ids("input_ids", ids, size=9, size_name="vocab_size")


def test_the_calls_that_record_a_graph(monkeypatch):
    """In the order of PyTorch's page on CUDA graphs: a side stream, warm-ups, the recording."""
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
        assert graphed._RECORDING.locked()  # another thread would have to wait
        return output

    repeat = graphed.record(run, torch.device("cuda"))
    assert repeat() is output
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

    assert not graphed._RECORDING.locked()
    calls.clear()
    with pytest.raises(graphed.RecordingError, match="when stream is capturing"):
        graphed.record(refuse, torch.device("cuda"))
    assert calls[-4:] == [
        "run",
        "graph on side, thread_local ends",
        "stream main ends",
        "device ends",
    ]
    assert not graphed._RECORDING.locked()


def test_more_steps_than_places(recorder):  # noqa: F811
    model = ours("GPT2")
    ids = torch.tensor([[4, 5, 6]])
    decoder = GraphedDecoder(CausalDecoder(model, ids, use_cache=True), 37)
    assert decoder.num_places == 39  # of 40 positions, the last of which is not read
    with torch.no_grad():
        decoder.start()
        for _ in range(36):
            decoder.step(ids)
        with pytest.raises(ValueError, match="all 39 places of the cache are written"):
            decoder.step(ids)


@pytest.mark.cuda
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_writes_what_it_writes_without_a_graph(family, way):
    model, fields = copy.deepcopy(ours(family)).cuda(), {"max_new_tokens": 25, **WAYS[way]}
    for seed in range(2):
        batch = {n: t.cuda() for n, t in prompts(family, [3, 7, 5], seed=seed).items()}
        model.record_steps = True
        recorded = written(model, batch, **fields, pad_token_id=1)
        assert model in graphed._KEPT
        model.record_steps = False
        assert recorded == written(model, batch, **fields, pad_token_id=1)


@pytest.mark.cuda
def test_a_gpu_writes_greedily_what_the_cpu_writes():
    batch = prompts("GPT2", [3, 7, 5])
    there = written(
        copy.deepcopy(ours("GPT2")).cuda(),
        {n: t.cuda() for n, t in batch.items()},
        max_new_tokens=25,
    )
    assert there == written(ours("GPT2"), batch, max_new_tokens=25)


@pytest.mark.cuda
def test_between_two_looks_a_gpu_is_not_waited_for():
    model = copy.deepcopy(ours("GPT2")).cuda()
    ids = prompts("GPT2", [7, 7])["input_ids"].cuda()
    config = GenerationConfig(max_new_tokens=20, pad_token_id=1, eos_token_id=2)
    stopping = Stopping((2,), None, ids.device)
    decoder = GraphedDecoder(CausalDecoder(model, ids, use_cache=True), 20)
    tokens = write(decoder, config, [], stopping, None, look_every=16)
    for _ in range(2):  # the prompt, and the recording
        next(tokens)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(13):
            next(tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
