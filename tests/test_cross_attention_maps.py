"""Attention maps of decoders and encoder-decoders: the numbers, the names, the pictures."""

import pytest
import torch

import minitransformer
from minitransformer import (
    RobertaModel,
    Tokenizer,
    generate,
)
from minitransformer.attention_maps import (
    AttentionMaps,
    TokenLabels,
    attention_maps,
    attention_picture,
    draw_grid,
    draw_layer,
)
from minitransformer.cli import main
from tests.tiny import roberta_config, save_checkpoint

TEXT, TARGET = "la ragazza legge un libro", "ciao ñ"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A checkpoint of each class, by its name."""
    made = {}

    def path(name):
        if name not in made:
            has_lm_head = "LMHead" in name or "Generation" in name or "MT" in name
            generation = {"max_new_tokens": 5} if has_lm_head else None
            made[name] = save_checkpoint(
                tmp_path_factory.mktemp("model"), name, generation=generation
            )
        return made[name]

    return path


@pytest.fixture
def load(paths):
    def both(name):
        model = getattr(minitransformer, name).from_pretrained(paths(name))
        return model, Tokenizer.from_pretrained(paths(name))

    return both


def outputs(model, tokenizer, target):
    """The model's own outputs for these ids as the target."""
    batch = tokenizer([TEXT], return_tensors="pt")
    start = torch.tensor([[model.config.decoder_start_token_id]])
    read = torch.cat([start, target[:, :-1]], dim=1)
    with torch.no_grad():
        return model(**batch, decoder_input_ids=read, output_attentions=True)


# ---- the numbers ----


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize(
    "name",
    [
        "BartForConditionalGeneration",
        pytest.param("T5ForConditionalGeneration", marks=pytest.mark.slow),
        pytest.param("MarianMTModel", marks=pytest.mark.slow),
    ],
)
def test_the_maps_are_those_of_the_model(name, kind, load):
    model, tokenizer = load(name)
    written = tokenizer(text_target=[TARGET], return_tensors="pt")["input_ids"]
    expected = getattr(outputs(model, tokenizer, written), f"{kind}_attentions")
    target = None if kind == "encoder" else TARGET
    found = attention_maps(model, tokenizer, TEXT, kind=kind, target=target)
    torch.testing.assert_close(found.maps, torch.cat(expected))
    assert found.maps.shape[2:] == (len(found.tokens), len(found.keys.tokens))
    torch.testing.assert_close(found.maps.sum(dim=-1), torch.ones(found.maps.shape[:-1]))
    assert len(found.sequence_ids) == len(found.tokens)


def test_cross_attention_is_what_is_shown_by_default(load):
    model, tokenizer = load("BartForConditionalGeneration")
    found = attention_maps(model, tokenizer, TEXT, target=TARGET)
    assert found.maps.shape == (3, 2, len(found.tokens), len(found.source.tokens))
    assert found.title == "Cross-attention"


def test_a_decoder_does_not_see_what_comes(load):
    model, tokenizer = load("GPT2LMHeadModel")
    found = attention_maps(model, tokenizer, TEXT)
    assert found.maps.shape == (2, 3, len(found.tokens), len(found.tokens))
    assert torch.equal(found.maps, found.maps.tril())
    assert (found.maps[:, :, -1] > 0).all()
    same = attention_maps(model, tokenizer, TEXT, kind="decoder").maps
    assert torch.equal(found.maps, same)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel"])
def test_without_a_target_the_model_generates_one(name, load):
    model, tokenizer = load(name)
    batch = tokenizer([TEXT], return_tensors="pt")
    written = generate(model, **batch).new_tokens
    found = attention_maps(model, tokenizer, TEXT)
    expected = torch.cat(outputs(model, tokenizer, written).cross_attentions)
    torch.testing.assert_close(found.maps, expected)
    assert len(found.tokens) == written.shape[1] == 5


@pytest.mark.slow
def test_a_classifier_reads_its_text_twice(load):
    model, tokenizer = load("BartForSequenceClassification")
    batch = tokenizer([TEXT], ["un libro"], return_tensors="pt")
    with torch.no_grad():
        result = model(**batch, output_attentions=True)
    for kind in ("encoder", "decoder", "cross"):
        found = attention_maps(model, tokenizer, TEXT, "un libro", kind=kind)
        torch.testing.assert_close(found.maps, torch.cat(getattr(result, f"{kind}_attentions")))
    assert found.tokens == ("</s>", *found.source.tokens[:-1])
    assert found.query_label == "the token that attends"
    assert found.second_text == found.source.second_text + 1


