"""Models are fetched from a hub on this machine, by the client that is installed and by the one before it: what is
read and nothing else, gone on with where another process was cut off, and found by other tools without a connection."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import hub as hubs
import huggingface_hub
import numpy as np
import pytest
import tiny
import transformers
import yaml
from hub import TOKEN, Hub, Machine, Repository
from safetensors.numpy import save_file

from synthgen.generators import diffusion
from synthgen.models import ModelMissing, find_model
from synthgen.models.hub.fetch import sweep

# `make test` puts the older client there. diffusers 0.42.1 takes huggingface_hub 1.32 and later, below 3.
OLDER = Path(sys.prefix) / "huggingface_hub-1"
OLD, NEW = "1" * 40, "0123456789abcdef0123456789abcdef01234567"
PLAIN = {
    "README.md", "model_index.json",
    "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
}  # fmt: skip
UNET = "me/pipeline/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as it is on the hub, with much that nobody reads; the same in shards; and a detector."""
    root = tmp_path_factory.mktemp("hub")
    pipeline = tiny.stable_diffusion()
    pipeline.save_pretrained(root / "pipeline")
    pipeline.save_pretrained(root / "pipeline", variant="fp16")
    (root / "pipeline/text_encoder/model.fp16.safetensors").unlink()  # so the plain one goes with the variant's others
    pipeline.save_pretrained(root / "sharded", max_shard_size="100KB")
    tiny.save_owlv2(root / "detector")
    for folder in ("pipeline", "sharded", "detector"):
        (root / folder / "README.md").write_text(f"---\nlicense: cc-by-nc-4.0\n---\n# {folder}\n")
        for junk in (
            ".gitattributes",
            "v1-5-pruned.safetensors",
            "pytorch_model.bin",
            "training_args.txt",
        ):
            (root / folder / junk).write_text(f"{junk} is read by nobody")
    for part in ("unet", "vae", "text_encoder"):
        for junk in ("diffusion_pytorch_model.bin", "flax_model.msgpack", "model.onnx", "model.non_ema.safetensors"):
            (root / "pipeline" / part / junk).write_text(f"{junk} is read by nobody")
    checked = shutil.copytree(root / "pipeline", root / "checked")
    shutil.copytree(checked / "text_encoder", checked / "safety_checker")  # only its name counts here
    index = json.loads((checked / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (checked / "model_index.json").write_text(json.dumps(index))
    earlier = shutil.copytree(root / "pipeline", root / "earlier")
    (earlier / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    return root


@pytest.fixture
def hub(folders: Path) -> Iterator[Hub]:
    with hubs.serving() as hub:
        for name in ("pipeline", "sharded", "detector", "checked"):
            hub.repositories[f"me/{name}"] = Repository({NEW: folders / name}, {"main": NEW})
        hub.repositories["me/pipeline"].commits = {OLD: folders / "earlier", NEW: folders / "pipeline"}
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that has fetched nothing. In this process, the client's cache is the same, and the hub is not asked."""
    made = Machine(tmp_path / "hf", hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(made.cache))
    return made


@pytest.fixture(params=["installed", "older"])
def either(request: pytest.FixtureRequest, machine: Machine) -> Machine:
    """The same with either client."""
    if request.param == "older" and not (OLDER / "huggingface_hub").is_dir():
        pytest.skip(f"huggingface_hub 1 is not in {OLDER}; `make test` puts it there")
    return replace(machine, client=OLDER if request.param == "older" else None)


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def sizes(folder: Path, names: set[str], model: str) -> dict[str, int]:
    return {f"{model}/{name}": (folder / name).stat().st_size for name in names}


def test_the_older_client_is_of_the_version_before(either: Machine) -> None:
    done = either.python("import huggingface_hub as h; print(h.__version__.split('.')[0], h.__file__)")
    version, file = done.stdout.split()
    if either.client:
        assert version == "1" and file.startswith(str(OLDER))


def test_what_is_read_is_fetched_once_and_nothing_else(either: Machine, hub: Hub, folders: Path) -> None:
    download = ["models", "--download"]
    names = ["me/pipeline", "me/sharded", "me/detector", "me/pipeline"]
    done = either.synthgen(*[[*download, name] for name in names])
    for name, (code, out, err) in zip(names, done, strict=True):
        assert (code, out) == (0, f"{name}: {either.snapshot(name, NEW)}\n"), err
    in_shards = {name for name in files_in(folders / "sharded") if "/" in name} | {"README.md", "model_index.json"}
    assert len(in_shards) > len(PLAIN) + 2  # an index and several shards
    detector = {
        "README.md",
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    expected: dict[str, int] = {}
    for name, files in {"pipeline": PLAIN, "sharded": in_shards, "detector": detector}.items():
        assert files_in(either.snapshot(f"me/{name}", NEW)) == files
        expected |= sizes(folders / name, files, f"me/{name}")
    assert dict(hub.served) == expected
    for name in ("pipeline", "sharded"):
        backend = diffusion.Backend(diffusion.Config(use="diffusion", model=f"me/{name}"), [])
        assert backend.models()[0].path() == either.snapshot(f"me/{name}", NEW)
        assert list(backend.models()[0].problems()) == []
        assert list(backend.models()[0].stated_licences()) == [("cc-by-nc-4.0", f"https://huggingface.co/me/{name}")]
        assert backend.pipeline(False).unet.config.cross_attention_dim == 32  # loads, with no connection
    # Other tools find them in the cache by their ids, without a connection (HF_HUB_OFFLINE is set here).
    made = diffusers.DiffusionPipeline.from_pretrained("me/pipeline", use_safetensors=True)
    assert isinstance(made, diffusers.StableDiffusionPipeline)
    assert isinstance(transformers.AutoModel.from_pretrained("me/detector"), transformers.Owlv2Model)
    transformers.AutoProcessor.from_pretrained("me/detector")
    found = huggingface_hub.scan_cache_dir()
    assert {repo.repo_id for repo in found.repos} == {f"me/{n}" for n in ("pipeline", "sharded", "detector")}
    assert found.warnings == []


def test_a_pinned_commit_and_a_variant(either: Machine, hub: Hub, folders: Path) -> None:
    options = ["--revision", OLD[:9], "--variant", "fp16"]
    ((code, out, err),) = either.synthgen(["models", "--download", "me/pipeline", *options])
    assert (code, out) == (0, f"me/pipeline: {either.snapshot('me/pipeline', OLD)}\n"), err
    # The text encoder has no files of the variant, so the plain one is read, as diffusers does it.
    parts = {f"{part}/diffusion_pytorch_model" for part in ("unet", "vae")}
    files = {f"{name.removesuffix('.safetensors')}.fp16.safetensors" if name[:-12] in parts else name for name in PLAIN}
    assert len(files - PLAIN) == 2
    assert files_in(either.snapshot("me/pipeline", OLD)) == files
    assert dict(hub.served) == sizes(folders / "earlier", files, "me/pipeline")
    for revision in (OLD, OLD[:9]):
        config = diffusion.Config(use="diffusion", model="me/pipeline", revision=revision, variant="fp16")
        assert list(diffusion.Backend(config, []).models()[0].problems()) == []
    with pytest.raises(ModelMissing, match=r"synthgen models --download me/pipeline$"):  # a commit is not the branch
        find_model("me/pipeline", "diffusion")


def test_another_process_goes_on_where_one_was_cut_off(either: Machine, hub: Hub, folders: Path) -> None:
    size = (folders / "pipeline" / "unet/diffusion_pytorch_model.safetensors").stat().st_size
    half = size // 2
    hub.drops[UNET] = half
    download = ["models", "--download", "me/pipeline"]
    ((code, out, err),) = either.synthgen(download, settings="LOST_AT_MOST = FILES_AT_ONCE = 1")
    assert (code, out) == (2, "")
    lost = f"error: cannot fetch 'me/pipeline': the connection was lost after {half:,} of {size:,} bytes of unet/"
    assert err.splitlines()[-1].startswith(lost)
    assert err.endswith("; what has come is kept, and the same command goes on from there\n")
    (part,) = (either.cache / "models--me--pipeline" / "blobs").glob("*.incomplete")
    assert part.stat().st_size == half == hub.served[UNET]
    with pytest.raises(ModelMissing):  # the branch is there once it is whole
        find_model("me/pipeline", "diffusion")
    hub.drops[UNET] = half // 3  # now it takes several connections, one after the other
    ((code, out, err),) = either.synthgen(download)
    assert (code, out) == (0, f"me/pipeline: {either.snapshot('me/pipeline', NEW)}\n"), err
    assert dict(hub.served) == sizes(folders / "pipeline", PLAIN, "me/pipeline")  # no byte came twice
    assert not list(part.parent.glob("*.incomplete"))


def test_what_comes_wrong_is_not_kept(machine: Machine, hub: Hub, folders: Path) -> None:
    """Bytes that are not what the hub says, and a server without ranges."""
    hub.corrupt = {UNET}
    download = ["models", "--download", "me/pipeline"]
    ((code, _, err),) = machine.synthgen(download)
    assert code == 2
    wrong = (
        "what came of unet/diffusion_pytorch_model.safetensors has another checksum than the hub says; it is not kept"
    )
    assert err.splitlines()[-1] == f"error: cannot fetch 'me/pipeline': {wrong}, try again"
    (part,) = [
        p for p in (machine.cache / "models--me--pipeline" / "blobs").glob("*.incomplete") if not p.stat().st_size
    ]
    hub.corrupt.clear()
    content = (folders / "pipeline" / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    part.write_bytes(content[:1000])
    hub.has_ranges = False
    hub.forget()
    ((code, _, err),) = machine.synthgen(download)
    assert code == 0, err
    assert (machine.snapshot("me/pipeline", NEW) / "unet/diffusion_pytorch_model.safetensors").read_bytes() == content
    assert hub.served[UNET] == len(content)


def test_names_that_lead_elsewhere_are_refused(machine: Machine, hub: Hub) -> None:
    hub.checksums[UNET] = "../../../../evil"
    download = ["models", "--download", "me/pipeline"]
    lying, revision = machine.synthgen(download, [*download, "--revision", "../evil"])
    error = "error: cannot fetch 'me/pipeline': "
    assert lying == (2, "", f"{error}the hub gives '../../../../evil' in place of a checksum\n")
    assert revision == (2, "", f"{error}it has no revision '../evil'; takes a branch, a tag or a commit\n")
    assert not hub.served and not list(machine.home.parent.rglob("*evil*"))


def test_a_disk_without_room_is_told_before(machine: Machine, hub: Hub, folders: Path) -> None:
    full = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1, 1, 1000)"
    ((code, _, err),) = machine.synthgen(["models", "--download", "me/pipeline"], settings=full)
    place = machine.cache / "models--me--pipeline" / "blobs"
    room = f"the download needs 0.0 GB, and {place} has 0.0 GB free; free some and run the same command again"
    assert (code, err) == (4, f"error: {room}\n")
    assert set(hub.served) == {"me/pipeline/model_index.json"}


def test_every_refusal_is_one_sentence(either: Machine, hub: Hub) -> None:
    hub.repositories["me/gated"] = Repository(hub.repositories["me/detector"].commits, {"main": NEW}, gated=True)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    download = ["models", "--download"]
    none = "the hub has no model of this name, or it is a private one: for those, " + log_in
    terms = f"its owner lets in who has accepted its licence: accept it at {hub.url}/me/gated, "
    cases = {
        ("me/none",): none,
        ("me/none", "--variant", "fp16"): none,
        ("me/gated",): terms + f"then {log_in}",
        ("me/pipeline", "--revision", "nothing"): "the hub has no revision 'nothing' of this model; see "
        f"{hub.url}/me/pipeline/commits",
        ("me/pipeline", "--revision", "abcdef0"): "the hub has no revision 'abcdef0' of this model; see "
        f"{hub.url}/me/pipeline/commits",
        ("me/pipeline", "--variant", "fp8"): "it has no weights of the variant 'fp8'",
        ("me/detector", "--file", "model.safetensor"): "it has no file 'model.safetensor' (did you mean "
        "'model.safetensors'?); it has .gitattributes, README.md, config.json, model.safetensors, "
        "processor_config.json, pytorch_model.bin, tokenizer.json, tokenizer_config.json, training_args.txt, "
        "v1-5-pruned.safetensors",
    }
    *found, stranger, refused, welcome = either.synthgen(
        *[[*download, *arguments] for arguments in cases],
        *[[f"HF_TOKEN={token}", *download, "me/gated"] for token in ("hf_of_a_stranger", "hf_refused", TOKEN)],
    )
    for (arguments, reason), (code, out, err) in zip(cases.items(), found, strict=True):
        assert (code, out, err) == (2, "", f"error: cannot fetch {arguments[0]!r}: {reason}\n")
    error = "error: cannot fetch 'me/gated': "
    assert stranger == (2, "", f"{error}{terms}with the account whose token is used here\n")
    assert refused[0] == 2 and refused[2].startswith(f"{error}{hub.url} answers 401: ")
    assert refused[2].endswith(f"; the hub may refuse your token: {log_in}\n") and refused[2].count("\n") == 1
    assert welcome[:2] == (0, f"me/gated: {either.snapshot('me/gated', NEW)}\n")  # the other host never sees the token
    assert {name.partition("/")[2].partition("/")[0] for name in hub.served} == {"gated", "pipeline"}
    assert hub.served["me/pipeline/model_index.json"] == sum(n for k, n in hub.served.items() if "/pipeline/" in k)
    nobody = Machine(either.home, Hub(url="http://127.0.0.1:9"), either.client)
    ((code, _, err),) = nobody.synthgen([*download, "me/detector"])
    start = "error: cannot fetch 'me/detector': the hub cannot be reached ("
    assert code == 2 and err.startswith(start) and err.count("\n") == 1 and "Connection refused" in err


def test_a_spec_says_what_it_needs_and_fetches_it(
    machine: Machine, hub: Hub, folders: Path, good: dict[str, Any], tmp_path: Path
) -> None:
    good["layout"] = None
    good["generator"] = {"model": "me/checked", "safety_checker": False, "variant": "fp16"}
    good["grounder"] = {"use": "detector", "model": "me/detector", "revision": "main"}
    good["filters"] = {}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(good))
    shows = ["models", str(spec)]
    hub.repositories["me/checked"].gated = True
    download = ["models", "--download", str(spec)]
    unknown, known, done, whole = machine.synthgen(shows, [*shows, "--online"], [f"HF_TOKEN={TOKEN}", *download], shows)
    fetch = f"fetch what is missing with: synthgen models --download {spec}"
    ask = f"ask the hub for what is not known here with: synthgen models {spec} --online"
    assert unknown[0] == 0 and unknown[1].splitlines()[-2:] == [ask, fetch]
    assert ask not in known[1] and fetch in known[1]
    rows = [line.split() for line in unknown[1].splitlines()]
    assert ["generator", "me/checked", "fp16", "?", "?", "?", "no"] in rows
    assert ["grounder", "me/detector", "main", "?", "?", "?", "no"] in rows
    variant = {"unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"}
    read = {name for name in PLAIN if "diffusion_pytorch" not in name} | variant
    wanted = sizes(folders / "checked", read, "me/checked")
    rows = [line.split() for line in known[1].splitlines()]
    detector = sizes(folders / "detector", files_in(machine.snapshot("me/detector", NEW)), "me/detector")
    size = f"{sum(detector.values()) / 1e9:.3g}"
    assert ["grounder", "me/detector", "main", size, "apache-2.0", "open", "no"] in rows
    # What is read of a pipeline is said by its index, which the hub does not show to strangers.
    assert ["generator", "me/checked", "fp16", "?", "apache-2.0", "gated", "no"] in rows
    wanted |= detector
    lines = [f"me/{name}: {machine.snapshot(f'me/{name}', NEW)}" for name in ("checked", "detector")]
    assert done[:2] == (0, "\n".join([*lines, f"{spec}: all its models are here"]) + "\n"), done[2]
    assert "fetch what" not in whole[1] and str(machine.snapshot("me/checked", NEW)) in whole[1]
    assert dict(hub.served) == wanted
    hub.forget()
    machine.synthgen(shows, download)
    assert hub.requests == []  # what is here is not asked for


def test_parts_and_loras_of_a_spec_are_fetched_and_what_they_replace_is_not(
    machine: Machine, hub: Hub, folders: Path, good: dict[str, Any], tmp_path: Path, synthgen: Any
) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    (loras / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"unet.lora_A.weight": np.zeros(4, np.float32)}, loras / name)
    hub.repositories["me/loras"] = Repository({NEW: loras}, {"main": NEW})
    good["layout"] = None
    added = [{"model": "me/loras", "file": "b.safetensors"}]
    good["generator"] = {"model": "me/pipeline", "components": {"vae": "me/checked"}, "loras": added}
    good["grounder"], good["filters"] = {"use": "detector", "model": "me/detector"}, {}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(good))
    known, (code, out, err) = machine.synthgen(["models", str(spec), "--online"], ["models", "--download", str(spec)])
    assert code == 0 and out.endswith(f"{spec}: all its models are here\n"), err
    vae = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    expected = sizes(folders / "pipeline", PLAIN - vae, "me/pipeline")
    expected |= sizes(folders / "checked", {"README.md", "model_index.json", *vae}, "me/checked")
    expected |= sizes(loras, {"README.md", "b.safetensors"}, "me/loras")
    detector = files_in(machine.snapshot("me/detector", NEW))
    expected |= sizes(folders / "detector", detector, "me/detector")
    indexes = {"me/pipeline/model_index.json", "me/checked/model_index.json"}  # --online reads them, and keeps nothing
    assert dict(hub.served) == {name: size * (1 + (name in indexes)) for name, size in expected.items()}
    rows = [line.split() for line in known[1].splitlines()]
    for name in ("pipeline", "checked", "loras", "detector"):
        size = sum(size for file, size in expected.items() if file.startswith(f"me/{name}/"))
        (row,) = [row for row in rows if row[1:2] == [f"me/{name}"]]
        assert row[2:] == [f"{size / 1e9:.3g}", "apache-2.0", "open", "no"]
    lora = machine.snapshot("me/loras", NEW) / "b.safetensors"
    lora.rename(lora.with_name("a.safetensors"))
    (row,) = [line.split() for line in synthgen("models", spec)[1].splitlines() if "me/loras" in line]
    assert row[-2:] == ["in", "part"]
    fetch = "synthgen models --download me/loras --file b.safetensors"
    err = synthgen("check", spec)[2]
    assert f"generator.loras.0: {lora} does not exist; fetch what is missing with: {fetch}" in err
    assert "generator.components" not in err and "generator.model" not in err
    shutil.rmtree(machine.cache / "models--me--loras")
    assert f"'me/loras' is not on this machine; fetch it with: {fetch}" in synthgen("check", spec)[2]


def test_what_a_killed_download_of_the_client_has_left_is_removed(machine: Machine, hub: Hub) -> None:
    kill = "import os, huggingface_hub as h, huggingface_hub.file_download as f; "
    kill += "f.http_get = lambda url, file, **_: (file.write(b'x'), file.flush(), os.kill(os.getpid(), 9)); "
    assert machine.python(f"{kill}h.hf_hub_download('me/detector', 'config.json')").returncode == -9
    blobs = machine.cache / "models--me--detector" / "blobs"
    (left,) = blobs.glob("*.incomplete")
    others = [blobs / "0123.incomplete", machine.cache / "models--me--pipeline" / "blobs" / "0123.01234567.incomplete"]
    held = blobs / "held.01234567.incomplete"
    for file in (*others, held):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for file in (left, *others, held):
        os.utime(file, (0, 0))
    os.utime(left)  # somebody may be at it
    with open(machine.cache / ".locks" / "models--me--detector" / "held.lock", "wb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        sweep("me/detector")
    assert {*blobs.glob("*.incomplete")} == {left, others[0], held}
    os.utime(left, (0, 0))
    ((code, _, err),) = machine.synthgen(["models", "--download", "me/detector"])
    assert code == 0, err
    assert {*blobs.glob("*.incomplete")} == {others[0]}
    assert all(file.exists() for file in others)


def test_what_other_tools_have_fetched_is_found(machine: Machine) -> None:
    done = machine.python(
        "import huggingface_hub, transformers, diffusers\nhuggingface_hub.snapshot_download('me/sharded')\n"
        "transformers.AutoModel.from_pretrained('me/detector')\n"
        "diffusers.DiffusionPipeline.from_pretrained('me/pipeline')"
    )
    assert done.returncode == 0, done.stderr
    for name in ("sharded", "pipeline"):
        assert find_model(f"me/{name}", "diffusion") == machine.snapshot(f"me/{name}", NEW)
    assert find_model("me/detector", "detector") == machine.snapshot("me/detector", NEW)
