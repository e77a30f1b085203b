import pytest

from convnext import VARIANTS, ConvNeXt
from convnext.models.convnext import abstract_params
from convnext.runs.plan import parameter_count
from convnext.weights import locate, published
from tests.helpers.inputs import refused
from tools import variants

OFFICIAL = "https://dl.fbaipublicfiles.com/convnext"


@pytest.mark.parametrize(
    "source, found",
    [
        ("convnext_tiny", "timm/convnext_tiny.in12k_ft_in1k"),
        ("convnext_tiny.fb_in1k", "timm/convnext_tiny.fb_in1k"),
        ("timm/convnext_tiny.fb_in1k", "timm/convnext_tiny.fb_in1k"),
        ("convnextv2_huge", "timm/convnextv2_huge.fcmae_ft_in22k_in1k_384"),
        (f"{OFFICIAL}/convnext_tiny_1k_224_ema.pth", "timm/convnext_tiny.fb_in1k"),
        (f"{OFFICIAL}/convnext_base_1k_384.pth", "facebook/convnext-base-384"),
        (
            f"{OFFICIAL}/convnextv2/im22k/convnextv2_nano_22k_384_ema.pt",
            "timm/convnextv2_nano.fcmae_ft_in22k_in1k_384",
        ),
        ("convnext", None),
        ("convnext_zepto", None),
    ],
)
def test_a_name_or_an_address_stands_for_an_id(source, found, monkeypatch):
    known = published.find(source)
    assert (known and known.id) == found
    if known:
        monkeypatch.setattr(locate, "_download", lambda repository, _: repository)
        assert locate.locate(source) == found


def test_an_address_that_is_not_known_is_refused():
    message = (
        "no weights are known at https://a/b.pth; accepted: the file once it is here, or what "
        "python -m tools.variants --weights lists"
    )
    refused(message, locate.locate, "https://a/b.pth")


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "convnext_tiny").mkdir()
    assert str(locate.locate("convnext_tiny")) == "convnext_tiny"


@pytest.mark.slow
def test_each_has_the_parameters_of_its_variant_and_one_default():
    found = published.weights()
    assert len({each.id for each in found}) == len(found) == 77
    for each in found:
        model = ConvNeXt(**{**VARIANTS[each.variant], "num_classes": each.classes or None})
        assert parameter_count(abstract_params(model)) == each.parameters, each.id
    defaults = [each.name.partition(".")[0] for each in found if each.is_default]
    assert len(set(defaults)) == len(defaults) == 20
    assert {each.licence for each in found if each.variant.startswith("v2_")} == {"cc-by-nc-4.0"}
    assert {each.licence for each in found if not each.variant.startswith("v2_")} == {"apache-2.0"}


@pytest.mark.parametrize(
    "licence, told",
    [
        (None, "licence not stated"),
        ("apache-2.0", "licence apache-2.0"),
        ("cc-by-nc-4.0", "licence cc-by-nc-4.0: not for commercial use"),
        (
            "fair-noncommercial-research-license",
            "licence fair-noncommercial-research-license: not for commercial use",
        ),
    ],
)
def test_a_licence_that_forbids_commerce_is_told(licence, told):
    assert published.terms(licence) == told


def test_they_are_listed_with_what_one_chooses_by(capsys):
    variants.main(["--weights"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["timm/convnext_tiny.fb_in22k", "21,841", "44,615,857", "224", "apache-2.0"] in lines
    v2 = ["timm/convnextv2_atto.fcmae_ft_in1k", "convnextv2_atto", "1,000", "3,708,400", "224",
          "76.6", "cc-by-nc-4.0"]  # fmt: skip
    assert v2 in lines
