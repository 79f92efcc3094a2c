"""Networks of other libraries in, and kanlib's out (``pip install kanlib[interop]``)."""
