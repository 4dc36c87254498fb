"""One fine-tuning run through the Trainer of transformers: attach a tuner to a backbone, train, answer."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from studies import _tasks
from studies._tuners import LIMITS, Tuner


def attach(task: _tasks.Task, tuner: Tuner, seed: int) -> Any:
    """A fresh copy of the backbone, a fresh head that depends on the seed alone, and the tuner."""
    import torch

    model = task.backbone.model(task.classes, task.layers)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.classifier.weight.normal_(0.0, 0.02)
        model.classifier.bias.zero_()
    if tuner.kind == LIMITS:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(tuner.label == "everything" or in_head(name, task.backbone))
        return model
    import peft

    targets = task.backbone.places[tuner.place]
    with _tasks.quiet():
        return peft.get_peft_model(model, tuner.configuration(targets, task.backbone.head))


def in_head(name: str, backbone: _tasks.Backbone) -> bool:
    """Is the parameter of this name one of the head?"""
    return any(part in backbone.head for part in name.split("."))


def groups(model: Any, backbone: _tasks.Backbone) -> tuple[list[Any], list[Any]]:
    """Trainable parameters of the tuner, and of the head."""
    trained = [(name, q) for name, q in model.named_parameters() if q.requires_grad]
    return [q for n, q in trained if not in_head(n, backbone)], [q for n, q in trained if in_head(n, backbone)]


def run(task: _tasks.Task, tuner: Tuner, rate: float, seed: int, p: dict[str, Any]) -> tuple[Any, float]:
    """The trained model and the CPU seconds of its training.

    The head has the same learning rate with every tuner (alone it has the one that is searched). Batches and their
    order depend on the seed alone.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    model = attach(task, tuner, seed)
    body, head = groups(model, task.backbone)
    rates = [{"params": body, "lr": rate}, {"params": head, "lr": p["head_rate"] if body else rate}]
    optimiser = torch.optim.AdamW([g for g in rates if g["params"]], weight_decay=p["decay"])
    data = [b for epoch in range(p["epochs"]) for b in _tasks.batches(task.train, p["batch"], 1000 * seed + epoch)]
    with tempfile.TemporaryDirectory() as folder, _tasks.quiet():
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=1,  # the items of the data set are batches
            lr_scheduler_type="linear",
            warmup_steps=round(p["warm_up"] * len(data)),
            seed=seed,
            data_seed=seed,
            use_cpu=True,
            bf16=p["bf16"],
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model, settings, data_collator=first, train_dataset=data, optimizers=(optimiser, None))
        trainer.remove_callback(PrinterCallback)
        start = time.process_time()
        trainer.train()
        return model, time.process_time() - start


def first(items: list[Any]) -> Any:
    """The batch in a list of one batch."""
    return items[0]


def right(model: Any, examples: list[_tasks.Example], p: dict[str, Any]) -> Any:
    """Which examples the model answers rightly, as an array of booleans."""
    import torch

    order = np.argsort([_tasks.extent(e) for e in examples], kind="stable")
    answers = np.zeros(len(examples), dtype=bool)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=p["bf16"]):
        for start in range(0, len(order), 64):
            some = order[start : start + 64]
            inputs = _tasks.batch([examples[i] for i in some])
            labels = inputs.pop("labels")
            answers[some] = (model(**inputs).logits.argmax(dim=-1) == labels).numpy()
    return answers


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
