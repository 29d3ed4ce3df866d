"""Folders of models are untrusted: each fault in one is a line of `check`, and no such folder runs code, leads out of
itself or asks for more than its weights justify."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_models
import pytest
import tiny
from hostile_models import header, link, set_key, sharded, try_model, write

from synthgen.errors import BackendError
from synthgen.generators import diffusion
from synthgen.models import MINI, settings
from synthgen.models.inspection import inspect_model, inspect_pipeline
from synthgen.models.weights import Held, require_safetensors

LONGEST = 600  # characters of a message


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    hostile_models.save_models(folder)
    return folder


@pytest.fixture
def changed(models: Path, tmp_path: Path) -> Callable[[str, Callable[[Path], None]], Path]:
    """A model of a kind, changed; beside it `outside`, a whole one."""

    def make(kind: str, change: Callable[[Path], None]) -> Path:
        shutil.copytree(models / kind, tmp_path / "model")
        (tmp_path / "outside").symlink_to(models / kind)
        change(tmp_path / "model")
        return tmp_path / "model"

    return make


def test_two_hundred_hostile_folders(tmp_path: Path) -> None:
    """Each is refused in a line, or nothing is wrong with it; and no connection, process, pickle or file elsewhere is
    opened."""
    here = Path(__file__).parents[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "hostile_models.py"), str(tmp_path), "25"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) >= 400 and sum(bool(row["said"]) for row in rows) >= 200
    assert any(row["said"].startswith("loading: ") for row in rows)
    for row in rows:
        assert row["deeds"] == [], row
        assert " was raised" not in row["said"], row
        assert row["said"].isprintable() and len(row["said"]) < LONGEST, row


CHANNELS = ("unet/config.json", ("block_out_channels",))
KERNEL = "kernels-community/flash-attn2"
# (what it is, kind of model, change, what is said)
FAULTS: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("a shard in a pickle", "pipeline", sharded("unet/diffusion_pytorch_model.safetensors", "pickled.bin"),
     "index.json names 'pickled.bin' in its weight_map; takes .safetensors files beside it"),
    ("a shard above", "detector", sharded("model.safetensors", "../outside/{name}"),
     "names '../outside/model.safetensors' in its weight_map"),
    ("a shard from the root", "clip", sharded("model.safetensors", "{outside}/{name}"), "in its weight_map; takes"),
    ("weights elsewhere", "pipeline", link("unet/diffusion_pytorch_model.safetensors"), "leads out of its model's"),
    ("weights elsewhere, of SAM", "sam", link("model.safetensors", relative=True), "leads out of its model's folder"),
    ("settings elsewhere", "detector", link("config.json"), "config.json leads out of its model's folder, to /"),
    ("a part elsewhere", "pipeline", link("vae"), "vae leads out of its model's folder, to /"),
    ("a header with another shape", "clip", header("model.safetensors", "shape", [3]), "a tensor of shape [3] has "),
    ("10^10 steps", "pipeline", set_key("scheduler/scheduler_config.json", ("num_train_timesteps",), 10**10),
     "scheduler_config.json: num_train_timesteps: got 10000000000; takes at most 100,000"),
    ("2^20 channels", "pipeline", set_key(*CHANNELS, [2**20, 2**20]),
     "unet/config.json: block_out_channels: got 1048576; takes at most 100,000: its weights have no tensor of more"),
    ("2^20 of a vision model", "clip", set_key("config.json", ("vision_config", "hidden_size"), 2**20),
     "config.json: hidden_size: got 1048576; takes at most 100,000"),
    ("10^6 layers", "clip", set_key("config.json", ("text_config", "num_hidden_layers"), 10**6),
     "num_hidden_layers: got 1000000; takes at most 1,000"),
    ("pictures of 10^6 px", "clip",
     set_key("processor_config.json", ("image_processor", "size"), {"height": 10**6, "width": 9}),
     "processor_config.json: height: got 1000000; takes at most 16,384"),
    ("a number too long to be shown", "pipeline", set_key(*CHANNELS, [10**4000]), "takes at most 100,000"),
    ("a list of 10^5", "pipeline", set_key("vae/config.json", ("block_out_channels",), [8] * 10**5),
     "block_out_channels: got a list of 100,000; takes at most 10,000 entries"),
    ("a kernel", "clip", set_key("config.json", ("attn_implementation",), KERNEL),
     f"config.json: attn_implementation: got '{KERNEL}'; takes eager, sdpa, flex_attention: kernels from the hub"),
    ("a kernel of a part of it", "detector", set_key("config.json", ("text_config", "_attn_implementation"), "a/b"),
     "_attn_implementation: got 'a/b'; takes eager"),
    ("a kernel for each part", "clip", set_key("config.json", ("attn_implementation",), {"text_config": KERNEL}),
     "takes eager, sdpa, flex_attention"),
    ("one that is a kernel where it is not installed", "clip",
     set_key("config.json", ("_attn_implementation_internal",), "flash_attention_2"), "takes eager, sdpa"),
    ("a kernel of experts", "pipeline", set_key("text_encoder/config.json", ("experts_implementation",), "deepgemm"),
     "experts_implementation: got 'deepgemm'; takes eager, batched_mm, grouped_mm"),
    ("quantised with a kernel", "pipeline",
     set_key("text_encoder/config.json", ("quantization_config",), {"quant_method": "mxfp4"}),
     "quant_method: got 'mxfp4'; takes bitsandbytes"),
    ("a pickle by its own name", "clip", set_key("config.json", ("transformers_weights",), "adapter_model.bin"),
     "transformers_weights: got 'adapter_model.bin'; takes a .safetensors file beside it"),
    ("an adapter", "clip", write("adapter_config.json", {"base_model_name_or_path": "../outside"}),
     "adapter_config.json names a model of another folder"),
    ("another model's backbone", "detector", set_key("config.json", ("backbone",), "local-dir:/etc"),
     "backbone: got 'local-dir:/etc'; takes a bare name"),
    ("a pretrained backbone", "detector", set_key("config.json", ("use_pretrained_backbone",), True),
     "use_pretrained_backbone: got True; takes none"),
    ("an audio tokenizer", "detector",
     set_key("processor_config.json", ("audio_tokenizer",), {"audio_tokenizer_name_or_path": "../outside"}),
     "audio_tokenizer: got "),
    ("a vocabulary elsewhere", "clip", set_key("tokenizer_config.json", ("vocab_file",), "../outside/tokenizer.json"),
     "vocab_file: got '../outside/tokenizer.json'; takes files beside it"),
    ("a pipeline in a pipeline", "pipeline",
     set_key("model_index.json", ("unet",), ["diffusers", "StableDiffusionPipeline"]), "a pipeline within a pipeline"),
    ("a pipeline in a part", "pipeline", write("unet/model_index.json", {}), "makes a pipeline of a part"),
    ("a pipeline whose README names others", "pipeline",
     set_key("model_index.json", ("_class_name",), "KandinskyCombinedPipeline"), "loads models of other folders"),
    ("a part in another format", "pipeline", set_key("model_index.json", ("unet",), ["diffusers", "OnnxRuntimeModel"]),
     "takes classes whose weights are safetensors"),
    ("a pipeline of a module of its own", "pipeline",
     set_key("model_index.json", ("_class_name",), ["mine", "Mine"]), "names the pipeline ['mine', 'Mine']"),
    ("a class that takes code", "pipeline", set_key("model_index.json", ("vae",), ["diffusers", "AutoModel"]),
     "says vae: ['diffusers', 'AutoModel']; takes the class that it stands for"),
    ("a part without settings", "pipeline", lambda folder: (folder / "unet/config.json").unlink(),
     "missing: unet/config.json"),
    ("a pipe", "clip", lambda folder: os.mkfifo(folder / "generation_config.json"), "is no file"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "said"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_faults(
    kind: str, change: Callable[[Path], None], said: str, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = try_model(kind, changed(kind, change))
    assert said in told and not told.startswith("loading: ")
    assert told.isprintable() and len(told) < LONGEST


def test_loading_inspects_as_well(changed: Callable[..., Path]) -> None:
    """Whoever did not ask `check` first gets the same line."""
    folder = changed("pipeline", link("unet/diffusion_pytorch_model.safetensors"))
    backend = diffusion.Backend(diffusion.Config(use="diffusion", model=str(folder), device="cpu"), ())
    with pytest.raises(BackendError, match=r"^generator\.model: .* leads out of its model's folder"):
        backend.pipeline(False)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("pipeline", set_key(*CHANNELS, [60_000, 60_000])),
        ("pipeline", set_key("text_encoder/config.json", ("intermediate_size",), 99_999_999)),
        ("clip", set_key("config.json", ("text_config", "vocab_size"), 90_000)),
        ("detector", set_key("config.json", ("vision_config", "num_hidden_layers"), 1000)),
    ],
    ids=["channels", "beyond what check takes", "words", "layers"],
)
def test_no_more_is_built_than_weights_hold(
    kind: str, change: Callable[[Path], None], changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "LARGE", 10**9)
    monkeypatch.setattr("synthgen.models.loading.PARAMETERS_BESIDES", 1_000_000)
    monkeypatch.setattr("synthgen.models.loading.PARTS_BESIDES", 1000)
    told = try_model(kind, changed(kind, change))
    assert told.startswith("loading: ") and "its settings ask for more than " in told and told.isprintable()


# What is taken


@pytest.mark.parametrize("name", tiny.MAKERS)
def test_small_pipelines_are_whole(name: str, tmp_path: Path) -> None:
    tiny.MAKERS[name]().save_pretrained(tmp_path)
    found = inspect_pipeline(tmp_path, None)
    assert found.missing == () and found.held.tensors > 50


def test_the_embedded_models_are_whole() -> None:
    assert inspect_pipeline(MINI / "diffusion", None, adapter="adapter").missing == ()
    assert inspect_model(MINI / "clip", {"clip"}, "")[0] == "clip"
    assert require_safetensors(MINI / "sam" / "model.safetensors").size > 1_000_000


def test_what_weights_hold(models: Path) -> None:
    from safetensors import safe_open

    file = models / "clip" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        tensors = [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    assert require_safetensors(file) == Held(len(tensors), max(tensor.numel() for tensor in tensors), sum(sizes))


def cached(folder: Path, cache: Path) -> Path:
    """As the hub's client keeps it: a snapshot of links to blobs."""
    snapshot, blobs = cache / "models--a--b" / "snapshots" / "0123abc", cache / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for i, file in enumerate(p for p in sorted(folder.rglob("*")) if p.is_file()):
        shutil.copy(file, blobs / f"{i:040}")
        (snapshot / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + len(file.relative_to(folder).parts) - 1)
        (snapshot / file.relative_to(folder)).symlink_to(f"{up}blobs/{i:040}")
    return snapshot


