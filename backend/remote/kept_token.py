"""The token of this machine at a hub: shared by its processes through the kept login, and replaced in time.

The new token is kept before it counts, and the old one counts until the new one was used once. A machine that
dies at any point in between goes on with the one that it has kept. A process that still has the old one reads
the login again when the hub refuses it (`HubClient`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

import trio

from backend.errors import DriveError, NotFoundError, TransientError
from backend.remote.hub_account import HubAccount
from backend.remote.logins import HubLogin, Logins
from backend.system import THIS_MACHINE, Environment

PERIOD: Final = 86400.0
"""Seconds between two questions whether the token is to be replaced."""
_SOON: Final = 60.0
"""Before the first one at most, and about so long after a failure; twice as long after each more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptToken:
    """See the module. `login`: as the process read it; other processes may keep another token meanwhile."""

    logins: Logins
    login: HubLogin

    def read(self) -> bytes:
        """The token that is kept now; empty where the login has ended, or is of another device. Blocks; any
        thread."""
        try:
            kept = self.logins.load(self.login.url)
        except (DriveError, OSError):
            return b""
        return kept.token if kept.device == self.login.device else b""

    async def replace(self, account: HubAccount) -> HubLogin:
        """The login with another token, kept and in use; `account` goes on with it. `TransientError`: another
        process of this machine is at it, or the hub is away: the token that is kept counts; `NotFoundError`:
        the login has ended, or is of another device; `OSError`: the login cannot be kept, and the old token
        counts. What `HubAccount.rotate` raises."""
        with self.logins.alone(self.login.url) as is_alone:
            if not is_alone:
                raise TransientError("another process of this machine is replacing its token")
            kept = await trio.to_thread.run_sync(self._load)
            # Another process may have died before it used what it kept: a hub to which that is shown counts
            # it from now on, and would give it up for the next token otherwise.
            account.use_token(kept.token)
            # The answer is asked for once: one that comes late would void the token that a second one gave.
            new = replace(kept, token=await account.rotate(kept.device))
            await trio.to_thread.run_sync(self._save, new, kept)
            account.use_token(new.token)
            await account.summary()
        return new

    def _load(self) -> HubLogin:
        """The login, of the same device. Blocks."""
        kept = self.logins.load(self.login.url)
        if kept.device != self.login.device:
            raise NotFoundError("this machine has logged in anew: mount anew to use that login")
        return kept

    def _save(self, new: HubLogin, kept: HubLogin) -> None:
        """Unless somebody has logged out or in while the hub was asked. Blocks."""
        if self._load() != kept:
            raise TransientError("the login was changed while its token was replaced")
        self.logins.save(new)

    async def run(self, account: HubAccount, environment: Environment = THIS_MACHINE) -> None:
        """Have the token replaced whenever the hub says that it is due; for ever."""
        await trio.sleep(environment.chance(0.0, _SOON))
        again = _SOON
        while True:
            try:
                await self._replace_if_due(account)
                again = _SOON
                await trio.sleep(PERIOD)
            except (DriveError, OSError) as error:
                log.info("%s: whether the token is due is asked later: %s", self.login.url, error)
                await trio.sleep(environment.chance(0.75 * again, again))
                again = min(2 * again, PERIOD)

    async def _replace_if_due(self, account: HubAccount) -> None:
        if (await account.summary()).token_is_due:
            await self.replace(account)
            log.info("%s: this machine has another token", self.login.url)
