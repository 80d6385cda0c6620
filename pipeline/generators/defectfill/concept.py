"""A concept on disk and in a pipeline: tokens of the types, LoRA, and the prompts that go with them."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pipeline.diffusion.components import prompt_ids
from pipeline.generators.defectfill.attention import AttentionRecorder
from pipeline.params import DefectFillParams
from pipeline.runlog import digest

CARD = "card.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_NAME = "default"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
UNET_TARGETS = {
    "attention": ATTENTION,
    "all": [
        *ATTENTION,
        *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
        *("conv_in", "conv1", "conv2", "conv_shortcut", "conv", "conv_out"),
    ],
}
"""Layers of the UNet that get LoRA; a small base has most of its weights in its convolutions."""
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
LOWER_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
MEANINGLESS = re.compile(r"([bcdfghjklmnpqrstvwxz]{1,3})</w>")
"""Short words without a vowel, like the "sks" of DreamBooth and of the paper, as CLIP's vocabulary writes whole words."""


class TokenError(ValueError):
    """Two defect types would share a token, or a token is not one id, or there are too few words."""


def slug_of(defect: str) -> str:
    """The type's name in lower-case letters, digits and hyphens, for tokens and folders."""
    return re.sub(r"[^a-z0-9]+", "-", defect.lower()).strip("-")


class ConceptError(ValueError):
    """A concept does not fit the base or the request it is used with."""


def token_of(defect: str) -> str:
    """The type's own token, e.g. `<mt-blowhole>`; lower case, since CLIP's tokenizer lowers text."""
    return f"<{slug_of(defect)}>"


def rare_words(tokenizer: CLIPTokenizer, defects: Sequence[str], thing: str) -> dict[str, str]:
    """A word a type that exists as one token and means nothing; no row is added, the text LoRA makes something of it.

    The word with the highest id comes first: byte-pair encoding merged it last, so it is the rarest. Words of `thing` are left
    out, since a prompt must hold the type's word once.

    Raises:
        TokenError: If the tokenizer has fewer such words than there are types.
    """
    by_id = {index: match[1] for entry, index in tokenizer.get_vocab().items() if (match := MEANINGLESS.fullmatch(entry))}
    taken = set(thing.lower().split())
    words = [word for index, word in sorted(by_id.items(), reverse=True) if word not in taken and whole(tokenizer, word) == index]
    if len(words) < len(defects):
        raise TokenError(f"the tokenizer has {len(words)} rare words for {len(defects)} defect types; set token to `new`")
    return dict(zip(defects, words, strict=False))


