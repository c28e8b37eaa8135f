"""Faults, injected for real: processes are killed, disks are full, files are damaged (docs/reliability.md)."""
