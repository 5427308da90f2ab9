from collections import Counter

import numpy as np
import pytest
import torch

from hf_sed.audio import encode_audio
from hf_sed.data.batches import QuotaBatchSampler, SedClips, collate_clips
from hf_sed.data.schema import dataset_from_rows, make_row
from hf_sed.events import Event
from tests.conftest import LABELS, tiny_config

SIZES, QUOTAS = {"strong": 10, "weak": 7, "unlabelled": 23}, {"strong": 2, "weak": 3, "unlabelled": 4}


def batches(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_batch_has_the_quotas():
    sampler = QuotaBatchSampler(SIZES, QUOTAS, seed=1)
    assert len(sampler) == 2  # 7 weak clips, 3 a batch
    assert sampler.batch_size == 9
    for epoch in range(3):
        for batch in batches(sampler, epoch):
            assert Counter(source for source, _, _ in batch) == QUOTAS


def test_every_clip_is_seen_once_before_any_is_seen_twice():
    sampler = QuotaBatchSampler(SIZES, QUOTAS, seed=1)
    seen = [
        index
        for epoch in range(20)
        for batch in batches(sampler, epoch)
        for source, index, _ in batch
        if source == "unlabelled"
    ]
    for cycle in range(len(seen) // 23):
        assert sorted(seen[cycle * 23 : (cycle + 1) * 23]) == list(range(23))


def test_batches_depend_on_seed_and_epoch_alone():
    one, two = QuotaBatchSampler(SIZES, QUOTAS, seed=1), QuotaBatchSampler(SIZES, QUOTAS, seed=1)
    batches(one, 0)
    assert batches(one, 4) == batches(two, 4)
    assert batches(one, 4) != batches(one, 5)
    assert batches(one, 4) != batches(QuotaBatchSampler(SIZES, QUOTAS, seed=2), 4)


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"strong": 11}, "it has 10"),
        ({"Strong": 1}, "names the source 'Strong'"),
        ({"weak": 0}, "at least 1"),
        ({}, "empty"),
    ],
)
def test_impossible_quotas_are_explained(quotas, message):
    with pytest.raises(ValueError, match=message):
        QuotaBatchSampler(SIZES, quotas)


def clip(seconds, kind="strong", events=(), tags=None, rate=8000):
    samples = np.linspace(-1, 1, round(seconds * rate)).astype(np.float32)
    return make_row({"bytes": encode_audio(samples, rate), "path": "a.wav"}, seconds, kind, "test", events, tags)


def test_masks_say_what_a_clip_knows():
    rows = [clip(2, events=[Event("Bark", 0.5, 1.0)]), clip(2, "weak", tags=["Knock"]), clip(2, "unlabelled")]
    batch = collate_clips([SedClips({"all": dataset_from_rows(rows)}, tiny_config())[i] for i in range(3)])
    assert batch["strong_mask"].tolist() == [1, 0, 0]
    assert batch["weak_mask"].tolist() == [0, 1, 0]
    assert batch["groups"].tolist() == [0, 1, 2]
    assert batch["weak_targets"].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert batch["strong_targets"].shape == (3, tiny_config().num_frames(16000), 3)
    assert "attention_mask" not in batch


def test_clips_of_different_length_are_padded_and_masked():
    clips = SedClips({"all": dataset_from_rows([clip(2), clip(1, events=[Event("Bark", 0.5, 1.0)])])}, tiny_config())
    batch = collate_clips([clips[0], clips[1]])
    assert batch["attention_mask"].sum(1).tolist() == [16000, 8000]
    assert not batch["input_values"][1, 8000:].any()
    assert not batch["strong_targets"][1, tiny_config().num_frames(8000) :].any()


def test_long_clips_are_cropped_with_their_events_and_repeatably():
    config = tiny_config()
    clips = SedClips(
        {"all": dataset_from_rows([clip(6, events=[Event("Bark", 2.0, 4.0)])])}, config, max_seconds=2.0, seed=3
    )
    ramp = 2 / (6 * 8000 - 1)
    crops = set()
    for draw in range(8):
        item = clips["all", 0, draw]
        assert len(item["input_values"]) == 16000
        start = round((float(item["input_values"][0]) + 1) / ramp) / 8000
        crops.add(round(start, 2))
        active = np.flatnonzero(item["strong_targets"][:, LABELS.index("Bark")])
        overlap = max(min(start + 2, 4.0) - max(start, 2.0), 0)
        assert abs(len(active) * config.frame_hop - overlap) <= 2 * config.frame_hop
        assert torch.equal(
            torch.from_numpy(item["input_values"]), torch.from_numpy(clips["all", 0, draw]["input_values"])
        )
    assert len(crops) > 4


def test_bad_data_is_named():
    with pytest.raises(ValueError, match="source 'all' has no clips"):
        SedClips({"all": dataset_from_rows([clip(1)]).select([])}, tiny_config())
    with pytest.raises(ValueError, match="clip 0: label 'Cow'"):
        SedClips({"all": dataset_from_rows([clip(1, "weak", tags=["Cow"])])}, tiny_config())
    with pytest.raises(ValueError, match="lacks the column events"):
        SedClips({"all": dataset_from_rows([clip(1)]).remove_columns("events")}, tiny_config())
    broken = clip(1)
    broken["audio"] = {"bytes": b"garbage", "path": "field_3.wav"}
    with pytest.raises(ValueError, match=r"source 'all', clip 0 \(field_3\.wav\): cannot be decoded"):
        SedClips({"all": dataset_from_rows([broken])}, tiny_config())[0]
