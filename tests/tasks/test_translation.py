"""Translation: the target language is given, or its absence is an error."""

import pytest

from minitransformer import pipeline
from minitransformer.tasks.text_to_text import TextToTextGeneration
from minitransformer.tasks.translation import Translation
from tests.tiny import TEXTS, save_checkpoint, their_texts

# Marian's tokenizer in transformers recommends a package.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
# As in the config.json of google-t5/t5-small.
DIRECTIONS = {
    "translation_en_to_de": {"max_length": 9, "num_beams": 2, "prefix": "il libro: "},
    "translation_en_to_fr": {"max_length": 7, "early_stopping": True, "prefix": "la radio: "},
}

SIX = {"max_new_tokens": 6, "suppress_tokens": [0, 1], "no_repeat_ngram_size": 1}


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    directory = tmp_path_factory.mktemp("t5")
    config = {"task_specific_params": DIRECTIONS}
    return save_checkpoint(directory, "T5ForConditionalGeneration", config=config)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A Marian of two target languages."""
    return save_checkpoint(tmp_path_factory.mktemp("marian"), "MarianMTModel")


def texts_of(answers):
    return [answer["translation_text"] for answer in answers]


@pytest.mark.parametrize(("task", "says"), DIRECTIONS.items())
def test_a_direction_of_t5_has_its_prefix_and_its_settings(t5, task, says):
    fields = {name: value for name, value in says.items() if name != "prefix"}
    ours = pipeline(task, t5)(TEXTS)
    theirs = their_texts(t5, [says["prefix"] + text for text in TEXTS], **fields)
    assert [[text] for text in texts_of(ours)] == theirs
    _, source, _, target = task.split("_")
    translate = pipeline("translation", t5)
    assert translate(TEXTS, src_lang=source, tgt_lang=target) == ours
    assert translate(TEXTS[0], src_lang=source, tgt_lang=target) == ours[:1]
    before = translate.model.generation_config
    pieces = translate.stream(TEXTS[0], src_lang=source, tgt_lang=target, num_beams=1)
    assert translate.model.generation_config is before
    greedy = translate(TEXTS[0], src_lang=source, tgt_lang=target, num_beams=1)
    assert "".join(pieces) == greedy[0]["translation_text"]


def test_a_direction_that_t5_has_not(t5):
    named = "the checkpoint has these directions: en to de, en to fr"
    translate = pipeline("translation", t5)
    with pytest.raises(ValueError, match=f"src_lang=None, tgt_lang=None; {named}.*_en_to_de'"):
        translate("ciao")
    with pytest.raises(ValueError, match=f"src_lang='en', tgt_lang='it'; {named}"):
        pipeline("translation_en_to_it", t5)
    with pytest.raises(ValueError, match=f"src_lang=None, tgt_lang='de'; {named}"):
        translate.stream("ciao", tgt_lang="de")
    with pytest.raises(ValueError, match="begins with the prefix 'il libro: '"):
        translate("il libro: ciao", src_lang="en", tgt_lang="de")


def test_a_prefix_of_ones_own(t5):
    """For a direction that fine-tuning has added."""
    translate = pipeline("translation", t5)
    (answer,) = translate("ciao", prefix="va: ", max_new_tokens=5)
    plain = TextToTextGeneration(translate.model, translate.tokenizer)
    (expected,) = plain("va: ciao", max_new_tokens=5)
    assert answer["translation_text"] == expected["generated_text"]
    german = translate("ciao", prefix="va: ", src_lang="en", tgt_lang="de")
    assert texts_of(german) == [plain("va: ciao", max_length=9, num_beams=2)[0]["generated_text"]]


def test_marian_translates_into_the_language_of_the_code(marian):
    translate = pipeline("translation", marian)
    assert translate.codes == [">>fra<<", ">>ita<<"]
    french = [f">>fra<< {text}" for text in TEXTS]
    answers = translate(TEXTS, tgt_lang="fra", **SIX)
    assert [[text] for text in texts_of(answers)] == their_texts(marian, french, **SIX)
    assert translate(french, **SIX) == answers
    assert pipeline("translation_en_to_fra", marian)(TEXTS, **SIX) == answers
    assert translate(TEXTS, tgt_lang="ita", **SIX) != answers
    pieces = translate.stream(TEXTS[0], tgt_lang="fra", **SIX)
    assert "".join(pieces) == answers[0]["translation_text"]


def test_marian_needs_a_target_language(marian):
    translate = pipeline("translation", marian)
    every = "the codes are: >>fra<<, >>ita<<"
    for texts, languages, message in (
        (["ciao"], {}, r"texts\[0\] has no target language.*as in '>>fra<< ciao'"),
        ([">>fra<< a", "b"], {}, r"texts\[1\] has no target language"),
        ([">>deu<< a"], {}, r"texts\[0\] begins with '>>deu<<', which is not a code"),
        (["a"], {"tgt_lang": "deu"}, "tgt_lang='deu' has no language code"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*; {every}"):
            translate(texts, max_new_tokens=3, **languages)
    with pytest.raises(
        ValueError, match=r"texts\[0\] begins with a code, and tgt_lang adds another"
    ):
        translate(">>ita<< a", tgt_lang="fra", max_new_tokens=3)
    with pytest.raises(ValueError, match="tgt_lang='deu' has no language code"):
        pipeline("translation_en_to_deu", marian)
    with pytest.raises(ValueError, match=r"texts\[0\] has no target language"):
        translate.stream("ciao", max_new_tokens=3)


def test_a_marian_of_one_direction(tmp_path):
    path = save_checkpoint(tmp_path, "MarianMTModel", codes=())
    translate = pipeline("translation", path)
    answers = translate(TEXTS, **SIX)
    assert [[text] for text in texts_of(answers)] == their_texts(path, TEXTS, **SIX)
    assert pipeline("translation_en_to_it", path)(TEXTS, **SIX) == answers
    # The name of a group of languages does not name its members.
    assert pipeline("translation_gmw_to_it", path)(TEXTS, **SIX) == answers
    with pytest.raises(ValueError, match="tgt_lang='fr', but the model was trained on 'it'"):
        pipeline("translation_en_to_fr", path)
    with pytest.raises(ValueError, match="src_lang='fr', but the model was trained on 'en'"):
        translate("ciao", src_lang="fr")
    with pytest.raises(
        ValueError, match="'>>fra<<', which is not a code of this model; it has no c"
    ):
        translate(">>fra<< ciao", max_new_tokens=3)


def test_one_code_need_not_be_given(tmp_path):
    path = save_checkpoint(tmp_path, "MarianMTModel", codes=(">>ita<<",))
    translate = pipeline("translation", path)
    answers = translate(TEXTS, **SIX)
    assert [[text] for text in texts_of(answers)] == their_texts(path, TEXTS, **SIX)
    with_code = translate(TEXTS, tgt_lang="ita", **SIX)
    assert with_code == translate([f">>ita<< {text}" for text in TEXTS], **SIX)


def test_languages_may_be_named_once_for_all(t5):
    plain = pipeline("translation", t5)
    translate = Translation(plain.model, plain.tokenizer, src_lang="en", tgt_lang="fr")
    translate.directions = plain.directions
    assert translate("ciao") == plain("ciao", src_lang="en", tgt_lang="fr")
    assert translate("ciao", tgt_lang="de") == plain("ciao", src_lang="en", tgt_lang="de")
    with pytest.raises(ValueError, match="src_lang='it', tgt_lang='fr'; the checkpoint has"):
        translate("ciao", src_lang="it")
