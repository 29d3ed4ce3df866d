"""Damaged and hostile files of every kind, some hundreds of them, and the smallest ones that were once answered with
anything but a line for people. `soak/fuzz.py` tries many more of the first."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hostile_files import (
    COMMANDS,
    RUN,
    World,
    bounded,
    chained,
    check_picture,
    check_post,
    check_profile,
    check_record,
    check_rle,
    check_spec,
    overrides,
    picture_files,
    posts,
    profile_texts,
    records,
    reseal,
    resized,
    rles,
    sealed,
    served,
    spec_texts,
    trying,
    write,
)
from hypothesis import given
from hypothesis import strategies as st

from synthgen.base.pictures import require_png
from synthgen.base.sealed import SEAL
from synthgen.dataset.growth import Growth
from synthgen.errors import RunError, SpecError
from synthgen.masks import decode_rle, encode_rle
from synthgen.orchestration.firings import FiringLog
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_shards
from synthgen.pipeline.verification import inspect
from synthgen.spec import differences, load_spec
from synthgen.store.run import Run

Content = dict[str, Any]


@pytest.fixture(scope="module")
def world(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Only for reading."""
    return World.of(tmp_path_factory.mktemp("world"), finished.run.root.parent.parent)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the files of a case."""
    return tmp_path_factory.mktemp("case")


@trying(400)
@given(st.tuples(spec_texts(), overrides))
def test_specs(folder: Path, case: Any) -> None:
    check_spec(case, folder)


@trying(100)
@given(profile_texts())
def test_profiles(folder: Path, text: bytes) -> None:
    check_profile(text, folder)


@trying(300)
@given(rles)
def test_masks(folder: Path, case: Any) -> None:
    check_rle(case, folder)


@trying(120)
@given(picture_files())
def test_pictures(folder: Path, data: bytes) -> None:
    check_picture(data, folder)


def test_posts(world: World, tmp_path: Path) -> None:
    with served(world, tmp_path / "copy") as client:

        @trying(120)
        @given(posts())
        def asked(case: Any) -> None:
            check_post(case, client)

        asked()


@trying(50)
@given(st.data())
def test_records(world: World, folder: Path, data: st.DataObject) -> None:
    check_record(data.draw(records(world, world.files())), world, folder / "copy")


# The smallest of what was found


def test_a_spec_has_as_many_problems_as_are_told_and_counted(good: Content, spec_file: Callable[..., Path]) -> None:
    with pytest.raises(SpecError) as told:
        load_spec(spec_file({**good, "count": 0, **{f"k{i}": 1 for i in range(100)}}))
    lines = str(told.value).splitlines()
    assert len(lines) == 50 and lines[-1] == "and 52 problems more"


def test_differences_are_told_in_plain_text() -> None:
    assert differences({"a": {"\x1b[2J": 1}}, {"a": {}}) == ["a.\\x1b[2J: 1 -> None"]


@pytest.mark.parametrize("counts", ["", "0", "1", "00000", "\0", b"0"])
def test_a_mask_that_its_runs_do_not_fill_is_none(counts: Any) -> None:
    """pycocotools gives what lay in memory there."""
    with pytest.raises(ValueError, match=r"does not sum to the image|garbled"):
        decode_rle([{"size": [4, 5], "counts": counts}], 4, 5)


def test_a_mask_of_another_size_asks_for_no_memory() -> None:
    (rle,) = encode_rle(np.ones((1, 4, 5), bool))
    for size in ([10**5, 10**5], [5, 4], None, [4]):
        with pytest.raises(ValueError, match="of another size than 4x5"):
            decode_rle([{**rle, "size": size}], 4, 5)


@pytest.mark.parametrize("path", [f"/items/{'9' * 5000}", f"/images/{'9' * 5000}", "/items/-1", "/items/x"])
def test_no_item_has_such_a_number(world: World, tmp_path: Path, path: str) -> None:
    with served(world, tmp_path / "copy") as client:
        assert client.get(path).status_code == 404


def with_(**changes: Any) -> Callable[[Content], Any]:
    return lambda content: {**content, **changes}


def without(name: str) -> Callable[[Content], Any]:
    return lambda content: {k: v for k, v in content.items() if k != name}


MARK = "commits/plan-00000.json"
# (record, what is done to it before it is sealed again, a command that reads it)
RECORDS: list[tuple[str, Callable[[Content], Any], str]] = [
    (MARK, with_(files=[]), "status"),
    (MARK, with_(files={"jobs/00000.parquet": ["9", "x", 1]}), "status"),
    ("commits/generate-00000.json", with_(files={"a\0b": [1, "x"]}), "status"),
    (MARK, with_(files={"\x1b[2J": [1, "x"]}), "verify"),
    (MARK, with_(more=1), "status"),
    (MARK, without("inputs"), "verify"),
    ("commits/measure-00000.json", with_(counts=None), "status"),
    ("commits/measure-00000.json", with_(counts={}), "status"),
    ("commits/measure-00000.json", with_(counts={"images": "x"}), "status"),
    ("commits/generate-00000.json", with_(notes={"failed": 3}), "judge"),
    ("commits/label-00000.json", with_(notes={"remarks": 3}), "start"),
    ("commits/judge.json", with_(files={}), "export"),
    ("commits/judge.json", with_(notes={"reviews": ["x", 3]}), "verify"),
    ("commits/judge.json", with_(notes={"reviews": 3}), "verify"),
    ("commits/round-0001.json", with_(number=None), "start"),
    ("commits/round-0001.json", with_(classes={"a": 1}), "status"),
    ("commits/round-0001.json", with_(count="x"), "status"),
    ("commits/round-0001.json", with_(more=1), "start"),
    ("run.json", with_(made_from=3), "start"),
    ("run.json", with_(models=[]), "grow"),
    ("run.json", with_(run="x"), "runs"),
    ("run.json", with_(format="\x1b[2J"), "status"),
    ("quality.json", lambda _: [], "status"),
    ("quality.json", without("made"), "status"),
    ("quality.json", with_(accepted="8"), "status"),
    ("quality.json", with_(precision={}), "status"),
    ("quality.json", with_(made=-1, rejected=-9), "runs"),
    ("quality.json", with_(timings={"seconds": 1e300, "accepted_per_hour": None}), "runs"),
    ("quality.json", with_(samples={}), "review"),
    ("quality.json", with_(samples={"borderline": [{"image_id": 99, "nearest": {"instance": None}}]}), "review"),
    ("quality.json", with_(samples={"worst": 3, "borderline": [], "random": []}), "report"),
]


def changed(world: World, folder: Path, name: str, data: bytes) -> Path:
    """A run of which a file holds something else, and every mark agrees with it; -> its folder."""
    root = world.copy(folder / "copy") / RUN
    write(root / name, data)
    if "commits/" not in name:
        reseal(root, name)
    return root


@pytest.mark.parametrize(("name", "change", "command"), RECORDS)
def test_records_of_another_form(
    world: World, folder: Path, name: str, change: Callable[[Content], Any], command: str
) -> None:
    """Sealed by whoever changed them."""
    content = change({k: v for k, v in orjson.loads((world.root / RUN / name).read_bytes()).items() if k != SEAL})
    data = orjson.dumps(content) if name == "quality.json" else sealed(content)
    check_record((f"{RUN}/{name}", data, True, [command]), world, folder / "copy")


@pytest.mark.parametrize("change", [{"classes": {}}, {"objects": {"x": 1}}])
def test_numbers_of_another_spec(world: World, folder: Path, change: Content) -> None:
    """The next round would be planned by them."""
    content = orjson.loads((world.root / RUN / "quality.json").read_bytes())
    root = changed(world, folder, "quality.json", orjson.dumps({**content, **change}))
    with pytest.raises(RunError, match=r"quality\.json cannot be read"):
        Build.read(Run(root)).quality()


@pytest.mark.parametrize(
    ("line", "change"),
    [(0, {"image_id": "x"}), (0, {"instance": 99}), (0, {"verdict": "wrong_class", "category_id": 99}),
     (0, {"queue": "neither"}), (0, {"instance": -1}), (0, {"image_id": 2**63})],
)  # fmt: skip
def test_verdicts_on_nothing(world: World, folder: Path, line: int, change: Content) -> None:
    lines = [json.loads(line) for line in (world.root / RUN / "reviews.jsonl").read_bytes().splitlines()]
    lines[line].update(change)
    root = changed(world, folder, "reviews.jsonl", chained(lines))
    with pytest.raises(RunError, match=r"reviews\.jsonl"):
        COMMANDS["judge"](root)


@pytest.mark.parametrize("change", [{"until": 3}, {"until": "2026-05-01T10:00:00"}, {"firings": [{}]}, {"firings": 3},
                                    {"timetable": {"cron": "0 2 * * *"}}, {"timetable": [1]}])  # fmt: skip
def test_a_log_of_firings_of_another_form_begins_anew(world: World, folder: Path, change: Content) -> None:
    root = world.copy(folder / "copy") / RUN
    log = FiringLog(root.parent)
    write(log.file, sealed({**log.read(), **change}))
    assert log.read()["firings"] == []
    COMMANDS["fire"](root)


@pytest.mark.parametrize("change", [{"runs": 3}, {"runs": [{}]}, {"left_out": None}, {"images": "x"}])
def test_a_merged_dataset_of_another_form_is_merged_anew(world: World, folder: Path, change: Content) -> None:
    root = world.copy(folder / "copy") / RUN
    file = root.parent / "dataset" / "dataset.json"
    good = orjson.loads(file.read_bytes())
    write(file, sealed({**good, **change}))
    assert Growth.read(file) is None
    COMMANDS["grow"](root)
    assert Growth.read(file) is not None


@pytest.mark.parametrize("line", [f"{'0' * 64} {'9' * 5000} coco/x\n", f"{'0' * 64} 1 coco/a\0b\n"])
def test_lists_of_files_of_another_form(world: World, folder: Path, line: str) -> None:
    root = changed(world, folder, "commits/export-coco.files", line.encode())
    COMMANDS["status"](root)
    COMMANDS["export"](root)


def test_a_mark_that_names_a_device_is_damaged(world: World, folder: Path) -> None:
    """It has the size that is said, and no end."""
    name = "commits/report.json"
    content = {k: v for k, v in orjson.loads((world.root / RUN / name).read_bytes()).items() if k != SEAL}
    root = changed(world, folder, name, sealed({**content, "files": {"/dev/zero": [0, "x"]}}))
    assert any(str(damage).startswith("/dev/zero: ") for damage in inspect(Build.read(Run(root))).damages)


def values(column: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change_table(table: pa.Table) -> pa.Table:
        at = table.column_names.index(column)
        field = table.schema.field(at)
        return table.set_column(at, field, pa.array(change(table.column(at).to_pylist()), field.type))

    return change_table


def first(new: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda old: [new, *old[1:]]


def dropped(column: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([column])


def cast(column: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.set_column(t.column_names.index(column), column, t[column].cast(kind))


JOBS, LABELS, MEASURES = (f"{kind}/00000.parquet" for kind in ("jobs", "labels", "measures"))
# (table, what is done to it before its mark is made to agree, a command that reads it, what is said)
TABLES: list[tuple[str, Callable[[pa.Table], pa.Table], str, str]] = [
    (JOBS, dropped("seed"), "show", "jobs/00000.parquet cannot be read"),
    (JOBS, values("seed", first(-1)), "show", "jobs/00000.parquet has a damaged job, 1"),
    (JOBS, values("height", first(2**31 - 1)), "show", "jobs/00000.parquet has a damaged job, 1"),
    (JOBS, values("layout", first([])), "show", "jobs/00000.parquet has a damaged job, 1"),
    (JOBS, values("asked", first([99])), "report", "jobs/00000.parquet has a damaged job, 1"),
    (JOBS, values("family", first(None)), "show", "the column family has gaps"),
    (JOBS, lambda table: table.slice(table.num_rows), "review", "but no such image; judge it again"),
    (LABELS, dropped("rle"), "show", "labels/00000.parquet cannot be read"),
    (LABELS, values("rle", first("0")), "show", "in labels/00000.parquet do not fit it"),
    (LABELS, cast("image_id", pa.string()), "show", ""),
    (LABELS, lambda table: table.slice(0, 1), "export", "are not on its labels"),
    ("verdicts.parquet", dropped("shard"), "show", "verdicts.parquet cannot be read"),
    ("verdicts.parquet", cast("passed", pa.string()), "review", ""),
    (
        "verdicts.parquet",
        lambda table: table.filter(pc.is_valid(table["instance"])),
        "review",
        "has no verdict on image",
    ),
    (
        "verdicts.parquet",
        values("category_id", lambda old: [n and 99 for n in old]),
        "export",
        "of classes that its spec lacks",
    ),
    (
        "verdicts.parquet",
        values("category_id", lambda old: [None] * len(old)),
        "report",
        "of classes that its spec lacks",
    ),
]


@pytest.mark.parametrize(("name", "change", "command", "said"), TABLES)
def test_tables_of_another_form(
    world: World, folder: Path, name: str, change: Callable[[pa.Table], pa.Table], command: str, said: str
) -> None:
    data = io.BytesIO()
    pq.write_table(change(pq.read_table(world.root / RUN / name)), data)
    root = changed(world, folder, name, data.getvalue())
    for file in ("report.json", "export-coco.json"):
        (root / "commits" / file).unlink()
    if said:
        with pytest.raises(RunError, match=said):
            COMMANDS[command](root)
    else:
        COMMANDS[command](root)


def test_measures_of_another_form(world: World, folder: Path) -> None:
    def words(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index("sharpness"), "sharpness", pa.array(["x"] * len(table)))

    for change in (dropped("sharpness"), words, dropped("instance")):
        data = io.BytesIO()
        pq.write_table(change(pq.read_table(world.root / RUN / MEASURES)), data)
        build = Build.read(Run(changed(world, folder, MEASURES, data.getvalue())))
        with pytest.raises(RunError, match=r"have no numbers of sharpness|cannot be read"):
            judge_shards(build, build.run.marks.shards())


def test_labels_are_numbered_from_nought(world: World, folder: Path) -> None:
    build = Build.read(Run(world.copy(folder / "copy") / RUN))
    for name in (LABELS, MEASURES):
        table = pq.read_table(build.run.root / name)
        build.run.tables.write(build.run.root / name, values("instance", lambda old: [n and n + 1 for n in old])(table))
    with pytest.raises(RunError, match="the labels of shard 0 are not those of its images"):
        judge_shards(build, build.run.marks.shards())


@pytest.mark.parametrize("name", [MARK, "run.json", "commits/round-0001.json", "reviews.jsonl"])
def test_records_that_are_nested_deeper_than_can_be_sealed(world: World, folder: Path, name: str) -> None:
    data = b'{"seal": "x", "a": ' + b"[" * 500 + b"]" * 500 + b"}\n"
    check_record((f"{RUN}/{name}", data, False, ["status", "verify", "start"]), world, folder / "copy")


def test_a_picture_that_says_it_is_huge_is_not_decoded(world: World, folder: Path) -> None:
    name = "images/00000/000000000001.png"
    root = changed(world, folder, name, resized((world.root / RUN / name).read_bytes(), 30_000, 30_000))
    run = Run(root)
    with bounded(), pytest.raises(RunError, match=f"{name} is no readable image"):
        run.images.read(0, 1, run.marks.read("generate", 0))
    for content in (b"BM" + bytes(100), b"\x89PNG"):
        with pytest.raises(ValueError, match="it is no PNG"):
            require_png(content)
