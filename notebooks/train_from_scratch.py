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
# # Train a RoBERTa from scratch
#
# A text, a tokenizer, a masked language model and its training loop, written out. One CPU core
# needs one to two minutes. `minitransformer train mlm --text italian.txt --output runs/mine` does
# the same with evaluation, checkpoints and `--resume`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from minitransformer import RobertaConfig, RobertaForMaskedLM, Tokenizer, pipeline
from train.demos.italian import write_corpus

torch.manual_seed(0)
folder = Path("runs/notebook")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A text
#
# Any UTF-8 text file will do, with a sentence or a paragraph on each line. Here a small grammar of
# Italian, which comes with the package, writes one.

# %%
LINES = 20_000
corpus = folder / "italian.txt"
write_corpus(corpus, LINES, seed=0)
lines = corpus.read_text(encoding="utf-8").splitlines()
lines[:3]

# %% [markdown]
# ## A tokenizer
#
# Byte-level BPE: each byte is a token at first, then the most frequent pairs are merged. `Ġ` is the
# space before a word.

# %%
tokenizer = Tokenizer.train([corpus], vocab_size=2000, show_progress=False)
tokenizer.save_pretrained(folder)
encoded = tokenizer("ciao, come va?")
print(encoded["input_ids"])
print(encoded.tokens())

# %% [markdown]
# ## Tensors
#
# All lines at once, padded to the longest. `attention_mask` is 1 at real tokens.

# %%
batch = tokenizer(lines, padding=True, truncation=True, max_length=32, return_tensors="pt")
input_ids, attention_mask = batch.input_ids, batch.attention_mask  # (N, T) each
print(input_ids.shape, f"{attention_mask.float().mean():.0%} are real tokens")


# %% [markdown]
# ## Masking
#
# 15% of the tokens are to be predicted. Of these, 80% become `<mask>`, 10% a random token, and 10%
# stay, as in BERT. The label is -100 everywhere else: no loss. The model gets other masks each
# epoch, so this runs on each batch (RoBERTa's dynamic masking).


# %%
def mask_tokens(input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The masked inputs and the labels, (B, T) each."""
    special = torch.isin(input_ids, torch.tensor(tokenizer.all_special_ids))
    chosen = (torch.rand(input_ids.shape) < 0.15) & ~special
    labels = input_ids.masked_fill(~chosen, -100)
    kind = torch.rand(input_ids.shape)
    inputs = input_ids.masked_fill(chosen & (kind < 0.8), tokenizer.mask_token_id)
    random_ids = torch.randint(len(tokenizer.all_special_ids), len(tokenizer), input_ids.shape)
    return torch.where(chosen & (kind >= 0.9), random_ids, inputs), labels


inputs, labels = mask_tokens(input_ids[:1])
tokenizer.decode(inputs[0])

# %% [markdown]
# ## A model
#
# The table of positions has two rows more than tokens fit, as in roberta-base. The initial weights
# are larger than BERT's 0.02, which is meant for a hidden size of 768.

# %%
config = RobertaConfig(
    vocab_size=tokenizer.vocab_size,
    max_position_embeddings=34,
    hidden_size=96,
    num_attention_heads=4,
    num_hidden_layers=2,
    intermediate_size=384,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.08,
)
model = RobertaForMaskedLM(config)
print(f"{model.num_parameters():,} parameters")

# %% [markdown]
# ## The loop

# %%
EPOCHS, BATCH_SIZE = 3, 64
LEARNING_RATE = 3e-3
loader = DataLoader(
    torch.utils.data.TensorDataset(input_ids, attention_mask),
    batch_size=BATCH_SIZE,
    shuffle=True,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, LEARNING_RATE, total_steps=EPOCHS * len(loader), pct_start=0.1
)
losses = []
model.train()
for epoch in range(EPOCHS):
    bar = tqdm(loader, desc=f"epoch {epoch}", mininterval=1)
    for ids, mask in bar:
        longest = int(mask.sum(1).max())  # no column of padding alone
        inputs, labels = mask_tokens(ids[:, :longest])
        loss = model(inputs, attention_mask=mask[:, :longest], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{loss.item():.2f}")

# %% [markdown]
# ## The curve

# %%
window = 20
mean = torch.tensor(losses).unfold(0, window, 1).mean(1)
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot(losses, color="lightgray", label="each step")
axes.plot(range(window - 1, len(losses)), mean, label=f"mean of {window} steps")
axes.set(xlabel="step", ylabel="loss (nats per masked token)", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown]
# ## Fill masks
#
# Saved in Hugging Face's format, which transformers loads too.

# %%
model.save_pretrained(folder)
fill = pipeline("fill-mask", model=folder, tokenizer=folder)
for text in (
    "se Laura <mask> scelto un altro giorno, avrebbe visto il mare.",
    "ciao, come <mask>?",
):
    print(text)
    for answer in fill(text, top_k=3):
        print(f"  {answer['score']:6.1%} {answer['token_str']}")
