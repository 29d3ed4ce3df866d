"""Models of real sizes with random weights, built from the settings in gpu_models.json: speed needs no trained weights.

The tokenizers are those of the tests, with few words: they decide what a model reads, and not how long it takes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import tiny
import tiny_detectors
import tiny_sams
from zoo import language

SETTINGS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "gpu_models.json").read_text())
GENERATORS = ("sdxl", "flux2_klein", "qwen_image")
LABELLERS = ("sam_vit_h", "sam2_l", "owlv2", "llmdet", "clip_l")
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # of the tests' CLIP tokenizer


def random(kind: Any, *arguments: Any, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:
    """A model as its class initialises it. Weights are drawn on the device and in their dtype, so that 20 billion of
    them take seconds and no further memory."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return kind(*arguments, **options).to(device, dtype).eval()
    finally:
        torch.set_default_dtype(usual)


def pipeline(name: str, size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The pipeline of a generator, on its device. `size`: real, or reduced."""
    parts = SETTINGS[name][size]
    where = {"device": device, "dtype": dtype}
    if name == "sdxl":
        texts = [transformers.CLIPTextConfig(**parts[e], **ENDS) for e in ("text_encoder", "text_encoder_2")]
        tokenizers = []
        for _ in texts:
            tokenizer = tiny.clip_tokenizer()
            tokenizer.model_max_length = 77
            tokenizers.append(tokenizer)
        made = diffusers.StableDiffusionXLPipeline(
            random(diffusers.AutoencoderKL, **parts["vae"], **where),
            random(transformers.CLIPTextModel, texts[0], **where),
            random(transformers.CLIPTextModelWithProjection, texts[1], **where), *tokenizers,
            random(diffusers.UNet2DConditionModel, **parts["unet"], **where),
            diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1),
            add_watermarker=False,
        )  # fmt: skip
    elif name == "flux2_klein":
        made = diffusers.Flux2KleinPipeline(
            diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            random(diffusers.AutoencoderKLFlux2, **parts["vae"], **where),
            random(transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**parts["text_encoder"]), **where),
            language.qwen_tokenizer(),
            random(diffusers.Flux2Transformer2DModel, **parts["transformer"], **where),
            is_distilled=True,
        )
    else:
        tokenizer = language.qwen_tokenizer()
        config = transformers.Qwen2_5_VLConfig(**parts["text_encoder"], **language.ids(tokenizer))
        made = diffusers.QwenImagePipeline(
            diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            random(diffusers.AutoencoderKLQwenImage, **parts["vae"], **where),
            random(transformers.Qwen2_5_VLForConditionalGeneration, config, **where),
            tokenizer,
            random(diffusers.QwenImageTransformer2DModel, **parts["transformer"], **where),
        )
    made.set_progress_bar_config(disable=True)
    return made


def save(name: str, size: str, folder: Path) -> Path:
    """Saves a labeller's model as it is published, in float32."""
    parts, cpu = SETTINGS[name][size], {"device": torch.device("cpu"), "dtype": torch.float32}
    torch.manual_seed(0)
    if name == "sam_vit_h":
        from safetensors.torch import save_file

        from synthgen.mini.training import sam as training_sam
        from synthgen.models import SamShape

        model = training_sam.build(SamShape(**parts["sam"]))
        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")
        (folder / "synthgen.json").write_text(json.dumps({"sam": parts["sam"], "weights": "model.safetensors"}))
    elif name == "sam2_l" and size == "reduced":
        return tiny_sams.save("sam2", folder.parent)
    elif name == "sam2_l":
        transformers.Sam2Model(transformers.Sam2Config(**parts["config"])).save_pretrained(folder)
        side = {"height": parts["side"], "width": parts["side"]}
        transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=side)).save_pretrained(folder)
    elif name == "owlv2":
        text = {**parts["config"]["text_config"], **ENDS}
        config = transformers.Owlv2Config(**{**parts["config"], "text_config": text})
        transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
        edge = parts["config"]["vision_config"]["image_size"]
        images = transformers.Owlv2ImageProcessor(size={"height": edge, "width": edge})
        transformers.Owlv2Processor(images, tiny_detectors.letters_tokenizer(16)).save_pretrained(folder)
    elif name == "llmdet":
        tiny_detectors.save_grounding_dino(folder, "MMGroundingDino")
        processor, look = transformers.AutoProcessor.from_pretrained(folder), transformers.GroundingDinoImageProcessor
        # The words of the tiny one, with larger pictures.
        processor.image_processor = (
            look(size={"shortest_edge": 128, "longest_edge": 128}) if size == "reduced" else look()
        )
        processor.save_pretrained(folder)
        if size == "real":
            config = transformers.MMGroundingDinoConfig(**parts["config"])
            random(transformers.MMGroundingDinoForObjectDetection, config, **cpu).save_pretrained(folder)
    else:
        text = {**parts["config"]["text_config"], **ENDS}
        config = transformers.CLIPConfig(**{**parts["config"], "text_config": text})
        transformers.CLIPModel(config).save_pretrained(folder)
        edge = parts["config"]["vision_config"]["image_size"]
        images = transformers.CLIPImageProcessor(
            size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
        )
        tokenizer = tiny.clip_tokenizer()
        transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
