"""The credentials of a node that are used now, and when they are read again.

Who has none, or those of a file that changed, or those that ended, waits until they are read. From five
minutes before they end they are read again beside, every half minute until there are others; the old ones are
good meanwhile, however long that takes and however often it fails. Any thread; what reads blocks.
"""

from __future__ import annotations

import datetime
import logging
import math
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from backend.nodes.object_store.credentials import CredentialsError, CredentialSource, Secrets
from backend.system import THIS_MACHINE, Environment

RENEWED_BEFORE: Final = datetime.timedelta(minutes=5)
PAUSE: Final = 30.0
THREAD: Final = "credentials"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What was read, None where there is nothing to be read; and the stamp of where, from before."""

    secrets: Secrets | None
    stamp: object

    def ends_before(self, moment: datetime.datetime) -> bool:
        """Whether they do."""
        if self.secrets is None or self.secrets.expires_at is None:
            return False
        return self.secrets.expires_at < moment


class CurrentCredentials:
    """Of one source. Their end is a time of the wall clock."""

    def __init__(self, source: CredentialSource, environment: Environment = THIS_MACHINE) -> None:
        self._source = source
        self._environment = environment
        self._clock = environment.boot_clock
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._renewed_from = -math.inf

    def get(self) -> Reading:
        """As good as can be had. `CredentialsError`."""
        with self._lock:
            reading = self._reading
            if reading is None or self._source.stamp() != reading.stamp:
                return self._read()
            if self._clock() < self._renewed_from or not self._ends_within(reading, RENEWED_BEFORE):
                return reading
            if self._ends_within(reading, datetime.timedelta()):
                return self._read()
            self._renewed_from = self._clock() + PAUSE
            with suppress(RuntimeError):  # no thread is to be had: tried again after the pause
                threading.Thread(target=self._renew, args=(reading,), name=THREAD, daemon=True).start()
            return reading

    def after_refusal(self, refused: Reading) -> Reading:
        """They are read again, unless that was done since; the same may come. `CredentialsError`."""
        with self._lock:
            return self._read() if self._reading is None or self._reading is refused else self._reading

    def _ends_within(self, reading: Reading, time_left: datetime.timedelta) -> bool:
        now = datetime.datetime.fromtimestamp(self._environment.wall_clock() / 1e9, datetime.UTC)
        return reading.ends_before(now + time_left)

    def _read(self) -> Reading:
        stamp = self._source.stamp()
        self._reading = Reading(self._source.read(), stamp)
        self._renewed_from = self._clock() + PAUSE
        return self._reading

    def _renew(self, before: Reading) -> None:
        try:
            after = Reading(self._source.read(), before.stamp)
        except CredentialsError as error:
            log.warning("credentials that end soon could not be read again, the old ones are used: %s", error)
            return
        with self._lock:
            if self._reading is before:
                self._reading = after
