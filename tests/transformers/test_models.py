import json
from pathlib import Path

import huggingface_hub as hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import convnext
from convnext import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Classifier,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    pipeline,
)
from tests.helpers.inputs import refused
from tests.helpers.sites import serving

ROOT = Path(__file__).parents[2]
SMALL = dict(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2, num_labels=5, image_size=32)


@pytest.fixture(scope="module")
def model():
    return ConvNextForImageClassification(ConvNextConfig(**SMALL, layer_scale_init_value=0.1))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 3, 20, 27)).astype(np.float32)


def test_it_computes_what_the_module_does_with_the_channels_first(model, images):
    output = model(images, output_hidden_states=True)
    variables = {"params": model.params}
    there = images.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(output.logits, model.module.apply(variables, there))
    maps = model.module.apply(variables, there, method="features")
    assert [each.shape for each in output.hidden_states] == [
        (2, 8, 5, 6),
        (2, 8, 5, 6),
        (2, 16, 2, 3),
    ]
    for each, name in zip(output.hidden_states, ("stem", "stage1", "stage2"), strict=True):
        np.testing.assert_array_equal(each.transpose(0, 2, 3, 1), maps[name])


def test_outputs_are_had_by_attribute_name_number_and_as_a_tuple(model, images):
    output = model(images)
    assert list(output) == ["logits"] and output.loss is None and output.hidden_states is None
    assert output[0] is output["logits"] is output.logits is output.to_tuple()[0]
    with pytest.raises(AttributeError, match="has no 'pooler_output', but loss, logits, hidden_"):
        _ = output.pooler_output
    (logits,) = model(images, return_dict=False)
    np.testing.assert_array_equal(logits, output.logits)
    with_loss = model(images, np.array([1, 2]), output_hidden_states=True)
    assert list(with_loss) == ["loss", "logits", "hidden_states"] and with_loss[0].shape == ()
    again = jax.tree.map(lambda x: x, with_loss)
    assert type(again) is type(with_loss) and list(again) == list(with_loss)


def test_it_is_a_function_of_its_parameters_under_jit_and_grad(model, images):
    labels = np.array([1, 2])
    jitted = jax.jit(lambda params, x: model(x, labels, params=params))
    np.testing.assert_allclose(jitted(model.params, images).loss, model(images, labels).loss, 1e-6)
    step = jax.grad(lambda params: model(images, labels, params=params).loss)(model.params)
    lower = jax.tree.map(lambda p, g: p - 0.1 * g, model.params, step)
    assert model(images, labels, params=lower).loss < model(images, labels).loss


def test_drop_path_draws_from_the_key_in_training_alone(images):
    config = ConvNextConfig(**SMALL, drop_path_rate=0.9, layer_scale_init_value=1.0)
    model = ConvNextForImageClassification(config, seed=1)
    drawn = [model(images, train=True, dropout_rng=jax.random.key(k)).logits for k in range(6)]
    assert len({tuple(np.ravel(each)) for each in drawn}) > 1
    np.testing.assert_array_equal(model(images, dropout_rng=jax.random.key(0)).logits,
                                  model(images).logits)  # fmt: skip
    refused("dropout_rng is None; accepted: a key of jax.random", model, images, train=True)


