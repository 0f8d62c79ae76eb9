"""Phrases are embedded as the published models embed them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as library
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import vits
from mammo_sae.errors import InputError
from mammo_sae.stores.tables import write_table
from mammo_sae.texts import embed_phrases
from mammo_sae.texts.joint import Joint, load_joint
from mammo_sae.texts.settings import MammoClipText, TableText, TransformersText
from mammo_sae.texts.vocabulary import read_vocabulary

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "mass", "marker", "dog", "##s", "in"]
PHRASES = ["a mass", "A marker in a mass", "masss", "a dog"]
BERT = "text_encoder."
PROJECT = Path(__file__).parents[2]


class MammoClip(nn.Module):
    """The text side of Mammo-CLIP, and the projections, with its published names."""

    def __init__(self) -> None:
        super().__init__()
        config = library.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=96,
            max_position_embeddings=300,
        )
        self.text_encoder = nn.Module()
        self.text_encoder.text_encoder = library.BertModel(config)
        for name, width in (("text_projection", 128), ("image_projection", 24)):
            head = nn.Module()
            head.projection = nn.Linear(width, 16)
            setattr(self, name, head)

    def text(self, tokens) -> torch.Tensor:
        states = self.text_encoder.text_encoder(**tokens).last_hidden_state
        last = tokens["attention_mask"].sum(dim=-1) - 1
        found = self.text_projection.projection(states[torch.arange(len(states)), last])
        return found / found.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def model() -> MammoClip:
    torch.manual_seed(0)
    made = MammoClip().eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def tokenizer(folder: Path) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def checkpoint(model: nn.Module, path: Path, **changes) -> Path:
    state = model.state_dict()
    # Older versions of `transformers` saved the position ids.
    state["text_encoder.text_encoder.embeddings.position_ids"] = torch.arange(300)[None]
    state["logit_scale"] = torch.tensor(2.0)
    content = {"model": state, "config": {"model": {"text_encoder": {"pooling": "eos"}}}}
    torch.save({**content, **changes}, path)
    return path


def vocabulary(folder: Path, phrases=PHRASES) -> Path:
    groups = ["finding", "artefact", "finding", "decoy"][: len(phrases)]
    frame = pd.DataFrame({"phrase": phrases, "group": groups, "label": ["Mass", "marker", "", ""]})
    write_table(frame, folder / "vocabulary.csv")
    return folder / "vocabulary.csv"


def embedded(source, folder: Path, of: Path) -> Joint:
    paths = {"phrases": folder / "phrases.parquet", "vectors": folder / "phrases.safetensors"}
    assert embed_phrases.run(source, vocabulary=of, **paths) == list(paths.values())
    return load_joint(*paths.values())


def mammo_clip(model, folder: Path, **changes) -> MammoClipText:
    folder.mkdir(exist_ok=True)
    return MammoClipText(
        kind="mammo_clip",
        encoder="pretrained",
        path=checkpoint(model, folder / "b2.tar", **changes).as_posix(),
        tokenizer=tokenizer(folder / "bert").as_posix(),
    )


def test_phrases_of_mammo_clip_equal_those_of_transformers(model, tmp_path):
    joint = embedded(mammo_clip(model, tmp_path), tmp_path, vocabulary(tmp_path))
    tokens = library.BertTokenizer.from_pretrained(tmp_path / "bert")(
        PHRASES, padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model.text(tokens).numpy()
    assert np.abs(joint.vectors @ joint.vectors.T - expected @ expected.T).max() < 1e-5
    assert np.abs(joint.vectors - expected).max() < 1e-5
    # Case does not count, as in the published use of the tokenizer.
    assert tokens["input_ids"][1].tolist()[:5] == [2, 5, 7, 10, 5]
    assert joint.table["label"].tolist() == ["Mass", "marker", "", ""]
    assert joint.decoys.tolist() == [False, False, False, True]


class MammoFm(nn.Module):
    """The text side of Mammo-FM with its published names: a ModernBERT that is not wrapped."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = encoder
        for name, width in (("text_projection", 128), ("image_projection", 24)):
            head = nn.Module()
            head.projection = nn.Linear(width, 16)
            setattr(self, name, head)

    def text(self, tokens) -> torch.Tensor:
        """The published code, which takes the states before the final norm."""
        found = {}
        last_layer = self.text_encoder.layers[-1]
        hook = last_layer.register_forward_hook(lambda _m, _x, y: found.update(states=y))
        self.text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        hook.remove()
        last = tokens["attention_mask"].sum(dim=-1) - 1
        pooled = found["states"][torch.arange(len(last)), last]
        vectors = self.text_projection.projection(pooled)
        return vectors / vectors.norm(dim=1, keepdim=True)


