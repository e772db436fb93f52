"""The fields of an output by name and by position, as in transformers."""

import pickle

import pytest
import torch

from tests.tiny import BART, CLASSES, build, their_model


@pytest.mark.parametrize("name", CLASSES)
def test_fields_have_the_places_that_they_have_in_transformers(name):
    ids = torch.tensor([[5, 6, 7, 8, 2]])  # ends with BART's end token
    inputs = {"input_ids": ids, "output_hidden_states": True, "output_attentions": True}
    if name.startswith(("Bart", "Marian", "T5")) and "Sequence" not in name:
        inputs["decoder_input_ids"] = ids
    if name.endswith("QuestionAnswering"):
        inputs |= {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([2])}
    elif name.endswith("SequenceClassification"):
        inputs["labels"] = torch.tensor([1])
    elif not name.endswith("Model") or name == "GPT2LMHeadModel":
        inputs["labels"] = torch.ones_like(ids)
    ours = build(name)(**inputs)
    theirs = their_model(name)(**inputs)
    # A cache is an argument here, and an encoder has no empty tuple of cross-attentions.
    has = [key for key in theirs if isinstance(theirs[key], torch.Tensor) or theirs[key]]
    expected = [key for key in has if key != "past_key_values"]
    assert ours.keys() == list(ours) == expected
    assert len(ours) == len(ours.to_tuple()) == len(expected)
    for place, (key, value) in enumerate(ours.items()):
        assert ours[place] is ours[key] is getattr(ours, key) is value
    assert dict(ours) == dict(ours.items())


def test_a_loss_has_a_place_if_there_are_labels():
    model, ids = build("RobertaForMaskedLM"), torch.tensor([[5, 6, 7]])
    loss, logits = (output := model(ids, labels=ids))[:2]
    assert loss is output.loss
    assert logits is output.logits
    assert output["num_supervised_tokens"] == 3  # by name alone: transformers has no such field
    assert "num_supervised_tokens" in output
    assert "num_supervised_tokens" not in output.keys()  # noqa: SIM118
    assert "hidden_states" not in output
    (logits,) = model(ids).to_tuple()
    assert logits.shape == (1, 3, 99)
    assert pickle.loads(pickle.dumps(model(ids))).keys() == ["logits"]


def test_what_an_output_lacks_is_an_error_that_names_what_it_has():
    output = build(BART)(torch.tensor([[5, 6]]), decoder_input_ids=torch.tensor([[5]]))
    there = "it has 0 'logits', 1 'encoder_last_hidden_state'"
    for key, kind in (("logit", KeyError), ("loss", KeyError), (2, IndexError), (-3, IndexError)):
        with pytest.raises(kind, match=f"a Seq2SeqLMOutput has no {key!r}; {there}"):
            output[key]
    with pytest.raises(AttributeError, match="has no 'past_key_values', only .*logits, loss"):
        _ = output.past_key_values
    assert not hasattr(output, "past_key_values")
