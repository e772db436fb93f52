"""The benchmark of generation, on models so small that its clocks mean nothing."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import generation, measuring
from benchmarks.generation import COMPILED, OURS, THEIRS, Case, Clock, Plan, Side
from minitransformer.fast import is_optimized
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minitransformer.models.t5 import T5Config, T5ForConditionalGeneration
from tests.benchmarks.pictures import error_bars, png_size, texts_in, watch_pictures

SHAPES = {
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "n_layer": 2,
            "n_embd": 32,
            "n_head": 4,
            "vocab_size": 99,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 98,
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "d_model": 32,
            "d_kv": 6,
            "d_ff": 37,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 99,
            "decoder_start_token_id": 0,
        },
    ),
}
PLAN = Plan(
    [
        Case("GPT-2, 3 prompts", "gpt2", rows=3, beams=1, prompt=5, new=6),
        Case("T5, 1 source, 2 beams", "t5", rows=1, beams=2, prompt=5, new=6),
    ],
    rounds=2,
    curve_rows=[1, 2],
    curve_tokens=13,
    curve_bins=3,
    curve_rounds=2,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(generation, "SHAPES", SHAPES)
    monkeypatch.setattr(generation, "QUICK_PLAN", PLAN)
    monkeypatch.setattr(measuring, "READ", 2**16)


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


@pytest.mark.slow
def test_a_whole_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    figures = watch_pictures(monkeypatch)
    assert generation.main(["--quick", "--out", str(tmp_path / "out"), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert all(case.name in out for case in PLAN.cases)

    found = json.loads((tmp_path / "out" / "generation_quick.json").read_text())
    around = found["environment"]
    assert around["threads"] == 1
    assert around["versions"]["torch"] == torch.__version__
    assert found["seconds_to_copy_weights"].keys() == {"gpt2", "t5"}
    sides = [(row["library"], row["dtype"]) for row in found["speeds"]]
    assert sides == [(THEIRS, "float32"), (OURS, "float32"), (OURS, "bfloat16")] * 2
    for theirs, ours, half in (found["speeds"][:3], found["speeds"][3:]):
        assert theirs["times_faster"] == {"median": 1.0, "low": 1.0, "high": 1.0}
        assert theirs["same_tokens"] == ours["same_tokens"] == 1.0
        assert half["megabytes_per_step"] == pytest.approx(theirs["megabytes_per_step"] / 2)
        assert ours["share_of_floor"]["low"] <= ours["share_of_floor"]["median"]
    contexts = [row["context"] for row in found["curves"] if row["rows"] == 2]
    assert contexts == [2, 6, 10] * 3

    with open(tmp_path / "out" / "generation_quick.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["measured"] for line in lines] == ["text"] * 6 + ["one token"] * 18
    assert float(lines[1]["times_faster_low"]) <= float(lines[1]["times_faster"])
    assert png_size(tmp_path / "out" / "generation_quick.png") == (960, 1080)  # 8 by 9 inches
    speeds, one, two = figures["generation_quick.png"].axes
    assert len(error_bars(speeds)) == 6
    assert {case.name for case in PLAN.cases} <= {*texts_in(speeds)}
    assert (one.get_title(), two.get_title()) == ("GPT-2, 1 prompt", "GPT-2, 2 prompts")


@pytest.mark.slow
def test_a_run_with_the_side_that_a_gpu_adds(tmp_path, capsys, monkeypatch):
    """On a CPU transformers uses the same static cache, and does not compile."""
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    monkeypatch.setattr(generation, "has_compiled_side", lambda _: True)
    asked = []
    plain = generation.their_write
    monkeypatch.setattr(
        generation, "their_write", lambda model, *more: asked.append(more) or plain(model, *more)
    )
    assert generation.main(["--quick", "--out", str(tmp_path), "--threads", "1"]) == 0
    assert asked == [(), ({"cache_implementation": "static"},)] * 2
    assert " times compiled, 100% of the tokens" in capsys.readouterr().out
    found = json.loads((tmp_path / "generation_quick.json").read_text())
    sides = [(row["library"], row["dtype"]) for row in found["speeds"]]
    four = [(THEIRS, "float32"), (COMPILED, "float32"), (OURS, "float32"), (OURS, "bfloat16")]
    assert sides == four * 2
    for row in found["speeds"]:
        ratio = row["times_faster_than_compiled"]["median"]
        assert (ratio == 1.0) == (row["library"] == COMPILED)
    assert {row["library"] for row in found["curves"]} == {THEIRS, COMPILED, OURS}
    assert (tmp_path / "generation_quick.png").exists()


@pytest.mark.parametrize("plain", [False, True])
def test_ours_is_optimized_unless_it_is_to_be_plain(plain):
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    sides, model = generation.load("gpt2", "float32", "cpu", plain=plain)
    assert [side.library for side in sides] == [THEIRS, OURS, OURS]
    assert is_optimized(model) != plain


def test_what_transformers_is_asked_for():
    model = SimpleNamespace(generate=lambda _, **named: named)
    plain = generation.their_write(model)(torch.ones(1, 2), 4, 1, None)
    static = generation.their_write(model, generation.STATIC)(torch.ones(1, 2), 4, 1, None)
    assert plain["min_new_tokens"] == plain["max_new_tokens"] == 4
    assert static.keys() - plain.keys() == {"cache_implementation"}


def test_a_gpu_has_cases_and_a_side_of_its_own():
    assert generation.has_compiled_side("cuda:0")
    assert not generation.has_compiled_side("cpu")
    plans = []
    for device in ("cpu", "cuda"):
        arguments = generation.parser().parse_args(["--out", "x"])
        arguments.device = device
        plans.append(generation.plan_for(arguments))
    greedy = [{case.family for case in plan.cases if case.beams == 1} for plan in plans]
    assert greedy == [{"gpt2"}, {"gpt2", "t5", "marian"}]


def test_different_texts_are_not_timed(gpt2):
    case = Case("a case", "gpt2", rows=2, beams=1, prompt=3, new=4)
    ids = torch.arange(6).view(2, 3)
    text = torch.cat([ids, torch.ones(2, 4, dtype=torch.int64)], dim=1)
    other = text.clone()
    other[0, -1] = 7
    sides = [
        Side(library, dtype, lambda *_, t=tokens: t)
        for library, dtype, tokens in (
            (THEIRS, "float32", text),
            (OURS, "float32", text),
            (OURS, "bfloat16", other),  # rounded otherwise, it may choose otherwise
        )
    ]
    assert generation.check_same(case, sides, ids) == {0: 1.0, 1: 1.0, 2: 7 / 8}
    wrong = Side(OURS, "float32", lambda *_: other)
    with pytest.raises(ValueError, match="a case: minitransformer wrote 87.5% of the tokens"):
        generation.compare(case, [sides[0], wrong], gpt2, rounds=1)
    compiled = Side(COMPILED, "float32", lambda *_: other)
    assert generation.check_same(case, [sides[0], compiled], ids) == {0: 1.0, 1: 7 / 8}
    # Rounded alike, it may still choose otherwise.
    rounded = [Side(THEIRS, "bfloat16", lambda *_: text), Side(OURS, "bfloat16", lambda *_: other)]
    assert generation.check_same(case, rounded, ids) == {0: 1.0, 1: 7 / 8}
    short = Side(OURS, "bfloat16", lambda *_: text[:, :-1])
    with pytest.raises(ValueError, match="wrote \\(2, 6\\) tokens"):
        generation.check_same(case, [sides[0], short], ids)


def test_sides_take_turns_and_are_compared_within_a_round(gpt2, monkeypatch):
    calls = []
    case = Case("a case", "gpt2", rows=2, beams=1, prompt=3, new=4)

    def side(name, dtype):
        def write(ids, new, beams, streamer):
            assert (ids.shape, new, beams, streamer) == ((2, 3), 4, 1, None)
            calls.append(name)
            return torch.zeros(2, 7)

        return Side(name, dtype, write)

    # What the clock shows: theirs take 8 and 24 seconds, ours 2 and 4.
    seconds = iter([8.0, 2.0, 4.0, 24.0])

    def timed(write, device, repeats):
        write()
        return next(seconds)

    monkeypatch.setattr(measuring, "timed", timed)
    bandwidths = iter([1e6, 2e6])
    monkeypatch.setattr(generation, "memory_bandwidth", lambda _: next(bandwidths))
    sides = [side(THEIRS, "float32"), side(OURS, "float32")]
    theirs, ours = generation.compare(case, sides, gpt2, rounds=2)
    assert calls == [THEIRS, OURS, THEIRS, OURS, OURS, THEIRS]
    assert theirs["tokens_per_second"]["median"] == pytest.approx((8 / 8 + 8 / 24) / 2)
    assert ours["tokens_per_second"] == pytest.approx({"median": 3.0, "low": 2.5, "high": 3.5})
    assert ours["times_faster"] == pytest.approx({"median": 5.0, "low": 4.5, "high": 5.5})
    assert ours["ms_per_step"] == pytest.approx(1e3 * 3 / 4)
    # Half of the new tokens and the prompt are there on average, in both rows.
    needed = generation.bytes_a_step(gpt2, 4, tokens=2 * (3 + 2))
    assert ours["megabytes_per_step"] == needed / 1e6
    shares = sorted([needed / 1e6 / (2 / 4), needed / 2e6 / (4 / 4)])
    assert ours["share_of_floor"]["median"] == pytest.approx(sum(shares) / 2)


def test_a_step_writes_a_token_of_every_row(gpt2, monkeypatch):
    case = Case("a case", "gpt2", rows=3, beams=1, prompt=3, new=4)
    # The clock shows 8 seconds for theirs, 2 for ours; memory gives a megabyte a second.
    monkeypatch.setattr(
        generation, "take_turns", lambda *_, before_round, **_how: before_round() or [[8.0], [2.0]]
    )
    monkeypatch.setattr(generation, "memory_bandwidth", lambda _: 1e6)
    sides = [Side(name, "float32", lambda *_: torch.zeros(3, 7)) for name in (THEIRS, OURS)]
    for row, seconds in zip(generation.compare(case, sides, gpt2, 1), (8, 2), strict=True):
        assert row["tokens_per_second"]["median"] == pytest.approx(3 * 4 / seconds)
        assert row["tokens_per_second"]["median"] == pytest.approx(3 * 1e3 / row["ms_per_step"])


def test_the_bytes_of_a_step_counted_by_hand(gpt2):
    E, V, layers = 32, 99, 2
    # A layer has 12 E^2 weights and 9 E biases of its linear maps.
    weights = layers * (12 * E**2 + 9 * E) + V * E
    assert generation.bytes_a_step(gpt2, 4, tokens=0) == 4 * weights
    # Keys and values of every token in every layer.
    assert generation.bytes_a_step(gpt2, 2, tokens=7) == 2 * (weights + 2 * layers * E * 7)
    config = T5Config(
        vocab_size=99,
        hidden_size=32,
        head_size=6,
        intermediate_size=37,
        num_hidden_layers=3,
        num_decoder_layers=2,
        num_attention_heads=4,
    )
    t5 = T5ForConditionalGeneration(config)
    inner = 4 * 6
    # Four maps of self-attention, two of cross-attention, two of the feed-forward network.
    weights = layers * (6 * E * inner + 2 * E * 37) + V * E
    needed = generation.bytes_a_step(t5, 4, tokens=7, source_tokens=5)
    assert needed == 4 * (weights + 2 * layers * inner * 12)


def test_clock_and_bins():
    clock = Clock()
    for moment in (5.0, 6.0, 8.0, 11.0):  # the prompt, then three tokens
        clock.put(torch.zeros(1))
        clock.moments[-1] = moment
    clock.end()
    assert clock.intervals() == [2.0, 3.0]
    assert generation.bins(10, 3) == [(0, 3), (3, 7), (7, 10)]


def test_options_that_make_no_sense(capsys):
    for words, message in (
        (["--out", "x", "--dtype", "float16"], "float16"),
        (["--out", "x", "--rouds", "3"], "unknown option '--rouds'"),
        ([], "--out"),
    ):
        with pytest.raises(SystemExit):
            generation.main(words)
        assert message in capsys.readouterr().err
