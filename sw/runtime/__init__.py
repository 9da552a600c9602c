"""Runs what the compiler made: host nodes on torch, layers on a device, the same call on each."""
