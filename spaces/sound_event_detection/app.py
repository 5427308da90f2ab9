"""Sound event detection demo. Set MODEL_ID to the hub id, or the folder, of a detector saved by hf_sed."""

import os

from hf_sed.sharing.space import build_demo

demo = build_demo(os.environ["MODEL_ID"])

if __name__ == "__main__":
    demo.launch(ssr_mode=False)
