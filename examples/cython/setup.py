"""Shows how a Cython project finds gradcore: headers, library, and the .pxd of `cimport
gradcore`.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

import gradcore as gd

extension = Extension(
    "best_of_many",
    ["best_of_many.pyx"],
    include_dirs=[gd.get_include()],
    extra_link_args=gd.get_link_args(),
)
setup(ext_modules=cythonize([extension], language_level=3))
