"""Small real models, each with one thing changed: checked, and loaded where the check has no complaint.

`python hostile_models.py DIR 1` does so in a process of its own, for `tests/models`. It prints as JSON what came of
each model, and what the process did that no model may make it do. Loading them all takes a minute.
"""

import json
import os
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Change = Callable[[Path], None]
# A settings file each of the parts, by the model that it is in.
SETTINGS = {
    "pipeline": ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
                 "tokenizer/tokenizer_config.json"),
    "detector": ("config.json", "processor_config.json", "tokenizer_config.json"),
    "clip": ("config.json", "processor_config.json", "tokenizer_config.json"),
    "sam": ("synthgen.json",),
    "sam2_video": ("config.json", "processor_config.json"),
    "siglip2": ("config.json", "processor_config.json", "tokenizer_config.json"),
}  # fmt: skip
WEIGHTS = {"pipeline": "unet/diffusion_pytorch_model.safetensors", "detector": "model.safetensors",
           "clip": "model.safetensors", "sam": "model.safetensors", "sam2_video": "model.safetensors",
           "siglip2": "model.safetensors"}  # fmt: skip
# What stands in the place of each setting in turn.
VALUES: tuple[Any, ...] = (10**10, 2**20, -1, 0, 1e300, "x/y", None, [], {"a": 1}, 10**400, [10**9] * 3, "../outside")


def outside(folder: Path) -> Path:
    """A whole model of the same kind that a folder may want to read, and must not."""
    return folder.parent / "outside"


