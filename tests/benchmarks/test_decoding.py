"""The benchmark of decoding, on models so small that its clocks mean nothing."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from benchmarks import decoding, measuring
from benchmarks.decoding import FIRST, GROWING, NEXT, OPTIMIZED, PLAIN, PREPACKED, STATIC, THEIRS
from benchmarks.formulas import bytes_per_step
from benchmarks.runs import read, records
from minitransformer import optimize
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.marian import MarianMTModel
from minitransformer.models.t5 import T5ForConditionalGeneration

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 99}
SIDES = [
    (THEIRS, GROWING),
    (THEIRS, STATIC),
    (PLAIN, GROWING),
    (OPTIMIZED, STATIC),
    (OPTIMIZED, PREPACKED),
]


class OneGigabyteASecond:
    """A machine on which bytes alone take time."""

    def seconds(self, work):
        return work.bytes / 1e9


@pytest.fixture(scope="module")
def sides():
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    return decoding.load(SIZES | {"n_positions": 320}, "float32", "cpu")


def test_a_whole_run(tmp_path, capsys, figures, monkeypatch):
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    monkeypatch.setattr(decoding, "QUICK_SIZES", SIZES)
    monkeypatch.setattr(decoding, "rates", lambda _: OneGigabyteASecond())
    out = tmp_path / "out"
    options = ["--quick", "--longest", "600", "--batches", "1", "2", "--threads", "1"]
    assert decoding.main([*options, "--patience", "60", "--out", str(out)]) == 0
    frame = read(out / "decoding_quick_float32.csv")
    places = frame[["case", "batch", "context"]].drop_duplicates().values.tolist()
    assert places == [[NEXT, 1, 64], [NEXT, 1, 512], [NEXT, 2, 64], [FIRST, 1, 64], [FIRST, 1, 512]]
    rows = records(frame)
    for case, batch, context in places:
        what = {"case": case, "batch": batch, "context": context}
        here = [row for row in rows if what.items() <= row.items()]
        readers = [side for side in SIDES if case == NEXT or side != (OPTIMIZED, STATIC)]
        assert [(row["implementation"], row["cache"]) for row in here] == readers
        assert here[0]["times_default"] == 1
        ours = [row for row in here if row["implementation"] != THEIRS]
        assert all(row["predicted_milliseconds"] > 0 for row in ours)
    printed = capsys.readouterr().out
    assert NEXT in printed and FIRST in printed
    assert (out / "decoding_quick_float32.png").read_bytes().startswith(b"\x89PNG")
    times, sizes, speeds, firsts = figures["decoding_quick_float32.png"].axes
    assert [tick.get_text() for tick in times.get_xticklabels()] == ["64", "512"]
    assert "all sequences together, 64 tokens" in speeds.get_title()
    assert [tick.get_text() for tick in speeds.get_xticklabels()] == ["1 sequence", "2 sequences"]
    _, _, plain, *_ = decoding.load(SIZES | {"n_positions": 8}, "float32", "cpu")
    weights = bytes_per_step(plain.model, 4, tokens=0)
    assert f"weights: {weights / 1e6:,.0f} MB" in [text.get_text() for text in sizes.texts]
    dashed = [line.get_linestyle() == "--" for line in firsts.lines]
    assert dashed == [False] * 4 + [True] * 2  # four sides; the plain and the optimized predicted


def test_a_filled_cache_continues_as_one_that_was_decoded(sides):
    torch.manual_seed(0)
    tokens = torch.randint(2, 99, (3, 9))
    model = sides[2].model
    with torch.no_grad():
        cache = model.new_cache()
        model.next_token_logits(tokens[:, :-1], cache=cache)
        # Both layers get the same keys and values, here those of the first.
        first = cache.layers[0].self_attention
        cache.layers[1].self_attention.keys = first.keys
        cache.layers[1].self_attention.values = first.values
        keys, values = first.keys, first.values
        expected = model.next_token_logits(tokens[:, -1:], cache=cache)
        for side in sides:
            read = side.continued(keys, values, 2)
            torch.testing.assert_close(read(tokens[:, -1:]), expected, atol=1e-5, rtol=0)
            # The next one attends to one token more, and the keys that were given are unchanged.
            again = read(expected.argmax(-1, keepdim=True))
            assert keys.shape[2] == 8 and (again - expected).abs().max() > 1e-2
        whole = [side.first(tokens) for side in sides if side.reads_prompts]
        for scores in whole:
            torch.testing.assert_close(scores, model.next_token_logits(tokens), atol=1e-5, rtol=0)


def test_the_bytes_of_operations_counted_by_hand():
    table, x, weight = torch.ones(50, 6), torch.ones(2, 6), torch.ones(5, 6)
    cases = [
        (
            lambda: F.embedding(torch.tensor([1, 2]), table),
            2 * 2 * 6,
        ),  # rows that are read, written
        (lambda: x @ weight.t(), 2 * 6 + 5 * 6 + 2 * 5),
        (lambda: torch.cat([x, x + 1]), (2 + 2) * 6 + 2 * 4 * 6),  # the sum; then the copies
        (lambda: torch.ones(1, 6).expand(9, 6) * x[0], 6 + (6 + 6 + 9 * 6)),
        (lambda: table.index_copy_(0, torch.tensor([3]), x[:1]), 2 * 6),
        (lambda: x.view(3, 4).t()[:2], 0),
        (lambda: torch.empty(1000), 0),
    ]
    for number, (call, numbers) in enumerate(cases):
        assert decoding.count_bytes(call) == 4 * numbers, number


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_read_is_what_the_formula_says(sides, batch):
    """A static cache moves the floor and activations; a growing one is moved three times."""
    keys = torch.randn(batch, 4, 256, 8)
    counted = {}
    for side in sides:
        for length in (128, 256):
            part = keys[:, :, :length]
            text = decoding.Text(side.continued(part, part, 2), torch.full((batch, 1), 7))
            with torch.no_grad():
                text()  # what is made once
                counted[side.implementation, side.cache, length] = decoding.count_bytes(text)
    model = sides[2].model
    for (implementation, cache, length), found in counted.items():
        floor = bytes_per_step(model, 4, tokens=batch * length)
        stored = floor - bytes_per_step(model, 4, tokens=0)
        moved = floor + (2 * stored if cache == GROWING else 0)
        # Activations, masks and positions: for the rest the weights are few.
        assert moved <= found <= 1.1 * moved + 60_000 * batch, (implementation, cache, length)
    grown = counted[PLAIN, GROWING, 256] - counted[PLAIN, GROWING, 128]
    written = counted[OPTIMIZED, STATIC, 256] - counted[OPTIMIZED, STATIC, 128]
    assert 2.5 < grown / written < 3.1


@pytest.mark.parametrize("is_optimized", [False, True])
@pytest.mark.parametrize("model_class", [T5ForConditionalGeneration, MarianMTModel])
def test_an_encoder_decoder_reads_what_the_formula_says(model_class, is_optimized):
    sizes = {"vocab_size": 999, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    sizes |= {"num_decoder_layers": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
    model = model_class(model_class.config_class(**sizes)).eval()
    model = optimize(model) if is_optimized else model
    source = torch.full((1, 400), 7)
    with torch.no_grad():
        config = GenerationConfig(max_new_tokens=8, decoder_start_token_id=0)
        session = model.decoding_session(source, config=config)
        session.start()
        session.step(torch.full((1, 2), 5))  # what is made once
        found = decoding.count_bytes(lambda: session.step(torch.full((1, 3), 5)))
    floor = bytes_per_step(model, 4, tokens=3, source=400)
    assert floor <= found <= 1.1 * floor


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_predicted_is_what_runs(sides, batch):
    what = {"case": NEXT, "batch": batch, "context": 256}
    rows = decoding.measure_next(what, sides, OneGigabyteASecond(), rounds=1)
    assert [row["implementation"] for row in rows if "predicted_megabytes" in row] == [
        PLAIN,
        OPTIMIZED,
        OPTIMIZED,
    ]
    for row in rows[2:]:
        assert row["predicted_milliseconds"] == pytest.approx(row["predicted_megabytes"])
        assert row["predicted_megabytes"] == pytest.approx(row["megabytes"], rel=0.1), row["cache"]


def test_sides_are_compared_within_a_round(sides, monkeypatch):
    # What the clock shows: a different side begins in each of two rounds.
    seconds = iter([8.0, 4.0, 2.0, 2.0, 1.0, 4.0, 8.0, 4.0, 2.0, 16.0])
    monkeypatch.setattr(measuring, "timed", lambda *_: next(seconds))
    monkeypatch.setattr(decoding, "timed", lambda *_: 0.01)  # so four tokens a turn
    bandwidths = iter([1e6, 2e6])
    monkeypatch.setattr(decoding, "memory_bandwidth", lambda _: next(bandwidths))
    what = {"case": NEXT, "batch": 3, "context": 64}
    rows = decoding.measure_next(what, sides, None, rounds=2)
    assert [(row["implementation"], row["cache"]) for row in rows] == SIDES
    # Theirs: 8 and 16 s growing, 4 and 4 static; ours prepacked 1 and 2.
    last = rows[-1]
    assert last["milliseconds"] == 1500
    assert (last["times_default_low"], last["times_default_high"]) == (8, 8)
    assert (last["times_best_low"], last["times_best_high"]) == (2.5, 3.5)
    assert last["tokens_per_second"] == (3 / 1 + 3 / 2) / 2
    floor = bytes_per_step(sides[2].model, 4, tokens=3 * (64 + 3 + 2 * 4 / 2))
    assert last["floor_megabytes"] == floor / 1e6
    assert last["share_of_floor"] == pytest.approx((floor / 1e6 / 1 + floor / 2e6 / 2) / 2)


def test_other_scores_are_not_timed(sides):
    scores = [torch.ones(2, 3)] * 5
    decoding.check_same({}, sides, scores)
    for wrong in (torch.ones(2, 3) + 1e-3, torch.full((2, 3), torch.nan)):
        with pytest.raises(ValueError, match="optimized with its static cache and of transformers"):
            decoding.check_same({}, sides, [*scores[:3], wrong, scores[4]])


def test_no_memory_is_a_row(sides, monkeypatch):
    monkeypatch.setattr(decoding, "available_memory", lambda _: 2e6)
    what = {"case": NEXT, "batch": 100, "context": 64}
    (row,) = decoding.measure_next(what, sides, None, rounds=1)
    assert row == {"reason": "needs 0.0 GB of memory, 0.0 are free"}


def test_prompts_end_where_patience_does(sides):
    plan = SimpleNamespace(batches=[], longest=2**20, growth=2, rounds=1, patience=1)
    rows = []
    contexts = []
    for case in decoding.cases(plan, sides, None, rows):
        contexts.append(case.what["context"])
        rows.append(case.what | {"milliseconds": 3 * case.what["context"]})
    assert contexts == [64, 128]  # at 128 tokens, four times 384 ms are more than a second
