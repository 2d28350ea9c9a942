"""ONNX, in QDQ form where the program is quantized."""
