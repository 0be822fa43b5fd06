"""A fitted model as one ONNX graph that agrees with it."""
