"""From the last token to the first, with numpy; an entity is complete where it begins."""

import numpy as np


def group_entities(logits, id2label, offsets, special, text):
    scores = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    tokens = [
        (id2label[int(row.argmax())].partition("-"), float(row.max()), tuple(offset))
        for row, offset, skip in zip(scores, offsets, special, strict=True)
        if not skip
    ]
    entities, tail = [], []
    for number in reversed(range(len(tokens))):
        (prefix, _, kind), score, (start, end) = tokens[number]
        if prefix == "O":
            continue
        tail.append((score, end))
        before = tokens[number - 1][0] if number else ("O", "", "")
        if prefix == "I" and before[0] != "O" and before[2] == kind:
            continue
        last = tail[0][1]
        entities.append(
            {
                "entity_group": kind,
                "score": float(np.mean([score for score, _ in tail])),
                "word": text[start:last],
                "start": start,
                "end": last,
            }
        )
        tail = []
    return entities[::-1]
