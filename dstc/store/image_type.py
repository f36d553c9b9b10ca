"""The type of an image in a table, as Hugging Face's `datasets` reads it."""

from __future__ import annotations

import pyarrow as pa

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""`bytes`: of the file. `path`: its name."""
