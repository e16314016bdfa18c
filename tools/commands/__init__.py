"""The subcommands of `drivefs`."""
