"""DataLoaders and Datasets as the data of the loop: exact resume, and one error for what is wrong.

And the evaluation on them, with metrics of the user's own.
"""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
)

from tests.tiny import TEXTS, batch_of, digest, job_model, new, tokenizer_of
from train import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Evaluator,
    TrainingConfig,
    train,
)
from train.loaders import LoaderBatches, num_tokens
from train.metrics import read_metrics


class Texts(Dataset):
    """Seven examples with as many tokens, and a label for each token."""

    def __getitem__(self, index):
        if index >= 7:
            raise IndexError
        ids = batch_of([5], seed=index)["input_ids"][0]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def __len__(self):
        return 7


class Stream(IterableDataset):
    """The same, one after the other."""

    def __iter__(self):
        return (Texts()[index] for index in range(7))


class OwnOrder(Sampler):
    """An order that nothing is known of."""

    epoch = 0

    def __iter__(self):
        return iter(np.random.default_rng(self.epoch).permutation(7).tolist())

    def __len__(self):
        return 7


class EpochSampler(OwnOrder):
    """An order that depends on the epoch alone."""

    def set_epoch(self, epoch):
        self.epoch = epoch


def noisy(examples):
    """A collator that draws random labels, each from another generator."""
    batch = torch.utils.data.default_collate(examples)
    labels = torch.where(torch.rand(batch["labels"].shape) < 0.5, 7, -100)
    labels[0, :2] = torch.tensor([random.randrange(5, 99), np.random.randint(5, 99)])
    return batch | {"labels": labels}


def generator():
    return torch.Generator().manual_seed(5)


LOADERS = {
    "in order": lambda: DataLoader(Texts(), batch_size=2),
    "shuffled": lambda: DataLoader(Texts(), batch_size=2, shuffle=True),
    "with a generator": lambda: DataLoader(
        Texts(), batch_size=2, shuffle=True, generator=generator()
    ),
    "with a sampler's generator": lambda: DataLoader(
        Texts(), batch_size=2, sampler=RandomSampler(Texts(), generator=generator())
    ),
    "with set_epoch": lambda: DataLoader(Texts(), batch_size=2, sampler=EpochSampler()),
    "with a batch sampler": lambda: DataLoader(
        Texts(),
        batch_sampler=BatchSampler(RandomSampler(Texts(), generator=generator()), 2, False),
    ),
    "with set_epoch inside": lambda: DataLoader(
        Texts(), batch_sampler=BatchSampler(EpochSampler(), 2, False)
    ),
    "with a random collator": lambda: DataLoader(
        Texts(), batch_size=2, shuffle=True, collate_fn=noisy
    ),
    "with a worker": lambda: DataLoader(
        Texts(), batch_size=2, shuffle=True, num_workers=1, collate_fn=noisy
    ),
    "a dataset": lambda: Texts(),
    "a stream": lambda: DataLoader(Stream(), batch_size=2),
}


def run(data: Any, output: Any, *, model: Any = None, **changes: Any) -> Any:
    """Seven steps, of which four are an epoch; the global generator is used before."""
    more = {n: changes.pop(n) for n in ("callbacks", "batch_size", "evaluate") if n in changes}
    if not isinstance(data, DataLoader):
        more.setdefault("batch_size", 2)
    settings = {"max_steps": 7, "learning_rate": 1e-2, "warmup": 0.0, **changes}
    model = model or job_model(plain=True)
    progress = train(model, data, TrainingConfig(output=output, **settings), **more)
    return model, progress


def stop_at(step):
    return lambda progress, _record: progress.step == step


@pytest.mark.parametrize("name", LOADERS)
def test_a_resumed_run_gives_the_same_bits(name, tmp_path, capsys):
    """Stopped within the first epoch, and again within the second."""
    whole, _ = run(LOADERS[name](), tmp_path / "whole")
    for step in (2, 5, 9):
        part, progress = run(
            LOADERS[name](), tmp_path / "parts", callbacks=[stop_at(step)], resume=step > 2
        )
        assert progress.step == min(step, 7)
    assert digest(part) == digest(whole)
    assert ("it may not be the same run" in capsys.readouterr().err) is (name == "a stream")


@pytest.mark.parametrize("name", [n for n in LOADERS if n not in ("in order", "a stream")])
def test_every_epoch_has_its_order_and_all_examples(name, tmp_path):
    from train.loaders import build_loader

    data = LOADERS[name]()
    loader = build_loader(data, batch_size=None if isinstance(data, DataLoader) else 2)
    batches = LoaderBatches(loader, job_model(), seed=1)
    assert batches.num_batches == 4
    epochs = [
        torch.cat([batches.batch(epoch, index)["input_ids"] for index in range(4)])
        for epoch in range(3)
    ]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    for epoch in epochs[1:]:
        assert sorted(epoch.tolist()) == sorted(epochs[0].tolist())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    third = batches.batch(1, 2)
    assert torch.equal(third["input_ids"], epochs[1][4:6])
    assert torch.equal(batches.batch(1, 2)["labels"], third["labels"])
    assert torch.equal(states[0], torch.get_rng_state())  # dropout does not depend on the data
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    batches.close()


