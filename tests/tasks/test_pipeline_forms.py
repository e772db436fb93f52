"""What one types for a pipeline of transformers works here, or stops at an error that says more."""

import re
import sys
import warnings

import numpy as np
import pytest
import torch

import minitransformer
from minitransformer import Tokenizer, from_pretrained, pipeline
from minitransformer.fast import is_optimized
from minitransformer.hub import BUNDLED
from minitransformer.tasks.pipeline import ALIASES, DEFAULT_MODELS, TASKS, find_device
from tests.tasks.test_pipeline import EXAMPLES, save_example
from tests.tiny import TEXTS, same, save_checkpoint, their_pipeline

SENTENCE = "se Laura <mask> scelto un altro giorno, avrebbe visto il mare."
MASKED = ["ciao, [MASK] va?", "la [MASK] legge", "[MASK] un libro"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The checkpoint of each task; see `save_example`."""
    made = {}
    for task in TASKS:
        directory = tmp_path_factory.mktemp(task)
        made[task] = save_example(task, directory)[0]
    return made


# ---- without a model, without a task ----


def test_without_a_model_fill_mask_answers_offline(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.warns(UserWarning, match=f"no model was given for fill-mask: {BUNDLED} is used"):
        fill = pipeline("fill-mask")
    assert fill(SENTENCE)[0]["token_str"].strip() == "avesse"
    assert fill.model.name_or_path == BUNDLED


@pytest.mark.parametrize("task", [*TASKS, *ALIASES, "translation_en_to_de"])
def test_without_a_model_it_is_the_one_of_transformers(task, monkeypatch):
    asked = []

    def resolve(name, *_):
        asked.append(name)
        raise minitransformer.CheckpointError(f"{name} is not here")

    monkeypatch.setattr("minitransformer.hf.checkpoint.resolve_checkpoint", resolve)
    if task == "translation":
        with pytest.raises(ValueError, match=r"pipeline\('translation_en_to_de'\)"):
            pipeline(task)
        return
    name = DEFAULT_MODELS[ALIASES.get(task, task.partition("_")[0])]
    with (
        pytest.warns(UserWarning, match=f"no model was given for {task}: {name} is used"),
        pytest.raises(minitransformer.CheckpointError, match=f"{name} is not here"),
    ):
        pipeline(task)
    assert asked == [name]


def test_the_default_models_are_those_of_transformers():
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    theirs = transformers.pipelines.SUPPORTED_TASKS
    others = {"fill-mask", "text-generation"}  # the package's own, and one of another family
    known = (DEFAULT_MODELS.keys() & theirs.keys()) - others
    assert len(known) > 3
    for task in known:
        assert theirs[task]["default"]["model"][0] == DEFAULT_MODELS[task]
    assert {**transformers.pipelines.TASK_ALIASES}.items() & ALIASES.items() == {
        ("ner", "token-classification"),
        ("sentiment-analysis", "text-classification"),
    }


@pytest.mark.parametrize(
    ("example", "task"),
    [
        *(
            (task, task)
            for task in TASKS
            if task not in ("summarization", "zero-shot-classification")
        ),
        ("summarization", "text2text-generation"),
        ("zero-shot-classification", "text-classification"),
    ],
)
def test_without_a_task_the_architecture_tells_it(example, task, checkpoints):
    loaded = pipeline(model=checkpoints[example])
    in_hand = pipeline(model=loaded.model, tokenizer=loaded.tokenizer)
    for ready in (loaded, in_hand):
        assert type(ready) is TASKS[task]
        assert ready.task == task


def test_what_tells_no_task_is_named(tmp_path):
    with pytest.raises(ValueError, match="needs a task, such as 'fill-mask', or a model"):
        pipeline()
    path = save_checkpoint(tmp_path, "GPT2Model")
    for model in (path, from_pretrained(path)):
        with pytest.raises(ValueError, match="GPT2Model.*which tells no task; pass one of: feat"):
            pipeline(model=model, tokenizer=Tokenizer.from_pretrained(path))
    with pytest.raises(ValueError, match="unknown task 'conversational'; the choices are: feature"):
        pipeline("conversational")
    with pytest.raises(TypeError, match="the task is 3"):
        pipeline(3)


# ---- objects and paths ----


def test_a_model_in_hand_stays_as_it_is_unless_an_argument_says_otherwise(checkpoints):
    path = checkpoints["fill-mask"]
    expected = pipeline("fill-mask", path)(MASKED)
    model, tokenizer = from_pretrained(path), Tokenizer.from_pretrained(path)
    for given in (tokenizer, path, str(path)):
        fill = pipeline("fill-mask", model=model, tokenizer=given)
        assert fill.model is model and not is_optimized(model)
        same(fill(MASKED), expected)
    same(pipeline("fill-mask", path, tokenizer=tokenizer)(MASKED), expected)
    same(pipeline("fill-mask", model, tokenizer, config=model.config)(MASKED), expected)
    same(pipeline("fill-mask", path, config=path)(MASKED), expected)
    pipeline("fill-mask", model, tokenizer, optimize=True)
    assert is_optimized(model)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"tokenizer": None}, ValueError, "a loaded model needs its tokenizer: pipeline"),
        ({"model": 3}, TypeError, "model is a builtins.int; it must be a path"),
        ({"dtype": torch.bfloat16}, ValueError, r"dtype is for loading; .*model.to\(dtype\)"),
        ({"config": "gpt2"}, ValueError, r"BertForMaskedLM.from_pretrained\(path, name=value\)"),
        ({"framework": "tf"}, TypeError, "framework='tf' .*all models are PyTorch's; leave it out"),
        ({"token": "x"}, TypeError, "token='x' is not an argument here: log in once, hf auth"),
        ({"model_kwargs": {"a": 1}}, TypeError, "load the model by its class, and pass it with"),
        ({"tokenizer": {}}, TypeError, "tokenizer is a builtins.dict; it must be a path, a name"),
        ({"dtype": "float16", "torch_dtype": "float16"}, ValueError, "pass only dtype"),
        ({"top_kk": 3}, TypeError, "unknown argument of fill-mask 'top_kk'; did you mean 'top_k'"),
        ({"optimise": True}, TypeError, "'optimise'; did you mean 'optimize'"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_followed_is_named(fields, error, message, checkpoints):
    path = checkpoints["fill-mask"]
    given = {"model": from_pretrained(path), "tokenizer": Tokenizer.from_pretrained(path)}
    with pytest.raises(error, match=message):
        pipeline("fill-mask", **(given | fields))


def test_settings_of_transformers_that_change_nothing(checkpoints):
    path = checkpoints["fill-mask"]
    others = {"framework": "pt", "use_fast": False, "trust_remote_code": False, "model_kwargs": {}}
    fill = pipeline("fill-mask", model=str(path), device_map="cpu", revision="main", **others)
    same(fill(MASKED), pipeline("fill-mask", path)(MASKED))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_dtype_of_the_model(name, checkpoints):
    for given in (torch.bfloat16, "bfloat16"):
        fill = pipeline("fill-mask", checkpoints["fill-mask"], **{name: given})
        assert {parameter.dtype for parameter in fill.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("given", "found"),
    [(-1, "cpu"), ("cpu", "cpu"), (torch.device("cpu"), "cpu"), (1, "cuda:1"), ("cuda", "cuda")],
)
def test_devices(given, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device(given) == torch.device(found)


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [
        (0, 0, "device=0: no CUDA device here; pass device='cpu'"),
        ("cuda:0", 0, "device='cuda:0': no CUDA device here"),
        (torch.device("cuda"), 0, "no CUDA device here"),
        (2, 2, "device=2: the number of CUDA devices here is 2"),
        (-2, 2, "device=-2 must be 'cpu', 'cuda', 'cuda:0' or a number"),
        ("gpu", 0, "device='gpu' must be 'cpu', 'cuda'"),
        ({"": 0}, 2, "must be 'cpu', 'cuda'"),
    ],
)
def test_no_such_device(given, count, message, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=re.escape(message)):
        pipeline("fill-mask", tmp_path, device=given)


def test_a_file_of_a_checkpoint_is_no_checkpoint(checkpoints):
    with pytest.raises(
        minitransformer.CheckpointError, match="config.json is a file; a checkpoint"
    ):
        pipeline("fill-mask", checkpoints["fill-mask"] / "config.json")


def test_attributes_and_saving(checkpoints, tmp_path):
    ready = pipeline("text-classification", checkpoints["text-classification"], device=-1)
    assert ready.task == "text-classification"
    assert ready.device == torch.device("cpu")
    ready.save_pretrained(tmp_path)
    same(pipeline(model=tmp_path)(TEXTS), ready(TEXTS))


# ---- calls ----


def arguments_of(task):
    """The inputs of an example, and the other arguments by their names."""
    _, _, (texts, *others) = EXAMPLES[task]
    if task == "question-answering":
        return [{"question": question, "context": others[0]} for question in texts], {}
    if task == "zero-shot-classification":
        return texts, {"candidate_labels": others[0]}
    return texts, {} if EXAMPLES[task][0].startswith(("For", "Model")) else {"max_new_tokens": 4}


@pytest.mark.parametrize("task", sorted(TASKS.keys() - {"text2text-generation"}))
def test_inputs_that_are_iterated_over_give_results_in_order(task, checkpoints):
    ready = pipeline(task, checkpoints[task], batch_size=2)
    texts, others = arguments_of(task)
    texts = texts[:3]
    expected = ready(texts, **others)
    if ready.one_is_a_list:
        expected = [[answer] for answer in expected]
    read = []
    results = ready((read.append(text) or text for text in texts), **others)
    same([next(results)], expected[:1])
    assert len(read) == 2  # a batch, and not all of them
    same(list(results), expected[1:])

    class Dataset:  # as a map-style data set of PyTorch, which does not end an iteration
        def __len__(self):
            return len(texts)

        def __getitem__(self, index):
            return texts[index % len(texts)]

    same(list(ready(Dataset(), **others)), expected)
    if task != "question-answering":
        same(ready(np.array(texts), **others), ready(texts, **others))
    assert list(ready(iter([]), **others)) == []


def test_an_error_of_a_later_batch_says_from_where_its_numbers_count(checkpoints):
    classify = pipeline("text-classification", checkpoints["text-classification"], batch_size=2)
    results = classify(iter([*TEXTS[:3], ""]))
    same([next(results), next(results)], classify(TEXTS[:2]))
    with pytest.raises(ValueError, match=r"texts\[1\] is empty") as error:
        next(results)
    assert "Number 0 is input 2 " in error.value.__notes__[0]


def test_a_table_is_no_list_of_texts(checkpoints):
    class DataFrame(dict):  # as far as one of pandas is concerned here
        columns = ("text",)

    classify = pipeline("text-classification", checkpoints["text-classification"])
    with pytest.raises(TypeError, match=r"pass the column with the texts: table\['text'\]"):
        classify(DataFrame(text=TEXTS))


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_argument_names_the_nearest(task, checkpoints):
    ready = pipeline(task, checkpoints[task])
    texts, others = arguments_of(task)
    wrong = {
        "fill-mask": ("targetss", "targets"),
        "question-answering": ("max_answer_length", "max_answer_tokens"),
        "text-classification": ("topk", "top_k"),
        "token-classification": ("agregation_strategy", "aggregation_strategy"),
        "zero-shot-classification": ("hypothesis", "hypothesis_template"),
        "feature-extraction": ("poolings", "pooling"),
    }
    name, meant = wrong.get(task, ("max_new_token", "max_new_tokens"))
    with pytest.raises(TypeError, match=f"unknown .*{name!r}; did you mean {meant!r}"):
        ready(texts, **others, **{name: 3})
    with pytest.raises(TypeError, match=f"unknown .*{name!r}; did you mean {meant!r}"):
        pipeline(task, checkpoints[task], **{name: 3})


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("question-answering", {"doc_stride": 64}, "doc_stride=64 .* share 128 tokens; leave it"),
        ("question-answering", {"max_seq_len": 99}, "max_seq_len=99 .* has 384 tokens, or as many"),
        ("token-classification", {"ignore_subwords": True}, "pass aggregation_strategy='first'"),
        ("text-generation", {"generation_config": {}}, "fields to the call itself, .*max_new_to"),
        ("summarization", {"output_scores": True}, "output.sequences_scores"),
        ("fill-mask", {"tokenizer_kwargs": {"a": 1}}, "pass what it contains to the call itself"),
    ],
)
def test_an_argument_of_transformers_alone_says_what_to_type(task, fields, message, checkpoints):
    with pytest.raises(TypeError, match=message):
        pipeline(task, checkpoints[task], **fields)
    same(pipeline(task, checkpoints[task], **dict.fromkeys(fields)).defaults, {})


def test_the_arguments_of_a_pipeline_are_those_of_its_calls(checkpoints):
    path = checkpoints["zero-shot-classification"]
    labels = "libro, mare"
    rank = pipeline("zero-shot-classification", path, candidate_labels=labels, multi_label=True)
    plain = pipeline("zero-shot-classification", path)
    same(rank(TEXTS), plain(TEXTS, labels, multi_label=True))
    same(rank(TEXTS, ["ciao", "va"]), plain(TEXTS, ["ciao", "va"], multi_label=True))
    same(rank(TEXTS, multi_label=False), plain(TEXTS, labels))
    same(rank(sequences=TEXTS, multi_class=False), plain(TEXTS, labels))
    with pytest.raises(TypeError, match="multi_label and multi_class are one argument"):
        rank(TEXTS, multi_label=True, multi_class=True)
    write = pipeline("text-generation", checkpoints["text-generation"], max_new_tokens=3)
    plain = pipeline("text-generation", checkpoints["text-generation"])
    assert write("ciao", truncation=True) == plain("ciao", max_new_tokens=3)
    assert write("ciao", max_new_tokens=5) == plain("ciao", max_new_tokens=5)


def test_a_list_of_one_gives_a_list_of_one(checkpoints):
    """transformers takes the only answer out of the list for these two tasks."""
    fill = pipeline("fill-mask", checkpoints["fill-mask"])
    same(fill(MASKED[:1]), [fill(MASKED[0])])
    same(fill(MASKED[:1])[0], their_pipeline("fill-mask", checkpoints["fill-mask"])(MASKED[:1]))
    answer = pipeline("question-answering", checkpoints["question-answering"])
    one = {"question": "come va?", "context": TEXTS[2]}
    same(answer([one]), [answer(one)])


def test_one_batch_size_for_a_call(checkpoints, monkeypatch):
    classify = pipeline("text-classification", checkpoints["text-classification"])
    sizes = []
    forward = type(classify.model).forward

    def recorded(model, input_ids, **inputs):
        sizes.append(len(input_ids))
        return forward(model, input_ids, **inputs)

    monkeypatch.setattr(type(classify.model), "forward", recorded)
    classify(TEXTS[:4], batch_size=2)
    classify(TEXTS[:4])
    assert sizes == [2, 2, 4]


def test_questions_in_every_form(checkpoints):
    answer = pipeline("question-answering", checkpoints["question-answering"])
    context, questions = TEXTS[2], ["come va?", "un libro?"]
    expected = answer(questions, context)
    pairs = [{"question": question, "context": context} for question in questions]
    same(answer(pairs), expected)
    same(answer(question=questions, context=context), expected)
    same(answer(questions, context=[context, context]), expected)
    one = {"question": questions[0], "context": context}
    for given in ((one,), (questions[0], context)):
        same(answer(*given), expected[0])
    same(answer(**one), expected[0])
    same(answer(**one, topk=2), answer(questions[0], context, top_k=2))
    same(
        answer(one, max_answer_len=2, handle_impossible_answer=True),
        answer(one, max_answer_tokens=2, may_have_no_answer=True),
    )
    with pytest.raises(
        TypeError, match=r"questions\[1\] is 'come va\?'; pass contexts too, or for"
    ):
        answer([one, "come va?"])
    with pytest.raises(TypeError, match="contexts must be a str"):
        answer("come va?")


def test_entities_by_the_old_name_of_the_strategy(checkpoints):
    path = checkpoints["token-classification"]
    tag, their_tag = pipeline("ner", path), their_pipeline("ner", path)
    text = TEXTS[2]

    def theirs(*arguments, **fields):  # with numbers of Python
        return [one | {"score": float(one["score"])} for one in their_tag(*arguments, **fields)]

    same(tag(text, grouped_entities=True), theirs(text, aggregation_strategy="simple"))
    same(pipeline("ner", path, grouped_entities=True)(text), tag(text, grouped_entities=True))
    same(tag(text, grouped_entities=False), theirs(text))
    same(
        tag(text, grouped_entities=True, aggregation_strategy="none"),
        theirs(text, aggregation_strategy="none"),
    )
    for strategy in ("none", "simple"):
        for ignored in (["O", "entailment"], ["O", "neutral"]):
            fields = {"aggregation_strategy": strategy, "ignore_labels": ignored}
            found = tag(text, **fields)
            assert bool(found) == ("neutral" in ignored)
            same(found, theirs(text, **fields))
    with pytest.raises(ValueError, match=r"ignore_labels=\[\] lacks 'O'"):
        tag(text, grouped_entities=True, ignore_labels=[])


def test_tokens_outside_of_entities_can_be_kept(tmp_path):
    path = save_checkpoint(tmp_path, "BertForTokenClassification", id2label={0: "O", 1: "B-x"})
    tag = pipeline("ner", path)
    tag.model.classifier.bias.data[0] = 1e4
    found = tag(TEXTS[2], ignore_labels=[])
    assert {one["entity"] for one in found} == {"O"}
    assert len(found) == len(tag.tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"])
    assert tag(TEXTS[2]) == []


def test_zero_shot_classification_in_every_form(checkpoints):
    path = checkpoints["zero-shot-classification"]
    ours = pipeline("zero-shot-classification", path)
    theirs = their_pipeline("zero-shot-classification", path)
    for texts, labels, multi in (
        (TEXTS[0], "libro, mare", False),
        (TEXTS[:1], ["libro", "mare"], True),
        (TEXTS, ["libro", "mare"], False),
    ):
        fields = {"multi_label": multi, "hypothesis_template": "un {} bene"}
        same(ours(texts, labels, **fields), theirs(texts, labels, **fields))


def test_text_generation_in_every_form(checkpoints):
    theirs = their_pipeline("text-generation", checkpoints["text-generation"])
    ours = pipeline("text-generation", checkpoints["text-generation"])
    for texts, several in (
        (TEXTS[1], {"return_full_text": False}),
        (TEXTS[1], {"num_beams": 2, "num_return_sequences": 2}),
        (TEXTS[:1], {}),
        (TEXTS[:2], {"num_beams": 2, "num_return_sequences": 2}),
    ):
        fields = {"max_new_tokens": 3, "pad_token_id": 1, **several}
        assert ours(texts, **fields) == theirs(texts, do_sample=False, **fields)


def test_what_is_streamed_follows_the_defaults(checkpoints):
    write = pipeline(model=checkpoints["text-generation"], max_new_tokens=4, truncation=True)
    whole = write("ciao", return_full_text=False)[0]["generated_text"]
    assert "".join(write.stream("ciao")) == whole


@pytest.mark.parametrize("task", ["summarization", "translation", "text2text-generation"])
def test_truncation_of_a_source_that_is_asked_for(task, tmp_path):
    architecture = EXAMPLES[task][0].replace("T5For", "BartFor")
    fields = {"codes": ()} if architecture == "MarianMTModel" else {}
    ready = pipeline(task, save_checkpoint(tmp_path, architecture, **fields), max_new_tokens=3)
    long = "ciao va " * 60
    with pytest.warns(UserWarning, match="1 of 1 texts had to be truncated") as caught:
        expected = ready(long)
        next(ready.stream(long))
    assert [warning.filename for warning in caught] == [__file__, __file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ready(long, truncation=True) == expected
    with pytest.raises(ValueError, match="pass truncation=True"):
        ready(long, truncation=False)


def test_a_run_answers_before_it_has_ended(tmp_path, checkpoints):
    newest = tmp_path / "checkpoints" / "step-00000020"
    pipeline("fill-mask", checkpoints["fill-mask"]).save_pretrained(newest)
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    same(pipeline("fill-mask", tmp_path)(MASKED), pipeline("fill-mask", newest)(MASKED))
    assert type(pipeline(model=tmp_path)) is TASKS["fill-mask"]
