"""What is known of the shapes of a graph's values, by onnx's shape inference and what it can be told.

known.py      the shapes and element types of one graph's values
recovery.py   inference again, node by node, where it lost a shape that an integer expression decides
contents.py   what is known of the elements of an integer expression
operators.py  how elements depend on elements: the operators that contents are followed through
"""

from bnfold.shapes.known import Shapes

__all__ = ["Shapes"]
