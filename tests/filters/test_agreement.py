"""The filters that look through a CLIP: with one whose vectors are known by hand, and with the embedded one."""

import numpy as np
import pytest

from synthgen.backends import Request
from synthgen.filters import class_agreement, near_duplicate_embedding, prompt_agreement
from synthgen.mini import scenes
from synthgen.mini.training import captions
from synthgen.models import clip
from synthgen.types import Category, Instances, Job, Sample

CATEGORIES = (Category(1, "cat", ("kitten",)), Category(2, "dog"))
REQUEST = Request(8, 8, has_layout=True, words=frozenset())
# Texts as angles in a plane; pictures are what their first pixel says, in degrees.
ANGLES = {
    "a photo of a cat": 0,
    "a photo of a kitten": 30,
    "a photo of a dog": 90,
    "a photo of a fox": 45,
    "prompt": 60,
}


class Flat:
    """A CLIP of a plane."""

    def pictures(self, images, at_once=64):
        angles = np.radians([float(image[0, 0, 0]) for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def texts(self, texts, at_once=64):
        angles = np.radians([ANGLES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    cached_texts = unpadded_texts = texts


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setattr(clip.ClipModel, "of", lambda config: Flat())


def sample(angle: int, kinds: list[int]) -> Sample:
    job = Job(1, 1, 0, 0, "f", "train", "prompt", "", {}, (), None, 7, 8, 8)
    boxes = np.tile(np.array([1, 1, 5, 5], np.float32), (len(kinds), 1))
    instances = Instances(np.zeros((len(kinds), 8, 8), bool), boxes, np.array(kinds, np.int64))
    return Sample(job, np.full((8, 8, 3), angle, np.uint8), instances)


def agreement(**options) -> class_agreement.Backend:
    return class_agreement.Backend(class_agreement.Config(use="class_agreement", **options), CATEGORIES)


def test_class_agreement_by_hand(flat):
    f = agreement()
    values = f.measure(sample(60, [2, 1, 2]))
    assert values.dtype == np.float32
    # 60 degrees is 30 from the dog, 60 from the cat and 30 from its synonym.
    np.testing.assert_allclose(values, np.cos(np.radians([30, 30, 30])), atol=1e-6)
    np.testing.assert_allclose(f.measure(sample(0, [1, 2])), [1, 0], atol=1e-6)
    assert f.fails(np.array([0.49, 0.5, 1], np.float32)).tolist() == [True, False, False]


def test_no_softmax_over_the_classes():
    """A picture of neither agrees with neither, though one of them is the likelier."""
    blank = np.full((64, 64, 3), 90, np.uint8)
    job = Job(1, 1, 0, 0, "f", "train", "a cat", "", {}, (), None, 7, 64, 64)
    boxes = np.array([[8, 8, 56, 56]] * 2, np.float32)
    one = Sample(job, blank, Instances(np.zeros((2, 64, 64), bool), boxes, np.array([1, 2])))
    f = class_agreement.Backend(class_agreement.Config(use="class_agreement"), (Category(1, "cat"), Category(2, "dog")))
    assert f.fails(f.measure(one)).all()


def test_a_confusable_that_fits_better_fails(flat):
    fox = agreement(confusables={"dog": ["fox"]})
    np.testing.assert_allclose(fox.measure(sample(60, [2])), [-1])  # 15 from the fox, 30 from the dog
    np.testing.assert_allclose(fox.measure(sample(70, [2])), np.cos(np.radians([20])), atol=1e-6)  # 25 from the fox
    np.testing.assert_allclose(fox.measure(sample(50, [1])), np.cos(np.radians([20])), atol=1e-6)  # of dogs only
    assert fox.fails(np.array([-1], np.float32)).all()


def test_confusables_of_a_class_that_there_is_not():
    told, *unknown = agreement(confusables={"dgo": ["fox"]}).check(REQUEST)
    assert told.field == ".confusables"
    assert [p.message.split(";")[0] for p in unknown] == [
        "'mini' does not know 'kitten' (did you mean 'kite'?)",
        "'mini' does not know 'fox'",
    ]
    assert told.message == "no class is called 'dgo' (did you mean 'dog'?); takes: cat, dog"


def test_nothing_to_look_at_needs_no_model(monkeypatch):
    monkeypatch.setattr(clip.ClipModel, "of", lambda config: pytest.fail("loaded"))
    assert agreement().measure(sample(0, [])).shape == (0,)


def test_prompt_agreement_by_hand(flat):
    f = prompt_agreement.Backend(prompt_agreement.Config(use="prompt_agreement"), CATEGORIES)
    value = f.measure(sample(90, []))
    assert value.shape == () and value.dtype == np.float32
    assert float(value) == pytest.approx(np.cos(np.radians(30)), abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("module", [prompt_agreement, near_duplicate_embedding])
def test_a_batch_has_the_numbers_of_its_images(module, dtype):
    """To the rounding of float32, and then to a step of the stored type. Padding would move bfloat16 by far more."""
    name = module.__name__.rpartition(".")[2]
    f = module.Backend(module.Config(use=name, device="cpu", torch_dtype=dtype), ())
    drawn = [scenes.draw(np.random.default_rng([2**40, 7, i])) for i in range(24)]
    prompts = [captions.caption("grass", scene.things) for scene in drawn]
    jobs = [Job(i, 1, 0, 0, "f", "train", p, "", {}, (), None, 7, 128, 128) for i, p in enumerate(prompts, 1)]
    samples = [Sample(j, s.image, Instances.empty(128, 128)) for j, s in zip(jobs, drawn, strict=True)]
    together, alone = f.measure_many(samples), [f.measure(sample) for sample in samples]
    assert len({values.tobytes() for values in alone}) == 24 and len({len(prompt.split()) for prompt in prompts}) > 4
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6 if f.dtype is np.float32 else 5e-4)
    assert f.batch_size == 64 and agreement().batch_size == 1


@pytest.mark.parametrize("module", [class_agreement, prompt_agreement])
def test_a_model_that_is_not_here(module):
    f = module.Backend(module.Config(use=module.__name__.rpartition(".")[2], model="openai/clip-vit-base-patch32"), ())
    (told,) = f.check(REQUEST)
    assert told.field == ".model" and "synthgen models --download openai/clip-vit-base-patch32" in told.message


def test_swapped_classes_are_told_from_right_ones():
    """On composed scenes, with the embedded CLIP and the default threshold."""
    categories = tuple(Category(i, name) for i, name in enumerate(scenes.CLASSES, 1))
    f = class_agreement.Backend(class_agreement.Config(use="class_agreement"), categories)
    rng = np.random.default_rng([2**40, 5])
    right, wrong = [], []
    while len(right) < 60:
        scene = scenes.draw(rng, occlusion=False)
        if not scene.things:
            continue
        job = Job(1, 1, 0, 0, "f", "train", "a photo", "", {}, (), None, 7, 128, 128)
        boxes = np.array([thing.box for thing in scene.things], np.float32)
        kinds = np.array([thing.category + 1 for thing in scene.things], np.int64)
        other = (kinds - 1 + rng.integers(1, len(categories), len(kinds))) % len(categories) + 1
        for kind, fails in ((kinds, right), (other, wrong)):
            fails.extend(f.fails(f.measure(Sample(job, scene.image, Instances(scene.masks, boxes, kind)))))
    assert np.mean(right) < 0.1
    assert np.mean(wrong) > 0.9
