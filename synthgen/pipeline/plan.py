"""The stage that plans: every recorded round becomes shards of jobs."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice

from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.planning.jobs import plan_round
from synthgen.planning.rounds import first_round


def plan_shards(build: Build) -> None:
    """Writes the shards of every recorded round. In a new folder, records the first round before."""
    run, spec, inputs = build.run, build.spec, build.inputs("plan")
    assert inputs is not None  # planning reads no other stage
    if not build.rounds():
        run.rounds.write(1, asdict(first_round(spec)))
    end = 0
    for round in build.rounds():
        shards = range(end, end + build.shards_of(round))
        end = shards.stop
        missing = {shard for shard in shards if not run.marks.is_done("plan", shard, inputs)}
        if not missing:
            continue
        jobs = plan_round(spec, run.number, round, build.stages.generator.aspect_ratios())
        for shard in shards:  # existing shards are planned too: a job's choices depend on the jobs before it
            of_shard = list(islice(jobs, spec.shard_size))
            if shard in missing:
                run.marks.commit(
                    "plan", shard, inputs, [run.tables.write_jobs(shard, of_shard)],
                    counts={"images": len(of_shard), "round": round.number}, environment=asdict(round),
                )  # fmt: skip


def add_round(build: Build) -> bool:
    """Records a further round to replace what judging rejected. False if nothing is missing or the budget is spent."""
    round = build.next_round(build.quality())
    if round:
        build.run.rounds.write(round.number, asdict(round))
    return round is not None


def shard_of(build: Build, image_id: int) -> int:
    """The shard of an image.

    Raises:
        RunError: the run has no image of that id.
    """
    for shard in build.run.marks.shards():
        ids = build.run.tables.read(build.run.paths.table("jobs", shard)).column("image_id").to_pylist()
        if image_id in ids:
            return shard
    raise RunError(f"no image of {build.run.root} has the id {image_id}")
