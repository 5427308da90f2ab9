"""Published checkpoints: the reference's numbers from files in the authors' layouts, and what is refused."""

import importlib.util
import json
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoModel

import hf_sed
from hf_sed.cli import main
from hf_sed.models.conversion import convert_checkpoint, convert_tensors


@pytest.fixture(scope="session")
def rules(shared):
    """The rules behind the parity fixtures."""
    spec = importlib.util.spec_from_file_location("parity_rules", shared / "parity" / "rules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", ["atst", "fpasst", "beats", "mn", "atstsed"])
def test_the_reference_is_met(name, shared, rules, tmp_path):
    manifest = json.loads((shared / "parity" / f"{name}.json").read_text())["manifest"]
    expected = np.load(shared / "parity" / f"{name}.npz")
    state = {key: torch.from_numpy(rules.fill(key, tuple(shape))) for key, shape in dict(manifest).items()}
    torch.save({"sed_teacher": state, "sed_student": {}} if name == "atstsed" else state, tmp_path / "published.pt")
    assert main(["convert", str(tmp_path / "published.pt"), str(tmp_path / "ours")]) == 0
    (tmp_path / "published.pt").unlink()
    del state
    last = None
    for kind in (None,) if name == "mn" else ("eager", "sdpa"):  # there is no attention in mn
        model = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path / "ours", attn_implementation=kind)
        for i, seed in enumerate((1, 2)):
            x = torch.from_numpy(rules.clip(seed))[None]
            with torch.no_grad():
                out, spectrograms = model(x), model.model.spectrograms(x)
                features = model.model.front_end.scale(spectrograms.values[0])
            mel = features[0].T.numpy()[::4, ::10]
            if name == "atstsed":
                branch = model.model.cnn_front_end.scale(spectrograms.values[1])[0].T.numpy()[::4, ::10]
                assert np.abs(mel - expected["atst_mel"][i].reshape(mel.shape)).max() < 1e-4
                assert np.abs(branch - expected["cnn_mel"][i].reshape(branch.shape)).max() < 1e-4
                strong = out.logits[0].sigmoid().T.numpy()[:, ::3]
                assert relative(strong, expected["strong_probs"][i]) < 2e-3
                assert relative(out.clip_probabilities[0].numpy(), expected["weak_probs"][i]) < 2e-3
                continue
            assert np.abs(mel - expected["mel"][i].reshape(mel.shape)).max() < 1e-4
            with torch.no_grad():
                frames = model.model.backbone(features).last_hidden_state[0].numpy()
            assert relative(frames[::5, ::8], expected["frames"][i]) < 2e-3
            assert relative(out.logits[0].T.numpy()[::6, ::5], expected["strong_logits"][i]) < 2e-3
            weak = torch.logit(out.clip_probabilities[0]).numpy()[::3]
            assert relative(weak, expected["weak_logits"][i]) < 2e-3
        last = (model, x, out.logits)
    model, x, logits = last
    model.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        again = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path / "again")(x).logits
    assert torch.equal(again, logits)
    assert model.config.labels[0] == ("Alarm_bell_ringing" if name == "atstsed" else "Accelerating, revving, vroom")


