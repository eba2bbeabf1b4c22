"""Wrong rows: packed and padded documents whose labels, segments, positions or tokens are not theirs."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.packing import pack, pad


def shifted(rows, distance=1):
    """Give each column the token `distance` further on in its row, -100 beyond the end."""
    late = np.full_like(rows, -100)
    late[:, : rows.shape[1] - distance] = rows[:, distance:]
    return late


@mutant("pack", "PACKING-M01", owner="PACKING-6", summary="a document's last token predicts the next document's first",
        source="MiniMind #459, axolotl #1375 (ATT-12)")  # fmt: skip
def labels_cross_documents(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    stream = np.append(rows.input_ids.ravel()[rows.segment_ids.ravel() >= 0][1:], -100)
    labels = np.full(rows.labels.size, -100)
    labels[: len(stream)] = stream
    return rows._replace(labels=labels.reshape(rows.labels.shape))


@mutant("pack", "PACKING-M02", owner="PACKING-4", summary="positions run through the whole row",
        source="LlamaFactory PR #7318 (ATT-12)")  # fmt: skip
def positions_run_on(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(position_ids=np.where(rows.segment_ids >= 0, np.arange(length), 0))


@mutant("pack", "PACKING-M03", owner="PACKING-3", summary="a row is one segment",
        source="axolotl PR #131, nanoVLM PR #204 (ATT-12)")  # fmt: skip
def one_segment(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(segment_ids=np.minimum(rows.segment_ids, 0))


@mutant("pack", "PACKING-M04", owner="PACKING-7", source="trl #976, #988 (TOK-2)",
        summary="padding is known by its id, so that a document's own is not learnt")  # fmt: skip
def padding_by_id(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(labels=np.where(rows.labels == pad_id, -100, rows.labels))


@mutant("pack", "PACKING-M05", owner="PACKING-5", summary="the last label of every row is lost",
        source="labels shifted within the row")  # fmt: skip
def last_label_lost(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(labels=np.where(np.arange(length) < length - 1, rows.labels, -100))


@mutant("pack", "PACKING-M06", owner="PACKING-5", summary="labels are the tokens themselves",
        source="transformers #27517 (LOS-2)")  # fmt: skip
def labels_not_shifted(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(labels=np.where(rows.labels >= 0, rows.input_ids, -100))


@mutant("pack", "PACKING-M07", owner="PACKING-5", summary="labels are the tokens after the next",
        source="transformers #47394: shifted by the data and by the loss (LOS-1)")  # fmt: skip
def labels_shifted_twice(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(labels=shifted(rows.labels))


@mutant("pack", "PACKING-M08", owner="PACKING-1", summary="the incomplete last row is dropped",
        source="whole blocks only")  # fmt: skip
def last_row_dropped(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    whole = max(sum(map(len, documents)) // length, 1)
    return type(rows)(*(part[:whole] for part in rows))


@mutant("pack", "PACKING-M09", owner="PACKING-4", summary="positions go on where a document goes on in the next row",
        source="positions of the document, not of the piece")  # fmt: skip
def positions_of_the_document(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    positions = np.zeros(rows.position_ids.size, np.int64)
    own = [i for document in documents for i in range(len(document))]
    positions[: len(own)] = own
    return rows._replace(position_ids=positions.reshape(rows.position_ids.shape))


@mutant("pack", "PACKING-M10", owner="PACKING-3", summary="segments number the documents, not a row's pieces",
        source="an index of the data set")  # fmt: skip
def segments_number_documents(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    segments = np.full(rows.segment_ids.size, -1)
    own = [d for d, document in enumerate(documents) for _ in document]
    segments[: len(own)] = own
    return rows._replace(segment_ids=segments.reshape(rows.segment_ids.shape))


@mutant("pack", "PACKING-M11", owner="PACKING-7", summary="padding is learnt", source="verl #3805 (RL-8)")
def padding_learnt(documents, length, *, pad_id=0, **more):
    rows = pack(documents, length, pad_id=pad_id, **more)
    return rows._replace(labels=np.where(rows.segment_ids >= 0, rows.labels, pad_id))


@mutant("pack", "PACKING-M12", owner="PACKING-2", summary="a document that does not fit starts a new row",
        source="greedy packing in place of a stream")  # fmt: skip
def new_row_for_each_that_does_not_fit(documents, length, *, pad_id=0, **more):
    groups = [[]]
    for d, document in enumerate(documents):
        if groups[-1] and sum(len(documents[i]) for i in groups[-1]) + len(document) > length:
            groups.append([])
        groups[-1].append(d)
    masks = more.get("supervised") or [[1] * len(document) for document in documents]
    made = [pack([documents[i] for i in g], length, pad_id=pad_id, supervised=[masks[i] for i in g]) for g in groups]
    return type(made[0])(*(np.concatenate(parts) for parts in zip(*made, strict=True)))


@mutant("pad", "PACKING-M13", owner="PACKING-10", summary="a token that was cut off is the last label",
        source="labels shifted before the cut (TRL PR #2209)")  # fmt: skip
def label_beyond_the_cut(documents, length, *, pad_id=0, keep_end=False, **more):
    rows = pad(documents, length, pad_id=pad_id, keep_end=keep_end, **more)
    for row, document in enumerate(documents):
        if len(document) > length and not keep_end:
            rows.labels[row, -1] = document[length]
    return rows


@mutant("pad", "PACKING-M14", owner="PACKING-9", summary="documents stand at the right end of their rows",
        source="left padding, as for generation")  # fmt: skip
def padded_on_the_left(documents, length, *, pad_id=0, keep_end=False, **more):
    rows = pad(documents, length, pad_id=pad_id, keep_end=keep_end, **more)
    empty = np.sum(rows.segment_ids < 0, axis=1)
    return type(rows)(*(np.stack([np.roll(r, n) for r, n in zip(part, empty, strict=True)]) for part in rows))


@mutant("pad", "PACKING-M15", owner="PACKING-14", summary="a cut document loses its end token",
        source="trl #1623, PR #3091 (TOK-3)")  # fmt: skip
def end_lost(documents, length, *, pad_id=0, keep_end=False, **more):
    return pad(documents, length, pad_id=pad_id, **more)


@mutant("pack", "PACKING-M16", owner="PACKING-15", summary="the mask belongs to the token, not to the one it predicts",
        source="MiniMind #388, #416, mended in aa539a8 (SFT-1)")  # fmt: skip
def mask_of_the_token(documents, length, *, pad_id=0, supervised=None):
    moved = supervised and [[0, *mask[:-1]] for mask in supervised]
    return pack(documents, length, pad_id=pad_id, supervised=moved)