@pytest.mark.parametrize("kind", hostile_models.SETTINGS)
def test_links_of_the_hubs_cache_lead_to_its_blobs(kind: str, models: Path, tmp_path: Path) -> None:
    snapshot = cached(models / kind, tmp_path / "hub")
    assert try_model(kind, snapshot) == ""
    name = hostile_models.WEIGHTS[kind]
    (snapshot / name).unlink()
    other = cached(models / kind, tmp_path / "another")  # the blobs of another repository are another folder
    (snapshot / name).symlink_to((other / name).resolve())
    assert "leads out of its model's folder" in try_model(kind, snapshot)


def test_names_of_code_that_nobody_runs_are_taken(changed: Callable[..., Path]) -> None:
    """A class that is named itself never asks for `auto_map`, and a file of code is a file like others."""

    def change(folder: Path) -> None:
        set_key("config.json", ("auto_map",), {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})(folder)
        set_key("processor_config.json", ("auto_map",), {"AutoProcessor": "evil.Processor"})(folder)
        set_key("tokenizer_config.json", ("auto_map",), {"AutoTokenizer": ["evil.Tokenizer", None]})(folder)
        (folder / "evil.py").write_text(f"open({str(folder / 'owned')!r}, 'w')")

    folder = changed("detector", change)
    assert try_model("detector", folder) == ""
    assert not (folder / "owned").exists()