def modern_bert() -> nn.Module:
    """A small ModernBERT with layers that attend to the whole text, and others."""
    return library.ModernBertModel(
        library.ModernBertConfig(
            vocab_size=60, hidden_size=128, num_hidden_layers=4, num_attention_heads=2,
            intermediate_size=96, pad_token_id=1,
        )
    )  # fmt: skip


def mammo_fm(words, folder: Path, encoder: nn.Module) -> tuple[MammoFm, MammoClipText]:
    torch.manual_seed(0)
    made = MammoFm(encoder).eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    words.save_pretrained(folder / "modern")
    content = {
        "model": made.state_dict(),
        "config": {"model": {"text_encoder": {"pooling": "eos"}}},
    }
    torch.save(content, folder / "fm.tar")
    source = MammoClipText(
        kind="mammo_clip",
        encoder="pretrained",
        path=(folder / "fm.tar").as_posix(),
        tokenizer=(folder / "modern").as_posix(),
    )
    return made, source


LONG = " ".join(["a mass in a dog"] * 20)  # longer than the window of a layer that sees a part


def test_phrases_of_mammo_fm_equal_those_of_transformers(words, tmp_path):
    made, source = mammo_fm(words, tmp_path, modern_bert())
    phrases = [*PHRASES[:3], LONG]
    joint = embedded(source, tmp_path, vocabulary(tmp_path, phrases))
    with torch.inference_mode():
        expected = made.text(words(phrases, padding=True, return_tensors="pt")).numpy()
    assert np.abs(joint.vectors - expected).max() < 1e-5
    features = torch.randn(5, 24)
    with torch.inference_mode():
        shown = nn.functional.normalize(made.image_projection.projection(features)).numpy()
    np.testing.assert_allclose(joint.embedded(features.numpy()), shown, atol=1e-6)


def test_a_bert_whose_names_have_one_prefix_is_read_as_with_two(model, tmp_path):
    twice = embedded(mammo_clip(model, tmp_path), tmp_path, vocabulary(tmp_path))
    source = mammo_clip(model, tmp_path / "once")
    content = torch.load(source.path)
    names = {key: key.replace(f"{BERT}{BERT}", BERT) for key in content["model"]}
    content["model"] = {names[key]: value for key, value in content["model"].items()}
    assert f"{BERT}embeddings.word_embeddings.weight" in content["model"]
    torch.save(content, source.path)
    found = embedded(source, tmp_path / "once", vocabulary(tmp_path))
    assert np.array_equal(twice.vectors, found.vectors)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("text_encoder.layers.0.mlp.Wi.weight", r"text encoder: lacks layers\.0\.mlp\.Wi\.weight"),
        ("text_encoder.layers.2.attn.Wo.weight", r"lacks layers\.2\.attn\.Wo\.weight: it is of"),
        ("text_projection.projection.bias", "has no linear projection text_projection"),
    ],
)
def test_a_checkpoint_of_mammo_fm_that_lacks_weights_is_refused(key, said, words, tmp_path):
    _, source = mammo_fm(words, tmp_path, modern_bert())
    content = torch.load(source.path)
    del content["model"][key]
    torch.save(content, source.path)
    with pytest.raises(InputError, match=said):
        embedded(source, tmp_path, vocabulary(tmp_path))


def test_images_of_mammo_clip_are_projected_as_published(model, tmp_path):
    joint = embedded(mammo_clip(model, tmp_path), tmp_path, vocabulary(tmp_path))
    features = torch.randn(5, 24)
    with torch.inference_mode():
        expected = nn.functional.normalize(model.image_projection.projection(features)).numpy()
    np.testing.assert_allclose(joint.embedded(features.numpy()), expected, atol=1e-6)


def test_a_checkpoint_without_a_text_encoder_is_refused(model, tmp_path):
    source = mammo_clip(model, tmp_path)
    torch.save({"model": {"image_encoder.weight": torch.zeros(2)}}, source.path)
    with pytest.raises(InputError, match="it is of no network of Mammo-CLIP's pretraining"):
        embedded(source, tmp_path, vocabulary(tmp_path))


