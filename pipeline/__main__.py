"""The ``vae`` command, or ``python -m pipeline``."""

from __future__ import annotations

import argparse
import warnings

from pipeline.inference.arguments import parser
from pipeline.runtime.main import run
from pipeline.runtime.progress import announce

# torch and pandas take seconds to import: help, usage errors and `vae info` do without them.


def start(args: argparse.Namespace) -> None:
    """Runs the given command; a missing or damaged model is reported before slow imports."""
    if args.command == "compare":
        from pipeline.studies.compare import compare

        compare(args.runs, args.html)
        return
    from pipeline.models.metadata import read_header, weights_of

    header = read_header(weights_of(args.model))
    if args.command == "info":
        from pipeline.inference.info import info

        print(info(args.model, header), end="")
        return
    announce(f"loading {args.model}", in_logs=False)
    import pipeline
    from pipeline.inference import commands

    warnings.filterwarnings("ignore", message="no pixel is above")  # the image reader reports it as a note
    getattr(commands, args.command)(pipeline.load(args.model), args)


def main() -> None:
    run(lambda: start(parser().parse_args()))


if __name__ == "__main__":
    main()
