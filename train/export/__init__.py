"""Exports a trained model for other engines: onnx, transformers, gguf."""
