"""A model as native code: a package of AOTInductor, which runs as part of the process that loads it.

Nothing in such a file can be checked but who made it. So it is loaded only where somebody names its digest, and from
the very bytes that were digested. It is compiled for every x86-64 CPU of the third level (AVX2, from 2013 on), not for
the one that compiles, and belongs to one release of PyTorch, whose functions it calls.
"""

from __future__ import annotations

import io
import os
import platform
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from crossmedia.arguments import must
from crossmedia.errors import BadInput
from crossmedia.trainer.export.tracing import Traced, without_warnings
from crossmedia.trainer.export.unusable import Unusable

PARTS = "data/aotinductor/"  # where PyTorch puts what it compiled
MACHINE, LEVEL, VECTORS_BITS = "x86_64", "x86-64-v3", 256
SHA256 = "[0-9a-fA-F]{64}"
HAS_LEVEL = ("AVX2", "AVX512")  # as PyTorch calls what a CPU can do
FORM: dict[str, Any] = {
    "aot_inductor.package": True,
    "cpp.march": LEVEL,
    "cpp.simdlen": VECTORS_BITS,
    "cpp.threads": 1,  # requests are computed side by side
}


def made_for() -> dict[str, str]:
    """What a package that is made here runs on, for its description."""
    return {"machine": MACHINE, "level": LEVEL, "torch": torch.__version__}


def written(traced: Traced, files: Mapping[str, str]) -> bytes:
    """A model as a package, with files in it.

    Raises:
        BadInput: there is no compiler, it fails, or the machine is of another kind.
    """
    from torch._inductor import aot_compile
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
    from torch._inductor.utils import fresh_cache
    from torch.export.pt2_archive._package import package_pt2

    if platform.machine() != MACHINE:
        raise BadInput(
            f"A package of AOTInductor is compiled for {MACHINE}, and this machine is {platform.machine()}. Export it "
            f"as pt2 or onnx."
        )
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise BadInput(
            "AOTInductor compiles C++, and there is no compiler here. Install g++ (the variable CXX names another). To "
            "export as pt2 or onnx needs none."
        ) from error
    block = io.BytesIO()
    try:
        # A cache of its own: the common one lies where other users of the machine can write.
        with torch.no_grad(), fresh_cache(), without_warnings():
            made = aot_compile(traced.program.module(), (traced.inputs,), options=FORM)
            package_pt2(block, aoti_files={"model": [*cast("list[str]", made)]}, extra_files={**files})
    except CppCompileError as error:
        raise BadInput(f"The C++ compiler fails on what AOTInductor made: {str(error)[-1000:]}") from error
    return block.getvalue()


def trusted_digests(trust_native: str | Collection[str]) -> frozenset[str]:
    """Digests as somebody named them, each in lower case; an empty text names none.

    Raises:
        BadInput: one is no sha256.
    """
    named = [trust_native] if isinstance(trust_native, str) else trust_native
    for one in named:
        fits = isinstance(one, str) and (not one or re.fullmatch(SHA256, one) is not None)
        must(fits, "A digest of trust_native", one, "a sha256 of 64 digits, as 'sha256sum FILE' computes it")
    return frozenset(one.lower() for one in named if one)


def check_trusted(path: Path, digest: str, trusted: Collection[str]) -> None:
    """Refuse native code that nobody vouches for.

    Raises:
        Unusable: its digest is not among those that are trusted; what it is, and how to trust it.
    """
    if digest in trusted:
        return
    others = f" Trusted so far: {', '.join(sorted(trusted))}." if trusted else ""
    raise Unusable(
        f"{path} holds native code, a package of AOTInductor: who made it can do with this process, its files and its "
        f"tokens what they like, and nothing in it can be checked.{others} If you made this very file, or trust who "
        f"did and have its digest from them, give --trust-native {digest}; else ask for the model as pt2."
    )


class NativeProgram:
    """A package that is loaded: its code may have run by now.

    Args:
        data: the bytes of a file whose digest is trusted.
        inputs: type and shape of each input by its name, in the order in which the program takes them.
        made: what the package says that it runs on.

    Attributes:
        inputs: names of the inputs.

    Raises:
        Unusable: it was made for another machine or release.
        Exception: of any other kind, it cannot be loaded.
    """

    def __init__(self, data: bytes, inputs: Mapping[str, Any], made: Mapping[str, str]):
        from torch._C._aoti import AOTIModelPackageLoader

        here = made_for() | {"machine": platform.machine()}
        if apart := [name for name, value in here.items() if made.get(name) != value]:
            what = apart[0]
            raise Unusable(
                f"The native code was compiled for {what} {made.get(what)}, and here is {here[what]}. Export it here."
            )
        if (found := torch.backends.cpu.get_cpu_capability()) not in HAS_LEVEL:
            raise Unusable(
                f"The native code was compiled for CPUs of the level {LEVEL}, and this one has {found}. Take a pt2."
            )
        self.inputs, self._forms = tuple(inputs), inputs
        # Its loader takes a path, and unpacks what lies there: into folders that only this user can write.
        with tempfile.TemporaryDirectory(prefix="crossmedia-") as folder:
            file = Path(folder) / "model.pt2"
            file.write_bytes(data)
            # Not by load_package of PyTorch: it compiles and runs probes, in a folder where others may write, to find
            # the widest vectors of this CPU, and warns that they are not those of the file, which are narrower on
            # purpose. What it would compare is checked above.
            loaded = AOTIModelPackageLoader(str(file), "model", False, len(os.sched_getaffinity(0)), -1)
        self._run = loaded.boxed_run

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Run it.

        Raises:
            Exception: of any kind, it fails.
        """
        sizes: dict[str | int, int] = {}
        for name, form in self._forms.items():  # native code looks at no type, and reads on behind the end
            given, (first, *others) = inputs[name], form["shape"]
            fits = str(given.dtype) == f"torch.{form['type']}" and [*given.shape[1:]] == others
            if not fits or given.shape[0] != (first if isinstance(first, int) else sizes.setdefault(first, len(given))):
                raise ValueError(f"its input {name} is {given.dtype} of shape {[*given.shape]}, and it takes {form}")
        (found,) = self._run([inputs[name].contiguous() for name in self.inputs])
        return found
