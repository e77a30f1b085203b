import copy
import re
from functools import partial

import jax
import numpy as np
import pytest

from convnext import hosts
from convnext.errors import InputError
from tests.helpers.inputs import refused
from tests.helpers.processes import together


@pytest.fixture
def initialized(monkeypatch):
    """With what jax.distributed was initialized, which is not done."""
    calls = []
    monkeypatch.setattr(
        "jax.distributed.initialize", lambda *args, **keywords: calls.append((args, keywords))
    )
    return calls


TIMEOUTS = dict(heartbeat_timeout_seconds=60, shutdown_timeout_seconds=100)


@pytest.mark.parametrize(
    "variables, has_others",
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),  # a batch script, salloc
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_the_environment_of_a_launcher_is_known(monkeypatch, initialized, variables, has_others):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.connect()
    assert initialized == [((), TIMEOUTS)] * has_others
    hosts.connect(num_processes=1)
    assert len(initialized) == has_others


@pytest.mark.parametrize(
    "chips, libtpu, platforms, has_others",
    [
        ("accel0", "found", "", True),
        ("vfio/0", "found", "tpu,cpu", True),
        ("accel0", "found", "cpu", False),
        ("accel0", None, "", False),
        ("vfio/vfio", "found", "", False),  # of any machine with virtual ones
    ],
)
def test_a_host_with_chips_may_be_one_of_several(
    monkeypatch, initialized, tmp_path, chips, libtpu, platforms, has_others
):
    (tmp_path / chips).parent.mkdir(exist_ok=True)
    (tmp_path / chips).touch()
    monkeypatch.setattr(hosts, "DEVICES", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", {"libtpu": libtpu}.get)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    hosts.connect()
    assert initialized == [((), TIMEOUTS)] * has_others


def test_three_flags_say_the_same_without_a_launcher(monkeypatch, initialized):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    hosts.connect("10.0.0.1:1234", 3, 2)
    hosts.connect("[fe80::1]:1234", 3, 0)
    alone = {"cluster_detection_method": "deactivate", **TIMEOUTS}
    assert initialized == [
        (("10.0.0.1:1234", 3, 2), alone), (("[fe80::1]:1234", 3, 0), alone)
    ]  # fmt: skip


def test_flags_that_do_not_go_together_are_refused(monkeypatch, initialized):
    refused("--process_id is None; accepted: all of --coordinator, --num_proc", hosts.connect,
            "a:1", 2)  # fmt: skip
    refused("--coordinator, --process_id is None", hosts.connect, None, 2)
    refused("--coordinator is 'a'; accepted: HOST:PORT", hosts.connect, "a", 2, 0)
    refused("--num_processes is 0; accepted: 1 and more", hosts.connect, "a:1", 0, 0)
    refused("--process_id is 2; accepted: 0 to 1", hosts.connect, "a:1", 2, 2)
    assert initialized == []


def test_where_jax_does_not_find_process_0_flags_are_asked_for(monkeypatch):
    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")  # as with Open MPI 5, jax 0.10

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    refused("one of several, .* should be defined.; accepted: --coordinator, --num_processes, "
            "--process_id, or --num_processes=1", hosts.connect)  # fmt: skip


def assert_refused(message, *errors):
    for error in errors:
        assert isinstance(error, InputError), error
        assert re.search(message, str(error)), str(error)


VALUES = {
    "config": {"seed": 0, "model": {"depths": [3, 3]}, "num_workers": 8, "log": {"every_steps": 5},
               "data": {"root": "/a", "name": "folder"}},
    "dry_run": False,
    "train": {"length": 66, "class_names": ["cat", "dog"], "content": "1f"},
}  # fmt: skip


def changed(**fields):
    """VALUES with others, by their names with __ for a dot."""
    values = copy.deepcopy(VALUES)
    for name, value in fields.items():
        *sections, last = name.split("__")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    return values


def same(values):
    return lambda: hosts.require_same(lambda: values)


def test_processes_with_the_same_values_go_on_whatever_each_has_of_its_own(monkeypatch):
    other = changed(config__num_workers=2, config__data__root="/b", config__log={"new": 1})
    assert together(monkeypatch, same(VALUES), same(other), same(VALUES)) == [None] * 3


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(config__seed=1), "config.seed is 1 in process 2 and 0 in process 0; accepted: the"),
        (dict(config__model__depths=(3, 9)), r"config.model.depths\[1\] is 9 in process 2 and 3"),
        (dict(config__data__name="digits"), "config.data.name is 'digits' in .* and 'folder' in"),
        (dict(config__new=None), r"config.new is None in process 2 and '\(missing\)' in process 0"),
        (dict(dry_run=True), "dry_run is True in process 2 and False in process 0"),
        (dict(train__length=65), "train.length is 65 in process 2 and 66 in process 0"),
        (dict(train__content="2f"), "train.content is '2f' in process 2 and '1f' in process 0"),
        (dict(train__class_names=["cat", "dog", "ö" * 999]),
         r"class_names\[2\] is 'ö{99} in process 2 and '\(missing\)' in process 0"),
    ],
)  # fmt: skip
def test_the_process_that_differs_is_named_in_all_of_them(monkeypatch, fields, message):
    said = together(monkeypatch, same(VALUES), same(VALUES), same(changed(**fields)))
    assert_refused(message, *said)
    assert len(set(map(str, said))) == 1


def test_a_process_alone_compares_nothing():
    hosts.require_same(lambda: pytest.fail("compared"))


def test_an_error_of_one_process_is_raised_in_all(monkeypatch):
    def processes(*errors):
        functions = [partial(hosts.raise_together, error) for error in errors]
        return [(type(said), str(said)) for said in together(monkeypatch, *functions)]

    full, slow = OSError("no room"), RuntimeError("too\nslow")
    assert processes(None, None) == [(type(None), "None")] * 2
    assert processes(None, full, None) == [(OSError, "process 1: no room")] * 3
    assert processes(slow, full, full) == [(OSError, "process 0: too slow; process 1: no room")] * 3
    assert processes(full) == [(OSError, "no room")]


def test_a_text_is_gathered_as_far_as_there_is_room(monkeypatch):
    long = "ö" * hosts.TEXT_BYTES
    texts = together(monkeypatch, lambda: hosts.gathered("a"), lambda: hosts.gathered(long))
    assert texts == [["a", "ö" * (hosts.TEXT_BYTES // 2)]] * 2


def test_a_flag_of_any_process_is_known_to_all(monkeypatch):
    yes, no = partial(hosts.any_process, True), partial(hosts.any_process, False)
    assert together(monkeypatch, no, yes) == [True, True]
    assert together(monkeypatch, no, no) == [False, False]
    assert together(monkeypatch, yes) == [True]


def test_a_value_is_handed_back_so_many_values_later_and_at_the_end_all_are():
    behind = hosts.Behind(2)
    assert [behind.put(value) for value in (1, None, 3, 4)] == [[], [], [1], [None]]
    assert behind.drain() == [3, 4] and behind.drain() == []
    assert hosts.Behind(0).put(1) == [1]
    assert [hosts.Behind().put(1) for _ in range(hosts.STEPS_BEHIND)][-1] == []


def test_the_rows_of_all_processes_are_in_each(monkeypatch):
    rows = np.arange(2 * jax.device_count(), dtype=np.int32)
    assert hosts.all_rows(rows) is rows  # alone
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # of which this one has all devices
    gathered = hosts.all_rows(rows)
    assert gathered.is_fully_replicated and len(gathered.devices()) == jax.device_count()
    np.testing.assert_array_equal(gathered, rows)
