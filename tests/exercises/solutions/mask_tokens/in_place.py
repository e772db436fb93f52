"""Changes copies in place; random tokens first, then mask tokens over them."""


def mask_tokens(input_ids, attention_mask, is_special, draws, kinds, random_ids, mask_token_id):
    labels, input_ids, draws = input_ids.clone(), input_ids.clone(), draws.clone()
    draws[is_special.logical_or(~attention_mask)] = 1.0
    chosen = draws < 0.15
    labels[~chosen] = -100
    below_90 = chosen & (kinds < 0.9)
    input_ids[below_90] = random_ids[below_90]
    input_ids[chosen & (kinds < 0.8)] = mask_token_id
    return input_ids, labels
