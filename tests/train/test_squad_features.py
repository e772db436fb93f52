"""Windows and labels: no answer is lost, each span is the smallest that covers its answer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitransformer import Tokenizer
from tests.tiny import REAL_DATA
from train.squad import Answer, Example, read_squad
from train.squad_features import FeatureCounts, answer_tokens, make_features, span_text

SQUAD = REAL_DATA / "squad"
BERT_VOCABULARY = REAL_DATA / "tokenizers" / "bert-base-uncased"
WIKITEXT = REAL_DATA / "english" / "wikitext-2-raw.valid.txt"
TEXT = "oxygen is a gas found by priestley in 1774 and by scheele in 1771s , she says ."
LENGTHS = {"max_length": 16, "stride": 4, "max_question_length": 4, "show_progress": False}


def train_tokenizer(directory, algorithm: str) -> Tokenizer:
    path = directory / "text.txt"
    path.write_text("\n".join([TEXT] * 3), encoding="utf-8")
    return Tokenizer.train(path, vocab_size=330, algorithm=algorithm, show_progress=False)


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return train_tokenizer(tmp_path_factory.mktemp("features"), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(tmp_path_factory.mktemp("features"), "wordpiece")


def example(context, text=None, start=None, name="q1", asked="when ?", **more) -> Example:
    answers = () if text is None else (Answer(text, context.index(text, start)),)
    return Example(name, asked, context, answers, **more)


def check_spans(features, examples) -> tuple[int, int]:
    """Every labelled span covers its answer, and would not without its first or last token.

    Returns:
        The numbers of spans that are their answer to the letter, and of those that are wider.
    """
    exact = wider = 0
    for window, (first, last) in enumerate(
        zip(features.start_positions.tolist(), features.end_positions.tolist(), strict=True)
    ):
        if first == last == 0:
            continue
        asked = examples[features.example_index[window]]
        answer = asked.answers[0]
        start, end = features.span(window, first, last)
        assert start <= answer.start and answer.end <= end
        assert answer.text in span_text(features, window, first, last, asked.context)
        offsets = features.offsets[features.tokens(window)]
        assert offsets[first, 1] > answer.start and offsets[last, 0] < answer.end
        if offsets[first, 1] <= offsets[min(first + 1, last), 0]:  # no character in two tokens
            assert features.span(window, first + 1, last)[0] > answer.start
        if offsets[max(first, last - 1), 1] <= offsets[last, 0]:
            assert features.span(window, first, last - 1)[1] < answer.end
        exact += asked.context[start:end] == answer.text
        wider += asked.context[start:end] != answer.text
    return exact, wider


def test_one_window(bert):
    examples = [example("gas is found in 1774 .", "in 1774")]
    features = make_features(examples, bert, **LENGTHS)
    tokens = [bert.id_to_token(int(i)) for i in features.input_ids]
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert tokens[features.context_start[0] - 1] == "[SEP]"
    assert features.bounds.tolist() == [0, len(tokens)] and features.lengths.tolist() == [11]
    expected = bert("when ?", examples[0].context)
    assert features.input_ids.tolist() == expected["input_ids"]
    assert features.token_type_ids.tolist() == expected["token_type_ids"]
    first, last = int(features.start_positions[0]), int(features.end_positions[0])
    assert tokens[first : last + 1] == ["in", "1774"]
    assert span_text(features, 0, first, last, examples[0].context) == "in 1774"
    assert features.context_end[0] == len(tokens) - 1
    assert features.counts == FeatureCounts(examples=1, windows=1)
    assert features.trainable.tolist() == [True]


def test_arrays_are_small(tokenizer):
    features = make_features([example(TEXT, "gas")], tokenizer, **LENGTHS)
    assert features.input_ids.dtype == features.offsets.dtype == np.int32
    if tokenizer.token_types:
        assert features.token_type_ids.dtype == np.uint8
    else:
        assert features.token_type_ids is None
    assert len(features.offsets) == len(features.input_ids) == features.bounds[-1]


def test_only_tokens_of_the_context_have_offsets(tokenizer):
    features = make_features([example("gas", "gas", asked="gas gas")], tokenizer, **LENGTHS)
    start, end = int(features.context_start[0]), int(features.context_end[0])
    assert (features.offsets[:start] == 0).all() and (features.offsets[end:] == 0).all()
    assert features.offsets[start:end].tolist() == [[0, 3]]
    assert (features.start_positions[0], features.end_positions[0]) == (start, start)


def test_windows_without_the_whole_answer_are_labelled_no_answer(bert):
    # 10 tokens of context a window, of which 4 are repeated: windows begin at 0, 6 and 12.
    context = "oxygen gas found by in 1774 and by scheele in 1771s she says is a by gas gas"
    assert len(bert(context, add_special_tokens=False)["input_ids"]) == 18
    holds = {"oxygen": [0], "scheele": [0, 1], "by scheele in": [0, 1], "scheele in 1771s": [1]}
    for answer, windows in holds.items():
        features = make_features([example(context, answer, asked="gas is in")], bert, **LENGTHS)
        assert len(features) == 3
        assert np.flatnonzero(features.start_positions).tolist() == windows
        assert np.flatnonzero(features.end_positions).tolist() == windows
        assert features.counts.without_answer == 3 - len(windows)
        assert features.trainable.all()
        check_spans(features, [example(context, answer)])


def test_an_answer_that_no_window_holds_is_lost_and_not_trained_on(bert):
    words = TEXT.split()
    lost, kept = example(TEXT, " ".join(words[1:17])), example(TEXT, "oxygen", name="q2")
    features = make_features([lost, kept], bert, **LENGTHS)
    assert features.counts.lost_answers == 1
    assert features.counts.without_answer == len(features) - 1
    assert features.trainable.tolist() == (features.example_index == 1).tolist()
    assert not features.start_positions[features.example_index == 0].any()


def test_an_answer_that_the_tokenizer_drops_is_lost(bert):
    context = "gas \u200d is"  # a zero-width joiner, which BERT's normalizer takes away
    features = make_features([example(context, "\u200d")], bert, **LENGTHS)
    assert features.counts.lost_answers == 1 and not features.trainable.any()


def test_impossible_and_unlocated_questions(bert):
    examples = [example(TEXT), example(TEXT, name="q2", dropped_answers=("argon",))]
    features = make_features(examples, bert, **LENGTHS)
    assert not features.start_positions.any() and not features.end_positions.any()
    assert features.trainable.tolist() == (features.example_index == 0).tolist()
    assert (features.counts.unlocated, features.counts.lost_answers) == (1, 0)
    assert features.counts.without_answer == features.counts.windows == len(features)


def test_the_first_answer_is_the_label(bert):
    asked = replace(example(TEXT), answers=(Answer("gas", 12), Answer("oxygen", 0)))
    features = make_features([asked], bert, **LENGTHS)
    assert features.span(0, int(features.start_positions[0]), int(features.end_positions[0])) == (
        12, 15,
    )  # fmt: skip


def test_an_answer_inside_a_token_takes_the_token(bert):
    context = "in 1771s , she says"
    asked = example(context, "1771")
    assert "1771s" in [bert.id_to_token(i) for i in bert(context)["input_ids"]]
    features = make_features([asked], bert, **LENGTHS)
    first, last = int(features.start_positions[0]), int(features.end_positions[0])
    assert first == last
    assert span_text(features, 0, first, last, context) == "1771s"
    assert check_spans(features, [asked]) == (0, 1)


def test_a_character_of_several_tokens(tmp_path):
    tokenizer = train_tokenizer(tmp_path, "bpe")
    context = "a 東 gas"
    features = make_features([example(context, "東")], tokenizer, **LENGTHS)
    first, last = int(features.start_positions[0]), int(features.end_positions[0])
    assert last - first == 2  # three bytes
    assert span_text(features, 0, first, last, context) == "東"


def test_tokens_without_characters_belong_to_no_answer():
    offsets = np.array([[0, 2], [2, 2], [2, 4], [4, 4], [4, 5]])
    assert answer_tokens(offsets, Answer("cd", 2)) == (2, 2)
    assert answer_tokens(offsets, Answer("bcde", 1)) == (0, 4)
    assert answer_tokens(offsets, Answer("x", 7)) is None


WORDS = ["gas", "1774", "1771s", "é", "東京", "🏔", "\u200d", ",", "xyzzy", "she", "Å", "[SEP]"]


@st.composite
def questions_with_an_answer(draw) -> Example:
    words = draw(st.lists(st.sampled_from(WORDS), max_size=30))
    context = draw(st.sampled_from([" ", "", "  "])).join(["gas", *words])
    start = draw(st.integers(0, len(context) - 1))
    text = context[start : start + draw(st.integers(1, 15))]
    if not text.strip():
        return Example("q", "she", context, (Answer("gas", 0),))
    answer = Answer(text.strip(), start + len(text) - len(text.lstrip()))
    return Example("q", "she", context, (answer,))


@given(questions_with_an_answer(), st.integers(0, 6), st.integers(15, 30))
def test_labels_are_those_of_a_search(tokenizer, asked, stride, max_length):
    lengths = {"max_length": max_length, "stride": stride, "max_question_length": 4}
    features = make_features([asked], tokenizer, **lengths, show_progress=False)
    answer = set(range(asked.answers[0].start, asked.answers[0].end))
    whole = tokenizer([asked.context], add_special_tokens=False).offsets(0)
    answer_tokens = [token for token, span in enumerate(whole) if answer & set(range(*span))]
    begin, holding = 0, 0
    for window in range(len(features)):
        first, last = int(features.context_start[window]), int(features.context_end[window])
        tokens = range(begin, begin + last - first)
        offsets = features.offsets[features.tokens(window)][first:last]
        assert list(map(tuple, offsets.tolist())) == [whole[token] for token in tokens]
        label = (int(features.start_positions[window]), int(features.end_positions[window]))
        if answer_tokens and set(answer_tokens) <= set(tokens):
            assert label == (answer_tokens[0] - begin + first, answer_tokens[-1] - begin + first)
            holding += 1
        else:
            assert label == (0, 0)
        assert features.lengths[window] <= max_length
        begin += len(tokens) - stride
    assert begin + stride == len(whole)
    assert features.counts.without_answer == len(features) - holding
    assert features.counts.lost_answers == (holding == 0)
    assert features.trainable.all() == features.trainable.any() == (holding > 0)
    assert holding > 0 or not 0 < len(answer_tokens) <= stride + 1


def test_a_long_question_is_cut_and_counted(tokenizer):
    examples = [
        example(TEXT, "gas", asked="gas in 1774"),
        example(TEXT, "gas", name="q2", asked="gas is in she by 1774 found"),
    ]
    features = make_features(examples, tokenizer, **{**LENGTHS, "max_question_length": 3})
    assert features.counts.truncated_questions == 1
    second = int(np.flatnonzero(features.example_index == 1)[0])
    ids = features.input_ids[features.tokens(second)].tolist()
    assert ids[1:4] == tokenizer("gas is in", add_special_tokens=False)["input_ids"]
    assert ids[4] == tokenizer.sep_token_id
    check_spans(features, examples)


@given(st.text("gas177é東🏔 ", min_size=1, max_size=30).filter(str.strip), st.integers(1, 5))
def test_no_question_is_longer_than_allowed(tokenizer, asked, limit):
    features = make_features(
        [example(TEXT, "gas", asked=asked)], tokenizer, **{**LENGTHS, "max_question_length": limit}
    )
    whole = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert features.counts.truncated_questions == (len(whole) > limit)
    used = int(features.context_start[0]) - len(tokenizer([""], [""])["input_ids"][0]) + 1
    assert used <= limit
    if len(whole) <= limit:
        assert used == len(whole)


def test_white_space_of_a_token_is_not_text_of_the_span(bert):
    asked = example("gas in 1774 .", "1774")
    features = make_features([asked], bert, **LENGTHS)
    first = int(features.start_positions[0])
    wide = features.offsets.copy()
    wide[first] += (-1, 1)  # as from a tokenizer whose tokens begin with a space
    features = replace(features, offsets=wide)
    assert features.span(0, first, first) == (6, 12)
    assert span_text(features, 0, first, first, asked.context) == "1774"


def test_many_examples_are_as_each_alone(tokenizer, monkeypatch):
    monkeypatch.setattr("train.squad_features._EXAMPLES_AT_ONCE", 3)
    contexts = [TEXT, "gas", f"{TEXT} {TEXT}", "gas , gas", TEXT, "1774", TEXT]
    examples = [example(c, c.split()[-1], name=str(n)) for n, c in enumerate(contexts)]
    together = make_features(examples, tokenizer, **LENGTHS)
    window = 0
    for number, alone in enumerate(examples):
        single = make_features([alone], tokenizer, **LENGTHS)
        here = slice(window, window + len(single))
        tokens = slice(int(together.bounds[window]), int(together.bounds[window + len(single)]))
        assert (together.input_ids[tokens] == single.input_ids).all()
        assert (together.offsets[tokens] == single.offsets).all()
        assert (together.start_positions[here] == single.start_positions).all()
        assert (together.end_positions[here] == single.end_positions).all()
        assert (together.example_index[here] == number).all()
        window += len(single)
    assert window == len(together) == together.counts.windows
    assert together.counts.examples == len(examples)


def test_another_label_changes_the_checksum(bert):
    first, same, other = (
        make_features([example(TEXT, answer)], bert, **LENGTHS) for answer in ("in", "in", "gas")
    )
    longer = make_features([example(TEXT, "in 1774")], bert, **LENGTHS)
    assert first.checksum() == same.checksum()
    assert len({features.checksum() for features in (first, other, longer)}) == 3


def test_a_span_outside_the_context_is_refused(bert):
    features = make_features([example("gas is", "gas")], bert, **LENGTHS)
    start, end = int(features.context_start[0]), int(features.context_end[0])
    for wrong in [(0, 0), (1, start), (start, end), (start + 1, start)]:
        message = f"tokens {wrong[0]} to {wrong[1]} of window 0 are not"
        with pytest.raises(ValueError, match=message):
            features.span(0, *wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 11}, "max_length=11, minus 3 special .* leaves 4 tokens .*; stride=4 must"),
        ({"stride": -1}, "stride=-1 must be at least 0"),
        ({"max_question_length": 0}, "max_question_length=0 must be at least 1"),
    ],
)
def test_lengths_without_room_are_refused(bert, change, message):
    with pytest.raises(ValueError, match=message):
        make_features([example(TEXT)], bert, **LENGTHS | change)


def test_the_smallest_room_is_enough(bert):
    features = make_features([example(TEXT, "in")], bert, **LENGTHS | {"max_length": 12})
    assert features.lengths.max() == 12 or features.counts.truncated_questions == 0
    assert features.counts.lost_answers == 0


def test_what_cannot_become_features_is_named(bert, tmp_path):
    with pytest.raises(ValueError, match="no examples"):
        make_features([], bert)
    with pytest.raises(ValueError, match="the context of question 'odd' has no token"):
        make_features([example("\u200d", name="odd")], bert, **LENGTHS)
    bare = train_tokenizer(tmp_path, "bpe")
    bare.backend.post_processor = None
    with pytest.raises(ValueError, match="begins a sequence with 'a', not with a cls token"):
        make_features([example(TEXT)], bare, **LENGTHS)


needs_squad = pytest.mark.skipif(
    not all(path.exists() for path in (SQUAD, BERT_VOCABULARY, WIKITEXT)),
    reason=f"needs the files of {REAL_DATA}",
)


# The last number is of answers that begin or end inside a token, such as "15" in "2015".
@pytest.mark.slow
@needs_squad
@pytest.mark.parametrize(
    ("name", "windows", "exact", "wider"),
    [
        ("train-v1.1-subset", 3949, 3922, 17),
        ("dev-v2.0", 12_134, 5932, 20),
    ],
)
def test_every_span_of_the_real_files_is_its_answer(name, windows, exact, wider):
    examples = read_squad(SQUAD / f"{name}.json").examples
    features = make_features(
        examples, Tokenizer.from_pretrained(BERT_VOCABULARY), show_progress=False
    )
    counts = features.counts
    assert (counts.lost_answers, counts.truncated_questions, counts.unlocated) == (0, 0, 0)
    assert features.trainable.all() and features.lengths.max() == 384
    assert check_spans(features, examples) == (exact, wider)
    assert (len(features), counts.without_answer) == (windows, windows - exact - wider)
    answered = set(features.example_index[features.start_positions > 0].tolist())
    assert answered == {n for n, asked in enumerate(examples) if asked.answers}
    assert set(features.example_index.tolist()) == set(range(len(examples)))


@needs_squad
@pytest.mark.slow
def test_every_span_of_a_real_file_is_its_answer_with_bytes():
    examples = read_squad(SQUAD / "train-v1.1-subset.json").examples
    tokenizer = Tokenizer.train(WIKITEXT, vocab_size=5000, show_progress=False)
    features = make_features(examples, tokenizer, show_progress=False)
    assert features.counts.lost_answers == 0
    assert check_spans(features, examples) == (3954, 15)
    assert features.counts.without_answer == len(features) - 3954 - 15
