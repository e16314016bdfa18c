"""The control socket of a mount: HTTP over a UNIX socket, for `drivefs`."""

from gateway.control.exchange import Send
from gateway.control.metrics import METRICS
from gateway.control.routes import Commands
from gateway.control.server import ControlServer

__all__ = ["METRICS", "Commands", "ControlServer", "Send"]