def test_a_checkpoint_without_projections_is_refused(model, tmp_path):
    source = mammo_clip(model, tmp_path)
    content = torch.load(source.path)
    kept = {k: v for k, v in content["model"].items() if "projection" not in k}
    torch.save({"model": kept}, source.path)
    with pytest.raises(
        InputError, match=r"has no linear projection text_projection\.projection; gi"
    ):
        embedded(source, tmp_path, vocabulary(tmp_path))


def test_another_pooling_of_the_text_is_refused(model, tmp_path):
    config = {"model": {"text_encoder": {"pooling": "mean"}}}
    source = mammo_clip(model, tmp_path, config=config)
    with pytest.raises(InputError, match="pools its text by 'mean', and only 'eos'"):
        embedded(source, tmp_path, vocabulary(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(model, tmp_path):
    source = mammo_clip(model, tmp_path)
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join([*WORDS, "more", "words"]))
    with pytest.raises(InputError, match=r"has 13 tokens and checkpoint .* 11; give the tokenizer"):
        embedded(source, tmp_path, vocabulary(tmp_path))


def test_a_missing_tokenizer_is_named(model, tmp_path):
    source = mammo_clip(model, tmp_path).model_copy(update={"tokenizer": "nowhere"})
    with pytest.raises(InputError, match="folder nowhere does not exist; give the folder of the"):
        embedded(source, tmp_path, vocabulary(tmp_path))


@pytest.fixture
def words(tmp_path):
    """A tokenizer of whole words, with 60 tokens, as the small models have."""
    known = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", "a", "mass", "dog", "in"])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return library.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_phrases_and_images_of_clip_and_siglip_equal_those_of_transformers(
    kind, words, tmp_path, monkeypatch
):
    # SigLIP's texts end in the space of its images, without a projection of these.
    monkeypatch.setitem(vits.TEXT, "projection_size", vits.SMALL["hidden_size"])
    folder = tmp_path / kind
    model = vits.write(kind, folder)
    words.save_pretrained(folder)
    source = TransformersText(kind="transformers", encoder="e", path=folder.as_posix())
    joint = embedded(source, tmp_path, vocabulary(tmp_path))
    filled = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 64}
    tokens = words(PHRASES, return_tensors="pt", **filled)
    given = {"input_ids": tokens["input_ids"]}
    given |= {"attention_mask": tokens["attention_mask"]} if kind == "clip" else {}
    images = torch.randn(3, 3, 56, 56)
    with torch.inference_mode():
        expected = nn.functional.normalize(model.get_text_features(**given).pooler_output)
        shown = nn.functional.normalize(model.get_image_features(images).pooler_output).numpy()
        pooled = model.vision_model(images).pooler_output.numpy()
    assert np.abs(joint.vectors - expected.numpy()).max() < 1e-5
    np.testing.assert_allclose(joint.embedded(pooled), shown, atol=1e-5)
    assert (joint.projection is None) == (kind == "siglip")
    assert source.pooling == {"clip": "cls", "siglip": "attention"}[kind]
    assert {Path(path).name for path in source.files} >= {"config.json", "tokenizer.json"}


