"""Every case of ../shared/metrics_cases: the reference's numbers, or, where the reference raises, what we do instead."""

import csv
import gzip
import json

import numpy as np
import pytest

from hf_sed.metrics import (
    PSDS1,
    PSDS2,
    PsdsSettings,
    collar_f1,
    intersection_f1,
    mean_average_precision,
    partial_auroc,
    psds,
    psds_of_operating_points,
    segment_f1,
)
from tests.conftest import SHARED

SETTINGS = {
    "psds1": PSDS1,
    "psds2": PSDS2,
    "psds1_maxefpr2000": PsdsSettings(0.7, 0.7, e_max=2000),
    "psds2_maxefpr2000": PsdsSettings(0.1, 0.1, 0.3, 0.5, 1.0, 2000),
    "psds_dtc.5_gtc.5_ct0_st0": PsdsSettings(0.5, 0.5, alpha_st=0.0),
    "psds_dtc.5_gtc.5_cttc.3_ct1_st0": PsdsSettings(0.5, 0.5, 0.3, 1.0, 0.0),
}
REFUSED = {  # cases that we refuse, and how
    "edge_clip_missing_in_scores": "clip 'b' has a duration but no scores",
    "edge_nan_score": "clip 'a', class 'x': NaN score",
    "edge_negative_length_event": "clip 'a': offset 2.0 does not come after onset 5.0",
    "edge_unknown_label": "clip 'a': label 'q' is not one of the classes",
    "edge_zero_length_clip": "clip 'z': duration 0.0",
    "edge_zero_length_event": "clip 'a': offset 1.0 does not come after onset 1.0",
    "edge_zero_length_frame": "clip 'z': duration 0.0",
}
FOLDER = SHARED / "metrics_cases"
CASES = sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) if FOLDER.is_dir() else []
SCORE_CASES = [c for c in CASES if (FOLDER / c / "scores.npz").is_file()]


