"""What every run over a data set shares: processes, a manifest, pictures opened ahead, and full disks."""
