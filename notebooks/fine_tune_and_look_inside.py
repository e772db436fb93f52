# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune a model and look inside
#
# The package comes with a small RoBERTa that was trained on generated Italian. Here it learns to
# tell right sentences from those with one wrong form, such as *la ragazza è stanco*. Then we look
# at what its layers and heads compute. One CPU core needs about a minute.

# %%
import random
import shutil

import matplotlib.pyplot as plt
import torch

from minitransformer import RobertaForSequenceClassification, Tokenizer, pipeline
from minitransformer.attention_maps import attention_maps
from train import DataCollatorWithPadding, TrainingConfig, read_metrics, train
from train.demos.italian import Sentence, sentences

NAME = "tiny-italian-roberta"
pipeline("fill-mask", NAME)("oggi la ragazza è <mask>.", top_k=3)

# %% [markdown]
# ## Labelled sentences
#
# The grammar knows where a form must agree with another word. In every second sentence we replace
# one such form by another form of the same word. The test sentences are about combinations of words
# that occur in no training sentence.

# %%
SENTENCES, EPOCHS = 4000, 3


def with_a_mistake(sentence: Sentence, chance: random.Random) -> str:
    """The sentence with one wrong form."""
    place = chance.choice(sentence.agreements)
    right = sentence.text[place.start : place.end]
    wrong = chance.choice([form for form in place.forms if form != right])
    return sentence.text[: place.start] + wrong + sentence.text[place.end :]


def labelled(count: int, seed: int, held_out: bool) -> tuple[list[str], list[int]]:
    """Texts, and 1 for those that are right."""
    chance = random.Random(seed)
    found = [s for s in sentences(count, seed=seed, held_out=held_out) if s.agreements]
    labels = [number % 2 for number in range(len(found))]
    pairs = zip(found, labels, strict=True)
    return [s.text if label else with_a_mistake(s, chance) for s, label in pairs], labels


texts, labels = labelled(SENTENCES, seed=1, held_out=False)
test_texts, test_labels = labelled(500, seed=2, held_out=True)
list(zip(texts[:4], labels[:4], strict=True))

# %% [markdown]
# ## Fine-tuning
#
# A classifier is the pretrained model with a new head. `train` is the loop of the jobs: AdamW,
# warm-up and linear decay, checkpoints, `metrics.jsonl`. For comparison, the same model starts once
# more from random weights.

# %%
tokenizer = Tokenizer.from_pretrained(NAME)
names = {"id2label": {0: "wrong", 1: "right"}}
encoded = tokenizer(texts)
dataset = [
    {"input_ids": ids, "attention_mask": mask, "labels": label}
    for ids, mask, label in zip(
        encoded["input_ids"], encoded["attention_mask"], labels, strict=True
    )
]


@torch.inference_mode()
def accuracy(model: RobertaForSequenceClassification) -> float:
    """The share of test sentences that are classified correctly."""
    batch = tokenizer(test_texts, padding=True, return_tensors="pt")
    predicted = model(**batch).logits.argmax(-1)  # (B,)
    return (predicted == torch.tensor(test_labels)).float().mean().item()


torch.manual_seed(0)
model = RobertaForSequenceClassification.from_pretrained(NAME, **names)
models = {
    "pretrained": model,
    "from random weights": RobertaForSequenceClassification(model.config),
}
for kind, each in models.items():
    config = TrainingConfig(
        output=f"runs/notebook/{kind}", epochs=EPOCHS, learning_rate=5e-4, evaluate_every="epoch"
    )
    shutil.rmtree(config.output, ignore_errors=True)  # what an earlier execution wrote
    train(
        each,
        dataset,
        config,
        evaluate=lambda _, each=each: {"accuracy": accuracy(each)},
        tokenizer=tokenizer,
        batch_size=32,
        collate_fn=DataCollatorWithPadding(tokenizer),
    )
    print(f"{kind}: {accuracy(each.eval()):.1%} of the test sentences")

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for kind in models:
    records = read_metrics(f"runs/notebook/{kind}/metrics.jsonl")
    found = {r["step"]: r["eval_accuracy"] for r in records if "eval_accuracy" in r}
    axes.plot(found.keys(), found.values(), marker="o", label=kind)
axes.axhline(0.5, color="gray", linestyle=":", label="guessing")
axes.set(xlabel="step", ylabel="accuracy", ylim=(0.4, 1))
axes.legend()
plt.show()

# %% [markdown]
# The fine-tuned model is a checkpoint like any other:

# %%
model.eval().save_pretrained("runs/notebook/agreement")
tokenizer.save_pretrained("runs/notebook/agreement")
judge = pipeline("text-classification", "runs/notebook/agreement")
list(zip(test_texts[:4], judge(test_texts[:4]), strict=True))

# %% [markdown]
# ## Hidden states
#
# `output_hidden_states=True` returns what enters the first layer and what each layer passes on,
# (B, T, E) each. The classifier reads the first token, `<s>`. Its embedding is the same for all
# sentences; after the last layer, its states for many wrong sentences lie apart from the rest. The
# pictures show the two directions in which the states differ most (principal components).

# %%
batch = tokenizer(test_texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    output = model(**batch, output_hidden_states=True, output_attentions=True)
print([tuple(states.shape) for states in output.hidden_states])

right = torch.tensor(test_labels) == 1
figure, panels = plt.subplots(1, len(output.hidden_states), figsize=(9, 3), layout="constrained")
for number, (states, panel) in enumerate(zip(output.hidden_states, panels, strict=True)):
    first = states[:, 0] - states[:, 0].mean(0)  # (B, E)
    directions = torch.linalg.svd(first, full_matrices=False).Vh[:2]  # (2, E)
    x, y = (first @ directions.T).T
    panel.scatter(x[right], y[right], s=6, label="right")
    panel.scatter(x[~right], y[~right], s=6, label="wrong")
    panel.set(title=f"after layer {number - 1}" if number else "embeddings", xticks=[], yticks=[])
panels[0].legend()
plt.show()

# %% [markdown]
# ## Attention maps
#
# `attentions` has one tensor (B, H, T, T) for each layer: how much each token (row) attends to each
# token (column), for each head. `attention_maps` adds the readable tokens.

# %%
print([tuple(maps.shape) for maps in output.attentions])
sentence = "oggi la ragazza è stanca."
maps = attention_maps(model, tokenizer, sentence)
layers, heads = maps.maps.shape[:2]
figure, panels = plt.subplots(layers, heads, figsize=(11, 6), layout="constrained")
for layer in range(layers):
    for head in range(heads):
        panel = panels[layer, head]
        panel.imshow(maps.maps[layer, head], vmin=0, vmax=1, cmap="Blues")
        panel.set_title(f"layer {layer}, head {head}", fontsize=9)
        panel.set_xticks(range(len(maps.tokens)), maps.tokens, rotation=90, fontsize=7)
        panel.set_yticks(range(len(maps.tokens)), maps.tokens, fontsize=7)
plt.show()

# %% [markdown]
# Which head attends from the adjective to its noun? Before and after fine-tuning:

# %%
adjective, noun = maps.tokens.index("·stanca"), maps.tokens.index("·ragazza")
before = attention_maps(
    RobertaForSequenceClassification.from_pretrained(NAME, **names).eval(), tokenizer, sentence
)
for kind, found in (("pretrained", before), ("fine-tuned", maps)):
    print(f"{kind:10}", " ".join(f"head {head}" for head in range(heads)))
    for layer in range(layers):
        weights = found.maps[layer, :, adjective, noun]
        print(f"  layer {layer}:", " ".join(f"{weight:6.1%}" for weight in weights))
