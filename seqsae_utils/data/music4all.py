"""Music4All and Music4All-Onion: who listened to which song, and when.

Both are histories of Last.fm, a line for each listen, in files of tab-separated columns below a
line of names. Most listens are repeats: the first one of each user and song is kept, and the rest
is counted. It is kept while reading, block by block, so that memory follows the pairs of user and
song (50 million in Onion), not the listens (253 million).

* Music4All [1]_, as its authors send it: ``listening_history.csv`` (user, song, timestamp as in
  ``2019-01-20 14:36``), ``id_genres.csv`` (id, genres separated by commas), ``id_information.csv``
  (id, artist, song, album_name).
* Music4All-Onion [2]_, the same songs with more listeners, Zenodo record 15394646:
  ``userid_trackid_timestamp.tsv.bz2`` (user_id, track_id, timestamp as in ``2019-01-20 14:36:00``)
  and ``id_genres_tf-idf.tsv.bz2`` (id, and a column of weights for each of 685 genres; above 0
  means that the song has it). It names neither artists nor songs: put ``id_information.csv`` of
  Music4All beside them, else a song is called by its id. Unpacked files (``.tsv``) do too.

Written from what others report of these files, not from the files: names, columns, separators and
sizes are agreed on by several. Not reported are the order of the rows in Music4All (Onion's are the
newest first), so either is taken, and whether a title that holds quotation marks is quoted as in
CSV, so both are read. Times bear no zone; they are taken as UTC.

.. [1] Santana et al., Music4All: A New Music Database and Its Applications, IWSSIP 2020.
.. [2] Moscati et al., Music4All-Onion: A Large-Scale Multi-faceted Content-Centric Music
   Recommendation Dataset, CIKM 2022, doi:10.1145/3511808.3557656.
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
    """The first listen of each user and song, and how many others there are.

    `tables` are the blocks of a file, with columns user, song and time. Listens come in the order
    of the rows, or, where the file runs back in time as Onion's does, in the opposite one: so that
    listens of the same time stay in the order of listening.
    """
    kept, n_read, ahead = [], 0, 0
    for table in tables:
        user, song, time = table.columns
        listens = pd.DataFrame(
            {
                "user_id": user.dictionary_encode().to_pandas(),
                "item_id": song.dictionary_encode().to_pandas(),
                "timestamp": time.cast(pa.int64()).to_numpy(),
            }
        )
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
    listens["rating"] = np.float32("nan")
    columns = ["user_id", "item_id", "rating", "timestamp"]
    return listens[columns], n_read - len(listens)


def _merged(pieces: list[pd.DataFrame]) -> pd.DataFrame:
    """The earliest listen of each user and song, in the order of the rows.

    Ids are categoricals, which hold each text once, here in alphabetical order.
    """
    ids = ["user_id", "item_id"]
    merged = pd.DataFrame({"timestamp": np.concatenate([piece["timestamp"] for piece in pieces])})
    for name in ids:
        columns = [piece[name] for piece in pieces]
        merged[name] = union_categoricals(columns, sort_categories=True)
    first = merged.sort_values("timestamp", kind="stable").drop_duplicates(ids)
    return first.sort_index(ignore_index=True)
