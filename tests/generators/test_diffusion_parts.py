"""Parts, LoRAs and textual inversions that a spec puts into a pipeline: tiny models of the real classes in the real
formats. Each must give the pixels of diffusers' own call, and others than without it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import gguf
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import save_file
from tiny import MAKERS, vae
from upstream import REQUEST, backend, images, jobs, problems, upstream
from zoo import ZOO

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.generators import diffusion
from synthgen.types import PromptForm


@pytest.fixture(scope="module")
def files(tmp_path_factory, saved) -> Path:
    """A folder with parts and additions of several kinds."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(5)
    vae().save_pretrained(folder / "vae")
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(folder / "tiny_vae")  # fmt: skip
    MAKERS["sd"]().save_pretrained(folder / "other_sd")
    settings = diffusers.FluxTransformer2DModel.load_config(saved("flux") / "transformer")
    weights = diffusers.FluxTransformer2DModel.from_config(settings).state_dict()
    save_file(weights, folder / "flux.safetensors")
    save_gguf(weights, folder / "flux.gguf")
    for seed, (name, part) in enumerate((("sd", "unet"), ("flux", "transformer")) * 2):
        save_lora(saved(name), part, folder / f"lora_{name}_{seed // 2}", seed)
    save_file({"<cup>": torch.randn(32)}, folder / "one.safetensors")
    save_file({"emb_params": torch.randn(3, 32)}, folder / "three.safetensors")
    save_file({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 32)}, folder / "sdxl.safetensors")
    return folder


def save_gguf(weights: dict[str, torch.Tensor], file: Path) -> None:
    """As llama.cpp's tools write them: matrices in blocks of 32 numbers, the rest as it is."""
    kind, writer = gguf.GGMLQuantizationType.Q8_0, gguf.GGUFWriter(file, "flux")
    for name, weight in weights.items():
        numbers = weight.numpy()
        is_matrix = numbers.ndim == 2 and numbers.shape[1] % 32 == 0
        writer.add_tensor(name, gguf.quants.quantize(numbers, kind) if is_matrix else numbers,
                          raw_dtype=kind if is_matrix else None)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_lora(model: Path, part: str, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(model, local_files_only=True)
    denoiser = getattr(pipeline, part)
    denoiser.add_adapter(LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    type(pipeline).save_lora_weights(folder, **{f"{part}_lora_layers": get_peft_model_state_dict(denoiser)})


def require_equal(found: np.ndarray, expected: np.ndarray, without: np.ndarray) -> None:
    np.testing.assert_array_equal(found, expected)
    assert (found != without).any()


# Parts


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("vae", "vae", diffusers.AutoencoderKL),
        ("vae", "tiny_vae", diffusers.AutoencoderTiny),
        ("unet", "other_sd", diffusers.UNet2DConditionModel),
        ("text_encoder", "other_sd/text_encoder", transformers.CLIPTextModel),
    ],
)
def test_a_part_of_another_folder_takes_the_place_of_the_pipelines_own(saved, files, name, value, kind):
    folder = files / value / (name if value == "other_sd" else "")
    part = kind.from_pretrained(folder)
    found = images(saved("sd"), components={name: str(files / value)})
    require_equal(found, upstream(saved("sd"), given={name: part}), images(saved("sd")))


def test_the_variant_of_a_part_is_taken_where_its_folder_has_one(saved, files, tmp_path):
    both = shutil.copytree(saved("sd"), tmp_path / "sd")
    for part in ("vae", "unet", "text_encoder"):
        (weights,) = (both / part).glob("*.safetensors")
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    shutil.copytree(files / "vae", tmp_path / "vae")
    diffusers.AutoencoderKL.from_pretrained(files / "other_sd" / "vae").save_pretrained(
        tmp_path / "vae", variant="fp16"
    )
    other = images(saved("sd"), components={"vae": str(files / "other_sd")})
    np.testing.assert_array_equal(images(both, variant="fp16", components={"vae": str(tmp_path / "vae")}), other)
    np.testing.assert_array_equal(
        images(both, variant="fp16", components={"vae": str(files / "vae")}),
        images(saved("sd"), components={"vae": str(files / "vae")}),
    )


