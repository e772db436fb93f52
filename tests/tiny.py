"""Tiny models, batches, checkpoints and training data for the tests.

No two sizes of a model are equal, so that no two dimensions can be mistaken for each other: encoder
and decoder differ in layers, heads and feed-forward, and T5's heads together are wider than its
hidden states. A class is called by its name; " 1.1" after the name of a T5 is version 1.1, and
" untied" after another name is an LM head with a matrix of its own.
"""

import copy
import functools
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import minitransformer
from minitransformer import BertConfig, RobertaConfig, RobertaForMaskedLM, Tokenizer, optimize
from minitransformer.exercises import Exercise
from minitransformer.hf.config import family_of_model
from minitransformer.models.base import Model
from minitransformer.models.config import Config
from minitransformer.parity import Batch

# Real text, for the tests that need it; they are skipped without it.
REAL_DATA = Path(
    os.environ.get("MINITRANSFORMER_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
)

# The ways to compute the same numbers: the formula, PyTorch's kernels, the twins of `optimize`.
VARIANTS = ["eager", "sdpa", "optimized"]
every_variant = pytest.mark.parametrize("variant", VARIANTS)


# --- Configs


THREE_CLASSES = {0: "no", 1: "maybe", 2: "yes"}
SIZES = {  # of the encoders
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 20,
}
VOCAB_SIZE = 31  # of the families with a decoder
FIRST_ORDINARY_ID = 4  # the ids before it are special tokens
GPT2_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "max_position_embeddings": 24,
    "hidden_dropout_prob": 0.0,
    "embedding_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "id2label": THREE_CLASSES,
}
BART_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_decoder_layers": 3,
    "num_attention_heads": 3,
    "num_decoder_attention_heads": 2,
    "intermediate_size": 17,
    "decoder_intermediate_size": 19,
    "max_position_embeddings": 24,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MARIAN_SIZES = {
    **BART_SIZES,
    "hidden_act": "swish",
    "scale_embedding": True,
    "eos_token_id": 0,
    "pad_token_id": VOCAB_SIZE - 1,
    "decoder_start_token_id": VOCAB_SIZE - 1,
}
T5_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 12,
    "head_size": 5,
    "num_hidden_layers": 2,
    "num_decoder_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 9,
    "hidden_dropout_prob": 0.0,
    "decoder_start_token_id": 0,
    "initializer_factor": 0.3,  # T5 scales nothing down: larger weights drown bugs in rounding
}
T5_1_1 = {
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "scale_decoder_outputs": False,
}
# The fields of each family's config.
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": SIZES | {"type_vocab_size": 3},
    "Roberta": SIZES | {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "DistilBert": SIZES | {"qa_dropout": 0.0, "seq_classif_dropout": 0.0},
    "GPT2": GPT2_SIZES,
    "Bart": BART_SIZES,
    "Marian": MARIAN_SIZES,
    "T5": T5_SIZES,
    "T5 1.1": T5_SIZES | T5_1_1,
}
ENCODERS = ["Bert", "Roberta", "DistilBert"]
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
]

# The classes: of the encoders, of decoders, of encoder-decoders, and of these what has a head.
ENCODER_CLASSES = [f"{family}{head}" for family in ENCODERS for head in HEADS]
CAUSAL = ["GPT2Model", "GPT2LMHeadModel"]
CLASSIFIERS = ["GPT2ForSequenceClassification", "BartForSequenceClassification"]
BART, MARIAN, T5 = "BartForConditionalGeneration", "MarianMTModel", "T5ForConditionalGeneration"
SEQ2SEQ_LMS = [BART, MARIAN, T5, f"{T5} 1.1"]
SEQ2SEQ = ["BartModel", BART, "MarianModel", MARIAN, "T5Model", T5, f"{T5} 1.1"]
LANGUAGE_MODELS = ["GPT2LMHeadModel", *SEQ2SEQ_LMS]
DECODER_CLASSES = [*CAUSAL, CLASSIFIERS[0], *SEQ2SEQ[:2], CLASSIFIERS[1], *SEQ2SEQ[2:]]
CLASSES = [*ENCODER_CLASSES, *DECODER_CLASSES]
MASKED_LMS = [f"{family}ForMaskedLM" for family in ENCODERS]
UNTIED = [f"{name} untied" for name in (*MASKED_LMS, "GPT2LMHeadModel", BART, MARIAN)]


