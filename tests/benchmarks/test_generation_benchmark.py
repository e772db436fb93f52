"""The benchmark of generation, on models so small that its clocks mean nothing."""

import pytest
import torch

from benchmarks import generation, measuring
from benchmarks.generation import OPTIMIZED, PLAIN, THEIRS, Clock, Side, Text
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
    "gpt2-context": Text("growing", "gpt2", rows=1, prompt=1, new=13, rounds=2, bins=3),
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
    texts = [row for row in rows if "context" not in row]
    assert [(row["implementation"], row["dtype"]) for row in texts] == sides * 2
    for theirs, plain, optimized, _ in (texts[:4], texts[4:]):
        assert theirs["case"] in printed
        assert theirs["times_faster"] == 1
        assert plain["same_tokens"] == optimized["same_tokens"] == 1
    curves = [row for row in rows if "context" in row]
    assert [row["context"] for row in curves] == [2, 6, 10] * 4
    assert (out / "generation_quick.png").read_bytes().startswith(b"\x89PNG")
    speeds, growth = figures["generation_quick.png"].axes
    assert tick_labels(speeds) == [texts[0]["case"], texts[4]["case"]]
    names = [text.get_text() for text in growth.get_legend().get_texts()]
    assert names == [" ".join(side) for side in sides]


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


def test_sides_are_compared_within_a_round(gpt2, monkeypatch):
    def side(name):
        def generate(ids, new, beams, streamer):
            assert (ids.shape, new, beams, streamer) == ((2, 3), 4, 1, None)
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


def test_the_clock_starts_with_the_first_token():
    clock = Clock()
    for moment in (5.0, 6.0, 8.0, 11.0):  # the prompt, then three tokens
        clock.put(torch.zeros(1))
        clock.moments[-1] = moment
    clock.end()
    assert clock.intervals() == [2.0, 3.0]
