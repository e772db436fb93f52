"""Attention maps and their pictures: the numbers, the names of the tokens, the files."""

import sys

import pytest
import torch

import minitransformer
from minitransformer import (
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaForMaskedLM,
    RobertaModel,
    Tokenizer,
    optimize,
)
from minitransformer.attention_maps import (
    AttentionMaps,
    attention_maps,
    attention_picture,
    draw_grid,
    draw_layer,
)
from tests.tiny import SIZES, bert_config, perturb, roberta_config, save_tiny_bert

TEXT = "ciao, come va? perché la città è più bella, e la ragazza legge un libro.\n"
ITALIAN = "perché la città è bella?"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """One of each algorithm, by name; small, so that rare characters fall apart."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT * 3, encoding="utf-8")
    sizes = {"bpe": 330, "wordpiece": 80, "unigram": 60}
    return {
        algorithm: Tokenizer.train(file, size, algorithm, show_progress=False)
        for algorithm, size in sizes.items()
    }


@pytest.fixture(scope="module")
def roberta(tokenizers):
    torch.manual_seed(0)
    size = tokenizers["bpe"].vocab_size
    return perturb(RobertaModel(roberta_config(vocab_size=size, max_position_embeddings=34)))


@pytest.fixture(scope="module")
def bert(tokenizers):
    torch.manual_seed(0)
    size = tokenizers["wordpiece"].vocab_size
    config = bert_config(vocab_size=size, max_position_embeddings=40, type_vocab_size=2)
    return perturb(BertModel(config))


@pytest.fixture(scope="module")
def path(roberta, tokenizers, tmp_path_factory):
    """A checkpoint."""
    directory = tmp_path_factory.mktemp("model")
    roberta.save_pretrained(directory)
    tokenizers["bpe"].save_pretrained(directory)
    return directory


@pytest.fixture
def picture(tmp_path):
    """Where a picture is drawn to."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    return tmp_path / "picture.png"


def panels_of(figure):
    """The panels with a map, in the order in which they were drawn."""
    return [panel for panel in figure.axes if panel.images]


def sides_of(figure):
    """The set of (width, height) of the panels, in inches to two digits."""
    width, height = figure.get_size_inches()
    boxes = [panel.get_position() for panel in panels_of(figure)]
    return {(round(box.width * width, 2), round(box.height * height, 2)) for box in boxes}


# ---- the numbers ----


@pytest.mark.parametrize("pair", [None, "la ragazza legge"])
def test_the_map_times_the_values_is_the_output_of_attention(bert, tokenizers, pair):
    seen = []
    hooks = [
        part.register_forward_hook(
            lambda module, arguments, output: seen.append((arguments, output))
        )
        for layer in bert.layers
        for part in (layer.attention.value, layer.attention.output)
    ]
    found = attention_maps(bert, tokenizers["wordpiece"], ITALIAN, pair).maps
    for hook in hooks:
        hook.remove()
    assert bert.attention == "sdpa"
    assert len(seen) == 2 * len(found) == 6
    for weights, (_, values), ((gathered,), _) in zip(found, seen[::2], seen[1::2], strict=True):
        heads = values[0].unflatten(-1, (4, 8)).transpose(0, 1)  # (H, T, D)
        expected = (weights @ heads).transpose(0, 1).flatten(1)  # (T, E)
        torch.testing.assert_close(expected, gathered[0], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("optimized", [False, True])
def test_the_maps_are_the_same_however_they_are_computed(roberta, tokenizers, attention, optimized):
    expected = attention_maps(roberta, tokenizers["bpe"], ITALIAN, "un libro").maps
    model = RobertaModel(roberta.config, attention=attention).eval()
    model.load_state_dict(roberta.state_dict())
    if optimized:
        optimize(model)
    found = attention_maps(model, tokenizers["bpe"], ITALIAN, "un libro").maps
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)


def test_every_query_has_a_distribution_and_the_heads_differ(roberta, tokenizers):
    found = attention_maps(roberta, tokenizers["bpe"], ITALIAN)
    length = len(found.tokens)
    assert found.maps.shape == (3, 4, length, length)
    assert len(found.sequence_ids) == length
    torch.testing.assert_close(found.maps.sum(dim=-1), torch.ones(3, 4, length))
    flat = found.maps.flatten(0, 1)
    assert torch.cdist(flat.flatten(1), flat.flatten(1)).fill_diagonal_(1).min() > 0.01


def test_the_second_text_changes_the_token_types(bert, tokenizers):
    batch = tokenizers["wordpiece"](["ciao"], ["va"], return_tensors="pt")
    expected = bert(**batch, output_attentions=True).attentions
    found = attention_maps(bert, tokenizers["wordpiece"], "ciao", "va").maps
    torch.testing.assert_close(found, torch.cat(expected))
    batch["token_type_ids"].zero_()
    without = torch.cat(bert(**batch, output_attentions=True).attentions)
    assert (found - without).abs().max() > 0.01


