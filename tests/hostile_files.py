"""Files and requests that nobody should have written: Hypothesis's strategies for them, and checks that each is
answered, or refused in one line for people. `system/test_fuzz.py` and `soak/fuzz.py` use them; the second tries more.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pkgutil
import resource
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import cv2
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml
from conftest import GOOD
from harmless import bomb, harmless, one_line
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from starlette.testclient import TestClient

from synthgen import cli, schedule
from synthgen.base.files import sha256
from synthgen.base.pictures import read_picture
from synthgen.base.sealed import SEAL, read_sealed, sha256_json
from synthgen.dataset import growth, history
from synthgen.errors import SpecError, SynthgenError, of_system
from synthgen.judging.reviews import AFTER, Review, ReviewLog
from synthgen.masks import decode_rle
from synthgen.orchestration.firings import FiringLog
from synthgen.orchestration.profile import load_profile
from synthgen.orchestration.timetable import Timetable, now
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import labels_digests
from synthgen.pipeline.plan import plan_shards
from synthgen.pipeline.stages import Stages
from synthgen.review.queue import ReviewQueue
from synthgen.review.server import app
from synthgen.spec import MAX_PROBLEMS, DatasetSpec, load_spec
from synthgen.store.run import Run

MOST_BYTES = 1_000_000_000  # of memory that a case may take besides what was taken before
RUN = "out/fruit/run-0001"

# hypothesis keeps what it has read of the sources, from collection on; not in the tree.
set_hypothesis_home_dir(Path(gettempdir()) / "synthgen-hypothesis")


def trying(number: int, **options: Any) -> settings:
    """So many cases, the same every time unless `options` say otherwise."""
    return settings(
        **{"derandomize": True, **options}, deadline=None, max_examples=number, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# Plain data that fits nowhere.
HUGE = [2**31, 2**53 + 1, 2**63, -(2**63), 10**19, -1, 0, 1e308]
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(HUGE),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", "apple", "coco", "1", "-1", "nan", "../../x", "/etc/passwd", "a\nb", "\x1b[2J", "\u202ex",
                     "x" * 5000, "2024-01-01", "random", "00000"]),
    st.sampled_from([[], {}, [[]], [None], {"": None}, [1, "2", None], {"1": 2}, [0] * 300, [[[[[[1]]]]]],
                     {"a": {"b": {}}}]),
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to what stands in plain data; of long lists, to the first entries."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for key, child in list(value.items() if isinstance(value, dict) else enumerate(value))[:12]:
            yield from places(child, (*at, key))


def changed(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """Plain data with some things gone, doubled, called otherwise, or something else."""
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        known = list(places(value))
        if not known:
            return draw(odd)
        *way, last = draw(st.sampled_from(known))
        parent = value
        for key in way:
            parent = parent[key]
        match draw(st.sampled_from(["else", "else", "else", "gone", "more", "swap"])):
            case "else":
                parent[last] = deepcopy(draw(odd))
            case "gone":
                del parent[last]
            case "more" if isinstance(parent, list):
                parent.insert(last, deepcopy(parent[last]))
            case "more":
                parent[draw(st.text(max_size=4))] = deepcopy(parent[last])
            case "swap":
                *_, other = parent if isinstance(parent, dict) else range(len(parent))
                parent[last], parent[other] = parent[other], parent[last]
    return value


def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which some are gone, doubled, or others."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 1, 4, 16, 1000])))
        match draw(st.sampled_from(["flip", "flip", "else", "gone", "twice", "cut"])):
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
            case "else":
                data = data[:at] + draw(st.binary(max_size=8)) + data[end:]
            case "gone":
                data = data[:at] + data[end:]
            case "twice":
                data = data[:end] + data[at:]
            case "cut":
                data = data[:at]
    return data


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """What is done within takes no more memory than `MOST_BYTES`, at its peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


def require_words(error: SynthgenError) -> None:
    """Each line of an error is one for people."""
    assert str(error)
    for line in str(error).splitlines():
        one_line(line.replace(str(Path.cwd()), "."))


# YAML


