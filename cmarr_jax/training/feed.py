"""Brings utterances to the devices: all of them once, or those of the next few steps."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.training.layout import Layout
from cmarr_jax.training.train_step import Arrays

_CHUNK = 32 << 20  # bytes of features that are on the devices at once, while the next are read


class Feed:
    """A corpus, in the portions that the steps of a sweep ask for.

    Features in memory are put on every device once. Features on disk are read in chunks of fixed
    size, as many steps as fit in one, by a thread that is one chunk ahead. The steps see the same
    numbers in both cases.
    """

    def __init__(self, corpus: Corpus, layout: Layout):
        self._corpus, self._layout = corpus, layout
        self._all = None
        if not corpus.on_disk:
            everything = Arrays(corpus.features, corpus.mask, corpus.present)
            if corpus.dropped is not None:
                everything = everything._replace(learnable=corpus.learnable)
            if corpus.rows:
                everything = everything._replace(rows=dict(corpus.rows))
            self._all = layout.share(everything)

    def steps(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, Arrays[jax.Array]]]:
        """Splits `order` `[R, S, B]`, rows of the corpus with -1 for none, into chunks of steps.

        Yields:
          Rows `[R, S', B]` and the arrays on the devices that these rows count in. S' is the same
          for all chunks; steps that fill up the last chunk are -1.
        """
        if self._all is not None:
            yield order, self._all
            return
        runs, steps, batch = order.shape
        size = sum(x.nbytes for x in self._corpus.features.values()) // len(self._corpus.labels)
        at_once = max(1, _CHUNK // (runs * batch * size))
        order = np.pad(order, [(0, 0), (0, -steps % at_once), (0, 0)], constant_values=-1)
        chunks = np.split(order, range(at_once, order.shape[1], at_once), axis=1)
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, chunks[0])
            for following in [*chunks[1:], None]:
                here = coming.result()
                if following is not None:
                    coming = reader.submit(self._read, following)
                yield here

    def _read(self, chunk: np.ndarray) -> tuple[np.ndarray, Arrays[jax.Array]]:
        corpus = self._corpus
        wanted = np.unique(chunk[chunk >= 0]).astype(np.int32)
        rows = np.where(chunk < 0, -1, np.searchsorted(wanted, chunk)).astype(np.int32)
        # One shape for all chunks, so that one program serves them.
        wanted = np.resize(wanted, min(chunk.size, len(corpus.labels)))
        features = {m: values[wanted] for m, values in corpus.features.items()}
        arrays = Arrays(features, corpus.mask[wanted], corpus.present[wanted], wanted)
        if corpus.dropped is not None:
            arrays = arrays._replace(learnable=corpus.learnable[wanted])
        if corpus.rows:
            arrays = arrays._replace(rows={m: x[wanted] for m, x in corpus.rows.items()})
        return rows, self._layout.share(arrays)