def test_a_model_in_training_mode_is_refused(load):
    model, tokenizer = load("BartForConditionalGeneration")
    model.model.decoder.layers[0].train()
    with pytest.raises(ValueError, match="in training mode.*call model.eval"):
        attention_maps(model, tokenizer, TEXT)
    assert not model.training and model.model.decoder.layers[0].training


# ---- the names ----


def test_a_query_of_cross_attention_is_named_by_the_predicted_token(load):
    model, tokenizer = load("BartForConditionalGeneration")
    found = attention_maps(model, tokenizer, TEXT, target=TARGET)
    assert found.tokens == ("<s>", "ciao", "·", "ñ…", "…ñ", "</s>")
    assert found.sequence_ids == (None, 0, 0, 0, 0, None)
    assert found.query_label == "the token that is predicted"
    assert "".join(found.source.tokens[1:-1]) == "la·ragazza·legge·un·libro"
    assert found.source.sequence_ids[0] is found.source.sequence_ids[-1] is None
    decoder = attention_maps(model, tokenizer, TEXT, kind="decoder", target=TARGET)
    assert decoder.tokens == ("</s>", "<s>", "ciao", "·", "ñ…", "…ñ")
    assert decoder.sequence_ids == (None, None, 0, 0, 0, 0)
    assert decoder.keys == decoder.queries
    encoder = attention_maps(model, tokenizer, TEXT, kind="encoder")
    assert encoder.tokens == found.source.tokens


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BartForConditionalGeneration", ("<s>", "ciao", "·", "…", "…", "</s>")),
        ("T5ForConditionalGeneration", ("·c", "i", "a", "o", "·", "<unk>", "</s>")),
    ],
)
def test_generated_tokens_are_named_too(name, words, load, monkeypatch):
    model, tokenizer = load(name)
    ids = tokenizer(text_target=[TARGET], return_tensors="pt")["input_ids"]

    class Output:
        new_tokens = ids

    monkeypatch.setattr("minitransformer.attention_maps.generate", lambda *_, **__: Output)
    found = attention_maps(model, tokenizer, TEXT)
    assert found.tokens == words
    special = {"<s>", "</s>", "<unk>"}
    assert found.sequence_ids == tuple(None if word in special else 0 for word in words)


# ---- what cannot be computed ----


