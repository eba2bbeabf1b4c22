"""The network that a run starts with, its tokenizer, and whether both fit the run."""

from pathlib import Path

import torch

from minimind_ref.config import ModelConfig
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.interop.state_dict import load_weights
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.run_folder import find_weights, read_network, read_weights
from minimind_ref.train.settings import Settings


def initial_config(source: str) -> ModelConfig:
    """The network that the weights to start from belong to."""
    return read_network(Path(source))[0].config


def initial_weights(source: str) -> str:
    """The file behind `--init_from`: a run folder may later be written to by this very run."""
    return str(find_weights(Path(source)))


def build(config: ModelConfig, settings: Settings) -> Transformer:
    """The network with its initial weights: from the seed, or strictly those of `init_from`."""
    model = Transformer(config, generator=torch.Generator().manual_seed(settings.seed))
    if settings.init_from is not None:
        path, state = read_weights(Path(settings.init_from), config)
        load_weights(model, state, path)
    return model


def load_tokenizer(settings: Settings, config: ModelConfig) -> Tokenizer:
    """The tokenizer asked for, else the one beside the initial weights, else the shipped one; ValueError if unfit."""
    chosen = settings.tokenizer
    if chosen is None and settings.init_from is not None:
        source = Path(settings.init_from)
        beside = (source if source.is_dir() else source.parent) / "tokenizer.json"
        chosen = str(beside) if beside.exists() else None
    tokenizer = Tokenizer.load(chosen)
    check_vocabulary(tokenizer, config)
    return tokenizer


def check_length(length: int, config: ModelConfig) -> None:
    """Refuse rows that are longer than the rotary table."""
    limit = config.max_position_embeddings
    if length > limit:
        raise UserError(f"--max_seq_len {length} is more than the network's max_position_embeddings={limit}")


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Refuse a tokenizer whose ids the embedding does not hold."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries, more than the network's vocab_size={config.vocab_size}"
        )
