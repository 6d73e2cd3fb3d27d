"""YOLOv3-Res2Net50: network, targets, loss, decoding, data, training."""
