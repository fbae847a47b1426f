"""Search for a better recipe: keras-tuner proposes, `train` tries.

Every trial is a run as any other, in a folder of the search's. Several processes share one search where keras-tuner's
variables are set: `KERASTUNER_TUNER_ID` ("chief" for the one that proposes and does not train, any other name for each
that trains), `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`, and the folder is on storage that all of them see.
"""

from .folder import Search
from .oracle import Algorithm
from .space import AXES
from .tuner import search

__all__ = ["AXES", "Algorithm", "Search", "search"]