# What YAML gives a meaning to.
FRAGMENTS = [
    "&a ", "*a", "<<: *a", "? ", "- ", ": ", "|\n  ", ">-\n", "\t", "#", "'", '"', "[", "]", "{", "}", ", ", "---\n",
    "...\n",
    "%YAML 1.2\n", "%TAG ! x\n", "!!python/object/apply:os.system [touch owned]", "!!binary aGk=", "!!set {a, b}",
    "!!int ", "!!float .", "!!timestamp 2024-99-99", "!!omap [a: b]", "!x ", "\x00", "\x85", "\u2028", "\ufeff",
    "\U0010ffff", '"\\ud800"', "0x" + "f" * 90, "1" * 101, "1:" * 60 + "1", "1_000", ".inf", "-.NaN", "1e400", "~", "=",
    "@", "`", "<<: [{}, 3]", "[" * 60, "{a: " * 60, "- " * 60, bomb(7), "\n", "\r", "  ", "é", "\u202e",
]  # fmt: skip
RICH: dict[str, Any] = {
    **GOOD,
    "description": "text",
    "seed": 7,
    "budget": 2.5,
    "min_instances_per_class": 2,
    "classes": ["apple", {"name": "orange", "synonyms": ["citrus"], "aspect_ratio": [0.5, 2], "min_instances": 1}],
    "generator": {"use": "diffusion", "model": "mini", "num_inference_steps": 4, "call_options": {"eta": 0.5}},
    "segmenter": {"use": "sam", "device": "cpu"},
    "grounder": "layout",
    "filters": {"sharpness": {"min": 5}, "mask_area": {"min": 0.1, "on_fail": "drop"}, "near_duplicate": None},
    "splits": {"train": 0.5, "val": 0.5},
    "exporters": {"coco": {"segmentation": "polygons"}},
    "shard_size": 4,
    "grow": True,
}
SHORT = {
    "name": "a",
    "count": 1,
    "height": 64,
    "width": 64,
    "classes": ["apple"],
    "prompts": {"templates": ["{objects}"]},
}
PATHS = sorted({".".join(map(str, at)) for at in places(RICH)} | {"", "a", "filters", "generator.use", "a.b.c.d", "."})


@st.composite
def spec_texts(draw: st.DrawFn) -> bytes:
    """YAML files that are nearly specs."""
    raw = changed(draw, draw(st.sampled_from([SHORT, SHORT, GOOD, RICH])))
    if draw(st.booleans()):
        text = json.dumps(raw)
    else:
        try:
            text = yaml.dump(raw, Dumper=yaml.CSafeDumper, allow_unicode=True, default_flow_style=draw(st.booleans()))
        except yaml.YAMLError:
            text = repr(raw)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(FRAGMENTS)) + text[at + draw(st.sampled_from([0, 0, 1, 5])) :]
    data = text.encode(errors="surrogatepass")
    return damaged(draw, data) if draw(st.integers(0, 4)) == 0 else data


overrides = st.lists(
    st.one_of(
        st.builds("{}={}".format, st.sampled_from(PATHS), st.sampled_from(FRAGMENTS) | st.text(max_size=6)),
        st.builds(lambda path, value: f"{path}={json.dumps(value)}", st.sampled_from(PATHS), odd),
        st.text(max_size=10),
    ),
    max_size=2,
)
specs = st.tuples(spec_texts(), overrides)


for _kind in ("filters", "grounders", "segmenters", "generators", "exporters"):  # else Python writes what it compiles
    for _module in pkgutil.iter_modules(import_module(f"synthgen.{_kind}").__path__, f"synthgen.{_kind}."):
        import_module(_module.name)


def check_spec(case: tuple[bytes, list[str]], folder: Path) -> None:
    """A spec, or one error of at most so many lines; with nothing run, written or asked of a network."""
    text, given = case
    file = folder / "spec.yaml"
    file.write_bytes(text)
    with bounded(), harmless():
        try:
            spec = load_spec(file, given)
            assert DatasetSpec.parse(spec.dump()) == spec
        except SpecError as error:
            lines = str(error).splitlines()
            assert 1 <= len(lines) == len(error.problems) <= MAX_PROBLEMS
            for line in lines:
                one_line(line)


