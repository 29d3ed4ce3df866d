"""Model names become files, without a connection; fetching them is checked to the last byte."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny

from synthgen import models
from synthgen.backends import Source
from synthgen.errors import BackendError, RunError
from synthgen.models import (
    KNOWN,
    MINI,
    KnownModel,
    ModelMissing,
    find_model,
    model_identity,
    read_card,
)
from synthgen.models.download import download_model
from synthgen.models.weights import missing_weights

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
FETCH = "synthgen models --download"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no memory of folders that other tests made."""
    monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    read_card.cache_clear()
    model_identity.cache_clear()
    return tmp_path / "home"


# Names


@pytest.mark.parametrize("kind", ["diffusion", "sam"])
def test_mini_is_embedded(kind: str) -> None:
    path = find_model("mini", kind)  # type: ignore[arg-type]
    assert path == MINI / kind
    card = read_card(path)
    assert card.licence is not None and card.licence.url.startswith("https://")


def test_there_is_no_mini_detector() -> None:
    with pytest.raises(ModelMissing, match="no embedded detector model; name a folder or a Hugging Face id"):
        find_model("mini", "detector")


def test_folders_and_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "sam.pth").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "mine"), "mine", "./mine", "~/mine"):
        assert find_model(name, "diffusion") == tmp_path / "mine"
    assert find_model("sam.pth", "sam") == tmp_path / "sam.pth"


@pytest.mark.parametrize("name", ["./mine", "/no/where", "~/no", "mine", "a/b/c", "x.pth", "weights/x.safetensors"])
def test_paths_that_are_not_there(name: str) -> None:
    with pytest.raises(ModelMissing) as error:
        find_model(name, "diffusion")
    takes = "it takes `mini`, a folder or file, or a model id such as 'owner/name'"
    assert str(error.value) == f"{name!r} does not exist; {takes}"


@pytest.mark.parametrize(
    ("name", "revision", "variant", "message"),
    [
        (SDXL, None, None, f"'{SDXL}' is not on this machine (13.9 GB); fetch it with: {FETCH} {SDXL}"),
        (SDXL, None, "fp16", f"(6.95 GB); fetch it with: {FETCH} {SDXL} --variant fp16"),
        ("no/body", None, None, f"'no/body' is not on this machine; fetch it with: {FETCH} no/body"),
        ("no/body", "v1", None, "synthgen models --download no/body --revision v1"),
        ("no/../x", None, None, "does not exist"),
        ("bad name/x?", None, None, "is not on this machine"),
        ("vit_h", None, None, f"'vit_h' is not on this machine (2.6 GB); fetch it with: {FETCH} vit_h"),
    ],
)  # fmt: skip
def test_what_is_not_here_is_named_with_size_and_command(
    name: str, revision: str | None, variant: str | None, message: str
) -> None:
    with pytest.raises(ModelMissing) as error:
        find_model(name, "diffusion", revision, variant)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_known_checkpoints_are_found_in_the_cache(home: Path) -> None:
    for name in ("vit_b", "vit_l", "vit_h"):
        url, md5 = KNOWN[name].url, KNOWN[name].md5
        assert url is not None and md5 is not None
        assert url.startswith("https://dl.fbaipublicfiles.com/segment_anything/sam_" + name)
        assert Path(url).stem.rpartition("_")[2] == md5[:6]  # the file's name has the beginning of its md5
        file = home / "models" / Path(url).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        assert find_model(name, "sam") == file


def test_the_cache_stands_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.cache_folder() == tmp_path / "home"
    monkeypatch.delenv("SYNTHGEN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_folder() == tmp_path / "xdg" / "synthgen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / ".cache" / "synthgen"


# Cards


def test_a_folder_without_a_card_says_nothing(tmp_path: Path) -> None:
    card = read_card(tmp_path)
    assert (card.sizes, card.classes, card.vocabulary, card.layout, card.sam) == (None,) * 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "EOF while parsing"),
        ("[]", "object"),
        ('{"size": 3}', "Extra inputs are not permitted"),
        ('{"sizes": [[128]]}', "Field required"),
        ("\xff", "is no valid model card"),
    ],
)
def test_a_broken_card_is_named(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "synthgen.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelMissing) as error:
        read_card(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'synthgen.json'} is no valid model card: ")
    assert reason in str(error.value)


# Identities


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_an_identity_names_every_byte(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MINI / "diffusion", folder)
    first = model_identity(folder)
    assert first == model_identity(MINI / "diffusion")  # wherever it lies
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ):
        flipped(folder / name)
        model_identity.cache_clear()
        assert model_identity(folder) != first
        flipped(folder / name)
    model_identity.cache_clear()
    assert model_identity(folder) == first
    (folder / "vae" / "more.safetensors").write_bytes(b"")
    model_identity.cache_clear()
    assert model_identity(folder) != first


