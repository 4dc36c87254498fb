"""Every parameter count of LSR-Adapt and SURM, counted in models that were built (LSR-Adapt, section 4; SURM, section 4).

RoBERTa, BERT and ViT of 12 layers and width 768 are built without storage; adapters are put on their query and value
projections, or bottlenecks after their blocks, by sepmat.nn and, for the other methods, by PEFT; what would be trained is
counted. Counts that the papers print, or that follow from their formulas, are `expected`, and are compared one by one.
"""

import functools
import sys
import warnings
from typing import Any

import numpy as np

from studies import _study, _style

STATUS = "reproduced"
PRESETS: dict[str, dict[str, Any]] = {"smoke": {"rank_size": 48}, "paper": {"rank_size": 768}}
D, LAYERS = 768, 12
MATRICES = 2 * LAYERS  # query and value of each layer
LSR_TWO_ROWS = {"lsr_4": {"rank": 4, "terms": 16}, "lsr_16": {"rank": 16, "terms": 8}}

# name: label, how it is built (its options), the expected count of the whole model, where that stands
UPDATES: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "lsr_4": ("LSR-Adapt, inner rank 4, s = 16", "lsr", LSR_TWO_ROWS["lsr_4"], 86016, "LSR-Adapt"),
    "lsr_16": ("LSR-Adapt, inner rank 16, s = 8", "lsr", LSR_TWO_ROWS["lsr_16"], 86016, "LSR-Adapt, code"),
    "lora_8": ("LoRA r = 8", "lora", {"rank": 8}, 294912, "LSR-Adapt"),
    "lora_4": ("LoRA r = 4", "lora", {"rank": 4}, 147456, "formula"),
    "lora_1": ("LoRA r = 1", "lora", {"rank": 1}, 36864, "SURM"),
    "circulant": ("circulant, a ∘ b", "circulant", {"factors": 2}, 36864, "SURM"),
    "circulant_one": ("circulant, one vector", "circulant", {"factors": 1}, 18432, "SURM"),
    "toeplitz": ("T(b) T(a), symmetric", "symmetric_toeplitz", {"factors": 2}, 36864, "SURM"),
    "toeplitz_one": ("symmetric Toeplitz, one vector", "symmetric_toeplitz", {"factors": 1}, 18432, "SURM"),
    "kronecker_1": ("Kronecker 768×1 ⊗ 1×768", "kronecker", {"rank": 1}, 36864, "SURM"),
    "kronecker_16": ("Kronecker 48×16 ⊗ 16×48", "kronecker", {"rank": 16}, 36864, "SURM"),
    "ldr_1": ("circ(c) skew(s), 1 term", "ldr", {"rank": 1}, 36864, "SURM"),
    "krona": ("KronA 32×24 ⊗ 24×32", "kronecker", {"shapes": ((32, 24), (24, 32))}, 36864, "formula"),
    "kadaptation": ("KAdaptation t = 32, without biases", "kadaptation", {"terms": 32}, 40960, "formula"),
}
PEFT: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "peft_lora_8": ("LoRA r = 8", "LoraConfig", {"r": 8}, 12288),
    "peft_lora_16": ("LoRA r = 16", "LoraConfig", {"r": 16}, 24576),
    "dora": ("DoRA r = 8", "LoraConfig", {"r": 8, "use_dora": True}, 13056),
    "lokr": ("LoKr r = 8", "LoKrConfig", {"r": 8}, 1088),
    "loha": ("LoHa r = 8", "LoHaConfig", {"r": 8}, 24576),
    "vera": ("VeRA r = 256", "VeraConfig", {"r": 256}, 1024),
    "fourier": ("FourierFT 1000", "FourierFTConfig", {"n_frequency": 1000}, 1000),
    "c3a_768": ("C3A b = 768", "C3AConfig", {"block_size": 768}, 768),
    "c3a_256": ("C3A b = 256", "C3AConfig", {"block_size": 256}, 2304),
    "c3a_64": ("C3A b = 64", "C3AConfig", {"block_size": 64}, 9216),
    "boft": ("BOFT b = 4", "BOFTConfig", {"boft_block_size": 4}, 3840),
    "oft": ("OFT b = 32", "OFTConfig", {"oft_block_size": 32}, 11904),
    "hira": ("HiRA r = 8", "HiraConfig", {"r": 8}, 12288),
    "miss": ("MiSS r = 8", "MissConfig", {"r": 8}, 6144),
    "randlora": ("RandLoRA r = 32", "RandLoraConfig", {"r": 32}, 19200),
}
OF_SEPMAT = {  # the same through sepmat.peft
    "lsr_4": ("LSRConfig", {"r": 4, "terms": 16}),
    "lsr_16": ("LSRConfig", {"r": 16, "terms": 8}),
    "circulant": ("SURMConfig", {"structure": "circulant", "factors": 2}),
    "circulant_one": ("SURMConfig", {"structure": "circulant"}),
    "toeplitz": ("SURMConfig", {"structure": "symmetric_toeplitz", "factors": 2}),
    "kronecker_16": ("SURMConfig", {"structure": "kronecker", "r": 16}),
    "ldr_1": ("SURMConfig", {"structure": "ldr", "r": 1}),
    "surm_circulant": ("StructuredAdapterConfig", {"structure": "circulant", "factors": 2, "target_modules": None}),
}
BOTTLENECKS: dict[str, tuple[str, str, int | None, dict[str, Any], int]] = {
    "surm_circulant": ("circulant, a ∘ b, and bias", "circulant", None, {"factors": 2}, 55296),
    "surm_toeplitz": ("T(b) T(a), and bias", "symmetric_toeplitz", None, {"factors": 2}, 55296),
    "surm_kronecker": ("Kronecker 48×16 ⊗ 16×48, and bias", "kronecker", None, {"rank": 16}, 55296),
    "stored": ("one vector, and bias: what is stored", "circulant", None, {"factors": 1}, 36864),
    "houlsby_16": ("Houlsby, bottleneck 16", "dense", 16, {}, 608640),
    "houlsby_48": ("Houlsby, bottleneck 48", "dense", 48, {}, 1789056),
}
MODELS = {  # name: (class, configuration, query and value)
    "RoBERTa": ("RobertaModel", "RobertaConfig", ("query", "value")),
    "BERT": ("BertModel", "BertConfig", ("query", "value")),
    "ViT": ("ViTModel", "ViTConfig", ("q_proj", "v_proj")),
}
TABLE_1 = {  # LSR-Adapt, table 1: MRPC, SST-2, CoLA, RTE, CB, COPA, WSC, BoolQ; the printed average
    "LoRA": ([74.51, 94.43, 83.32, 68.23, 76.79, 57.39, 63.46, 75.41], 74.19),
    "KronA": ([76.57, 94.12, 82.59, 67.92, 79.23, 56.48, 63.46, 74.97], 74.42),
    "KAdaptation": ([77.68, 93.81, 83.16, 68.73, 78.63, 57.94, 63.46, 75.22], 74.69),
    "LSR-Adapt": ([80.88, 94.27, 83.41, 68.95, 82.14, 60.32, 63.46, 75.72], 76.14),
}


