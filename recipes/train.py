"""What `accelerate launch recipes/train.py RECIPE` runs: the same as `hf-sed train RECIPE`, on as many processes as are launched."""

import sys

from hf_sed.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
