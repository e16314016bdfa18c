"""The power goes while objects are put: what was answered is there, and every object is whole."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import trio

from gateway.s3.objects import ObjectLayer
from tests.contents import KINDS
from tests.contents import content as made_of
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.drives import QUIET
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, get, keys, layer_on, put

KEYS = (b"a", b"a/b", b"c/d/e", b"c")
SIZES = (0, 10, 900, 5000, 30_000)


class Clients:
    """Put until they are cancelled. `may_be`: by key, what it may be now: the last that was answered, or what
    was begun since."""

    def __init__(self, layer: ObjectLayer, chance: random.Random, may_be: dict[bytes, list[bytes]]) -> None:
        self._layer = layer
        self._chance = chance
        self._may_be = may_be
        self.is_over = False
        """whether the power has gone"""

    async def run(self, key: bytes) -> None:
        while True:
            kind, size = self._chance.choice(KINDS), self._chance.choice(SIZES)
            data = made_of(kind, size, self._chance.random().hex())
            self._may_be[key].append(data)
            await put(self._layer, key, data)
            if not self.is_over:  # an answer after it reaches nobody
                self._may_be[key] = [data]


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(8))
async def test_every_object_is_whole(tmp_path: Path, seed: int) -> None:
    chance, upstream = random.Random(seed), MemoryUpstream()
    folder, may_be = tmp_path / "state", {key: [b"first"] for key in KEYS}
    async with layer_on(folder, upstream, options=QUIET) as (layer, _):
        for key in KEYS:
            await put(layer, key, b"first")
    for _ in range(3):
        disk = LossyDurable(chance, tmp_path / "kept")
        with all_lossy(disk) as device:
            async with layer_on(folder, upstream, crash=True, environment=device) as (layer, drive):
                await until_the_power_goes(Clients(layer, chance, may_be), chance, disk)
                if chance.random() < 0.5:
                    drive.ledger.save()
        cut_all(disk, folder)
        upstream.lose_unflushed()
        async with layer_on(folder, upstream) as (layer, _):
            assert await keys(layer) == sorted(KEYS)
            for key in KEYS:
                data = await get(layer, key)
                assert data in may_be[key]
                assert layer.head(BUCKET, key).etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
                may_be[key] = [data]


async def until_the_power_goes(clients: Clients, chance: random.Random, disk: LossyDurable) -> None:
    async with trio.open_nursery() as nursery:
        for key in KEYS:
            nursery.start_soon(clients.run, key)
        for _ in range(chance.randint(0, 400)):
            await trio.lowlevel.checkpoint()
        disk.stop()
        clients.is_over = True
        nursery.cancel_scope.cancel()
