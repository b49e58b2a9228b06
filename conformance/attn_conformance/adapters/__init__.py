"""Adapters: real multi-head attentions as the suite's Implementation, one module for each library.

An adapter translates, and repairs nothing that its library gets wrong.
"""

NEEDS = {
    "espnet": ("espnet2", "espnet", "pip install --no-deps espnet"),
    "nn_mha": ("torch", "torch", "pip install 'attn-conformance[torch]'"),
    "ort_attention": ("onnxruntime", "onnxruntime", "pip install 'attn-conformance[peers]'"),
    "torchtune": ("torchtune", "torchtune", "pip install torchtune torchao"),
    "whisper": ("whisper", "openai-whisper", "pip install openai-whisper"),
}
"""By module: the package that is imported, the distribution that has its version, and how to get it."""
