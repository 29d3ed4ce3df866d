"""Whether SAM says the same again: with a SAM that is known by hand, and with the embedded one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synthgen.backends import Request
from synthgen.filters import consistency
from synthgen.masks import mask_boxes
from synthgen.mini import scenes
from synthgen.models.sam import model as sam
from synthgen.types import Instances, Job, Sample

REQUEST = Request(128, 128, has_layout=True, words=frozenset())


def backend(**options):
    return consistency.Backend(consistency.Config(use="consistency", **options), ())


def sample(image, masks, boxes=None):
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "", "", {}, (), None, 7, height, width)
    boxes = mask_boxes(masks) if boxes is None else boxes
    return Sample(job, image, Instances(masks, boxes, np.ones(len(masks), np.int64)))


class Boxes(sam.SamModel):
    """A SAM whose decoder answers with its boxes' pixels, or, where it is `steady`, all that is bright inside them."""

    def __init__(self, steady: bool) -> None:
        super().__init__(self)  # the network of this model is the model itself
        self.steady, self.asked, self.device = steady, [], torch.device("cpu")

    def embed(self, images):
        return [SimpleNamespace(image=image) for image in images]

    def in_frame(self, embedded, points):
        return points

    def ask(self, embedded, boxes, points, multimask):
        self.asked.append([(e.image, box) for e, box in zip(embedded, boxes, strict=True)])
        return sam.Answer(torch.stack([self.answer(*prompt) for prompt in self.asked[-1]]), torch.ones(len(boxes), 1))

    def answer(self, image, box):
        ys, xs = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        inside = (xs > box[0]) & (ys > box[1]) & (xs < box[2]) & (ys < box[3])
        if self.steady:
            bright = image[..., 0] > 128
            inside = bright & (inside & bright).any()
        return torch.from_numpy(np.where(inside, 1.0, -1.0))[None]

    def masks(self, embedded, logits):
        return sam.Masks((logits > 0).numpy(), np.ones(len(logits), np.float32))


def use(monkeypatch, steady):
    model = Boxes(steady)
    monkeypatch.setattr(sam.SamModel, "of", lambda *_: model)
    return model


def bright(height=50, width=80):
    """A square of 20 px that is not in the middle."""
    masks = np.zeros((1, height, width), bool)
    masks[0, 10:30, 5:25] = True
    image = np.zeros((height, width, 3), np.uint8)
    image[masks[0]] = 255
    return image, masks


def test_a_mask_that_does_not_hang_on_its_box(monkeypatch):
    model = use(monkeypatch, steady=True)
    image, masks = bright()
    value = backend().measure(sample(image, masks))
    assert value.dtype == np.float32 and value.tolist() == [1]
    (together,) = model.asked
    assert [box.tolist() for _, box in together] == [
        [55, 10, 75, 30],  # of the mirrored image
        [3, 8, 27, 32],
        [7, 12, 23, 28],
        [7, 12, 27, 32],
        [3, 8, 23, 28],
    ]
    np.testing.assert_array_equal(together[0][0], image[:, ::-1])


def test_a_mask_that_is_its_box(monkeypatch):
    use(monkeypatch, steady=False)
    image, masks = bright()
    # Shifted by 2 px both ways: 18 x 18 of 2 x 400 - 18 x 18; shrunk: 16 x 16 of 400.
    assert backend().measure(sample(image, masks)).tolist() == [pytest.approx(256 / 400)]


def test_boxes_stay_in_the_image(monkeypatch):
    model = use(monkeypatch, steady=False)
    masks = np.ones((1, 50, 80), bool)
    backend().measure(sample(np.zeros((50, 80, 3), np.uint8), masks))
    for _, box in model.asked[0]:
        assert (box >= 0).all() and (box <= [80, 50, 80, 50]).all() and box.dtype == np.float32


def test_empty_masks_and_none(monkeypatch):
    use(monkeypatch, steady=True)
    image, masks = bright()
    both = np.concatenate([masks, np.zeros_like(masks)])
    boxes = np.array([[5, 10, 25, 30], [40, 5, 60, 20]], np.float32)
    assert backend().measure(sample(image, both, boxes)).tolist() == [1, 0]
    monkeypatch.setattr(sam.SamModel, "of", lambda *_: pytest.fail("loaded"))
    assert backend().measure(sample(image, masks[:0])).shape == (0,)


def test_many_instances_are_asked_for_in_parts(monkeypatch):
    model = use(monkeypatch, steady=True)
    image, masks = bright()
    many = np.repeat(masks, model.prompts_at_once + 6, 0)
    assert backend().measure(sample(image, many)).tolist() == [1] * len(many)
    whole, rest = divmod(5 * len(many), model.prompts_at_once)
    assert [len(part) for part in model.asked] == [model.prompts_at_once] * whole + [rest]


def test_a_model_that_is_not_here():
    (told,) = backend(model="vit_h").check(REQUEST)
    assert told.field == ".model" and "fetch it with: synthgen models --download vit_h" in told.message
    assert list(backend().check(REQUEST)) == []
    assert len(backend().identity()) == 64 and len(list(backend().licences())) == 1


def test_clear_things_and_random_masks():
    """With the embedded SAM, and its default threshold."""
    from synthgen.segmenters import sam as segmenter
    from synthgen.types import Grounding

    segment = segmenter.Backend(segmenter.Config(use="sam"), ())
    rng, f = np.random.default_rng([2**40, 95]), backend()
    clear, anywhere = [], []
    while len(clear) < 16:
        scene = scenes.draw(rng, occlusion=False)
        if not scene.things:
            continue
        boxes = np.array([thing.box for thing in scene.things], np.float32)
        (found,) = segment.segment([scene.image], [Grounding(boxes, np.ones(len(boxes), np.int64))])
        clear.extend(f.measure(sample(scene.image, found.masks, found.boxes)).tolist())
        blobs = np.zeros((2, 128, 128), bool)
        for blob in blobs:
            x, y = rng.integers(0, 88, 2)
            blob[y : y + 40, x : x + 40] = rng.random((40, 40)) < 0.5
        anywhere.extend(f.measure(sample(scene.image, blobs)).tolist())
    print(np.round(clear, 2), np.round(anywhere, 2))
    assert np.median(clear) > 0.85
    assert not f.fails(np.median(clear).astype(np.float32)[None])[0]
    assert np.mean(f.fails(np.array(anywhere, np.float32))) > 0.8
    assert np.median(anywhere) < 0.45
