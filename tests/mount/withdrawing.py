"""`bench.nullfs` that receives once, after a SIGUSR1 and one more request, although no request is there: as
when the process that sent one is killed between the look at the device and the read."""

from __future__ import annotations

import signal

from bench import nullfs
from mountfs import attachment
from mountfs.fuse_loop import PollingLoop


class WithdrawingLoop(PollingLoop):
    """See the module."""

    withdraws = False

    async def _next_request(self) -> None:
        if WithdrawingLoop.withdraws:
            WithdrawingLoop.withdraws = False
            return
        await super()._next_request()


def _withdraw(_number: int, _frame: object) -> None:
    WithdrawingLoop.withdraws = True


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _withdraw)
    vars(attachment)["PollingLoop"] = WithdrawingLoop
    nullfs.main()