@pytest.mark.parametrize(
    ("name", "named", "message"),
    [
        ("GPT2LMHeadModel", {"kind": "cross"}, "only attention of the kind 'decoder'"),
        (
            "GPT2LMHeadModel",
            {"target": "a"},
            "only an encoder-decoder has a target, and GPT2LMHead",
        ),
        (
            "BartForConditionalGeneration",
            {"kind": "encoder", "target": "a"},
            "the encoder does not see the target",
        ),
        ("BartForConditionalGeneration", {"target": ""}, "target is '', which has no token"),
        ("BartForConditionalGeneration", {"target": "è" * 40}, "target has 82 tokens.* most 60"),
        ("BartForConditionalGeneration", {"kind": "crosss"}, "did you mean 'cross'"),
        ("BartModel", {}, "a BartModel has no LM head to generate with; give a target"),
        (
            "BartForSequenceClassification",
            {"target": "a"},
            "BartForSequenceClassification reads the source again; leave",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(name, named, message, load):
    model, tokenizer = load(name)
    with pytest.raises(ValueError, match=message):
        attention_maps(model, tokenizer, TEXT, **named)


def test_an_encoder_has_one_kind(load):
    _, tokenizer = load("BartForConditionalGeneration")
    model = RobertaModel(roberta_config(vocab_size=tokenizer.vocab_size)).eval()
    with pytest.raises(ValueError, match="RobertaModel has only attention of the kind 'encoder'"):
        attention_maps(model, tokenizer, "ciao", kind="decoder")
    assert attention_maps(model, tokenizer, "ciao", kind="encoder").title == "Attention"


def test_no_length_of_the_generated_text_is_given(load):
    model, tokenizer = load("BartForConditionalGeneration")
    model.generation_config = type(model.generation_config)()
    with pytest.raises(ValueError, match="sets neither .*set max_new_tokens .*or give a target"):
        attention_maps(model, tokenizer, TEXT)


def test_a_source_of_any_length_fits_into_t5(load):
    model, tokenizer = load("T5ForConditionalGeneration")
    assert attention_maps(model, tokenizer, "ciao " * 40, kind="encoder").maps.shape[-1] > 100


# ---- the pictures ----


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved; rendering them takes long."""
    figure = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib")
    seen = []

    def keep(self, path, **_named):
        seen.append(self)
        path.touch()

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return seen


def texts_of(figure):
    """All visible texts of a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def some_maps(written, read, second=None, heads=2):
    """Random maps of `written` tokens over `read` others."""
    torch.manual_seed(0)
    owners = tuple(int(second is not None and place >= second) for place in range(read))
    source = TokenLabels(tuple(f"s{place}" for place in range(read)), owners)
    maps = torch.randn(2, heads, written, read).softmax(dim=-1)
    names = tuple(f"t{place}" for place in range(written))
    return AttentionMaps(names, maps, (0,) * written, source, "Cross-attention", "the query")


def test_rows_are_queries_and_columns_keys(figures, tmp_path):
    maps = some_maps(4, 9, second=6)
    draw_layer(maps, 1, tmp_path / "layer.png")
    panel = figures[0].axes[0]
    shown = torch.tensor(panel.images[0].get_array())
    torch.testing.assert_close(shown, maps.maps[1, 0])
    assert [label.get_text() for label in panel.get_yticklabels()] == [*maps.tokens]
    assert [label.get_text() for label in panel.get_xticklabels()] == [*maps.source.tokens]
    assert (panel.get_xlim(), panel.get_ylim()) == ((-0.5, 8.5), (3.5, -0.5))
    (line,) = panel.lines  # between the two texts of the source; the target is one
    assert set(line.get_xdata()) == {5.5}
    colours = [label.get_color() for label in panel.get_xticklabels()]
    assert len({*colours[:6]}) == len({*colours[6:]}) == 1 < len({*colours})
    written = texts_of(figures[0])
    assert "Cross-attention in layer 1" in written
    assert "from: the query (query)" in written
    assert any("spread evenly: 0.11" in text for text in written)


@pytest.mark.slow
def test_a_grid_of_maps_that_are_no_squares(figures, tmp_path):
    draw_grid(some_maps(30, 12), tmp_path / "grid.png")
    draw_grid(some_maps(30, 60), tmp_path / "grid.png")
    draw_grid(some_maps(9, 12), tmp_path / "grid.png")
    tall, wide, small = figures
    sizes = [
        [panel.get_window_extent().size for panel in figure.axes if panel.images]
        for figure in (tall, wide, small)
    ]
    assert [len(panels) for panels in sizes] == [4, 4, 4]
    # 150 dots an inch, 0.115 inches a name, from 1 inch to what 24 names take.
    expected = [(12 * 17.25, 414), (414, 414), (12 * 17.25, 9 * 17.25)]
    for panels, (width, height) in zip(sizes, expected, strict=True):
        for panel in panels:
            assert tuple(panel) == pytest.approx((width, height), abs=0.01)
    title = "Cross-attention in 2 layers of 2 heads"
    assert f"{title} (labelled tokens: one in 2 from)" in texts_of(tall)
    assert f"{title} (labelled tokens: one in 2 from, one in 3 to)" in texts_of(wide)
    assert title in texts_of(small)
    assert {texts_of(small).count(f"t{place}") for place in range(9)} == {4}
    assert {texts_of(small).count(f"s{place}") for place in range(12)} == {4}


@pytest.mark.slow
def test_the_picture_of_a_checkpoint(paths, figures, tmp_path):
    path, picture = paths("BartForConditionalGeneration"), tmp_path / "a.png"
    attention_picture(path, TEXT, picture, target=TARGET)
    assert {"Cross-attention in 3 layers of 2 heads", "ciao", "·libro"} <= set(texts_of(figures[0]))
    attention_picture(path, TEXT, picture, kind="encoder", layer=1)
    assert "Encoder self-attention in layer 1" in texts_of(figures[1])
    with pytest.raises(ValueError, match="layer=3 does not exist; the layers are 0 to 2"):
        attention_picture(path, TEXT, picture, kind="decoder", layer=3, target=TARGET)


def test_a_misspelled_kind_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'decoder'"):
        attention_picture(tmp_path / "nowhere", TEXT, tmp_path / "a.png", kind="decoders")


@pytest.mark.slow
def test_the_command(paths, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    picture = tmp_path / "cross.png"
    command = ["attention", str(paths("MarianMTModel")), TEXT, "--out", str(picture)]
    for more in ([], ["--kind", "decoder", "--target", "ciao"], ["--kind", "encoder"]):
        assert main([*command, *more]) == 0
        assert capsys.readouterr().out == f"{picture}\n"
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()
    assert main([*command, "--kind", "encoder", "--target", "ciao"]) == 1
    assert "the encoder does not see the target" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--kind", "self"])
    assert not picture.exists()
