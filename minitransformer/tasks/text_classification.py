"""Text classification: the class of a text, or of a pair of texts.

B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from minitransformer.models.base import SequenceClassifier
from minitransformer.names import shortened, unexpected_name
from minitransformer.tasks.base import Task, as_texts, check_count, takes_any_inputs

_FUNCTIONS = ("default", "sigmoid", "softmax", "none")
_UNSET: Any = object()
Texts = str | Mapping[str, str] | Sequence[str] | Sequence[Mapping[str, str]]


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

    @takes_any_inputs
    def __call__(
        self,
        texts: Texts,
        text_pairs: str | Sequence[str] | None = None,
        *,
        top_k: int | None = _UNSET,
        return_all_scores: bool = False,
        function_to_apply: str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> list[Any] | dict[str, Any]:
        """Classify every text.

        Args:
            texts: one or several. A pair of texts may be a dict, with `text` and `text_pair`.
            text_pairs: for models of text pairs, the second text of each, in the same form.
            top_k: how many classes to return for each text; None for all. By default the best.
            return_all_scores: the older name of `top_k=None`, which transformers 5 has no more. The
                classes stay in the order of the config.
            function_to_apply: "sigmoid", "softmax" or "none", the logits themselves; the default
                follows from the config, see the class.
            truncation: True truncates long texts without a warning, False makes them an error;
                "only_first" and "only_second" say which text of a pair is truncated.
            max_length: in tokens; by default, and at most, that of the model.

        Returns:
            As in transformers. For several texts: a list with the result of each, which is a dict
            with `label` and `score`, or with `top_k` a list of such dicts, best first. For one text
            a list with this result, except that it is the list itself if this very call gives
            `top_k`. For one dict: its result.

        Warns:
            UserWarning: texts exceeded the maximum length and were truncated; of a pair, the longer
                text.

        Raises:
            TypeError: a text is not a string.
            ValueError: a text is empty or, with `truncation=False`, too long; `texts` and
                `text_pairs` do not match, or another argument is invalid.
        """
        if top_k is not _UNSET and top_k is not None:
            check_count("top_k", top_k)
        if function_to_apply not in (None, *_FUNCTIONS):
            raise ValueError(
                unexpected_name("function_to_apply", str(function_to_apply), _FUNCTIONS)
            )
        first, second = _texts_and_pairs(texts, text_pairs)
        batch = self._encode(first, second, truncation=truncation, max_length=max_length)
        scores = self._run(batch, lambda inputs: self._scores(inputs, function_to_apply))
        answers = [self._answer(one, top_k, return_all_scores) for one in scores]
        of_one = isinstance(texts, Mapping) or (isinstance(texts, str) and "top_k" in self.given)
        return answers[0] if of_one else answers

    def _scores(self, inputs: dict[str, Tensor], function: str | None) -> list[list[float]]:
        """The scores of B sequences for C classes each."""
        logits = self._finite(self.model(**inputs).logits)  # (B, C)
        config = self.model.config
        if function in (None, "default"):
            function = "softmax"
            if config.problem_type == "regression":
                function = "none"
            elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
                function = "sigmoid"
        if function == "sigmoid":
            logits = logits.sigmoid()
        elif function == "softmax":
            logits = logits.softmax(dim=-1)
        return logits.tolist()

    def _answer(self, scores: list[float], top_k: int | None, return_all_scores: bool) -> Any:
        """The answer for the scores of the C classes of one text."""
        names = self.model.config.id2label
        every = [{"label": names[number], "score": score} for number, score in enumerate(scores)]
        if return_all_scores and top_k is _UNSET:
            return every
        best = sorted(every, key=lambda answer: answer["score"], reverse=True)
        return best[0] if top_k is _UNSET else best[:top_k]


def _texts_and_pairs(
    texts: Texts, text_pairs: str | Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    items: list[Any] = [*texts] if isinstance(texts, list | tuple) else [texts]
    if text_pairs is None and any(isinstance(item, Mapping) for item in items):
        return _texts_of_dicts(items)
    if any(isinstance(item, Mapping | list | tuple) for item in items):
        raise TypeError(
            "texts must be a str or a list of str; pass the second text of a pair as text_pairs, "
            'or each pair as a dict, {"text": ..., "text_pair": ...}'
        )
    first = as_texts("texts", texts)  # type: ignore[arg-type]  # no dicts are left
    if text_pairs is None:
        return first, None
    second = as_texts("text_pairs", text_pairs)
    if len(first) != len(second) or isinstance(texts, str) != isinstance(text_pairs, str):
        raise ValueError(
            f"there are {len(first)} texts ({type(texts).__name__}) and {len(second)} text_pairs "
            f"({type(text_pairs).__name__}): both must be one str, or lists of the same length"
        )
    return first, second


def _texts_of_dicts(items: Sequence[Any]) -> tuple[list[str], list[str] | None]:
    """First and second texts; there are no second ones if no dict has one."""
    keys = {*items[0]} if isinstance(items[0], Mapping) else set()
    if "text" not in keys or keys - {"text", "text_pair"}:
        raise TypeError(
            f'texts[0] is {shortened(items[0])}; as a dict it must be {{"text": ...}} or '
            '{"text": ..., "text_pair": ...}'
        )
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or {*item} != keys:
            raise TypeError(f"texts[{number}] is not a dict with the keys of texts[0]")
    first = as_texts("texts", [item["text"] for item in items])
    if "text_pair" not in keys:
        return first, None
    return first, as_texts("text_pairs", [item["text_pair"] for item in items])