def test_a_text_encoder_of_other_shapes_is_refused(words, tmp_path):
    vits.write("clip", tmp_path / "clip")
    words.save_pretrained(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 40
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    source = TransformersText(kind="transformers", encoder="e", path=f"{tmp_path}/clip")
    with pytest.raises(InputError, match=r"has other shapes of text_model\.\S+mlp\.fc1\.bias, "):
        embedded(source, tmp_path, vocabulary(tmp_path))


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("text_config", {"num_hidden_layers": 1}, r"text_model\.encoder\.layers\.1\.\S+, "),
        ("vision_config", {"num_hidden_layers": 2}, r"vision_model\.encoder\.layers\.2\.\S+, "),
    ],
)
def test_a_model_of_which_the_configuration_would_leave_out_blocks_is_refused(
    part, changes, said, words, tmp_path, monkeypatch
):
    monkeypatch.setitem(vits.TEXT, "num_hidden_layers", 2)
    vits.write("clip", tmp_path / "clip")
    words.save_pretrained(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config[part] |= changes
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    source = TransformersText(kind="transformers", encoder="e", path=f"{tmp_path}/clip")
    with pytest.raises(InputError, match=rf"clip has {said}.* which CLIPModel of its config"):
        embedded(source, tmp_path, vocabulary(tmp_path))


def test_a_phrase_that_would_be_cut_is_refused(words, tmp_path):
    vits.write("siglip", tmp_path / "siglip")
    words.save_pretrained(tmp_path / "siglip")
    source = TransformersText(kind="transformers", encoder="e", path=f"{tmp_path}/siglip")
    for count in (62, 63):  # and two tokens for the beginning and the end
        long = " ".join(["mass"] * count)
        (tmp_path / "v.csv").write_text(f"phrase\na dog\n{long}\n")
        if count == 62:
            assert len(embedded(source, tmp_path, tmp_path / "v.csv").vectors) == 2
            continue
        with pytest.raises(InputError, match="has 65 tokens, and the text encoder reads 64; short"):
            embedded(source, tmp_path, tmp_path / "v.csv")


def test_a_model_without_text_is_refused(tmp_path):
    vits.write("dinov2", tmp_path / "dinov2")
    source = TransformersText(kind="transformers", encoder="e", path=f"{tmp_path}/dinov2")
    with pytest.raises(InputError, match="of kind dinov2, which has no text encoder"):
        embedded(source, tmp_path, vocabulary(tmp_path))


VECTORS = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0]], np.float32)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_gives_ready_vectors_in_the_order_of_the_vocabulary(suffix, tmp_path):
    path = tmp_path / f"table.{suffix}"
    frame = pd.DataFrame({"phrase": PHRASES[::-1]})
    if suffix == "parquet":
        frame["vector"] = list(VECTORS[::-1])
        frame.to_parquet(path)
    else:
        frame.join(pd.DataFrame(VECTORS[::-1])).to_csv(path, index=False)
    weight = {"weight": torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0]])}
    torch.save(weight, tmp_path / "w.pt")
    source = TableText(
        kind="table", encoder="e", path=path.as_posix(), projection=f"{tmp_path}/w.pt"
    )
    joint = embedded(source, tmp_path, vocabulary(tmp_path))
    np.testing.assert_allclose(joint.vectors[0], [0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(joint.vectors[1], [0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(joint.embedded(np.eye(3)), [[1, 0], [0, 0], [0, 1]], atol=1e-6)
    # The mean of the phrases that are no decoys is subtracted.
    centred = joint.vectors[0] - joint.vectors[:3].mean(axis=0)
    np.testing.assert_allclose(joint.contrasts[0], centred / np.linalg.norm(centred), atol=1e-6)


def test_a_table_that_lacks_a_phrase_is_refused(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"phrase": PHRASES[:3], "vector": list(VECTORS[:3])}).to_parquet(path)
    source = TableText(kind="table", encoder="e", path=path.as_posix())
    with pytest.raises(InputError, match="no vector for 'a dog' and 0 other phrases"):
        embedded(source, tmp_path, vocabulary(tmp_path))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("text,group\na,b\n", "has no column phrase; name its columns phrase, group, label"),
        ('phrase,group\na,b\n\n" ",b\n', "line 4: the phrase is empty"),
        ("phrase,group\na, b,finding\n", "line 2: has 3 cells; .* between quotation marks"),
        ("", "vocabulary .*csv: it is empty; a header row is needed"),
        ("phrase\na\nb\na\n", "the phrase 'a' is there twice"),
        ("phrase,group\na,finding\nb,decoy\n", "fewer than two phrases that are no decoys"),
    ],
)
def test_a_wrong_vocabulary_is_refused(rows, said, tmp_path):
    (tmp_path / "vocabulary.csv").write_text(rows)
    source = TableText(kind="table", encoder="e", path="none.parquet")
    with pytest.raises(InputError, match=said):
        embedded(source, tmp_path, tmp_path / "vocabulary.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";"])
def test_a_vocabulary_is_read_as_any_program_saves_it(encoding, mark, tmp_path):
    lines = [
        "phrase,group",
        "Kalk größer 5 mm,finding",
        "",
        "Hautfältchen,",
        "ein Hund,Decoy",
    ]
    text = "\r\n".join(lines).replace(",", mark)
    (tmp_path / "v.csv").write_bytes(text.encode(encoding))
    table = read_vocabulary(tmp_path / "v.csv")
    assert table["phrase"].tolist() == ["Kalk größer 5 mm", "Hautfältchen", "ein Hund"]
    assert table["group"].tolist() == ["finding", "", "decoy"]
    assert table["label"].tolist() == ["", "", ""]


def test_a_phrase_is_found_in_a_table_that_composes_its_letters_otherwise(tmp_path):
    names = ["Hautfältchen", "Brustwarze"]
    frame = pd.DataFrame({"phrase": [unicodedata.normalize("NFD", name) for name in names]})
    frame.assign(vector=list(VECTORS[:2])).to_parquet(tmp_path / "t.parquet")
    source = TableText(kind="table", encoder="e", path=f"{tmp_path}/t.parquet")
    write_table(pd.DataFrame({"phrase": names}), tmp_path / "v.csv")
    joint = embedded(source, tmp_path, tmp_path / "v.csv")
    np.testing.assert_allclose(joint.vectors, [[0.6, 0.8], [0, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0, 2.0], [1.0]], "not lists of equally many numbers"),
        ([[1.0, 2.0], [1.0, float("nan")]], "empty or not finite"),
        ([[], []], "empty or not finite"),
        ([["a", "b"], ["c", "d"]], "not lists of equally many numbers"),
    ],
)
def test_vectors_of_another_length_are_refused(vectors, said, tmp_path):
    frame = pd.DataFrame({"phrase": ["a", "b"], "vector": vectors})
    frame.to_parquet(tmp_path / "t.parquet")
    source = TableText(kind="table", encoder="e", path=f"{tmp_path}/t.parquet")
    write_table(pd.DataFrame({"phrase": ["a", "b"]}), tmp_path / "v.csv")
    with pytest.raises(InputError, match=said):
        embedded(source, tmp_path, tmp_path / "v.csv")


