import warnings

import numpy as np
import pytest

from hf_sed.events import Event, active_runs
from hf_sed.metrics import (
    PSDS1,
    PSDS2,
    PsdsSettings,
    intersection_f1,
    psds,
)
from hf_sed.metrics.runs import max_tree

CLASSES = ["x", "y"]


def small_set(seed=0, clips=6, frames=25, hop=0.2):
    rng = np.random.default_rng(seed)
    scores, truth = {}, {}
    for i in range(clips):
        array, events = rng.uniform(0, 0.6, (frames, 2)).round(1), []
        for k, label in enumerate(CLASSES):
            if rng.random() < 0.8:
                on = int(rng.integers(0, 15))
                off = on + int(rng.integers(2, 8))
                events.append(Event(label, on * hop, off * hop))
                array[on:off, k] = np.clip(rng.normal(0.7, 0.2, off - on), 0, 1).round(1)
        scores[f"c{i}"], truth[f"c{i}"] = array, events
    return scores, truth, dict.fromkeys(scores, frames * hop), hop


def brute_force(scores, truth, durations, hop, s):
    """PSDS from its definition: detections listed anew at every threshold."""
    hours = sum(durations.values()) / 3600
    total = {c: sum(e.offset - e.onset for es in truth.values() for e in es if e.label == c) / 3600 for c in CLASSES}
    curves = []
    for k, c in enumerate(CLASSES):
        thresholds = sorted({v for a in scores.values() for v in a[:, k]}, reverse=True)
        n_ref, points = sum(e.label == c for es in truth.values() for e in es), [(0.0, 0.0)]
        for h in thresholds:
            tp = fp = ct = 0.0
            for clip, array in scores.items():
                detections = [(a * hop, b * hop) for a, b in active_runs(array[:, k] >= h)]

                def share(d, label, clip=clip):
                    inside = sum(
                        max(0, min(d[1], e.offset) - max(d[0], e.onset)) for e in truth[clip] if e.label == label
                    )
                    return round(inside, 9), d[1] - d[0]

                relevant = [d for d in detections if share(d, c)[0] >= s.dtc * share(d, c)[1] - 1e-9]
                for d in detections:
                    if d in relevant:
                        continue
                    fp += 1
                    for o in CLASSES:
                        if o != c and share(d, o)[0] >= s.cttc * share(d, o)[1] - 1e-9:
                            ct += 1 / total[o]
                for e in truth[clip]:
                    if e.label == c:
                        covered = sum(max(0, min(d[1], e.offset) - max(d[0], e.onset)) for d in relevant)
                        tp += covered >= s.gtc * (e.offset - e.onset) - 1e-9
            points.append((fp / hours + s.alpha_ct * ct, tp / n_ref))
        curves.append(points)
    grid = sorted({x for points in curves for x, _ in points if x <= s.e_max})

    def at(points, x):
        return max(y for e, y in points if e <= x)

    area = 0.0
    for x, end in zip(grid, [*grid[1:], s.e_max], strict=True):
        rates = np.array([at(points, x) for points in curves])
        area += (end - x) * max(rates.mean() - s.alpha_st * rates.std(), 0)
    return area / s.e_max


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [PsdsSettings(0.7, 0.7, e_max=3000), PsdsSettings(0.1, 0.1, 0.3, 0.5, 1.0, 3000)])
def test_psds_equals_its_definition(seed, settings):
    scores, truth, durations, hop = small_set(seed)
    assert psds(scores, truth, durations, CLASSES, hop, settings).value == pytest.approx(
        brute_force(scores, truth, durations, hop, settings), abs=1e-9
    )


def test_every_detection_is_a_run_and_every_run_a_detection():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, (12, 4)) / 5.0
    first, stop, appears, ends = max_tree(scores)
    for column in range(4):
        for h in np.arange(-0.1, 1.0, 0.05):
            expected = set(active_runs(scores[:, column] > h))
            alive = (appears[:, column] > h) & (ends[:, column] <= h)
            assert {
                (int(a), int(b)) for a, b in zip(first[alive, column], stop[alive, column], strict=True)
            } == expected


def test_a_perfect_detector_scores_one():
    _, truth, durations, hop = small_set()
    from hf_sed.events import events_to_targets

    scores = {clip: events_to_targets(events, CLASSES, 25, hop) for clip, events in truth.items()}
    for settings in (PSDS1, PSDS2):
        assert psds(scores, truth, durations, CLASSES, hop, settings).value == pytest.approx(1.0)


def test_order_of_clips_and_classes_and_a_false_positive():
    scores, truth, durations, hop = small_set(2)
    settings = PsdsSettings(0.7, 0.7, e_max=3000)
    value = psds(scores, truth, durations, CLASSES, hop, settings).value
    reverse = dict(reversed(scores.items()))
    assert psds(reverse, truth, durations, CLASSES, hop, settings).value == pytest.approx(value, abs=1e-12)
    swapped = {clip: array[:, ::-1] for clip, array in scores.items()}
    assert psds(swapped, truth, durations, CLASSES[::-1], hop, settings).value == pytest.approx(value, abs=1e-12)
    empty = {**scores, "quiet": np.zeros((25, 2))}
    longer = {**durations, "quiet": 5.0}
    before = psds(empty, truth, longer, CLASSES, hop, settings).value
    empty["quiet"][3, 0] = 1.0
    assert psds(empty, truth, longer, CLASSES, hop, settings).value <= before


