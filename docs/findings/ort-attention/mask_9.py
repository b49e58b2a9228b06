"""MASK-9: a mask that is too long is cut, where its dtype is not that of q."""

# Seen in onnxruntime 1.32.0.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    def attention(q, k, v, mask=None):
        """The reference on one head of size 4."""
        return MultiHeadAttention(4, 1).qkv_attention(q, k, v, mask)
else:
    import onnxruntime
    from onnx import helper

    def attention(**inputs):
        """Attention with one head on inputs (B, L, D)."""
        kind = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in inputs.items()}
        infos = [helper.make_tensor_value_info(n, kind[n], a.shape) for n, a in inputs.items()]
        node = helper.make_node("Attention", list(inputs), ["y"], q_num_heads=1, kv_num_heads=1)
        result = [helper.make_tensor_value_info("y", kind["q"], None)]
        opset = [helper.make_opsetid("", 24)]
        graph = helper.make_graph([node], "attention", infos, result)
        model = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)[0]


x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
x = x.astype(np.float16)
try:
    attention(q=x, k=x, v=x, mask=np.zeros((3, 5), np.float32))
except Exception:
    sys.exit(0)
sys.exit("MASK-9: a mask (3, 5) was accepted for 3 keys")
