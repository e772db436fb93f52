"""Counting: FLOPs against formulas and PyTorch's own counter, memory, and the parts of a model."""

from dataclasses import replace
from threading import Event, Thread

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import minitransformer
from minitransformer import cost
from minitransformer.cost import machine
from minitransformer.cost.machine import KINDS
from minitransformer.cost.operations import trace
from minitransformer.cost.workloads import _optimized_attention

B, T, H, D = 2, 40, 3, 8
E = H * D
INTERMEDIATE = 72
SHAPE = cost.AttentionShape(batch=B, length=T, heads=H, head_size=D, implementation="eager")


def config(family: str, **changes):
    sizes = {"hidden_size": E, "num_attention_heads": H, "num_hidden_layers": 2, "vocab_size": 50}
    sizes |= {"intermediate_size": INTERMEDIATE, **changes}
    names = {"GPT2": {"bos_token_id": 0, "eos_token_id": 0}, "T5": {"num_decoder_layers": 1}}
    names["Bart"] = {"num_decoder_layers": 1, "num_decoder_attention_heads": H}
    return getattr(minitransformer, f"{family}Config")(**sizes, **names.get(family, {}))


def test_flops_of_attention_and_of_a_layer_are_those_of_the_formulas():
    scores_and_values = 4 * B * H * T**2 * D
    layer = scores_and_values + B * T * (8 * E**2 + 4 * E * INTERMEDIATE)
    assert cost.attention(SHAPE).flops == scores_and_values
    assert cost.layer(SHAPE, INTERMEDIATE).flops == layer
    # The backward pass has two products for each of the forward pass.
    assert cost.attention(SHAPE, backward=True).flops == 3 * scores_and_values
    assert cost.layer(SHAPE, INTERMEDIATE, backward=True).flops == 3 * layer


@pytest.mark.parametrize(
    "family, head",
    [
        ("Bert", "BertForMaskedLM"),
        ("GPT2", "GPT2LMHeadModel"),
        ("T5", "T5ForConditionalGeneration"),
        ("Bart", "BartForConditionalGeneration"),
    ],
)
def test_flops_of_a_training_step_are_those_that_pytorch_counts(family, head):
    sizes = config(family)
    model = getattr(minitransformer, head)(sizes, attention="eager").train()
    ids = torch.full((B, T), 7)
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids).loss.backward()
    counted = cost.model(sizes, batch=B, length=T, train=True, implementation="eager")
    assert counted.flops == counter.get_total_flops()


def test_a_causal_kernel_computes_half_of_the_pairs():
    def attend(is_causal: bool) -> cost.Work:
        def build():
            query = torch.randn(B, H, T, D)
            return lambda: torch.nn.functional.scaled_dot_product_attention(
                query, query, query, is_causal=is_causal
            )

        return trace(build)

    assert attend(is_causal=True).flops * 2 == attend(is_causal=False).flops
    assert attend(is_causal=False).flops == 4 * B * H * T**2 * D


def test_products_are_described_by_their_shortest_side():
    work = cost.layer(SHAPE, INTERMEDIATE, backward=True)
    products = {(o.kind, o.size) for o in work.operations if o.kind.startswith("matmul")}
    tokens = B * T
    assert (
        "matmul",
        (E, (tokens * INTERMEDIATE) ** 0.5),
    ) in products  # up_proj, and its input's gradient
    assert all(size[0] <= size[1] for _, size in products)


@pytest.mark.parametrize(
    ("rows", "kind", "size"),
    [
        (1, "matmul", (1, 64)),
        (64, "matmul", (64, 64)),
        (100, "matmul (short inner dimension)", (64, (100 * 5000) ** 0.5)),
    ],
)
def test_a_product_of_few_rows_is_described_by_its_inner_dimension(rows, kind, size):
    def build():
        x, head = torch.randn(rows, 64), torch.randn(64, 5000)
        return lambda: x @ head

    (product,) = trace(build).operations
    assert (product.kind, product.size) == (kind, size)


def test_peak_memory_is_that_of_the_tensors_that_are_alive_together():
    numbers = 1000

    def build():
        x = torch.randn(numbers, requires_grad=True)  # was there before

        def call():
            y = x.exp()  # kept for the gradient
            z = y + 1  # freed
            del z
            return (y * 2).sum()

        return call

    two, scalar = 2 * 4 * numbers, 4
    assert two <= trace(build).temporary_bytes <= two + scalar


