"""Every family beside CLIP, tiny and of random weights, against transformers' own processor and features."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tiny_clips
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from tiny import save_clip

from synthgen import devices
from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.filters import class_agreement, near_duplicate_embedding, prompt_agreement, unlabelled
from synthgen.grounders import everything
from synthgen.models.clip import ClipConfig, ClipFiles, ClipModel
from synthgen.models.clip_families import FAMILIES, Cosine
from synthgen.models.weights import stored_number
from synthgen.types import Category, Instances, Job, Sample

NAMES = ["siglip", "siglip2", "metaclip_2"]
CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
REQUEST = Request(64, 64, has_layout=True, words=frozenset())
TEXTS = ["a photo of a cat", "two dogs on grass"]
IMAGES = [np.random.default_rng(i).integers(0, 256, (20 + 9 * i, 50, 3)).astype(np.uint8) for i in range(3)]
# Each option that a model's cosines are compared with, and a backend that has it.
COSINES = [
    (class_agreement, "min", "model"),
    (prompt_agreement, "min", "model"),
    (near_duplicate_embedding, "max_cosine", "model"),
    (everything, "agreement", "clip"),
    (unlabelled, "agreement", "clip"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clips")
    return {name: tiny_clips.save(name, root) for name in NAMES}


@pytest.fixture(autouse=True)
def forget():
    before = devices.loaded()
    yield
    devices.forget(devices.loaded().keys() - before)


def config(folder: Path, **more: Any) -> ClipConfig:
    return ClipConfig(use="clip", model=str(folder), **{"device": "cpu", "torch_dtype": "float32", **more})


def upstream(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of `IMAGES` and `TEXTS`, as the model's page in transformers' documentation makes them."""
    model: Any = getattr(transformers, FAMILIES[name].model).from_pretrained(folder).eval()
    processor: Any = getattr(transformers, FAMILIES[name].processor).from_pretrained(folder)
    padding = {"padding": True} if name == "metaclip_2" else {"padding": "max_length", "max_length": 64}
    inputs = processor(text=TEXTS, images=IMAGES, return_tensors="pt", truncation=True, **padding)
    texts = {key: inputs.pop(key) for key in ("input_ids", "attention_mask") if key in inputs}
    with torch.inference_mode():
        found = model.get_image_features(**inputs).pooler_output, model.get_text_features(**texts).pooler_output
    pictures, words = (torch.nn.functional.normalize(vectors, dim=1).numpy() for vectors in found)
    return pictures, words


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_upstream_s(folders: dict[str, Path], name: str) -> None:
    model = ClipModel.of(config(folders[name]))
    pictures, words = upstream(folders[name], name)
    np.testing.assert_allclose(model.pictures(IMAGES), pictures, atol=1e-5)
    np.testing.assert_allclose(model.texts(TEXTS), words, atol=1e-5)
    np.testing.assert_allclose(model.pictures(IMAGES, at_once=2), pictures, atol=1e-5)
    np.testing.assert_allclose(model.unpadded_texts(TEXTS), words, atol=1e-5)
    assert model.pictures([]).shape == (0, pictures.shape[1]) and model.texts([]).shape == (0, words.shape[1])
    assert (np.abs(pictures[0] - pictures[1]).max() > 0.01) and (np.abs(words[0] - words[1]).max() > 0.01)
    half = ClipModel.of(config(folders[name], torch_dtype="bfloat16")).pictures(IMAGES)
    assert half.dtype == np.float32 and (half * pictures).sum(1).min() > 0.99


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_s_texts_are_lower_cased_and_padded(folders: dict[str, Path], name: str) -> None:
    model = ClipModel.of(config(folders[name]))
    np.testing.assert_array_equal(model.texts(["A Photo of a CAT"]), model.texts(["a photo of a cat"]))
    assert model.texts(["a " * 200]).shape == (1, 16)  # cut


