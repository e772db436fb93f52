"""Products by prepacked weights: the same numbers, and never those of outdated copies.

Each test runs with oneDNN's kernels, where this PyTorch has them, and with stand-ins for them.
"""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitransformer.fast import linear as linear_module
from minitransformer.fast import optimize
from minitransformer.fast import prepacked_linear as module
from minitransformer.fast.layer_twins import FastLinear
from minitransformer.fast.prepacked_linear import (
    PrepackedSession,
    PrepackedWeight,
    decoding,
    free_prepacked,
    prepack,
    prepacked_linear,
    weights_of_a_step,
)
from minitransformer.generation import generate
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import DecodingSession
from tests.tiny import GENERATING, GENERATING_UNTIED, language_model

MANY = module.MIN_USES


@pytest.fixture(params=["onednn", "stand-in"])
def products(request, monkeypatch):
    """The number of products by a copy so far, in a list of one element."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    monkeypatch.setattr(linear_module, "_chosen", "default")
    monkeypatch.setattr(module, "is_faster", lambda *_, **__: True)
    through_copy = PrepackedWeight.__call__
    if request.param == "onednn":
        if not module._kernels_work(torch.float32):
            pytest.skip("this PyTorch has no oneDNN")
    else:
        monkeypatch.setattr(module, "_reordered", torch.clone)
        monkeypatch.setattr(module, "onednn_linear", lambda x, w, bias: F.linear(x, w, bias))
        monkeypatch.setattr(module, "onednn_works", lambda: True)
        kernels = torch.float32, torch.bfloat16
        monkeypatch.setattr(module, "_kernels_work", lambda dtype: dtype in kernels)
    count = [0]

    def counted(self, x, bias):
        count[0] += x.dtype == self.dtype
        return through_copy(self, x, bias)

    monkeypatch.setattr(PrepackedWeight, "__call__", counted)
    return count


@contextmanager
def prepacked(modules, num_uses=MANY, num_rows=2):
    """A step of a decoding session."""
    prepack(modules, num_uses, num_rows)
    with decoding():
        yield


def inputs(dtype):
    """(..., 35) with different strides."""
    return [
        torch.randn(1, 35, dtype=dtype),
        torch.randn(1, 1, 35, dtype=dtype),
        torch.randn(1, 70, dtype=dtype)[:, ::2],
        torch.randn(4, 6, 35, dtype=dtype)[:, -1],
        torch.randn(35, 5, dtype=dtype).t(),
        torch.randn(2, 70, dtype=dtype)[:, ::2],
        torch.randn(3, 36, dtype=dtype)[:, 1:],
        torch.randn(1, 35, dtype=dtype).expand(7, 35),
        torch.randn(3, 2, 9, 35, dtype=dtype).transpose(0, 2),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("outputs", [1, 21, 128])
def test_the_numbers_are_those_of_the_plain_product(dtype, outputs, products):
    """By a copy in float32 where there is no kernel for a dtype."""
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    plain = FastLinear(35, outputs, dtype=dtype)
    # The strides of a bias must not matter either.
    strided = FastLinear(35, outputs, dtype=dtype)
    strided.bias = nn.Parameter(torch.randn(outputs, 3, dtype=dtype)[:, 1])
    transposed = FastLinear(35, outputs, bias=False, dtype=dtype)
    transposed.weight = nn.Parameter(torch.randn(35, outputs, dtype=dtype).t())
    for number, layer in enumerate((plain, strided, transposed), start=1):
        with torch.no_grad(), prepacked([layer]):
            for x in inputs(dtype):
                expected = F.linear(x, layer.weight, layer.bias)
                torch.testing.assert_close(layer(x), expected, rtol=rounding, atol=rounding)
        assert products[0] == number * len(inputs(dtype))


def test_the_weight_of_another_module_than_a_linear_layer(products):
    embedding, bias = nn.Embedding(50, 8), torch.randn(50)
    hidden = torch.randn(3, 8)
    expected = hidden @ embedding.weight.t() + bias
    with torch.no_grad(), prepacked([embedding]):
        torch.testing.assert_close(prepacked_linear(hidden, embedding, bias), expected)
        assert products == [1]
        assert torch.equal(embedding(torch.tensor([4])), embedding.weight[[4]])  # still a table
    with torch.no_grad():
        torch.testing.assert_close(prepacked_linear(hidden, embedding, bias), expected)
    assert products == [1]


def test_copies_are_used_within_a_step_of_a_session(products):
    layer, x = FastLinear(4, 6), torch.randn(2, 4)
    before = dict(vars(layer))
    with torch.no_grad():
        layer(x)
        assert products == [0]
        with prepacked([layer]):
            with prepacked([layer]):
                layer(x)
            layer(x)
            assert products == [2]  # an inner step does not end the outer one
        layer(x)
        with pytest.raises(KeyError), prepacked([layer]):
            raise KeyError
        layer(x)
    assert products == [2] and vars(layer) == before


def test_other_threads_multiply_as_usual(products):
    layer, x = FastLinear(4, 6), torch.randn(2, 4)

    def call():
        with torch.no_grad():  # which is a thread's own
            return layer(x)

    with ThreadPoolExecutor(1) as pool, torch.no_grad(), prepacked([layer]):
        assert torch.equal(pool.submit(call).result(), F.linear(x, layer.weight, layer.bias))
        assert products == [0]
        layer(x)
    assert products == [1]


class Steps(DecodingSession):
    """A session whose scores are a product."""

    def __init__(self, layer):
        self.prompt, self.layer, self.calls = torch.zeros(2, 1, dtype=torch.int64), layer, []

    def start(self):
        return self.layer(torch.ones(2, 4))

    def step(self, history):
        self.calls.append(history)
        return self.layer(torch.full((2, 4), 2.0))

    def select(self, sequences):
        self.calls.append(sequences)

    def close(self):
        self.calls.append("close")


def test_a_session_is_the_one_inside_with_copies(products):
    layer = FastLinear(4, 6)
    inside = Steps(layer)
    session = PrepackedSession(inside, [layer], MANY, 2)
    assert session.prompt is inside.prompt
    with torch.no_grad():
        torch.testing.assert_close(session.start(), inside.start())
        torch.testing.assert_close(session.step("history"), inside.step("other"))
        session.select("sequences")
        session.close()
    assert inside.calls == ["history", "other", "sequences", "close"] and products == [2]
    assert layer in module._COPIES  # for the next session


@pytest.mark.parametrize("family", [*GENERATING, *GENERATING_UNTIED])
def test_an_abandoned_session_does_not_affect_other_calls(family, products):
    """They use neither its copies nor outdated weights."""
    plain, ids = copy.deepcopy(language_model(family)), torch.randint(3, 90, (1, 5))
    model = optimize(copy.deepcopy(plain))
    first = getattr(model.config, "decoder_start_token_id", None)
    config = GenerationConfig(max_new_tokens=MANY, decoder_start_token_id=first)
    session = model.decoding_session(ids, config=config)
    with torch.no_grad():
        history = torch.cat([session.prompt, session.start().argmax(dim=-1, keepdim=True)], dim=1)
        session.step(history)
        used = products[0]
        assert used > 0
        for one in (plain, model):  # the session still exists and is not closed
            for parameter in one.parameters():
                parameter.data.mul_(1.5)
        inputs = {"input_ids": ids}
        if hasattr(model, "encode"):
            inputs["decoder_input_ids"] = ids
        torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)
        assert products == [used]
        fields = {"max_new_tokens": MANY, "min_new_tokens": MANY}
        expected = generate(plain, ids, **fields).sequences
        assert torch.equal(generate(model, ids, **fields).sequences, expected)
    assert products[0] > used


def test_a_thread_that_calls_a_model_while_a_session_steps(products):
    model, ids = optimize(copy.deepcopy(language_model("GPT2"))), torch.randint(3, 90, (1, 5))
    session = model.decoding_session(ids, config=GenerationConfig(max_new_tokens=MANY))
    counts = []

    def call():
        before = products[0]
        with torch.no_grad():
            model(ids)
        counts.append(products[0] - before)

    with ThreadPoolExecutor(1) as pool, torch.no_grad():
        first = session.start().argmax(dim=-1, keepdim=True)
        hooked = model.backbone.final_norm

        def hook(*_):
            handle.remove()
            pool.submit(call).result()

        handle = hooked.register_forward_hook(hook)
        before = products[0]
        session.step(torch.cat([session.prompt, first], dim=1))
    assert counts == [0] and products[0] > before


def test_many_rows_use_the_usual_product(products):
    layer = FastLinear(4, 6)
    with torch.no_grad(), prepacked([layer]):
        for rows in (module._MAX_ROWS, module._MAX_ROWS + 1):
            x = torch.randn(rows, 4)
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
        layer(torch.randn(2, module._MAX_ROWS, 4))
    assert products == [1]


CHANGES = {
    "in place": lambda layer: layer.weight.mul_(2),
    "through data": lambda layer: layer.weight.data.mul_(2),  # PyTorch counts no such changes
    "new data": lambda layer: setattr(layer.weight, "data", layer.weight.data * 2),
    "new parameter": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight * 2)),
    "loaded": lambda layer: layer.load_state_dict({"weight": layer.weight * 2, "bias": layer.bias}),
    "assigned": lambda layer: layer.load_state_dict(
        {"weight": layer.weight * 2, "bias": layer.bias}, assign=True
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_has_changed(change, products):
    layer, x = FastLinear(40, 60), torch.randn(2, 40)
    with torch.no_grad():
        with prepacked([layer]):
            old = layer(x)
        CHANGES[change](layer)
        torch.testing.assert_close(layer(x) - layer.bias, 2 * (old - layer.bias))
        with prepacked([layer]):
            new = layer(x)
        assert products == [2]
        torch.testing.assert_close(new - layer.bias, 2 * (old - layer.bias))


@pytest.mark.parametrize("shape", [(60, 40), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_number_that_is_changed_without_a_new_version(shape, dtype, products):
    """Rows of an embedding may be changed through `.data`, which PyTorch does not count."""
    layer = FastLinear(shape[1], shape[0]).to(dtype)
    x = torch.randn(2, shape[1], dtype=dtype)
    with torch.no_grad():
        for row in range(shape[0]):
            with prepacked([layer]):
                layer(x)
            layer.weight.data[row, -1] += 1
            with prepacked([layer]):
                torch.testing.assert_close(
                    layer(x), F.linear(x, layer.weight, layer.bias), rtol=2e-2, atol=2e-2
                )


def test_a_weight_that_changes_while_it_is_decoded_with(products):
    layer, x = FastLinear(4, 6, bias=False), torch.randn(2, 4)
    with torch.no_grad(), prepacked([layer]):
        old = layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), 2 * old)
        layer.weight = nn.Parameter(layer.weight / 2)
        torch.testing.assert_close(layer(x), old)
    with torch.no_grad(), prepacked([layer]):
        layer.weight.data = layer.weight * 2
        torch.testing.assert_close(layer(x), 2 * old)
    assert products == [1]


def test_a_single_number_that_has_changed(products):
    layer, x = FastLinear(40, 60, bias=False), torch.ones(1, 40)
    with torch.no_grad():
        with prepacked([layer]):
            old = layer(x)
        layer.weight[1, 1] += 1
        with prepacked([layer]):
            new = layer(x)
        torch.testing.assert_close(new - old, torch.eye(60)[[1]])
    assert products == [2]


def test_calls_that_use_no_copies(products, monkeypatch):
    layer, x = FastLinear(4, 6), torch.randn(2, 4)
    expected = F.linear(x, layer.weight, layer.bias)
    with prepacked([layer]):
        layer(x).sum().backward()
        assert layer.weight.grad is not None
        with torch.no_grad():
            assert torch.equal(layer(x[0]), F.linear(x[0], layer.weight, layer.bias))
            assert layer(x[:0]).shape == (0, 6)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert layer(x).dtype == torch.bfloat16
            with monkeypatch.context() as compiling:
                compiling.setattr(torch.compiler, "is_compiling", lambda: True)
                assert torch.equal(layer(x), expected)
            with monkeypatch.context() as without:
                without.setattr(torch.backends.mkldnn, "enabled", False)
                assert torch.equal(layer(x), expected)
            layer.double()
            torch.testing.assert_close(layer(x.double()), expected.double())
    assert products == [0]


@pytest.mark.slow
def test_a_compiled_module_is_one_graph(products):
    layer, x = FastLinear(4, 6), torch.randn(2, 4)
    with torch.no_grad(), prepacked([layer]):
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    assert products == [0]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_weights_that_have_no_copies(products, monkeypatch):
    layers = [FastLinear(4, 6, dtype=torch.float64), FastLinear(4, 6, device="meta")]
    with torch.inference_mode():
        layers.append(FastLinear(4, 6))  # whose changes are not counted
    layers.append(FastLinear(0, 6))
    with torch.no_grad(), prepacked(layers):
        assert not any(layer in module._COPIES for layer in layers)
        assert layers[0](torch.randn(2, 4, dtype=torch.float64)).shape == (2, 6)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    layer = FastLinear(4, 6)
    with prepacked([layer]):
        assert layer not in module._COPIES


def test_a_weight_that_becomes_an_inference_tensor(products):
    layer, x = FastLinear(4, 6), torch.randn(2, 4)
    with torch.inference_mode():
        with prepacked([layer]):
            layer(x)
        layer.weight = nn.Parameter(layer.weight * 2)
        with prepacked([layer]):
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert products == [1]


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError, None])
def test_kernels_that_are_absent_or_wrong_are_not_used(error, monkeypatch):
    def broken(x, weight, bias):
        if error is None:
            return F.linear(x, torch.zeros(5, 3, dtype=x.dtype), bias)
        raise error("no such kernel")

    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    monkeypatch.setattr(module, "_reordered", torch.clone)
    monkeypatch.setattr(module, "onednn_linear", broken)
    monkeypatch.setattr(module, "onednn_works", lambda: False)
    module._kernels_work.cache_clear()
    layer, x = FastLinear(3, 5), torch.randn(2, 3)
    try:
        with torch.no_grad(), prepacked([layer]):
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    finally:
        module._kernels_work.cache_clear()


def test_copies_are_made_once_and_only_where_they_are_faster(products):
    layer, x = FastLinear(4, 6), torch.randn(2, 4)
    with torch.no_grad():
        with prepacked([layer], MANY - 1):
            layer(x)
        assert products == [0]
        with prepacked([layer]):
            first = module._COPIES[layer]
        with prepacked([layer], 1):
            layer(x)
        assert products == [1]
        assert module._COPIES[layer] is first
        free_prepacked([layer, nn.Linear(2, 2)])
        with prepacked([layer], 1):
            layer(x)
        assert products == [1]


def test_one_row_and_several_rows_are_measured_separately(products, monkeypatch):
    asked, fast = [], {"one row": False, "several rows": True}
    monkeypatch.setattr(module, "_is_row_faster_by_onednn", lambda: False)

    def answer(question, make, rounds=12):
        asked.append(question)
        return next(faster for words, faster in fast.items() if words in question)

    monkeypatch.setattr(module, "is_faster", answer)
    layer = FastLinear(4, 6)
    with torch.no_grad():
        for num_rows in (1, module._MAX_ROWS + 1):
            with prepacked([layer], num_rows=num_rows):
                assert layer not in module._COPIES
        for num_rows in (2, module._MAX_ROWS):
            free_prepacked([layer])
            with prepacked([layer], num_rows=num_rows):
                assert layer in module._COPIES
                layer(torch.randn(1, 4))
                layer(torch.randn(num_rows, 4))
    assert products == [2]
    assert len(set(asked)) == 2 and all("torch.float32" in question for question in asked)


def test_a_weight_that_is_computed_has_no_copy(products):
    """A parametrization computes it in new memory at every call."""
    layer = nn.utils.parametrizations.weight_norm(FastLinear(4, 6))
    x = torch.randn(2, 4)
    with torch.no_grad(), prepacked([layer]):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
        assert layer not in module._COPIES


def test_copies_are_freed_with_their_module_and_not_part_of_it(products):
    layer = FastLinear(4, 6)
    with torch.no_grad(), prepacked([layer]):
        copied, x = copy.deepcopy(layer), torch.randn(2, 4)
        assert list(layer.state_dict()) == ["weight", "bias"]
        copied.weight.mul_(2)
        torch.testing.assert_close(copied(x), F.linear(x, copied.weight, copied.bias))
    assert products == [0]
    held = weakref.ref(module._COPIES[layer])
    del layer
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    "family",
    [
        *(pytest.param(f, marks=pytest.mark.slow) if f != "T5" else f for f in GENERATING),
        *GENERATING_UNTIED,
    ],
)
def test_a_model_generates_the_same_with_and_without(family, products, monkeypatch):
    plain, ids = language_model(family), torch.randint(3, 90, (2, 5))
    model = optimize(copy.deepcopy(plain))
    fields = {"max_new_tokens": MANY, "min_new_tokens": MANY, "num_beams": 2}
    expected = generate(plain, ids, **fields)
    assert products == [0]
    generated = generate(model, ids, **fields)
    assert torch.equal(generated.sequences, expected.sequences)
    torch.testing.assert_close(generated.sequences_scores, expected.sequences_scores)
    # Every linear layer of the decoder and the head for each token; those of the source once.
    maps = len(weights_of_a_step(model))
    assert (model.lm_head or model.backbone.token_embedding) in weights_of_a_step(model)
    assert maps * MANY * 0.7 < products[0] <= maps * MANY
