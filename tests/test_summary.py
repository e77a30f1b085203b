import jax
import pytest

from convnext import VARIANTS, ConvNeXt, optimizer, sharding, summary

# GMACs in convolutions and linear layers, computed from the official code.
GMACS = {
    ("tiny", 224): 4.456, ("small", 224): 8.684, ("base", 224): 15.355, ("large", 224): 34.361,
    ("xlarge", 224): 60.921, ("tiny", 288): 7.365, ("xlarge", 288): 100.705,
    ("tiny", 384): 13.092, ("base", 384): 45.122, ("large", 384): 100.978, ("xlarge", 384): 179.029,
    ("tiny", 512): 23.275, ("isotropic_small", 224): 4.286, ("isotropic_base", 224): 16.896,
    ("isotropic_large", 224): 59.699, ("large_mlp", 224): 34.364,
}  # fmt: skip


@pytest.mark.parametrize("name, image_size", GMACS)
def test_gmacs_are_those_of_the_official_code(name, image_size):
    model = ConvNeXt(**VARIANTS[name])
    assert round(summary.macs(model, image_size) / 1e9, 3) == GMACS[name, image_size]


def test_the_description_says_what_will_run():
    model = ConvNeXt(**VARIANTS["tiny"])
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    text = summary.describe(
        model=model, params=params, image_size=224, mesh=sharding.make_mesh(fsdp=2),
        train_size=1_281_167, val_size=50_000, batch_size=4096, steps_per_epoch=312,
        num_epochs=300, warmup_epochs=20,
        schedule=optimizer.warmup_cosine(312, 300, peak_lr=4e-3, warmup_epochs=20),
    )  # fmt: skip
    for fact in (
        "8 cpu, mesh data 4 x fsdp 2", "28,589,128 parameters", "4.456 GMACs at 224 px",
        "1,281,167 images", "50,000", "312 per epoch", "4,096 images", "93,600 in all",
        "0 at step 1, 0.004 at step 6,240, 0.003", "1e-06 at step 93,600",
    ):  # fmt: skip
        assert fact in text
