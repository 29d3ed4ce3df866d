"""Whether what a model makes may be used commercially: by its card, and by the table of published models."""

import os
from pathlib import Path

import pytest

from synthgen.models import KNOWN, is_hub_id
from synthgen.models.licences import MODELS, TERMS, output_licence, stated_in_readme


def test_every_licence_in_the_tables_has_its_terms() -> None:
    assert set(MODELS.values()) <= TERMS.keys()
    assert {known.licence.lower() for known in KNOWN.values() if known.licence} <= TERMS.keys()
    assert all(name == name.lower() and is_hub_id(name.replace("*", "x")) for name in MODELS)
    assert all(words for commercial, words in TERMS.values() if commercial != "yes")


@pytest.mark.parametrize(
    ("model", "name", "commercial"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "openrail++", "yes"),
        ("stabilityai/stable-diffusion-3.5-large", "stabilityai-ai-community", "conditions"),
        ("black-forest-labs/FLUX.1-schnell", "apache-2.0", "yes"),
        ("black-forest-labs/FLUX.1-Krea-dev", "flux-1-dev-non-commercial-license", "no"),
        ("black-forest-labs/FLUX.2-klein-4B", "apache-2.0", "yes"),
        ("black-forest-labs/FLUX.2-klein-base-4B", "apache-2.0", "yes"),
        ("black-forest-labs/FLUX.2-klein-9B", "flux-non-commercial-license", "no"),
        ("black-forest-labs/FLUX.2-dev", "flux-non-commercial-license", "no"),
        ("Tongyi-MAI/Z-Image-Turbo", "apache-2.0", "yes"),
        ("Qwen/Qwen-Image", "apache-2.0", "yes"),
        ("Qwen/Qwen-Image-2.1", "qwen-research", "no"),
        ("krea/Krea-2-Turbo", "krea-2-community-license", "conditions"),
        ("facebook/sam3", "sam-license", "yes"),
        ("facebook/sam2.1-hiera-large", "apache-2.0", "yes"),
        ("facebook/metaclip-2-worldwide-huge-quickgelu", "cc-by-nc-4.0", "no"),
        ("vit_h", "Apache-2.0", "yes"),
        ("me/model", "", "unknown"),
        ("./black-forest-labs/FLUX.1-dev", "", "unknown"),  # a folder says itself what it is
        ("sdxl.safetensors", "", "unknown"),
    ],
)
def test_published_models_that_state_nothing_here(model: str, name: str, commercial: str) -> None:
    licence = output_licence(model, [])
    assert (licence.name, licence.commercial) == (name, commercial)


@pytest.mark.parametrize(
    ("stated", "name", "commercial"),
    [
        (["Apache-2.0"], "Apache-2.0", "yes"),
        (["CreativeML OpenRAIL-M"], "CreativeML OpenRAIL-M", "yes"),
        (["SAM License"], "SAM License", "yes"),
        (["apache-2.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0", "no"),  # all of them hold
        (["mit", "ours"], "ours", "unknown"),
        (["some-NonCommercial-terms"], "some-NonCommercial-terms", "no"),
        (["ours-nc"], "ours-nc", "no"),
        (["nca-1.0"], "nca-1.0", "unknown"),
        (["other"], "other", "unknown"),
    ],
)
def test_stated_licences(stated: list[str], name: str, commercial: str) -> None:
    licence = output_licence("me/model", [(one, f"https://example.org/{one}") for one in stated])
    assert (licence.name, licence.url, licence.commercial) == (name, f"https://example.org/{name}", commercial)


def test_what_a_model_states_counts_before_the_table() -> None:
    sold = output_licence("black-forest-labs/FLUX.1-dev", [("mit", "https://example.org")])
    assert sold.commercial == "yes"
    unclear = output_licence("black-forest-labs/FLUX.1-dev", [("other", "https://example.org")])
    assert (unclear.name, unclear.commercial) == ("flux-1-dev-non-commercial-license", "no")
    assert str(output_licence("krea/Krea-2-Raw", [])) == (
        "krea-2-community-license <https://huggingface.co/krea/Krea-2-Raw>: images and labels may be used commercially "
        "under conditions (for those whose yearly revenue is below $1 million)"
    )


PAGE = "https://huggingface.co/me/model"


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("---\nlicense: mit\n---\n# A model", [("mit", PAGE)]),
        ("\ufeff---\r\nlicense: mit\r\ntags: [a]\r\n---\r\n", [("mit", PAGE)]),
        ("---\nlicense: [mit, apache-2.0]\n---\n", [("mit", PAGE), ("apache-2.0", PAGE)]),
        ("---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org/l\n---\n", [("own", "https://x.org/l")]),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n",
            [("own", f"{PAGE}/blob/main/LICENSE")],
        ),
        ("---\nlicense: other\n---\n", [("other", PAGE)]),
        ("---\ntags: [a]\n---\nlicense: mit\n---\n", []),
        ("# A model\n---\nlicense: mit\n---\n", []),
        ("---\nlicense: mit\n", []),
        ("---\nlicense: {a: b}\n---\n", []),
        ("---\n- mit\n---\n", []),
        ("---\nlicense: !!python/object:os.system mit\n---\n", []),
        ("---\nlicense: mit\nlicense: apache-2.0\n---\n", []),
        ("---\na: &a [x, x]\nb: &b [*a, *a]\n---\n" + "x" * 200_000, []),
        ("---\n" + "a: 1\n" * 50_000 + "license: mit\n---\n", []),
    ],
)
def test_the_header_of_a_readme(text: str, stated: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert stated_in_readme(tmp_path, "me/model") == stated


def test_what_is_no_readme(tmp_path: Path) -> None:
    assert stated_in_readme(tmp_path, "me/model") == []
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\nname: \xff\n---\n")
    assert stated_in_readme(tmp_path, "./mine") == [("mit", "")]
    (tmp_path / "README.md").unlink()
    os.mkfifo(tmp_path / "README.md")  # to open it would wait for ever
    assert stated_in_readme(tmp_path, "me/model") == []
