"""Read and write SAEs in the on-disk layout of SAELens: cfg.json, sae_weights.safetensors."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..normalisation import Normalisation
from ..workspace import write_json
from .variants import SAE, Config, create

#: What SAELens calls each variant. It has no class for using BatchTopK: past training its
#: threshold makes it a JumpReLU, and so it is written.
ARCHITECTURES = {
    "relu": "standard", "gated": "gated", "topk": "topk", "jumprelu": "jumprelu",
    "batchtopk": "jumprelu", "matryoshka": "jumprelu",
}  # fmt: skip
#: Both files of its layout.
FILES = "cfg.json", "sae_weights.safetensors"
#: The SAELens whose layout this is. It drops the metadata of files that name none.
VERSION = "6.54.12"


def save(sae: SAE, folder: Path) -> None:
    """Write both files as SAELens does; ValueError for a BatchTopK that was never trained."""
    config, architecture = asdict(sae.config), ARCHITECTURES[sae.config.variant]
    weights = dict(sae.state_dict())
    if "threshold" in weights:
        if weights["threshold"].isnan().any():
            raise ValueError(f"{sae.config.variant}: no threshold before it is trained")
        weights["threshold"] = weights["threshold"].expand(sae.config.d_sae)
    if architecture == "gated":
        weights["b_gate"] = weights.pop("b_enc")
    cfg = {
        "architecture": architecture,
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, "seqsae": config, "std": sae.std},
    }
    if architecture == "topk":
        cfg |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    write_json(folder / FILES[0], cfg)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / FILES[1])


def load(folder: Path, normalisation: Normalisation | None = None) -> SAE:
    """Read an SAE that `save`, SAELens or EleutherAI's sparsify wrote.

    `normalisation` is that of the hidden states, for weights that expect normalised ones: `save`
    wrote such files until version 0.1. Raises ValueError if it is missing there, if a file is
    damaged, or if a field or tensor is one that no variant here knows.
    """
    path, pickled, theirs = (folder / n for n in ("cfg.json", "ae.pt", "sae.safetensors"))
    if pickled.is_file():
        way_out = "load it there, and save its tensors as SAELens does (cfg.json, safetensors)"
        raise ValueError(
            f"{pickled}: a pickle of dictionary_learning could run any code; {way_out}"
        )
    cfg, file = _read(path, theirs if theirs.is_file() else folder / FILES[1])
    weights = {name: tensor.float() for name, tensor in file.items()}
    if theirs.is_file():
        cfg, weights = _of_sparsify(cfg, weights, path)
    if "scaling_factor" in weights and (weights["scaling_factor"] == 1).all():
        del weights["scaling_factor"]  # of early 2024: only finetuning makes it other than 1
    metadata = cfg.get("metadata") or {}
    own = metadata.get("seqsae")
    if own and "std" in metadata and normalisation:
        raise ValueError(f"{path}: these weights take raw hidden states: give no normalisation")
    if own and "std" not in metadata and normalisation is None:
        raise ValueError(
            f"{path}: these weights expect normalised hidden states; give their normalisation, "
            "Normalisation.of(states), or run notebook 04_sae again"
        )
    try:
        sae = create(Config(**own) if own else _their_config(cfg, path))
    except TypeError as error:  # a field that `Config` has not
        raise ValueError(f"{path}: metadata.seqsae: {error}") from None
    if not cfg.get("apply_b_dec_to_input", True):  # ours always is
        shift = weights["b_dec"] @ weights["W_enc"]
        if "b_mag" in weights:
            weights["b_mag"] += shift * weights["r_mag"].exp()
        name = "b_gate" if "b_gate" in weights else "b_enc"
        weights[name] = weights[name] + shift
    if cfg.get("rescale_acts_by_decoder_norm"):  # the same codes, with rows of norm 1
        norm = weights["W_dec"].norm(dim=1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norm, weights["b_enc"] * norm
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    if "b_gate" in weights:
        weights["b_enc"] = weights.pop("b_gate")
    expected = {name: [*tensor.shape] for name, tensor in sae.state_dict().items()}
    if "threshold" in weights and expected.get("threshold") == []:
        weights["threshold"] = weights["threshold"][0]
    found = {name: [*tensor.shape] for name, tensor in weights.items()}
    if wrong := [f"{n} {found.get(n, 'is missing')}" for n in sorted({*found, *expected})
                 if found.get(n) != expected.get(n)]:  # fmt: skip
        raise ValueError(f"{folder}: tensors that do not fit cfg.json: {', '.join(wrong)}")
    sae.load_state_dict(weights)
    sae.std = metadata.get("std", 1.0)
    if normalisation:
        sae.fold(normalisation)
    return sae.eval()


def _read(path: Path, weights: Path) -> tuple[dict, dict[str, Tensor]]:
    """Both files of an SAE; ValueError, with its name, for one that is damaged."""
    try:
        cfg = json.loads(path.read_text())
        if not isinstance(cfg, dict):
            raise ValueError("expected an object")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    try:
        return cfg, load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged: {error}") from None


def _of_sparsify(cfg: dict, weights: dict, path: Path) -> tuple[dict, dict]:
    """The config and the weights of sparsify's files as SAELens has them."""
    for field, known in (("activation", "topk"), ("transcode", False), ("skip_connection", False)):
        if (value := cfg.get(field, known)) != known:
            raise ValueError(
                f"{path}: {field} is {value!r}, which is not read here; known: {known}"
            )
    renamed = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}
    weights = {renamed.get(name, name): tensor for name, tensor in weights.items()}
    if missing := {"W_enc", "W_dec"} - weights.keys():
        raise ValueError(f"{path.parent}: tensors are missing: {', '.join(sorted(missing))}")
    weights["W_enc"] = weights["W_enc"].T.contiguous()
    d_sae, d_in = weights["W_dec"].shape
    return {"architecture": "topk", "d_in": d_in, "d_sae": d_sae, "k": cfg.get("k")}, weights


def _their_config(cfg: dict, path: Path) -> Config:
    """The config of a file that names none of ours."""
    variants = {theirs: ours for ours, theirs in reversed(ARCHITECTURES.items())}
    # Files of early 2024 name no architecture, and call the activation so or say only whether.
    cfg = {"architecture": "standard", "activation_fn_str": cfg.get("activation_fn", "relu")} | cfg
    if not cfg.get("normalize_activations"):
        cfg["normalize_activations"] = "none"
    for field, default, known in (
        ("architecture", "standard", list(variants)),
        ("activation_fn_str", "relu", ["relu", "topk"]),
        ("normalize_activations", "none", ["none"]),
        ("reshape_activations", "none", ["none"]),
    ):
        if cfg.get(field, default) not in known:
            found = f"{field} is {cfg.get(field)!r}, which is not read here"
            raise ValueError(f"{path}: {found}; known: {', '.join(known)}")
    variant = variants[cfg["architecture"]]
    if cfg.get("activation_fn_str") == "topk":  # as in 2024, beside the architecture "standard"
        variant, cfg = "topk", {"k": None} | cfg | (cfg.get("activation_fn_kwargs") or {})
    if missing := [name for name in ("d_in", "d_sae", "k") if cfg.get(name) is None
                   and (name != "k" or variant == "topk")]:  # fmt: skip
        raise ValueError(f"{path}: {missing[0]} is missing")
    k = {"k": cfg["k"]} if variant == "topk" else {}
    return Config(cfg["d_in"], cfg["d_sae"], variant, groups=(1.0,), **k)
