"""The benchmark of generation, on models so small that its clocks mean nothing."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import generation, measuring
from benchmarks.generation import COMPILED, OPTIMIZED, PLAIN, THEIRS, Side, Text
from benchmarks.runs import read, records
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from tests.benchmarks.conftest import tick_labels

SHAPES = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 99, "n_positions": 64}
        | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 98},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 6, "d_ff": 37, "num_layers": 2, "num_heads": 4}
        | {"vocab_size": 99, "decoder_start_token_id": 0},
    ),
}
CASES = {
    "gpt2-8": Text("GPT-2, 3 prompts", "gpt2", rows=3, prompt=5, new=6, rounds=2),
    "t5-1": Text("T5, 1 source", "t5", rows=1, beams=2, prompt=5, new=6, rounds=2),
}
TEXT = Text("a case", "gpt2", rows=2, prompt=3, new=4, rounds=2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(generation, "SHAPES", SHAPES)
    monkeypatch.setattr(generation, "QUICK_CASES", CASES)


@pytest.fixture
def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()


def test_a_whole_run(tmp_path, capsys, figures):
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    out = tmp_path / "out"
    assert generation.main(["--quick", "--out", str(out), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    rows = records(read(out / "generation_quick.csv"))
    sides = [(THEIRS, "float32"), (PLAIN, "float32")]
    sides += [(OPTIMIZED, "float32"), (OPTIMIZED, "bfloat16")]
    assert [(row["implementation"], row["dtype"]) for row in rows] == sides * 2
    for theirs, plain, optimized, _ in (rows[:4], rows[4:]):
        assert theirs["case"] in printed
        assert theirs["times_faster"] == 1
        assert plain["same_tokens"] == optimized["same_tokens"] == 1
    assert (out / "generation_quick.png").read_bytes().startswith(b"\x89PNG")
    (speeds,) = figures["generation_quick.png"].axes
    assert tick_labels(speeds) == [rows[0]["case"], rows[4]["case"]]
    names = {text.get_text() for text in speeds.get_legend().get_texts()}
    assert {" ".join(side) for side in sides} < names


def test_different_texts_are_not_timed(gpt2):
    ids = torch.arange(6).view(2, 3)
    text = torch.cat([ids, torch.ones(2, 4, dtype=torch.int64)], dim=1)
    other = text.clone()
    other[0, -1] = 7
    theirs, right = (Side(name, "float32", lambda *_: text) for name in (THEIRS, PLAIN))
    half = Side(
        OPTIMIZED, "bfloat16", lambda *_: other
    )  # rounded otherwise, it may choose otherwise
    assert generation.check_same(TEXT, [theirs, right, half], ids) == [1.0, 1.0, 7 / 8]
    for name in (PLAIN, OPTIMIZED):
        wrong = Side(name, "float32", lambda *_: other)
        with pytest.raises(ValueError, match=f"a case: {name} generated .* 87.5% of those"):
            generation.compare(TEXT, [theirs, wrong], gpt2, ids)
    short = Side(OPTIMIZED, "bfloat16", lambda *_: text[:, :-1])
    with pytest.raises(ValueError, match="generated \\(2, 6\\) tokens"):
        generation.check_same(TEXT, [theirs, short], ids)


def test_a_compiled_side_generates_the_same_with_a_static_cache(monkeypatch):
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled.append(call) or call)
    load = partial(generation.load, dtype="float32", device="cpu", compile_theirs=True)
    rows = generation.measure(TEXT, load)
    sides = [THEIRS, COMPILED, PLAIN, OPTIMIZED, OPTIMIZED]
    assert [row["implementation"] for row in rows] == sides
    assert len(compiled) == 1  # once, because its cache does not grow
    assert [row["same_tokens"] for row in rows[:4]] == [1, 1, 1, 1]
    assert rows[0]["times_faster"] == rows[1]["times_compiled"] == 1
    beams = generation.measure(replace(TEXT, beams=2), load)  # it compiles no beam search
    assert [row["implementation"] for row in beams] == [s for s in sides if s != COMPILED]


def test_sides_are_compared_within_a_round(gpt2, monkeypatch):
    def side(name):
        def generate(ids, new, beams):
            assert (ids.shape, new, beams) == ((2, 3), 4, 1)
            return torch.zeros(2, 7)

        return Side(name, "float32", generate)

    # What the clock shows: theirs take 8 and 24 seconds, ours 2 and 4; another begins in turn.
    seconds = iter([8.0, 2.0, 4.0, 24.0])
    monkeypatch.setattr(measuring, "timed", lambda *_: next(seconds))
    bandwidths = iter([1e6, 2e6])
    monkeypatch.setattr(generation, "memory_bandwidth", lambda _: next(bandwidths))
    ids = torch.zeros(2, 3, dtype=torch.int64)
    theirs, ours = generation.compare(TEXT, [side(THEIRS), side(PLAIN)], gpt2, ids)
    assert theirs["tokens_per_second"] == pytest.approx((8 / 8 + 8 / 24) / 2)
    assert ours["tokens_per_second"] == pytest.approx(3.0)
    assert (ours["times_faster_low"], ours["times_faster_high"]) == pytest.approx((4.5, 5.5))
    # Half of the new tokens and the prompt are there on average, in both sequences.
    needed = generation.bytes_per_step(gpt2, 4, tokens=2 * (3 + 2))
    shares = [needed / 1e6 / (2 / 4), needed / 2e6 / (4 / 4)]
    assert ours["share_of_floor"] == pytest.approx(sum(shares) / 2)