# counting ---------------------------------------------------------------------------------------------------------------


def model(name: str) -> Any:
    """The model in its default configuration, without storage."""
    import torch
    import transformers

    cls, config, _ = MODELS[name]
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers to itself
        return getattr(transformers, cls)(getattr(transformers, config)())


def trained(module: Any) -> int:
    """Parameters that an optimiser would get, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def of_update(name: str, structure: str, options: dict[str, Any]) -> int:
    from sepmat.nn import adapt

    return trained(adapt(model(name), MODELS[name][2], structure, **options))


def of_peft(name: str, config: str, options: dict[str, Any]) -> int:
    import peft

    import sepmat.peft

    source = sepmat.peft if config in sepmat.peft.__all__ else peft
    made = getattr(source, config)(**{"target_modules": list(MODELS[name][2])} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BOFT looks for a compiler
        return trained(peft.get_peft_model(model(name), made))


def of_bottleneck(name: str, structure: str, bottleneck: int | None, options: dict[str, Any]) -> int:
    from sepmat.nn import add_bottlenecks

    return trained(add_bottlenecks(model(name), structure, bottleneck, **options))


def update_rank(size: int, structure: str, options: dict[str, Any], rng: Any) -> int:
    """The rank of a random matrix of the structure, size × size, which is the largest that it can have."""
    import torch

    from sepmat.nn import parametrisation

    p = parametrisation(structure, (size, size), **options)
    draw = {k: torch.tensor(rng.standard_normal(shape)) for k, shape in p.parameter_shapes().items()}
    return int(np.linalg.matrix_rank(p.matrix(draw).to_dense().numpy()))


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Counts of all methods, and what the papers' percentages become."""
    jobs = {
        **{k: functools.partial(of_update, structure=s, options=o) for k, (_, s, o, _, _) in UPDATES.items()},
        **{k: functools.partial(of_peft, config=c, options=o) for k, (_, c, o, _) in PEFT.items()},
        **{
            k: functools.partial(of_bottleneck, structure=s, bottleneck=b, options=o)
            for k, (_, s, b, o, _) in BOTTLENECKS.items()
        },
    }
    _study.without_torchvision()
    counts = {name: job("RoBERTa") for name, job in _study.progress(jobs.items(), "models")}
    elsewhere = {
        other: {name: jobs[name](other) for name in ("lsr_4", "circulant", "toeplitz", "surm_circulant")}
        for other in MODELS
    }
    size = p["rank_size"]
    lsr, lora = counts["lsr_4"], counts["lora_8"]
    return {
        "counts": counts,
        "per_matrix": {name: counts[name] / MATRICES for name in (*UPDATES, *PEFT)},
        "models": elsewhere,
        "through_peft": {k: of_peft("RoBERTa", c, o) for k, (c, o) in OF_SEPMAT.items()},
        "kadaptation_with_biases": counts["kadaptation"] + LAYERS * D,
        "rank_size": size,
        "ranks": {
            name: update_rank(size, structure, options, rng)
            for name, (_, structure, options, _, _) in UPDATES.items()
            if size == D or name.startswith(("lsr", "lora", "circulant", "toeplitz"))
        },
        "percent_of_lora": {name: 100 * count / lora for name, count in counts.items()},
        "lsr_of_lora_8": 100 * lsr / lora,
        "lora_8_over_lsr": lora / lsr,
        "lsr_below_lora_16": 100 - 100 * lsr / counts["peft_lora_16"],
        "lora_16_over_lsr": counts["peft_lora_16"] / lsr,
        "lsr_of_lora_4": 100 * lsr / counts["lora_4"],
        "surm_in_millions": counts["circulant"] / 1e6,
        "surm_adapters_in_millions": counts["surm_circulant"] / 1e6,
        "lora_8_over_surm": lora / counts["circulant"],
        "houlsby_16_over_surm": counts["houlsby_16"] / counts["surm_circulant"],
        "houlsby_16_over_stored": counts["houlsby_16"] / counts["stored"],
        "houlsby_48_over_surm": counts["houlsby_48"] / counts["surm_circulant"],
        "averages": {name: np.mean(row) for name, (row, _) in TABLE_1.items()},
    }


