"""`python -m tests.components [--minor 1.31]`: build what is missing, or say that all is there."""

import argparse
import time

from tests.components import build, recipes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.components", description=__doc__)
    minors = sorted({r.minor for r in recipes.RECIPES}, reverse=True)
    parser.add_argument("--minor", default=recipes.MINOR, choices=minors, help="Kubernetes minor (%(default)s)")
    wanted = recipes.of_minor(parser.parse_args().minor)
    started = time.monotonic()
    build.ensure(wanted)
    for recipe in wanted:
        names = sorted(f.name for f in recipe.home.iterdir())
        build.say(f"{recipe.product} {recipe.version}: {', '.join(names)}")
    build.say(f"components ready in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
