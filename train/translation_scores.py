"""How good translations are: exact matches, BLEU and chrF.

BLEU and chrF are those of sacrebleu, whose numbers can be compared between papers (Post 2018); it
is an extra, for the numbers are its own: what it does to texts before it counts is part of them.
"""

from collections.abc import Sequence
from typing import Any


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of texts that are, but for white space around them, what they should be."""
    pairs = zip(hypotheses, references, strict=True)
    return sum(written.strip() == right.strip() for written, right in pairs) / len(references)


def bleu_and_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of whole corpora, with one reference.

    Returns:
        `bleu` and `chrf`, from 0 to 100, and for each the signature that says how it was computed,
        to be printed beside it.

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
    """Why BLEU and chrF cannot be computed; None where they can."""
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