def table(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def clip_name(filename):
    return filename.rsplit(".", 1)[0]


def load(folder):
    truth = {}
    for row in table(folder / "ground_truth.tsv"):
        events = truth.setdefault(clip_name(row["filename"]), [])
        if row["event_label"]:
            events.append((float(row["onset"]), float(row["offset"]), row["event_label"]))
    durations = {clip_name(r["filename"]): float(r["duration"]) for r in table(folder / "durations.tsv")}
    return truth, durations, json.loads((folder / "expected.json").read_text())


def load_scores(folder):
    arrays = np.load(folder / "scores.npz")
    names = [k[2:] for k in arrays.files if k.startswith("s/")]
    classes = [str(c) for c in arrays["classes"]]
    return {n: arrays[f"s/{n}"] for n in names}, {n: arrays[f"t/{n}"] for n in names}, classes


def events_of(rows):
    out = {}
    for row in rows:
        out.setdefault(clip_name(row["filename"]), []).append(
            (float(row["onset"]), float(row["offset"]), row["event_label"])
        )
    return out


def test_the_reference_cases_are_there(shared):
    assert len(CASES) == 42
    assert len(SCORE_CASES) == 37


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", SCORE_CASES)
def test_score_case(case):
    truth, durations, expected = load(FOLDER / case)
    scores, borders, classes = load_scores(FOLDER / case)
    inputs = (truth, durations, classes, borders)
    if case in REFUSED:
        for function in (psds, intersection_f1, collar_f1, segment_f1, mean_average_precision, partial_auroc):
            with pytest.raises(ValueError, match=REFUSED[case]):
                function(scores, *inputs)
        return
    h, reference = expected["expected"]["threshold"], expected["expected"]["sed_scores_eval"]
    for name, settings in SETTINGS.items():
        result = psds(scores, *inputs, settings)
        if "value" in reference[name]:
            assert result.value == pytest.approx(reference[name]["value"], abs=1e-9), name
            assert result.per_class == pytest.approx(reference[name]["per_class"], abs=1e-9), name
    for name, function in {
        "intersection_f1": intersection_f1,
        "collar_f1": collar_f1,
        "segment_f1": segment_f1,
    }.items():
        f1 = function(scores, *inputs, threshold=h)
        if "macro_f" in reference[name]:
            assert f1.macro == pytest.approx(reference[name]["macro_f"], abs=1e-12), name
            assert f1.micro == pytest.approx(reference[name]["micro_f"], abs=1e-12), name
            for label, values in reference[name]["per_class"].items():
                assert f1.per_class[label] == pytest.approx(values, abs=1e-12), (name, label)
    for name, function in {"intersection_best_f1": intersection_f1, "collar_best_f1": collar_f1}.items():
        best = function(scores, *inputs, threshold="best")
        if "f" in reference[name]:
            assert best.macro == pytest.approx(reference[name]["f"]["macro_average"], abs=1e-12), name
            assert best.micro == pytest.approx(reference[name]["f"]["micro_average"], abs=1e-12), name
            assert (
                function(scores, *inputs, threshold=[best.thresholds.get(c, 1.0) for c in classes]).per_class
                == best.per_class
            )
    for name, function in {
        "segment_map": lambda: mean_average_precision(scores, *inputs, segment=1.0),
        "segment_auroc": lambda: partial_auroc(scores, *inputs, max_fpr=1.0),
        "segment_pauroc_maxfpr.1": lambda: partial_auroc(scores, *inputs),
    }.items():
        if "mean" in reference[name] and np.isfinite(float(reference[name]["mean"])):
            result = function()
            assert {**result.per_class, "mean": result.value} == pytest.approx(reference[name], abs=1e-9), name


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("case", "like"),
    [
        ("edge_class_without_gt", "edge_class_without_gt_dropped"),
        ("edge_overlap_same_class", "edge_overlap_same_class_merged"),
    ],
)
def test_what_we_do_where_the_reference_raises(case, like, shared):
    truth, durations, _ = load(FOLDER / case)
    scores, borders, classes = load_scores(FOLDER / case)
    other = load(FOLDER / like)[2]["expected"]["sed_scores_eval"]
    assert psds(scores, truth, durations, classes, borders).value == pytest.approx(other["psds1"]["value"], abs=1e-9)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_worked_examples_of_the_psds_paper(number, shared):
    folder = FOLDER / f"detections_icassp_example_{number}"
    truth, durations, expected = load(folder)
    reference = expected["expected"]["psds_eval"]
    classes = reference["classes"]
    found = events_of(table(folder / "detections.tsv"))
    for name, settings in {
        "psds_ct0_st0_max100": PsdsSettings(0.5, 0.5, 0.3, 0.0, 0.0, 100),
        "psds_ct.5_st0_max1000": PsdsSettings(0.5, 0.5, 0.3, 0.5, 0.0, 1000),
        "psds_ct1_st1_max1000": PsdsSettings(0.5, 0.5, 0.3, 1.0, 1.0, 1000),
    }.items():
        value = psds_of_operating_points([found], truth, durations, classes, settings).value
        assert value == pytest.approx(reference[name], abs=1e-9), name
    f1 = intersection_f1(found, truth, durations, classes)
    for label, value in reference["macro_f"][1].items():
        if value != "nan":  # psds_eval drops a class of which nothing is found; here it counts as 0
            assert f1.per_class[label]["f"] == pytest.approx(value, abs=1e-12)


def test_fifty_operating_points(shared):
    folder = FOLDER / "ops_desed_student_90clips"
    truth, durations, expected = load(folder)
    points = {}
    for row in table(folder / "operating_points.tsv.gz"):
        points.setdefault(float(row["threshold"]), []).append(row)
    lists = [events_of(rows) for _, rows in sorted(points.items(), reverse=True)]
    for name, reference in expected["expected"]["psds_eval"].items():
        result = psds_of_operating_points(lists, truth, durations, expected["classes"], SETTINGS[name])
        assert result.value == pytest.approx(reference["value"], abs=1e-6), name
        assert result.per_class == pytest.approx(reference["per_class"], abs=1e-6), name


def test_the_dcase_2021_baseline(shared):
    folder = FOLDER / "detections_desed_student_full"
    truth, durations, expected = load(folder)
    found = events_of(table(folder / "detections.tsv"))
    inputs = (found, truth, durations, expected["classes"])
    reference = expected["expected"]
    segments = segment_f1(*inputs)
    for label, value in reference["sed_eval"]["segment_based_1s"]["per_class_f"].items():
        assert segments.per_class[label]["f"] == pytest.approx(value, abs=1e-9), label
    # sed_eval compares raw floats: one event of Dishes that lies on its collar to the microsecond is outside for it.
    collars = collar_f1(*inputs)
    for label, value in reference["sed_eval"]["event_based"]["per_class_f"].items():
        row = collars.per_class[label]
        one_event = 2 / (row["tp"] + row["fp"] + row["n_ref"])
        assert row["f"] == pytest.approx(value + (one_event if label == "Dishes" else 0.0), abs=1e-9), label
    f1 = intersection_f1(*inputs)
    assert f1.macro == pytest.approx(reference["psds_eval"]["intersection_f1"]["macro_f_nanmean"], abs=1e-9)