def test_the_softmax_of_sdpa_with_dropout_has_a_rate_of_its_own():
    for implementation, expected in (("eager", 0), ("sdpa", 1)):
        shape = cost.AttentionShape(length=T, dropout=0.1, implementation=implementation)
        kinds = [one.kind for one in cost.attention(shape, backward=True).operations]
        assert kinds.count("softmax (a row may be masked)") == expected
        assert kinds.count("softmax") == 1 - expected


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_memory_of_attention_grows_by_the_square_in_eager_only(implementation):
    def peak(length: int) -> float:
        shape = cost.AttentionShape(length=length, heads=1, implementation=implementation)
        return cost.attention(shape, backward=True).temporary_bytes

    assert peak(4096) / peak(2048) == pytest.approx(4 if implementation == "eager" else 2, rel=0.1)


def test_only_large_results_need_page_faults():
    def copy(numbers: int) -> float:
        work = trace(lambda: lambda: torch.zeros(numbers) + 1)
        return sum(operation.page_fault_bytes for operation in work.operations)

    assert copy(2**20) == 0
    assert copy(2**23) == 2 * 2**25  # both results


def test_every_operation_belongs_to_its_part_forward_and_backward():
    sizes = config("Roberta", hidden_dropout_prob=0.1)
    work = cost.model(sizes, batch=B, length=T, train=True, implementation="eager")
    tokens = B * T
    flops = dict.fromkeys(cost.PARTS, 0.0)
    for operation in work.operations:
        flops[operation.part] += operation.flops
    assert flops == {
        "embeddings": 0,
        "projections": 3 * 2 * tokens * 8 * E**2,
        "attention": 3 * 2 * 4 * B * H * T**2 * D,
        "feed-forward": 3 * 2 * tokens * 4 * E * INTERMEDIATE,
        "norms": 0,
        "head": 3 * tokens * 2 * (E**2 + 50 * E),
        "loss": 0,
        "optimizer": 0,
    }
    kinds = {(operation.part, operation.kind) for operation in work.operations}
    assert {("norms", "norm"), ("norms", "norm (backward)"), ("norms", "random")} <= kinds
    assert {("loss", "softmax"), ("loss", "softmax (backward)"), ("optimizer", "adamw")} <= kinds
    assert ("feed-forward", "gelu (backward)") in kinds
    assert ("embeddings", "norm") in kinds


@pytest.mark.parametrize("family", ["GPT2", "T5", "Bart"])
def test_a_decoded_token_reads_its_cache_once(family):
    """Twice the tokens in the cache cost as many more bytes whatever they were before."""
    sizes = config(family)

    def moved(context: int) -> float:
        return cost.token(sizes, batch=B, context=context).bytes

    assert moved(192) - moved(128) == moved(256) - moved(192) > 0
    assert cost.token(sizes, batch=B, context=64).flops < cost.model(sizes, batch=B, length=8).flops


def test_an_encoder_decodes_nothing():
    with pytest.raises(ValueError, match="BertForMaskedLM decodes no tokens"):
        cost.token(config("Bert"), batch=1, context=8)


def test_a_model_is_counted_beyond_its_positions():
    sizes = config("Bert", max_position_embeddings=16)
    assert cost.model(sizes, batch=1, length=64).flops > cost.model(sizes, batch=1, length=16).flops


def test_an_optimized_layer_keeps_a_byte_for_each_pair_instead_of_its_weights():
    def layer(implementation: str) -> cost.Work:
        shape = cost.AttentionShape(
            batch=8, length=512, heads=4, head_size=8, dropout=0.1, implementation=implementation
        )
        return cost.layer(shape, INTERMEDIATE, backward=True)

    plain, optimized = layer("sdpa"), layer("optimized")
    kinds = {operation.kind for operation in optimized.operations}
    assert "random (16 bits)" in kinds and "random" not in kinds
    pairs = 8 * 4 * 512**2
    assert plain.temporary_bytes > 3 * 4 * pairs > 4 * pairs > optimized.temporary_bytes


