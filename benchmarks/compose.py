"""Time to compose ten-second scenes from the embedded bank, or from a folder of recordings.

python benchmarks/compose.py --scenes 1000 --num-proc 2 [--recordings FOLDER]
"""

from __future__ import annotations

import argparse
import time

from hf_sed.data.soundscapes import compose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--recordings")
    options = parser.parse_args()
    print("| scenes of 10 s | recordings | processes | seconds |\n|---|---|---|---|")
    for processes in sorted({1, options.num_proc}):
        start = time.perf_counter()
        compose(options.recordings, {"unlabelled": options.scenes}, num_proc=processes)
        seconds = time.perf_counter() - start
        print(f"| {options.scenes} | {options.recordings or 'embedded bank'} | {processes} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