def test_a_tokenizers_word_for_no_limit_is_taken(changed: Callable[..., Path]) -> None:
    endless = set_key("tokenizer/tokenizer_config.json", ("model_max_length",), 10**30)
    assert try_model("pipeline", changed("pipeline", endless)) == ""


# Vocabularies


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    tiny.flux().save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> Any:
    """The pipeline in a folder that `check` has nothing against."""
    config = diffusion.Config(use="diffusion", model=str(folder), device="cpu", torch_dtype="float32", **options)
    backend = diffusion.Backend(config, ())
    assert list(backend.models()[0].problems()) == []
    return backend.pipeline(False)


def train_sentencepiece(file: Path, kind: str, **ends: int) -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentences = [" ".join(tiny.LETTERS.replace(",", "")), "a , b"] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=31, model_type=kind, hard_vocab_limit=False,
        minloglevel=2, **ends,
    )  # fmt: skip
    file.write_bytes(model.getvalue())


def test_a_vocabulary_of_sentencepiece(flux: Path, tmp_path: Path) -> None:
    """As in PixArt's repositories, which have no tokenizer.json."""
    import sentencepiece
    import transformers

    shutil.copytree(flux, tmp_path / "flux")
    folder = tmp_path / "flux" / "tokenizer_2"
    (folder / "tokenizer.json").unlink()
    train_sentencepiece(folder / "spiece.model", "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = loaded(tmp_path / "flux").tokenizer_2
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).encode("a b, c")
    assert isinstance(tokenizer, transformers.T5Tokenizer)
    assert tokenizer("a b, c").input_ids == [*pieces, 1]
    (folder / "spiece.model").unlink()
    assert inspect_pipeline(tmp_path / "flux", None).missing == ("tokenizer_2 (its vocabulary)",)


