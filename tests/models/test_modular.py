"""Folders of modular pipelines: what is taken of their index, and what is refused in a line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_models import set_key, write
from zoo import ZOO

from synthgen.errors import BackendError
from synthgen.models.modular import INDEX, MODULAR, inspect_modular, is_modular, read_index


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ZOO["flux3_distilled"].save(tmp_path_factory.mktemp("modular"))


@pytest.fixture
def own(whole: Path, tmp_path: Path) -> Path:
    """A copy for the test, whose index still names the folder that it was saved in."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.mark.parametrize("name", MODULAR)
def test_the_table_says_what_the_blocks_say(name: str) -> None:
    import diffusers

    ours, kind = MODULAR[name], getattr(diffusers, name)
    blocks = getattr(diffusers, ours.name)()
    assert kind.default_blocks_name == ours.name
    defaults = {i.name: i.default for i in blocks.inputs if i.name}
    assert {name: defaults[name] for name in ours.inputs} == {**ours.inputs}
    # What is left out takes other pictures, or what steps give to each other.
    left = {"image", "image_cond_latents", "reference_crop", "latents", "num_images_per_prompt", "timesteps",
            "text_features", "text_lengths", "image_latents", "strength"}  # fmt: skip
    assert defaults.keys() - ours.inputs.keys() <= left
    from_files = {c.name for c in blocks.expected_components if c.default_creation_method == "from_pretrained"}
    assert from_files == {*ours.parts, *ours.optional}


def test_a_whole_folder(own: Path) -> None:
    assert is_modular(own)
    index = read_index(own)
    assert index.pipeline == "Flux3DistilledModularPipeline" and {*index.parts} == {*index.blocks.parts}
    found = inspect_modular(own, None)
    assert found.missing == () and found.held.tensors > 500
    (own / "model_index.json").write_text("{}")
    assert not is_modular(own)


def test_parts_of_other_repositories(own: Path) -> None:
    """Their files are taken if they are in the folder; else the message says where to put them."""
    part = {"pretrained_model_name_or_path": "a/upsampler", "subfolder": "",
            "type_hint": ["transformers", "Qwen3_5ForConditionalGeneration"]}  # fmt: skip
    set_key(INDEX, ("prompt_upsampler",), [None, None, part])(own)
    assert inspect_modular(own, None).missing == ()
    set_key(INDEX, ("vae",), None)(own)
    assert inspect_modular(own, None).missing == ("vae",)
    shutil.rmtree(own / "prompt_upsampler")
    with pytest.raises(BackendError) as error:
        inspect_modular(own, None)
    assert str(error.value) == (
        f"{own / INDEX} takes prompt_upsampler from 'a/upsampler', and parts are loaded from the model's own folder "
        f"only; put its files into {own / 'prompt_upsampler'}, or save the whole pipeline in one folder by diffusers' "
        "`save_pretrained`"
    )


def test_what_is_missing_of_a_part(own: Path) -> None:
    next((own / "transformer").glob("*.safetensors")).unlink()
    (own / "tokenizer" / "tokenizer.json").unlink()
    assert inspect_modular(own, None).missing == (
        "tokenizer (its vocabulary)", "transformer (weights in safetensors)",
    )  # fmt: skip


def test_classes_that_stand_for_others(own: Path) -> None:
    """The index of FLUX.3 names `AutoProcessor`, which must find no code in the folder."""
    set_key(INDEX, ("tokenizer",), [None, None, {"type_hint": ["transformers", "AutoProcessor"]}])(own)
    assert inspect_modular(own, None).missing == ()
    set_key("tokenizer/processor_config.json", ("auto_map",), {"AutoProcessor": "evil.Processor"})(own)
    with pytest.raises(BackendError, match=r"processor_config.json has an `auto_map`, and code of a model's own"):
        inspect_modular(own, None)


def of_part(name: str, **settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index[name][2] |= settings
        (folder / INDEX).write_text(json.dumps(index))

    return change


FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    ("no mapping", write(INDEX, b"[]"), "cannot be read: it is no mapping"),
    ("another pipeline", set_key(INDEX, ("_class_name",), "WanModularPipeline"),
     "names the pipeline 'WanModularPipeline'; of modular ones takes Flux3ModularPipeline"),
    ("code of its own", set_key(INDEX, ("_class_name",), ["block", "Mine"]), "names the pipeline ['block', 'Mine']"),
    ("other blocks", set_key(INDEX, ("_blocks_class_name",), "WanBlocks"), "names the blocks 'WanBlocks'; takes"),
    ("a module", of_part("vae", type_hint=["subprocess", "Popen"]), "takes vae from 'subprocess', and code"),
    ("a class that stands for others", of_part("vae", type_hint=["diffusers", "AutoModel"]),
     "takes the class that it stands for"),
    ("no class", of_part("vae", type_hint=[None, None]), "says vae: [None, None]; takes [library, class]"),
    ("a folder above", of_part("vae", subfolder="../vae"), "vae: subfolder: got '../vae'; takes a folder inside"),
    ("a folder from the root", of_part("vae", subfolder="/etc"), "vae: subfolder: got '/etc'"),
    ("a variant that is none", of_part("vae", variant=["fp16"]), "vae: variant: got ['fp16']; takes a name"),
    ("a large argument", set_key(INDEX, ("argument",), 10**10), "argument: got 10000000000; takes at most"),
    ("a large setting", set_key("transformer/config.json", ("in_channels",), 2**20), "in_channels: got 1048576"),
    ("a pipeline in a part", write("vae/model_index.json", {}), "makes a pipeline of a part"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_faults(change: Callable[[Path], None], said: str, own: Path) -> None:
    change(own)
    with pytest.raises(BackendError) as error:
        inspect_modular(own, None)
    assert said in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["vae", f"transformer/{'diffusion_pytorch_model'}.safetensors"])
def test_links_that_lead_out(name: str, own: Path, whole: Path) -> None:
    target = own / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(whole / name)
    with pytest.raises(BackendError, match="leads out of its model's folder"):
        inspect_modular(own, None)
