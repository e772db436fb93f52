"""Answers from contexts of any length, against a search over transformers' logits by hand.

The search for the best spans, against one that tries every pair of tokens in plain Python.
"""

import json
import math

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer import (
    BertForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
    Tokenizer,
    cli,
    pipeline,
)
from minitransformer.tasks.question_answering import (
    Prediction,
    QuestionAnswering,
    Span,
    Window,
    best_spans,
    join_windows,
    may_be_answer,
)
from tests.tiny import bert_config, perturb, save_tiny_bert

WORDS = "the river runs past a mill and two old houses before it meets the sea at Pisa"
LONG = " ".join([WORDS, "nobody swims here", WORDS, "the mill is closed"] * 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("answers")
    save_tiny_bert(path, [LONG, "where does the river end ? who swims ?"] * 2, max_length=40)
    with pytest.warns(UserWarning, match="qa_outputs: newly initialized"):
        model = BertForQuestionAnswering.from_pretrained(path)
    perturb(model).save_pretrained(path)
    return path


def by_hand(path, question, context, longest=30):
    """Every span of every window, by transformers' model and three loops; and the null score."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    model = transformers.BertForQuestionAnswering.from_pretrained(path).eval()
    tokenizer = Tokenizer.from_pretrained(path)
    batch = tokenizer(
        [question],
        [context],
        truncation="only_second",
        max_length=40,
        stride=5,
        return_overflowing_tokens=True,
    )
    spans: dict[tuple[int, int], float] = {}
    nulls, everything = [], []
    for row, (ids, types) in enumerate(
        zip(batch["input_ids"], batch["token_type_ids"], strict=True)
    ):
        with torch.inference_mode():
            output = model(torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        nulls.append(start[0] + end[0])
        places = [i for i, owner in enumerate(batch.sequence_ids(row)) if owner == 1]
        for i in places:
            for j in places:
                if i <= j < i + longest:
                    key = (batch.offsets(row)[i][0], batch.offsets(row)[j][1])
                    spans[key] = max(spans.get(key, -math.inf), start[i] + end[j])
                    everything.append(start[i] + end[j])
    ranked = sorted(spans.items(), key=lambda item: -item[1])
    return ranked, min(nulls), sum(map(math.exp, everything))


@pytest.mark.parametrize("context", [WORDS, LONG])
def test_the_best_answers_are_those_of_a_search_by_hand(checkpoint, context, monkeypatch):
    # The stride follows from the space that the question leaves; the search by hand uses 5.
    monkeypatch.setattr("minitransformer.tasks.question_answering._STRIDE", 5)
    question = "where does the river end?"
    answers = pipeline("question-answering", checkpoint)(
        question, context, top_k=7, max_answer_tokens=4
    )
    ranked, _, total = by_hand(checkpoint, question, context, longest=4)
    assert len(answers) == 7
    for answer, ((start, end), score) in zip(answers, ranked, strict=False):
        assert (answer["start"], answer["end"]) == (start, end)
        assert answer["answer"] == context[start:end]
        assert answer["score"] == pytest.approx(math.exp(score) / total, rel=1e-4)


def test_no_answer_is_one_where_it_may_be(checkpoint, monkeypatch):
    monkeypatch.setattr("minitransformer.tasks.question_answering._STRIDE", 5)
    answer = pipeline("question-answering", checkpoint)
    question = "who swims?"
    ranked, null, total = by_hand(checkpoint, question, LONG)
    difference = null - ranked[0][1]
    below = answer(question, LONG, may_have_no_answer=True, threshold=difference - 0.01)
    assert below["answer"] == ""
    assert (below["start"], below["end"]) == (0, 0)
    assert below["score"] == pytest.approx(math.exp(null) / (total + math.exp(null)), rel=1e-4)
    above = answer(question, LONG, may_have_no_answer=True, threshold=difference + 0.01)
    assert (above["start"], above["end"]) == ranked[0][0]
    several = answer(question, WORDS, may_have_no_answer=True, threshold=math.inf, top_k=500)
    assert [a["answer"] for a in several].count("") == 1
    assert sum(a["score"] for a in several) == pytest.approx(1.0, abs=1e-4)


def test_several_questions_give_what_each_alone_gives(checkpoint):
    answer = pipeline("question-answering", checkpoint)
    answer.batch_size = 3
    questions = ["where does the river end?", "who swims?", "what is closed?"]
    contexts = [LONG, WORDS, LONG + " and that was all"]
    alone = [answer(q, c) for q, c in zip(questions, contexts, strict=True)]
    for one, together in zip(alone, answer(questions, contexts), strict=True):
        assert together.pop("score") == pytest.approx(one.pop("score"), rel=1e-4)
        assert together == one
    shared = answer(questions, WORDS)
    assert len(shared) == 3
    assert all(a["answer"] == WORDS[a["start"] : a["end"]] for a in shared)


def test_a_long_question_changes_no_other_answer(checkpoint):
    """It leaves less space for its own windows, not for those of the others."""
    answer = pipeline("question-answering", checkpoint)
    alone = answer("who swims?", LONG, top_k=20)
    long = "where does the river end and who swims in it ? where does the river end ?"
    together = answer([long, "who swims?", long], LONG, top_k=20)[1]
    assert [a["score"] for a in together] == pytest.approx([a["score"] for a in alone], rel=1e-4)
    assert [(a["start"], a["end"]) for a in together] == [(a["start"], a["end"]) for a in alone]


def test_a_window_has_at_most_384_tokens(checkpoint):
    """Although this model takes more."""
    tokenizer = Tokenizer.from_pretrained(checkpoint)
    tokenizer.model_max_length = None
    config = bert_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=400)
    model = BertForQuestionAnswering(config)
    lengths = []
    model.backbone.register_forward_hook(
        lambda _module, _inputs, output: lengths.append(output.last_hidden_state.shape[1])
    )
    QuestionAnswering(model, tokenizer)("who swims?", LONG * 10)
    assert max(lengths) == 384


def test_no_answer_is_or_begins_with_white_space(tmp_path):
    """A byte-level vocabulary has tokens for it, and includes a space in most words."""
    text = "the  weather   was fine .   anna went to rome .\n\n"
    (tmp_path / "text.txt").write_text(text * 9)
    tokenizer = Tokenizer.train(tmp_path / "text.txt", vocab_size=280, show_progress=False)
    model = RobertaForQuestionAnswering(
        RobertaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=100,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    answers = QuestionAnswering(perturb(model), tokenizer)("who went?", text, top_k=5000)
    assert len(answers) > 100
    assert all(a["answer"] == a["answer"].strip() != "" for a in answers)
    assert all(a["answer"] == text[a["start"] : a["end"]] for a in answers)
    settings = tokenizer.backend.to_str()
    assert '"trim_offsets":true' in settings
    settings = settings.replace('"trim_offsets":true', '"trim_offsets":false')
    untrimmed = Tokenizer(tokenizers.Tokenizer.from_str(settings), tokenizer.special_tokens)
    assert text[slice(*untrimmed([text]).offsets(0)[3])] == " we"
    assert QuestionAnswering(model, untrimmed)("who went?", text, top_k=5000) == answers


def test_no_answer_is_ranked_by_its_score(checkpoint):
    answer = pipeline("question-answering", checkpoint)
    ranked = answer("who swims?", WORDS, may_have_no_answer=True, threshold=math.inf, top_k=500)
    scores = [a["score"] for a in ranked]
    assert scores[1:] == sorted(scores[1:], reverse=True)
    place = [a["answer"] for a in ranked].index("")
    assert place >= 1
    below = answer(
        "who swims?", WORDS, may_have_no_answer=True, threshold=np.float32(-math.inf), top_k=2
    )
    assert below[0]["answer"] == ""


def test_no_answer_never_precedes_an_answer_where_the_threshold_forbids_it(checkpoint):
    """Even if its score is the highest: it is then the second."""
    model = BertForQuestionAnswering.from_pretrained(checkpoint)
    tokenizer = Tokenizer.from_pretrained(checkpoint)
    batch = tokenizer("who swims?", WORDS, return_tensors="pt")
    with torch.no_grad():
        cls = model.backbone(**batch).last_hidden_state[0, 0]
        model.qa_outputs.weight.copy_(cls)  # [CLS] fits itself best
    answer = QuestionAnswering(model, tokenizer)
    fields = {"may_have_no_answer": True, "top_k": 3}
    first, *_ = answer("who swims?", WORDS, threshold=-math.inf, **fields)
    ranked = answer("who swims?", WORDS, threshold=math.inf, **fields)
    assert first["answer"] == "" and first["score"] > ranked[0]["score"]
    assert [a["answer"] == "" for a in ranked] == [False, True, False]


def test_an_answer_never_comes_from_the_question(checkpoint):
    """Even if the model marks nothing but the question."""
    model = BertForQuestionAnswering.from_pretrained(checkpoint)
    with torch.no_grad():
        model.qa_outputs.weight.zero_()
    answer = QuestionAnswering(model, Tokenizer.from_pretrained(checkpoint))
    found = answer("where does the river end?", "at Pisa", top_k=100)
    assert {a["answer"] for a in found} <= {"at Pisa"[i:j] for i in range(8) for j in range(8)}
    assert all(0 <= a["start"] < a["end"] <= len("at Pisa") for a in found)


@pytest.mark.parametrize(
    ("questions", "contexts", "message"),
    [
        ("", WORDS, r"questions\[0\] is empty"),
        (["who?", "  "], WORDS, r"questions\[1\] is empty"),
        ("who?", "", r"contexts\[0\] is empty"),
        (["who?", "why?"], [WORDS, "\n"], r"contexts\[1\] is empty"),
        (["who?", "why?"], [WORDS], "2 questions and 1 contexts"),
        ([], [], "questions is empty; pass at least one"),
        ("who swims " * 30, WORDS, r"questions\[0\] has 60 tokens, which leaves no room"),
        (["who?", "why?"], [WORDS, "\u200b\u200b"], r"contexts\[1\] has no tokens"),
    ],
)
def test_what_cannot_be_answered_is_a_clear_error(checkpoint, questions, contexts, message):
    with pytest.raises(ValueError, match=message):
        pipeline("question-answering", checkpoint)(questions, contexts)


def test_wrong_kinds_are_named(checkpoint):
    answer = pipeline("question-answering", checkpoint)
    with pytest.raises(TypeError, match=r"questions\[0\] must be a str, not int"):
        answer([3], [WORDS])
    with pytest.raises(ValueError, match="threshold=nan must be a number"):
        answer("who?", WORDS, threshold=math.nan)
    with pytest.raises(ValueError, match="top_k=True"):
        answer("who?", WORDS, top_k=True)
    with pytest.raises(ValueError, match="top_k=0"):
        answer("who?", WORDS, top_k=0)
    with pytest.raises(ValueError, match="max_answer_tokens=-1"):
        answer("who?", WORDS, max_answer_tokens=-1)


def test_another_model_is_refused(tmp_path):
    save_tiny_bert(tmp_path, [LONG])
    with pytest.raises(ValueError, match="question-answering needs .* this is a BertModel"):
        pipeline("question-answering", tmp_path)


def test_the_command_answers(checkpoint, tmp_path, capsys):
    questions = ["--question", "where does the river end?", "--question", "who swims?"]
    assert cli.main(["answer", str(checkpoint), *questions, "--context", WORDS]) == 0
    out = capsys.readouterr().out
    expected = pipeline("question-answering", checkpoint)("who swims?", WORDS)
    assert f"{expected['answer']}  [{expected['start']}:{expected['end']}]" in out
    assert "where does the river end?" in out

    (tmp_path / "context.txt").write_text(LONG, encoding="utf-8")
    found = ["answer", str(checkpoint), *questions[:2], "--context-file"]
    assert cli.main([*found, str(tmp_path / "context.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] in LONG
    assert cli.main([*found, str(tmp_path / "context.txt"), "--threshold", "-1000"]) == 0
    assert "(no answer)  [0:0]" in capsys.readouterr().out
    (tmp_path / "context.txt").write_text(WORDS, encoding="utf-8-sig")
    assert cli.main([*found, str(tmp_path / "context.txt"), "--top-k", "400", "--json"]) == 0
    assert all(a["answer"] in WORDS for a in json.loads(capsys.readouterr().out))
    (tmp_path / "context.txt").write_text("perché", encoding="latin-1")
    assert cli.main([*found, str(tmp_path / "context.txt")]) == 1
    assert "context.txt is not UTF-8" in capsys.readouterr().err
    assert cli.main([*found, str(tmp_path / "nowhere.txt")]) == 1
    assert "nowhere.txt" in capsys.readouterr().err
    assert cli.main(["answer", str(checkpoint), "--question", "", "--context", WORDS]) == 1
    assert "error: questions[0] is empty" in capsys.readouterr().err


# ---- the search for spans ----


def between(firsts, lasts, length):
    positions = torch.arange(length)
    return (positions >= firsts[:, None]) & (positions < lasts[:, None])


def every_span(start, end, first, last, longest):
    """All (score, start, end) of a context, best first."""
    spans = [
        (float(start[i]) + float(end[j]), i, j)
        for i in range(first, last)
        for j in range(i, min(i + longest, last))
    ]
    return sorted(spans, reverse=True)


@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(1, 14), st.integers(1, 9))
def test_the_search_finds_what_trying_every_pair_finds(seed, length, longest, top_k):
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 3, length, generator=generator).double()
    firsts = torch.randint(1, length, (3,), generator=generator)
    lasts = torch.stack(
        [torch.randint(int(f), length, (), generator=generator) + 1 for f in firsts]
    )
    found = best_spans(
        start,
        end,
        allowed=between(firsts, lasts, length),
        cls_positions=torch.zeros(3, dtype=torch.int64),
        max_answer_tokens=longest,
        top_k=top_k,
    )
    for window in range(3):
        expected = every_span(
            start[window], end[window], int(firsts[window]), int(lasts[window]), longest
        )
        total = math.log(sum(math.exp(score) for score, _, _ in expected))
        assert float(found.log_totals[window]) == pytest.approx(total, abs=1e-4)
        assert float(found.null_scores[window]) == pytest.approx(
            float(start[window, 0] + end[window, 0])
        )
        scores = [score for score in found.scores[window].tolist() if score > -math.inf]
        assert len(scores) == min(top_k, len(expected), length * min(longest, length))
        spans = zip(found.starts[window].tolist(), found.ends[window].tolist(), strict=True)
        for score, span, (best, i, j) in zip(scores, spans, expected, strict=False):
            assert score == pytest.approx(best, abs=1e-5)
            assert span == (i, j)


def test_cls_need_not_be_the_first_token():
    start, end = torch.arange(8.0).view(1, 8), torch.zeros(1, 8)
    found = best_spans(
        start,
        end,
        allowed=between(torch.tensor([5]), torch.tensor([7]), 8),
        cls_positions=torch.tensor([2]),
        max_answer_tokens=3,
        top_k=1,
    )
    assert float(found.null_scores[0]) == 2.0
    assert (int(found.starts[0, 0]), int(found.ends[0, 0])) == (6, 6)


@pytest.mark.parametrize("order", [1, -1])
def test_the_windows_of_a_question_are_joined(order):
    """The best of each span, the lowest null score, the sum over all windows."""
    one = Window((Span(3.0, 0, 4), Span(1.0, 5, 9)), 2.0, 3.2)
    other = Window((Span(4.0, 5, 9), Span(0.5, 12, 13)), -1.0, 4.1)
    joined = join_windows([one, other][::order], top_k=2)
    assert joined.spans == (Span(4.0, 5, 9), Span(3.0, 0, 4))
    assert joined.null_score == -1.0
    assert joined.null_difference == -5.0
    assert joined.log_total == pytest.approx(math.log(math.exp(3.2) + math.exp(4.1)))


def test_the_probability_counts_no_answer_only_where_it_is_one():
    prediction = Prediction((Span(1.0, 0, 1),), null_score=2.0, log_total=1.5)
    assert prediction.probability(1.0, with_null=False) == pytest.approx(math.exp(1.0 - 1.5))
    total = math.exp(1.5) + math.exp(2.0)
    assert prediction.probability(1.0, with_null=True) == pytest.approx(math.exp(1.0) / total)
    huge = Prediction((Span(900.0, 0, 1),), null_score=902.0, log_total=901.0)
    assert 0 < huge.probability(900.0, with_null=True) < 1


def test_white_space_and_other_tokens_than_the_context_begin_no_answer():
    offsets = [(0, 0), (0, 3), (0, 2), (2, 3), (3, 3), (3, 5), (0, 0)]
    allowed = may_be_answer("ab cd", offsets, 2, 6)
    assert allowed == [False, False, True, False, False, True, False]