def family_of(name: str) -> str:
    """The key of a class's family in `FAMILIES`."""
    version = " 1.1" if name.endswith(" 1.1") else ""
    plain = (family for family in FAMILIES if not family.endswith(" 1.1"))
    return next(family for family in plain if name.startswith(family)) + version


def class_of(name: str) -> type[Model]:
    """The class of this name."""
    return getattr(minitransformer, name.split()[0])


def config_of(name: str, **changes: Any) -> Config:
    """The tiny config of a class; a classifier has three classes."""
    fields = dict(FAMILIES[family_of(name)])
    if name.endswith("Classification"):
        fields["id2label"] = THREE_CLASSES
    if name in UNTIED:
        fields["tie_word_embeddings"] = False
    return class_of(name).config_class(**{**fields, **changes})


def roberta_config(**changes: Any) -> RobertaConfig:
    """RoBERTa's tiny config."""
    return RobertaConfig(**{**SIZES, **changes})


def bert_config(**changes: Any) -> BertConfig:
    """BERT's tiny config."""
    return BertConfig(**{**SIZES, **changes})


# --- Models


def attention_of(variant: str) -> str:
    """The attention implementation that a model of this variant is made with."""
    return "sdpa" if variant == "optimized" else variant


def as_variant(model: Model, variant: str) -> Any:
    """A model that was made with `attention_of(variant)`, optimized if it is to be."""
    return optimize(model) if variant == "optimized" else model


def perturb(model: nn.Module, seed: int = 1) -> Any:
    """Change every parameter, because zero biases and unit norms hide half of all bugs.

    Stored buffers, such as BART's bias of the logits, are changed too, but not computed ones, such
    as Marian's sinusoids, which Hugging Face keeps in a parameter without a gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    stored = model.state_dict()
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moved += [values for name, values in model.named_buffers() if name in stored]
    with torch.no_grad():
        for values in moved:
            values.add_(0.2 * torch.randn(values.shape, generator=generator))
    return model.eval()


def new(
    name: str,
    variant: str = "sdpa",
    *,
    dtype: torch.dtype = torch.float64,
    dropout: float | None = None,
    **changes: Any,
) -> Any:
    """A perturbed model in evaluation mode, each time with the same weights.

    Args:
        name: one of `CLASSES` or `UNTIED`.
        variant: one of `VARIANTS`.
        dtype: of the model.
        dropout: of hidden states and of attention weights.
        changes: fields of the config.
    """
    if dropout is not None:
        changes["hidden_dropout_prob"] = dropout
        if not name.startswith("T5"):
            changes["attention_probs_dropout_prob"] = dropout
    torch.manual_seed(0)
    model = class_of(name)(config_of(name, **changes), attention=attention_of(variant))
    return as_variant(perturb(model).to(dtype), variant)


@functools.cache
def build(name: str, variant: str = "sdpa") -> Any:
    """The same model, made once; tests must not change it."""
    return new(name, variant)


def backbone_of(model: Model) -> Any:
    """The model without its head, or the model itself if it has none."""
    return getattr(model, "backbone", model)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """The gradient of every parameter; zeros if the loss does not depend on it."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


def assert_equal(a: object, b: object) -> None:
    """Equal up to the rounding of float64."""
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


# --- Batches


def random_ids(length: int, seed: int = 0) -> Tensor:
    """(T,) random ids that are no special tokens, for the families with a decoder."""
    generator = torch.Generator().manual_seed(1000 * length + seed)
    return torch.randint(FIRST_ORDINARY_ID, VOCAB_SIZE - 1, (length,), generator=generator)


def random_sequences(count: int, length: int, seed: int = 0) -> Tensor:
    """(B, T) random ids that are no special tokens, for the families with a decoder."""
    return torch.stack([random_ids(length, seed + 100 * number) for number in range(count)])


def pad(
    texts: Sequence[Tensor], fill: int, *, left: bool = False, extra: int = 0
) -> tuple[Tensor, Tensor]:
    """Sequences padded to one length on one side, and their padding mask: (B, T) twice."""
    length = max(map(len, texts)) + extra
    filled = torch.full((len(texts), length), fill)
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for number, text in enumerate(texts):
        where = slice(length - len(text), None) if left else slice(0, len(text))
        filled[number, where], mask[number, where] = text, 1
    return filled, mask


