"""What is said of an id that no variant has."""

from __future__ import annotations

import pyarrow as pa
import pytest

from axoloci.io.variants import meant_id


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rs77787", "did you mean 'rs77777'?"),  # behind thousands that are less alike
        ("9:77", "its ids look like 'rs10000', 'rs10001', 'rs10002'"),
    ],
)
def test_meant_id__is_the_nearest_of_those_that_begin_most_alike(name: str, said: str) -> None:
    many = [f"rs{k}" for k in range(10000, 20000)]
    assert meant_id(name, pa.chunked_array([many, ["rs77777"]])) == said
