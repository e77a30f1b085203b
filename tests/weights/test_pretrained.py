"""Files of each format, written by the project that it belongs to (fixtures/make_pretrained.py)."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import convnext
from configs import convnextv2
from convnext import ConvNeXt
from convnext.data import imagenet
from convnext.errors import InputError
from convnext.weights import formats, locate, model_config, pretrained

FOLDER = Path(__file__).parents[1] / "fixtures" / "pretrained"
SOURCES = sorted(path.name for path in FOLDER.iterdir() if path.name != "references.npz")
# What from_pretrained must find out, beside depths (1, 2, 1, 1) and dims (4, 6, 8, 12).
V2 = dict(use_grn=True, layer_scale_init_value=None)
FIELDS = {
    "isotropic.pth": dict(
        depths=(2,), dims=(12,), patch_size=16, stem_norm=False, layer_scale_init_value=None
    ),
    "isotropic_gamma.pth": dict(depths=(2,), dims=(12,), patch_size=16, stem_norm=False),
    "official_fcmae.pt": dict(V2, num_classes=None),
    "official_v1.pth": {},
    "official_v2.pt": V2,
    "timm_convnext_atto": {},
    "timm_convnext_large_mlp": dict(head_hidden_size=10),
    "timm_convnext_tiny_hnf": dict(head_norm_first=True),
    "timm_convnext_xxlarge": dict(norm_eps=1e-5, final_norm_eps=1e-5),
    "timm_convnextv2_tiny": V2,
    "torchvision.safetensors": {},
    "transformers_ConvNext": dict(final_norm_eps=1e-12),
    "transformers_ConvNextV2": dict(V2, final_norm_eps=1e-12),
    "transformers_DINOv3ConvNext": dict(num_classes=None),
}


@pytest.fixture(scope="module")
def references():
    return np.load(FOLDER / "references.npz")


def relative_error(ours, reference):
    return np.abs(np.asarray(ours, np.float64) - reference).max() / np.abs(reference).max()


def features_of(model, params, references):
    return jax.jit(partial(model.apply, method="features"))(
        {"params": params}, references["images"]
    )


def fields_of(model):
    return {name: getattr(model, name) for name in (*FIELDS_OF_ALL, "num_classes")}


FIELDS_OF_ALL = (
    "depths", "dims", "in_chans", "patch_size", "stem_norm", "use_grn", "layer_scale_init_value",
    "norm_eps", "final_norm_eps", "head_norm_first", "head_hidden_size",
)  # fmt: skip


def test_every_fixture_has_its_fields_in_the_table():
    assert sorted(FIELDS) == SOURCES


@pytest.mark.parametrize("name", SOURCES)
def test_the_model_is_found_and_its_outputs_are_those_of_pytorch(name, references):
    model, params = convnext.from_pretrained(FOLDER / name)
    common = dict(depths=(1, 2, 1, 1), dims=(4, 6, 8, 12), num_classes=5)
    assert fields_of(model) == fields_of(ConvNeXt(**(common | FIELDS[name])))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    if name == "official_fcmae.pt":  # has no final norm
        output = features_of(model, params, references)["last_hidden_state"]
    else:
        output = jax.jit(model.apply)({"params": params}, references["images"])
    assert output.shape == references[name].shape
    assert relative_error(output, references[name]) < 1e-5


def test_an_official_training_checkpoint_has_raw_weights_too(references):
    model, params = convnext.from_pretrained(FOLDER / "official_v1.pth", weights="raw")
    logits = jax.jit(model.apply)({"params": params}, references["images"])
    assert relative_error(logits, references["official_v1.pth/raw"]) < 1e-5
    with pytest.raises(InputError, match="no model_ema or state_dict_ema; acc"):
        convnext.from_pretrained(FOLDER / "official_v2.pt", weights="ema")


@pytest.mark.parametrize("name", ["ConvNext", "ConvNextV2"])
def test_feature_maps_are_those_of_transformers_by_name(name, references):
    model, params = convnext.from_pretrained(FOLDER / f"transformers_{name}")
    features = features_of(model, params, references)
    for i, map_name in enumerate(("stem", "stage1", "stage2", "stage3", "stage4")):
        reference = references[f"transformers_{name}/{i}"]
        assert features[map_name].shape == reference.shape
        assert relative_error(features[map_name], reference) < 1e-5
    np.testing.assert_array_equal(features["last_hidden_state"], features["stage4"])
    pooled = references[f"transformers_{name}/pooler_output"]
    assert relative_error(features["pooler_output"], pooled) < 1e-5


def test_a_new_head_is_drawn_with_head_init_scale_and_the_rest_stays():
    source = FOLDER / "official_v1.pth"
    _, before = convnext.from_pretrained(source)
    model, params = convnext.from_pretrained(source, num_classes=4000, head_init_scale=0.001)
    head = params.pop("head")
    assert model.num_classes == 4000
    assert abs(head["kernel"].std() / 2e-5 - 1) < 0.02 and (head["bias"] == 0).all()
    before.pop("head")
    jax.tree.map(np.testing.assert_array_equal, params, before)
    again, other = (
        convnext.from_pretrained(source, num_classes=4000, head_init_scale=0.001, key=key)[1]
        for key in (jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(again["head"]["kernel"], head["kernel"])
    assert not np.array_equal(other["head"]["kernel"], head["kernel"])


def test_labels_are_the_sources_or_those_of_imagenet_and_new_heads_have_none(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    convnext.save_pretrained(tmp_path, found.model, found.params, labels="äbcde")
    assert pretrained.load(tmp_path).labels == tuple("äbcde")
    assert pretrained.load(tmp_path, num_classes=2).labels == ("LABEL_0", "LABEL_1")
    assert pretrained.load(tmp_path, num_classes=1000).labels[0] == "LABEL_0"
    assert pretrained.load(tmp_path, num_classes=0).labels == ()


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith(("tim", "tran"))])
def test_weights_without_their_config_are_known_by_their_shapes(name, tmp_path):
    shutil.copy(FOLDER / name / "model.safetensors", tmp_path / "bare.safetensors")
    (tmp_path / "config.json").write_text("{}")  # of something else
    (tmp_path / "preprocessor_config.json").write_text("{}")
    found = pretrained.load(tmp_path / "bare.safetensors")
    common = dict(depths=(1, 2, 1, 1), dims=(4, 6, 8, 12), num_classes=5)
    expected = common | FIELDS[name]
    if name == "timm_convnext_xxlarge":  # too small to be known as the one with another eps
        expected = common
    assert fields_of(found.model) == fields_of(ConvNeXt(**expected))
    assert found.processor == convnext.ImageProcessor()


@pytest.mark.parametrize("name", convnext.VARIANTS)
def test_every_variant_is_known_by_its_shapes(name, params_of):
    model = ConvNeXt(**convnext.VARIANTS[name])
    params = flatten_dict(params_of(model), sep="/")
    state = {key: np.broadcast_to(np.float32(0), leaf.shape) for key, leaf in params.items()}
    assert ConvNeXt(**pretrained._architecture(state)) == model
    state["stem_conv/kernel"] = np.broadcast_to(np.float32(0), (8, 8, 4, 9))
    assert ConvNeXt(**pretrained._architecture(state)) == model.clone(in_chans=4, patch_size=8)


def test_a_folder_of_torchs_file_is_read_and_safetensors_comes_first(tmp_path):
    state = locate.read_tensors(FOLDER / "official_v2.pt")
    shutil.copy(FOLDER / "official_v2.pt", tmp_path / "pytorch_model.bin")
    _, params = convnext.from_pretrained(tmp_path)
    np.testing.assert_array_equal(params["head"]["bias"], state["head.bias"])
    state["head.bias"] = np.arange(5, dtype=np.float32)
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    _, params = convnext.from_pretrained(tmp_path)
    np.testing.assert_array_equal(params["head"]["bias"], np.arange(5))


def dense(layout):
    """An autoencoder's encoder as facebookresearch/ConvNeXt-V2 publishes it, or timm: without norm,
    head and decoder. That of official_fcmae.pt, which has the sparse layout of the script."""
    state = locate.read_tensors(FOLDER / "official_v2.pt")
    encoder = {key: v for key, v in state.items() if key.split(".")[0] not in ("norm", "head")}
    if layout == "official":
        return {key: v.reshape(1, -1) if ".grn." in key else v for key, v in encoder.items()}
    _, ours = formats.to_ours(encoder)
    timm = formats.from_ours(ours, "timm", conv_mlp=layout == "timm, 1x1 convolutions")
    return {key: np.ascontiguousarray(array) for key, array in timm.items()}


@pytest.fixture(params=["official", "timm", "timm, 1x1 convolutions"])
def autoencoder(request, tmp_path):
    return saved(dense(request.param), tmp_path / "fcmae.safetensors")


def test_an_autoencoder_as_it_is_published_is_that_of_the_script(autoencoder):
    model, params = convnext.from_pretrained(autoencoder)
    sparse_model, sparse_params = convnext.from_pretrained(FOLDER / "official_fcmae.pt")
    assert model == sparse_model and model.num_classes is None
    jax.tree.map(np.testing.assert_array_equal, params, sparse_params)


def test_an_autoencoder_starts_a_run_with_a_norm_and_a_head_of_its_own(autoencoder):
    model = ConvNeXt(depths=(1, 2, 1, 1), dims=(4, 6, 8, 12), num_classes=3, **V2)
    key = jax.random.key(1)
    params = pretrained.initial_params(autoencoder, model, key)
    drawn = jax.jit(model.init)(key, convnext.models.convnext.smallest_image(model))["params"]
    jax.tree.map(np.testing.assert_array_equal, params["head"], drawn["head"])
    assert (params["norm"]["scale"] == 1).all() and (params["norm"]["bias"] == 0).all()
    sparse = pretrained.initial_params(FOLDER / "official_fcmae.pt", model, key)
    jax.tree.map(np.testing.assert_array_equal, params, sparse)


@pytest.mark.parametrize("size", convnextv2.ON_1K)
def test_every_start_of_the_configs_of_v2_loads(size, tmp_path, params_of, monkeypatch):
    """From a repository of timm's, by what its config.json and its keys say."""
    config = convnextv2.get_config(size)
    shapes = params_of(ConvNeXt(**convnext.VARIANTS[f"v2_{size}"]))
    ours = {
        key: np.broadcast_to(np.float32(0), leaf.shape)
        for key, leaf in flatten_dict(shapes, sep="/").items()
        if key.split("/")[0] not in ("norm", "head")
    }
    state = formats.from_ours(ours, "timm", conv_mlp=f"v2_{size}" in model_config.CONV_MLP)
    (tmp_path / "model.safetensors").touch()
    content = {"architecture": f"convnextv2_{size}", "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(content))
    monkeypatch.setattr(locate, "locate", lambda *_: tmp_path)
    monkeypatch.setattr(locate, "read_tensors", lambda *_: state)
    monkeypatch.setattr(pretrained, "abstract_params", lambda _: shapes)
    made = []
    monkeypatch.setattr(pretrained, "_fresh", lambda model, key, names: made.extend(names) or {})
    pretrained.initial_params(config.init_from, ConvNeXt(**config.model), jax.random.key(0))
    assert sorted(made) == ["head/bias", "head/kernel", "norm/bias", "norm/scale"]


def test_a_repository_of_timm_may_hold_an_autoencoder(tmp_path):
    config = json.loads((FOLDER / "timm_convnextv2_tiny" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_classes": 0}))
    found = pretrained.load(saved(dense("timm"), tmp_path / "model.safetensors").parent)
    assert found.model.num_classes is None and found.labels == ()


@pytest.mark.parametrize("lost", ["norm", "head"])
def test_a_v2_model_that_lacks_one_of_norm_and_head_is_no_autoencoder(lost, tmp_path):
    state = locate.read_tensors(FOLDER / "official_v2.pt")
    rest = {key: array for key, array in state.items() if not key.startswith(f"{lost}.")}
    path = saved(rest, tmp_path / "weights.safetensors")
    if lost == "norm":
        with pytest.raises(InputError, match="missing norm/bias, norm/scale"):
            convnext.from_pretrained(path)
    else:
        _, params = convnext.from_pretrained(path)
        np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"])


def test_only_an_autoencoder_may_lack_its_last_norm(tmp_path):
    state = safetensors.numpy.load_file(FOLDER / "torchvision.safetensors")
    headless = {key: array for key, array in state.items() if not key.startswith("classifier.")}
    with pytest.raises(InputError, match="missing norm/bias, norm/scale"):
        convnext.from_pretrained(saved(headless, tmp_path / "weights.safetensors"))
    _, params = convnext.from_pretrained(FOLDER / "official_fcmae.pt", num_classes=3)
    assert (params["norm"]["scale"] == 1).all() and params["head"]["kernel"].shape == (12, 3)


def test_no_head_gives_features(references):
    model, params = convnext.from_pretrained(FOLDER / "transformers_ConvNext", num_classes=0)
    assert "head" not in params
    features = jax.jit(model.apply)({"params": params}, references["images"])
    reference = references["transformers_ConvNext/pooler_output"]
    assert relative_error(features, reference) < 1e-5


def test_a_22k_head_is_cut_to_the_rows_of_imagenet_1k(tmp_path):
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4), num_classes=21841)
    image = convnext.models.convnext.smallest_image(model)
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    params["head"]["bias"] = jnp.arange(21841.0)
    convnext.save_pretrained(tmp_path, model, params, format="official")
    found = pretrained.load(tmp_path, num_classes=1000)
    rows = np.asarray(found.params["head"]["bias"]).astype(int)
    words = imagenet.names(21841)
    teddy = imagenet.names(1000).index("teddy, teddy bear")
    for i, name in enumerate(imagenet.names(1000)):
        assert words[rows[i]] == ("doll, dolly" if i == teddy else name)
    kernel = np.asarray(params["head"]["kernel"])[:, rows]
    np.testing.assert_array_equal(found.params["head"]["kernel"], kernel)
    assert found.labels == imagenet.names(1000)


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_and_dtype_is_what_the_model_computes_in(half, tmp_path, references):
    state = safetensors.numpy.load_file(FOLDER / "torchvision.safetensors")
    half = {key: value.astype(half) for key, value in state.items()}
    safetensors.numpy.save_file(half, tmp_path / "half.safetensors")
    model, params = convnext.from_pretrained(tmp_path / "half.safetensors", dtype=jnp.bfloat16)
    assert model.dtype == jnp.bfloat16 and params["head"]["bias"].dtype == jnp.float32
    logits = jax.jit(model.apply)({"params": params}, references["images"])
    assert 1e-4 < relative_error(logits, references["torchvision.safetensors"]) < 5e-2


def test_shards_are_put_together(tmp_path, references):
    folder = FOLDER / "timm_convnextv2_tiny"
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    names = {key: f"part{i % 2}.safetensors" for i, key in enumerate(state)}
    for name in set(names.values()):
        part = {key: value for key, value in state.items() if names[key] == name}
        safetensors.numpy.save_file(part, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    shutil.copy(folder / "config.json", tmp_path)
    model, params = convnext.from_pretrained(tmp_path)
    logits = jax.jit(model.apply)({"params": params}, references["images"])
    assert relative_error(logits, references["timm_convnextv2_tiny"]) < 1e-5
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(InputError, match=r"part1.safetensors"):
        convnext.from_pretrained(tmp_path)


# What bad input gets.


def saved(state, path):
    safetensors.numpy.save_file(state, path)
    return path


@pytest.fixture
def state():
    return safetensors.numpy.load_file(FOLDER / "torchvision.safetensors")


def test_missing_misshapen_and_unexpected_keys_are_named(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    partial = dict(state)
    del partial["features.3.0.block.3.weight"]
    partial["classifier.0.weight"] = np.ones(13, np.float32)
    with pytest.raises(InputError) as error:
        convnext.from_pretrained(saved(partial, path))
    assert "missing stage_1_block_0/pwconv1/kernel" in str(error.value)
    assert "misshapen norm/scale (13,) instead of (12,)" in str(error.value)
    extra = state | {"features.3.0.block.9.weight": np.ones(3, np.float32)}
    with pytest.raises(InputError, match=r"unexpected features\.3\.0\.block\.9\.weight"):
        convnext.from_pretrained(saved(extra, path))


def test_a_key_that_comes_twice_is_refused(tmp_path):
    state = safetensors.numpy.load_file(FOLDER / "transformers_ConvNext" / "model.safetensors")
    twice = state | {"layernorm.bias": state["convnext.layernorm.bias"]}
    with pytest.raises(InputError, match="twice convnext.layernorm.bias, layernorm.bias"):
        convnext.from_pretrained(saved(twice, tmp_path / "weights.safetensors"))


def test_an_unknown_architecture_is_refused(tmp_path):
    resnet = {f"layer1.{i}.conv1.weight": np.ones((3, 3), np.float32) for i in range(5)}
    with pytest.raises(InputError, match="unknown architecture: 5 tensors, such as layer1"):
        convnext.from_pretrained(saved(resnet, tmp_path / "weights.safetensors"))
    with pytest.raises(InputError, match="unknown architecture: 0 tensors"):
        convnext.from_pretrained(saved({}, tmp_path / "empty.safetensors"))


@pytest.mark.parametrize(
    "name, change, message",
    [
        (
            "timm_convnext_atto",
            {"architecture": "convnext_zepto_rms"},
            "architecture 'convnext_z",
        ),
        ("timm_convnext_atto", {"model_args": {"act_layer": "silu"}}, "act_layer 'silu'"),
        ("timm_convnext_atto", {"model_args": {"extra": 1}}, "model_args of config.json has extra"),
        ("transformers_ConvNext", {"model_type": "resnet"}, "model_type is 'resnet'"),
        ("transformers_ConvNext", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (
            "transformers_ConvNext",
            {"depths": [1, 2, 2, 1]},
            r"depths of config.json is \(1, 2, 2, 1\); accepted: \(1, 2, 1, 1\), as",
        ),
        ("transformers_ConvNext", {"num_stages": 3}, "three that agree"),
        ("transformers_ConvNext", {"depths": 3}, "depths of config.json is 3; accepted: a list"),
        ("transformers_ConvNext", {"layer_scale_init_value": "x"}, "config.json is malformed"),
        ("transformers_ConvNext", {"id2label": ["a"] * 4}, "names of 4 classes and a head of 5"),
        ("transformers_ConvNext", {"id2label": dict.fromkeys("12345", "a")}, "keys of labels"),
        (
            "transformers_ConvNext",
            {"problem_type": "nope"},
            "of config.json is 'nope'; accepted",
        ),
        ("timm_convnext_atto", {"model_args": [1]}, "config.json is malformed"),
        (
            "timm_convnext_atto",
            {"model_args": {"patch_size": 8}},
            "patch_size is 8; accepted: 4, from",
        ),
        ("transformers_ConvNext", {"id2label": {"0": "a"}}, "names of 1 classes and a head of 5"),
        # A V2 file for a V1 model.
        ("transformers_ConvNextV2", {"model_type": "convnext"}, "missing stage_0_block_0/gamma"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(name, change, message, tmp_path):
    shutil.copytree(FOLDER / name, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        convnext.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["torchvision.safetensors", "official_v2.pt"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(name, share, tmp_path):
    content = (FOLDER / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=name):
        convnext.from_pretrained(path)


def test_a_file_or_folder_that_is_not_there_is_named(tmp_path):
    for missing in ("weights.pth", "./no/such", str(tmp_path / "none")):
        with pytest.raises(InputError, match="no file or folder"):
            convnext.from_pretrained(missing)
    with pytest.raises(InputError, match="no weights in the folder"):
        convnext.from_pretrained(tmp_path)


def test_an_id_that_cannot_be_reached_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="cannot reach facebook/convnext-tiny-224"):
        convnext.from_pretrained("facebook/convnext-tiny-224")


def test_without_a_network_it_is_said_at_once_and_once(monkeypatch, tmp_path, caplog, capfd):
    """Nobody listens at port 9 of this computer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    with pytest.raises(InputError, match="cannot reach facebook/convnext-tiny-224"):
        convnext.from_pretrained("facebook/convnext-tiny-224")
    assert (slept, caplog.records, capfd.readouterr()) == ([], [], ("", ""))


def test_a_path_that_looks_like_an_id_is_not_looked_up(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="no file or folder runs/digitz"):
        convnext.from_pretrained("runs/digitz")


def test_an_id_is_downloaded_with_its_configs_and_the_best_weights(monkeypatch, references):
    folder = FOLDER / "transformers_ConvNextV2"
    fetched = []

    def download(repository, name, *, revision, local_files_only):
        assert (repository, revision, local_files_only) == ("someone/convnext", "v1", False)
        fetched.append(name)
        return str(folder / name)

    names = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin"]

    def info(repository, *, revision, timeout):
        assert (repository, revision) == ("someone/convnext", "v1") and timeout <= 10
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

    monkeypatch.setattr("huggingface_hub.model_info", info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model, params = convnext.from_pretrained("someone/convnext", revision="v1")
    assert fetched == ["config.json", "README.md", "model.safetensors"]
    logits = jax.jit(model.apply)({"params": params}, references["images"])
    assert relative_error(logits, references["transformers_ConvNextV2"]) < 1e-5
    names.clear()
    with pytest.raises(InputError, match="someone/convnext has no weights; accepted: one of model"):
        convnext.from_pretrained("someone/convnext", revision="v1")

    def broken(*_, **__):
        raise RuntimeError("connection\nreset")

    names.append("model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    with pytest.raises(InputError, match="cannot download someone/convnext: connection reset"):
        convnext.from_pretrained("someone/convnext", revision="v1")


def test_a_cached_id_is_read_offline(monkeypatch, tmp_path, references):
    """The layout of the cache: refs/main names a commit, snapshots/<commit> has its files."""
    repository = tmp_path / "models--someone--convnext"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(FOLDER / "transformers_ConvNextV2", repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model, params = convnext.from_pretrained("someone/convnext")
    logits = jax.jit(model.apply)({"params": params}, references["images"])
    assert relative_error(logits, references["transformers_ConvNextV2"]) < 1e-5


@pytest.mark.parametrize("num_classes", [True, -3, 2.5, "5"])
def test_a_number_of_classes_is_a_number(num_classes):
    with pytest.raises(InputError, match="num_classes is .*; accepted: an integer from 0 up, or N"):
        convnext.from_pretrained(FOLDER / "official_v1.pth", num_classes=num_classes)


def test_a_missing_block_is_named(state, tmp_path):
    far = {key.replace("features.5.0.", "features.5.3000."): array for key, array in state.items()}
    with pytest.raises(InputError, match="block 0 of stage 2 is missing"):
        convnext.from_pretrained(saved(far, tmp_path / "weights.safetensors"))


def test_weights_do_not_need_their_image_processor(tmp_path):
    shutil.copytree(FOLDER / "timm_convnext_atto", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 256, 320]
    (tmp_path / "config.json").write_text(json.dumps(config))
    convnext.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"its image processor: input_size is \[3, 256, 320\]"):
        pretrained.load(tmp_path)


@pytest.mark.parametrize("content", [{}, {"model": {"depths": 3}}, {"model": 1, "ema_decays": []}])
def test_a_run_without_a_whole_config_is_refused(content, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no whole run: .*; accepted: the workdir of a run"):
        convnext.from_pretrained(tmp_path)


@pytest.mark.parametrize("model", [{}, {"depths": [1, 1], "dims": [8, 8], "decoder_dim": "x"}])
def test_a_run_of_pre_training_without_a_whole_config_is_refused(model, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"task": "fcmae", "model": model}))
    with pytest.raises(InputError, match="is no whole run: .*; accepted: the workdir of a run"):
        convnext.from_pretrained(tmp_path)


def test_a_run_of_another_task_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"task": "segmentation", "model": {}}))
    told = f"the task of {tmp_path} is 'segmentation'; accepted: classification or fcmae"
    with pytest.raises(InputError, match=told):
        convnext.from_pretrained(tmp_path)


@pytest.mark.parametrize("depths", [[10**4] * 4, [1, 1, 1, 1], [1, 2, 1]])
def test_a_config_of_other_depths_is_refused_before_a_model_is_made(depths, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "abstract_params", None)
    shutil.copytree(FOLDER / "transformers_ConvNext", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    changes = dict(depths=depths, hidden_sizes=[4] * len(depths), num_stages=len(depths))
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=r"depths of config.json .*; accepted: \(1, 2, 1, 1\), as"):
        convnext.from_pretrained(tmp_path)


def test_weights_are_floats(state, tmp_path):
    counts = {key: array.astype(np.int32) for key, array in state.items()}
    with pytest.raises(InputError, match=r"not of floats .* \(int32\)"):
        convnext.from_pretrained(saved(counts, tmp_path / "weights.safetensors"))


def test_the_number_of_a_block_is_one(state, tmp_path):
    far = {key.replace("5.0.", f"5.{'9' * 5000}."): array for key, array in state.items()}
    with pytest.raises(InputError, match="unexpected features"):
        convnext.from_pretrained(saved(far, tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    "name, value", [("depths", [10**9]), ("patch_size", 10**9), ("in_chans", -1)]
)
def test_a_run_whose_config_makes_no_model_is_refused(name, value, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    content = {"model": {"depths": [1], "dims": [4], name: value}, "ema_decays": []}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"is no whole run: InputError {name} of config.json is"):
        convnext.from_pretrained(tmp_path)
