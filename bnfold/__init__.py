"""bnfold folds BatchNormalization of ONNX models into the weights around it, and shows that outputs match."""

__version__ = "0.1.0"
