"""Text classification: the class of a text, or of a pair of texts.

B batch, C classes.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from minitransformer.models.base import SequenceClassifier
from minitransformer.tasks.base import Task, as_texts, check_count


class TextClassification(Task):
    """Callable that classifies texts, as transformers' pipeline does.

    The classes are those of `id2label` in the config. The meaning of a score depends on
    `problem_type` there: with single_label_classification, the scores are probabilities that sum to
    1 over the classes; with multi_label_classification, each class has a probability of its own;
    with regression, the score is the number itself. If `problem_type` is unset, several classes
    mean single_label_classification, and a single class gets a probability, as in transformers. If
    such a model was trained to predict a number, set the problem type::

        model = BertForSequenceClassification.from_pretrained(path, problem_type="regression")
        rate = TextClassification(model, Tokenizer.from_pretrained(path))

    Args:
        model: a model for sequence classification.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch.

    Raises:
        ValueError: the model does not classify texts, or the tokenizer has more tokens than the
            model has embeddings.
    """

    name = "text-classification"
    model_class = SequenceClassifier
    example = "BertForSequenceClassification"
    model: SequenceClassifier

    def __call__(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        *,
        top_k: int | None = 1,
    ) -> Any:
        """Classify every text.

        Args:
            texts: one or several.
            text_pairs: for models of text pairs, the second text of each, in the same form.
            top_k: how many classes to return for each text; None for all.

        Returns:
            For one text with `top_k` 1: a dict with `label` and `score`. With another `top_k`: a
            list of such dicts, best first. For several texts: a list with the result of each.

        Warns:
            UserWarning: texts exceeded the model's maximum length and were truncated; of a pair,
                the longer text.

        Raises:
            TypeError: a text is not a string.
            ValueError: a text is empty, `texts` and `text_pairs` do not match, or `top_k` is below
                1.
        """
        if top_k is not None:
            check_count("top_k", top_k)
        first, second = _texts_and_pairs(texts, text_pairs)
        scores = self._run(self._encode(first, second), self._scores)
        answers = [self._ranked(one, top_k) for one in scores]
        return answers[0] if isinstance(texts, str) else answers

    def _scores(self, inputs: dict[str, Tensor]) -> list[list[float]]:
        """The scores of B sequences for C classes each."""
        logits = self._finite(self.model(**inputs).logits)  # (B, C)
        config = self.model.config
        if config.problem_type == "regression":
            scores = logits
        elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
            scores = logits.sigmoid()
        else:
            scores = logits.softmax(dim=-1)
        return scores.tolist()

    def _ranked(self, scores: list[float], top_k: int | None) -> Any:
        names = self.model.config.id2label
        best = sorted(enumerate(scores), key=lambda scored: scored[1], reverse=True)
        answers = [{"label": names[number], "score": score} for number, score in best]
        return answers[0] if top_k == 1 else answers[:top_k]


def _texts_and_pairs(
    texts: str | Sequence[str], text_pairs: str | Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    # transformers takes pairs as dicts, lists or tuples.
    text_list = texts if isinstance(texts, list | tuple) else [texts]
    if any(isinstance(text, dict | list | tuple) for text in text_list):
        raise TypeError(
            "texts must be a str or a list of str; pass the second text of a pair as text_pairs"
        )
    first = as_texts("texts", texts)
    if text_pairs is None:
        return first, None
    second = as_texts("text_pairs", text_pairs)
    if len(first) != len(second) or isinstance(texts, str) != isinstance(text_pairs, str):
        raise ValueError(
            f"there are {len(first)} texts ({type(texts).__name__}) and {len(second)} text_pairs "
            f"({type(text_pairs).__name__}): both must be one str, or lists of the same length"
        )
    return first, second