@pytest.mark.parametrize(
    "pixel_values, message",
    [
        (None, "You have to specify pixel_values; accepted: an array .N, C, H, W."),
        (np.zeros((2, 20, 27, 3)), "Make sure that the channel dimension of the pixel values match "
         "with the one set in the configuration: they are .2, 20, 27, 3.; accepted: .N, 3, H, W."),
        (np.zeros((3, 20, 27)), "Make sure that the channel dimension"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused(model, pixel_values, message):
    refused(message, model, pixel_values)


def test_the_problem_type_is_that_of_the_labels_and_not_written_into_the_config(model, images):
    one = model(images, jnp.array([1, 2])).loss
    several = model(images, np.eye(5, dtype=np.float32)[[1, 2]]).loss
    logits = model(images).logits
    np.testing.assert_allclose(one, -jax.nn.log_softmax(logits)[jnp.arange(2), [1, 2]].mean(), 1e-5)
    assert abs(several - one) > 0.1 and model.config.problem_type is None


def test_what_it_saves_is_read_by_everything_here(model, images, tmp_path):
    ConvNextImageProcessor(size=48).save_pretrained(tmp_path)
    model.config.note = "kept"
    model.save_pretrained(tmp_path)
    again = ConvNextForImageClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(images).logits, model(images).logits)
    assert again.config.note == "kept" and again.processor.size == 48
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["ConvNextForImageClassification"]
    module, params = convnext.from_pretrained(tmp_path)
    there = images.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(module.apply({"params": params}, there), model(images).logits)
    features = ConvNextModel.from_pretrained(tmp_path)(images)
    assert features.pooler_output.shape == (2, 16) and features.last_hidden_state.ndim == 4


def test_another_number_of_labels_makes_a_new_head_where_that_is_asked_for(model, tmp_path):
    model.save_pretrained(tmp_path)
    read = ConvNextForImageClassification.from_pretrained
    refused("num_labels is 3; accepted: 5, as the weights have, or ignore_mismatched_sizes=True",
            read, tmp_path, num_labels=3)  # fmt: skip
    other = read(tmp_path, id2label={0: "a", 1: "b", 2: "c"}, ignore_mismatched_sizes=True)
    assert other.params["head"]["kernel"].shape == (16, 3) and other.config.id2label[2] == "c"
    assert other.config.label2id == {"a": 0, "b": 1, "c": 2}
    np.testing.assert_array_equal(other.params["norm"]["scale"], model.params["norm"]["scale"])


def test_the_class_is_found_by_the_weights(tmp_path):
    v2 = ConvNextV2ForImageClassification(ConvNextV2Config(**SMALL))
    v2.save_pretrained(tmp_path)
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is type(v2)
    assert AutoImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 32}
    refused("the model_type of a ConvNextConfig is 'convnextv2'; accepted: ConvNextV2Config",
            ConvNextForImageClassification.from_pretrained, tmp_path)  # fmt: skip
    refused("the config of ConvNextModel is 'ConvNextV2Config'; accepted: a ConvNextConfig",
            ConvNextModel, v2.config)  # fmt: skip


def test_a_pipeline_gives_a_list_for_an_image_and_lists_for_several(model, tmp_path):
    model.save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (50, 73, 3), dtype=np.uint8)
    named = pipeline("image-classification", model=tmp_path)
    (expected,) = Classifier.from_pretrained(tmp_path)(image, top_k=2)
    assert named(image, top_k=2) == named(inputs=Image.fromarray(image), top_k=2) == expected
    assert named([image, image], top_k=2) == [expected, expected]
    Image.fromarray(image).save(tmp_path / "a.png")
    with serving(tmp_path) as address:
        assert named(f"{address}/a.png", top_k=2) == expected
        assert named([image, f"{address}/moved"], top_k=2) == [expected, expected]
        refused("cannot read .*/b.png: Not Found; accepted: an address", named, f"{address}/b.png")
    held = pipeline(model=model, image_processor=ConvNextImageProcessor(size=32, crop_pct=0.5))
    assert held(image)[0]["score"] != expected[0]["score"]
    refused("task is 'object-detection'; accepted: image-classification",
            pipeline, "object-detection", model)  # fmt: skip
    refused("model is None; accepted: weights", pipeline, "image-classification")


def test_it_uploads_what_it_saves(model, monkeypatch):
    asked = []

    class Api:
        def create_repo(self, repository, **given):
            asked.append(("create", repository, given))

        def upload_folder(self, *, repo_id, folder_path, **_):
            asked.append(("upload", repo_id, {path.name for path in Path(folder_path).iterdir()}))

    monkeypatch.setattr(hub, "HfApi", Api)
    model.push_to_hub("jane/flowers", private=True)
    files = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert asked == [("create", "jane/flowers", {"private": True, "exist_ok": True}),
                     ("upload", "jane/flowers", files)]  # fmt: skip


def test_what_the_hub_refuses_is_a_line(model, monkeypatch):
    class Api:
        def create_repo(self, *_, **__):
            raise ConnectionError("no login")

    monkeypatch.setattr(hub, "HfApi", Api)
    refused("cannot push to jane/flowers: no login; accepted: a repository of yours",
            model.push_to_hub, "jane/flowers")  # fmt: skip


def test_saving_to_the_hub_needs_a_name(model, tmp_path):
    refused("repo_id is None; accepted: USER/NAME", model.save_pretrained, tmp_path,
            push_to_hub=True)  # fmt: skip


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path, capsys):
    """On a model of the page's widths, in place of the published one."""
    config = ConvNextConfig(depths=[1, 1, 1, 1], num_labels=4, layer_scale_init_value=0.1)
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "cat.png")
    blocks = (ROOT / "docs" / "transformers.md").read_text().split("```python\n")[1:3]
    code = "".join(block.partition("```")[0] for block in blocks)
    places = {"facebook/convnext-tiny-224": tmp_path, "cat.jpg": tmp_path / "cat.png"}
    for there, here in places.items():
        assert there in code
        code = code.replace(there, str(here))
    exec(code, {})
    named = pipeline("image-classification", model=tmp_path)(image)
    assert capsys.readouterr().out == f"{named[0]['label']}\n[1, 768, 7, 7]\n"