@st.composite
def profile_texts(draw: st.DrawFn) -> bytes:
    good = {"runner": "ray", "address": "head:10001", "workers": 2, "num_cpus": 1, "num_gpus": 0, "shards_at_once": 4}
    text = json.dumps(changed(draw, good))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(FRAGMENTS)) + text[at:]
    data = text.encode(errors="surrogatepass")
    return damaged(draw, data) if draw(st.booleans()) else data


def check_profile(text: bytes, folder: Path) -> None:
    file = folder / "profile.yaml"
    file.write_bytes(text)
    with bounded(), harmless(), contextlib.suppress(SpecError):
        try:
            load_profile(file)
        except SpecError as error:
            assert len(str(error).splitlines()) <= MAX_PROBLEMS
            require_words(error)
            raise


# Masks and pictures


RUNS = st.one_of(
    st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12),
    st.text(max_size=4),
    st.binary(max_size=6),
    st.none(),
)
sides = st.sampled_from([0, 1, 4, 5, 20, -1, 10**5, 2**31, 2**40, 1.5, None, "4"])
rles = st.tuples(RUNS, st.just([4, 5]) | st.lists(sides, max_size=3))


def check_rle(case: tuple[Any, Any], folder: Path) -> None:
    """The mask that the runs say, every pixel of it, or a ValueError."""
    counts, size = case
    with bounded():
        try:
            first, second = (decode_rle([{"size": size, "counts": counts}], 4, 5) for _ in range(2))
        except ValueError:
            return
    assert first.shape == (1, 4, 5) and first.dtype == bool
    assert first.view(np.uint8).max(initial=0) <= 1 and (first == second).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def resized(data: bytes, width: int, height: int) -> bytes:
    """A PNG that says it has another size."""
    return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]


@st.composite
def picture_files(draw: st.DrawFn, good: bytes | None = None) -> bytes:
    """Pictures that are damaged, or say that they are of any size."""
    if good is None:
        pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
        ending = draw(st.sampled_from([".png", ".jpg", ".webp", ".bmp", ".tiff"]))
        good = cv2.imencode(ending, pixels)[1].tobytes()
    data = good
    if data.startswith(b"\x89PNG") and draw(st.booleans()):
        side = st.sampled_from([0, 1, 20, 30, 31, 1000, 32_767, 2**16, 2**20, 10**9, 2**31 - 1, 2**32 - 1])
        data = resized(data, draw(side), draw(side))
    elif data.startswith(b"\xff\xd8") and draw(st.booleans()):
        at = data.index(b"\xff\xc0") + 5
        data = (
            data[:at] + struct.pack(">HH", *(draw(st.sampled_from([0, 1, 20, 65_535])) for _ in "hw")) + data[at + 4 :]
        )
    return damaged(draw, data) if draw(st.booleans()) else data


def check_picture(data: bytes, folder: Path) -> None:
    """The picture in the size that is asked for, or an exception; of what is huge, nothing is decoded."""
    file = folder / "picture"
    file.write_bytes(data)
    with bounded():
        for width, height in ((30, 20), (10**9, 1), (65_535, 65_535)):
            try:
                assert read_picture(file, width, height).shape == (height, width, 3)
            except Exception as error:  # as it says
                assert not isinstance(error, MemoryError | AssertionError)


# Run folders


