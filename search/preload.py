"""What every worker needs, imported once in the process that workers are forked from, otherwise in each of them."""

import gc

# Python's collector of cycles would look through half a million new objects again and again, in vain: a quarter of the
# time. Once frozen, they are not looked through by that of a worker either.
gc.disable()

import pytorch_lightning  # noqa: E402, F401
import torch  # noqa: E402, F401

import models.memory  # noqa: E402
import models.offspring  # noqa: E402
import models.probes  # noqa: E402, F401
import search.worker  # noqa: E402, F401

gc.freeze()
gc.enable()