def set_key(name: str, keys: tuple[str, ...], value: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        place = content
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def write(name: str, content: bytes | dict[str, Any]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    return change


def link(name: str, relative: bool = False) -> Change:
    def change(folder: Path) -> None:
        target = outside(folder) / name
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink()
        (folder / name).symlink_to(os.path.relpath(target, (folder / name).parent) if relative else target)

    return change


def sharded(name: str, shard: str) -> Change:
    """The weights are replaced by an index that names `shard`."""

    def change(folder: Path) -> None:
        weights = folder / name
        keys = json.loads(weights.read_bytes()[8 : 8 + struct.unpack("<Q", weights.read_bytes()[:8])[0]])
        target = shard.format(outside=outside(folder), name=Path(name).name)
        index = {"metadata": {}, "weight_map": {key: target for key in keys if key != "__metadata__"}}
        (folder / f"{name}.index.json").write_text(json.dumps(index))
        weights.rename(folder / "other.safetensors")
        (folder / "pickled.bin").write_bytes(b"\x80\x04cos\nsystem\n.")

    return change


def header(name: str, key: str, value: Any) -> Change:
    """A tensor's entry in the header of the weights is changed."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        content = json.loads(data[8 : 8 + length])
        next(part for tensor, part in content.items() if tensor != "__metadata__")[key] = value
        text = json.dumps(content).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return change


def changes(models: Path) -> Iterator[tuple[str, str, Change]]:
    """(what, kind of model, change): every setting of every model once, and what is known to be tried."""
    turn = 0
    for kind, files in SETTINGS.items():
        for name in files:
            for keys in _keys(json.loads((models / kind / name).read_text())):
                value = VALUES[turn % len(VALUES)]
                turn += 1
                yield f"{name}: {'.'.join(keys)}: {str(value)[:12]}", kind, set_key(name, keys, value)
    for kind, name in WEIGHTS.items():
        for key, value in (("shape", [2**40]), ("shape", [-1, -1]), ("dtype", "I64"), ("dtype", 5),
                           ("data_offsets", [0, 2**50]), ("data_offsets", "all")):  # fmt: skip
            yield f"header of {name}: {key}: {value}", kind, header(name, key, value)
        yield f"{name} elsewhere", kind, link(name)
        yield f"{name} elsewhere, by a relative link", kind, link(name, relative=True)
    for kind in ("pipeline", "detector", "clip", "sam2_video", "siglip2"):
        for shard in ("pickled.bin", "../outside/{name}", "{outside}/{name}", "..", ".safetensors/../x", "/dev/zero"):
            yield f"a shard {shard}", kind, sharded(WEIGHTS[kind], shard)
        settings = SETTINGS[kind][0]
        for file in {settings, "text_encoder/config.json" if kind == "pipeline" else settings}:
            for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal",
                        "experts_implementation"):  # fmt: skip
                for value in ("kernels-community/flash-attn2", "paged|x/y", {"": "x/y"}, ["a/b"]):
                    yield f"{file}: {key}: {value}", kind, set_key(file, (key,), value)
            yield f"{file}: code", kind, set_key(file, ("auto_map",), {"AutoModel": "evil.Model"})
            yield f"{file}: another file", kind, set_key(file, ("transformers_weights",), "adapter_model.bin")
            for method in ("mxfp4", "eetq", "fp8", "gguf", ["x"], None):
                quantised = {"quant_method": method}
                yield f"{file}: quantised by {method}", kind, set_key(file, ("quantization_config",), quantised)
        yield "an adapter", kind, write(str(Path(settings).with_name("adapter_config.json")),
                                        {"base_model_name_or_path": "../outside"})  # fmt: skip
        yield "code", kind, write(str(Path(settings).with_name("evil.py")), b"import os; os.system('true')")
        yield "settings elsewhere", kind, link(settings)
        yield "settings of 11 MB", kind, write(settings, b" " * 11_000_000 + b"{}")
        yield "settings nested deeply", kind, write(settings, b"[" * 100_000)
    for value in (["pipeline", "Mine"], "KandinskyCombinedPipeline", "os.system", "FluxPipeline", "DiffusionPipeline"):
        yield f"the pipeline {value}", "pipeline", set_key("model_index.json", ("_class_name",), value)
    for value in (["diffusers", "StableDiffusionPipeline"], ["diffusers", "OnnxRuntimeModel"], ["evil", "Model"],
                  ["transformers", "pipeline"], ["diffusers", "AutoModel"], ["diffusers", "FlashPackX"],
                  ["subprocess", "Popen"], ["diffusers", "__import__"], ["transformers", "CLIPTokenizer"]):  # fmt: skip
        yield f"a part {value}", "pipeline", set_key("model_index.json", ("unet",), value)
    yield "a pipeline in a part", "pipeline", write("unet/model_index.json", {"_class_name": "StableDiffusionPipeline"})
    yield "a part elsewhere", "pipeline", link("unet")
    yield "an index elsewhere", "pipeline", link("model_index.json")
    yield "a vocabulary elsewhere", "pipeline", link("tokenizer/tokenizer.json")
    yield "a card elsewhere", "sam", link("synthgen.json")
    yield "an audio tokenizer", "detector", set_key(
        "processor_config.json", ("audio_tokenizer",),
        {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": "../outside"},
    )  # fmt: skip


def _keys(content: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _keys(value, (*path, key))


def save_models(folder: Path) -> None:
    import tiny
    import tiny_clips
    import tiny_sams

    from synthgen.models import MINI

    tiny.stable_diffusion().save_pretrained(folder / "pipeline")
    tiny.save_owlv2(folder / "detector")
    tiny.save_clip(folder / "clip")
    shutil.copytree(MINI / "sam", folder / "sam")
    tiny_sams.save("sam2_video", folder)
    tiny_clips.save("siglip2", folder)


def try_model(kind: str, folder: Path, load: bool = True) -> str:
    """What `check` says or, if that is nothing, what loading says; "" where both are content."""
    from synthgen import devices
    from synthgen.backends import Request
    from synthgen.errors import SynthgenError
    from synthgen.generators import diffusion
    from synthgen.grounders import detector
    from synthgen.models import clip
    from synthgen.models.sam.checkpoint import SamFiles
    from synthgen.models.sam.model import SamModel
    from synthgen.segmenters.sam import Config as SamConfig
    from synthgen.types import Category

    named = {"model": str(folder), "device": "cpu", "torch_dtype": "float32"}
    generator = diffusion.Backend(diffusion.Config(use="diffusion", **named), ())
    finder = detector.Backend(detector.Config(use="detector", **named), (Category(1, "apple"),))
    seer, segmenter = clip.ClipConfig(use="clip", **named), SamConfig(use="sam", **named)
    request = Request(32, 32, has_layout=False, words=frozenset({"a"}))
    checks: dict[str, Callable[[], Any]] = {
        "pipeline": lambda: generator.check(request),
        "detector": lambda: finder.check(request),
        "clip": lambda: clip.ClipFiles(seer, ["apple"]).problems(),
        "sam": lambda: SamFiles(segmenter).problems(),
    }
    loads: dict[str, Callable[[], Any]] = {
        "pipeline": lambda: generator.pipeline(False),
        "detector": finder.load,
        "clip": lambda: clip.ClipModel.of(seer),
        "sam": lambda: SamModel.of(segmenter.model, None, "cpu", "float32"),
    }
    kind = {"sam2_video": "sam", "siglip2": "clip"}.get(kind, kind)
    if problems := list(checks[kind]()):
        return str(problems[0])
    if not load:
        return ""
    try:
        loads[kind]()
    except SynthgenError as error:
        return f"loading: {error}"
    finally:
        devices.forget(devices.loaded())  # `release` takes a quarter of a second to look for memory
    return ""


def main(work: Path, one_in: int) -> None:
    models, deeds = work / "models", list[str]()
    save_models(models)
    here, watching, elsewhere = threading.get_ident(), False, os.path.realpath(models)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess.", "os.system", "os.exec",
                             "os.posix_spawn", "pickle.", "marshal.loads")):  # fmt: skip
            if event != "marshal.loads" or threading.get_ident() != here:
                deeds.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and isinstance(arguments[0], str) and elsewhere in os.path.realpath(arguments[0]):
            deeds.append(f"open {arguments[0]}")

    for kind in SETTINGS:  # what is imported meanwhile is no model's doing
        assert try_model(kind, models / kind) == "", kind
    sys.addaudithook(audit)
    for i, (what, kind, change) in enumerate(changes(models)):
        folder = work / f"{i}" / "model"
        shutil.copytree(models / kind, folder)
        (folder.parent / "outside").symlink_to(models / kind)
        change(folder)
        deeds.clear()
        watching = True
        try:
            said = try_model(kind, folder, load=i % one_in == 0)
        except Exception as error:
            said = f"{type(error).__name__} was raised: {error}"
        watching = False
        print(json.dumps({"what": what, "kind": kind, "said": said, "deeds": deeds}), flush=True)
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
