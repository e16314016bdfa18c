"""The machine that a mount runs on: mounts, folders, disks, the daemon, logs."""
