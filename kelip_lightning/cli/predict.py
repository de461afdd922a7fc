"""`kelip predict MODEL IMAGE --texts ...`: zero-shot prediction."""

import argparse
import json
from pathlib import Path

from kelip_lightning.cli.verb import add_device_argument, verb
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.inference.model_names import MODEL_FORMS, check_model_name


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_FORMS)
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("--texts", metavar="TEXT", nargs="+", required=True, help="Korean or English texts")
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print text -> probability as JSON")


@verb(_add_arguments)
def predict(arguments: argparse.Namespace) -> int:
    """Zero-shot prediction: the probability of each text, Korean or English, given an image.

    Softmax over the scaled cosine similarities of the image and each text.

      kelip predict emoji apple.png --texts 사과 "a red apple" "a banana"
    """
    check_model_name(arguments.model)
    device = choose_device(arguments.device)
    from kelip_lightning.cli.report import print_probabilities
    from kelip_lightning.inference.evaluate import predict

    probabilities = predict(arguments.model, Path(arguments.image), arguments.texts, device)
    if arguments.json:
        print(json.dumps(dict(zip(arguments.texts, probabilities, strict=True)), ensure_ascii=False, indent=2))
    else:
        print_probabilities(arguments.texts, probabilities)
    return 0
