"""The model card (README.md) in a folder of weights, written from the run's records."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from kelip_lightning.runs.folder import RunFolder


def model_card(run: RunFolder, stage: str, facts: Mapping[str, object]) -> str:
    """Run, stage, training data and code of the weights, in Markdown.

    Args:
        run: The run; its environment.json gives the code's revision.
        stage: `mae` or `contrastive`.
        facts: Further lines, name -> value.
    """
    environment = json.loads(run.environment.read_text(encoding="utf-8"))
    lines = {
        "Run": run.name,
        "Stage": {"mae": "MAE pre-training of the image encoder", "contrastive": "contrastive training"}[stage],
        **facts,
        "Code": f"kelip-lightning, git revision {(environment.get('git') or {}).get('revision') or 'unknown'}",
        "Settings": "config.yaml in the run folder",
        "Licence": "Apache-2.0 for the code; see the licences of the training data",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in lines.items())
    return f"# {run.name}: {stage}\n\n| what | value |\n|---|---|\n{table}\n"


def export_card(source: Path, layout: str, notes: str = "") -> str:
    """The README of an exported model: the run's card, its metrics, and how to load it.

    Args:
        source: The run folder, or another folder with a model and perhaps a README.
        layout: `transformers`, `open_clip`, `kelip` or `onnx`.
        notes: Markdown after the run's card: intended use, licences, limits.
    """
    run = RunFolder(source)
    readmes = [folder / "README.md" for folder in (run.dual_encoder, source)]
    readme = next((file for file in readmes if file.is_file()), None)
    origin = readme.read_text(encoding="utf-8") if readme else f"# {source.resolve().name}\n\nNo model card.\n"
    head = {"language": ["ko", "en"], "library_name": layout, "pipeline_tag": "zero-shot-image-classification"}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        origin.partition("\n---\n")[2].lstrip("\n") if origin.startswith("---\n") else origin,
        notes.strip() + "\n" if notes.strip() else "",
        _metrics(run),
        f"## Use\n\n```python\n{_USE[layout]}```\n\n{_REMARKS}",
    ]
    return "\n".join(part for part in parts if part)


def _metrics(run: RunFolder) -> str:
    """Table of the run's last evaluation and its chance levels; empty if there was none."""
    if not run.report.is_file():
        return ""
    report = json.loads(run.report.read_text(encoding="utf-8"))
    chance = report.get("chance", {})
    rows = [
        f"| {name.removeprefix('eval/')} | {value:.4f} | {f'{chance[name]:.4f}' if name in chance else ''} |"
        for name, value in report.get("metrics", {}).items()
    ]
    if not rows:
        return ""
    head = f"## Metrics\n\nAfter step {report.get('step')}:\n\n| metric | value | chance |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


_USE = {
    "transformers": """\
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained(FOLDER)
processor = CLIPProcessor.from_pretrained(FOLDER, backend="pil")  # resizes to the very pixels of training
inputs = processor(text=["사과 사진", "a photo of an apple"], images=image, padding=True, return_tensors="pt")
probabilities = model(**inputs).logits_per_image.softmax(dim=-1)

# Or by the pipeline, which cuts no text: template and label must fit max_position_embeddings of config.json.
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model=FOLDER)
classify(image, ["사과", "apple"], hypothesis_template="{}")
""",
    "open_clip": """\
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
image_features = model.eval().encode_image(preprocess(image).unsqueeze(0), normalize=True)
text_features = model.encode_text(tokenizer(["사과 사진", "a photo of an apple"]), normalize=True)
""",
    "kelip": """\
import kelip_lightning

model, preprocess, tokenizer = kelip_lightning.build_model(FOLDER)
tokens = tokenizer.encode(["사과 사진", "a photo of an apple"])
logits_per_image, logits_per_text = model(preprocess(image).unsqueeze(0), tokens)
""",
    "onnx": """\
import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

length = json.load(open(f"{FOLDER}/config.json"))["text_cfg"]["context_length"]
pad_token = json.load(open(f"{FOLDER}/textual/tokenizer_config.json"))["pad_token"]
textual = onnxruntime.InferenceSession(f"{FOLDER}/textual/model.onnx")
tokenizer = Tokenizer.from_file(f"{FOLDER}/textual/tokenizer.json")
tokenizer.enable_padding(length=length, pad_token=pad_token, pad_id=tokenizer.token_to_id(pad_token))
tokenizer.enable_truncation(length)
tokens = np.array([one.ids for one in tokenizer.encode_batch(["사과 사진", "a photo of an apple"])], np.int32)
(text_features,) = textual.run(None, {"text": tokens})  # of unit length
visual = onnxruntime.InferenceSession(f"{FOLDER}/visual/model.onnx")
# pixels, float32 (B, 3, S, S): resized, cropped and standardised as visual/preprocess_cfg.json says.
(image_features,) = visual.run(None, {"image": pixels})
""",
}

_REMARKS = """\
Compose transparent images on white before preprocessing, as in training. Texts need no cleaning: the tokenizer
composes Hangul, lower-cases and normalises white space.
"""
