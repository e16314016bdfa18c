"""The control socket of a mount: HTTP over a UNIX socket, for `drivefs`."""

from gateway.control.routes import Commands, Status
from gateway.control.server import ControlServer

__all__ = ["Commands", "ControlServer", "Status"]