def test_an_identity_minds_neither_notes_nor_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    first = model_identity(tmp_path)
    (tmp_path / "README.md").write_text("about")
    model_identity.cache_clear()
    assert model_identity(tmp_path) == first


def test_a_snapshot_is_named_by_its_commit(tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    assert model_identity(folder) == "0123abc"


def test_a_checkpoint_is_named_by_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "sam.pth"
    file.write_bytes(b"weights")
    first = model_identity(file)
    flipped(file)
    model_identity.cache_clear()
    assert model_identity(file) != first


# Fetching

WEIGHTS = bytes(range(256)) * 9000  # more than one block
MD5 = hashlib.md5(WEIGHTS).hexdigest()
HALF = len(WEIGHTS) // 2 + 7
FETCH_IT = "import sys; from synthgen import models; from synthgen.backends import Source; "
FETCH_IT += "from synthgen.models import KnownModel, download; "
FETCH_IT += (
    "models.KNOWN['vit_b'] = KnownModel(0.4, sys.argv[1], sys.argv[2]); download.download_model(Source('vit_b'))"
)


class Server:
    """Serves what `vit_b` is said to be, and keeps what it was asked.

    Attributes:
        asked: path, Range and If-Range of each request.
        etag, content: of the file. `parts`: whether it gives parts.
        hold: bytes after which it waits for `go`, or, if that is set, ends the connection; None: none.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.etag, self.content, self.parts = '"one"', WEIGHTS, True
        self.hold: int | None = None
        self.go = threading.Event()
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        span, condition = handler.headers["Range"], handler.headers["If-Range"]
        self.asked.append((handler.path, span, condition))
        if handler.path == "/gone.pth":
            handler.send_error(404)
            return
        body, begin, status = self.content, 0, 200
        if span and self.parts and condition == self.etag:
            begin = int(span.removeprefix("bytes=").removesuffix("-"))
            body, status = body[begin:], 206
        if not body:
            handler.send_error(416)
            return
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        if self.hold is not None and len(body) > self.hold:
            handler.wfile.write(body[: self.hold])
            handler.wfile.flush()
            if self.go.is_set():
                return
            self.go.wait(60)
            body = body[self.hold :]
        handler.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client is dead
                made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.url = f"http://127.0.0.1:{httpd.server_port}"
        for name in ("vit_b", "gone"):
            monkeypatch.setitem(KNOWN, name, KnownModel(0.4, f"{made.url}/{name}.pth", MD5))
        monkeypatch.setitem(KNOWN, "wrong", KnownModel(0.4, f"{made.url}/wrong.pth", "0" * 32))
        try:
            yield made
        finally:
            made.go.set()
            httpd.shutdown()
            thread.join()


def files(home: Path) -> set[str]:
    return {p.name for p in home.rglob("*") if p.is_file()}


def test_a_checkpoint_is_fetched_once(server: Server, home: Path) -> None:
    with pytest.raises(ModelMissing):
        find_model("vit_b", "sam")
    assert server.asked == []  # looking for a model asks nobody
    place = home / "models" / "vit_b.pth"
    for _ in range(2):
        assert download_model(Source("vit_b")) == place
    assert place.read_bytes() == WEIGHTS and files(home) == {"vit_b.pth"}
    assert server.asked == [("/vit_b.pth", None, None)]
    assert find_model("vit_b", "sam") == place


def killed(server: Server, home: Path) -> None:
    """Fetches half of it in a process of its own, and kills that."""
    server.hold = HALF
    part = home / "models" / ".vit_b.pth.part"
    with subprocess.Popen([sys.executable, "-c", FETCH_IT, f"{server.url}/vit_b.pth", MD5]) as process:
        while process.poll() is None and (not part.is_file() or part.stat().st_size < HALF // 2):
            time.sleep(0.01)
        process.kill()
    server.go.set()
    server.hold = None
    assert 0 < part.stat().st_size < len(WEIGHTS)
    assert files(home) == {".vit_b.pth.part", ".vit_b.pth.etag"}


def test_a_killed_download_is_gone_on_with(server: Server, home: Path) -> None:
    killed(server, home)
    begun = (home / "models" / ".vit_b.pth.part").stat().st_size
    assert download_model(Source("vit_b")).read_bytes() == WEIGHTS
    assert server.asked[1:] == [("/vit_b.pth", f"bytes={begun}-", '"one"')]
    assert files(home) == {"vit_b.pth"}


@pytest.mark.parametrize("why", ["another file", "no parts", "too long", "a weak name", "no name"])
def test_what_cannot_be_gone_on_with_is_begun_anew(why: str, server: Server, home: Path) -> None:
    folder = home / "models"
    folder.mkdir(parents=True)
    (folder / ".vit_b.pth.part").write_bytes(b"x" * (len(WEIGHTS) if why == "too long" else HALF))
    (folder / ".vit_b.pth.etag").write_text('"other"' if why == "another file" else '"one"')
    server.parts = why != "no parts"
    asked = 1
    if why in {"a weak name", "no name"}:
        for left in folder.iterdir():
            left.unlink()
        server.etag, server.hold = ('W/"one"' if why == "a weak name" else ""), HALF
        server.go.set()
        with pytest.raises(RunError, match=r"was lost after .*; try again$"):
            download_model(Source("vit_b"))
        assert files(home) == set()
        server.hold = None
    elif why == "too long":
        asked = 2  # the first is told that there is no such part
    server.asked.clear()
    assert download_model(Source("vit_b")).read_bytes() == WEIGHTS
    assert len(server.asked) == asked and files(home) == {"vit_b.pth"}


def test_a_whole_part_lacks_only_its_name(server: Server, home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models" / ".vit_b.pth.part").write_bytes(WEIGHTS)
    (home / "models" / ".vit_b.pth.etag").write_text('"one"')
    assert download_model(Source("vit_b")).read_bytes() == WEIGHTS
    assert server.asked == [] and files(home) == {"vit_b.pth"}


def test_a_lost_connection_keeps_what_has_come(server: Server, home: Path) -> None:
    server.hold = HALF
    server.go.set()
    kept = "; the received part is kept, and the same command goes on from there"
    with pytest.raises(RunError) as error:
        download_model(Source("vit_b"))
    said = f"cannot fetch 'vit_b': the connection to {server.url}/vit_b.pth was lost after {HALF:,} bytes{kept}"
    assert str(error.value) == said
    server.hold = None
    assert download_model(Source("vit_b")).read_bytes() == WEIGHTS
    assert server.asked[1] == ("/vit_b.pth", f"bytes={HALF}-", '"one"')


def test_two_downloads_at_once_do_not_mix(server: Server, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.hold = HALF
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download_model, Source("vit_b"))
        while not server.asked and not first.done():
            time.sleep(0.01)
        second = pool.submit(download_model, Source("vit_b"))
        said = ""
        while not said and not second.done():
            said += capsys.readouterr().err
            time.sleep(0.01)
        assert said == f"{home / 'models'}: another process is fetching the same; waiting for it\n"
        server.go.set()
        assert first.result() == second.result()
    assert first.result().read_bytes() == WEIGHTS
    assert len(server.asked) == 1 and files(home) == {"vit_b.pth"}


def test_what_killed_downloads_of_earlier_versions_left_is_removed(server: Server, home: Path) -> None:
    (home / "models").mkdir(parents=True)
    for name in (".vit_h.pth.123.tmp", ".vit_b.pth.124.tmp", "notes.tmp"):
        (home / "models" / name).touch()
        os.utime(home / "models" / name, (0, 0))
    os.utime(home / "models" / ".vit_b.pth.124.tmp")  # somebody may be at it
    download_model(Source("vit_b"))
    assert files(home) == {"vit_b.pth", ".vit_b.pth.124.tmp", "notes.tmp"}


def test_checksums_are_those_in_the_names() -> None:
    """SAM's authors put the first digits of each checkpoint's md5 into its name."""
    for name in ("vit_b", "vit_l", "vit_h"):
        known = KNOWN[name]
        assert known.url and known.md5 and len(known.md5) == 32
        assert known.url.endswith(f"sam_{name}_{known.md5[:6]}.pth")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "wrong",
            f"the file from URL/wrong.pth has the md5 {MD5}, and the checkpoint has {'0' * 32}; it is not kept",
        ),
        ("gone", "URL/gone.pth answers 404 Not Found"),
        ("nobody", "http://127.0.0.1:9/x.pth cannot be reached ([Errno 111] Connection refused); try again"),
        ("nowhere", "http://nowhere.invalid/x.pth cannot be reached ("),
    ],
)
def test_what_did_not_come_right_leaves_nothing(
    name: str, reason: str, server: Server, home: Path, synthgen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "nobody", KnownModel(0.4, "http://127.0.0.1:9/x.pth", "0"))
    monkeypatch.setitem(KNOWN, "nowhere", KnownModel(0.4, "http://nowhere.invalid/x.pth", "0"))
    monkeypatch.setenv("no_proxy", "*")
    code, out, err = synthgen("models", "--download", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: cannot fetch {name!r}: {reason.replace('URL', server.url)}")
    assert files(home) == set()


@pytest.mark.parametrize("told", [True, False], ids=["told before", "told by the disk"])
def test_a_disk_that_is_full(
    told: bool, server: Server, home: Path, synthgen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told:
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
        code, _, err = synthgen("models", "--download", "vit_b")
        assert err == (
            f"error: the download needs 0.0 GB, and {home / 'models'} has 0.0 GB free; free some and run the same "
            "command again\n"
        )
    else:
        # A write beyond this size is refused as on a full disk, but by another number.
        code = (
            "import errno, resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({HALF}, {HALF})); import synthgen.errors as e; "
            "e.FULL.add(errno.EFBIG); import sys; from synthgen import cli, models; "
            f"models.KNOWN['vit_b'] = models.KnownModel(0.4, '{server.url}/vit_b.pth', '{MD5}'); "
            "sys.argv = ['synthgen', 'models', '--download', 'vit_b']; cli.main()"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
        code, err = done.returncode, done.stderr
        assert err == "error: no room left on the disk for 'vit_b'; free some and run the same command again\n"
        assert (home / "models" / ".vit_b.pth.part").stat().st_size == HALF
    assert code == 4
    monkeypatch.undo()
    monkeypatch.setenv("SYNTHGEN_HOME", str(home))
    monkeypatch.setitem(KNOWN, "vit_b", KnownModel(0.4, f"{server.url}/vit_b.pth", MD5))
    assert download_model(Source("vit_b")).read_bytes() == WEIGHTS
    assert server.asked[-1][1] == (None if told else f"bytes={HALF}-")


def test_a_model_of_the_hub_cannot_be_fetched_offline() -> None:
    with pytest.raises(RunError, match=r"^cannot fetch 'no/body': HF_HUB_OFFLINE is set, which forbids to ask the hub"):
        download_model(Source("no/body"))


def test_every_known_model_has_a_size() -> None:
    assert all(known.gigabytes > 0.1 for known in KNOWN.values())
    assert all(name.count("/") == 1 for name, known in KNOWN.items() if not known.url)
    assert json.loads(json.dumps(list(KNOWN))) == list(dict.fromkeys(KNOWN))


# Missing weights


def sharded(folder: Path) -> Path:
    """A folder of three shards, as saved by transformers."""
    names = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    for name in names:
        (folder / name).touch()
    weight_map = {f"w{i}": name for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    assert missing_weights(folder) == []
    second, index = folder / "model-00002-of-00003.safetensors", folder / "model.safetensors.index.json"
    second.unlink()
    assert missing_weights(folder) == [second.name]
    second.symlink_to("../blobs/nothing")
    assert missing_weights(folder) == [second.name]
    index.unlink()
    assert missing_weights(folder) == [second.name, index.name]  # counted by the others' numbers
    (folder / "model.safetensors").touch()
    assert missing_weights(folder) == []
    index.write_text("[]")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackendError, match=r"index.json cannot be read: it is no mapping"):
        missing_weights(folder)


def test_a_pipeline_with_a_missing_shard_or_variant_is_refused_in_a_sentence(tmp_path: Path) -> None:
    from synthgen.generators import diffusion

    folder = tmp_path / "copy"
    tiny.stable_diffusion().save_pretrained(folder)
    text = folder / "text_encoder"
    (text / "model.safetensors").rename(text / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (text / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    backend = diffusion.Backend(diffusion.Config(use="diffusion", model=str(folder)), [])
    (problem,) = backend.models()[0].problems()
    for name in ("text_encoder/model-00002-of-00002.safetensors", "unet (weights in safetensors)"):
        assert name in problem.message
    assert "is not whole on this machine; missing: " in problem.message and "\n" not in problem.message
