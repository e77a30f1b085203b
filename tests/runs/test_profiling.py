import jax
import jax.numpy as jnp
import pytest

from convnext.errors import InputError
from convnext.runs import profiling


def test_a_range_of_steps_is_read_as_in_python():
    assert list(profiling.step_range("10:15", 20)) == [10, 11, 12, 13, 14]
    assert profiling.step_range("20:21", 20) and not profiling.step_range(None, 20)


@pytest.mark.parametrize("text", ["", "10", "10:", "10:10", "15:10", "0:5", "a:b", "10:22"])
def test_what_is_no_range_of_steps_is_refused(text):
    with pytest.raises(InputError, match=rf"--profile_steps is '{text}'; accepted: FIRST:END"):
        profiling.step_range(text, 20)


def test_the_steps_of_the_range_are_traced_and_no_others(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    train_step = lambda x: calls.append(int(x)) or x  # noqa: E731
    run = profiling.traced(train_step, steps=range(2, 4), folder=tmp_path)
    assert [int(run(step, jnp.int32(step))) for step in range(1, 5)] == [1, 2, 3, 4]
    assert calls == [1, tmp_path, 2, 3, "stop", 4]
