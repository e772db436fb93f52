"""A stack of symbols, with whose top the next symbol is merged; a pair that is a list."""

from collections import Counter
from itertools import chain, pairwise


def merge_pair(words):
    counts = Counter(
        chain.from_iterable(list(pairwise(symbols)) * n for symbols, n in words.items())
    )
    if len(counts) == 0:
        return (None, dict(words))
    ranked = sorted(counts.items(), key=lambda item: item[0])
    ranked.sort(key=lambda item: item[1], reverse=True)  # stable, so ties stay in order
    (left, right), _ = ranked[0]
    result = {}
    for symbols in reversed(list(words)):
        stack = []
        for symbol in symbols:
            if stack and stack[-1] == left and symbol == right:
                stack[-1] += symbol
            else:
                stack.append(symbol)
        result[tuple(stack)] = words[symbols]
    return [left, right], result