# what holds -------------------------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The counts exactly, and each printed percentage."""
    counts, per = numbers["counts"], numbers["per_matrix"]
    surm = ("circulant", "toeplitz", "kronecker_1", "kronecker_16", "ldr_1", "lora_1")
    ranks = numbers["ranks"]
    return {
        "LSR-Adapt trains 3,584 parameters per 768 × 768 and 86,016 on query and value of 12 layers, in both its settings": (
            all(per[k] == 3584 and counts[k] == 86016 for k in LSR_TWO_ROWS)
        ),
        "LoRA r = 8 trains 12,288 and 294,912; sepmat.nn and PEFT agree": (
            per["lora_8"] == per["peft_lora_8"] == 12288 and counts["lora_8"] == counts["peft_lora_8"] == 294912
        ),
        "SURM's circulant, Toeplitz pair, Kronecker of any r and one term of low displacement rank train 36,864, as LoRA r = 1": (
            all(counts[k] == 36864 for k in surm)
        ),
        "one vector in place of two, which is all that is stored after merging: 18,432": (
            counts["circulant_one"] == counts["toeplitz_one"] == 18432
        ),
        "SURM's adapters train 55,296 and store 36,864; Houlsby's 608,640 with bottleneck 16 and 1,789,056 with 48": (
            [counts[k] for k in BOTTLENECKS] == [55296, 55296, 55296, 36864, 608640, 1789056]
        ),
        "KAdaptation trains 40,960, and 50,176 with one bias a layer, as its authors count": (
            counts["kadaptation"] == 40960 and numbers["kadaptation_with_biases"] == 50176
        ),
        "each of the 15 configurations of PEFT trains what its formula says": (
            all(per[k] == expected for k, (*_, expected) in PEFT.items())
        ),
        "sepmat.peft trains as many as sepmat.nn: LSR-Adapt, four structures of SURM, its adapters": (
            all(count == counts[k] for k, count in numbers["through_peft"].items())
        ),
        "RoBERTa, BERT and ViT of width 768 give the same counts": (
            all(
                m == {"lsr_4": 86016, "circulant": 36864, "toeplitz": 36864, "surm_circulant": 55296}
                for m in numbers["models"].values()
            )
        ),
        "LSR-Adapt has 29.2 % of the parameters of LoRA r = 8: less than the “almost half” of its abstract, more than its “almost 25 %”": (
            round(numbers["lsr_of_lora_8"], 1) == 29.2
        ),
        "“7× fewer” and “85 %” of its code's page hold against LoRA r = 16 (6.9×, 85.4 %), not against the r = 8 of its experiments (3.4×)": (
            round(numbers["lora_16_over_lsr"], 1) == 6.9
            and round(numbers["lsr_below_lora_16"], 1) == 85.4
            and round(numbers["lora_8_over_lsr"], 1) == 3.4
        ),
        "an LSR-Adapt update of 4 inner columns has rank 4, and 58.3 % of the parameters of the LoRA that can be any matrix of rank 4": (
            ranks["lsr_4"] == ranks["lora_4"] == 4 and round(numbers["lsr_of_lora_4"], 1) == 58.3
        ),
        "circulant and Toeplitz updates have full rank": (
            ranks["circulant"] == ranks["toeplitz"] == numbers["rank_size"]
        ),
        "SURM's 0.04 M (drop-in) and 0.06 M (adapters) are these counts, rounded": (
            round(numbers["surm_in_millions"], 2) == 0.04 and round(numbers["surm_adapters_in_millions"], 2) == 0.06
        ),
        "“up to 12× fewer” adapter parameters: 11.0× against bottleneck 16, 16.5× if stored vectors are counted, 32.4× against 48": (
            [round(numbers[f"houlsby_{k}"], 1) for k in ("16_over_surm", "16_over_stored", "48_over_surm")]
            == [11.0, 16.5, 32.4]
        ),
        "LSR-Adapt's table 1: three printed averages are those of their rows; KAdaptation's row has 74.83, not the printed 74.69": (
            all((abs(numbers["averages"][k] - v) < 0.01) == (k != "KAdaptation") for k, (_, v) in TABLE_1.items())
            and abs(numbers["averages"]["KAdaptation"] - 74.83) < 0.01
        ),
    }


