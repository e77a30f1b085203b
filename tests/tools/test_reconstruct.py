import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import train as train_command
from convnext.evaluation import reconstruction
from convnext.models.fcmae import Masks
from tests.helpers.inputs import noise
from tests.helpers.pretraining import config_of
from tools import reconstruct


class Knowing:
    """A model that predicts what was asked for: patches of 4 pixels, of mean 0 and deviation 1."""

    depths, patch_size = (1, 1), 2

    def __init__(self, predicted):
        self.predicted = predicted

    def apply(self, variables, images, masks):
        return self.predicted


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_is_the_image(norm_pix):
    images = noise(2, 8, 12, 3)
    order = jnp.array([[3, 0, 1, 2, 4, 5], [5, 4, 3, 2, 1, 0]])
    masks = Masks(order, jnp.argsort(order, axis=1), 2, (2, 3))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    normalized = (images / 255 - np.array(mean)) / np.array(std)
    cut = normalized.reshape(2, 2, 4, 3, 4, 3).swapaxes(2, 3).reshape(2, 6, -1)
    patches = np.take_along_axis(cut, np.asarray(order)[:, 2:, None], axis=1)
    if norm_pix:
        patches -= patches.mean(-1, keepdims=True)
        patches /= np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    model = Knowing(jnp.asarray(patches, jnp.float32))
    options = dict(model=model, mean=mean, std=std, norm_pix=norm_pix)
    shown = np.asarray(reconstruction.pictures({}, jnp.asarray(images), masks, **options))
    np.testing.assert_array_equal(shown[:, 0], images)
    np.testing.assert_array_equal(shown[:, 2], images)
    assert (shown[0, 1, 4:, :4] == images[0, 4:, :4]).all()  # patch 3 is seen
    assert (shown[0, 1, :4, 4:8] == 128).all()  # patch 1 is not


def test_a_strip_has_a_column_for_each_image():
    shown = noise(2, 3, 4, 5, 3)
    strip = reconstruction.strip(shown, scale=2, gap=1)
    assert strip.shape == (3 * 9 - 1, 2 * 11 - 1, 3)
    np.testing.assert_array_equal(strip[9:17:2, 11:21:2], shown[1, 1])
    assert (strip[8] == 255).all()


def test_it_shows_what_a_run_has_learned(tmp_path, capsys):
    workdir = tmp_path / "run"
    train_command.train(config_of(num_epochs=1), workdir)
    capsys.readouterr()
    reconstruct.main([f"--workdir={workdir}", "--count=5"])
    path = workdir / "reconstruction.png"
    told = capsys.readouterr().out
    assert told.startswith(f"{path}: 5 images, of {workdir} at step 11 (raw weights, val/loss 0.9")
    assert Image.open(path).size == (5 * 116 - 4, 3 * 116 - 4)

    Image.fromarray(noise(40, 50, 3)).save(tmp_path / "a.png")
    out = tmp_path / "own.png"
    reconstruct.main([str(tmp_path / "a.png"), f"--workdir={workdir}", f"--out={out}"])
    assert Image.open(out).size == (112, 3 * 116 - 4)
    for flags, message in (
        (["--count=0"], "error: --count is 0; accepted: 1 and more"),
        ([str(tmp_path / "none.png")], "error: cannot read the image .*none.png: No such file"),
        (["--weights=ema_0.5"], "error: weights of the run .* is 'ema_0.5'; accepted: raw, best"),
        ([f"--out={tmp_path}/no/x.png"], "error: --out is .*; accepted: a picture"),
    ):
        with pytest.raises(SystemExit, match=message):
            reconstruct.main([f"--workdir={workdir}", *flags])
