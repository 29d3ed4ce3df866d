"""Checks a diffusers pipeline before it is loaded, without torch: whether it can be loaded, and whether it can make
what a spec asks for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from synthgen.backends import Request
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, listed, nearest
from synthgen.generators._diffusion_config import OURS, Config
from synthgen.generators._diffusion_guidance import guidance_problems, steps_problems
from synthgen.generators._diffusion_schedulers import scheduler_problems
from synthgen.generators._modular import problems as modular_problems
from synthgen.models import AdapterLayout, NativeLayout, read_card, read_json
from synthgen.models.families import (
    call_parameters,
    denoiser,
    family,
    guidance,
    is_known,
    latent_side,
    pipeline_class,
    sides_multiple,
)
from synthgen.models.families import settings as part_settings
from synthgen.models.layouts import layout_of
from synthgen.models.modular import is_modular
from synthgen.models.tokens import Counter, counter
from synthgen.types import Category

# The pipeline that takes a T2I-Adapter, for the pipeline class that a folder declares.
ADAPTER_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionAdapterPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLAdapterPipeline",
}
NEEDED = ("prompt", "height", "width", "num_inference_steps", "generator")  # arguments of every call
FAR = 4  # a number that differs from a recommended one by this factor is remarked upon
CAPTION = NativeLayout(form="json_caption")
TOLD = 20  # of the names and words that a model does not know


class Checks:
    """Compares a spec with a pipeline's folder, its card, and the source of its class.

    Args:
        path: the pipeline's folder, which has been inspected.
        added: the words that textual inversions add, and how many tokens of a prompt each takes.
    """

    def __init__(
        self,
        config: Config,
        path: Path,
        categories: Sequence[Category],
        request: Request,
        added: Mapping[str, int] | None = None,
    ) -> None:
        self.config, self.path, self.categories, self.request = config, path, categories, request
        self.added = added or {}
        self.row = family(pipeline_class(path))
        self.settings = config.settings(self.row)

    def problems(self) -> list[Problem]:
        """Values of the spec that the pipeline does not take."""
        card, request = read_card(self.path), self.request
        if self.row.refused:
            return [Problem(".model", f"is a {self.row.pipeline}, which cannot be used here: {self.row.refused}")]
        if self.row.refused_if and denoiser(self.path).get(self.row.refused_if[0]):
            message = f"is a {self.row.pipeline} with {self.row.refused_if[0]}, which cannot be used here"
            return [Problem(".model", f"{message}: {self.row.refused_if[1]}")]
        if lacks := [name for name in self.row.packages if importlib.util.find_spec(name) is None]:
            message = f"is a {self.row.pipeline}, whose code needs a package: pip install {' '.join(lacks)}"
            return [Problem(".model", message)]
        if absent := self._absent():
            return [absent]
        problems = [*self._size(), *self._options(), *(p for p, is_cut in self._prompts() if is_cut)]
        sizes = card.sizes
        if sizes is not None and (request.height, request.width) not in sizes:
            takes = listed(f"{h}x{w}" for h, w in sizes)
            problems.append(
                Problem(
                    "height, width", f"got {request.height}x{request.width}; {shown(self.config.model)} makes {takes}"
                )
            )
        if card.classes is not None:
            unknown = [c.name for c in self.categories if c.name not in card.classes]
            problems += self._unknown("classes", "", unknown, card.classes, 40)
        if card.vocabulary is not None:
            class_words = {w for c in self.categories for w in c.name.lower().split()}
            added = {word for text in self.added for word in re.findall(r"\w+|[^\w\s]+", text.lower())}
            words = sorted(request.words - set(card.vocabulary) - class_words - added)
            problems += self._unknown("prompts", "the word ", words, list(filter(str.isalnum, card.vocabulary)), 60)
        problems += self._layout()
        if is_modular(self.path):
            problems += modular_problems(self.config, self.settings.num_inference_steps)
        return problems

    def _layout(self) -> Iterable[Problem]:
        """Whether a layout reaches the model."""
        form, model = layout_of(self.path, self.row.pipeline), shown(self.config.model)
        if not self.request.has_layout:
            return
        if form is None:
            mend = "set `layout: null`, and a grounder that finds things, such as `detector`"
            yield Problem("layout", f"{model} declares no way to take one; {mend}")
        elif form.form == "boxes" and "boxes" not in (call_parameters(self.row.pipeline) or {}):
            yield Problem(
                "layout", f"the card of {model} says that it takes boxes, and a {self.row.pipeline} takes none"
            )

    def _absent(self) -> Problem | None:
        """A part that the class needs, and that neither its folder nor the spec has."""
        for name, usual in self.row.from_elsewhere.items():
            index = read_json(self.path / "model_index.json")
            if index.get(name) in (None, [None, None]) and not self.config.components.get(name):
                message = f"a {self.row.pipeline} needs a {name}, which this folder lacks; set {{{name}: {usual}}}"
                return Problem(".components", f"{message}, or another of its kind")
        return None

    def advice(self) -> list[Problem]:
        """What the pipeline takes and was not made for, and prompts that it cuts."""
        return [*self._unusual(), *(problem for problem, is_cut in self._prompts() if not is_cut)]

    def _unusual(self) -> Iterable[Problem]:
        row, kind, model = self.row, self.row.pipeline, shown(self.config.model)
        if not is_known(kind):
            argument = guidance(row, self.path).argument
            how = f"guidance_scale goes to its `{argument}`" if argument else "it is called without guidance"
            yield Problem(".model", f"is a {kind}, which is not among the tested classes: {how}, one image at a time")
        usual, given = row.advised(self.config.model), self.config
        if usual is not None:
            best, steps = usual.num_inference_steps, given.num_inference_steps or usual.num_inference_steps
            if not best / FAR < steps < best * FAR:
                yield Problem(".num_inference_steps", f"got {steps}; the authors of {model} recommend {best}")
            if not usual.guidance_scale and guidance(row, self.path).is_on(given.guidance_scale):
                message = f"got {given.guidance_scale:g}; the authors of {model} recommend none: it was made for that"
                yield Problem(".guidance_scale", message)
        pixels = self.request.height * self.request.width
        if row.side and read_card(self.path).sizes is None and not 1 / FAR < pixels / row.side**2 < FAR:
            size = f"{self.request.height}x{self.request.width}"
            yield Problem("height, width", f"got {size}; models of {kind} are made for about {row.side}x{row.side}")

    def _size(self) -> Iterable[Problem]:
        """Whether the pipeline can make this size. Some pipelines round others, or refuse them with the first batch."""
        row, asked = self.row, (self.request.height, self.request.width)
        if row.resizes and (made := row.resizes(*asked, latent_side(self.path))) != asked:
            got = f"got {asked[0]}x{asked[1]}, of which {row.pipeline} makes {made[0]}x{made[1]}; set that"
            yield Problem("height, width", got)
            return
        if row.binned and self.config.call_options.get("use_resolution_binning", True):
            return
        multiple = sides_multiple(row, self.path) if is_known(row.pipeline) else None
        for key, value in (("height", self.request.height), ("width", self.request.width)):
            if multiple and value % multiple:
                near = f"{value // multiple * multiple} or {(value // multiple + 1) * multiple}"
                yield Problem(key, f"got {value}; {self.row.pipeline} makes multiples of {multiple}, such as {near}")

    def _options(self) -> Iterable[Problem]:
        """Options that the pipeline's class does not take, or that have no effect on it."""
        kind = self.row.pipeline
        if self.request.has_layout and isinstance(read_card(self.path).layout, AdapterLayout):
            kind = ADAPTER_PIPELINES.get(kind, kind)
        if (takes := call_parameters(kind)) is not None:
            if lacks := [f"`{name}`" for name in NEEDED if name not in takes]:
                yield Problem(".model", f"is a {kind}, which cannot be used here: its call takes no {listed(lacks)}")
            for name in self.config.call_options:
                if name in self.row.ignored:
                    yield Problem(".call_options", f"{kind} ignores its own {shown(name)}; leave it out")
                if name not in takes:
                    known = listed(sorted(takes.keys() - OURS))
                    message = f"{kind} takes no {shown(name)}{nearest(name, takes)}; it takes: {known}"
                    yield Problem(".call_options", plain(message, 600))
            yield from guidance_problems(self.config, self.row, self.path, kind, takes, self.request.negative_prompt)
            if self.config.long_prompts and not self.row.long_prompts:
                mend = (
                    "set call_options: {max_sequence_length: …}" if "max_sequence_length" in takes else "leave it out"
                )
                yield Problem(".long_prompts", f"{kind} takes no prompts in pieces; {mend}")
        yield from steps_problems(self.config, self.row, self.path)
        yield from scheduler_problems(self.config, self.row, self.path)

    def _prompts(self) -> Iterable[tuple[Problem, bool]]:
        """Prompts that are too long even for the text encoder with the highest limit, each with whether words for
        requested objects are cut."""
        reader = self._reader() if not self.config.long_prompts else None
        if reader is None or reader.limit is None:
            return
        model, limit = shown(self.config.model), reader.limit
        for form in self.request.prompts:
            whole, needed = reader.longest(form)
            tokens, upto = reader.counts([whole, needed])
            if tokens <= limit:
                continue
            # A layout gives the model every object, even if words are cut, unless it is itself a part of the prompt.
            has_layout = self.request.has_layout and layout_of(self.path, self.row.pipeline) != CAPTION
            is_cut = bool(form.last_needed) and upto > limit and not has_layout
            lost = "the things asked for would be cut" if is_cut else "what follows is cut"
            message = f"the prompt {shown(whole)} has {tokens} tokens, and {model} takes {limit}: {lost}; shorten it"
            yield Problem("prompts", plain(message, 500)), is_cut
        if self.request.negative_prompt and (tokens := reader.counts([self.request.negative_prompt])[0]) > limit:
            message = f"has {tokens} tokens, and {model} takes {limit}: what follows is cut; shorten it"
            yield Problem("prompts.negative_prompt", message), False

    def _reader(self) -> Counter | None:
        """The tokenizer whose text encoder takes the most tokens; None if one of the tokenizers cannot be read or has
        no limit."""
        row = self.row
        most = self.config.call_options.get("max_sequence_length")
        if row.tokens is not None:
            most = row.tokens
        elif row.tokens_key:
            most = read_json(self.path / "model_index.json").get(row.tokens_key)
        elif most is None:
            most = (call_parameters(row.pipeline) or {}).get("max_sequence_length")
        readers = []
        for folder in sorted(self.path.glob("tokenizer*")) or sorted(self.path.glob("processor")):
            encoder_name = folder.name.replace("tokenizer", "text_encoder")
            if None in (self.config.components.get(name, "") for name in (folder.name, encoder_name)):
                continue  # the part is dropped
            encoder = self.path / encoder_name
            has_positions = "max_position_embeddings" in part_settings(encoder)
            is_clip = has_positions and "CLIP" in str(part_settings(encoder).get("architectures"))
            reader = counter(folder, encoder)
            if reader is None and self.row.tokens is not None:
                continue  # it reads quoted texts only
            if reader is None:
                return None
            reader = Counter(partial(self._counts, reader), reader.limit)
            if row.tokens is not None and not has_positions:
                reader = reader.framed(row.frame, row.tokens)
            elif not is_clip and isinstance(most, int):
                reader = reader.framed(row.frame, min(most, reader.limit or most) + row.more_tokens)
            if reader.limit is None:
                return None
            readers.append(reader)
        return max(readers, key=lambda reader: reader.limit or 0, default=None)

    def _counts(self, reader: Counter, texts: Sequence[str]) -> list[int]:
        """Numbers of tokens. A CLIP takes `a` as one token, so an added word counts as so many of it."""
        for word, tokens in self.added.items():
            texts = [text.replace(word, " a" * tokens + " ") for text in texts]
        return reader.counts(texts)

    def _unknown(
        self, field: str, kind: str, names: Sequence[str], known: Collection[str], most: int
    ) -> Iterable[Problem]:
        """A problem for each of the first names that the model does not know."""
        model, takes = shown(self.config.model), listed(known, most)
        for name in names[:TOLD]:
            message = f"got {kind}{shown(name)}, which {model} does not know{nearest(name, known)}; it knows: {takes}"
            yield Problem(field, plain(message, 800), subject=name)
        if more := names[TOLD:]:
            yield Problem(field, f"got {len(more):,} more that {model} does not know")
