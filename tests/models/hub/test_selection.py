"""Which files of a repository are read: of pipelines, models, checkpoints and single files."""

from collections.abc import Mapping
from typing import Any

import pytest

from synthgen.backends import Source
from synthgen.models.hub.selection import needed_files

# What lies in the repository of Stable Diffusion 3.5 medium, shortened: shards of a variant in one part only.
SD3 = [
    ".gitattributes", "LICENSE.md", "README.md", "SD3.5M_example_workflow.json", "model_index.json", "mmdit-x.png",
    "sd3.5_medium.safetensors", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors", "text_encoder/model.safetensors", "text_encoder_3/config.json",
    "text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors",
    "text_encoder_3/model.fp16-00001-of-00002.safetensors", "text_encoder_3/model.fp16-00002-of-00002.safetensors",
    "text_encoder_3/model.safetensors.index.fp16.json", "text_encoder_3/model.safetensors.index.json",
    "text_encoders/t5xxl_fp16.safetensors", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer_3/spiece.model", "tokenizer_3/tokenizer.json",
    "tokenizer_3/tokenizer_config.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin",
]  # fmt: skip
INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "feature_extractor": [None, None],
    "sizes": [64, 128],
    "is_large": True,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
JSON: dict[str, Mapping[str, Any]] = {
    "model_index.json": INDEX,
    "text_encoder_3/model.safetensors.index.json": {
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    },
    "text_encoder_3/model.safetensors.index.fp16.json": {
        "weight_map": {"a": "model.fp16-00001-of-00002.safetensors", "b": "model.fp16-00002-of-00002.safetensors"}
    },
}
SETTINGS = {
    "README.md", "model_index.json",
    "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer_3/spiece.model", "tokenizer_3/tokenizer.json",
    "tokenizer_3/tokenizer_config.json", "text_encoder/config.json", "text_encoder_3/config.json",
    "transformer/config.json", "vae/config.json",
}  # fmt: skip


def read(name: str) -> Mapping[str, Any]:
    return JSON[name]


def needed(names: list[str], **source: Any) -> set[str]:
    return set(needed_files(names, read, Source("me/model", **source)))


def test_a_pipeline() -> None:
    plain = {
        "text_encoder/model.safetensors", "text_encoder_3/model.safetensors.index.json",
        "text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert needed(SD3) == SETTINGS | plain
    assert needed(SD3, without=frozenset({"text_encoder_3", "tokenizer_3"})) == {
        name for name in SETTINGS | plain if not name.startswith(("text_encoder_3", "tokenizer_3"))
    }
    assert needed(SD3, settings_only=frozenset({"transformer"})) == SETTINGS | plain - {
        "transformer/diffusion_pytorch_model.safetensors"
    }


def test_a_variant_that_some_parts_have() -> None:
    assert needed(SD3, variant="fp16") == SETTINGS | {
        "text_encoder/model.fp16.safetensors", "text_encoder_3/model.safetensors.index.fp16.json",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors", "text_encoder_3/model.fp16-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip


def test_a_part_of_another_pipeline() -> None:
    vae = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert needed(SD3, part="vae", variant="fp16") == {"README.md", "model_index.json", *vae}
    alone = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "sdxl_vae.safetensors"]
    assert needed(alone, part="vae", variant="fp16") == {
        "README.md", "config.json", "diffusion_pytorch_model.safetensors"
    }  # fmt: skip


def test_a_modular_pipeline() -> None:
    names = ["modular_model_index.json", "README.md", "dit/config.json", "dit/diffusion_pytorch_model.safetensors",
             "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "other/config.json"]  # fmt: skip
    index = {
        "_class_name": "Flux3ModularPipeline",
        "transformer": [None, None, {"type_hint": ["diffusers", "Flux3Transformer2DModel"], "subfolder": "dit"}],
        "tokenizer": ["transformers", "AutoTokenizer", {}],
        "vae": [None, None, {"pretrained_model_name_or_path": "another/repository", "subfolder": "vae"}],
    }
    assert set(needed_files(names, lambda name: index, Source("me/model"))) == set(names) - {"other/config.json"}


def test_models_of_transformers() -> None:
    clip = ["README.md", "config.json", "flax_model.msgpack", "merges.txt", "model.safetensors", "pytorch_model.bin",
            "preprocessor_config.json", "special_tokens_map.json", "tf_model.h5", "tokenizer.json",
            "tokenizer_config.json", "trainer_state.json", "vocab.json", "onnx/model.onnx"]  # fmt: skip
    others = {"flax_model.msgpack", "pytorch_model.bin", "tf_model.h5", "trainer_state.json", "onnx/model.onnx"}
    assert needed(clip) == set(clip) - others
    assert needed(["tokenizer_config.json", "tokenizer.json", "README.md"], part="tokenizer") == {
        "README.md", "tokenizer_config.json", "tokenizer.json"
    }  # fmt: skip


def test_a_card_names_its_weights() -> None:
    names = ["synthgen.json", "model.safetensors", "another.safetensors", "config.json"]
    card = {"weights": "another.safetensors", "sam": {}}
    assert needed_files(names, lambda name: card, Source("me/sam")) == ["another.safetensors", "synthgen.json"]


def test_single_files() -> None:
    assert needed(["a.safetensors", "b.safetensors"], files=("b.safetensors",)) == {"b.safetensors"}
    names = ["README.md", "a.safetensors", "b.safetensors"]
    assert needed(names, files=("b.safetensors",)) == {"README.md", "b.safetensors"}
    assert needed(["README.md", "lora.safetensors", "samples/1.png"]) == {"README.md", "lora.safetensors"}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            [*(name for name in SD3 if not name.startswith("vae/diff")), "vae/diffusion_pytorch_model.bin"],
            {},
            "its part 'vae' has no .safetensors weights, only .bin, which can hold code or are of other frameworks",
        ),
        ([name for name in SD3 if not name.startswith("vae/")], {}, "its part 'vae' is not in the repository"),
        (
            [name for name in SD3 if "00002-of" not in name],
            {},
            "its text_encoder_3/model.safetensors.index.json names shards that it does not have: "
            "text_encoder_3/model-00002-of-00002.safetensors",
        ),
        (SD3, {"variant": "fp8"}, "it has no weights of the variant 'fp8'"),
        (["config.json", "model.safetensors"], {"variant": "fp16"}, "it has no weights of the variant 'fp16'"),
        (
            ["config.json", "pytorch_model.bin"],
            {},
            "it has no .safetensors weights, only .bin, which can hold code or are of other frameworks",
        ),
        (
            ["a.safetensors", "b.safetensors"],
            {},
            "it holds neither a pipeline of diffusers nor a model of transformers; it has a.safetensors, "
            "b.safetensors; name the files with --file",
        ),
        (
            ["README.md", "lora.safetensors"],
            {"files": ("lore.safetensors",)},
            "it has no file 'lore.safetensors' (did you mean 'lora.safetensors'?); it has README.md, lora.safetensors",
        ),
    ],
)
def test_what_a_repository_does_not_hold(names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        needed(names, **options)
    assert str(refused.value) == message