def test_a_part_that_is_replaced_need_not_be_in_the_folder(saved, files, tmp_path):
    lacking = shutil.copytree(saved("sd"), tmp_path / "sd")
    shutil.rmtree(lacking / "vae")
    assert "missing: vae" in problems(lacking)[".model"]
    options = {"components": {"vae": str(files / "vae")}}
    np.testing.assert_array_equal(images(lacking, **options), images(saved("sd"), **options))


def test_sd3_without_its_t5(saved, tmp_path):
    lacking = shutil.copytree(saved("sd3"), tmp_path / "sd3")
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(lacking / name)
    found = images(lacking, components={"text_encoder_3": None})
    expected = upstream(saved("sd3"), given={"text_encoder_3": None, "tokenizer_3": None})
    require_equal(found, expected, images(saved("sd3")))


def test_without_its_t5_only_the_other_encoders_read_a_prompt(saved, tmp_path):
    """T5 reads prompts that CLIP cuts, so a long one is good only with it."""
    long = PromptForm((("a",), (" ".join("a" * 40),)), 2)
    request = Request(REQUEST.height, REQUEST.width, False, frozenset(), (long,))
    folder = shutil.copytree(saved("sd3"), tmp_path / "sd3")
    settings = json.loads((folder / "tokenizer_3" / "tokenizer_config.json").read_text())
    (folder / "tokenizer_3" / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 256}))
    assert not list(backend(folder).check(request))
    (problem,) = backend(folder, components={"text_encoder_3": None}).check(request)
    assert problem.field == "prompts" and "takes 24" in problem.message


def from_file(file: Path, model: Path, **options: Any) -> Any:
    return diffusers.FluxTransformer2DModel.from_single_file(
        str(file), config=str(model), subfolder="transformer", local_files_only=True, **options
    )


def test_a_single_file(saved, files, tmp_path):
    """The folder gives the settings; it need not have the weights."""
    folder = shutil.copytree(saved("flux"), tmp_path / "flux")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    file = files / "flux.safetensors"
    found = images(folder, components={"transformer": str(file)})
    expected = upstream(saved("flux"), given={"transformer": from_file(file, saved("flux"))})
    require_equal(found, expected, images(saved("flux")))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_gguf_file(saved, files, name):
    dtype, file = getattr(torch, name), files / "flux.gguf"
    how = {"quantization_config": diffusers.GGUFQuantizationConfig(compute_dtype=dtype), "dtype": dtype}
    found = images(saved("flux"), components={"transformer": str(file)}, torch_dtype=name)
    expected = upstream(saved("flux"), given={"transformer": from_file(file, saved("flux"), **how)}, dtype=dtype)
    require_equal(found, expected, images(saved("flux"), components={"transformer": str(files / "flux.safetensors")}))


def test_a_text_encoder_of_another_repository_brings_its_tokenizer(tmp_path):
    """HiDream's repository has no Llama: people take it, with its tokenizer, from Meta's."""
    whole = ZOO["hidream"].save(tmp_path / "whole")
    lacking, llama = shutil.copytree(whole, tmp_path / "lacking"), tmp_path / "llama"
    shutil.move(lacking / "text_encoder_4", llama)
    shutil.copytree(lacking / "tokenizer_4", llama, dirs_exist_ok=True)
    shutil.rmtree(lacking / "tokenizer_4")
    index = json.loads((lacking / "model_index.json").read_text())
    (lacking / "model_index.json").write_text(
        json.dumps({name: part for name, part in index.items() if not name.endswith("_4")})
    )
    (job,) = jobs("a red cup")
    job = replace(job, height=ZOO["hidream"].side, width=ZOO["hidream"].side)
    found = backend(lacking, components={"text_encoder_4": str(llama)}).generate([job])
    np.testing.assert_array_equal(found, backend(whole).generate([job]))
    assert found.std() > 2


