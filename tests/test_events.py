import numpy as np
import pytest

from hf_sed.events import (
    AnnotationError,
    Event,
    events_to_targets,
    merge_overlapping,
    read_annotations,
    scores_to_events,
    tags_to_targets,
    write_annotations,
)

LABELS = ["Cat", "Dog"]


def test_onset_is_rounded_down_and_offset_up():
    targets = events_to_targets([Event("Dog", 0.07, 0.13)], LABELS, 10, 0.064)
    assert targets[:, 1].tolist() == [0, 1, 1] + [0] * 7
    assert targets[:, 0].sum() == 0


def test_times_on_a_frame_border_do_not_spill_over():
    # 0.64 / 0.064 is 10.000000000000002 in floating point for some products of decimals.
    for i in range(1, 150):
        targets = events_to_targets([Event("Cat", i * 0.064, (i + 1) * 0.064)], LABELS, 156, 0.064)
        assert np.flatnonzero(targets[:, 0]).tolist() == [i]


def test_events_beyond_the_end_are_cut_and_overlaps_joined():
    events = [Event("Cat", 0.5, 9.0), Event("Cat", 0.4, 0.6), Event("Dog", 2.0, 3.0)]
    targets = events_to_targets(events, LABELS, 10, 0.1)
    assert targets[:, 0].tolist() == [0] * 4 + [1] * 6
    assert targets[:, 1].sum() == 0
    assert targets.max() == 1


def test_a_clip_without_events_gives_zeros():
    assert not events_to_targets([], LABELS, 5, 0.1).any()
    assert scores_to_events(np.zeros((5, 2)), LABELS, 0.1) == []


def test_decoding_inverts_encoding_on_the_frame_grid():
    events = [Event("Cat", 0.2, 0.5), Event("Dog", 0.3, 0.9), Event("Cat", 0.7, 0.8)]
    decoded = scores_to_events(events_to_targets(events, LABELS, 10, 0.1), LABELS, 0.1)
    assert [(e.label, pytest.approx(e.onset), pytest.approx(e.offset)) for e in events] == [
        (e.label, e.onset, e.offset) for e in decoded
    ]
    assert all(e.score == 1.0 for e in decoded)


def test_a_score_at_the_threshold_is_not_active_and_thresholds_are_per_class():
    scores = np.array([[0.5, 0.5]])
    assert scores_to_events(scores, LABELS, 0.1, 0.5) == []
    assert [e.label for e in scores_to_events(scores, LABELS, 0.1, [0.6, 0.4])] == ["Dog"]


def test_offsets_are_cut_at_the_duration():
    assert scores_to_events(np.ones((3, 2)), LABELS, 0.5, duration=1.2)[0].offset == 1.2


def test_weak_targets():
    assert tags_to_targets(["Dog"], LABELS).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"label": "Dog", "onset": 2.0, "offset": 1.0}, "does not come after"),
        ({"label": "Dog", "onset": -1.0, "offset": 1.0}, "negative"),
        ({"label": "Dog", "onset": float("nan"), "offset": 1.0}, "finite"),
        ({"label": "Dog", "onset": 1.0}, "no offset"),
        ({"label": "Bird", "onset": 0.0, "offset": 1.0}, "not one of the classes"),
    ],
)
def test_bad_events_are_named(event, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        events_to_targets([event], LABELS, 10, 0.1, where="clip 7")
    assert "clip 7" in str(caught.value)


def test_merging_joins_events_of_one_class_only():
    merged = merge_overlapping([Event("a", 0, 2), Event("a", 1, 3), Event("b", 2, 4), Event("a", 3, 4)])
    assert merged == [Event("a", 0, 4), Event("b", 2, 4)]


def test_annotation_files_round_trip(tmp_path):
    events = {"x.wav": [Event("Dog", 0.25, 1.5), Event("Cat", 1.0, 2.0)], "empty.wav": []}
    write_annotations(tmp_path / "a.tsv", events)
    assert read_annotations(tmp_path / "a.tsv").events == events


def test_weak_annotation_files(tmp_path):
    (tmp_path / "w.tsv").write_text("filename\tevent_labels\nx.wav\tDog,Cat\ny.wav\t\n")
    assert read_annotations(tmp_path / "w.tsv").tags == {"x.wav": ["Dog", "Cat"], "y.wav": []}


def test_nan_rows_state_clips_without_events(tmp_path):
    (tmp_path / "s.tsv").write_text("filename\tonset\toffset\tevent_label\nx.wav\tnan\tNaN\tnan\n")
    assert read_annotations(tmp_path / "s.tsv").events == {"x.wav": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filename\tonset\tevent_label\nx.wav\t0\tDog\n", "column offset is missing"),
        ("filename\tonset\toffset\tevent_label\nx.wav\t3\t2\tDog\n", "row 2: offset 2.0 does not come after"),
        (
            "filename\tonset\toffset\tevent_label\nx.wav\t0\t1\tDog\nx.wav\t-1\t2\tDog\n",
            "row 3: onset -1.0 is negative",
        ),
        ("filename\tonset\toffset\tevent_label\nx.wav\tsoon\t2\tDog\n", "row 2: onset 'soon' is not a number"),
        ("", "column filename, onset, offset, event_label is missing"),
    ],
)
def test_bad_annotation_files_name_file_and_row(tmp_path, content, message):
    path = tmp_path / "bad.tsv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(path)
    assert "bad.tsv" in str(caught.value)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tsv"):
        read_annotations(tmp_path / "none.tsv")
