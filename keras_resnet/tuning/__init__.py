"""Search for a better recipe: keras-tuner proposes variants, and `train` trains them.

Every trial is an ordinary run in the search's folder. Several processes can share one search. This
requires a folder on shared storage and keras-tuner's environment variables: `KERASTUNER_ORACLE_IP`,
`KERASTUNER_ORACLE_PORT` and `KERASTUNER_TUNER_ID`. The last is "chief" for the process that
proposes and does not train, and any other name for each process that trains.
"""
