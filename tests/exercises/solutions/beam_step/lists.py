"""Plain lists of continuations, which are sorted."""

import torch


def beam_step(logits, sequences, scores, eos, pad):
    rows = []
    for source in range(len(logits)):
        continuations = []
        num_beams = 1 if sequences.shape[2] == 0 else logits.shape[1]
        for beam in range(num_beams):
            so_far = sequences[source, beam].tolist()
            if eos in so_far:
                continuations.append((scores[source, beam], beam, [*so_far, pad]))
                continue
            log_probs = torch.log_softmax(logits[source, beam], 0)
            for token in range(len(log_probs)):
                total = scores[source, beam] + log_probs[token]
                continuations.append((total, beam, [*so_far, token]))
        continuations.sort(key=lambda c: c[0].item(), reverse=True)
        rows.append(continuations[: logits.shape[1]])
    return {
        "scores": torch.stack([torch.stack([c[0] for c in row]) for row in rows]),
        "beams": torch.tensor([[c[1] for c in row] for row in rows]),
        "sequences": torch.tensor([[c[2] for c in row] for row in rows]),
    }