def test_siglip_s_first_tokenizer_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """The one of sentencepiece, which lower-cases texts and leaves out punctuation; `check` cannot count its tokens."""
    (tmp_path / "words.txt").write_text("a photo of a cat\ntwo dogs on grass\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=40, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "clip"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    look = transformers.SiglipImageProcessor(**tiny_clips.PICTURES)
    tokenizer = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    transformers.SiglipProcessor(look, tokenizer).save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists() and list(ClipFiles(config(folder), ["cat"]).problems()) == []
    _, words = upstream(folder, "siglip")
    model = ClipModel.of(config(folder))
    np.testing.assert_allclose(model.texts(TEXTS), words, atol=1e-5)
    np.testing.assert_array_equal(model.texts(["A photo: of a CAT!"]), model.texts(TEXTS[:1]))


@pytest.mark.parametrize(("module", "option", "model"), COSINES)
@pytest.mark.parametrize("name", NAMES)
def test_check_asks_for_a_threshold_on_the_model_s_scale(
    folders: dict[str, Path], name: str, module: Any, option: str, model: str
) -> None:
    use = module.__name__.rpartition(".")[2]

    def problems(**options: Any) -> list[Any]:
        backend = module.Backend(module.Config(use=use, **{model: str(folders[name])}, **options), CATEGORIES)
        return list(backend.check(REQUEST))

    (problem,) = problems()
    assert problem.field == f".{option}" and "\n" not in problem.message
    assert f"those of a {FAMILIES[name].name} have another scale; give `{option}`" in problem.message
    # (logit(p) + 12) / e^4.6
    own = "its own sigmoid gives 0.5 at a cosine of 0.121, and 0.01 at 0.074" in problem.message
    assert own == (name.startswith("siglip") and option != "max_cosine")
    assert problems(**{option: module.Config(use=use).model_dump()[option]}) == []  # given, and the same number
    meanwhile = re.search(rf"`({option}: .*)` meanwhile$", problem.message)
    assert problems(**yaml.safe_load(meanwhile[1])) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_filter_measures_with_it(folders: dict[str, Path], name: str) -> None:
    job = Job(1, 1, 0, 0, "f", "train", TEXTS[0], "", {}, (), None, 7, 29, 50)
    boxes = np.array([[3, 3, 20, 20], [10, 5, 40, 25]], np.float32)
    sample = Sample(job, IMAGES[1], Instances(np.ones((2, 29, 50), bool), boxes, np.array([1, 2])))
    options = {"model": str(folders[name]), "device": "cpu", "torch_dtype": "float32"}
    model = ClipModel.of(config(folders[name]))
    agreement = class_agreement.Backend(class_agreement.Config(use="class_agreement", **options), CATEGORIES)
    crops = [IMAGES[1][1:22, 1:22]]  # a square with a margin of a tenth
    cosine = float((model.pictures(crops) @ model.texts(["a photo of a cat"]).T)[0, 0])
    assert agreement.measure(sample)[0] == pytest.approx(cosine, abs=1e-5)
    prompt = prompt_agreement.Backend(prompt_agreement.Config(use="prompt_agreement", **options), CATEGORIES)
    pictures, words = upstream(folders[name], name)
    assert float(prompt.measure(sample)) == pytest.approx(float(pictures[1] @ words[0]), abs=1e-5)
    alike = near_duplicate_embedding.Backend(
        near_duplicate_embedding.Config(use="near_duplicate_embedding", **options), CATEGORIES
    )
    np.testing.assert_allclose(alike.measure(sample), pictures[1], atol=1e-3)


def test_a_clip_s_defaults_stay_and_are_advised_on(tmp_path: Path) -> None:
    """Of a CLIP without a card; the embedded one has a card, and its defaults fit."""
    save_clip(tmp_path)
    for module, option, model in COSINES:
        use = module.__name__.rpartition(".")[2]
        backend = module.Backend(module.Config(use=use, **{model: str(tmp_path)}), CATEGORIES)
        assert [p for p in backend.check(REQUEST) if p.field == f".{option}"] == []
        notes = [note for m in backend.models() for note in m.advice()]
        if option == "max_cosine" or module is prompt_agreement:
            assert notes == []
        else:
            (note,) = notes
            assert note.field == f".{option}" and "OpenAI's models give about 0.25 for right names" in note.message
        embedded = module.Backend(module.Config(use=use), CATEGORIES)
        assert [note for m in embedded.models() for note in m.advice()] == []


def test_weights_that_are_not_there_are_not_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "clip"))
    state = load_file(folder / "model.safetensors")
    del state["logit_bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendError, match="no weights for 1 part of a SiglipModel: logit_bias"):
        ClipModel.of(config(folder))
    assert "its own sigmoid" not in Cosine("min", 0.5, False, "null", "CLIP").problem("siglip", folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_number_in_weights_is_read_without_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"a": torch.ones(3), "logit_bias": torch.tensor([-12.5], dtype=dtype)}, tmp_path / "model.safetensors")
    assert stored_number(tmp_path, "logit_bias") == -12.5
    assert stored_number(tmp_path, "a") is None and stored_number(tmp_path, "b") is None


def test_texts_that_would_be_cut_are_named(folders: dict[str, Path]) -> None:
    for name in NAMES:
        short, long = "cat", "c" * 80
        (told,) = ClipFiles(config(folders[name]), [short, long]).problems()
        assert f"tokens, and '{folders[name]}' takes 64" in told.message


@pytest.mark.parametrize(
    ("model", "licence"),
    [("google/siglip2-so400m-patch14-384", "Apache-2.0"), ("openai/clip-vit-base-patch32", "MIT"), ("me/mine", None)],
)
def test_licences_of_published_families(folders, monkeypatch, model: str, licence: str | None) -> None:
    monkeypatch.setattr("synthgen.models.find_model", lambda *_: folders["siglip"])
    names = [name for name, _ in ClipFiles(ClipConfig(use="clip", model=model)).licences()]
    assert names == ([licence] if licence else [])
