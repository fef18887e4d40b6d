"""Everything about a run that is neither model, data nor optimizer."""

train = dict(
    output_dir="./output",
    init_checkpoint="",
    init_partial=False,  # accept weights of other shapes, left at their initial value
    max_iter=1,
    seed=0,  # order of images, augmentation and sampling follow from it
    accumulate=1,  # micro-batches an optimizer step; the batch size stays
    clip_grad_norm=None,  # the gradient's 2-norm is limited to this
    reference_batch=8,  # the batch that optimizer.lr was chosen for
    reference_images=None,  # training images that max_iter was chosen for; --dataset fits the schedule by it
    scale_lr=False,  # scale optimizer.lr linearly with the batch
    channels_last=False,  # memory layout of weights and maps
    compile=False,  # the backbone, by torch.compile
    amp=dict(enabled=False, dtype="bfloat16"),
    tta=dict(enabled=False, scales=[0.75, 1.0, 1.25], flip=True),  # evaluate on several sizes, flipped too
    report=dict(
        enabled=False, score_threshold=None
    ),  # of data and evaluation: tables and pictures; null: best F1
    ema=dict(enabled=False, decay=0.9998),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    checkpointer=dict(period=5000, max_to_keep=3),
    eval_period=5000,
    best_metric="segm/AP",  # model_best.pth keeps the highest
    log_period=20,
    class_names=None,  # taken from the data, so that the saved config knows them
    device="cuda",  # the CPU is used, with a message, where there is no GPU
)
