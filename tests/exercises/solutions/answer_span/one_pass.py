"""One pass over the ends with a window of starts, in plain Python numbers."""

from collections import deque


def answer_span(start_logits, end_logits, offsets, sequence_ids, context, longest, cls, threshold):
    starts, ends = start_logits.tolist(), end_logits.tolist()
    window = deque()  # positions of starts, whose logits descend
    best = (float("-inf"), None, None)
    for position, owner in enumerate(sequence_ids):
        if owner != 1:
            continue
        while window and starts[window[-1]] <= starts[position]:
            window.pop()
        window.append(position)
        while window[0] <= position - longest:
            window.popleft()
        best = max(best, (starts[window[0]] + ends[position], window[0], position))
    score, first, last = best
    null = starts[cls] + ends[cls]
    answer, begin, end = (
        context[offsets[first][0] : offsets[last][1]],
        *(
            offsets[first][0],
            offsets[last][1],
        ),
    )
    if threshold is not None and null - score > threshold:
        answer, begin, end, score = "", 0, 0, null
    return {"answer": answer, "start": begin, "end": end, "score": score}
