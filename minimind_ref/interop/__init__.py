"""Weights of others: MiniMind's .pth files and Hugging Face's folders, both ways."""

from minimind_ref.interop.huggingface import load_huggingface, save_huggingface, stop_ids
from minimind_ref.interop.minimind import load_minimind, save_minimind

__all__ = ["load_huggingface", "load_minimind", "save_huggingface", "save_minimind", "stop_ids"]
