"""Loaded parameters lie in the file: what that costs, and what happens to either of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.measuring import peak_memory
from minitransformer import from_pretrained
from tests.tiny import new

MAPS = Path("/proc/self/maps")
CASES = {  # class, stored dtype, loaded dtype
    "as stored": ("RobertaForMaskedLM", torch.float32, torch.float32),
    "bfloat16 as stored": ("RobertaForMaskedLM", torch.bfloat16, torch.bfloat16),
    "converted": ("RobertaForMaskedLM", torch.float16, torch.float32),
    "transposed": ("GPT2LMHeadModel", torch.float32, torch.float32),
}
LARGE = {"vocab_size": 4_000, "hidden_size": 768, "num_attention_heads": 4}


def saved(directory, seed=0, name="RobertaForMaskedLM", dtype=torch.float32, **changes):
    """Save a model; returns the directory."""
    model = new(name, dtype=dtype, **changes)
    with torch.no_grad():
        next(model.parameters()).add_(seed)
    model.save_pretrained(directory)
    return directory


def weights_of(model):
    return {name: values.clone() for name, values in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lies_in(values, file):
    """Whether a tensor's memory is a mapping of the file, by Linux's list of mappings."""
    lines = (line.split() for line in MAPS.read_text().splitlines())
    ranges = [line[0].split("-") for line in lines if line[-1] == str(file.resolve())]
    return any(int(low, 16) <= values.data_ptr() < int(high, 16) for low, high in ranges)


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists a process's mappings")
@pytest.mark.parametrize("case", CASES)
def test_what_needs_no_change_is_not_copied(case, tmp_path):
    name, stored, loaded = CASES[case]
    saved(tmp_path, name=name, dtype=stored)
    model = from_pretrained(tmp_path, dtype=loaded)
    assert equal(weights_of(model), weights_of(new(name, dtype=stored).to(loaded)))
    file, parameters = tmp_path / "model.safetensors", dict(model.named_parameters())
    copied = {name for name, values in parameters.items() if not lies_in(values, file)}
    if case == "converted":
        assert copied == {*parameters}
    elif case == "transposed":
        assert {name.rsplit(".", 2)[-2] for name in copied} == {
            *("query_key_value", "output", "up_proj", "down_proj")
        }
    else:
        assert not copied
    assert all(values.is_contiguous() for values in parameters.values())


@pytest.mark.parametrize("case", CASES)
def test_loading_takes_the_memory_of_the_model(case, tmp_path):
    """A copy of the file beside the model would make it twice that, 1.5 times if converted."""
    name, stored, loaded = CASES[case]
    saved(tmp_path, name=name, dtype=stored, **LARGE)

    def load():
        for values in from_pretrained(tmp_path, dtype=loaded).parameters():
            values.detach().sum()

    load()
    peak = peak_memory(load, "cpu")
    if peak is None:
        pytest.skip("only Linux tells the peak")
    model = sum(values.nbytes for values in from_pretrained(tmp_path, dtype=loaded).parameters())
    assert 0.75 * model < peak < 1.25 * model, f"{model / 1e6} MB"


def test_a_loaded_model_is_trained_and_its_file_is_not(tmp_path):
    file = saved(tmp_path) / "model.safetensors"
    before, model, other = file.read_bytes(), from_pretrained(tmp_path), from_pretrained(tmp_path)
    untouched = weights_of(other)
    ids = torch.arange(5, 13)[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    assert not torch.equal(model.lm_head.bias, other.lm_head.bias)
    assert file.read_bytes() == before
    assert equal(weights_of(other), untouched)
    assert equal(weights_of(from_pretrained(tmp_path)), untouched)


def test_saving_where_a_model_lies_does_not_change_it(tmp_path):
    model = from_pretrained(saved(tmp_path / "saved"))
    before = weights_of(model)
    saved(tmp_path / "saved", seed=1)
    assert equal(weights_of(model), before)
    with torch.no_grad():
        model.lm_head.bias += 1
    changed = weights_of(model)
    model.save_pretrained(tmp_path / "saved")
    assert equal(weights_of(from_pretrained(tmp_path / "saved")), changed)
    shutil.rmtree(tmp_path / "saved")
    assert equal(weights_of(model), changed)


def test_a_file_whose_tensors_are_not_aligned(tmp_path):
    """The first versions of safetensors wrote headers of any length."""
    file = saved(tmp_path) / "model.safetensors"
    expected, content = weights_of(from_pretrained(tmp_path)), file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end])).encode()
    header += b" " * (1 - len(header) % 2)  # an odd length
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    model = from_pretrained(tmp_path)
    assert equal(weights_of(model), expected)
    assert all(values.data_ptr() % 4 == 0 for values in model.parameters())
