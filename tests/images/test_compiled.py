import numba
import pytest

from convnext.images import resample
from convnext.images.compiled import compiled


def test_where_no_folder_can_be_written_to_functions_are_compiled_all_the_same():
    names = {}
    exec("def double(x):\n    return 2 * x", names)  # of no file, beside which to keep it
    with pytest.raises(RuntimeError, match="cannot cache function 'double': no locator"):
        numba.njit(names["double"], cache=True)
    assert compiled()(names["double"])(3) == 6
    assert resample._sums._cache.cache_path  # where one can