def tables(numbers: dict[str, Any]) -> str:
    """Drop-ins, PEFT's methods, adapters."""
    counts, percent = numbers["counts"], numbers["percent_of_lora"]
    rows = []
    for name, (label, *_, expected, source) in UPDATES.items():
        rank = numbers["ranks"].get(name, "")
        rows.append(
            [label, per(numbers, name), f"{counts[name]:,}", f"{percent[name]:.1f} %", rank, f"{expected:,}", source]
        )
    for name, (label, *_, expected) in PEFT.items():
        source = "formula"
        rows.append(
            [
                f"PEFT's {label}",
                per(numbers, name),
                f"{counts[name]:,}",
                f"{percent[name]:.1f} %",
                "",
                f"{expected * MATRICES:,}",
                source,
            ]
        )
    head = ["query and value", "per 768 × 768", "12 layers", "of LoRA r = 8", "rank", "expected", "from"]
    below = [[label, f"{counts[k]:,}", f"{expected:,}"] for k, (label, _, _, _, expected) in BOTTLENECKS.items()]
    return (
        "Trained parameters of RoBERTa-base with updates on query and value:\n\n"
        + _study.table(head, rows)
        + "\n\nWith adapters after attention and feed-forward part of each layer:\n\n"
        + _study.table(["adapter", "12 layers", "expected"], below)
    )


def per(numbers: dict[str, Any], name: str) -> str:
    """Parameters per matrix; not a whole number where some are shared."""
    return f"{numbers['per_matrix'][name]:,.1f}".removesuffix(".0")


# the figure -------------------------------------------------------------------------------------------------------------

COLOURS = {  # a part of a name, and the structure of _style whose colour it has; the rest is grey
    "lsr": "displacement",
    "ldr": "hankel",
    "circulant": "circulant",
    "stored": "circulant",
    "toeplitz": "toeplitz",
    "kron": "kronecker",
}


def plot(numbers: dict[str, Any]) -> Any:
    """Above: updates of query and value; below: adapters; a bar each, with its number."""
    figure = _style.figure(9.5, 10.5)
    labels = {k: v[0] for k, v in UPDATES.items()} | {k: f"PEFT's {v[0]}" for k, v in PEFT.items()}
    adapters = {k: v[0] for k, v in BOTTLENECKS.items()}
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[len(labels), len(adapters) + 1])
    bars(above, numbers["counts"], labels, "Updates of query and value, 12 layers of width 768; dotted: LoRA r = 8")
    bars(below, numbers["counts"], adapters, "Adapters after attention and feed-forward part of the 12 layers")
    above.axvline(numbers["counts"]["lora_8"], color=_style.QUIET, linestyle=":", linewidth=1.2, zorder=0)
    below.set_xlabel("trained parameters")
    return figure


def bars(ax: Any, counts: dict[str, int], labels: dict[str, str], title: str) -> None:
    """Horizontal bars on a logarithmic axis, fewest parameters first."""
    order = sorted(labels, key=lambda k: (counts[k], labels[k]))
    for at, name in enumerate(order):
        look = next((look for part, look in COLOURS.items() if part in name), None)
        colour = _style.STRUCTURES[look][1] if look else _style.INK if name.startswith("lora") else "#bbbbbb"
        ax.barh(at, counts[name], color=colour, height=0.72)
        ax.annotate(
            f"{counts[name]:,}",
            (counts[name], at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    ax.set_yticks(range(len(order)), [labels[k] for k in order])
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlim(1e4, 4e6)
    ax.grid(axis="y", visible=False)
    ax.set_title(title)


if __name__ == "__main__":
    sys.exit(_study.main(only="parameter_counts"))
