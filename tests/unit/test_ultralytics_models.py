import PIL.Image
import torch

import detectors.ultralytics_models  # noqa: F401  (the import is what is tested)


def test_the_library_leaves_other_libraries_as_they_were():
    assert PIL.Image.open.__module__ == "PIL.Image"
    assert torch.save.__module__ == "torch.serialization"