def test_no_detection_at_all_scores_zero():
    scores, truth, durations, hop = small_set()
    for value in (-np.inf, 0.0):
        assert psds({c: np.full_like(a, value) for c, a in scores.items()}, truth, durations, CLASSES, hop).value == 0.0


def test_one_class_has_no_cross_triggers():
    scores, truth, durations, hop = small_set()
    one = {clip: array[:, :1] for clip, array in scores.items()}
    only = {clip: [e for e in events if e.label == "x"] for clip, events in truth.items()}
    assert 0 <= psds(one, only, durations, ["x"], hop, PSDS2).value <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t, d: s["c0"].__setitem__((3, 1), np.nan), "clip 'c0', class 'y': NaN"),
        (lambda s, t, d: s["c0"].__setitem__((3, 1), 4.2), "clip 'c0': .*not logits"),
        (lambda s, t, d: s.pop("c1"), "clip 'c1' has a duration but no scores"),
        (lambda s, t, d: d.pop("c1"), "clip 'c1' has .* but no duration"),
        (lambda s, t, d: t["c2"].append(Event("z", 0, 1)), "clip 'c2': label 'z'"),
        (lambda s, t, d: t["c2"].append((1.0, 1.0, "x")), "clip 'c2': offset 1.0"),
        (lambda s, t, d: s.__setitem__("c0", s["c0"][:, :1]), r"clip 'c0': scores of shape \(25, 1\)"),
        (lambda s, t, d: d.__setitem__("c0", 0.0), "clip 'c0': duration 0.0"),
    ],
)
def test_bad_input_names_clip_and_class(change, message):
    scores, truth, durations, hop = small_set()
    change(scores, truth, durations)
    with pytest.raises(ValueError, match=message):
        psds(scores, truth, durations, CLASSES, hop)


def test_borders_must_increase():
    scores, truth, durations, _ = small_set()
    with pytest.raises(ValueError, match="frame borders"):
        psds(scores, truth, durations, CLASSES, {clip: np.zeros(26) for clip in scores})


def test_overlapping_ground_truth_is_joined_with_a_warning():
    scores, truth, durations, hop = small_set()
    first = truth["c0"][0]
    twice = {**truth, "c0": [*truth["c0"], Event(first.label, first.onset, first.offset + 0.4)]}
    joined = {**truth, "c0": [Event(first.label, first.onset, first.offset + 0.4), *truth["c0"][1:]]}
    with pytest.warns(UserWarning, match="1 ground-truth events overlapped"):
        value = psds(scores, twice, durations, CLASSES, hop).value
    assert value == psds(scores, joined, durations, CLASSES, hop).value


def test_intersection_f1_by_hand():
    truth = {"a": [Event("x", 0, 2), Event("y", 1, 2)], "b": [Event("x", 3, 4)]}
    found = {"a": [Event("x", 0.5, 2.4), Event("y", 4, 5)], "b": []}
    result = intersection_f1(found, truth, {"a": 10.0, "b": 10.0}, CLASSES)
    assert result.per_class["x"] == {"f": pytest.approx(2 / 3), "p": 1.0, "r": 0.5, "tp": 1, "fp": 0, "n_ref": 2}
    assert result.per_class["y"]["f"] == 0  # a class with events of which none is found counts
    assert result.macro == pytest.approx(1 / 3)
    assert result.micro == pytest.approx(2 * 1 / (1 + 1 + 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert intersection_f1({}, truth, {"a": 10.0, "b": 10.0}, CLASSES).macro == 0


def test_forgetting_what_is_out_of_range_changes_nothing(monkeypatch):
    """With the memory bound at nothing, counts are compacted after every chunk."""
    from hf_sed.metrics import counts, runs

    scores, truth, durations, hop = small_set(5, clips=9)
    rng = np.random.default_rng(0)
    scores = {clip: np.clip(array + rng.uniform(-0.05, 0.05, array.shape), 0, 1) for clip, array in scores.items()}
    cases = [PsdsSettings(0.7, 0.7, e_max=e) for e in (50, 200, 1000)] + [PsdsSettings(0.1, 0.1, 0.3, 0.5, 1.0, 500)]
    expected = [psds(scores, truth, durations, CLASSES, hop, s) for s in cases]
    monkeypatch.setattr(counts, "_MOST_STORED", 0)
    monkeypatch.setattr(runs, "_CHUNK", 1)
    for s, whole in zip(cases, expected, strict=True):
        bounded = psds(scores, truth, durations, CLASSES, hop, s)
        assert bounded.value == pytest.approx(whole.value, abs=1e-12)
        assert bounded.per_class == pytest.approx(whole.per_class, abs=1e-12)