def whole(tokenizer: CLIPTokenizer, word: str) -> int | None:
    """Id of a word that the tokenizer holds in one piece, else None."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return ids[0] if len(ids) == 1 else None


def defect_prompt(token: str) -> str:
    """P_def."""
    return f"A photo of {token}"


def object_prompt(token: str, thing: str) -> str:
    """P_obj."""
    return f"A {thing} with {token}"


def joint_prompt(prompts: Sequence[str]) -> str:
    """One prompt for several types: the words their prompts begin with alike, then what each goes on with, "and" in between.

    Of P_obj: "A tile with <crack>" and "A tile with <hole>" give "A tile with <crack> and <hole>".
    """
    first, *others = [prompt.split() for prompt in dict.fromkeys(prompts)]
    shared = min((_alike(first, other) for other in others), default=0)
    return " and ".join([" ".join(first), *(" ".join(other[shared:]) for other in others)])


def _alike(first: Sequence[str], second: Sequence[str]) -> int:
    """Number of words with which two prompts begin alike; one word of each is left over."""
    pairs = list(zip(first[:-1], second[:-1], strict=False))
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))


def add_tokens(pipe: StableDiffusionInpaintPipeline, defects: Sequence[str]) -> dict[str, int]:
    """Add one row a type to tokenizer and text encoder; return defect -> id.

    Raises:
        TokenError: If two types give the same token or the tokenizer knows it already.
    """
    tokens = [token_of(defect) for defect in defects]
    starts = [start_row(pipe, defect) for defect in defects]
    added = pipe.tokenizer.add_tokens(tokens)
    if added != len(tokens):
        raise TokenError(f"defect types {list(defects)} give tokens {tokens}, of which only {added} are new; rename the types")
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    ids = {defect: pipe.tokenizer.convert_tokens_to_ids(token) for defect, token in zip(defects, tokens, strict=True)}
    rows = pipe.text_encoder.get_input_embeddings().weight.data
    for row, start in zip(ids.values(), starts, strict=True):
        rows[row] = start
    return ids


def start_row(pipe: StableDiffusionInpaintPipeline, defect: str) -> Tensor:
    """What a type's token row starts from: the mean row of the words of its name that the tokenizer holds whole, else "defect".

    As textual inversion starts from a word near the concept (Gal et al. 2022, section 4).
    """
    rows = pipe.text_encoder.get_input_embeddings().weight.detach()
    known = [found for word in re.findall(r"[a-z]+", defect.lower()) if (found := whole(pipe.tokenizer, word)) is not None]
    return rows[known or pipe.tokenizer("defect", add_special_tokens=False).input_ids].mean(dim=0)


def add_lora(pipe: StableDiffusionInpaintPipeline, params: DefectFillParams, token_ids: Sequence[int]) -> dict[str, list[Tensor]]:
    """Put LoRA on the UNet's target layers and the text encoder's attention, and free the token rows.

    Returns the trainable tensors by group, in float32.

    Only the rows in `token_ids` of the embedding ever move: the gradient of the others is zeroed, and no decay is applied.
    Without any id there is no group `token`.
    """

    def config(targets: list[str]) -> LoraConfig:
        return LoraConfig(r=params.rank, lora_alpha=params.alpha, lora_dropout=params.dropout, target_modules=targets)

    pipe.unet.add_adapter(config(UNET_TARGETS[params.lora_targets]), LORA_NAME)
    pipe.text_encoder.add_adapter(config(TEXT_TARGETS), LORA_NAME)
    groups = {
        "unet": [p for p in pipe.unet.parameters() if p.requires_grad],
        "text": [p for p in pipe.text_encoder.parameters() if p.requires_grad],
    }
    if not token_ids:
        return groups
    rows = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    free = torch.zeros(len(rows), 1, device=rows.device)
    free[list(token_ids)] = 1.0
    rows.register_hook(lambda gradient: gradient * free)
    return {**groups, "token": [rows]}


def autocast(device: torch.device, kind: str) -> torch.autocast:
    """The context of a forward in precision `none`, `bf16` or `fp16`."""
    return torch.autocast(device.type, LOWER_PRECISION.get(kind), enabled=kind in LOWER_PRECISION)


def hold_frozen_weights_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Take the weights that are not trained to another precision, in place; LoRA must be on already, and keeps its own."""
    for weight in network.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(dtype)


def token_column_of(ids: Tensor, token_id: int) -> int:
    """Position of the token in one prompt's ids (L,), found by id.

    Raises:
        TokenError: If it does not occur exactly once.
    """
    places = (ids == token_id).nonzero()[:, 0].tolist()
    if len(places) != 1:
        raise TokenError(f"token id {token_id} occurs {len(places)} times in a prompt of {len(ids)} tokens, expected once")
    return int(places[0])


@dataclass
class Concept:
    """A base with LoRA and tokens on it, and what its losses need.

    Attributes:
        pipe: The inpainting pipeline, adapters attached.
        recorder: Records attention of the up blocks.
        ids: Prompt ids by type, (2, L): P_def and P_obj.
        columns: Position of the type's token in its P_obj.
        empty: Ids of the empty prompt, (1, L).
    """

    pipe: StableDiffusionInpaintPipeline
    recorder: AttentionRecorder
    ids: dict[str, Tensor]
    columns: dict[str, int]
    empty: Tensor