@pytest.mark.parametrize(
    ("components", "field", "message"),
    [
        ({"vea": "vae"}, "vea", "StableDiffusionPipeline has no part 'vea' (did you mean 'vae'?)"),
        ({"vae": "other_sd/unet"}, "vae", "holds 'UNet2DConditionModel'; StableDiffusionPipeline takes AutoencoderKL"),
        ({"text_encoder": "t5"}, "text_encoder", "is of model_type 't5'; StableDiffusionPipeline takes CLIPTextModel"),
        ({"vae": "nowhere"}, "vae", "does not exist"),
        ({"vae": None}, "vae", "StableDiffusionPipeline cannot do without it"),
        ({"text_encoder": None}, "text_encoder", "`null` drops those that it can do without: feature_extractor"),
        ({"safety_checker": None}, "safety_checker", "the key for it is `safety_checker: false`"),
        ({"vae": "vae/config.json"}, "vae", "is no .safetensors or .gguf file"),
        ({"text_encoder": "flux.safetensors"}, "text_encoder", "diffusers reads no CLIPTextModel from a single file"),
        ({"unet": "cut.gguf"}, "unet", "is no whole GGUF file"),
        ({"unet": "pickled"}, "unet", "weights in safetensors"),
    ],
)
def test_parts_that_do_not_fit_are_refused(saved, files, components, field, message):
    (files / "cut.gguf").write_bytes((files / "flux.gguf").read_bytes()[:50_000])
    (files / "pickled").mkdir(exist_ok=True)
    shutil.copy(saved("sd") / "unet" / "config.json", files / "pickled")
    (files / "pickled" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    (files / "t5").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(saved("flux") / "text_encoder_2" / name, files / "t5")
    given = {name: value and str(files / value) for name, value in components.items()}
    found = problems(saved("sd"), components=given)
    assert message in found[f".components.{field}"], found


def test_a_file_that_lacks_weights_is_refused_with_its_name(saved, files, tmp_path):
    settings = diffusers.FluxTransformer2DModel.load_config(saved("flux") / "transformer")
    weights = diffusers.FluxTransformer2DModel.from_config(settings).state_dict()
    del weights["proj_out.bias"]
    save_file(weights, tmp_path / "lacking.safetensors")
    made = backend(saved("flux"), components={"transformer": str(tmp_path / "lacking.safetensors")})
    with pytest.raises(BackendError, match=r"generator.components.transformer: .*lacking.safetensors"):
        made.pipeline(False)


# LoRAs


def fused(*given: tuple[Path, float]) -> Callable[[Any], None]:
    def change(pipeline: Any) -> None:
        for i, (folder, _) in enumerate(given):
            pipeline.load_lora_weights(str(folder), adapter_name=f"n{i}")
        pipeline.set_adapters([f"n{i}" for i in range(len(given))], [weight for _, weight in given])
        pipeline.fuse_lora(components=list(pipeline.get_list_adapters()))
        pipeline.unload_lora_weights()

    return change


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # in diffusers' own call
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_loras_are_added_to_the_weights(saved, files, name):
    first, second = (files / f"lora_{name}_{i}" for i in range(2))
    plain, file = images(saved(name)), "pytorch_lora_weights.safetensors"
    one = images(saved(name), loras=[{"model": str(first), "weight": 0.7}])
    require_equal(one, upstream(saved(name), change=fused((first, 0.7))), plain)
    both = images(
        saved(name), loras=[{"model": str(first / file), "weight": 0.7}, {"model": str(second), "file": file}]
    )
    require_equal(both, upstream(saved(name), change=fused((first, 0.7), (second, 1.0))), one)
    made = backend(saved(name), loras=[{"model": str(first)}]).pipeline(False)
    names = [
        n for part in (made.components.values()) if isinstance(part, torch.nn.Module) for n, _ in part.named_modules()
    ]
    assert not [n for n in names if "lora" in n]


def test_loras_are_computed_beside_quantised_weights(saved, files):
    """As diffusers does it: it cannot add to them."""
    file, lora = files / "flux.gguf", files / "lora_flux_0"
    how = {"quantization_config": diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32), "dtype": torch.float32}
    options = {"components": {"transformer": str(file)}}

    def change(pipeline: Any) -> None:
        pipeline.load_lora_weights(str(lora), adapter_name="n")
        pipeline.set_adapters(["n"], [2.0])

    found = images(saved("flux"), loras=[{"model": str(lora), "weight": 2}], **options)
    expected = upstream(saved("flux"), given={"transformer": from_file(file, saved("flux"), **how)}, change=change)
    require_equal(found, expected, images(saved("flux"), **options))


