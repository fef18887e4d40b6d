"""Everything about a run of a detector that is neither model, data nor optimizer; the keys: docs/settings.md."""

from lesa_d2.config.settings import default_train

train = default_train("detection")
train.reference_batch = 8  # the batch that optimizer.lr was chosen for
train.amp.dtype = "bfloat16"
train.best_metric = "segm/AP"
