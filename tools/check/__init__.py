"""The checks of fsck.drivefs."""