@dataclass(frozen=True)
class World:
    """A folder with a finished run, reviewed, grown and scheduled: `RUN`. Only for reading."""

    root: Path

    @classmethod
    def of(cls, root: Path, out: Path) -> World:
        """`out`: the folder of run folders of a finished run, of which this one gets a copy."""
        shutil.copytree(out, root / "out")
        run = Run(root / RUN)
        build = Build.open(run)
        labels = run.tables.read(run.paths.verdicts).to_pylist()
        with ReviewLog.open(run.paths.reviews) as log:
            for row in [row for row in labels if row["instance"] is not None][:3]:
                named = labels_digests(build, row["shard"], {row["image_id"]})[row["image_id"]]
                log.add(Review(row["image_id"], row["instance"], "accept", None, "random", named))
            log.add(Review(labels[0]["image_id"], None, "accept", None, "borderline", "x"))
            log.undo()
            mask = run.tables.read(run.paths.table("labels", row["shard"]))["rle"][0].as_py()
            about = row["image_id"], row["instance"]
            corrected = Review(*about, "bad_mask", None, "import", named, by="Ann", rle=mask)
            log.add(corrected, replace(corrected, instance=None, verdict="corrected", rle=None))
        call(
            "judge", run.root, "--quiet", "--set", "filters.sharpness.min=30", "--set", "filters.predicted_iou.min=0.1"
        )
        call("report", run.root)
        with run.lock():
            made = run.marks.read("generate", 1)
            assert made
            run.marks.commit_batch(1, 0, "batch", [run.root / name for name in made.files])
        growth.grow(build)
        log = FiringLog(run.root.parent)
        log.account(Timetable("UTC", "0 2 * * *"), now())
        log.record(now(), run=1, started=now().isoformat(), ended=now().isoformat(), outcome="made")
        (root / "spec.yaml").write_text(yaml.safe_dump(build.spec.dump()), encoding="utf-8")
        return cls(root)

    def files(self) -> list[str]:
        """What a case may change, each kind as often as another."""
        run = self.root / RUN
        named = [
            p.relative_to(self.root).as_posix() for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"
        ]
        kinds = {name.rsplit("/", 1)[0] + name.rsplit(".", 1)[-1]: name for name in named if "/coco/t" not in name}
        marks = [name for name in named if "/commits/" in name and "-00001" not in name]
        own = ["out/fruit/schedule.json", "out/fruit/dataset/dataset.json", f"{RUN}/.lock"]
        return sorted({*kinds.values(), *marks, *(n for n in named if n.count("/") == 3), *own})

    def copy(self, folder: Path) -> Path:
        """A copy to change: hard links, but for what is written in place."""

        def link(source: str, target: str) -> None:
            if source.endswith((".lock", ".jsonl")):
                shutil.copy2(source, target)
            else:
                os.link(source, target)

        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root, folder, copy_function=link)
        return folder


def write(file: Path, data: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def sealed(content: Any) -> bytes:
    """As one who can seal a record writes it; as far as it can be one."""
    with contextlib.suppress(TypeError):
        content = {**content, SEAL: sha256_json({k: v for k, v in content.items() if k != SEAL})}
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


def chained(lines: list[Any]) -> bytes:
    """Verdicts as one who can seal them writes them."""
    text, last = b"", ""
    for line in lines:
        if isinstance(line, dict):
            content = {**{k: v for k, v in line.items() if k != SEAL}, AFTER: last}
            content[SEAL] = sha256_json(content)[:8]
            line = content
        data = orjson.dumps(line)
        text, last = text + data + b"\n", digest_of_line(data)
    return text


def digest_of_line(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


NUMBERS = [-1, 0, 1, 7, 2**31 - 1, 2**62, -(2**31)]
TYPES = [pa.string(), pa.float64(), pa.int8(), pa.bool_(), pa.binary()]
CHANGES = ["value", "value", "number", "gone", "type", "null", "rows", "twice", "none", "name"]


@st.composite
def tables(draw: st.DrawFn, good: pa.Table) -> bytes:
    """A table with other columns, types or rows, as a file."""
    table = good
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, table.num_columns - 1))
        field, names = table.schema.field(at), table.column_names
        change, place, new = draw(st.sampled_from(CHANGES)), draw(st.integers(0, max(0, len(table) - 1))), draw(odd)
        number, kind = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(TYPES))
        with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, ValueError, IndexError):
            match change:
                case "value" | "number":
                    values = table.column(at).to_pylist()
                    values[place] = new if change == "value" else number
                    table = table.set_column(at, field, pa.array(values, field.type))
                case "gone":
                    table = table.select([i for i in range(table.num_columns) if i != at or table.num_columns == 1])
                case "type":
                    table = table.set_column(at, field.name, table.column(at).cast(kind))
                case "null":
                    table = table.set_column(at, field, pa.nulls(len(table), field.type))
                case "rows":
                    table = table.slice(place, draw(st.integers(0, len(table))))
                case "twice":
                    table = pa.concat_tables([table, table])
                case "none":
                    table = table.set_column(at, field.name, pa.nulls(len(table)))
                case "name":
                    other = draw(st.sampled_from(["x", "image_id", "instance", *names]))
                    table = table.rename_columns([other if i == at else name for i, name in enumerate(names)])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def reseal(root: Path, name: str) -> None:
    """Makes the marks of a run agree with a file of it, whatever that holds now."""
    file = root / name
    entry = [file.stat().st_size, sha256(file)]
    for mark in (root / "commits").glob("*.json"):
        raw = read_sealed(mark)
        if isinstance(raw, dict) and isinstance(raw.get("files"), dict) and name in raw["files"]:
            write(mark, sealed({**raw, "files": {**raw["files"], name: entry}}))
    if name == "spec.yaml":
        facts = read_sealed(root / "run.json") or {}
        write(root / "run.json", sealed({**facts, "spec": entry[1]}))


