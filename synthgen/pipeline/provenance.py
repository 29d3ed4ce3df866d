"""What the images of a run tell of where they come from."""

from __future__ import annotations

from collections.abc import Callable

from synthgen.base.xmp import Origin
from synthgen.pipeline.build import Build
from synthgen.pipeline.licences import public_name
from synthgen.types import Job


def packets(build: Build) -> Callable[[Job], bytes]:
    """What gives the XMP packet of a job's image."""
    system, version = ai_system(build)
    generator, with_prompt = build.stages.generator, build.spec.provenance.prompt

    def packet(job: Job) -> bytes:
        prompt = _prompt(job) if with_prompt else ""
        return Origin(generator.digital_source_type(job), system, version, prompt).packet()

    return packet


def ai_system(build: Build) -> tuple[str, str]:
    """The models that make a run's images, and their exact weights. A generator without models has its own name, and
    no version."""
    used = [m for key, m in build.models.items() if key == "generator" or key.startswith("generator.of.")]
    names = [public_name(str(m["model"])) for m in used if m.get("model")]
    return ", ".join(names) or build.spec.generator.use, ", ".join(str(m["weights"]) for m in used)


def _prompt(job: Job) -> str:
    return job.prompt + (f"\nNegative prompt: {job.negative_prompt}" if job.negative_prompt else "")
