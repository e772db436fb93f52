"""Words as texts, and a regular expression that finds whole symbols, as in the paper."""

import collections
import re


def merge_pair(words):
    pairs = collections.defaultdict(int)
    for word, freq in words.items():
        for i in range(len(word) - 1):
            pairs[word[i], word[i + 1]] += freq
    if not pairs:
        return None, words
    highest = max(pairs.values())
    best = sorted(pair for pair, count in pairs.items() if count == highest)[0]
    pattern = re.compile(r"(?<!\S)" + re.escape(" ".join(best)) + r"(?!\S)")
    merged = {}
    for word, freq in words.items():
        # A function as the replacement: a backslash in a symbol has no meaning.
        text = pattern.sub(lambda match: "".join(best), " ".join(word))
        merged[tuple(text.split(" "))] = freq
    return best, merged