def attach(pipe: StableDiffusionInpaintPipeline, words: Mapping[str, str], token_ids: Mapping[str, int], thing: str) -> Concept:
    """Install the recorder and tokenise every type's two prompts, on the pipeline's device."""
    ids = {d: prompt_ids(pipe.tokenizer, [defect_prompt(word), object_prompt(word, thing)]) for d, word in words.items()}
    columns = {d: token_column_of(ids[d][1], token_ids[d]) for d in words}
    device = pipe.unet.device
    return Concept(
        pipe,
        AttentionRecorder(pipe.unet),
        {d: rows.to(device) for d, rows in ids.items()},
        columns,
        prompt_ids(pipe.tokenizer, [""]).to(device),
    )


def columns_of(concept: Concept, defects: Sequence[str]) -> Tensor:
    """(B,) position of each row's token in its P_obj, on the pipeline's device."""
    return torch.tensor([concept.columns[d] for d in defects], device=concept.pipe.unet.device)


def save_concept(pipe: StableDiffusionInpaintPipeline, token_ids: dict[str, int], out: Path) -> None:
    """Write LoRA in diffusers format and one textual-inversion file a trained token, readable by the stock pipeline."""
    unet, text = pipe.unet, pipe.text_encoder
    pipe.save_lora_weights(
        out,
        # Under PEFT's names, which the loader reads as they are: the conversion knows attention layers only.
        unet_lora_layers=get_peft_model_state_dict(unet, adapter_name=LORA_NAME),  # pyright: ignore[reportArgumentType]
        text_encoder_lora_layers=convert_state_dict_to_diffusers(
            get_peft_model_state_dict(text, adapter_name=LORA_NAME, save_embedding_layers=False)
        ),
        # Without it the loader takes alpha = rank, and the concept is scaled wrongly.
        unet_lora_adapter_metadata=_portable(unet.peft_config[LORA_NAME].to_dict()),
        text_encoder_lora_adapter_metadata=_portable(text.peft_config[LORA_NAME].to_dict()),
    )
    sort_header(out / LORA_FILE)
    rows = text.get_input_embeddings().weight.detach()
    (out / "tokens").mkdir(parents=True, exist_ok=True)
    for defect, row in token_ids.items():
        token = token_of(defect)
        save_file({token: rows[row].clone()}, token_file(out, token))


def _portable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Sets as sorted lists, since their order differs from process to process; and not the folder the base happened to lie in."""
    ordered = {name: sorted(value) if isinstance(value, set) else value for name, value in metadata.items()}
    return ordered | {"base_model_name_or_path": None}


def sort_header(path: Path) -> None:
    """Rewrite a safetensors file with its header's keys sorted: the library writes several metadata entries in random order."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    temporary.replace(path)


def token_file(folder: Path, token: str) -> Path:
    """Where a concept keeps the row of a token."""
    return folder / "tokens" / f"{token.strip('<>')}.safetensors"


def load_concept(pipe: StableDiffusionInpaintPipeline, fitted: Path, base: Path) -> dict[str, str]:
    """Load tokens, then LoRA, through the stock loaders; return defect -> prompt.

    Args:
        pipe: The base, freshly loaded.
        fitted: Folder of the concept.
        base: Folder `pipe` was loaded from; every file in it counts, weights, configurations and tokenizer alike.

    Raises:
        ConceptError: If the concept was learned on another base.
    """
    card = json.loads((fitted / CARD).read_text(encoding="utf-8"))
    found = digest(base)
    if card["base"] != found:
        raise ConceptError(
            f"{fitted}: the concept belongs to the base with digest {card['base']}, and {base} has {found}; "
            "use the base it was learned on, or learn it anew on this one"
        )
    for token in card["tokens"].values():
        pipe.load_textual_inversion(str(token_file(fitted, token)), token=token)
    pipe.load_lora_weights(str(fitted), adapter_name=LORA_NAME)
    return dict(card["prompts"])
