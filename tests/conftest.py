"""What all tests share: reproducible properties, one thread, a float64 default on request."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("ci")  # `pytest --hypothesis-profile=search` looks further
torch.set_num_threads(1)
# A shell that starts the tests in the background has Ctrl-C ignored, and some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 torch's default during a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