def test_causal_attention_optimized_computes_half_of_the_pairs():
    def attention(implementation: str) -> cost.Work:
        return cost.attention(replace(SHAPE, causal=True, implementation=implementation))

    assert 2 * attention("optimized").flops == attention("sdpa").flops


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("adamw", "page faults", "view")])
def test_what_is_calibrated_is_what_is_traced(kind):
    """The call that measures a kind is an operation of that kind, of that amount."""
    name = {"matmul (prepacked)": "matmul"}.get(kind, kind)
    sizes = [axis[1] for axis in KINDS[kind].axes]
    amounts = []

    def build():
        call, amount = KINDS[kind].make(torch.float32, *sizes)
        amounts.append(amount)
        return call

    machine._weights.cache_clear()  # real ones
    with torch.set_grad_enabled("backward" in kind):
        work = trace(build)
    machine._weights.cache_clear()  # it holds fake tensors now
    traced = sum(o.amount for o in work.operations if o.kind == name)
    assert traced == pytest.approx(amounts[0], rel=0.01)


def test_an_optimized_language_model_computes_its_labels_alone():
    """The head and all of the last layer but keys and values, forward and backward."""
    sizes = config("Bert", attention_probs_dropout_prob=0.0)

    def work(labelled: float) -> cost.Work:
        settings = {"batch": B, "length": T, "train": True, "implementation": "optimized"}
        return cost.model(sizes, labelled=labelled, **settings)

    head = 2 * (E**2 + 50 * E)
    layer = 2 * 2 * E**2 + 4 * E * INTERMEDIATE
    pairs = 14 * E * T  # of a query: 4 forward, 10 backward, with the weights computed again
    assert work(1.0).flops - work(0.5).flops == B * T / 2 * (3 * (head + layer) + pairs)
    scores = (B * T * 50,)  # of the vocabulary
    losses = [one.part for one in work(1.0).operations if one.size == scores and "soft" in one.kind]
    assert losses == ["loss", "loss"]  # forward and backward


def test_decoding_optimized_copies_no_cache():
    sizes = config("GPT2")
    plain = cost.token(sizes, batch=B, context=4096)
    optimized = cost.token(sizes, batch=B, context=4096, implementation="optimized")
    cache = 2 * 2 * B * E * 4096 * 4  # keys and values of two layers, in bytes
    assert plain.bytes > 3 * cache  # read, read again and written to copy, read
    assert optimized.bytes < 1.3 * cache
    kinds = {operation.kind for operation in optimized.operations}
    assert {"matmul (prepacked)", "attention of one query"} <= kinds


def test_a_single_query_has_the_kernel_of_decoding_and_the_gradients_of_all():
    def build():
        query = torch.randn(B, H, 1, D, requires_grad=True)
        key = torch.randn(B, H, T, D, requires_grad=True)

        def call():
            attended = torch.nn.functional.scaled_dot_product_attention(query, key, key)
            return torch.autograd.grad(attended, (query, key), torch.ones_like(attended))

        return call

    flops = {operation.kind: operation.flops for operation in trace(build).operations}
    assert flops["attention of one query"] == 4 * B * H * T * D
    assert flops["attention kernel (backward)"] == 10 * B * H * T * D


def test_a_mask_that_hides_nothing_costs_an_optimized_model_nothing():
    def attention(mask) -> cost.Work:
        def build():
            query = torch.randn(B, H, T, D)
            return lambda: _optimized_attention(query, query, query, mask(), dropout=0.1)

        return trace(build)

    everything = attention(lambda: torch.ones(B, 1, 1, T, dtype=torch.bool))
    kinds = [operation.kind for operation in attention(lambda: None).operations]
    assert [operation.kind for operation in everything.operations][-len(kinds) :] == kinds
    assert len(everything.operations) == len(kinds) + 1  # the mask itself


def test_modules_that_another_thread_calls_are_of_no_part():
    entered, may_leave = Event(), Event()

    class Waiting(torch.nn.Module):
        def forward(self) -> None:
            entered.set()
            may_leave.wait(5)

    def call():
        thread = Thread(target=Waiting())
        thread.start()
        entered.wait(5)
        result = torch.zeros(3) + 1
        may_leave.set()
        thread.join()
        return result

    assert {operation.part for operation in trace(lambda: call).operations} == {"attention"}
