"""Build a dataset as a Prefect flow: run it here, or deploy it to your own Prefect server.

python flows/build_dataset.py specs/quickstart.yaml          # one run, here and now
python flows/build_dataset.py specs/quickstart.yaml --serve  # a deployment, started from the Prefect UI or API
"""

import argparse

from synthgen.base.files import expand_home
from synthgen.flow import build_dataset, build_here
from synthgen.pipeline.request import BuildRequest
from synthgen.schedule import build_next
from synthgen.store.location import is_url

__all__ = ["build_dataset", "build_next"]  # what `prefect.yaml` deploys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=expand_home)
    parser.add_argument("--out", default="outputs", help="folder of run folders, or its URL in an object store")
    parser.add_argument("--run", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help="wait for runs that are started elsewhere")
    args = parser.parse_args()
    if args.serve:
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():  # Prefect would start one that lets in everybody on this machine
            parser.error("--serve needs a Prefect server of yours: set PREFECT_API_URL")
        out = args.out if is_url(args.out) else str(expand_home(args.out).resolve())
        parameters = {"spec": str(args.spec.resolve()), "out": out, "run": args.run}
        build_dataset.serve(name=args.spec.stem, parameters=parameters, pause_on_shutdown=False)
    else:
        build_here(BuildRequest(args.spec, args.out, args.run))


if __name__ == "__main__":
    main()