def test_a_lora_for_another_model_is_refused(saved, files):
    for name, other in (("sd", "flux"), ("flux", "sd")):
        made = backend(saved(name), loras=[{"model": str(files / f"lora_{other}_0")}])
        with pytest.raises(BackendError, match=r"generator\.loras\.0: .*it was made for another model"):
            made.pipeline(False)


def test_loras_that_cannot_be_used_are_refused(saved, files, tmp_path, monkeypatch):
    folder = str(files / "lora_sd_0")
    weights = {"text_encoder.a.lora_A.weight": torch.zeros(2, 2)}
    save_file(weights, tmp_path / "text.safetensors")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_lora_weights.bin").write_bytes(b"x")
    for given, message in (
        ({"model": str(files)}, "has several .safetensors files; set `file`: flux.safetensors, one.safetensors"),
        ({"model": folder, "file": "other.safetensors"}, "other.safetensors does not exist"),
        ({"model": str(files / "one.safetensors")}, "is no LoRA: none of its tensors has `lora` in its name"),
        ({"model": str(files / "one.safetensors"), "file": "x"}, "leave `file` out"),
        ({"model": str(tmp_path / "pickled")}, "has no .safetensors file"),
        ({"model": str(tmp_path / "pickled" / "pytorch_lora_weights.bin")}, "other formats can hold code"),
        ({"model": "someone/lora", "file": "a b.safetensors"}, "--download someone/lora --file 'a b.safetensors'"),
    ):
        assert message in problems(saved("sd"), loras=[given])[".loras.0"]
    from synthgen.generators import _diffusion_parts

    monkeypatch.setattr(_diffusion_parts, "version", lambda _: "0.21.2")
    found = problems(saved("sd"), loras=[{"model": str(tmp_path / "text.safetensors")}])
    assert "0.21.2 is installed: pip install -U peft" in found[".loras.0"]
    monkeypatch.setattr(_diffusion_parts, "version", lambda _: "99.0")
    assert not problems(saved("sd"), loras=[{"model": str(tmp_path / "text.safetensors")}])
    monkeypatch.setattr(_diffusion_parts, "find_spec", lambda _: None)
    assert "pip install 'synthgen[lora]'" in problems(saved("sd"), loras=[{"model": folder}])[".loras.0"]


# Textual inversions


@pytest.mark.parametrize(("file", "token"), [("one", None), ("three", "<cup>")])
def test_a_textual_inversion_is_a_word_for_prompts(saved, files, file, token):
    prompts = ("a <cup>, on a table", "a blue <cup>")
    found = images(saved("sd"), *prompts, embeddings=[{"model": str(files / f"{file}.safetensors"), "token": token}])

    def change(pipeline: Any) -> None:
        pipeline.load_textual_inversion(str(files), weight_name=f"{file}.safetensors", token=token)

    require_equal(found, upstream(saved("sd"), *prompts, change=change), images(saved("sd"), *prompts))


