"""A CLIP of the real class, tiny and random, saved in the real format; and the embedded one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import save_clip

from synthgen import devices
from synthgen.errors import BackendError
from synthgen.mini import scenes
from synthgen.models import ModelMissing, clip
from synthgen.models.clip import ClipConfig, ClipModel

EMPTY = (2).to_bytes(8, "little") + b"{}"  # a whole safetensors file without tensors


def config(model: str = "mini", **more) -> ClipConfig:
    return ClipConfig(use="clip", model=model, **more)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    save_clip(folder)
    return folder


def test_vectors_are_the_library_s(tiny):
    images = [np.random.default_rng(i).integers(0, 256, (20 + i, 50, 3)).astype(np.uint8) for i in range(5)]
    texts = ("a photo of a cat", "a photo of two blue cars on grass")
    model = ClipModel.of(config(str(tiny), torch_dtype="float32"))
    inputs = model.processor(text=list(texts), images=images, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model.model(**inputs)
    np.testing.assert_allclose(model.pictures(images), theirs.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.texts(texts), theirs.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.pictures(images, at_once=2), model.pictures(images), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.texts(texts), axis=1), 1, atol=1e-5)
    assert model.pictures([]).shape == (0, 8)


def test_half_precision_is_near(tiny):
    images = [np.random.default_rng(i).integers(0, 256, (40, 40, 3)).astype(np.uint8) for i in range(3)]
    exact, half = (ClipModel.of(config(str(tiny), torch_dtype=t)).pictures(images) for t in ("float32", "bfloat16"))
    assert half.dtype == np.float32 and (half != exact).any()
    assert ((half * exact).sum(1) > 0.999).all()


def test_long_texts_are_cut(tiny):
    model = ClipModel.of(config(str(tiny)))
    long = "a photo of " + "a cat and " * 60 + "a dog"
    assert model.texts((long,)).shape == (1, 8)


def test_check_names_the_texts_that_would_be_cut(tiny):
    most = ClipModel.of(config(str(tiny))).model.config.text_config.max_position_embeddings
    words = [" ".join(["cat"] * n) for n in (1, most - 6, most - 5, most)]  # beside "a photo of a" and two ends
    problems = list(clip.ClipFiles(config(str(tiny)), words, "a photo of a {}").problems())
    assert [p.message.split(" has ")[1].split(" tokens")[0] for p in problems] == [str(most + 1), str(most + 6)]


def test_it_is_loaded_once(tiny):
    assert ClipModel.of(config(str(tiny))) is ClipModel.of(config(str(tiny), batch_size=3))


def test_folders_that_are_no_clip(tmp_path):
    (told,) = clip.ClipFiles(config("./nowhere")).problems()
    assert told.field == ".model" and "does not exist" in told.message
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    (told,) = clip.ClipFiles(config(str(tmp_path))).problems()
    assert (
        "'blip'; takes a folder of transformers, with its processor, of: clip, metaclip_2, siglip, siglip2"
        in told.message
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (told,) = clip.ClipFiles(config(str(tmp_path))).problems()
    assert "no .safetensors weights" in told.message
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    (told,) = clip.ClipFiles(config(str(tmp_path))).problems()
    assert told.field == ".model" and "model.safetensors is no whole safetensors file" in told.message
    with pytest.raises(BackendError, match="no whole safetensors file"):
        ClipModel.of(config(str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(EMPTY)
    (told,) = clip.ClipFiles(config(str(tmp_path))).problems()
    assert "has no tokenizer" in told.message
    (tmp_path / "vocab.json").write_text("{}")
    assert not list(clip.ClipFiles(config(str(tmp_path))).problems())
    with pytest.raises(BackendError, match="was not loaded"):
        ClipModel.of(config(str(tmp_path)))
    with pytest.raises(ModelMissing, match=r"1\.7 GB.*synthgen models --download openai/clip-vit-large-patch14"):
        ClipModel.of(config("openai/clip-vit-large-patch14"))


def test_words_that_it_does_not_know():
    """A word-level tokenizer reads them as nothing; a CLIP without a vocabulary in its card takes any."""
    told = list(clip.ClipFiles(config(), ["sports ball", "aple", "wristwatch"]).problems())
    assert [p.message.partition(";")[0] for p in told] == [
        "'mini' does not know 'aple' (did you mean 'apple'?)",
        "'mini' does not know 'wristwatch'",
    ]
    assert "openai/clip-vit-large-patch14" in told[0].message


@pytest.mark.parametrize(
    ("prompt", "word", "text"),
    [
        ("a photo of a {}", "cat", "a photo of a cat"),
        ("a photo of a {}", "apple", "a photo of an apple"),
        ("a {}", "Orange", "an Orange"),
        ("{}", "apple", "apple"),
        ("schema {} here", "apple", "schema apple here"),
        ("a pizza {}", "x-ray", "a pizza x-ray"),
    ],
)
def test_phrase(prompt, word, text):
    assert clip.phrase(prompt, word) == text


def test_crops_are_squares_within_the_image():
    image = np.arange(100 * 60, dtype=np.uint32).reshape(100, 60)
    image = np.stack([image % 251, image // 251, image * 0], -1).astype(np.uint8)
    for box, rows, columns in [
        ((20, 40, 30, 50), (39, 51), (19, 31)),  # 10 px and a tenth of it on each side
        ((20, 40, 30, 60), (38, 62), (13, 37)),  # widened to a square
        ((0, 0, 10, 20), (0, 22), (0, 17)),  # as far as the image reaches
        ((50, 90, 60, 100), (89, 100), (49, 60)),
        ((5, 5, 5, 5), (4, 6), (4, 6)),  # nothing, which has still something around it
    ]:
        np.testing.assert_array_equal(
            clip.crop(image, np.array(box, np.float32)), image[slice(*rows), slice(*columns)], err_msg=str(box)
        )


def test_the_embedded_one_names_what_it_sees():
    """Of its 32 classes; chance is 3 %."""
    model = ClipModel.of(config())
    names = model.texts(tuple(clip.phrase("a photo of a {}", name) for name in scenes.CLASSES))
    rng, right = np.random.default_rng([2**40, 77]), []
    while len(right) < 60:
        scene = scenes.draw(rng, occlusion=False)
        if not scene.things:
            continue
        crops = [clip.crop(scene.image, np.array(thing.box, np.float32)) for thing in scene.things]
        cosines = model.pictures(crops) @ names.T
        right.extend(cosines.argmax(1) == [thing.category for thing in scene.things])
    assert np.mean(right) > 0.9


@pytest.fixture(autouse=True)
def forget_others():
    yield
    devices.forget(key for key in devices.loaded() if key[0] == "clip" and "weights" not in str(key[1]))
