"""What a model's licence says of what the model makes: may it be used commercially, and under which conditions?

The tables say how synthgen's authors read the licences. They are no legal advice. For a dataset, training a model that
is used commercially is a commercial use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from synthgen.base.safe_yaml import load_yaml
from synthgen.base.wording import plain
from synthgen.errors import SpecError
from synthgen.models import KNOWN, is_hub_id

Commercial = Literal["yes", "conditions", "no", "unknown"]
RANKS: tuple[Commercial, ...] = ("yes", "conditions", "unknown", "no")  # the strictest is last
SAYS: Mapping[Commercial, str] = {
    "yes": "may be used commercially",
    "conditions": "may be used commercially under conditions",
    "no": "may not be used commercially",
    "unknown": "may or may not be used commercially: synthgen does not know what its licence allows",
}
MAX_README = 100_000  # bytes that are read of a README.md; its header stands at the beginning

_ANYTHING: tuple[Commercial, str] = ("yes", "")
_NAME_THE_AUTHORS: tuple[Commercial, str] = ("yes", "if their authors are named")
_RAIL: tuple[Commercial, str] = ("yes", "except for the uses that its attachment forbids")
_RESEARCH: tuple[Commercial, str] = ("no", "the model is for research alone")
_NON_COMMERCIAL: tuple[Commercial, str] = ("no", "the model may only be run for non-commercial purposes")
_COPYLEFT: tuple[Commercial, str] = ("yes", "since it covers the program and not what the program makes")
# Black Forest Labs' licence leaves outputs to their makers, but the model may not be run to train models for commercial
# use (the definition of "Non-Commercial Purpose"), and that is what a dataset is for.
_FLUX: tuple[Commercial, str] = ("no", "the model may not be run to train models for commercial use")
_REVENUE = "for those whose yearly revenue is below {}"
# Identifiers of the Hub (https://huggingface.co/docs/hub/repositories-licenses), or what cards have as `license_name`.
TERMS: Mapping[str, tuple[Commercial, str]] = {
    **dict.fromkeys(
        ("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "isc", "zlib", "unlicense", "wtfpl",
         "cc0-1.0", "pddl", "afl-3.0", "ecl-2.0", "artistic-2.0", "cdla-permissive-2.0", "nvidia-open-model-license"),
        _ANYTHING,
    ),
    **dict.fromkeys(("cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"), _NAME_THE_AUTHORS),
    **dict.fromkeys(("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0"), _COPYLEFT),
    **dict.fromkeys(("openrail", "openrail++", "creativeml-openrail-m", "creativeml-open-rail-m",
                     "creativeml-open-rail++-m", "bigscience-openrail-m"), _RAIL),
    "sam-license": ("yes", "except for military, nuclear and espionage uses"),
    "stabilityai-ai-community": ("conditions", _REVENUE.format("$1 million")),
    "krea-2-community-license": ("conditions", _REVENUE.format("$1 million")),
    "flux-3-klein": ("conditions", _REVENUE.format("$5 million")),
    "kolors": ("conditions", "for those who have registered with its publisher"),
    "tencent-hunyuan-community": (
        "conditions", "outside the European Union, the United Kingdom and South Korea, with at most 100 million users",
    ),
    **dict.fromkeys(("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
                     "cc-by-nc-nd-4.0", "ideogram-4-non-commercial", "bria", "stabilityai-nc-research-community",
                     "stable-cascade-nc-community"), _NON_COMMERCIAL),
    **dict.fromkeys(("qwen-research", "deepfloyd-if-license", "apple-amlr", "intel-research",
                     "fair-noncommercial-research-license"), _RESEARCH),
    **dict.fromkeys(("flux-non-commercial-license", "flux-dev-non-commercial-license",
                     "flux-1-dev-non-commercial-license"), _FLUX),
}  # fmt: skip
# A licence that is not in the table and has such a word in its name.
_FORBIDDING = re.compile(r"non-?commercial|(^|-)nc(-|$)|research-only")
# Ids on the Hub, in lower case -> the licence on their pages. The first that matches counts; `KNOWN` has others.
MODELS: Mapping[str, str] = {
    "black-forest-labs/flux.1-schnell*": "apache-2.0",
    "black-forest-labs/flux.1-*": "flux-1-dev-non-commercial-license",
    "black-forest-labs/flux.2-klein-*4b*": "apache-2.0",
    "black-forest-labs/flux.2-*": "flux-non-commercial-license",
    "black-forest-labs/flux.3-klein*": "flux-3-klein",
    "tongyi-mai/z-image*": "apache-2.0",
    "qwen/qwen-image": "apache-2.0",
    "qwen/qwen-image-2512": "apache-2.0",
    "qwen/qwen-image-2.1*": "qwen-research",
    "ideogram-ai/ideogram-4*": "ideogram-4-non-commercial",
    "krea/krea-2-*": "krea-2-community-license",
    "baidu/ernie-image*": "apache-2.0",
    "zai-org/glm-image": "mit",
    "hidream-ai/hidream-i1-*": "mit",
    "lodestones/chroma*": "apache-2.0",
    "alpha-vllm/lumina-image-2.0": "apache-2.0",
    "fal/auraflow*": "apache-2.0",
    "zai-org/cogview4-6b": "apache-2.0",
    "thudm/cogview*": "apache-2.0",
    "kandinsky-community/kandinsky-3": "apache-2.0",
    "pixart-alpha/*": "openrail++",
    "kwai-kolors/*": "kolors",
    "tencent-hunyuan/hunyuandit*": "tencent-hunyuan-community",
    "hunyuanvideo-community/hunyuanimage-*": "tencent-hunyuan-community",
    "deepfloyd/if-*": "deepfloyd-if-license",
    "briaai/*": "bria",
    "stabilityai/stable-cascade*": "stable-cascade-nc-community",
    "stabilityai/stable-diffusion-3*": "stabilityai-ai-community",
    "stabilityai/stable-diffusion-2*": "openrail++",
    "stabilityai/stable-diffusion-xl-*": "openrail++",
    "stable-diffusion-v1-5/*": "creativeml-openrail-m",
    "compvis/stable-diffusion-*": "creativeml-openrail-m",
    "isee-laboratory/llmdet_*": "apache-2.0",
    "openmmlab-community/mm_grounding_dino_*": "apache-2.0",
    "idea-research/grounding-dino-*": "apache-2.0",
    "google/owlv*": "apache-2.0",
    "facebook/sam3": "sam-license",
    "facebook/sam2*": "apache-2.0",
    "facebook/sam-vit-*": "apache-2.0",
    "yonigozlan/edgetam*": "apache-2.0",
    "syscv-community/sam-hq-*": "apache-2.0",
    "google/siglip*": "apache-2.0",
    "openai/clip-*": "mit",
    "facebook/metaclip-*": "cc-by-nc-4.0",
    "laion/clip-*": "mit",
}


@dataclass(frozen=True, slots=True)
class OutputLicence:
    """What is known of the right to use what a model makes.

    Attributes:
        name, url: of the licence, as the model states it; "" if it states none.
        commercial: whether what the model makes may be used commercially.
        words: the condition, or why it may not; the end of a sentence, or "".
    """

    name: str
    url: str
    commercial: Commercial
    words: str = ""

    def __str__(self) -> str:
        return f"{self.named or 'no licence is stated'}: {self.says[:1].lower()}{self.says[1:]}"

    @property
    def says(self) -> str:
        """What it says of images and labels: a sentence without its full stop."""
        return f"Images and labels {self.allows}"

    @property
    def allows(self) -> str:
        """The end of that sentence."""
        return f"{SAYS[self.commercial]}{f' ({self.words})' if self.words else ''}"

    @property
    def named(self) -> str:
        """Its name with its address; "" if there is none."""
        return f"{self.name} <{self.url}>" if self.url else self.name


def output_licence(model: str, stated: Iterable[Sequence[str]]) -> OutputLicence:
    """The licence of what a model makes.

    Args:
        model: its name in the spec.
        stated: (name, url) of the licences that the model itself states, such as in its card. All of them hold, so the
            strictest decides.
    """
    found = [_read(plain(str(name), 200), plain(str(url), 300)) for name, url in stated]
    worst = max(found, key=lambda licence: RANKS.index(licence.commercial), default=OutputLicence("", "", "unknown"))
    if worst.commercial != "unknown" or not (licence := _of_id(model)):
        return worst
    return _read(licence, f"https://huggingface.co/{model}")


def _read(name: str, url: str) -> OutputLicence:
    identifier = re.sub(r"[\s_]+", "-", name.strip().lower())
    if identifier in TERMS:
        return OutputLicence(name, url, *TERMS[identifier])
    if _FORBIDDING.search(identifier):
        return OutputLicence(name, url, *_NON_COMMERCIAL)
    return OutputLicence(name, url, "unknown")


def _of_id(model: str) -> str | None:
    """The licence of a model of the Hub, by its id."""
    known = KNOWN.get(model)
    if known and known.licence:
        return known.licence
    if not is_hub_id(model):
        return None
    return next((licence for pattern, licence in MODELS.items() if fnmatchcase(model.lower(), pattern)), None)


def stated_in_readme(folder: Path, model: str) -> list[tuple[str, str]]:
    """(name, url) of the licences in the YAML header of a model card, `README.md`; empty if it states none. Nothing
    else of the file is read. Keys: https://huggingface.co/docs/hub/model-cards#model-card-metadata.

    Args:
        model: its name in the spec, for links that are relative to its page.
    """
    try:
        file = folder / "README.md"
        if not file.is_file():
            return []
        with open(file, "rb") as opened:
            text = opened.read(MAX_README).decode("utf-8", "replace")
        header = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.DOTALL | re.MULTILINE)
        card = load_yaml(header[1]) if header else None
    except (OSError, SpecError):
        return []
    return _stated(card, model) if isinstance(card, dict) else []


def _stated(card: Mapping[Any, Any], model: str) -> list[tuple[str, str]]:
    named, page = card.get("license"), f"https://huggingface.co/{model}" if is_hub_id(model) else ""
    link = card.get("license_link")
    url = page
    if isinstance(link, str):
        is_relative = not re.match(r"https?://", link)
        url = f"{page}/blob/main/{link}" * bool(page) if is_relative else link
    names = [name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str) and name]
    own = card.get("license_name")
    return [(own if name == "other" and isinstance(own, str) and own else name, url) for name in names]
