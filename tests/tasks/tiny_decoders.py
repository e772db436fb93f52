"""Tiny perturbed checkpoints of the families with a decoder, each with its own tokenizer."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import minitransformer
from minitransformer import Tokenizer
from minitransformer.tokenization.loading import library
from tests.tasks.tiny_checkpoints import TEXT
from tests.tiny import SHARED_DATA, perturb

SEQ2SEQ_LMS = ["BartForConditionalGeneration", "T5ForConditionalGeneration", "MarianMTModel"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FIELDS = {
    "GPT2": {"intermediate_size": 37, "max_position_embeddings": 60},
    "Bart": {
        "num_decoder_layers": 1,
        "num_decoder_attention_heads": 4,
        "intermediate_size": 37,
        "decoder_intermediate_size": 23,
        "max_position_embeddings": 60,
    },
    "T5": {"num_decoder_layers": 1, "head_size": 5, "intermediate_size": 37},
}
FIELDS["Marian"] = FIELDS["Bart"] | {"scale_embedding": True}
CODES = (">>fra<<", ">>ita<<")


def save_decoder(
    directory: Path,
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    generation: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    codes: tuple[str, ...] = CODES,
    **fields: Any,
) -> Path:
    """Write model and tokenizer.

    Args:
        directory: made where it is not there.
        name: of the class.
        tokenizer: by default one of the family's kind.
        generation: what generation_config.json is to say more.
        config: what config.json is to say more.
        codes: the languages of a Marian.
        fields: of the config.
    """
    directory.mkdir(parents=True, exist_ok=True)
    family = next(family for family in FIELDS if name.startswith(family))
    if family == "Marian":
        write_marian_files(directory, codes)
        tokenizer = Tokenizer.from_pretrained(directory)
        # As in the published checkpoints, padding is never written.
        generation = {"bad_words_ids": [[tokenizer.pad_token_id]], **(generation or {})}
    else:
        kinds = {"GPT2": gpt2_tokenizer, "Bart": bart_tokenizer, "T5": t5_tokenizer}
        tokenizer = tokenizer or kinds[family](directory)
        tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    model_class = getattr(minitransformer, name)
    sizes = {**SIZES, **FIELDS[family], **roles_of(tokenizer, family), **fields}
    model = model_class(model_class.config_class(vocab_size=tokenizer.vocab_size, **sizes))
    perturb(model, seed=3)
    with torch.no_grad():  # so that what is generated depends on the text
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("attention.output.weight", "down_proj.weight")):
                parameter.mul_(3)
    model.save_pretrained(directory)
    for file, more in (("generation_config.json", generation), ("config.json", config)):
        if more:
            content = json.loads((directory / file).read_text())
            (directory / file).write_text(json.dumps(content | more))
    return directory


def roles_of(tokenizer: Tokenizer, family: str) -> dict[str, int | None]:
    """The tokens with a role, which the tiny tokenizers have at other places than real ones."""
    end = tokenizer.eos_token_id
    if family == "GPT2":
        return {"bos_token_id": end, "eos_token_id": end}
    start = end if family == "Bart" else tokenizer.pad_token_id
    roles = {"eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    return roles | {"decoder_start_token_id": start}


def bart_tokenizer(directory: Path) -> Tokenizer:
    """Byte-level, with `<s>` before a text and `</s>` after it."""
    (directory / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    return Tokenizer.train(directory / "text.txt", vocab_size=330, show_progress=False)


def gpt2_tokenizer(directory: Path) -> Tokenizer:
    """Byte-level, with one special token, which is put nowhere."""
    model = json.loads(bart_tokenizer(directory).backend.to_str())["model"]
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    words = [word for word in model["vocab"] if word not in special] + ["<|endoftext|>"]
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (directory / "vocab.json").write_text(
        json.dumps({word: number for number, word in enumerate(words)}), encoding="utf-8"
    )
    (directory / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return Tokenizer.from_pretrained(directory)


def t5_tokenizer(directory: Path) -> Tokenizer:
    """Pieces that carry the space before a word, with `</s>` after a text."""
    (directory / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    backend = Tokenizer.train(
        directory / "text.txt", vocab_size=60, algorithm="unigram", show_progress=False
    ).backend
    end = ("</s>", backend.token_to_id("</s>"))
    backend.post_processor = library().processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end]
    )
    roles = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return Tokenizer(backend, roles)


def real_tokenizer(name: str) -> Tokenizer:
    """A published vocabulary; the test is skipped where there is none."""
    if not (SHARED_DATA / "tokenizers" / name).is_dir():
        pytest.skip("the shared folder with real vocabularies is not beside this repository")
    return Tokenizer.from_pretrained(SHARED_DATA / "tokenizers" / name)


def write_marian_files(directory: Path, codes: tuple[str, ...]) -> None:
    """vocab.json and two SentencePiece models, which here are one."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="it cuts the texts for Marian")
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 3),
        model_writer=trained,
        vocab_size=60,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size())]
    words = ["</s>", "<unk>", *pieces, *codes, "<pad>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    for name in ("source.spm", "target.spm"):
        (directory / name).write_bytes(trained.getvalue())
    languages = {"source_lang": "en", "target_lang": "it"}
    (directory / "tokenizer_config.json").write_text(
        json.dumps(languages | {"tokenizer_class": "MarianTokenizer"})
    )


def theirs(path: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer; the test is skipped where transformers is absent."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path)


def their_texts(path: Path, texts: list[str], **fields: Any) -> list[list[str]]:
    """What transformers' `generate` and `decode` give for each text by itself."""
    model, tokenizer = theirs(path)
    answers = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        rows = model.generate(**inputs, **fields)
        answers.append([tokenizer.decode(row, skip_special_tokens=True) for row in rows])
    return answers
