"""The review's page: in a browser by keyboard, and its answers to who has no business there."""

import http.client
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import orjson
import pyarrow as pa
import pytest
from browser import CHROMIUM, REASON, opened, overflow, ready, serving
from conftest import QUICK
from starlette.testclient import TestClient

from synthgen.errors import RunError
from synthgen.judging.counting import label_precision
from synthgen.judging.precision import LabelPrecision
from synthgen.judging.reviews import ReviewLog, read_reviews
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_shards
from synthgen.review.queue import ReviewQueue
from synthgen.review.server import MAX_BODY_BYTES, app, redirect_file
from synthgen.store.run import Run

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=REASON)
MANY = {**QUICK, "name": "many", "count": 12, "objects_per_image": {2: 1}, "generator": {"num_inference_steps": 1}}


@pytest.fixture(scope="module")
def made(run_through: Any, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A run of 24 labels, and of what its filters measure."""
    build: Build = run_through({**MANY, "filters": {"predicted_iou": {"min": 0.0}}}, tmp_path_factory.mktemp("made"))
    return build


@pytest.fixture
def build(made: Build) -> Iterator[Build]:
    yield made
    made.run.paths.reviews.unlink(missing_ok=True)


@needs_browser
def test_twenty_verdicts_by_keyboard_and_a_kill(build: Build) -> None:
    with serving(build.run.root, "--count", "22") as (process, address), opened() as (tab, complaints, asked):
        tab.goto(address)
        for done, key in enumerate("aramaacaaaaamaaaaaar"):
            ready(tab, done, 22)
            tab.keyboard.press(key)
            if key == "c":
                tab.locator("#find").fill("tre")
                tab.keyboard.press("Enter")
            if done == 4:  # said in error
                ready(tab, 5, 22)
                tab.keyboard.press("u")
                ready(tab, 4, 22)
                tab.keyboard.press("r")
        ready(tab, 20, 22)
        process.send_signal(signal.SIGKILL)
        assert complaints == [] and overflow(tab) <= 0
        assert all(url.startswith(address.partition("?")[0]) for url in asked)
    found = list(read_reviews(build.run.paths.reviews).of.values())
    names = {"a": "accept", "r": "reject", "m": "bad_mask", "c": "wrong_class"}
    assert [r.verdict for r in found] == [names[key] for key in "aramracaaaaamaaaaaar"]
    assert [r.category_id for r in found if r.verdict == "wrong_class"] == [3]
    with ReviewLog.open(build.run.paths.reviews) as log:
        assert ReviewQueue(build, "random", 22, log).state()["next"] == 20  # goes on where it was


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_borderline_images_with_a_label_chosen(build: Build, width: int) -> None:
    with serving(build.run.root, "--queue", "borderline") as (process, address), opened(width) as (tab, complaints, _):
        tab.goto(address)
        ready(tab, 0, 12)
        assert overflow(tab) <= 0
        tab.keyboard.press("2")
        assert tab.locator("#names .chosen").count() == 1
        tab.keyboard.press("m")
        ready(tab, 1, 12)
        tab.keyboard.press("l")
        assert tab.locator("#labels").is_hidden()
        tab.locator("[data-verdict=accept]").click()
        ready(tab, 2, 12)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout is not None and "2 verdicts made" in process.stdout.read()
        assert complaints == []
    said = list(read_reviews(build.run.paths.reviews).of.values())
    assert [(r.verdict, r.queue, r.instance is None) for r in said] == [
        ("bad_mask", "borderline", False), ("accept", "borderline", True),
    ]  # fmt: skip


@pytest.fixture
def client(build: Build) -> Iterator[TestClient]:
    with ReviewLog.open(build.run.paths.reviews) as log:
        yield TestClient(app(ReviewQueue(build, "random", None, log), "secret"), base_url="http://127.0.0.1")


TOKEN = {"X-Token": "secret"}
ADDRESSES = [("GET", "/"), ("GET", "/state"), ("GET", "/items/0"), ("GET", "/images/1"), ("POST", "/verdicts"),
             ("POST", "/undo")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 403), ({"X-Token": "Secret"}, 403), ({"X-Token": ""}, 403), ({**TOKEN, "Host": "evil.example"}, 403),
     ({**TOKEN, "Host": "127.0.0.1.evil.example"}, 403), ({**TOKEN, "Origin": "http://evil.example"}, 403)],
)  # fmt: skip
def test_strangers_are_refused(
    client: TestClient, build: Build, method: str, path: str, headers: Any, status: int
) -> None:
    content = orjson.dumps({"item": 0, "verdict": "accept"})
    answer = client.request(method, path, headers=headers, content=content if method == "POST" else None)
    assert answer.status_code == status
    assert len(read_reviews(build.run.paths.reviews)) == 0


@pytest.mark.parametrize(
    "said",
    [{}, {"item": 0}, {"item": 99, "verdict": "accept"}, {"item": -1, "verdict": "accept"},
     {"item": 0, "verdict": "love"}, {"item": 0, "verdict": "accept", "category_id": 1},
     {"item": 0, "verdict": "wrong_class", "category_id": 99}, {"item": "0", "verdict": "accept"},
     {"item": 0, "verdict": "accept", "more": 1}, [], "x"],
)  # fmt: skip
def test_a_verdict_that_is_none_is_refused(client: TestClient, build: Build, said: Any) -> None:
    assert client.post("/verdicts", headers=TOKEN, content=orjson.dumps(said)).status_code == 422
    assert client.post("/verdicts", headers=TOKEN, content=b"{").status_code == 422
    assert len(read_reviews(build.run.paths.reviews)) == 0


def test_only_images_of_the_queue_are_given(client: TestClient, build: Build) -> None:
    first = client.get("/items/0", headers=TOKEN).json()
    answer = client.get(f"/images/{first['image_id']}?token=secret")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == next(build.run.root.glob(f"images/*/{first['image_id']:012d}.png")).read_bytes()
    for path in ("/images/99", "/images/..%2f..%2fspec.yaml", "/items/999", "/spec.yaml"):
        assert client.get(path, headers=TOKEN).status_code == 404


def test_answers_say_what_a_page_may(client: TestClient) -> None:
    answer = client.get("/", headers=TOKEN)
    policy = answer.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe-inline'; script" not in policy
    )
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", answer.text)


def asked(
    address: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """What comes of a request to the server of an address, with these headers only."""
    connection = http.client.HTTPConnection(str(urlsplit(address).netloc))
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    try:
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_what_comes_of_requests_over_a_socket(build: Build) -> None:
    (shown,) = [p for p in build.run.root.glob("images/*/*01.png") if p.name.endswith("001.png")]
    said = orjson.dumps({"item": 0, "verdict": "accept"})
    with serving(build.run.root) as (_, address):
        host, token = urlsplit(address).netloc, urlsplit(address).query.removeprefix("token=")
        ours = {"Host": host, "X-Token": token}
        port = host.partition(":")[2]
        cases: list[tuple[str, str, Mapping[str, str], bytes, int]] = [
            ("GET", "/state", ours, b"", 200),
            ("GET", "/state", {**ours, "Host": f"LocalHost:{port}"}, b"", 200),
            ("GET", f"/?token={token}", {"Host": host}, b"", 200),
            *(("GET", path, {"Host": host}, b"", 403) for path in ("/", "/state", "/items/0", "/images/1", "/nothing")),
            ("GET", "/state", {**ours, "X-Token": token[:-1]}, b"", 403),
            ("GET", "/state", {**ours, "X-Token": "\xe9" * 8}, b"", 403),
            *(
                (method, path, {**ours, "Host": name}, said, 403)
                for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[::1]")
                for method, path in (("GET", "/state"), ("POST", "/verdicts"))
            ),
            *(
                (method, path, {**ours, "Origin": origin}, said, 403)
                for origin in (
                    "http://evil.example",
                    "null",
                    f"https://{host}",
                    "http://127.0.0.1:1",
                    "http://127.0.0.1",
                )
                for method, path in (("GET", "/state"), ("POST", "/verdicts"), ("POST", "/undo"))
            ),
            *(
                (method, path, ours, b"", 405)
                for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "MOVE")
                for path in ("/", "/verdicts", "/images/1")
            ),
            ("POST", "/state", ours, b"", 405),
            ("GET", "/undo", ours, b"", 405),
            ("POST", "/verdicts", ours, b"{" + b" " * MAX_BODY_BYTES, 413),
            ("POST", "/verdicts", {**ours, "Origin": f"http://{host}"}, b"{}", 422),
            *(("GET", f"/images/{name}", ours, b"", 404) for name in ("..%2f..%2fspec.yaml", "1%00", "99")),
        ]
        for method, path, headers, body, status in cases:
            got, told, content = asked(address, method, path, headers, body)
            assert got == status, (method, path, headers)
            for name, value in {
                "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
            }.items():  # fmt: skip
                assert told[name] == value, (method, path, status, name)
            assert "default-src 'none'" in told["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in told["Content-Security-Policy"]
            assert status < 400 or shown.read_bytes() not in content
        assert len(read_reviews(build.run.paths.reviews)) == 0
        # Of a body without end, no more is read than is a verdict's.
        with socket.create_connection(("127.0.0.1", int(port))) as line:
            lines = ["POST /verdicts HTTP/1.1", f"Host: {host}", f"X-Token: {token}", "Transfer-Encoding: chunked"]
            line.sendall("\r\n".join([*lines, "", f"{MAX_BODY_BYTES + 1:x}", " " * (MAX_BODY_BYTES + 1), ""]).encode())
            assert line.recv(100).startswith(b"HTTP/1.1 413")
        got, _, _ = asked(address, "POST", "/verdicts", {**ours, "Origin": f"http://{host}"}, said)
        assert got == 200
        assert len(read_reviews(build.run.paths.reviews)) == 1


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_run_folder_are_not_read(copied: Path, tmp_path: Path, synthgen: Any, what: str) -> None:
    run = copied / "fruit" / "run-0001"
    image = min(run.glob("images/00000/*.png"))
    secret = b"\x89PNG of another"
    if what == "file":
        (tmp_path / "secret").write_bytes(secret)
        image.unlink()
        image.symlink_to(tmp_path / "secret")
    else:
        image.parent.rename(tmp_path / "moved")
        image.parent.symlink_to(tmp_path / "moved")
        (tmp_path / "moved" / image.name).unlink()  # it is the export's, too
        (tmp_path / "moved" / image.name).write_bytes(secret)
    named = image.name if what == "file" else "[0-9]+.png"
    said = re.compile(f"images/00000/{named} is not read: a link on its way leads out of {re.escape(str(run))}")
    build = Build.open(Run(run))
    with ReviewLog.open(run / "reviews.jsonl") as log:
        client = TestClient(app(ReviewQueue(build, "random", None, log), "secret"), base_url="http://127.0.0.1")
        for path in (f"/images/{int(image.stem)}", "/items/0", "/items/1"):
            answer = client.get(path, headers=TOKEN)
            if path.startswith("/images") or answer.status_code != 200:
                assert answer.status_code == 500 and said.fullmatch(answer.text)
                assert answer.headers["x-content-type-options"] == "nosniff"
    (run / "commits" / "report.json").unlink()
    for command in (["show", run], ["report", run], ["remake", run, int(image.stem)], ["export", run],
                    ["export", run, "--set", "exporters.coco.images=jpeg"]):  # fmt: skip
        if command[0] == "export":
            (run / "commits" / "export-coco.json").unlink(missing_ok=True)
        code, _, err = synthgen(*command)
        assert code == 2 and said.fullmatch(err.removeprefix("error: ").rstrip("\n")), (command, err)
    assert not any(p.is_file() and p.read_bytes() == secret for p in run.glob("coco/**/*.png"))
    code, _, err = synthgen("verify", run)
    assert code == 2
    assert f"damaged: images/00000/{image.name}: a link on its way leads out of the run folder" in err


def test_a_log_of_verdicts_that_is_a_link_is_not_written_to(copied: Path, tmp_path: Path, synthgen: Any) -> None:
    (tmp_path / "notes").write_text("mine")
    run = copied / "fruit" / "run-0001"
    (run / "reviews.jsonl").symlink_to(tmp_path / "notes")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = synthgen("review", run, "--no-browser", "--port", taken.getsockname()[1])
    assert (code, err) == (2, f"error: reviews.jsonl is not read: a link on its way leads out of {run}\n")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_browser_is_led_to_the_page_by_a_file_of_its_users(build: Build, tmp_path: Path) -> None:
    """What a browser is started with can be read by all users of the machine, by `ps`."""
    script, given, temporary = tmp_path / "browser", tmp_path / "given", tmp_path / "tmp"
    script.write_text(f'#!/bin/sh\nprintf %s "$*" > {given}.new\nmv {given}.new {given}\n')
    script.chmod(0o755)
    temporary.mkdir()

    def door_of(address: str) -> Path:
        for _ in range(1200):
            if given.exists():
                break
            time.sleep(0.05)
        said = given.read_text()
        given.unlink()
        assert said.startswith("file:///") and urlsplit(address).query.removeprefix("token=") not in said
        file = Path(url2pathname(urlsplit(said).path))
        assert file.parent == temporary and file.stat().st_mode & 0o777 == 0o600
        assert f'content="0; url={address}"' in file.read_text()
        return file

    def review() -> Any:
        return serving(build.run.root, browser=f"{script} %s", env={"TMPDIR": str(temporary)})

    with review() as (process, address):
        killed = door_of(address)
        process.kill()
        process.wait()
        assert killed.exists()
    with review() as (process, address):
        file = door_of(address)
        assert [*temporary.iterdir()] == [file] != [killed]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [*temporary.iterdir()] == []


def test_doors_in_use_stay_and_what_is_no_door_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "notes.html").write_text("mine")
    (tmp_path / "synthgen-review-link.html").symlink_to(tmp_path / "notes.html")
    with redirect_file("http://127.0.0.1:1/?token=a") as first, redirect_file("http://127.0.0.1:2/?token=b") as second:
        assert "token=a" in Path(url2pathname(urlsplit(first).path)).read_text()
        assert "token=b" in Path(url2pathname(urlsplit(second).path)).read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"notes.html", "synthgen-review-link.html"}


@needs_browser
def test_the_file_leads_there(build: Build, tmp_path: Path) -> None:
    with serving(build.run.root) as (_, address), redirect_file(address) as file, opened() as (tab, complaints, _):
        tab.goto(file)
        tab.wait_for_url(address)
        ready(tab, 0, 23)
        assert complaints == []


def test_undo_leads_back(client: TestClient) -> None:
    first = client.post("/verdicts", headers=TOKEN, content=orjson.dumps({"item": 0, "verdict": "reject"})).json()
    assert (first["done"], first["next"], first["precision"]["right"]) == (1, 1, 0)
    back = client.post("/undo", headers=TOKEN).json()
    assert (back["undone"], back["done"], back["next"]) == (0, 0, 0)
    assert client.post("/undo", headers=TOKEN).json()["undone"] is None


def test_nothing_to_review(finished: Any, tmp_path: Path) -> None:
    with ReviewLog.open(tmp_path / "log") as log:
        queue = ReviewQueue(finished, "random", 3, log)
        assert len(queue.items) == 3 and {i.instance is None for i in queue.items} == {False}
        with pytest.raises(RunError, match="no images near a threshold"):
            ReviewQueue(finished, "borderline", 0, log)


def test_coverage_on_planted_faults(run_through: Any, tmp_path: Path) -> None:
    """A mini run with one label in eight of a wrong class, which its filters let through, reviewed by an oracle that
    knows which: over 1,000 orders of the queue, and a few times through the log and the next judging."""
    raw = {**MANY, "count": 160, "shard_size": 160, "filters": {"predicted_iou": {"min": 0.0}}}
    raw["generator"] = {"num_inference_steps": 1, "batch_size": 8}
    build = run_through(raw, tmp_path)
    run, file = build.run, build.run.paths.table("labels", 0)
    rows = run.tables.read(file).to_pylist()
    wrong = {(row["image_id"], row["instance"]) for row in rows[::8]}
    for row in rows[::8]:
        row["category_id"] = row["category_id"] % 3 + 1
    mark = run.marks.read("label", 0)
    run.tables.write(file, pa.Table.from_pylist(rows, run.tables.read(file).schema))
    run.marks.commit("label", 0, mark.inputs, [file], counts=mark.counts, environment=mark.environment)
    build = run_through(raw, tmp_path)
    table = run.tables.read(run.paths.verdicts).to_pandas()
    passed = table[table["instance"].notna() & table["passed"]]
    about = list(zip(passed["image_id"], passed["instance"].astype(int), strict=True))
    truth = 1 - len(wrong & set(about)) / len(about)
    assert len(about) > 200

    held = 0
    with ReviewLog.open(run.paths.reviews) as log:
        for seed in range(1000):
            shuffled = replace(build, spec=build.spec.model_copy(update={"seed": seed}))
            count = 60 + seed % 100  # reviewers stop where they like
            sample = [(item.image_id, item.instance) for item in ReviewQueue(shuffled, "random", count, log).items]
            p = LabelPrecision.of(sum(a not in wrong for a in sample), count, len(about))
            held += p.low <= truth <= p.high
        assert 930 <= held <= 970
        for seed in (0, 1):
            queue = ReviewQueue(replace(build, spec=build.spec.model_copy(update={"seed": seed})), "random", 30, log)
            while log.made:
                log.undo()
            for place, item in enumerate(queue.items):
                queue.add(place, "reject" if (item.image_id, item.instance) in wrong else "accept", None, None)
            borderline = ReviewQueue(build, "borderline", 5, log)
            for place in range(len(borderline.items)):
                borderline.add(place, "reject", None, None)  # which may not count
            p = label_precision(judge_shards(build, [0]))
            right = sum((i.image_id, i.instance) not in wrong for i in queue.items)
            assert (p.right, p.verdicts, p.population) == (right, 30, len(about))
