"""The command `minitransformer generate`."""

import json

import pytest

from minitransformer import pipeline
from minitransformer.cli import main
from tests.tiny import TEXTS, save_checkpoint


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("gpt2"), "GPT2LMHeadModel")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    says = {"max_length": 9, "num_beams": 2, "prefix": "il libro: "}
    config = {"task_specific_params": {"summarization": says, "translation_en_to_de": says}}
    directory = tmp_path_factory.mktemp("t5")
    return save_checkpoint(directory, "T5ForConditionalGeneration", config=config)


def run(capsys, *arguments):
    status = main(["generate", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def test_a_prompt_is_continued(gpt2, capsys):
    generate = pipeline("text-generation", gpt2)
    texts = [answer["generated_text"] for (answer,) in generate(TEXTS[:2], max_new_tokens=6)]
    assert run(capsys, gpt2, *TEXTS[:2], "--max-new-tokens", 6) == f"{texts[0]}\n\n{texts[1]}\n"
    streamed = run(capsys, gpt2, TEXTS[0], "--max-new-tokens", 6, "--stream")
    assert streamed == f"{texts[0]}\n"
    printed = run(capsys, gpt2, TEXTS[0], "--max-new-tokens", 6, "--json")
    assert json.loads(printed) == [{"generated_text": texts[0]}]


def test_every_option_is_a_field(gpt2, capsys):
    drawn = {
        "max_new_tokens": 6,
        "num_return_sequences": 2,
        "temperature": 0.7,
        "top_k": 30,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in drawn.items()]
    written = run(capsys, gpt2, "ciao", *options, "--sample", "--seed=3", "--stop= ", "--json")
    generate = pipeline("text-generation", gpt2)
    assert json.loads(written) == generate(
        "ciao", **drawn, do_sample=True, seed=3, stop_strings=[" "]
    )
    beams = run(capsys, gpt2, "ciao", "--num-beams=3", "--length-penalty=2", "--max-new-tokens=3")
    answer = generate("ciao", num_beams=3, length_penalty=2.0, max_new_tokens=3)[0]
    assert beams == f"{answer['generated_text']}\n"


def test_the_task_is_that_of_the_family_or_the_one_that_is_named(t5, tmp_path, capsys):
    generate = pipeline("text2text-generation", t5)
    assert run(capsys, t5, "ciao", "--max-new-tokens=4") == (
        generate("ciao", max_new_tokens=4)[0]["generated_text"] + "\n"
    )
    for task, name in (
        ("summarization", "summary_text"),
        ("translation_en_to_de", "translation_text"),
    ):
        answers = pipeline(task, t5)(TEXTS[:2])
        lines = run(capsys, t5, *TEXTS[:2], "--task", task)
        assert lines == "\n".join(f"{answer[name]}\n" for answer in answers)
    streamed = run(capsys, t5, "ciao", "--task=summarization", "--num-beams=1", "--stream")
    summary = pipeline("summarization", t5)("ciao", num_beams=1)
    assert streamed == summary[0]["summary_text"] + "\n"
    marian = save_checkpoint(tmp_path, "MarianMTModel")
    assert main(["generate", str(marian), "ciao", "--max-new-tokens=4"]) == 1
    error = capsys.readouterr().err
    assert "has no target language: pass --tgt-lang ..., or begin it" in error
    translated = run(capsys, marian, ">>fra<< ciao", "--max-new-tokens=4")
    expected = pipeline("translation", marian)("ciao", tgt_lang="fra", max_new_tokens=4)
    assert translated == expected[0]["translation_text"] + "\n"
    assert run(capsys, marian, "ciao", "--tgt-lang=fra", "--max-new-tokens=4") == translated
    streamed = run(capsys, marian, "ciao", "--tgt-lang=fra", "--max-new-tokens=4", "--stream")
    assert streamed == translated


def test_several_answers_to_a_text_are_separated(gpt2, capsys):
    options = ["--max-new-tokens=4", "--num-return-sequences=2", "--sample", "--seed=1"]
    written = run(capsys, gpt2, *TEXTS[:2], *options)
    drawn = {"max_new_tokens": 4, "num_return_sequences": 2, "do_sample": True, "seed": 1}
    every = [
        a for answers in pipeline("text-generation", gpt2)(TEXTS[:2], **drawn) for a in answers
    ]
    assert len(every) == 4
    assert written == "\n".join(f"{answer['generated_text']}\n" for answer in every)


def test_the_direction_and_the_prefix_of_a_translation(t5, capsys):
    expected = run(capsys, t5, "ciao", "--task=translation_en_to_de")
    languages = ["--src-lang=en", "--tgt-lang=de"]
    assert run(capsys, t5, "ciao", "--task=translation", *languages) == expected
    other = run(capsys, t5, "ciao", "--task=translation_en_to_de", "--prefix=va va va ")
    by_hand = pipeline("translation_en_to_de", t5)("ciao", prefix="va va va ")
    assert other == by_hand[0]["translation_text"] + "\n" != expected
    assert main(["generate", str(t5), "ciao", "--task=translation", "--src-lang=en"]) == 1
    error = capsys.readouterr().err
    assert "--src-lang 'en', no --tgt-lang; the checkpoint has these directions" in error
    assert "by --src-lang 'en', --tgt-lang 'de', or by --task translation_en_to_de" in error
    assert main(["generate", str(t5), "ciao", *languages]) == 1
    error = capsys.readouterr().err
    assert "are for translation: `minitransformer translate`, or --task translation, not" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["ciao"],
            "error: the number of tokens to generate is not set; pass --max-new-tokens ..., or --",
        ),
        (
            ["ciao", "--max-new-tokens=2", "--top-p=0.5"],
            "error: --top-p 0.5 has no effect without --sample; add it, or leave --top-p out",
        ),
        (
            ["ciao", "--max-new-tokens=2", "--sample", "--temperature=0"],
            "error: --temperature 0.0 must be a number from 1e-10 to 2147483647; to always take "
            "the likeliest token, use --no-sample",
        ),
        (
            ["ciao", "--max-new-tokens=2", "--length-penalty=2"],
            "error: --length-penalty 2.0 has no effect without --num-beams of at least 2",
        ),
        (
            ["ciao", "--max-new-tokens=2", "--num-beams=2", "--stream"],
            "error: stream needs --num-beams 1 and --num-return-sequences 1",
        ),
        (["ciao", "--max-new-tokens=2", "--max-length=3"], "--max-new-tokens 2 and --max-length 3"),
        (["ciao", "--max-new-tokens=2", "--seed=-1"], "error: --seed -1 must be an integer"),
        (["ciao", "va", "--max-new-tokens=2", "--stream"], "--stream prints one text, not 2"),
        (["ciao", "--max-new-tokens=2", "--task=summarisation"], "did you mean 'summarization'"),
        (["ciao", "--max-new-tokens=2", "--task=summarization"], "which is for text-generation"),
    ],
)
def test_what_is_wrong_is_one_line(gpt2, arguments, message, capsys):
    assert main(["generate", str(gpt2), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_field_that_the_checkpoint_names_is_no_option(tmp_path, capsys):
    asked = {"task_specific_params": {"text-generation": {"top_p": 7}}}
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", config=asked)
    assert main(["generate", str(path), "ciao", "--max-new-tokens=2"]) == 1
    assert "task_specific_params, text-generation: top_p=7" in capsys.readouterr().err


def test_a_task_that_generates_no_text(tmp_path, capsys):
    path = save_checkpoint(tmp_path, "GPT2ForSequenceClassification")
    assert main(["generate", str(path), "ciao", "--task=text-classification"]) == 1
    assert "--task text-classification does not generate text" in capsys.readouterr().err


def test_a_misspelled_option(gpt2, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", str(gpt2), "ciao", "--max-new-token", "3"])
    assert stopped.value.code == 2
    assert "did you mean '--max-new-tokens'" in capsys.readouterr().err
