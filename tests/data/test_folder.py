import numpy as np
import pytest
import soundfile

import hf_sed
from hf_sed.data.desed import LABELS, LAYOUT
from hf_sed.events import AnnotationError

RATE = 8000


@pytest.fixture
def folder(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(3):
        soundfile.write(audio / f"{i}.wav", 0.1 * np.sin(np.arange(2 * RATE)), RATE)
    return audio


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_strong_weak_and_unlabelled_folders(folder, tmp_path):
    strong = hf_sed.load_annotated_folder(
        folder,
        write(
            tmp_path / "s.tsv",
            "filename\tonset\toffset\tevent_label\n0.wav\t0.5\t1\tDog\n0.wav\t0\t0.2\tCat\n1.wav\t\t\t\n",
        ),
    )
    assert strong["kind"] == ["strong", "strong"]
    assert strong[0]["events"] == [
        {"label": "Cat", "onset": 0.0, "offset": 0.2},
        {"label": "Dog", "onset": 0.5, "offset": 1.0},
    ]
    assert strong[0]["tags"] == ["Cat", "Dog"]
    assert strong[1]["events"] == []
    assert strong["duration"] == [2.0, 2.0]
    weak = hf_sed.load_annotated_folder(folder, write(tmp_path / "w.tsv", "filename\tevent_labels\n2.wav\tDog\n"))
    assert weak[0]["tags"] == ["Dog"]
    unlabelled = hf_sed.load_annotated_folder(folder)
    assert len(unlabelled) == 3
    assert unlabelled.features == strong.features
    assert len(hf_sed.load_audio(unlabelled[0]["audio"], RATE)) == 2 * RATE


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("9.wav\t0\t1\tDog\n", r"first is 9\.wav"),
        ("0.wav\t0\t1\tBird\n", "clip 0.wav: label 'Bird'"),
        ("0.wav\t3\t4\tDog\n", r"onset 3\.0 s lies beyond its end"),
        ("", "lists no clip"),
    ],
)
def test_bad_annotations_are_explained(folder, tmp_path, rows, message):
    table = write(tmp_path / "bad.tsv", "filename\tonset\toffset\tevent_label\n" + rows)
    with pytest.raises((AnnotationError, FileNotFoundError), match=message):
        hf_sed.load_annotated_folder(folder, table, labels=["Dog", "Cat"])


def test_missing_files_can_be_skipped_with_a_count(folder, tmp_path):
    table = write(tmp_path / "s.tsv", "filename\tonset\toffset\tevent_label\n0.wav\t0\t1\tDog\n9.wav\t0\t1\tDog\n")
    with pytest.warns(UserWarning, match="1 of 2 files"):
        assert len(hf_sed.load_annotated_folder(folder, table, missing_files="skip")) == 1


def test_empty_and_absent_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        hf_sed.load_annotated_folder(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no audio file"):
        hf_sed.load_annotated_folder(tmp_path / "empty")


def test_desed_layout(tmp_path):
    for split, (audio, metadata) in LAYOUT.items():
        if split in ("public", "synthetic_validation"):
            continue
        folder = tmp_path / (audio + "_16k" if split == "weak" else audio)
        folder.mkdir(parents=True)
        soundfile.write(folder / "Yabc_0_10.wav", np.zeros(RATE) + 0.1, RATE)
        if metadata:
            weak = split == "weak"
            write(
                tmp_path / metadata,
                "filename\tevent_labels\nYabc_0_10.wav\tSpeech,Dog\n"
                if weak
                else "filename\tonset\toffset\tevent_label\nYabc_0_10.wav\t0\t0.5\tCat\n",
            )
    parts = hf_sed.load_desed(tmp_path)
    assert {name: d["kind"][0] for name, d in parts.items()} == {
        "strong": "strong", "synthetic": "strong", "weak": "weak", "unlabelled": "unlabelled", "validation": "strong",
    }  # fmt: skip
    assert parts["weak"][0]["tags"] == ["Dog", "Speech"]
    assert len(LABELS) == 10
    (tmp_path / LAYOUT["weak"][1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"weak\.tsv are not"):
        hf_sed.load_desed(tmp_path)
    with pytest.raises(FileNotFoundError, match="no part of DESED"):
        hf_sed.load_desed(tmp_path / "audio" / "train")
