#!/bin/sh
# Builds the extension with AddressSanitizer, apart from the working tree, and fuzzes it.
# Usage: sh tests/reading/format/fuzz.sh [SECONDS]; needs a C compiler with libasan. PYTHON chooses the interpreter.
set -e
python=${PYTHON:-.venv/bin/python}
seconds=${1:-600}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r tb_firstloss tests "$folder"
cd "$folder"
find . -name '_scan*.so' -delete
"$python" -m cython -3 tb_firstloss/reading/format/_scan.pyx
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
${CC:-cc} -shared -fPIC -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined \
    -I"$include" tb_firstloss/reading/format/_scan.c -o "tb_firstloss/reading/format/_scan$suffix"
LD_PRELOAD=$(${CC:-cc} -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
    PYTHONMALLOC=malloc PYTHONPATH=. "$python" tests/reading/format/fuzz_scan.py --seconds "$seconds"
