"""The config.json files of seven years of transformers: each is the same model here and there."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from minitransformer import from_pretrained
from minitransformer.hf.config import FAMILIES, config_from_fields, stated_fields
from tests.hf.config_corpus import HISTORIES, TWO, content, versions
from tests.hf.test_loading import edit_config
from tests.tiny import class_of, perturb, random_sequences

# Every file that a family changed; those that only changed what all families share, in two.
LOADED = [
    (family, version)
    for family, (_, history) in HISTORIES.items()
    for version in versions(family)
    if version in history or family in ("gpt2", "bart")
]


PADDED_WITH_1 = "config.json has pad_token_id=0 and eos_token_ids, as transformers 2.4 wrote"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Perturbed weights of each family, saved by transformers from the newest file."""
    paths = {}
    for family, (name, _) in HISTORIES.items():
        their_class = their_class_of(name)
        torch.manual_seed(0)
        model = their_class(their_class.config_class.from_dict(content(family, "5.23")))
        if family == "t5 1.1":  # transformers ties it
            model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(31, 12))
        paths[family] = tmp_path_factory.mktemp(family)
        perturb(model).save_pretrained(paths[family])
        (paths[family] / "generation_config.json").unlink(missing_ok=True)
    return paths


def their_class_of(name: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers' models")
    return getattr(transformers, name.removesuffix(" 1.1"))


@pytest.mark.parametrize(("family", "version"), LOADED)
def test_a_file_of_any_version_is_the_same_function(family, version, checkpoints):
    path, name = checkpoints[family], HISTORIES[family][0]
    fields = content(family, version)
    (path / "config.json").write_text(json.dumps(fields))
    load: Any = from_pretrained if "model_type" in fields else class_of(name).from_pretrained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "architectures" not in fields:
            warnings.filterwarnings("ignore", message=".*the stored classifier is assumed")
        if (family, version) == ("roberta", "2.4"):
            warnings.filterwarnings("ignore", message=PADDED_WITH_1)
        ours = load(path, attention="eager")
    assert type(ours) is class_of(name)

    if (family, version) == ("roberta", "2.5"):
        edit_config(path, pad_token_id=...)  # transformers cannot number positions after null
    theirs = their_class_of(name).from_pretrained(
        path, attn_implementation="eager", return_dict=True
    )
    batch = {"input_ids": random_sequences(2, 9)}
    if theirs.config.is_encoder_decoder:
        batch["decoder_input_ids"] = random_sequences(2, 7, seed=5)
    with torch.no_grad():
        expected = theirs(**batch).logits
        torch.testing.assert_close(ours(**batch).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("error", f"ignore:{PADDED_WITH_1}")
@pytest.mark.parametrize("family", HISTORIES)
def test_all_files_of_a_family_mean_the_same(family):
    """With the fields of every family, as old versions wrote them, and without."""

    def function_of(version: str, whole: bool) -> dict[str, Any]:
        known, path = FAMILIES[family.removesuffix(" 1.1")], Path("config.json")
        names = ["lm_head.weight"] if family == "t5 1.1" else []
        fields = known.adjust(content(family, version, whole=whole), names)
        config = config_from_fields(stated_fields(fields, known, path), known, path, {})
        return {
            field: value
            for field, value in vars(config).items()
            if field != "id2label" and not field.endswith(("_token_id", "dropout"))
        }

    newest = function_of("5.23", whole=True)
    for version in versions(family):
        for whole in (True, False):
            assert function_of(version, whole) == newest, (version, whole)


@pytest.mark.filterwarnings(f"ignore:{PADDED_WITH_1}")
def test_a_padding_token_that_the_writing_version_did_not_use_is_named(checkpoints):
    """Of a RoBERTa: positions begin after it, and in transformers 2.4 it was always 1."""
    path, name = checkpoints["roberta"], HISTORIES["roberta"][0]
    (path / "config.json").write_text(json.dumps(content("roberta", "2.4")))
    with pytest.warns(UserWarning, match=f"{PADDED_WITH_1}.*pass pad_token_id=1"):
        assert from_pretrained(path).config.pad_token_id == 0
    with pytest.warns(UserWarning, match="pad_token_id=1 instead of 0"):
        ours = class_of(name).from_pretrained(path, pad_token_id=1)
    (path / "config.json").write_text(json.dumps(content("roberta", "2.8")))
    ids = random_sequences(2, 9)
    assert torch.equal(ours(ids).logits, from_pretrained(path)(ids).logits)


def test_the_newest_files_are_what_transformers_writes(checkpoints):
    for family, path in checkpoints.items():
        config = their_class_of(HISTORIES[family][0]).config_class.from_dict(
            content(family, "5.23")
        )
        config.save_pretrained(path)
        written = json.loads((path / "config.json").read_text())
        written = TWO | written  # left out as defaults
        fields = content(family, "5.23", whole=False)
        assert {name: value for name, value in fields.items() if written.get(name) != value} == {}
        assert written.keys() <= content(family, "5.23").keys()
