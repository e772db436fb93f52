"""The benchmark of generation, on models so small that its clocks mean nothing."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import generation, measuring
from benchmarks.generation import COMPILED, OPTIMIZED, PLAIN, THEIRS, Clock, Side, Text
from benchmarks.runs import read
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel

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


def test_a_whole_run_with_the_side_that_a_gpu_adds(tmp_path, capsys, monkeypatch):
    """On a CPU transformers uses the same static cache, and does not compile."""
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    monkeypatch.setattr(generation, "has_compiled_side", lambda _: True)
    out = tmp_path / "out"
    assert generation.main(["--quick", "--out", str(out), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    rows = read(out / "generation_quick.csv")
    sides = [(THEIRS, "float32"), (COMPILED, "float32"), (PLAIN, "float32")]
    sides += [(OPTIMIZED, "float32"), (OPTIMIZED, "bfloat16")]
    texts = [row for row in rows if "context" not in row]
    assert [(row["implementation"], row["dtype"]) for row in texts] == sides * 2
    for theirs, compiled, plain, optimized, half in (texts[:5], texts[5:]):
        assert theirs["case"] in printed
        assert theirs["times_faster"] == compiled["times_faster_than_compiled"] == 1
        assert plain["same_tokens"] == optimized["same_tokens"] == 1
        assert half["megabytes_per_step"] == pytest.approx(theirs["megabytes_per_step"] / 2)
        assert optimized["prepacking_seconds"] > 0
    curves = [row for row in rows if "context" in row]
    assert [row["context"] for row in curves] == [2, 6, 10] * 5
    assert (out / "generation_quick.png").exists()


def test_what_transformers_is_asked_for():
    model = SimpleNamespace(generate=lambda _, **named: named)
    asked = generation.their_generate(model, torch.ones(1, 2), 4, 1, None)
    static = generation.their_generate(
        model, torch.ones(1, 2), 4, 1, None, cache_implementation="static"
    )
    assert asked["min_new_tokens"] == asked["max_new_tokens"] == 4
    assert static.keys() - asked.keys() == {"cache_implementation"}


def test_a_gpu_has_cases_and_a_side_of_its_own():
    assert generation.has_compiled_side("cuda:0")
    assert not generation.has_compiled_side("cpu")
    more = set(generation.CASES) - set(generation.ON_CPU)
    assert more == {"t5-8-greedy", "marian-8-greedy"}


def test_different_texts_are_not_timed(gpt2):
    ids = torch.arange(6).view(2, 3)
    text = torch.cat([ids, torch.ones(2, 4, dtype=torch.int64)], dim=1)
    other = text.clone()
    other[0, -1] = 7
    theirs, right = (Side(name, "float32", lambda *_: text) for name in (THEIRS, PLAIN))
    # Rounded otherwise, it may choose otherwise; and their compiler is not ours to check.
    half = Side(OPTIMIZED, "bfloat16", lambda *_: other)
    compiled = Side(COMPILED, "float32", lambda *_: other)
    shares = generation.check_same(TEXT, [theirs, right, half, compiled], ids)
    assert shares == [1.0, 1.0, 7 / 8, 7 / 8]
    for name in (PLAIN, OPTIMIZED):
        wrong = Side(name, "float32", lambda *_: other)
        with pytest.raises(ValueError, match=f"a case: {name} generated 87.5% of the tokens"):
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
    assert ours["ms_per_step"] == pytest.approx(1e3 * 3 / 4)
    # Half of the new tokens and the prompt are there on average, in both sequences.
    needed = generation.bytes_per_step(gpt2, 4, tokens=2 * (3 + 2))
    assert ours["megabytes_per_step"] == needed / 1e6
    shares = [needed / 1e6 / (2 / 4), needed / 2e6 / (4 / 4)]
    assert ours["share_of_floor"] == pytest.approx(sum(shares) / 2)


def test_the_clock_starts_with_the_first_token():
    clock = Clock()
    for moment in (5.0, 6.0, 8.0, 11.0):  # the prompt, then three tokens
        clock.put(torch.zeros(1))
        clock.moments[-1] = moment
    clock.end()
    assert clock.intervals() == [2.0, 3.0]


def test_options_that_make_no_sense(capsys):
    for words, message in (
        (["--out", "x", "--dtype", "float16"], "float16"),
        (["--out", "x", "--rouds", "3"], "unknown option '--rouds'"),
        (["--out", "x", "--cases", "bart"], "invalid choice: 'bart'"),
        ([], "--out"),
    ):
        with pytest.raises(SystemExit):
            generation.main(words)
        assert message in capsys.readouterr().err
