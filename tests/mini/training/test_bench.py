"""The bench: held-out scenes, and the jobs that ask for them."""

from synthgen.mini import scenes
from synthgen.mini.training.bench import HELD_OUT_SEED, Bench


def test_scenes_are_held_out_and_the_same_each_time():
    bench = Bench(count=3)
    first, again = ([s.image for s in bench.scenes(2, occlusion=True)] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not any((a == b.image).all() for a, b in zip(first, bench.scenes(3, occlusion=True), strict=True))
    assert all(scene.things for scene in bench.prompt_scenes) and len(bench.prompt_scenes) == 3
    assert HELD_OUT_SEED > 2**32  # seeds of trainings are the user's, and small


def test_a_job_asks_for_its_scene():
    bench = Bench(count=2)
    job, scene = bench.job(1, layout=True), bench.prompt_scenes[1]
    assert [scenes.CLASSES[k - 1] for k in job.asked] == [scenes.CLASSES[t.category] for t in scene.things]
    assert job.layout == tuple(t.box for t in scene.things)
    assert scene.background in job.prompt
    assert bench.job(1, layout=False).layout is None and bench.job(0, layout=True).seed != job.seed