def test_a_textual_inversion_of_sdxl_is_for_both_encoders(saved, files):
    from safetensors.torch import load_file

    prompts, file = ("a <cup>, on a table",), files / "sdxl.safetensors"
    vectors = load_file(file)

    def change(pipeline: Any) -> None:
        for name, end in (("clip_l", ""), ("clip_g", "_2")):
            parts = {n: getattr(pipeline, f"{n}{end}") for n in ("text_encoder", "tokenizer")}
            pipeline.load_textual_inversion(vectors[name], token="<cup>", **parts)

    found = images(saved("sdxl"), *prompts, embeddings=[{"model": str(file), "token": "<cup>"}])
    expected = upstream(saved("sdxl"), *prompts, change=change, given={"add_watermarker": False})
    require_equal(found, expected, images(saved("sdxl"), *prompts))


def test_a_word_of_several_vectors_takes_as_many_tokens_of_a_prompt(saved, files):
    """The tiny tokenizer takes 24 tokens, of which 2 are a prompt's ends, and a letter is one."""

    def said(letters: int, **options: Any) -> list[str]:
        form = PromptForm((("<cup>",), (" ".join("a" * letters),)), 2)
        request = Request(REQUEST.height, REQUEST.width, False, frozenset(), (form,))
        return [problem.message for problem in backend(saved("sd"), **options).check(request)]

    three = [{"model": str(files / "three.safetensors"), "token": "<cup>"}]
    assert not said(19, embeddings=three)
    (message,) = said(20, embeddings=three)
    assert "has 25 tokens" in message


def test_prompts_in_pieces_have_the_added_words_too(saved, files):
    """A prompt of one piece gives the same image with and without pieces."""
    prompts, options = ("a <cup>",), {"embeddings": [{"model": str(files / "three.safetensors"), "token": "<cup>"}]}
    found = images(saved("sd"), *prompts, long_prompts=True, **options)
    np.testing.assert_array_equal(found, images(saved("sd"), *prompts, **options))
    long = ("a red cup, on a table, and a <cup>",)
    assert (images(saved("sd"), *long, long_prompts=True, **options) != found).any()


def test_a_model_with_a_list_of_its_words_knows_the_added_ones_too(files):
    request = Request(128, 128, False, frozenset({"<", "cup", ">", "apple"}))
    made = diffusion.Backend(diffusion.Config(use="diffusion", device="cpu"), ())
    assert {problem.subject for problem in made.check(request)} > {"<"}
    config = diffusion.Config(
        use="diffusion", device="cpu", embeddings=[{"model": str(files / "one.safetensors"), "token": "<cup>"}]
    )
    assert not list(diffusion.Backend(config, ()).check(request))


def test_textual_inversions_that_cannot_be_used_are_refused(saved, files):
    one = {"model": str(files / "one.safetensors")}
    for given, message in (
        ([{"model": str(files / "sdxl.safetensors")}], "does not say its word; set `token`"),
        ([{"model": str(files / "flux.safetensors")}], "is no textual inversion"),
        ([one, one], "got the word '<cup>' twice"),
    ):
        assert message in problems(saved("sd"), embeddings=given)[f".embeddings.{len(given) - 1}"]
    assert "takes no textual inversion" in problems(saved("sd3"), embeddings=[one])[".embeddings.0"]


# Options and identity


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loras": [{"model": "x", "file": "../y.safetensors"}]}, "takes the path of a file inside the folder"),
        ({"loras": [{"model": "x", "weight": 11}]}, "less than or equal to 10"),
        ({"loras": [{"model": "x", "scale": 1}]}, "Extra inputs"),
        ({"embeddings": [{"model": "x", "token": "two words"}]}, "takes one word"),
        ({"quantize": {"transformer": "int3"}}, "'int8', 'int4', 'fp8', 'nf4' or 'fp8_storage'"),
    ],
)
def test_options_are_refused(options, words):
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        diffusion.Config(use="diffusion", **options)