def test_a_tokenizer_of_a_pipelines_own(flux: Path, tmp_path: Path) -> None:
    """That of Kolors is no class of transformers."""
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    shutil.copytree(flux, tmp_path / "flux")
    folder = tmp_path / "flux" / "tokenizer_2"
    shutil.rmtree(folder)
    train_sentencepiece(tmp_path / "tokenizer.model", "bpe")
    ChatGLMTokenizer(str(tmp_path / "tokenizer.model")).save_pretrained(folder)
    set_key("model_index.json", ("tokenizer_2",), ["kolors", "ChatGLMTokenizer"])(tmp_path / "flux")
    assert isinstance(loaded(tmp_path / "flux").tokenizer_2, ChatGLMTokenizer)


@pytest.mark.parametrize(("name", "package"), [("tiktoken.model", "tiktoken"), ("tekken.json", "mistral_common")])
def test_a_vocabulary_that_needs_a_package(
    name: str, package: str, flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(flux, tmp_path / "flux")
    folder = tmp_path / "flux" / "tokenizer_2"
    (folder / "tokenizer.json").rename(folder / name)
    there = importlib.util.find_spec
    found: dict[str, Any] = {package: None}
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: found.get(name) or there(name, *more))
    backend = diffusion.Backend(diffusion.Config(use="diffusion", model=str(tmp_path / "flux")), ())
    (problem,) = backend.models()[0].problems()
    assert problem.message == (
        f"{folder} has its tokenizer's vocabulary in {name} only, and the package {package} that reads it is "
        f"not installed: pip install {package}; or put the tokenizer.json there that its repository may have"
    )
    found[package] = there("json")
    assert inspect_pipeline(tmp_path / "flux", None).missing == ()  # where it is installed


def test_a_tokenizer_of_bytes_needs_no_vocabulary(flux: Path, tmp_path: Path) -> None:
    import transformers

    shutil.copytree(flux, tmp_path / "flux")
    folder = tmp_path / "flux" / "tokenizer_2"
    shutil.rmtree(folder)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    set_key("model_index.json", ("tokenizer_2",), ["transformers", "ByT5Tokenizer"])(tmp_path / "flux")
    assert isinstance(loaded(tmp_path / "flux").tokenizer_2, transformers.ByT5Tokenizer)