def test_phrases_that_look_like_missing_values_are_phrases(tmp_path):
    (tmp_path / "t.csv").write_text("phrase,0,1\nNone,3,4\nNA,0,2\n")
    (tmp_path / "v.csv").write_text("phrase\nNA\nNone\n")
    source = TableText(kind="table", encoder="e", path=f"{tmp_path}/t.csv")
    joint = embedded(source, tmp_path, tmp_path / "v.csv")
    assert joint.table["phrase"].tolist() == ["NA", "None"]
    np.testing.assert_allclose(joint.vectors, [[0, 1], [0.6, 0.8]], atol=1e-6)


def test_a_row_without_a_phrase_and_a_column_without_a_name_are_refused(tmp_path):
    pd.DataFrame({"phrase": ["a", None], "vector": list(VECTORS[:2])}).to_parquet(
        tmp_path / "t.parquet"
    )
    pd.DataFrame({"phrase": ["a", "b"]}).join(pd.DataFrame(VECTORS[:2])).to_csv(tmp_path / "t.csv")
    write_table(pd.DataFrame({"phrase": ["a", "b"]}), tmp_path / "v.csv")
    for name, said in (("t.parquet", "row 2 has no phrase"), ("t.csv", "a column without a name")):
        source = TableText(kind="table", encoder="e", path=f"{tmp_path}/{name}")
        with pytest.raises(InputError, match=said):
            embedded(source, tmp_path, tmp_path / "v.csv")


def test_phrases_of_another_width_than_the_encoder_are_refused(tmp_path):
    frame = pd.DataFrame({"phrase": PHRASES, "vector": list(VECTORS)})
    frame.to_parquet(tmp_path / "t.parquet")
    source = TableText(kind="table", encoder="e", path=f"{tmp_path}/t.parquet")
    joint = embedded(source, tmp_path, vocabulary(tmp_path))
    with pytest.raises(InputError, match="has 3 features and the phrases' space takes 2; set text"):
        joint.embedded(np.eye(3))


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(InputError, match=r"vocabulary \S+ can't be read \(No such file .*correct"):
        read_vocabulary(tmp_path / "nowhere.csv")


def test_the_vocabulary_of_the_project_has_phrases_of_all_groups_and_decoys():
    table = read_vocabulary(PROJECT / "config" / "vocabulary.csv")
    counts = table["group"].value_counts()
    groups = {"finding", "descriptor", "tissue", "acquisition", "artefact", "decoy"}
    assert set(counts.index) == groups
    assert counts.min() >= 10
    assert {"Mass", "Suspicious Calcification", "marker", "DENSITY D"} <= set(table["label"])
    assert (table.loc[table["group"] == "decoy", "label"] == "").all()
