"""The rows of `packing` over a token file, one at a time: nothing is materialised."""

from __future__ import annotations

from torch.utils.data import Dataset

from minimind_ref.data.packing import Rows, packed_row, padded_row
from minimind_ref.data.packing_checks import check_length
from minimind_ref.data.token_file import TokenFile


class FirstRows(Dataset[Rows]):
    """The first `count` rows of others."""

    def __init__(self, rows: PackedRows | PaddedRows, count: int) -> None:
        self.rows, self.count = rows, min(count, len(rows))
        self.packed, self.length, self.pad_id = rows.packed, rows.length, rows.pad_id

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Rows:
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        return self.rows[row]


class PackedRows(Dataset[Rows]):
    """Row i of `pack(documents, length)`, with the file's mask if it has one, read when it is asked for."""

    packed = True

    def __init__(self, tokens: TokenFile, length: int, *, pad_id: int = 0) -> None:
        check_length(length)
        self.tokens, self.length, self.pad_id = tokens, length, pad_id

    def __len__(self) -> int:
        return -(-self.tokens.num_tokens // self.length)

    def __getitem__(self, row: int) -> Rows:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        begin = row * self.length
        end = min(begin + self.length + 1, self.tokens.num_tokens)
        starts = self.tokens.starts(begin, end) - begin
        supervised = self.tokens.supervised_slice(begin, end)
        return packed_row(self.tokens.slice(begin, end), starts, self.length, pad_id=self.pad_id, supervised=supervised)


class PaddedRows(Dataset[Rows]):
    """Row i of `pad(documents, length)`: document i, cut or padded.  keep_end: None for where documents are wrapped."""

    packed = False

    def __init__(self, tokens: TokenFile, length: int, *, pad_id: int = 0, keep_end: bool | None = None) -> None:
        check_length(length)
        self.tokens, self.length, self.pad_id = tokens, length, pad_id
        self.keep_end = tokens.wrap if keep_end is None else keep_end

    def __len__(self) -> int:
        return self.tokens.num_documents

    def __getitem__(self, row: int) -> Rows:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        document, supervised = self.tokens.document(row), self.tokens.supervised(row)
        return padded_row(document, self.length, pad_id=self.pad_id, keep_end=self.keep_end, supervised=supervised)


class SupervisedRows(PaddedRows):
    """Row i is document i, padded on the right, its labels the tokens that the file marks as supervised.

    A document that is longer is cut on the right; what is left of a span that is cut is learnt.
    """

    def __init__(self, tokens: TokenFile, length: int, *, pad_id: int) -> None:
        if not tokens.is_supervised:
            raise ValueError(f"{tokens.stem}: does not say which tokens are supervised")
        super().__init__(tokens, length, pad_id=pad_id, keep_end=False)
