"""What fsck.drivefs proves."""