SIZES = [b"9" * 5000, b"-1", b"x", b"0", b"9" * 20]
FILE_NAMES = [b"../../x\n", b"/etc/passwd\n", b"\n", b"\xff\n", b"a\0b\n", b"coco/../spec.yaml\n", b"\x1b[2J\n"]


@st.composite
def records(draw: st.DrawFn, world: World, names: list[str]) -> tuple[str, bytes, bool, list[str]]:
    """(file, what is in it now, whether its marks agree, commands)."""
    name = draw(st.sampled_from(names))
    good = (world.root / name).read_bytes()
    structural = draw(st.integers(0, 3)) > 0
    if structural and name.endswith(".jsonl"):
        data = chained(changed(draw, [orjson.loads(line) for line in good.splitlines()]))
    elif structural and name.endswith(".json"):
        raw = changed(draw, {k: v for k, v in orjson.loads(good).items() if k != SEAL})
        with contextlib.suppress(TypeError):
            good = sealed(raw) if SEAL.encode() in good else orjson.dumps(raw)
        data = good
    elif structural and name.endswith(".parquet"):
        data = draw(tables(pq.read_table(io.BytesIO(good))))
    elif structural and name.endswith("spec.yaml"):
        data = yaml.safe_dump(changed(draw, yaml.safe_load(good))).encode()
    elif structural and name.endswith(".png"):
        data = draw(picture_files(good))
    elif structural and name.endswith(".files"):
        lines = good.splitlines(keepends=True)
        lines[0] = b" ".join([lines[0].split()[0], draw(st.sampled_from(SIZES)), draw(st.sampled_from(FILE_NAMES))])
        data = b"".join(lines)
    else:
        data = damaged(draw, good)
    return (
        name,
        data,
        draw(st.booleans()),
        draw(st.lists(st.sampled_from(sorted(COMMANDS)), min_size=2, max_size=3, unique=True)),
    )