def test_models_with_a_head_and_without_token_types(tokenizers):
    bpe, wordpiece = tokenizers["bpe"], tokenizers["wordpiece"]
    lm = RobertaForMaskedLM(roberta_config(vocab_size=bpe.vocab_size)).eval()
    assert attention_maps(lm, bpe, "ciao").maps.shape[:2] == (3, 4)
    classifier = BertForSequenceClassification(bert_config(vocab_size=wordpiece.vocab_size))
    assert attention_maps(classifier.eval(), wordpiece, "ciao").maps.shape[:2] == (3, 4)
    distilbert = DistilBertModel(DistilBertConfig(**SIZES | {"vocab_size": bpe.vocab_size}))
    assert attention_maps(distilbert.eval(), bpe, "ciao").maps.shape[:2] == (3, 4)


def test_a_model_in_training_mode_is_refused(tokenizers):
    model = RobertaModel(roberta_config(vocab_size=tokenizers["bpe"].vocab_size)).eval()
    model.layers[1].feed_forward_dropout.train()
    with pytest.raises(ValueError, match="in training mode.*call model.eval"):
        attention_maps(model, tokenizers["bpe"], "ciao")
    assert [name for name, part in model.named_modules() if part.training] == [
        "layers.1.feed_forward_dropout"
    ]


# ---- the names of the tokens ----


def test_byte_level_tokens_are_named_by_the_characters_of_the_text(roberta, tokenizers):
    found = attention_maps(roberta, tokenizers["bpe"], "ciao perché la città <mask>", "è ñ")
    assert found.tokens == (
        *("<s>", "ciao", "·perché", "·la", "·città", "<mask>", "</s>"),
        *("</s>", "è", "·", "ñ…", "…ñ", "</s>"),
    )
    assert found.sequence_ids == (None, 0, 0, 0, 0, 0, None, None, 1, 1, 1, 1, None)
    assert found.second_text == 8


def test_a_character_of_four_tokens(roberta, tokenizers):
    found = attention_maps(roberta, tokenizers["bpe"], "è😀\n日!")
    assert found.tokens[1:-1] == (
        *("è", "😀…", "…😀…", "…😀…", "…😀", "↵", "日…", "…日…", "…日", "!"),
    )
    assert found.second_text is None


def test_wordpiece_tokens_keep_their_marks(bert, tokenizers):
    tokens = attention_maps(bert, tokenizers["wordpiece"], "la cittàla 日", "va").tokens
    assert tokens[:2] == ("[CLS]", "la")
    assert "".join(tokens[2 : tokens.index("[UNK]")]).replace("##", "") == "cittàla"
    assert tokens[3].startswith("##")
    assert tokens[-4:] == ("[UNK]", "[SEP]", "va", "[SEP]")


def test_unigram_tokens_show_their_spaces(tokenizers):
    unigram = tokenizers["unigram"]
    model = RobertaModel(roberta_config(vocab_size=unigram.vocab_size)).eval()
    tokens = attention_maps(model, unigram, "la città <mask>").tokens
    assert "".join(tokens[1:-2]) == "·la·città"
    assert tokens[-2:] == ("<mask>", "</s>")


# ---- what cannot be computed ----


def test_a_text_that_is_too_long_is_not_truncated(roberta, tokenizers):
    fits = "a" * 30
    assert len(attention_maps(roberta, tokenizers["bpe"], fits).tokens) == 32
    with pytest.raises(ValueError, match="the text has 33 tokens, .*at most 32; shorten the text"):
        attention_maps(roberta, tokenizers["bpe"], fits + "a")
    with pytest.raises(ValueError, match="two texts have 36 tokens, .*at most 32; shorten one"):
        attention_maps(roberta, tokenizers["bpe"], fits, "aa")


def test_a_text_without_a_token(roberta, bert, tokenizers):
    with pytest.raises(ValueError, match="text 0 is '', which has no token"):
        attention_maps(roberta, tokenizers["bpe"], "")
    with pytest.raises(ValueError, match="text 1 is ' ', which has no token"):
        attention_maps(bert, tokenizers["wordpiece"], "ciao", " ")


def test_a_tokenizer_of_another_model(tokenizers):
    model = BertModel(bert_config(vocab_size=50)).eval()
    with pytest.raises(ValueError, match="they do not belong together"):
        attention_maps(model, tokenizers["wordpiece"], "ciao")


# ---- the pictures ----


