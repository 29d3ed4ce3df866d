"""Model names become files, without a connection; fetching them is checked to the last byte."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from synthgen import models
from synthgen.download import download_model
from synthgen.errors import RunError
from synthgen.models import KNOWN, MINI, KnownModel, ModelMissing, find_model, model_identity, read_card

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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves what `vit_b` is said to be -> the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/gone.pth":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(WEIGHTS)))
            self.end_headers()
            self.wfile.write(WEIGHTS[: len(WEIGHTS) // 2] if self.path == "/cut.pth" else WEIGHTS)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url, md5 = f"http://127.0.0.1:{httpd.server_port}", hashlib.md5(WEIGHTS).hexdigest()
        monkeypatch.setitem(KNOWN, "vit_b", KnownModel(0.4, f"{url}/sam_vit_b.pth", md5))
        monkeypatch.setitem(KNOWN, "wrong", KnownModel(0.4, f"{url}/wrong.pth", "0" * 32))
        monkeypatch.setitem(KNOWN, "cut", KnownModel(0.4, f"{url}/cut.pth", md5))
        monkeypatch.setitem(KNOWN, "gone", KnownModel(0.4, f"{url}/gone.pth", md5))
        try:
            yield asked
        finally:
            httpd.shutdown()
            thread.join()


def test_a_checkpoint_is_fetched_once(server: list[str], home: Path) -> None:
    with pytest.raises(ModelMissing):
        find_model("vit_b", "sam")
    assert server == []  # looking for a model asks nobody
    for _ in range(2):
        assert download_model("vit_b") == home / "models" / "sam_vit_b.pth"
    assert (home / "models" / "sam_vit_b.pth").read_bytes() == WEIGHTS
    assert server == ["/sam_vit_b.pth"]
    assert find_model("vit_b", "sam") == home / "models" / "sam_vit_b.pth"


@pytest.mark.parametrize(
    ("name", "reason"), [("wrong", "md5"), ("cut", ""), ("gone", "404"), ("nobody", "Connection refused")]
)
def test_what_did_not_come_right_leaves_nothing(
    name: str, reason: str, server: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "nobody", KnownModel(0.4, "http://127.0.0.1:9/x.pth", "0"))
    with pytest.raises(RunError) as error:
        download_model(name)
    assert str(error.value).startswith(f"cannot fetch {name!r}: ")
    assert reason in str(error.value)
    assert [p for p in home.rglob("*") if p.is_file()] == []


def test_a_model_of_the_hub_cannot_be_fetched_offline() -> None:
    with pytest.raises(RunError, match=r"^cannot fetch 'no/body': .*disabled"):
        download_model("no/body")


def test_every_known_model_has_a_size() -> None:
    assert all(known.gigabytes > 0.1 for known in KNOWN.values())
    assert all(name.count("/") == 1 for name, known in KNOWN.items() if not known.url)
    assert json.loads(json.dumps(list(KNOWN))) == list(dict.fromkeys(KNOWN))
