"""`make crash`: every point of every scenario. Exit status 1 where one of them was not recovered from."""

import sys
import time
from collections import Counter

from tests.crash import scenarios
from tests.crash.explore import Count

_EVERY = 500  # states between two lines of progress
_SHOWN = 20


def main() -> int:
    """Explores all of it, says what was found, and ends with the count."""
    whole = Count()
    for scenario in scenarios.ALL:
        print(f"{scenario} …", flush=True)
        found = scenarios.explored(scenario, progress=_progress)
        print(
            f"  {found.points} points in {found.states} states, {found.seconds:.0f} s, {found.restarts} started twice"
        )
        whole.add(found)
    for problem, times in Counter(one.partition("\n  after")[0] for one in whole.problems).most_common(_SHOWN):
        print(f"{times} times: {problem}")
        print("  first after", next(one for one in whole.problems if one.startswith(problem)).partition("\n  after")[2])
    good = whole.points if not whole.problems else 0
    print(f"{good} of {whole.points} points, {whole.states} states, {whole.runs} runs, {whole.seconds:.0f} s")
    return 1 if whole.problems else 0


def _progress(done: int, left: int) -> None:
    if done % _EVERY == 0:
        print(f"  {time.strftime('%H:%M:%S')} {done} states done, {left} known to follow", flush=True)


if __name__ == "__main__":
    sys.exit(main())
