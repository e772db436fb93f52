"""What `minitransformer cost` answers."""

import dataclasses
import json

import pytest

from minitransformer.cli import main
from minitransformer.cost import Machine
from minitransformer.cost import answer as module
from minitransformer.cost.answer import (
    Question,
    answer,
    config_of,
    crossing,
    load_or_calibrate,
    longest_that_fits,
    machine_file,
)
from minitransformer.cost.machine import environment
from minitransformer.models.bert import BertConfig
from tests.cost.test_machine import made_machine

SMALL = BertConfig(
    vocab_size=50, hidden_size=24, num_attention_heads=3, num_hidden_layers=1, intermediate_size=96
)


LENGTHS = (64, 256, 1024)  # fewer and shorter ones than usual


@pytest.fixture(autouse=True)
def few_lengths(monkeypatch):
    monkeypatch.setattr(module, "LENGTHS", LENGTHS)


@pytest.fixture
def machine_json(tmp_path):
    """A made machine that passes for this one."""
    machine = made_machine()
    path = tmp_path / "machine.json"
    Machine(machine.rates, machine.memory, environment(threads=1)).save(path)
    return path


def test_where_curves_cross():
    lengths = [128, 256, 512, 1024, 2048, 4096]
    rising, level = [length**2 for length in lengths], [700 * length for length in lengths]
    assert crossing(lengths, rising, level) == pytest.approx((700, 700**2))
    # Noise may let curves touch before; the last crossing counts.
    early = [10 * rising[0], *rising[1:]]
    assert crossing(lengths, early, level) == pytest.approx((700, 700**2))
    assert crossing(lengths[:3], rising[:3], level[:3]) is None  # not yet
    assert crossing(lengths[3:], rising[3:], level[3:]) is None  # at every point


@pytest.mark.parametrize("square", [0.0, 0.01])
def test_the_longest_length_is_where_memory_ends(square):
    lengths = [128, 512, 2048, 8192]
    sizes = [1000 + 10 * length + square * length**2 for length in lengths]
    memory = 1000 + 10 * 1234 + square * 1234**2
    assert longest_that_fits(lengths, sizes, memory + 1) == 1230
    assert longest_that_fits(lengths, sizes, 900) == 0


def test_memory_has_weights_averages_and_gradients():
    machine = made_machine()
    reading = answer(Question(config=SMALL, length=8), machine)
    training = answer(Question(config=SMALL, length=8, task="train"), machine)
    weights = 4 * reading.parameters
    assert reading.peak_bytes > weights
    assert training.peak_bytes > 4 * weights  # with two averages and the gradient
    assert [row.length for row in reading.rows] == [8, *LENGTHS]
    assert reading.rows[0].seconds == reading.seconds


def test_the_command_answers_in_words(machine_json, capsys):
    arguments = ["cost", "--model", "distilbert-base-uncased", "--length", "600", "--train"]
    assert main([*arguments, "--threads", "1", "--machine", str(machine_json)]) == 0
    printed = capsys.readouterr().out
    assert "a training step of DistilBert, 67 million parameters: 1 sequence, 600 tokens" in printed
    assert "tokens a second" in printed and "peak memory" in printed and "longest" in printed
    assert "note: the model has positions for 512 tokens" in printed
    assert printed.count("\n") > len(LENGTHS) + 10


def test_the_command_answers_in_json(machine_json, capsys):
    arguments = ["cost", "--model", "t5-small", "--length", "16", "--decode", "--json"]
    assert main([*arguments, "--threads", "1", "--machine", str(machine_json)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 60_506_624
    assert found["seconds"] == pytest.approx(1 / found["tokens_per_second"])
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"])
    (row,) = (row for row in found["rows"] if row["length"] == 16)
    assert row["seconds"] == found["seconds"] and row["bytes"] == found["peak_bytes"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "bert-base-uncased", "--decode"], "decodes no tokens: it is an encoder"),
        (["--batch", "1000000000"], "batch=1,000,000,000 is too large"),
        (["--threads", "2"], "was measured with threads 1, this is 2; measure this machine"),
    ],
)
def test_what_has_no_answer_is_one_error(machine_json, capsys, arguments, message):
    given = ["cost", "--length", "8", "--threads", "1", "--machine", str(machine_json), *arguments]
    assert main(given) == 1
    assert message in capsys.readouterr().err


def test_well_known_names_have_their_sizes(tmp_path, monkeypatch):
    assert config_of("roberta-base").vocab_size == 50_265
    assert Question(config=config_of("gpt2"), length=1).num_parameters() == 124_439_808
    assert Question(config=config_of("bert-large-uncased"), length=1).num_parameters() > 335e6
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine_file(2).parent == tmp_path / "minitransformer"
    assert "2-threads" in machine_file(2).name


def test_a_dtype_that_a_file_lacks_is_measured_and_added(machine_json, monkeypatch):
    asked = []

    def calibrate(threads, dtypes, passes):
        asked.append(list(dtypes))
        return Machine(dict.fromkeys(dtypes, before.rates["float32"]), 1, environment(1))

    before = Machine.load(machine_json)
    monkeypatch.setattr(module, "calibrate", calibrate)
    assert load_or_calibrate(machine_json, 1, ["float32"]) == before
    both = load_or_calibrate(machine_json, 1, ["float32", "bfloat16"])
    assert set(both.rates) == {"float32", "bfloat16"}
    assert load_or_calibrate(machine_json, 1, ["bfloat16"]) == both
    load_or_calibrate(machine_json, 1, ["float32"], again=True)
    assert asked == [["bfloat16"], ["float32"]]
    with pytest.raises(ValueError, match="threads=999: this machine has"):
        load_or_calibrate(machine_json, 999, ["float32"])


@pytest.mark.parametrize("slow, expected", [("softmax", 64), ("matmul", None), ("", "between")])
def test_the_crossover_is_where_attention_overtakes_the_rest(slow, expected):
    machine = made_machine(1e-12, **{slow: 1e-3} if slow else {"view": 1e-15})
    found = answer(Question(config=SMALL, length=64, attention="eager"), machine)
    shares = {row.length: row.attention for row in found.rows}
    if expected == "between":
        assert min(shares.values()) < 0.5 < max(shares.values())
        below = max(length for length, share in shares.items() if share < 0.5)
        assert below < found.crossover < min(n for n, share in shares.items() if share > 0.5)
    else:
        assert found.crossover == expected


def test_the_longest_length_that_fits_is_the_longest_that_is_counted(monkeypatch):
    monkeypatch.setattr(module, "LENGTHS", (16, 32, 64, 128, 256))

    def counted(memory: float, length: int = 16) -> list[int]:
        machine = dataclasses.replace(made_machine(), memory=memory)
        found = answer(Question(config=SMALL, length=length), machine)
        sizes.update({row.length: row.bytes for row in found.rows})
        return [row.length for row in found.rows]

    sizes: dict[int, float] = {}
    assert counted(2**60) == [16, 32, 64, 128, 256]
    *lengths, longest = counted((sizes[64] + sizes[128]) / 2)
    assert lengths == [16, 32, 64] and 64 < longest < 128
    assert counted(1) == [16, 32, 64]  # as many as are needed to know how memory grows
    assert counted(1, length=200) == [16, 32, 64, 128, 200]  # what was asked for is counted
