"""Models of `kelip export --format onnx`, run by onnxruntime."""

from pathlib import Path

from torch import Tensor

from data_modules.benchmarks.image_stream import EvaluationTransform
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.precision import InferencePrecision
from kelip_lightning.interchange.onnx_towers import OnnxTowers
from kelip_lightning.interchange.reasons import short_reason
from kelip_lightning.models.preprocessing import normalize_images

ONNX = "onnx"


def load_onnx(source: str, precision: InferencePrecision) -> Encoders:
    """The towers of a folder that `kelip export --format onnx` wrote.

    Args:
        source: The folder.
        precision: float32 on a CPU; the graphs have their own arithmetic.

    Raises:
        EncoderFileError: onnxruntime is not installed, a file is missing or damaged, or another precision or device is
            asked for.
    """
    if precision.name != "32-true" or precision.device.type != "cpu":
        raise EncoderFileError(
            f"{ONNX}:{source} runs on the CPU in the arithmetic of its graphs; leave out --precision, and use "
            "--device cpu"
        )
    try:
        towers = OnnxTowers(Path(source))
    except ImportError as error:
        raise EncoderFileError(
            f"{ONNX}:{source} needs onnxruntime, which is not installed: pip install 'kelip-lightning[onnx]'"
        ) from error
    except Exception as error:  # OSError, ValueError, KeyError, DataError, and onnxruntime's own
        raise EncoderFileError(
            f"{source} holds no ONNX export that can be read ({short_reason(error)}); write it again with "
            "kelip export --format onnx"
        ) from error

    def encode_images(images: Tensor) -> Tensor:
        return towers.encode_images(normalize_images(images))

    return Encoders(
        name=f"{ONNX}:{source}",
        preprocess=EvaluationTransform(towers.image_size),
        encode_images=encode_images,
        encode_texts=towers.encode_texts,
        logit_scale=towers.logit_scale,
        device=precision.device,
    )
