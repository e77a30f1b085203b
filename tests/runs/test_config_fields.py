from convnext.runs import config_fields

SOURCE = """
def get_config():
    config = ConfigDict()
    config.task = "classification"  # what is trained
    # Weights to start from;
    # None: random ones.
    config.init_from = placeholder(str)
    config.bare = 1
    config.data = ConfigDict(  # not of a field
        dict(
            **MORE,
            root=given(
                "data", str
            ),  # a folder
            # Share of a side.
            inner=dict(shift=0.1, turn=2),
        )
    )
    other.seed = 0  # not of the config
"""


def test_a_comment_is_of_the_field_on_its_line_or_below_it():
    assert list(config_fields.comments(SOURCE).items()) == [
        ("task", "what is trained"),
        ("init_from", "Weights to start from; None: random ones."),
        ("bare", ""),
        ("data.root", "a folder"),
        ("data.inner.shift", "Share of a side."),
        ("data.inner.turn", "Share of a side."),
    ]


def test_a_flag_is_as_a_shell_takes_it():
    values = {"a": (0.5, 1.0), "b": 1e-4, "c": None, "d": "two words", "e": True}
    assert [config_fields.flag(name, value) for name, value in values.items()] == [
        "--config.a='(0.5, 1.0)'",
        "--config.b=0.0001",
        "--config.c=None",
        "--config.d='two words'",
        "--config.e=True",
    ]


def test_fields_are_listed_in_the_order_of_the_recipe_with_what_it_says():
    said = {"b": "word " * 20, "long_name_of_a_field": "comment"}
    values = {"a": 0, "b": 1, "long_name_of_a_field": "long_name_of_a_value"}
    assert config_fields.listing(values, said).splitlines() == [
        "  --config.b=1".ljust(46) + "word " * 14 + "word",
        " " * 46 + "word word word word word",
        "  --config.long_name_of_a_field=long_name_of_a_value",
        " " * 46 + "comment",
        "  --config.a=0",
    ]
