"""A rehearsal node: npu-smi and hccn_tool of ours that answer from a file, with faults."""