def batch_of(lengths: list[int], *, left: bool = False, fill: int = 1, seed: int = 0) -> Batch:
    """Sequences of random ids from 4 to 97, padded on one side to the longest."""
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(4, 98, (length,), generator=generator) for length in lengths]
    ids, mask = pad(texts, fill, left=left)
    return {"input_ids": ids, "attention_mask": mask}


# --- Beside transformers


def their_model(name: str, **changes: Any) -> Any:
    """A model of transformers, perturbed, in evaluation mode.

    Args:
        name: one of `CLASSES` or `UNTIED`, or "T5Model 1.1".
        changes: fields of its config, by their names or by ours.
    """
    import transformers

    names = family_of_model(class_of(name)).config_names
    fields = {**FAMILIES[family_of(name)]}
    if name.endswith("Classification"):
        fields["id2label"] = THREE_CLASSES
    if name == "GPT2ForSequenceClassification":
        fields["pad_token_id"] = 1  # transformers needs one for several sequences
    fields.pop("scale_decoder_outputs", None)  # transformers infers it
    if name in UNTIED:
        fields["tie_word_embeddings"] = False
    theirs = {names.get(field, field): value for field, value in {**fields, **changes}.items()}
    family = family_of(name).removesuffix(" 1.1")
    config = getattr(transformers, f"{family}Config")(
        **copy.deepcopy(theirs), attn_implementation="eager"
    )
    model = getattr(transformers, name.split()[0])(config)
    if name == f"{T5} 1.1":  # transformers ties it even if the config does not
        model.lm_head.weight = nn.Parameter(0.2 * torch.randn(model.lm_head.weight.shape))
    if name in (f"{BART} untied", f"{MARIAN} untied"):  # transformers 5 unties these too
        for stack in (model.model.encoder, model.model.decoder):
            stack.embed_tokens.weight = model.model.shared.weight
    return perturb(model)


