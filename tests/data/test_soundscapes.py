import json

import numpy as np
import pytest
import soundfile
from datasets import load_dataset, load_from_disk

from hf_sed.audio import load_audio
from hf_sed.data import sound_bank
from hf_sed.data.soundscapes import (
    Recording,
    SoundscapeSettings,
    active_parts,
    compose,
    compose_scene,
    compose_to_disk,
    loop_to_length,
    read_recordings,
    settings_from,
    split_pools,
)

RATE = 8000
SETTINGS = SoundscapeSettings(duration=3.0, sampling_rate=RATE, events=(1, 4), event_length=(0.1, 2.0))
SIZES = {"strong": 4, "weak": 3, "unlabelled": 5, "validation": 2}


@pytest.fixture(scope="module")
def pools():
    return split_pools(read_recordings(None, bank_sources=10), labelled_sources=3)


def test_the_bank_has_clearly_different_classes_that_repeat_exactly():
    assert len(sound_bank.LABELS) >= 6
    for label in (*sound_bank.LABELS, sound_bank.BACKGROUND):
        for number in range(30):
            samples = sound_bank.synthesise(label, number, RATE)
            assert np.isfinite(samples).all()
            assert 0.5 < np.abs(samples).max() <= 1
        assert np.array_equal(sound_bank.synthesise(label, 1, RATE), sound_bank.synthesise(label, 1, RATE))
        assert not np.array_equal(
            sound_bank.synthesise(label, 1, RATE)[:1000], sound_bank.synthesise(label, 2, RATE)[:1000]
        )


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(tmp_path):
    folders = []
    for processes in (1, 2):
        folders.append(tmp_path / str(processes))
        compose_to_disk(folders[-1], None, SIZES, SETTINGS, seed=5, num_proc=processes)
    files = sorted(p.relative_to(folders[0]) for p in folders[0].rglob("*.arrow"))
    assert len(files) == 4
    for file in files:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    other = compose(None, SIZES, SETTINGS, seed=6)
    assert other["strong"][0]["audio"]["bytes"] != load_from_disk(str(folders[0]))["strong"][0]["audio"]["bytes"]


def test_no_source_crosses_splits(pools):
    names = list(pools)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not pools[a].sources & pools[b].sources
    scenes = compose(None, SIZES, SETTINGS, seed=1)
    used = {split: {s for row in d["source"] for s in row.split("; ")} for split, d in scenes.items()}
    assert not (used["strong"] | used["weak"]) & used["unlabelled"]
    assert not (used["strong"] | used["weak"] | used["unlabelled"]) & used["validation"]


def test_events_are_where_their_labels_say(pools):
    """Outside the labels there is the background at its level, inside an event 30 dB above it."""
    settings = SoundscapeSettings(
        duration=3.0,
        sampling_rate=RATE,
        events=(2, 3),
        event_to_background_db=(30.0, 30.0),
        background_dbfs=(-60.0, -60.0),
    )
    row = compose_scene(7, pools["labelled"], settings)
    samples = load_audio(row["audio"], RATE)
    assert len(samples) == 3 * RATE
    parts = [slice(round(e["onset"] * RATE), round(e["offset"] * RATE)) for e in row["events"]]
    inside = np.zeros(len(samples), dtype=bool)
    for part in parts:
        inside[part] = True
    assert parts
    assert np.sqrt((samples[~inside] ** 2).mean()) == pytest.approx(1e-3, rel=0.3)
    for part in parts:
        assert np.sqrt((samples[part] ** 2).mean()) == pytest.approx(1e-3 * 10 ** (30 / 20), rel=0.5)


def test_polyphony_and_gaps_between_events_of_a_class(pools):
    settings = SoundscapeSettings(
        duration=5.0, sampling_rate=RATE, events=(6, 9), max_polyphony=2, event_length=(0.1, 3.0)
    )
    most = 0
    for number in range(25):
        events = compose_scene(number, pools["labelled"], settings)["events"]
        for t in np.arange(0, 5, 0.01):
            active = [e["label"] for e in events if e["onset"] <= t < e["offset"]]
            assert len(active) == len(set(active)) <= 2
            most = max(most, len(active))
    assert most == 2


def test_a_clip_says_only_what_its_kind_knows():
    scenes = compose(None, SIZES, SETTINGS, seed=1)
    assert all(row["events"] and {e["label"] for e in row["events"]} == set(row["tags"]) for row in scenes["strong"])
    assert all(not row["events"] and row["tags"] for row in scenes["weak"])
    assert all(not row["events"] and not row["tags"] for row in scenes["unlabelled"])
    assert {k: set(d["kind"]) for k, d in scenes.items()} == {
        "strong": {"strong"}, "weak": {"weak"}, "unlabelled": {"unlabelled"}, "validation": {"strong"},
    }  # fmt: skip


