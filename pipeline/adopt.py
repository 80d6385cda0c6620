"""`python -m pipeline adopt`: a LoRA trained elsewhere becomes a concept that `synthesize` can use."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionInpaintPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.diffusion.components import load_pipeline, prompt_ids
from pipeline.generators.defectfill.concept import CARD, LORA_FILE, ConceptError, load_concept, token_file
from pipeline.records import write_json
from pipeline.runlog import digest, whole_folder
from pipeline.weight_cards import sha256_of

TOKEN = re.compile(r"<?[\w-]+>?")


def adopt(lora: Path, base: Path, prompts: Mapping[str, str], tokens: Mapping[str, Path], plain_prompt: str, out: Path) -> None:
    """Write the concept folder `out`: the files as they are, and a card.

    Args:
        lora: LoRA in a safetensors format diffusers loads, for the UNet, the text encoder or both.
        base: Folder of the inpainting pipeline it is used with.
        prompts: Defect type -> prompt that asks for it.
        tokens: Defect type -> textual-inversion file of a token in that type's prompt; types without a token are left out.
        plain_prompt: Prompt without a defect.
        out: Folder of the concept; written whole or not at all.

    Raises:
        ConceptError: Names the file that is none of its kind, or that does not fit the base or its prompt.
    """
    if strangers := sorted(tokens.keys() - prompts.keys()):
        raise ConceptError(f"--token names types {strangers} that have no --prompt; prompts are given for {sorted(prompts)}")
    pipe = load_pipeline(base)
    weights = _read(lora)
    rows = {defect: _token(file, pipe) for defect, file in tokens.items()}
    facts = {
        "generator": "defectfill",
        "base": digest(base),
        "tokens": rows,
        "prompts": dict(prompts),
        "plain_prompt": plain_prompt,
        "lora_scale": 1.0,
        "adopted": {"lora": lora.name, "sha256": sha256_of(lora)},
    }
    with whole_folder(out) as folder:
        (folder / "tokens").mkdir()
        shutil.copyfile(lora, folder / LORA_FILE)
        for defect, token in rows.items():
            shutil.copyfile(tokens[defect], token_file(folder, token))
        write_json(folder / CARD, facts)
        _check_fit(pipe, folder, base, weights, lora)
        _check_prompts(pipe, prompts, rows)


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConceptError(f"{file}: no readable safetensors file ({error}); pickled files are not taken") from error


def _token(file: Path, pipe: StableDiffusionInpaintPipeline) -> str:
    """The token a textual-inversion file is for, after a look at the size of its rows."""
    rows = _read(file)
    if len(rows) != 1 or not TOKEN.fullmatch(next(iter(rows))):
        raise ConceptError(f"{file}: expected one tensor named as its token, e.g. '<scratch>', got {sorted(rows)}")
    ((token, row),) = rows.items()
    width = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    if row.ndim not in (1, 2) or row.shape[-1] != width:
        raise ConceptError(f"{file}: {token} has shape {tuple(row.shape)}, the base's text encoder takes rows of {width}")
    return token


def _lora_tensors(pipe: StableDiffusionInpaintPipeline) -> set[str]:
    """Names of the LoRA tensors on UNet and text encoder."""
    parts: dict[str, Any] = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    return {f"{name}.{key}" for name, part in parts.items() for key, _ in part.named_parameters() if ".lora_" in key}


def _check_fit(pipe: StableDiffusionInpaintPipeline, folder: Path, base: Path, weights: Mapping[str, Tensor], lora: Path) -> None:
    """Load the concept as the sampler does, and make sure that every tensor of the LoRA file found its place."""
    try:
        load_concept(pipe, folder, base)
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        # What the libraries raise for a LoRA of other layers, of other sizes, or none at all; they may list every tensor.
        first = " ".join(str(error).split("\n\t")[:2])
        raise ConceptError(f"{lora} does not load onto the base {base}: {first}") from error
    given = [name for name in weights if not name.endswith(".alpha")]
    placed = _lora_tensors(pipe)
    if len(given) != len(placed):
        raise ConceptError(
            f"{lora} has {len(given)} LoRA tensors, of which the base {base} takes {len(placed)}; "
            f"first of the file: {min(given)}, first of the base: {min(placed, default='none')}; was it trained on another base?"
        )


def _check_prompts(pipe: StableDiffusionInpaintPipeline, prompts: Mapping[str, str], tokens: Mapping[str, str]) -> None:
    """Make sure that each type's token is read as one token in its prompt."""
    for defect, token in tokens.items():
        if pipe.tokenizer.convert_tokens_to_ids(token) not in prompt_ids(pipe.tokenizer, [prompts[defect]])[0]:
            raise ConceptError(f"type {defect!r}: its token {token} is not in its prompt {prompts[defect]!r}")
