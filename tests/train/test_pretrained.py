"""What the jobs that start from a checkpoint have in common."""

import warnings
from types import SimpleNamespace

import pytest

from train.pretrained import fit_lengths, warnings_as_notes


def model_that_takes(tokens):
    return SimpleNamespace(config=SimpleNamespace(max_sequence_length=tokens))


@pytest.mark.parametrize(
    ("given", "takes", "length"),
    [(None, 512, 128), (None, 48, 48), (None, None, 128), (48, 48, 48), (600, None, 600)],
)
def test_a_length_that_was_not_given_is_one_that_the_model_takes(given, takes, length):
    arguments = SimpleNamespace(max_length=given)
    fit_lengths(arguments, model_that_takes(takes), usual=128)
    assert arguments.max_length == length


@pytest.mark.parametrize("option", ["max_length", "max_target_length"])
def test_a_length_that_was_given_is_not_changed(option):
    arguments = SimpleNamespace(**{"max_length": 32, option: 128})
    message = f"^--{option.replace('_', '-')} 128: the model takes at most 48 tokens"
    with pytest.raises(ValueError, match=message):
        fit_lengths(arguments, model_that_takes(48), usual=128)


def test_warnings_are_printed_as_one_line_each(capsys):
    with warnings.catch_warnings(), warnings_as_notes():
        warnings.simplefilter("always")
        warnings.warn("the head is new", stacklevel=1)
    assert capsys.readouterr() == ("note: the head is new\n", "")