def pair(
    name: str,
    path: Path,
    variant: str = "eager",
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[Any, Any]:
    """Our model and that of transformers, with the same perturbed parameters, through a checkpoint.

    Args:
        name, changes: see :func:`their_model`.
        path: for the checkpoint.
        variant: one of `VARIANTS`, for our model.
        dtype: of both.
    """
    theirs = their_model(name, **changes)
    theirs.save_pretrained(path)
    ours = class_of(name).from_pretrained(path, attention=attention_of(variant))
    return as_variant(ours.to(dtype), variant), theirs.to(dtype)


def bug_of(exercise: Exercise, name: str) -> Callable[[nn.Module], None]:
    """What puts a mistake of an exercise into a model, or into a part of one."""
    [mistake] = [each for each in exercise.mistakes if each.name == name]

    def bug(model: nn.Module) -> None:
        exercise.put_into_model(model, [mistake])

    bug.__name__ = name
    return bug


# The language model of each family that generates.
GENERATING = {"GPT2": "GPT2LMHeadModel", "Bart": BART, "Marian": MARIAN, "T5": T5}
GENERATING_UNTIED = ["GPT2 untied", "Bart untied"]


@functools.cache
def language_models(family: str) -> tuple[Any, Any]:
    """Both models of a family of `GENERATING`, for 40 tokens; tests must not change them.

    " untied" after the family's name gives the LM head a matrix of its own.
    """
    changes: dict[str, Any] = {"vocab_size": 99}
    family, *untied = family.split()
    if family == "T5":
        changes["num_decoder_layers"] = 2  # transformers' cache has as many as the encoder
    else:
        changes["max_position_embeddings"] = 40
    if family == "Bart":
        changes["forced_eos_token_id"] = None
    if family == "Marian":
        changes |= {"pad_token_id": 98, "decoder_start_token_id": 98}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        return pair(" ".join([GENERATING[family], *untied]), Path(directory), "sdpa", **changes)


def language_model(family: str) -> Any:
    """Our language model of a family of `GENERATING`."""
    return language_models(family)[0]


def prompts(family: str, lengths: list[int], *, seed: int = 0) -> Batch:
    """Random tokens, padded on the side that transformers needs.

    GPT-2 has no padding token, so 1 is used.
    """
    token = language_model(family).config.pad_token_id
    fill = 1 if token is None else token
    return batch_of(lengths, left=family.startswith("GPT2"), fill=fill, seed=seed)


# --- Checkpoints with a tokenizer


TEXT = "ciao, come va? la ragazza legge un libro e il ragazzo ascolta la radio. tutto bene.\n"
TEXTS = [
    "la ragazza legge un libro",
    "ciao",
    "il ragazzo ascolta la radio. tutto bene. come va la ragazza?",
    "Tutto bene, ragazzo?",
    "un libro",
]
CODES = (">>fra<<", ">>ita<<")


def save_checkpoint(
    path: Path,
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    generation: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    codes: tuple[str, ...] = CODES,
    **fields: Any,
) -> Path:
    """Write a perturbed float32 model and a tokenizer of its family's kind.

    Args:
        path: a directory, which is created if it does not exist.
        name: one of `CLASSES`.
        tokenizer: another tokenizer.
        max_length: how many tokens fit, except for T5; by default 40, or 60 with a decoder.
        generation: more fields for generation_config.json.
        config: more fields for config.json.
        codes: the language codes of Marian.
        fields: of the config.
    """
    path.mkdir(parents=True, exist_ok=True)
    family = family_of(name).removesuffix(" 1.1")
    if family == "Marian":
        write_marian_files(path, codes)
        tokenizer = Tokenizer.from_pretrained(path)
        # As in the published checkpoints, padding is never generated.
        generation = {"bad_words_ids": [[tokenizer.pad_token_id]], **(generation or {})}
    else:
        tokenizer = tokenizer or tokenizer_of(family, path)
        tokenizer.save_pretrained(path)
    fields = {"vocab_size": tokenizer.vocab_size, **roles_of(tokenizer, family), **fields}
    if family == "T5":  # transformers' cache expects as many decoder layers as encoder layers
        fields = {"num_decoder_layers": 2, "initializer_factor": 1.0, **fields}
    else:
        positions = max_length or (40 if family in ENCODERS else 60)
        positions += 2 * (family == "Roberta")  # rows of its table without a position
        fields = {"max_position_embeddings": positions, **fields}
    model = new(name, dtype=torch.float32, **fields)
    if family not in ENCODERS:  # so that what is generated depends on the text
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith(("attention.output.weight", "down_proj.weight")):
                    parameter.mul_(3)
    model.save_pretrained(path)
    for file, more in (("generation_config.json", generation), ("config.json", config)):
        if more:
            content = json.loads((path / file).read_text())
            (path / file).write_text(json.dumps(content | more))
    return path


def save_tiny_bert(path: Path, lines: Iterable[str], *, max_length: int = 64) -> None:
    """A BERT to fine-tune, not perturbed, and a WordPiece tokenizer trained on the lines."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = Tokenizer.train(
        path / "text.txt",
        vocab_size=400, algorithm="wordpiece", lowercase=True, show_progress=False,
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    config = bert_config(
        vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        max_position_embeddings=max_length,
    )  # fmt: skip
    torch.manual_seed(0)
    minitransformer.BertModel(config).save_pretrained(path)


def roles_of(tokenizer: Tokenizer, family: str) -> dict[str, int | None]:
    """The ids of the special tokens, which differ from those of published tokenizers."""
    if family in ENCODERS:
        return {"pad_token_id": tokenizer.pad_token_id}
    end = tokenizer.eos_token_id
    if family == "GPT2":  # its tokenizer has no padding token
        return {"bos_token_id": end, "eos_token_id": end}
    padding = tokenizer.pad_token_id
    start = end if family == "Bart" else padding
    return {"eos_token_id": end, "pad_token_id": padding, "decoder_start_token_id": start}


def tokenizer_of(family: str, path: Path) -> Tokenizer:
    """A tokenizer of a family's kind, trained on `TEXT`; it writes files to `path`."""
    (path / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    train = functools.partial(Tokenizer.train, path / "text.txt", show_progress=False)
    if family in ("Bert", "DistilBert"):
        tokenizer = train(vocab_size=330, algorithm="wordpiece", lowercase=True)
        tokenizer.token_types = family == "Bert"
        return tokenizer
    if family == "T5":  # pieces that carry the space before a word, with `</s>` after a text
        from minitransformer.tokenization.pipelines import library

        backend = train(vocab_size=60, algorithm="unigram").backend
        end = ("</s>", backend.token_to_id("</s>"))
        backend.post_processor = library().processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end]
        )
        roles = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        return Tokenizer(backend, roles)
    tokenizer = train(vocab_size=330)  # byte-level, with `<s>` before a text and `</s>` after it
    if family != "GPT2":
        return tokenizer
    # GPT-2's tokenizer has one special token, and adds it to no text.
    model = json.loads(tokenizer.backend.to_str())["model"]
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    pieces = [piece for piece in model["vocab"] if piece not in special] + ["<|endoftext|>"]
    merges = ["#version: 0.2", *(" ".join(merged) for merged in model["merges"])]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (path / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return Tokenizer.from_pretrained(path)


def write_marian_files(path: Path, codes: tuple[str, ...]) -> None:
    """Write vocab.json and two SentencePiece models, which are equal here."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="Marian's tokenizer needs it")
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 3), model_writer=trained, vocab_size=60,
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size())]
    vocabulary = {p: n for n, p in enumerate(["</s>", "<unk>", *pieces, *codes, "<pad>"])}
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    for name in ("source.spm", "target.spm"):
        (path / name).write_bytes(trained.getvalue())
    config = {"source_lang": "en", "target_lang": "it", "tokenizer_class": "MarianTokenizer"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def real_data(name: str) -> Path:
    """A file or folder in `REAL_DATA`; the test is skipped without it."""
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder MINITRANSFORMER_TEST_DATA")
    return path


def real_tokenizer(name: str) -> Tokenizer:
    """A published tokenizer; the test is skipped without its files."""
    return Tokenizer.from_pretrained(real_data(f"tokenizers/{name}"))


def their_pipeline(task: str, path: Path, **settings: Any) -> Any:
    """transformers' pipeline; the test is skipped without transformers."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    return transformers.pipeline(task, str(path), **settings)


def their_texts(path: Path, texts: list[str], **fields: Any) -> list[list[str]]:
    """The results of transformers' `generate` and `decode` for each text alone."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    answers = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        sequences = model.generate(**inputs, **fields)
        answers.append([tokenizer.decode(ids, skip_special_tokens=True) for ids in sequences])
    return answers


def same(ours: object, theirs: object) -> None:
    """Assert equal structures and strings, and equal numbers up to rounding."""
    if isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            same(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs


# --- Training


JOB_TOKENIZER: Any = SimpleNamespace(
    pad_token_id=1, mask_token_id=4, vocab_size=99, special_ids=frozenset(range(5))
)


def job_sequences(count: int = 21, seed: int = 3) -> Any:
    """`TokenSequences` of 4 to 12 random tokens between 0 and 2."""
    from train.text import TokenSequences

    random = np.random.default_rng(seed)
    lengths = random.integers(4, 13, count)
    ids = np.concatenate([[0, *random.integers(5, 99, n - 2), 2] for n in lengths])
    bounds = np.concatenate([[0], lengths.cumsum()])
    return TokenSequences(ids.astype(np.int32), random.random(len(ids)) < 0.7, bounds)


def job_model(
    dropout: float = 0.1, attention: str = "sdpa", plain: bool = False
) -> RobertaForMaskedLM:
    """A one-layer RoBERTa with dropout, initialized from a fixed seed."""
    torch.manual_seed(7)
    config = roberta_config(
        num_hidden_layers=1, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    model = RobertaForMaskedLM(config, attention=attention)
    return model if plain else optimize(model)


def digest(model: nn.Module) -> str:
    """The sha256 of all weights."""
    result = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        result.update(name.encode() + tensor.numpy().tobytes())
    return result.hexdigest()


def watch_figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that collects every figure that a job draws."""
    from train import metrics

    figures: list[Any] = []
    empty = metrics.new_figure

    def new_figure(*arguments: Any, **keywords: Any) -> Any:
        figures.append(empty(*arguments, **keywords))
        return figures[-1]

    monkeypatch.setattr(metrics, "new_figure", new_figure)
    return figures
