"""Train networks, apply a trained network to a dataset, and export it to ONNX files."""
