"""What must hold for any scores and any ground truth."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sed.events import Event, events_to_targets
from hf_sed.metrics import PSDS1, PSDS2, PsdsAccumulator, PsdsSettings, collar_f1, counts, intersection_f1, psds

CLASSES = ["a", "b", "c"]
HOP, FRAMES = 0.25, 16
SETTINGS = st.sampled_from(
    [
        PSDS1,
        PSDS2,
        PsdsSettings(0.7, 0.7, e_max=5000),
        PsdsSettings(0.1, 0.1, 0.3, 0.5, 1.0, 5000),
        PsdsSettings(0.5, 0.5, 0.3, 1.0, 0.0, 5000),
    ]
)


@st.composite
def sets(draw):
    """A few clips with quantised scores (many ties) and disjoint events; every class has an event."""
    clips = draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores, truth = {}, {}
    for i in range(clips):
        scores[f"clip {i}"] = rng.integers(0, 6, (FRAMES, 3)) / 5
        truth[f"clip {i}"] = []
        for label in CLASSES:
            if i == 0 or rng.random() < 0.6:
                first = int(rng.integers(0, FRAMES - 3))
                last = first + int(rng.integers(1, FRAMES - first))
                truth[f"clip {i}"].append(Event(label, first * HOP, last * HOP))
    return scores, truth, dict.fromkeys(scores, FRAMES * HOP)


def value(scores, truth, durations, s, classes=CLASSES, hop=HOP):
    return psds(scores, truth, durations, classes, hop, s).value


@given(sets(), SETTINGS)
@settings(max_examples=60, deadline=None)
def test_order_of_clips_and_classes_does_not_matter(data, s):
    scores, truth, durations = data
    expected = value(*data, s)
    backwards = {clip: scores[clip] for clip in reversed(scores)}
    assert abs(value(backwards, truth, durations, s) - expected) < 1e-12
    order = [2, 0, 1]
    turned = {clip: array[:, order] for clip, array in scores.items()}
    assert abs(value(turned, truth, durations, s, [CLASSES[k] for k in order]) - expected) < 1e-12


@given(sets(), SETTINGS, st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_another_unit_of_time_changes_only_the_rate_limit(data, s, factor):
    scores, truth, durations = data
    stretched = {c: [Event(e.label, e.onset * factor, e.offset * factor) for e in es] for c, es in truth.items()}
    longer = {c: d * factor for c, d in durations.items()}
    limit = PsdsSettings(s.dtc, s.gtc, s.cttc, s.alpha_ct, s.alpha_st, s.e_max / factor)
    assert abs(value(scores, stretched, longer, limit, hop=HOP * factor) - value(*data, s)) < 1e-9


@given(sets(), SETTINGS)
@settings(max_examples=40, deadline=None)
def test_a_perfect_detector_scores_one(data, s):
    _, truth, durations = data
    perfect = {clip: events_to_targets(events, CLASSES, FRAMES, HOP) for clip, events in truth.items()}
    assert abs(value(perfect, truth, durations, s) - 1) < 1e-9
    for function in (intersection_f1, collar_f1):
        assert function(perfect, truth, durations, CLASSES, HOP, threshold=0.5).macro == 1


@given(sets(), SETTINGS, st.integers(0, 2), st.sampled_from([0.2, 0.6, 1.0]))
@settings(max_examples=60, deadline=None)
def test_a_false_positive_never_raises_psds_of_a_class(data, s, k, score):
    """In a clip without events. The variance penalty may reward a worse class, so each class is looked at alone."""
    scores, truth, durations = data
    quiet = {**scores, "quiet": np.zeros((FRAMES, 3))}
    longer = {**durations, "quiet": FRAMES * HOP}
    before = psds(quiet, truth, longer, CLASSES, HOP, s)
    quiet["quiet"][5, k] = score
    after = psds(quiet, truth, longer, CLASSES, HOP, s)
    for label in CLASSES:
        assert after.per_class[label] <= before.per_class[label] + 1e-12


@given(sets(), SETTINGS)
@settings(max_examples=40, deadline=None)
def test_boxes_and_frames_agree_where_they_say_the_same(data, s):
    """One detection for each event and class, at one confidence, given as frames and as boxes."""
    scores, truth, durations = data
    boxes, frames = {}, {}
    for clip, array in scores.items():
        boxes[clip] = []
        frames[clip] = np.zeros_like(array)
        for k, label in enumerate(CLASSES):
            confidence = array[3, k]
            if confidence > 0:
                frames[clip][2:9, k] = confidence
                boxes[clip].append(Event(label, 2 * HOP, 9 * HOP, confidence))
    # Frames also detect the whole clip at thresholds below 0; that costs each class one false positive at most.
    for clip in frames:
        frames[clip][frames[clip] == 0] = -np.inf
    assert abs(psds(boxes, truth, durations, CLASSES, None, s).value - value(frames, truth, durations, s)) < 1e-12


@given(sets(), st.sampled_from([0.1, 0.5, 0.7]))
@settings(max_examples=40, deadline=None)
def test_the_best_threshold_is_at_least_as_good_as_any(data, threshold):
    scores, truth, durations = data
    for function in (intersection_f1, collar_f1):
        best = function(scores, truth, durations, CLASSES, HOP, threshold="best")
        some = function(scores, truth, durations, CLASSES, HOP, threshold=threshold)
        for label in CLASSES:
            assert best.per_class[label]["f"] >= some.per_class[label]["f"] - 1e-12
        again = function(scores, truth, durations, CLASSES, HOP, threshold=list(best.thresholds.values()))
        assert again.macro == best.macro


@given(sets(), SETTINGS, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_clips_spread_over_two_processes_give_the_same_value(data, s, share):
    scores, truth, durations = data
    parts = [dict(list(scores.items())[share::]), dict(list(scores.items())[:share])]
    accumulators = [PsdsAccumulator(truth, durations, CLASSES, (s,)) for _ in parts]
    for accumulator, part in zip(accumulators, parts, strict=True):
        for clip, array in part.items():
            accumulator.add({clip: array}, HOP)
    accumulators[0].merge(pickle.loads(pickle.dumps(accumulators[1])))
    assert abs(accumulators[0].results()[0].value - value(*data, s)) < 1e-12


@given(st.integers(0, 2**32 - 1), st.sampled_from([20.0, 100.0, 400.0, 1500.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_closing_stretches_of_thresholds_changes_nothing(seed, e_max, cross):
    """With no room at all stretches close after every clip, in two processes that see different ones."""
    rng = np.random.default_rng(seed)
    truth, durations, scores = {}, {}, {}
    for i in range(10):
        clip = f"clip {i}"
        scores[clip] = np.clip(rng.normal(rng.uniform(0, 0.6), 0.25, (FRAMES, 3)), 0, 1)
        durations[clip] = FRAMES * HOP
        truth[clip] = [
            Event(label, a * HOP, (a + 5) * HOP)
            for label in CLASSES
            for a in rng.integers(0, 10, 1)
            if rng.random() < 0.5
        ]
    truth["clip 0"] = [Event(label, 0.5, 2.0) for label in CLASSES]
    s = PsdsSettings(0.1, 0.1, 0.3, 0.5, 1.0, e_max) if cross else PsdsSettings(0.7, 0.7, e_max=e_max)
    expected = psds(scores, truth, durations, CLASSES, HOP, s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "_MOST_STORED", 0)
        accumulators = [PsdsAccumulator(truth, durations, CLASSES, (s,)) for _ in range(2)]
        for i, (clip, array) in enumerate(scores.items()):
            accumulators[i % 2].add({clip: array}, HOP)
        accumulators[0].merge(accumulators[1])
    result = accumulators[0].results()[0]
    assert abs(result.value - expected.value) < 1e-12
    assert all(abs(result.per_class[c] - expected.per_class[c]) < 1e-12 for c in CLASSES)
