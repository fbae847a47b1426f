"""Test the preprocessing, and compare its resize with PIL and Keras."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.data.crops import VIEWS
from keras_resnet.data.decoding import decode
from keras_resnet.data.preprocessing import (
    PREPROCESSING,
    Preprocessing,
    normalize,
    per_channel_mean,
    per_pixel_mean,
    resize_and_crop,
)

DIGITS = data.load("digits")


def preprocessing():
    return per_pixel_mean(DIGITS.train.images, 8)


def test_normalize_and_json_round_trip():
    per_pixel = preprocessing()
    again = Preprocessing.from_json(per_pixel.to_json())
    assert again == per_pixel
    mean = DIGITS.train.images.mean(axis=0)
    wanted = (DIGITS.test.images - mean) / 255
    np.testing.assert_allclose(normalize(again, DIGITS.test.images), wanted, atol=1e-6)
    assert (
        np.abs(
            np.mean([np.asarray(normalize(again, i)) for i in DIGITS.train.images], axis=0)
        ).max()
        < 1e-5
    )


@pytest.mark.parametrize(
    "values",
    [
        {"resize": 8, "crop": 9, "mean": (0, 0, 0), "scale": (1, 1, 1)},
        {"resize": 8, "crop": 8, "mean": (0, 0), "scale": (1, 1, 1)},
    ],
)
def test_an_unusable_preprocessing_is_refused(values):
    with pytest.raises(ValueError, match="crop is 9|mean has shape"):
        Preprocessing(**values)
    with pytest.raises(ValueError, match="not a preprocessing"):
        Preprocessing.from_json('{"size": 3}')


@pytest.mark.parametrize("shape", [(8, 8), (9, 8), (50, 30), (7, 100), (3, 3)])
def test_the_test_view_is_the_center_of_the_resized_image(shape):
    """Compare with PIL, whose bilinear resize is antialiased in the same way."""
    from PIL import Image

    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    view = Preprocessing(resize=8, crop=6, mean=(0.0,) * 3, scale=(1.0,) * 3)
    ours = resize_and_crop(view, image[np.newaxis]).numpy()[0]
    height, width = (side * 8 // min(shape) for side in shape)
    resized = np.asarray(
        Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), np.float32
    )
    top, left = (height - 6) // 2, (width - 6) // 2
    # PIL rounds to whole gray values, twice.
    assert np.abs(ours - resized[top : top + 6, left : left + 6]).max() <= 1.01


def test_an_image_of_the_right_size_keeps_its_values_if_its_size_is_dynamic():
    image, digits = DIGITS.test.images[:1], preprocessing()
    unknown = tf.TensorSpec([None, None, None, 3], tf.uint8)
    view = tf.function(lambda images: resize_and_crop(digits, images), input_signature=[unknown])
    assert (view(image).numpy() == image).all()


@pytest.mark.parametrize(
    "kind", "png,jpeg,gif,bmp,gray png,rgba png,16-bit png,progressive jpeg".split(",")
)
def test_images_are_decoded(kind):
    import io

    from PIL import Image

    mode = {"gray png": "L", "rgba png": "RGBA", "16-bit png": "I;16"}.get(kind, "RGB")
    image = Image.new(mode, (5, 4), 40000 if mode == "I;16" else None)
    file = io.BytesIO()
    image.save(file, kind.split()[-1], **({"progressive": True} if "progressive" in kind else {}))
    decoded = decode(tf.constant(file.getvalue()))
    assert decoded.shape == (4, 5, 3) and decoded.dtype == tf.uint8


@pytest.fixture(scope="module", params=["png", "jpeg"])
def folder(request, tmp_path_factory):
    """Write drawn images of several sizes in two classes."""
    root = tmp_path_factory.mktemp(request.param)
    encode = {"png": tf.io.encode_png, "jpeg": tf.io.encode_jpeg}[request.param]
    for i, (height, width) in enumerate([(40, 61), (97, 53), (20, 31), (33, 200), (24, 24)]):
        y, x = np.mgrid[:height, :width]
        image = np.stack([x * 255 // width, y * 255 // height, (x // 4 + y // 4) % 2 * 255], -1)
        path = root / "ab"[i % 2] / f"{i}.{request.param}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(image.astype(np.uint8)).numpy())
    return root


def test_stretch_equals_image_dataset_from_directory(folder):
    """Models trained on Keras' views are evaluated and served on equal views. Keras decodes JPEG
    with a faster DCT, whose pixels differ slightly."""
    theirs = keras.utils.image_dataset_from_directory(
        str(folder), image_size=(24, 24), batch_size=None, shuffle=False, verbose=False
    )
    view = Preprocessing(resize=24, crop=24, aspect="stretch", antialias=False)
    paths = sorted(folder.glob("*/*"))
    assert len(paths) == len(theirs)
    for path, (wanted, _) in zip(paths, theirs, strict=True):
        ours = resize_and_crop(view, decode(path.read_bytes())[tf.newaxis])[0]
        if path.suffix == ".jpeg":
            assert 0 < np.abs(ours - wanted).mean() < 1.5
            fast = tf.io.decode_jpeg(path.read_bytes(), channels=3)
            ours = resize_and_crop(view, fast[tf.newaxis])[0]
        np.testing.assert_array_equal(ours, wanted)


def test_stretch_antialiased_equals_pil(folder):
    from PIL import Image

    view = Preprocessing(resize=24, crop=24, aspect="stretch")
    for path in folder.glob("*/*"):
        pixels = decode(path.read_bytes())
        ours = resize_and_crop(view, pixels[tf.newaxis])[0]
        pil = Image.fromarray(pixels.numpy()).resize((24, 24), Image.Resampling.BILINEAR)
        # PIL rounds to whole gray values, twice.
        assert np.abs(ours - np.asarray(pil, np.float32)).max() <= 1.01


# torchvision.transforms.functional.center_crop has Python's `int(round(d / 2.0))`, which rounds
# halves to even; Keras' CenterCrop has `int(d / 2)`.
OFFSETS = {"round": [0, 0, 1, 2, 2, 2, 3, 4, 4], "floor": [0, 0, 1, 1, 2, 2, 3, 3, 4]}


@pytest.mark.parametrize("convention", OFFSETS)
def test_the_offset_of_the_center_crop(convention):
    """In the single view and the center of ten crops; the value of a pixel is its column."""
    value = Preprocessing(resize=8, crop=8, crop_offset=convention)
    wide = Preprocessing(resize=9, crop=8, crop_offset=convention)
    for left_over, wanted in enumerate(OFFSETS[convention]):
        image = np.zeros([1, 8, 8 + left_over, 3], np.uint8)
        image += np.arange(8 + left_over, dtype=np.uint8)[:, np.newaxis]
        assert resize_and_crop(value, image)[0, 0, 0, 0] == wanted
        if left_over:
            image = np.zeros([1, 9, 8 + left_over, 3], np.uint8)
            image += np.arange(8 + left_over, dtype=np.uint8)[:, np.newaxis]
            middle = VIEWS["ten-crop"](wide, image)[4]
            np.testing.assert_array_equal(middle, VIEWS["single"](wide, image)[0])
            if left_over > 1:
                assert middle[0, 0, 0, 0] == wanted


def test_only_torchvision_and_timm_round_the_offset():
    assert {name: value.crop_offset for name, value in PREPROCESSING.items()} == {
        "caffe": "floor",
        "torch": "round",
        "tf": "floor",
        "cifar10": "floor",
    }


def test_without_antialiasing_the_aspect_can_be_kept():
    """Halving the sides averages four pixels; dividing them by three takes every third pixel."""
    image = np.arange(18 * 36, dtype=np.float32).reshape(1, 18, 36, 1).repeat(3, axis=-1)
    view = Preprocessing(resize=6, crop=6, antialias=False)
    wanted = image[0, 1::3, 1::3][:, 3:9]
    np.testing.assert_array_equal(resize_and_crop(view, image)[0], wanted)
    antialiased = resize_and_crop(Preprocessing(resize=6, crop=6), image)[0]
    assert np.abs(antialiased - wanted).max() > 0.1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"aspect": "squeeze"}, "aspect is 'squeeze'; choose one of 'keep', 'stretch'"),
        (
            {"aspect": "stretch"},
            "aspect is 'stretch', resize is 256 and crop is 224; give the same",
        ),
        ({"crop_offset": "up"}, "crop_offset is 'up'; choose one of 'floor', 'round'"),
        ({"antialias": 1}, "antialias is 1; choose one of True, False"),
        ({"channels": "rgb"}, "channels is 'rgb'; choose one of 'RGB', 'BGR'"),
        ({"scale": (1, 0, 1)}, r"scale is \(1.0, 0.0, 1.0\); give three numbers other than 0"),
        ({"scale": (1, float("nan"), 1)}, "scale is .*nan.*; give finite numbers"),
        ({"scale": 255}, "scale is 255.0; give three numbers"),
        ({"mean": (1, float("inf"), 1)}, "mean is .*inf.*; give finite numbers"),
        ({"mean": "gray"}, "mean is 'gray'; give numbers"),
        ({"crop": 223.5}, "crop is 223.5 and resize is 256; give whole numbers"),
        ({"resize": True, "crop": True}, "crop is True"),
    ],
)
def test_invalid_values_are_refused_with_the_choices(values, says):
    with pytest.raises(ValueError, match=says):
        Preprocessing(**{"resize": 256, "crop": 224} | values)
    text = json.dumps({"resize": 256, "crop": 224} | values)
    with pytest.raises(ValueError, match=f"not a preprocessing: {says.split(' is ')[0]} is "):
        Preprocessing.from_json(text)


def test_every_field_survives_json():
    value = Preprocessing(
        resize=24,
        crop=24,
        channels="BGR",
        mean=np.array([1.5, 2, 3], np.float32),
        scale=[0.1, 2, 3],
        aspect="stretch",
        antialias=False,
        crop_offset="round",
        exif_orientation=True,
    )
    assert value.mean == (1.5, 2.0, 3.0) and hash(value)
    assert Preprocessing.from_json(value.to_json()) == value
    for field in dataclasses.fields(value):
        if field.default is not dataclasses.MISSING:
            assert getattr(value, field.name) != field.default, "the default would hide a loss"


def test_a_file_without_newer_fields_has_their_defaults():
    old = '{"resize": 8, "crop": 8, "channels": "RGB", "mean": [1, 2, 3], "scale": [1, 1, 1]}'
    found = Preprocessing.from_json(old)
    assert (found.aspect, found.antialias, found.crop_offset) == ("keep", True, "floor")
    # Such a run was trained on images as stored.
    assert not found.exif_orientation


def test_own_images_are_upright_and_those_of_public_weights_as_stored():
    assert not any(value.exif_orientation for value in PREPROCESSING.values())
    assert preprocessing().exif_orientation and per_channel_mean(32).exif_orientation


@pytest.mark.parametrize("text", ['{"resize": 8, "crop": 8, "aspct": "keep"}', '["resize"]'])
def test_unknown_fields_are_refused(text):
    with pytest.raises(ValueError, match="not a preprocessing: "):
        Preprocessing.from_json(text)
    if "aspct" in text:
        with pytest.raises(ValueError, match="'aspct' is unknown; the fields are resize, crop"):
            Preprocessing.from_json(text)
        with pytest.raises(ValueError) as raised:
            Preprocessing.from_json(text.replace("aspct", "aspct" * 10_000))
        assert len(str(raised.value)) < 300


def test_for_size():
    """The ratio 256 / 224 of section 3.4: for 32 px 36.6, for 448 px 512."""
    imagenet = Preprocessing(resize=256, crop=224, mean=(1, 2, 3), antialias=False)
    assert imagenet.for_size(448) == dataclasses.replace(imagenet, resize=512, crop=448)
    assert imagenet.for_size(32) == dataclasses.replace(imagenet, resize=37, crop=32)
    stretched = Preprocessing(resize=24, crop=24, aspect="stretch")
    assert stretched.for_size(9) == Preprocessing(resize=9, crop=9, aspect="stretch")
    per_pixel = preprocessing()
    assert per_pixel.for_size(8) == per_pixel
    with pytest.raises(ValueError, match="size is 9; the mean is an image of 8 x 8 pixels"):
        per_pixel.for_size(9)