def some_maps(length, layers=3, heads=4, second=None):
    """Random maps; the names are those of no tokenizer."""
    torch.manual_seed(0)
    owners = tuple(int(second is not None and place >= second) for place in range(length))
    maps = torch.randn(layers, heads, length, length).softmax(dim=-1)
    return AttentionMaps(tuple(f"t{place}" for place in range(length)), maps, owners)


def texts_of(figure):
    """All visible texts of a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


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


# Inches: 24 labels of 0.115 take 2.76, 30 labels 3.45; no panel of a grid is smaller than 1.
@pytest.mark.parametrize(("length", "side"), [(5, 1.0), (24, 2.76), (60, 2.76)])
def test_a_grid_grows_with_its_labels_up_to_a_limit(length, side, figures, picture):
    draw_grid(some_maps(length, layers=2, heads=3), picture)
    assert len(panels_of(figures[0])) == 6
    assert sides_of(figures[0]) == {(side, side)}
    # The gaps between the panels are a tenth of an inch.
    expected = [3 * side + 2 * 0.1, 2 * side + 0.1]
    assert figures[0].get_size_inches().tolist() == pytest.approx(expected)


def test_the_panels_of_one_layer_are_large(figures, picture):
    draw_layer(some_maps(30), 1, picture)
    assert sides_of(figures[0]) == {(3.45, 3.45)}


def test_heads_that_fill_no_rectangle(figures, picture):
    draw_layer(some_maps(5, heads=5), 0, picture)
    corners = [panel.get_position() for panel in panels_of(figures[0])]
    across, down = ([round(getattr(c, side), 6) for c in corners] for side in ("x0", "y1"))
    assert across[:3] == sorted(set(across)) and across[3:] == across[:2]
    assert down == [down[0]] * 3 + [down[3]] * 2 and down[3] < down[0]


@pytest.mark.parametrize("length", [9, 200])
def test_uniform_attention_is_visible_however_long_the_text(length, figures, picture):
    maps = some_maps(length, layers=2, heads=3)
    maps.maps.fill_(1 / length)
    draw_grid(maps, picture)
    maps.maps[0, 0] = torch.eye(length)
    draw_grid(maps, picture)
    for figure, colour in zip(figures, (1.0, 0.2), strict=True):
        shown = [panel.images[0] for panel in panels_of(figure)]
        assert {image.get_cmap().name for image in shown} == {"Blues"}
        colours = [float(image.norm(1 / length)) for image in shown]
        assert colours == pytest.approx([colour] * 6)
        assert {float(image.norm(0.0)) for image in shown} == {0.0}


def test_every_panel_shows_its_own_map(figures, tmp_path):
    maps = some_maps(6)
    draw_grid(maps, tmp_path / "grid.png")
    draw_layer(maps, 2, tmp_path / "layer.png")
    for figure, expected in zip(figures, (maps.maps, maps.maps[2]), strict=True):
        panels = panels_of(figure)
        shown = torch.stack([torch.tensor(panel.images[0].get_array()) for panel in panels])
        torch.testing.assert_close(shown, expected.view(-1, 6, 6))
        # In this order from left to right and from top to bottom.
        places = [(round(-p.get_position().y0, 6), p.get_position().x0) for p in panels]
        assert places == sorted(places)


@pytest.mark.slow
def test_the_labels_around_the_panels(figures, tmp_path):
    draw_grid(some_maps(24), tmp_path / "grid.png")
    written = texts_of(figures[0])
    assert "Attention in 3 layers of 4 heads" in written
    assert {"layer 0", "layer 2", "head 0", "head 3"} <= set(written)
    assert any("from" in text and "query" in text for text in written)
    assert any("to" in text and "key" in text for text in written)
    # Four outer panels name the keys above and four below, three the queries on either side.
    assert {written.count(f"t{place}") for place in range(24)} == {14}
    draw_grid(some_maps(60), tmp_path / "grid.png")
    written = texts_of(figures[1])
    assert "Attention in 3 layers of 4 heads (one token in 3 is labelled)" in written
    assert "t57" in written
    assert "t58" not in written
    draw_layer(some_maps(60), 2, tmp_path / "layer.png")
    written = texts_of(figures[2])
    assert "Attention in layer 2" in written
    assert {written.count(f"t{place}") for place in range(60)} == {8}


def test_two_texts_are_marked_differently(figures, tmp_path):
    maps = some_maps(12, second=5)
    maps = AttentionMaps(maps.tokens, maps.maps, (None, *maps.sequence_ids[1:]))
    draw_layer(maps, 0, tmp_path / "pair.png")
    for panel in figures[0].axes[:4]:
        across, down = panel.lines
        assert set(across.get_ydata()) == set(down.get_xdata()) == {4.5}
        assert panel.get_xlim() == (-0.5, 11.5)
        assert panel.get_ylim() == (11.5, -0.5)
        for labels in (panel.get_xticklabels(), panel.get_yticklabels()):
            colours = [label.get_color() for label in labels]
            assert len({colours[0], *colours[1:5]}) == 2
            assert len({*colours[1:5]}) == len({*colours[5:]}) == 1
            assert len({*colours}) == 3
    draw_layer(some_maps(12), 0, tmp_path / "single.png")
    assert not any(panel.lines for panel in figures[1].axes)


@pytest.mark.filterwarnings("error")
def test_tokens_that_no_font_has_and_tokens_like_formulas(figures, tmp_path, monkeypatch):
    from matplotlib import rcParams

    monkeypatch.setitem(rcParams, "font.family", ["DejaVu Sans"])  # it comes with matplotlib
    names = ("日本", "😀", "\x00", "$x$", "$\\frac$", "e\u0301", "l" + "o" * 40 + "ng", "à", "")
    maps = AttentionMaps(names, some_maps(9, layers=1).maps, (0,) * 9)
    draw_grid(maps, tmp_path / "grid.png")
    figures[0].draw_without_rendering()  # would warn
    written = set(texts_of(figures[0]))
    assert {"U+65E5U+672C", "U+0000", "$x$", "$\\frac$", "e\u0301", "à"} <= written
    assert "l" + "o" * 16 + "…" in written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")]
)
def test_the_other_formats(suffix, start, picture):
    picture = picture.with_suffix(suffix)
    draw_layer(some_maps(5), 0, picture)
    assert picture.read_bytes().startswith(start)


def test_an_old_picture_is_replaced_atomically(picture):
    picture.write_bytes(b"old")
    picture.with_name("link").hardlink_to(picture)
    draw_grid(some_maps(5), picture)
    assert picture.with_name("link").read_bytes() == b"old"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_failed_write_leaves_the_old_picture(picture, monkeypatch):
    from matplotlib.figure import Figure

    picture.write_bytes(b"old")

    def half(_figure, path, **_named):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        draw_grid(some_maps(5), picture)
    assert picture.read_bytes() == b"old"
    assert list(picture.parent.iterdir()) == [picture]


# ---- from a checkpoint ----


def test_the_picture_of_a_checkpoint(path, figures, tmp_path):
    attention_picture(path, ITALIAN, tmp_path / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert "Attention in 3 layers of 4 heads" in texts_of(figures[0])
    attention_picture(path, "ciao", tmp_path / "layer.png", pair="è", layer=1)
    assert {"Attention in layer 1", "ciao", "è"} <= set(texts_of(figures[1]))


@pytest.mark.parametrize("layer", [3, -1])
def test_a_layer_that_is_not_there(layer, path, picture):
    with pytest.raises(ValueError, match=f"layer={layer} does not exist; the layers are 0 to 2"):
        attention_picture(path, "ciao", picture, layer=layer)
    with pytest.raises(ValueError, match=f"layer={layer} does not exist; the layers are 0 to 2"):
        draw_layer(some_maps(5), layer, picture)
    assert not picture.exists()


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test if a model is loaded."""

    def loaded(*_arguments, **_named):
        pytest.fail("the model was loaded first")

    monkeypatch.setattr("minitransformer.attention_maps.from_pretrained", loaded)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grid.jpg", "grid.jpg' must end in one of .png, .pdf, .svg"),
        ("grid", "must end in one of"),
        ("nowhere/grid.png", "nowhere/grid.png': the directory does not exist"),
        ("taken.png", "taken.png' is a directory"),
    ],
)
def test_a_bad_path_is_refused_before_anything_is_computed(name, message, no_model, tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(ValueError, match=message):
        attention_picture("path", "ciao", tmp_path / name)
    with pytest.raises(ValueError, match=message):
        draw_grid(some_maps(5), tmp_path / name)
    with pytest.raises(ValueError, match=message):
        draw_layer(some_maps(5), 0, tmp_path / name)


def test_without_matplotlib(no_model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pictures need matplotlib: pip install matplotlib"):
        attention_picture("path", "ciao", tmp_path / "grid.png")


@pytest.mark.parametrize("family", ["DistilBert", "Roberta"])
def test_a_tokenizer_with_types_for_a_model_without(family, tmp_path):
    """BERT's tokenizer is saved with many a DistilBERT."""
    save_tiny_bert(tmp_path, ["the cat sat on the mat"] * 5)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.token_types
    config = getattr(minitransformer, f"{family}Config")(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        pad_token_id=tokenizer.pad_token_id,
    )
    getattr(minitransformer, f"{family}Model")(config).save_pretrained(tmp_path)
    attention_picture(tmp_path, "the cat", tmp_path / "a.png", pair="sat")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
