"""From text to batches: tokenizer, chat template, JSONL reading, packing, the built-in corpus."""
