"""What an Ascend node has and whether it is well: npu-smi, hccn_tool, sysfs, fault levels."""