def test_scenes_survive_parquet_and_disk_without_torchcodec(tmp_path):
    scenes = compose(None, {"strong": 3}, SETTINGS, seed=1)["strong"]
    scenes.to_parquet(tmp_path / "s.parquet")
    loaded = load_dataset("parquet", data_files=str(tmp_path / "s.parquet"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.features["events"] == scenes.features["events"]
    assert loaded[1]["events"] == scenes[1]["events"]
    assert loaded[1]["audio"]["bytes"] == scenes[1]["audio"]["bytes"]
    assert len(load_audio(loaded[1]["audio"], RATE)) == 3 * RATE


def test_active_parts_are_found_by_energy():
    burst = np.zeros(2 * RATE, dtype=np.float32)
    burst[4000:8000] = 0.5
    burst[13000:15000] = 0.5

    class Fixed(Recording):
        def load(self, sampling_rate):
            return burst

    assert active_parts(Fixed("x", "fixed"), RATE) == ((4000, 8000), (12960, 15040))
    assert active_parts(Fixed("x", "fixed"), RATE, active_gap=1.0) == ((4000, 15040),)


def test_a_silent_recording_is_named(tmp_path):
    soundfile.write(tmp_path / "mute.wav", np.zeros(RATE), RATE)
    with pytest.raises(ValueError, match=r"mute\.wav: is silent"):
        active_parts(Recording("x", "mute", tmp_path / "mute.wav"), RATE)


def test_loops_keep_level_and_length():
    noise = np.random.default_rng(0).standard_normal(RATE)
    looped = loop_to_length(noise, 5 * RATE, 400)
    assert looped.shape == (5 * RATE,)
    levels = np.sqrt((looped.reshape(-1, 400) ** 2).mean(1))
    assert levels.min() > 0.8
    assert levels.max() < 1.25


def make_folder(root, classes=("Cat", "Dog", "background"), count=10):
    rng = np.random.default_rng(0)
    for label in classes:
        (root / label).mkdir(parents=True)
        for i in range(count):
            soundfile.write(root / label / f"{i}.wav", 0.3 * rng.standard_normal(RATE), RATE)
    return root


def test_a_folder_of_classes_composes(tmp_path):
    scenes = compose(make_folder(tmp_path / "r"), SIZES, SETTINGS)
    assert {t for row in scenes["strong"]["tags"] for t in row} <= {"Cat", "Dog"}


def test_composing_again_loads_and_other_settings_are_refused(tmp_path):
    first = compose_to_disk(tmp_path / "s", None, {"strong": 2}, SETTINGS)
    again = compose_to_disk(tmp_path / "s", None, {"strong": 2}, SETTINGS)
    assert first["strong"][1]["audio"]["bytes"] == again["strong"][1]["audio"]["bytes"]
    with pytest.raises(FileExistsError, match="other settings"):
        compose_to_disk(tmp_path / "s", None, {"strong": 3}, SETTINGS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not overwrite")
    with pytest.raises(FileExistsError, match="not empty"):
        compose_to_disk(tmp_path / "full", None, {"strong": 2}, SETTINGS)
    assert json.loads((tmp_path / "s" / "composition.json").read_text())["sizes"] == {"strong": 2}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file\tlabel\nx.wav\tDog\n", "column source is missing"),
        ("file\tlabel\tsource\nx.wav\tDog\ta\n", r"row 2: .*x\.wav does not exist"),
        ("file\tlabel\tsource\n", "lists no recording"),
        ("file\tlabel\tsource\tsplit\nDog/0.wav\tDog\ta\ttest\n", "split 'test'"),
        ("file\tlabel\tsource\tsplit\nDog/0.wav\tDog\ta\ttrain\nDog/1.wav\tDog\ta\tval\n", "both splits"),
    ],
)
def test_bad_tables_are_explained(tmp_path, table, message):
    root = make_folder(tmp_path / "r", ("Dog",), 2)
    (root / "recordings.tsv").write_text(table)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_recordings(root)


def test_too_few_sources_and_no_background_are_explained(tmp_path):
    with pytest.raises(ValueError, match="train sources"):
        split_pools(read_recordings(make_folder(tmp_path / "r")), labelled_sources=20)
    with pytest.raises(ValueError, match="background"):
        compose(make_folder(tmp_path / "n", ("Cat", "Dog")), SIZES, SETTINGS)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_recordings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown split"):
        compose(None, {"test": 3})


def test_settings_are_checked():
    assert settings_from({"events": [1, 2]}).events == (1, 2)
    with pytest.raises(ValueError, match="must not be larger"):
        SoundscapeSettings(events=(4, 1))
    with pytest.raises(TypeError):
        settings_from({"polyphony": 2})