def test_the_identity_names_every_file_and_the_fingerprint_every_option(saved, files):
    plain = backend(saved("sd"))
    seen = {plain.identity()}
    assert " " not in plain.identity()
    one = {"model": str(files / "lora_sd_0")}
    two = {"model": str(files / "lora_sd_1")}
    for options in (
        {"components": {"vae": str(files / "vae")}},
        {"components": {"vae": str(files / "other_sd")}},
        {"loras": [one]},
        {"loras": [one | {"weight": 0.5}]},
        {"loras": [one, two]},
        {"loras": [two, one]},
        {"embeddings": [{"model": str(files / "one.safetensors")}]},
    ):
        made = backend(saved("sd"), **options)
        assert made.identity() not in seen and made.identity().startswith(plain.identity() + " ")
        assert made.config.fingerprint() != plain.config.fingerprint()
        seen.add(made.identity())
    assert not {"components", "loras", "embeddings", "quantize", "cache"} & plain.config.fingerprint().keys()


def test_checking_all_options_brings_in_no_torch(saved, files):
    options = {
        "components": {"vae": str(files / "vae"), "transformer": str(files / "flux.gguf"), "image_encoder": None},
        "loras": [{"model": str(files / "lora_flux_0")}],
        "embeddings": [{"model": str(files / "one.safetensors")}],
        "quantize": {"text_encoder_2": "int8", "vae": "fp8_storage"},
        "cache": "taylorseer", "cache_options": {"max_order": 1}, "num_inference_steps": 12, "attention": "native",
        "offload": "none", "device": "cpu", "guidance_scale": 3.5,
    }  # fmt: skip
    code = f"""
import sys
from synthgen.backends import Request
from synthgen.generators import diffusion
made = diffusion.Backend(diffusion.Config(use="diffusion", model={str(saved("flux"))!r}, **{options!r}), ())
print(list(made.check(Request(32, 32, False, frozenset()))), made.identity().count(" "))
print([name for name in ("torch", "diffusers", "transformers", "peft", "gguf", "torchao") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[] 4\n[]\n"


def test_what_is_fetched_is_what_is_read(saved, files):
    given = {
        "vae": "someone/vae",
        "unet": str(files / "flux.gguf"),
        "text_encoder": None,
        "safety_checker": "a/b",
    }
    lora = {"model": "someone/lora", "file": "x.safetensors"}
    made = backend(saved("sd"), components=given, loras=[lora], embeddings=[{"model": "someone/cup"}])
    own, *others = [model.source() for model in made.models()]
    assert own.without == {"vae", "text_encoder", "tokenizer", "safety_checker"} and own.settings_only == {"unet"}
    assert [(other.model, other.files) for other in others] == [
        ("someone/vae", ()), (str(files / "flux.gguf"), ()), ("a/b", ()), ("someone/lora", ("x.safetensors",)),
        ("someone/cup", ()),
    ]  # fmt: skip


def test_the_identity_of_a_file_in_the_hubs_cache_is_its_commit(saved, tmp_path, monkeypatch):
    from huggingface_hub import constants

    cache = tmp_path / "models--someone--lora"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "blobs").mkdir()
    folder = cache / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    save_file({"unet.lora_A": torch.zeros(2, 2)}, cache / "blobs" / "abc")
    (folder / "style.safetensors").symlink_to("../../blobs/abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    lacking = problems(saved("sd"), loras=[{"model": "someone/lora", "file": "x.safetensors"}])[".loras.0"]
    assert lacking.endswith("with: synthgen models --download someone/lora --file x.safetensors")
    for model in ("someone/lora", str(folder / "style.safetensors")):
        made = backend(saved("sd"), loras=[{"model": model}])
        assert not list(made.check(REQUEST))
        assert made.identity().endswith(f" lora:{'0' * 40}/style.safetensors:1")
