"""Music4All and Music4All-Onion: who listened to which song, and when.

Both are histories of Last.fm, one tab-separated line a listen. Only the first listen of each user
and song is kept while reading: memory follows the pairs (50 million in Onion), not the listens
(253 million).

* Music4All (Santana et al., IWSSIP 2020): ``listening_history.csv`` (user, song, timestamp as in
  ``2019-01-20 14:36``), ``id_genres.csv`` (id, genres separated by commas), ``id_information.csv``
  (id, artist, song, album_name).
* Music4All-Onion (Moscati et al., CIKM 2022, doi:10.1145/3511808.3557656, Zenodo 15394646):
  ``userid_trackid_timestamp.tsv.bz2`` (user_id, track_id, timestamp with seconds) and
  ``id_genres_tf-idf.tsv.bz2`` (id, and a weight for each of 685 genres; above 0 means that the song
  has it), packed or not. A song is called by its id without ``id_information.csv``.

Nobody reports the order of the rows in Music4All (Onion's are newest first) and whether titles are
quoted: both ways are read. Times have no zone; they are taken as UTC.
"""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import union_categoricals


def unquoted(text: str) -> str:
    """Text without the quotation marks that CSV puts around it.

    >>> print(unquoted('"Live at ""The Barn"", 2"'), unquoted('"Live" or "dead"'), sep="; ")
    Live at "The Barn", 2; "Live" or "dead"
    """
    quoted = re.fullmatch(r'"((?:[^"]|"")*)"', text)
    return quoted[1].replace('""', '"') if quoted else text


def first_listens(tables) -> tuple[pd.DataFrame, int]:
    """The first listen of each user and song, as `Raw.interactions`, and how many others there are.

    `tables` are the blocks of a file [user, song, time]. Listens keep the order of the rows, or the
    opposite one in a file that runs back in time as Onion's, so that ties keep that of listening.
    """
    kept, n_read, ahead = [], 0, 0
    for table in tables:
        user, song, time = table.columns
        listens = pd.DataFrame({"user_id": user.dictionary_encode().to_pandas()})
        listens["item_id"] = song.dictionary_encode().to_pandas()
        listens["timestamp"] = time.cast(pa.int64()).to_numpy()
        n_read += len(listens)
        same_user = np.diff(listens["user_id"].cat.codes) == 0
        ahead += np.sign(np.diff(listens["timestamp"]))[same_user].sum()
        kept.append(listens)
        # Merged when they have doubled: each listen is sorted a few times, and few wait.
        if sum(map(len, kept[1:])) > len(kept[0]):
            kept = [_merged(kept)]
    listens = _merged(kept)
    if ahead < 0:
        listens = listens[::-1].reset_index(drop=True)
    columns = ["user_id", "item_id", "rating", "timestamp"]
    return listens.assign(rating=np.float32("nan"))[columns], n_read - len(listens)


def _merged(pieces: list[pd.DataFrame]) -> pd.DataFrame:
    """The earliest listen of each user and song, in the order of the rows; ids are categoricals."""
    ids = ["user_id", "item_id"]
    merged = pd.DataFrame({"timestamp": np.concatenate([piece["timestamp"] for piece in pieces])})
    for name in ids:
        columns = [piece[name] for piece in pieces]
        merged[name] = union_categoricals(columns, sort_categories=True)
    first = merged.sort_values("timestamp", kind="stable").drop_duplicates(ids)
    return first.sort_index(ignore_index=True)