@pytest.fixture(scope="module")
def yamnet(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("yamnet")
    convert_checkpoint(shared / "weights" / "yamnet.safetensors", folder / "detector")
    return hf_sed.SedForAudioFrameClassification.from_pretrained(folder / "detector")


def test_yamnet_gives_the_reference_scores(yamnet, shared, rules):
    expected = np.load(shared / "parity" / "yamnet.npz")
    for i, seed in enumerate((1, 2)):
        x = torch.from_numpy(rules.clip(seed))[None]
        features = yamnet.model.front_end.scale(yamnet.model.spectrograms(x).values[0])
        assert np.abs(features[0].numpy()[::10, ::4] - expected["log_mel"][i]).max() < 1e-4
        with torch.no_grad():
            maps = yamnet.model.backbone(features, output_hidden_states=True).hidden_states
            patches = yamnet(x[0].unfold(0, 15600, 7680))  # 0.96 s every 0.48 s
        for layer, step in ((6, np.s_[::16, ::5]), (12, np.s_[::16, ::3]), (14, np.s_[::16])):
            assert relative(maps[layer - 1][0].numpy()[step], expected[f"layer{layer}"][i]) < 2e-3
        assert relative(patches.clip_probabilities.numpy(), expected["patch_scores"][i]) < 2e-3
        assert relative(patches.embeddings.mean(1).numpy()[:, ::8], expected["patch_embedding"][i]) < 2e-3


# The class's branch of the AudioSet ontology: a chainsaw is a light engine, rain is water, a helicopter a vehicle.
FAMILIES = {
    "Dog": {"Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)", "Domestic animals, pets"},
    "Rooster": {"Livestock, farm animals, working animals", "Chicken, rooster", "Crowing, cock-a-doodle-doo", "Fowl"},
    "Baby_cry": {"Baby cry, infant cry", "Crying, sobbing", "Whimper", "Wail, moan"},
    "Rain": {"Rain", "Raindrop", "Rain on surface", "Water", "Stream", "Waterfall"},
    "Chainsaw": {"Chainsaw", "Power tool", "Lawn mower", "Light engine (high frequency)", "Engine"},
    "Helicopter": {
        "Helicopter",
        "Aircraft",
        "Aircraft engine",
        "Propeller, airscrew",
        "Fixed-wing aircraft, airplane",
        "Vehicle",
    },
}


def test_yamnet_names_real_recordings(yamnet, shared):
    """The family among the three most probable tags of the mean over the recording's patches, as YAMNet is used. (The class
    itself, or its direct kin, is there for three quarters of them.)"""
    import pandas as pd

    table = pd.read_csv(shared / "recordings" / "recordings.tsv", sep="\t")
    right, total = dict.fromkeys(FAMILIES, 0), dict.fromkeys(FAMILIES, 0)
    for row in table[table["label"].isin(FAMILIES)].itertuples():
        x = torch.from_numpy(hf_sed.load_audio(shared / "recordings" / row.file, 16000))
        x = torch.nn.functional.pad(x, (0, max(15600 - len(x), 0)))
        with torch.no_grad():
            scores = yamnet(x.unfold(0, 15600, 7680)).clip_probabilities.mean(0)
        best = {yamnet.config.id2label[int(k)] for k in scores.topk(3).indices}
        right[row.label] += bool(best & FAMILIES[row.label])
        total[row.label] += 1
    assert min(total.values()) > 20
    assert sum(right.values()) / sum(total.values()) >= 0.8
    assert min(right[label] / total[label] for label in FAMILIES) > 0.65


# --- Without the shared files -----------------------------------------------------------------------------------------


def published_atst(prefix: str = "", norm: str = "norm_frame") -> dict[str, torch.Tensor]:
    """A small ATST-Frame (64 wide, 2 layers) under its authors' names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "mask_embed": (1, 1, 64), "pos_embed": (1, 51, 64), "patch_embed.patch_embed.weight": (64, 256),
        "patch_embed.patch_embed.bias": (64,), f"{norm}.weight": (64,), f"{norm}.bias": (64,),
    }  # fmt: skip
    for i in range(2):
        shapes |= {f"blocks.{i}.attn.qkv.weight": (192, 64)}
        for name, shape in {
            "norm1": (64,), "norm2": (64,), "attn.proj": (64, 64), "mlp.fc1": (128, 64), "mlp.fc2": (64, 128)
        }.items():  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return {prefix + k: 0.1 * torch.randn(*s, generator=generator) for k, s in shapes.items()}


LAYOUTS = {
    "self-supervised": ("model.teacher.encoder.", "norm", {"cls_token": (1, 1, 64)}),
    "clip-to-frame": ("encoder.encoder.frame_encoder.", "norm_frame", {}),
    "fine-tuned": ("encoder.encoder.", "norm_frame", {}),
    "PretrainedSED ssl": ("model.atst.", "norm_frame", {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_atst_frame_is_the_same_encoder(layout, tmp_path):
    prefix, norm, extra = LAYOUTS[layout]
    state = published_atst(prefix, norm) | {prefix + k: torch.zeros(s) for k, s in extra.items()}
    if layout == "clip-to-frame":
        state["encoder.encoder.teacher_module.blocks.0.norm1.weight"] = torch.zeros(64)
    torch.save({"state_dict": state}, tmp_path / "published.ckpt")
    convert_checkpoint(tmp_path / "published.ckpt", tmp_path / "ours")
    converted = AutoModel.from_pretrained(tmp_path / "ours")
    assert isinstance(converted, hf_sed.AtstModel)
    reference = convert_tensors(published_atst(), "bare").tensors
    assert all(torch.equal(value, reference[key]) for key, value in converted.state_dict().items())
    model = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path / "ours", labels=["a"])
    with torch.no_grad():
        assert model(torch.zeros(1, 16000)).logits.shape == (1, 25, 1)


def test_student_and_teacher_of_a_lightning_checkpoint(tmp_path):
    both = {
        f"sed_{who}.{k}": v + i for i, who in enumerate(("student", "teacher")) for k, v in published_atst().items()
    }
    torch.save({"state_dict": both, "epoch": 3}, tmp_path / "last.ckpt")
    for who, offset in (("student", 0), ("teacher", 1)):
        convert_checkpoint(tmp_path / "last.ckpt", tmp_path / who, network=who)
        weights = AutoModel.from_pretrained(tmp_path / who).state_dict()
        assert torch.equal(weights["norm.bias"], published_atst()["norm_frame.bias"] + offset)


def test_microsofts_beats_with_its_settings_and_old_weight_norm(tmp_path):
    from hf_sed.models.beats.convert_beats import _LAYER

    torch.manual_seed(0)
    config = hf_sed.BeatsConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_positions=8,
        conv_position_groups=2, relative_buckets=32, relative_max_distance=50, deep_norm=False,
    )  # fmt: skip
    ours = hf_sed.BeatsModel(config).eval()
    weights, published = ours.state_dict(), {}
    for kind in ("weight", "bias"):
        for a, b in {
            "layer_norm": "patch_norm",
            "post_extract_proj": "projection",
            "encoder.layer_norm": "norm",
        }.items():
            published[f"{a}.{kind}"] = weights[f"{b}.{kind}"]
        for i in range(2):
            for theirs, name in _LAYER.items():
                published[f"encoder.layers.{i}.{theirs}.{kind}"] = weights[f"layers.{i}.{name}.{kind}"]
    for i in range(2):
        layer = f"encoder.layers.{i}.self_attn"
        published[f"{layer}.grep_a"] = weights[f"layers.{i}.attention.gate_scale"]
        published[f"{layer}.relative_attention_bias.weight"] = weights["relative_bias.weight"]
    direction = weights["conv_positions.weight"]
    published["encoder.pos_conv.0.weight_g"] = direction.norm(dim=(0, 1), keepdim=True)
    published["encoder.pos_conv.0.weight_v"] = 3 * direction
    published["encoder.pos_conv.0.bias"] = weights["conv_positions.bias"]
    published["patch_embedding.weight"] = weights["patch_embedding.weight"]
    settings = {"max_distance": 50, "deep_norm": False, "encoder_layers": 2}
    torch.save({"cfg": settings, "model": published}, tmp_path / "BEATs.pt")
    convert_checkpoint(tmp_path / "BEATs.pt", tmp_path / "ours")
    converted = AutoModel.from_pretrained(tmp_path / "ours")
    x = torch.randn(1, 96, 128)
    with torch.no_grad():
        assert torch.allclose(converted(x).last_hidden_state, ours(x).last_hidden_state, atol=1e-5)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.save({"a.weight": torch.zeros(2)}, p), r"none of the known layouts.*a\.weight"),
        (lambda p: torch.save([1, 2], p), "holds a list"),
        (lambda p: torch.save({"epoch": 3}, p), "holds no tensors"),
        (lambda p: p.write_bytes(b"not a checkpoint at all"), "without executing code|cannot be read"),
        (lambda p: p.write_bytes(pickle.dumps({"x": Malicious()})), "without executing code"),
        (lambda p: torch.save({"x": Malicious()}, p), "would have to execute code"),
        (lambda p: (torch.save(published_atst(), p), p.write_bytes(p.read_bytes()[:5000])), "cannot be read"),
        (lambda p: torch.save({k: v for k, v in published_atst().items() if "fc2" not in k}, p), "lacks parts"),
        (lambda p: torch.save(published_atst() | {"blocks.1.norm1.weight": torch.zeros(3)}, p), "of a known size"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused_and_nothing_written(make, message, tmp_path, capsys):
    make(tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / "file.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "executed" not in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "file.pt"), str(tmp_path / "out")]) == 2
    assert "file.pt" in capsys.readouterr().err


def test_a_truncated_safetensors_file_and_an_existing_folder(tmp_path):
    from safetensors.torch import save_file

    save_file(published_atst(), tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds a model already"):
        convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "out")
    (tmp_path / "a.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert_checkpoint(tmp_path / "none.pt", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def small_yamnet_variables() -> dict[str, np.ndarray]:
    """Three layers and two classes under YAMNet's Keras names."""
    rng = np.random.default_rng(0)
    shapes = {"layer1/conv/kernel": (3, 3, 1, 32), "logits/kernel": (128, 2), "logits/bias": (2,)}
    sizes = [32, 64, 128]
    for number in (2, 3):
        shapes[f"layer{number}/depthwise_conv/depthwise_kernel"] = (3, 3, sizes[number - 2], 1)
        shapes[f"layer{number}/pointwise_conv/kernel"] = (1, 1, sizes[number - 2], sizes[number - 1])
    for name, shape in list(shapes.items()):
        if "/conv/" in name or "pointwise" in name or "depthwise" in name:
            channels = shape[2] if "depthwise" in name else shape[3]
            for key in ("beta", "moving_mean", "moving_variance"):
                shapes[f"{name.rsplit('/', 1)[0]}/bn/{key}"] = (channels,)
    return {k: np.abs(rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}


def test_keras_files_hold_the_same_variables(tmp_path):
    h5py = pytest.importorskip("h5py")
    from safetensors.numpy import save_file

    from hf_sed.models.conversion import read_checkpoint

    variables = small_yamnet_variables()
    save_file(variables, tmp_path / "yamnet.safetensors")
    with h5py.File(tmp_path / "yamnet.h5", "w") as file:
        for name, value in variables.items():
            group = name.split("/")[0]
            file[f"{group}/{name}:0"] = value  # Keras repeats the layer's name
    ours, theirs = (read_checkpoint(tmp_path / f"yamnet.{suffix}") for suffix in ("h5", "safetensors"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    with pytest.raises(ValueError, match=r"yamnet\.h5: "):
        convert_checkpoint(tmp_path / "yamnet.h5", tmp_path / "out")  # three layers are no YAMNet
