"""Scores of generated texts against reference texts: exact matches, BLEU and chrF, ROUGE.

A score of a single text says little; all of these are of a whole corpus with one reference each.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"\w+")


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The fraction of texts that equal their reference, ignoring white space around them."""
    pairs = zip(hypotheses, references, strict=True)
    return sum(text.strip() == reference.strip() for text, reference in pairs) / len(references)


def bleu_and_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus with one reference each.

    They are computed by sacrebleu, so that they can be compared between papers (Post 2018): the
    scores depend on how texts are tokenized.

    Returns:
        `bleu` and `chrf`, from 0 to 100, and for each its signature, which describes how it was
        computed and should be reported with it.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    metrics = _metrics()
    scores: dict[str, Any] = {}
    for name, metric in (("bleu", metrics.BLEU()), ("chrf", metrics.CHRF())):
        scores[name] = float(metric.corpus_score(list(hypotheses), [list(references)]).score)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores


def why_no_scores() -> str | None:
    """Why BLEU and chrF cannot be computed; None if they can."""
    try:
        _metrics()
    except ImportError as error:
        return str(error)
    return None


def _metrics() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ImportError("BLEU and chrF need sacrebleu: pip install sacrebleu") from error
    return metrics


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ROUGE (Lin 2004): how much of the references the summaries contain, and the other way round.

    A score is the F1 of precision (the share of the summary that is in the reference) and recall
    (the share of the reference that is in the summary), averaged over the texts. Words are compared
    in lower case, without punctuation and without stemming. For English these are the numbers of
    the package rouge-score with its default settings; that package drops accented letters.

    Returns:
        `rouge1` of single words, `rouge2` of pairs of neighbours, `rougeL` of the longest common
        subsequence of words, from 0 to 100.
    """
    totals = dict.fromkeys(("rouge1", "rouge2", "rougeL"), 0.0)
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = _WORD.findall(hypothesis.lower()), _WORD.findall(reference.lower())
        for size in (1, 2):
            common = (_ngrams(ours, size) & _ngrams(theirs, size)).total()
            totals[f"rouge{size}"] += _f1(common, len(ours) - size + 1, len(theirs) - size + 1)
        totals["rougeL"] += _f1(_longest_common(ours, theirs), len(ours), len(theirs))
    return {name: 100 * total / len(references) for name, total in totals.items()}


def mean_words(texts: Sequence[str]) -> float:
    """The mean number of words, separated by white space."""
    return sum(len(text.split()) for text in texts) / len(texts)


def _ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, by dynamic programming over rows."""
    row = [0] * (len(b) + 1)  # row[j]: of the words of `a` so far and the first j words of `b`
    for word in a:
        before = row
        row = [0]
        for index, other in enumerate(b):
            row.append(before[index] + 1 if word == other else max(row[-1], before[index + 1]))
    return row[-1]


def _f1(common: int, ours: int, theirs: int) -> float:
    """2PR / (P + R) of P = common / ours and R = common / theirs."""
    return 2 * common / (ours + theirs) if common else 0.0
