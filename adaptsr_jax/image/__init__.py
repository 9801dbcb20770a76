"""The one reader and writer of pictures.

Everything that opens or stores a picture file goes through here, so that orientation, bit depth, transparency and
colour profile are treated once and alike. 8-bit files are decoded by Pillow. Pillow cuts 16-bit colour to 8 bit without
a word, so 16-bit files are recognised by their headers, decoded by OpenCV and encoded here.
"""

from adaptsr_jax.image.metadata import Shot, shot
from adaptsr_jax.image.picture import (
  LUMA,
  SUFFIXES,
  WRITABLE,
  ImageError,
  Picture,
  check_format,
  linear,
  to_float,
  to_levels,
  to_uint8,
)
from adaptsr_jax.image.reading import list_images, no_pictures, read, read_array, shot_of, size, tell_unread
from adaptsr_jax.image.writing import small_jpeg, write
