"""Tiny language models, ours and transformers', with the same perturbed parameters."""

import copy
import functools
import tempfile
from typing import Any

import torch

from minitransformer.models.bart import BartForConditionalGeneration
from minitransformer.models.gpt2 import GPT2LMHeadModel
from minitransformer.models.marian import MarianMTModel
from minitransformer.models.t5 import T5ForConditionalGeneration
from tests.tiny import perturb

BART_SIZES = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 29,
    "max_position_embeddings": 40,
    "dropout": 0.0,
}
# Family: our class, and the sizes of theirs.
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "GPT2": (
        GPT2LMHeadModel,
        {
            "vocab_size": 99,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 37,
            "n_positions": 40,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
    ),
    "Bart": (BartForConditionalGeneration, BART_SIZES | {"forced_eos_token_id": None}),
    "Marian": (
        MarianMTModel,
        BART_SIZES
        | {
            "decoder_vocab_size": 99,
            "pad_token_id": 98,
            "eos_token_id": 0,
            "decoder_start_token_id": 98,
        },
    ),
    "T5": (
        T5ForConditionalGeneration,
        {
            "vocab_size": 99,
            "d_model": 32,
            "d_kv": 6,
            "d_ff": 37,
            "num_layers": 2,
            "num_heads": 4,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 12,
            "dropout_rate": 0.0,
            "decoder_start_token_id": 0,
        },
    ),
}
ENCODER_DECODERS = [family for family in FAMILIES if family != "GPT2"]


@functools.cache
def pair(family: str, seed: int = 0) -> tuple[Any, Any]:
    """Ours and theirs, by way of a checkpoint; shared, so not to be changed."""
    import transformers

    our_class, sizes = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**sizes)
    torch.manual_seed(seed)
    theirs = getattr(transformers, our_class.__name__)(config)
    sinusoids = copy.deepcopy(getattr(theirs, "model", theirs).state_dict())
    perturb(theirs, seed + 1)
    if family == "Marian":  # its positions are no parameters: they are computed
        positions = {n: v for n, v in sinusoids.items() if "embed_positions" in n}
        theirs.model.load_state_dict(positions, strict=False)
    theirs.generation_config.forced_eos_token_id = None
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return our_class.from_pretrained(directory), theirs.eval()


def ours(family: str) -> Any:
    """Our model alone."""
    return pair(family)[0]


def pad_token(family: str) -> int:
    """The padding token; GPT-2 has none, so that one is chosen."""
    token = ours(family).config.pad_token_id
    return 1 if token is None else token


def prompts(
    family: str, lengths: list[int], *, left: bool | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random tokens, padded on the side on which transformers takes them."""
    left = family == "GPT2" if left is None else left
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), pad_token(family))
    mask = torch.zeros_like(ids)
    for number, length in enumerate(lengths):
        real = slice(longest - length, None) if left else slice(0, length)
        ids[number, real] = torch.randint(4, 97, (length,), generator=generator)
        mask[number, real] = 1
    return {"input_ids": ids, "attention_mask": mask}


def their_generate(model: Any, batch: dict[str, torch.Tensor], **fields: Any) -> Any:
    """What transformers generates, with padding where it pads with something else.

    Its beams fill up with the end token where the padding token is number 0.
    """
    result = model.generate(
        **batch,
        **fields,
        return_dict_in_generate=True,
        output_scores=fields.get("num_beams", 1) > 1,
    )
    ends = fields.get("eos_token_id", model.generation_config.eos_token_id)
    ends = [ends] if isinstance(ends, int) else ends or []
    pad = fields.get("pad_token_id", model.generation_config.pad_token_id)
    start = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    for sequence in result.sequences:
        for position in range(start, len(sequence)):
            if int(sequence[position]) in ends:
                sequence[position + 1 :] = pad
                break
    return result
