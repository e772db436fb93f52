"""Models of transformers beside ours: decoders and encoder-decoders with the same parameters.

No two sizes are equal, so that shapes cannot be confused: encoder and decoder differ in layers,
heads and feed-forward, and T5's heads together are narrower than its hidden states.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import minitransformer
from minitransformer import parity
from minitransformer.hf.config import reference_class
from minitransformer.layers.attention import MultiHeadAttention, sdpa_attention
from minitransformer.parity import compare, random_batch
from tests.tiny import as_variant, attention_of, perturb

transformers: Any = pytest.importorskip("transformers", reason="parity needs transformers")

BART_SIZES = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 41,
    "max_position_embeddings": 20,
    "dropout": 0.0,
}
T5_SIZES = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 37,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "dropout_rate": 0.0,
    "initializer_factor": 0.3,  # T5 scales nothing down: larger weights drown bugs in rounding
    "decoder_start_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT2": {
        "vocab_size": 99,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 37,
        "n_positions": 20,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    "Bart": BART_SIZES | {"decoder_start_token_id": 2},
    "Marian": {
        **BART_SIZES,
        "pad_token_id": 98,
        "decoder_start_token_id": 98,
        "scale_embedding": True,
        "activation_function": "swish",
    },
    "T5": T5_SIZES,
    "T5 1.1": T5_SIZES | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
THREE_CLASSES = {"id2label": {0: "no", 1: "maybe", 2: "yes"}}
# A name for each class, T5's two versions apart, and the fields that go with it.
GPT2_CLASSES: dict[str, dict[str, Any]] = {
    "GPT2Model": {},
    "GPT2LMHeadModel": {},
    "GPT2ForSequenceClassification": THREE_CLASSES | {"pad_token_id": 1},
}
SEQ2SEQ_CLASSES: dict[str, dict[str, Any]] = {
    "BartModel": {},
    "BartForConditionalGeneration": {},
    "BartForSequenceClassification": THREE_CLASSES,
    "MarianModel": {},
    "MarianMTModel": {},
    "T5Model": {},
    "T5ForConditionalGeneration": {},
    "T5Model 1.1": {},
    "T5ForConditionalGeneration 1.1": {},
}
CLASSES = GPT2_CLASSES | SEQ2SEQ_CLASSES
# The encoder-decoders with an LM head.
BART, MARIAN, T5 = "BartForConditionalGeneration", "MarianMTModel", "T5ForConditionalGeneration"
WRITERS = [BART, MARIAN, T5, f"{T5} 1.1"]


def their_model(name: str, **changes: object) -> Any:
    """A model of transformers, perturbed, in evaluation mode.

    Args:
        name: one of `CLASSES`.
        changes: fields of its config.
    """
    family = next(family for family in FAMILIES if name.startswith(family))
    family = "T5 1.1" if name.endswith("1.1") else family
    fields = copy.deepcopy({**FAMILIES[family], **CLASSES[name], **changes})
    class_name = name.removesuffix(" 1.1")
    config_class = getattr(transformers, f"{family.removesuffix(' 1.1')}Config")
    model = getattr(transformers, class_name)(config_class(**fields, attn_implementation="eager"))
    if name == f"{T5} 1.1":  # which transformers ties whatever the config says
        model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(99, 32))
    return perturb(model)


def pair(
    name: str,
    path: Path,
    variant: str = "eager",
    dtype: torch.dtype = torch.float32,
    **changes: object,
) -> tuple[Any, Any]:
    """Ours and theirs, by way of a checkpoint.

    Args:
        name, changes: see :func:`their_model`.
        path: for the checkpoint.
        variant: one of `VARIANTS`, what ours is to be.
        dtype: of both.
    """
    theirs = their_model(name, **changes)
    theirs.save_pretrained(path)
    ours = minitransformer.from_pretrained(path, attention=attention_of(variant))
    return as_variant(ours.to(dtype), variant), theirs.to(dtype)


def courses_of_training(ours: Any, theirs: Any, steps: int = 20) -> tuple[list[float], list[float]]:
    """The losses of either side as AdamW lowers them, over the same two batches in turn."""
    courses: tuple[list[float], list[float]] = [], []
    for model, course in zip((ours, theirs), courses, strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(steps):
            batch = random_batch(ours, length=11, seed=step % 2)
            if model is ours:
                loss = ours.loss(**batch)
            else:
                their_batch = parity._their_inputs(ours, batch)
                with parity.as_exact_as_its_dtype(theirs):
                    loss = parity._their_loss(ours, theirs(**their_batch), their_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(loss.item())
    return courses


def there_and_back(ours: Any, path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Save ours, load it there, save that and load it here: every tensor must stay the same.

    Returns:
        What transformers had to say while it loaded and saved.
    """
    ours.save_pretrained(path / "ours")
    our_class = reference_class(ours)
    their_class = getattr(transformers, our_class.__name__)
    with warnings.catch_warnings(), their_words(caplog) as said:
        warnings.simplefilter("error")
        theirs, report = their_class.from_pretrained(
            path / "ours", output_loading_info=True, attn_implementation="eager"
        )
        theirs.save_pretrained(path / "back")
    said += [f"{kind}: {names}" for kind, names in report.items() if names]
    result = compare(ours, theirs.eval(), random_batch(ours, length=11))
    assert result.equal, result.table()
    again = our_class.from_pretrained(path / "back")
    assert again.config == ours.config
    assert again.state_dict().keys() == ours.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    return said


def attend_otherwise(
    attentions: Iterable[MultiHeadAttention], change: Callable[..., dict[str, Any]]
) -> None:
    """Put a bug into attentions: they get other arguments than those that they were given.

    Args:
        attentions: the layers.
        change: takes the arguments of `sdpa_attention` by name and gives those that are other.
    """
    signature = inspect.signature(sdpa_attention)

    def attend(*inputs: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        given = signature.bind(*inputs, **named).arguments
        return sdpa_attention(**given | change(**given))

    for attention in attentions:
        attention.attend = attend


@contextmanager
def their_words(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What transformers says in its log, which it keeps apart from all others."""
    said: list[str] = []
    before = transformers.utils.logging.get_verbosity()  # another test may have silenced it
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.enable_propagation()
    caplog.clear()
    try:
        with caplog.at_level("WARNING"):
            yield said
    finally:
        transformers.utils.logging.disable_propagation()
        transformers.utils.logging.set_verbosity(before)
        said += [record.getMessage() for record in caplog.records]