def test_random_numbers_differ_from_batch_to_batch():
    batches = LoaderBatches(LOADERS["with a random collator"](), job_model(), seed=1)
    masks = [batches.batch(0, index)["labels"][:, 2:] for index in range(3)]
    assert len({str(mask.tolist()) for mask in masks}) == 3


def test_another_seed_is_another_order_and_a_run_with_it_is_not_resumed(tmp_path):
    def loader(seed):
        seeded = torch.Generator().manual_seed(seed)
        return DataLoader(Texts(), batch_size=2, shuffle=True, generator=seeded)

    first = loader(1)
    state = first.generator.get_state()
    one, _ = run(first, tmp_path / "1")
    assert torch.equal(first.generator.get_state(), state)
    again, _ = run(first, tmp_path / "again")  # the same loader in the same process
    run(loader(2), tmp_path / "2", callbacks=[stop_at(5)])
    assert digest(one) == digest(again)
    with pytest.raises(ValueError, match=r"data: seeds was \[2\], now it is \[1\]"):
        run(loader(1), tmp_path / "2", resume=True)
    with pytest.raises(ValueError, match="data: batch_size was 2, now it is 7"):
        run(DataLoader(Texts(), batch_size=7), tmp_path / "2", resume=True)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"sampler": OwnOrder()}, "OwnOrder has no set_epoch, so its order may be"),
        (
            {"batch_sampler": BatchSampler(OwnOrder(), 1, False)},
            "OwnOrder has no set_epoch, so its order may be",
        ),
        ({"num_workers": 1, "persistent_workers": True}, "persistent_workers go on with their"),
    ],
)
def test_what_cannot_be_repeated_is_said_once(how, reason, tmp_path, capsys):
    run(DataLoader(Texts(), **how), tmp_path, max_steps=1)
    assert capsys.readouterr().err.count(reason) == 1


def test_data_without_a_length(tmp_path):
    with pytest.raises(ValueError, match="has no length.* set max_steps"):
        run(DataLoader(Stream(), batch_size=2), tmp_path, max_steps=None)
    run(Stream(), tmp_path, accumulate=2)  # it starts again after four batches
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["tokens"] for r in records] == [20, 15, 20, 15, 20, 15, 20]
    assert {r["epoch"] for r in records} == {0}


def test_a_batch_may_lack_the_attention_mask(tmp_path):
    examples = [{n: v for n, v in Texts()[i].items() if n != "attention_mask"} for i in range(7)]
    with_mask, _ = run(Texts(), tmp_path / "with")
    without, _ = run(examples, tmp_path / "without")
    assert digest(with_mask) == digest(without)
    assert num_tokens({"input_ids": torch.ones(2, 3)}) == 6
    tokens = [r["tokens"] for r in read_metrics(tmp_path / "without" / "metrics.jsonl")]
    assert tokens == [r["tokens"] for r in read_metrics(tmp_path / "with" / "metrics.jsonl")]


def example(**changes):
    """A list with one example, in which some fields are changed, or left out if None."""
    fields = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [5, 6, 7], **changes}
    return [{name: value for name, value in fields.items() if value is not None}]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (example(sentence="ciao"), ValueError, "'sentence' is 'ciao' in an example.*remove_colu"),
        (
            DataLoader(example(sentence="ciao")),
            ValueError,
            "key 'sentence', which RobertaForMaskedLM does not take; it takes input_ids, attention_"
            "mask, token_type_ids, labels: leave it out",
        ),
        (DataLoader(example(label=[1])), ValueError, "key 'label', .*: rename it to 'labels', or"),
        (DataLoader(example(input_id=[1])), ValueError, "'input_id', .*: rename it to 'input_ids'"),
        (
            DataLoader(example(labels=["a"]), collate_fn=lambda examples: examples[0]),
            ValueError,
            "'input_ids' in a batch is a list, not a tensor; .*DataCollatorWithPadding",
        ),
        (example(labels=None), ValueError, "a batch has no 'labels', .* it has input_ids, atten"),
        (
            [*example(), *example(input_ids=[5, 6])],
            ValueError,
            r"'input_ids' has 2 to 3 values .*collate_fn=DataCollatorWithPadding\(tokenizer\)",
        ),
        ([*example(), *example(labels=None)], ValueError, "not every example .* has labels"),
        ([(torch.ones(3), 1)], TypeError, "an example is a tuple; it must be a dict"),
        (DataLoader([torch.ones(3)]), TypeError, "a batch is a Tensor; it must be a dict with"),
        ([], ValueError, "the dataset is empty"),
        (DataLoader(Texts(), batch_size=9, drop_last=True), ValueError, "gives no batch"),
        ({"input_ids": [[5]]}, TypeError, "the data is a dict; train.. takes a DataLoader or a Da"),
        ("train.txt", TypeError, "the data is a str"),
        (None, TypeError, "the data is a NoneType"),
    ],
)
def test_data_that_does_not_fit_is_one_error(data, error, message, tmp_path):
    with pytest.raises(error, match=message):
        run(data, tmp_path)


