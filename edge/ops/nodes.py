"""A small builder for runs of ONNX nodes with readable names: ``boxes/row_maxima``,
``crop/grid`` …"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class NodeBuilder:
    """Collects nodes and their constants; a node and its output share one name under the prefix.

    Args:
        prefix: first part of every name (``boxes``).

    Attributes:
        nodes: NodeProtos in topological order.
        initializers: TensorProtos; equal constants are stored once.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, op_type: str, name: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Append one node; array inputs become initializers. Returns the name of its output
        value."""
        from onnx import helper

        value = output or f"{self.prefix}/{name}"
        names = [each if isinstance(each, str) else self.constant(each, f"{name}/{index}") for index, each in enumerate(inputs)]
        self.nodes.append(helper.make_node(op_type, names, [value], name=f"{self.prefix}/{name}", **attributes))
        return value

    def constant(self, array: np.ndarray, name: str) -> str:
        """The name of an initializer that holds ``array``."""
        from onnx import numpy_helper

        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"{self.prefix}/{name}"
            self.initializers.append(numpy_helper.from_array(array.copy(order="C"), self._constants[key]))
        return self._constants[key]


def floats(*values: float) -> np.ndarray:
    """A float32 constant: a scalar for one value, else a vector."""
    return np.array(values[0] if len(values) == 1 else values, dtype=np.float32)


def shape(*sizes: int) -> np.ndarray:
    """An int64 constant for Reshape and axes inputs."""
    return np.array(sizes, dtype=np.int64)
