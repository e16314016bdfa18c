"""Requests to servers of tests by plain HTTP. By itself httpx reads all certificates for each, in 40 ms."""

from __future__ import annotations

from functools import partial
from typing import Final

import httpx

get: Final = partial(httpx.get, verify=False)
put: Final = partial(httpx.put, verify=False)
post: Final = partial(httpx.post, verify=False)
delete: Final = partial(httpx.delete, verify=False)
request: Final = partial(httpx.request, verify=False)
