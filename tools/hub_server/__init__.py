"""`drivefs-hub`: the server of many devices, and what its operator does. Needs the extra `drivefs[hub]`."""