def test_a_loader_that_ends_too_early_and_settings_without_effect(tmp_path):
    class Short(Stream):
        def __len__(self):
            return 9

    with pytest.raises(ValueError, match="ended after 4 batches .* its length is 5"):
        run(DataLoader(Short(), batch_size=2), tmp_path)
    with pytest.raises(ValueError, match="batch_size should be a positive integer"):
        run(Texts(), tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="batch_size has no effect on a DataLoader"):
        run(DataLoader(Texts()), tmp_path, batch_size=2)


def test_examples_that_are_not_padded(tmp_path):
    """With a tokenizer they are padded, with a collator that masks them they are masked."""
    tokenizer = tokenizer_of("Roberta", tmp_path)
    model = new("RobertaForMaskedLM", vocab_size=tokenizer.vocab_size, dtype=torch.float32)
    data = [{"input_ids": ids, "labels": None} for ids in tokenizer(TEXTS)["input_ids"]]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
    config = TrainingConfig(output=tmp_path / "run", max_steps=6, learning_rate=1e-3)
    evaluate = Evaluator(model, data, config, collate_fn=collate)
    before = evaluate()
    assert evaluate() == before  # each time with the same masks
    train(model, data, config, collate_fn=collate, evaluate=evaluate, tokenizer=tokenizer)
    *_, evaluated = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert evaluated["eval_loss"] < before["loss"]

    classifier = new("RobertaForSequenceClassification", vocab_size=tokenizer.vocab_size)
    labelled = [{**tokenizer(text), "label": len(text) % 3} for text in TEXTS]
    config = TrainingConfig(output=tmp_path / "classes", max_steps=2)
    train(classifier, labelled, config, tokenizer=tokenizer, batch_size=3)


def test_the_users_own_metrics(tmp_path):
    """On batches of unequal lengths; beside the loss, which is the mean over all labels."""
    tokenizer = tokenizer_of("Bert", tmp_path)
    model = new("BertForTokenClassification", vocab_size=tokenizer.vocab_size)
    texts = tokenizer(TEXTS)
    examples = [
        {"input_ids": ids, "labels": [number % 3 for number, _ in enumerate(ids)]}
        for ids in texts["input_ids"]
    ]

    def compute_metrics(predictions):
        logits, labels = predictions
        assert logits.shape == (*labels.shape, 3)
        real = labels != -100
        return {"accuracy": np.mean((logits.argmax(-1) == labels)[real]), "tokens": real.sum()}

    config = TrainingConfig(output=tmp_path / "run")
    collate = DataCollatorForTokenClassification(tokenizer)
    found = Evaluator(
        model, examples, config, compute_metrics, collate_fn=collate, batch_size=2
    )()  # fmt: skip
    batch = collate(examples)
    output = model(**batch)
    real = batch["labels"] != -100
    assert found["loss"] == pytest.approx(output.loss.item())
    right = (output.logits.argmax(-1) == batch["labels"])[real]
    assert found["accuracy"] == pytest.approx(float(right.double().mean()))
    assert found["tokens"] == int(real.sum())
    assert Evaluator(model, examples, config, collate_fn=collate)(lambda: True) is None
    with pytest.raises(TypeError, match="compute_metrics returned a NoneType"):
        Evaluator(model, examples, config, lambda _: None, collate_fn=collate)()
    with pytest.raises(ValueError, match="BertForQuestionAnswering does not have"):
        Evaluator(new("BertForQuestionAnswering"), examples, config, compute_metrics)


def test_a_dataset_is_padded_with_the_tokenizer(tmp_path):
    tokenizer = tokenizer_of("Roberta", tmp_path)
    examples = [{**tokenizer(text), "label": 1} for text in TEXTS]
    loader = DataLoader(examples, batch_size=2, collate_fn=DataCollatorWithPadding(tokenizer))
    model = new("RobertaForSequenceClassification", vocab_size=tokenizer.vocab_size)
    _, progress = run(loader, tmp_path / "run", model=model, max_steps=2)
    assert progress.step == 2