def call(*arguments: object) -> None:
    """The command line, whose errors come out as they are; what it prints is fit for a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(typer.Exit):
        cli.app(list(map(str, arguments)), prog_name="synthgen", standalone_mode=False)
    for line in (out.getvalue() + err.getvalue()).splitlines():
        assert line.isprintable(), line


def review(root: Path) -> None:
    """Both queues, with their answers to a browser."""
    build = Build.read(Run(root))
    for queue in ("random", "borderline"):
        with ReviewLog.open(build.run.paths.reviews) as log:
            asked = ReviewQueue(build, queue, None, log)
            client = TestClient(app(asked, "t"), base_url="http://127.0.0.1", headers={"X-Token": "t"})
            orjson.dumps(asked.state())
            for place in {0, len(asked.items) - 1}:
                orjson.dumps(asked.item(place))
                assert asked.image(asked.items[place].image_id)
            for content in ({"item": 0, "verdict": "accept"}, {"item": 0, "verdict": "wrong_class", "instance": 0}):
                assert client.post("/verdicts", content=orjson.dumps(content)).status_code in {200, 422}
            assert client.post("/undo").status_code in {200, 422}


def start(root: Path) -> None:
    run = Run(root)
    with run.lock():
        build = Build.read(Run(root))
        build = Build.start(run, build.spec, Stages.of(build.spec))
        plan_shards(build)
        build.is_complete()
        build.remarks()


def runs(root: Path) -> None:
    past = history.history(root.parent)
    history.table(past)
    history.drop([*past, *past])
    call("runs", root.parents[2] / "spec.yaml", "--out", root.parents[1])


def fire(root: Path) -> None:
    """What a firing asks of the folder."""
    log = FiringLog(root.parent)
    schedule.at_work(root.parent)
    schedule.number_of_next(root.parent, load_spec(root.parents[2] / "spec.yaml"))
    Timetable.every(60, "UTC", log.timetable)
    log.was_busy(now())
    log.account(Timetable("UTC", "0 3 * * *"), now())
    log.record(now(), run=1)


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "status": lambda root: call("status", root),
    "verify": lambda root: call("verify", root),
    "show": lambda root: call("show", root, "--images", 4, "--tile", 64),
    "show --rejected": lambda root: call("show", root, "--rejected", "--images", 4, "--tile", 64),
    "judge": lambda root: call("judge", root, "--set", "count=7"),
    "export": lambda root: call("export", root),
    "report": lambda root: call("report", root),
    "plan": lambda root: call("plan", root.parents[2] / "spec.yaml", "--out", root.parents[1]),
    "review": review,
    "start": start,
    "runs": runs,
    "fire": fire,
    "grow": lambda root: growth.grow(Build.open(Run(root))),
}


def check_record(case: tuple[str, bytes, bool, list[str]], world: World, folder: Path) -> None:
    """Every command gives an answer, or one error in words."""
    name, data, agreeing, commands = case
    root = world.copy(folder) / RUN
    outside = folder / "x"
    outside.write_bytes(b"not the run's")
    write(folder / name, data)
    if agreeing and name.startswith(RUN) and "/commits/" not in name:
        reseal(root, name.removeprefix(f"{RUN}/"))
    for command in commands:
        with bounded():
            try:
                COMMANDS[command](root)
            except SynthgenError as error:
                require_words(error)
            except OSError as error:
                assert of_system(error), error
    assert outside.read_bytes() == b"not the run's"


# What a browser may send to the page of reviews


@st.composite
def posts(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """(method, path, body)."""
    good = {"item": 0, "verdict": "wrong_class", "instance": 0, "category_id": 1}
    body = json.dumps(changed(draw, good)) if draw(st.booleans()) else json.dumps(draw(odd))
    data = body.encode(errors="surrogatepass")
    data = damaged(draw, data) if draw(st.booleans()) else data
    data = draw(
        st.sampled_from([data, data, data, b"[" * 100_000, b'{"item": ' + b"9" * 5000 + b', "verdict": "accept"}'])
    )
    number = draw(st.sampled_from(["0", "1", "99", "9" * 30, "9" * 5000, "-1", "x", "%00", "1/../2"]))
    path = draw(st.sampled_from(["/verdicts", "/verdicts", "/undo", "/state", f"/items/{number}", f"/images/{number}",
                                 "/?token=%ff%fe", "/?token=\u20ac", f"/verdicts?token={number}"]))  # fmt: skip
    return draw(st.sampled_from(["POST", "POST", "GET", "PUT"])), path, data


def check_post(case: tuple[str, str, bytes], client: TestClient) -> None:
    """An answer that is no failure of the server's; in a line where it is no page."""
    method, path, data = case
    with bounded():
        answer = client.request(method, path, content=data)
    assert answer.status_code in {200, 403, 404, 405, 413, 422}
    if answer.status_code in {413, 422}:
        one_line(answer.text)


@contextlib.contextmanager
def served(world: World, folder: Path) -> Iterator[TestClient]:
    """The page of a copy of the run, asked by who may."""
    build = Build.read(Run(world.copy(folder) / RUN))
    with ReviewLog.open(build.run.paths.reviews) as log:
        asked = ReviewQueue(build, "random", None, log)
        yield TestClient(app(asked, "t"), base_url="http://127.0.0.1", headers={"X-Token": "t"})
