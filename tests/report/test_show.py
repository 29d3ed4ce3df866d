import html

import cv2
import numpy as np
import pytest

from synthgen.cli import main
from synthgen.errors import RunError
from synthgen.judging.precision import LabelPrecision
from synthgen.judging.quality import ClassCount, Quality, Reason
from synthgen.judging.summary import headline, markdown, shortfall
from synthgen.pipeline.build import Build
from synthgen.report.show import draw

HOSTILE = "a|b`<script>alert(1)</script>\n# [x](http://y) *z* _w_ {v} \\"


def quality(**changes):
    given = {
        "name": "fruit",
        "wanted": 10,
        "made": 20,
        "accepted": 7,
        "surplus": 0,
        "rejected": 13,
        "instances": 9,
        "reasons": {"sharpness": Reason(13, 11, "min: 0.5 would let 3 more through")},
        "classes": {"apple": ClassCount(20, 9)},
        "splits": {"train": 7},
        "objects": {"1": 7},
        "precision": LabelPrecision.of(0, 0, 9),
    }
    return Quality(**{**given, **changes})


@pytest.fixture
def half(copied, quick, run_through, finished) -> Build:
    """A run of which some images are rejected."""
    values = [v for shard in finished.run.marks.shards() for v in sharpness(finished, shard)]
    quick["filters"]["sharpness"] = {"min": float(np.median(values))}
    return run_through(quick, copied)


def sharpness(build, shard):
    table = build.run.tables.read(build.run.paths.table("measures", shard)).to_pylist()
    return [row["sharpness"] for row in table if row["instance"] is None]


@pytest.mark.parametrize("rejected", [False, True])
def test_sheet(half, tmp_path, rejected):
    found = half.quality()
    wanted = found.rejected if rejected else found.accepted
    path = tmp_path / "sheets" / "sheet.png"
    assert draw(half, path, images=99, columns=3, tile_px=96, rejected=rejected) == wanted >= 3
    sheet = cv2.imread(str(path))
    assert sheet.shape[1] > 3 * 96 and sheet.shape[0] > 96
    assert draw(half, path, images=2, columns=3, tile_px=96, rejected=rejected) == 2
    assert cv2.imread(str(path)).shape[1] < sheet.shape[1]


def test_sheets_of_accepted_and_rejected_differ(half, tmp_path):
    for rejected in (False, True):
        draw(half, tmp_path / f"{rejected}.png", images=4, columns=2, tile_px=96, rejected=rejected)
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()


def test_the_sheet_of_the_rejected_has_a_name_of_its_own(half, monkeypatch, capsys):
    for options in ([], ["--rejected"]):
        monkeypatch.setattr("sys.argv", ["synthgen", "show", str(half.run.root), "--tile", "64", *options])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
    assert "rejected.png: " in capsys.readouterr().out
    sheets = [half.run.root / name for name in ("sheet.png", "rejected.png")]
    assert sheets[0].read_bytes() != sheets[1].read_bytes()


def test_the_same_run_is_the_same_sheet(finished, tmp_path):
    for name in ("a.png", "b.png"):
        draw(finished, tmp_path / name, images=4, columns=2, tile_px=96, rejected=False)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_to_show(copied, quick, run_through, tmp_path):
    quick["filters"]["sharpness"] = {"min": 1e9}
    build = run_through(quick, copied)
    with pytest.raises(RunError, match="has no accepted images"):
        draw(build, tmp_path / "x.png", images=4, columns=2, tile_px=96, rejected=False)
    build.run.paths.verdicts.unlink()
    with pytest.raises(RunError, match="has not been judged yet"):
        draw(build, tmp_path / "x.png", images=4, columns=2, tile_px=96, rejected=False)
    assert not (tmp_path / "x.png").exists()


def test_headline_and_shortfall():
    assert headline(quality()) == "7 of 10 images accepted with 9 instances; 20 made, yield 35%"
    lines = list(shortfall(quality()))
    assert "3 images are missing" in lines[0]
    assert lines[1] == "sharpness rejects 13 images, 11 of them alone; min: 0.5 would let 3 more through"
    assert list(shortfall(quality(accepted=10, surplus=2))) == []
    assert "2 to spare" in headline(quality(accepted=10, surplus=2))


def test_markdown_shows_hostile_names_as_text():
    text = markdown(
        quality(
            name=HOSTILE,
            classes={HOSTILE: ClassCount(3, 2)},
            splits={HOSTILE: 7},
            reasons={HOSTILE: Reason(13, 11, "")},
        )
    )
    assert "<" not in text and "`" not in text and "](" not in text and "*" not in text
    assert html.unescape(text).count(" ".join(HOSTILE.split())) == 5  # and all of it is there
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {3, 4}  # no cell has become two
    assert sum(line.startswith("#") for line in text.splitlines()) == 4  # and no line a heading


def test_markdown_of_a_finished_run(finished):
    text = markdown(finished.quality())
    assert text.startswith("# fruit\n")
    for name in ("apple", "orange", "tree", "train", "val", "test"):
        assert f"| {name} |" in text


@pytest.mark.parametrize(("ending", "starts"), [(".png", b"\x89PNG"), (".jpg", b"\xff\xd8\xff"), (".webp", b"RIFF")])
def test_the_ending_of_the_name_is_the_format(finished, tmp_path, ending, starts):
    path = tmp_path / f"sheet{ending}"
    assert draw(finished, path, images=2, columns=2, tile_px=64, rejected=False)
    assert path.read_bytes().startswith(starts)


def test_an_ending_that_is_no_format_writes_nothing(finished, tmp_path):
    with pytest.raises(RunError, match=r"sheet.txt.*endings .png, .jpg, .webp"):
        draw(finished, tmp_path / "sheet.txt", images=2, columns=2, tile_px=64, rejected=False)
    assert not list(tmp_path.iterdir())
