"""The tags as one letter each, and a regular expression that finds the entities of each type."""

import re

import torch


def group_entities(logits, id2label, offsets, special, text):
    p = torch.softmax(logits, -1)
    kept = [i for i in range(len(special)) if not special[i]]
    tags = [id2label[int(p[i].argmax())] for i in kept]
    found = []
    for kind in {tag[2:] for tag in tags if tag != "O"}:
        letters = "".join(tag[0] if tag[2:] == kind and tag != "O" else "." for tag in tags)
        for match in re.finditer("[BI]I*", letters):
            own = kept[match.start() : match.end()]
            start, end = offsets[own[0]][0], offsets[own[-1]][1]
            score = p[own].max(dim=1).values.mean()
            found.append(
                {
                    "start": start,
                    "end": end,
                    "word": text[start:end],
                    "score": score,
                    "entity_group": kind,
                }
            )
    return sorted(found, key=lambda entity: entity["start"])
