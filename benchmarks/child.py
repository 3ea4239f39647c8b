"""One contender, one topic, in a process of its own: `python -m benchmarks.child NAME '{"bootstrap": ...}'`.

Prints one line of JSON: the measurement, or {"absent": why} when the contender is not installed.
"""

from __future__ import annotations

import json
import sys

# kio imports hypothesis where it is installed, as it is here for the tests: 13 MB that a user's environment does not have.
sys.modules["hypothesis"] = None  # type: ignore[assignment]

from benchmarks.contenders import PYTHON, Work  # noqa: E402
from benchmarks.meter import Meter, peak_rss_bytes  # noqa: E402


def main() -> None:
    name, order = sys.argv[1], json.loads(sys.argv[2])
    if name == "bare":
        print(json.dumps({"peak_rss_bytes": peak_rss_bytes()}))
        return
    meter = Meter(order["count"], order["warmup"], order["limit_s"])
    try:
        PYTHON[name](Work(order["bootstrap"], order["topic"], order["partitions"]), meter)
    except ImportError as error:
        print(json.dumps({"absent": f"not built or not installed ({type(error).__name__}: {error.name})"}))
        return
    print(json.dumps(meter.result()))


if __name__ == "__main__":
    main()
