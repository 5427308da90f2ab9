"""The main job, end to end, on sounds that the package synthesises itself: no network, no recordings, two CPU cores.

Scenes are composed, a detector is trained twice from the same few labels (supervised only, and with the unlabelled
clips), the two are compared, and the better-informed one detects the events of a scene that neither training nor
validation has seen. Everything is left in runs/quickstart.
"""

from pathlib import Path

import hf_sed
from hf_sed.audio import load_audio
from hf_sed.data.soundscapes import compose_scene, read_recordings, settings_from, split_pools
from hf_sed.inference.plots import plot_events
from hf_sed.training.compare import format_table, run_comparison
from hf_sed.training.recipe import load_recipe


def main() -> None:
    recipe = load_recipe(Path(__file__).with_name("quickstart.yaml"))
    result = run_comparison(recipe, resume=True, disable_tqdm=True)
    semi_supervised = result["runs"][-1]

    # A new scene from the validation sources: the split's name is part of its seed, so no other scene is like it.
    values = recipe.data.compose
    pool = split_pools(read_recordings(None), values["labelled_sources"], values["seed"])["validation"]
    scene = compose_scene(
        0, pool, settings_from({**values["settings"], "events": [3, 4]}), seed=values["seed"], split="test"
    )
    detect = hf_sed.pipeline("sound-event-detection", model=semi_supervised["model"])
    events = detect(scene["audio"])

    waveform = load_audio(scene["audio"], 16000)
    picture = recipe.run_dir / "events.png"
    plot_events(waveform, 16000, events, scene["events"], title="A scene never seen: detected and true events").savefig(
        picture, dpi=110
    )
    (recipe.run_dir / "scene.wav").write_bytes(scene["audio"]["bytes"])

    stage1, *rows = result["rows"]
    clips = ", ".join(f"{count} {name}" for name, count in semi_supervised["clips"].items())
    print(
        f"\nClips of {values['settings']['duration']:g} s: {clips}; {semi_supervised['validation_clips']} to validate on."
    )
    print(
        f"Both rows start from the same model, trained on the labelled clips to PSDS1 {stage1['psds1']['mean']:.3f}:\n"
    )
    print(format_table(rows))
    print("\nEvents of a scene never seen:")
    for name, found in (("detected", events), ("true", scene["events"])):
        for event in found:
            score = f"   score {event['score']:.2f}" if "score" in event else ""
            print(f"  {name:<9} {event['label']:<10} {event['onset']:5.2f} s to {event['offset']:5.2f} s{score}")
    print(
        f"\nPicture: {picture}\nNumbers, seeds and settings: {recipe.run_dir / 'results.json'}\nModel: {semi_supervised['model']}"
    )


if __name__ == "__main__":
    main()
