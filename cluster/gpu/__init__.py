"""What an NVIDIA node has and whether it is well: NVML by its maintained binding, and sysfs."""