def test_a_tokenizer_of_bytes_in_a_folder_of_transformers(changed: Callable[..., Path]) -> None:
    import transformers

    def change(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        transformers.ByT5Tokenizer().save_pretrained(folder)

    folder = changed("detector", change)
    assert inspect_model(folder, {"owlv2"}, "")[0] == "owlv2"
    set_key("tokenizer_config.json", ("tokenizer_class",), "CLIPTokenizer")(folder)
    with pytest.raises(BackendError, match="has no tokenizer"):
        inspect_model(folder, {"owlv2"}, "")


# Parts and arguments of pipelines


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts without weights, each saved by its class, in a folder with the class's name."""
    import diffusers
    import transformers

    folder = tmp_path_factory.mktemp("parts")
    text = transformers.Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate("abc")}, merges=[])
    look = transformers.Qwen2VLImageProcessor()
    film = transformers.Qwen2VLVideoProcessor()
    saved: tuple[Any, ...] = (
        text,
        transformers.PreTrainedTokenizerFast(tokenizer_object=tiny.clip_tokenizer()._tokenizer),
        transformers.GemmaTokenizer(vocab={"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4}, merges=[]),
        look,
        transformers.CLIPImageProcessorPil(),
        transformers.Qwen2VLProcessor(look, text, film),
        transformers.Qwen3VLProcessor(look, text, film),
        transformers.PixtralProcessor(transformers.PixtralImageProcessor(), text),
        transformers.SiglipImageProcessor(),
        diffusers.ClassifierFreeGuidance(),
    )
    for part in saved:
        part.save_pretrained(folder / type(part).__name__)
    return folder


def test_parts_without_weights(parts: Path, tmp_path: Path) -> None:
    """They are taken as what their classes have saved, and those classes read them back."""
    import diffusers
    import transformers

    tiny.stable_diffusion().save_pretrained(tmp_path)
    names = sorted(folder.name for folder in parts.iterdir())
    assert len(names) == 10 and {"TokenizersBackend", "CLIPImageProcessorPil", "ClassifierFreeGuidance"} < {*names}
    for name in names:
        library: Any = transformers if hasattr(transformers, name) else diffusers
        shutil.copytree(parts / name, tmp_path / name)
        set_key("model_index.json", (name,), [library.__name__, name])(tmp_path)
        assert inspect_pipeline(tmp_path, None).missing == ()
        assert type(getattr(library, name).from_pretrained(tmp_path / name)).__name__ == name
    (tmp_path / "Qwen2VLProcessor" / "tokenizer.json").unlink()
    assert inspect_pipeline(tmp_path, None).missing == ("Qwen2VLProcessor (its vocabulary)",)


def test_arguments_of_a_pipelines_class(tmp_path: Path) -> None:
    """Its index gives them beside the parts; lists of numbers are none of those."""
    tiny.stable_diffusion_xl().save_pretrained(tmp_path)
    set_key("model_index.json", ("force_zeros_for_empty_prompt",), False)(tmp_path)
    for i, value in enumerate([3, 0.5, "linear", None, True, [2, 5], [0.5], [], {"a": 1}]):
        set_key("model_index.json", (f"argument_{i}",), value)(tmp_path)
    assert loaded(tmp_path).config.force_zeros_for_empty_prompt is False
    set_key("model_index.json", ("argument_0",), 10**10)(tmp_path)
    with pytest.raises(BackendError, match=r"argument_0: got 10000000000; takes at most 100,000,000"):
        inspect_pipeline(tmp_path, None)


def test_a_variant_that_only_some_parts_have(tmp_path: Path) -> None:
    """diffusers loads the plain files of the others."""
    import torch

    whole = tiny.stable_diffusion()
    whole.save_pretrained(tmp_path)
    torch.manual_seed(1)
    other = tiny.stable_diffusion()
    other.unet.save_pretrained(tmp_path / "unet", variant="fp16")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pipeline = loaded(tmp_path, variant="fp16")
    for made, expected in ((pipeline.unet, other.unet), (pipeline.vae, whole.vae)):
        for name, weights in expected.state_dict().items():
            assert torch.equal(made.state_dict()[name], weights), name
    (tmp_path / "vae" / "LICENSE").write_text("")  # diffusers raises an IndexError
    with pytest.raises(BackendError, match="vae/LICENSE has no dot in its name"):
        inspect_pipeline(tmp_path, "fp16")


def test_shards_of_a_variant_in_every_part(tmp_path: Path) -> None:
    whole = tiny.stable_diffusion()
    whole.save_pretrained(tmp_path, variant="fp16", max_shard_size="30KB")
    for part in ("unet", "text_encoder", "vae"):
        assert len(list((tmp_path / part).glob("*.fp16-*.safetensors"))) > 1
    made, expected = loaded(tmp_path, variant="fp16").unet.state_dict(), whole.unet.state_dict()
    assert all((made[name] == expected[name]).all() for name in expected)
    next((tmp_path / "vae").glob("*.fp16-00001-*.safetensors")).unlink()
    (lack,) = inspect_pipeline(tmp_path, "fp16").missing
    assert lack.startswith("vae/diffusion_pytorch_model.fp16-00001-of-")
