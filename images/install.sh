#!/bin/sh
# install.sh LIST: brings the image's /opt/fti to exactly what a list in images/ locks, byte for byte (hashes).
# Runs in a build only, with the tools, the lists and the cache mounted.
set -eu
if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi
if [ -s /run/secrets/uv ]; then export UV_CONFIG_FILE=/run/secrets/uv; fi
if [ -z "${UV_TORCH_BACKEND:-}" ]; then unset UV_TORCH_BACKEND; fi
case "$1" in *-gpu) wheels=cuda ;; *) wheels=cpu ;; esac
/tools/bin/uv pip install --quiet --cache-dir /uv-cache --link-mode copy --python /opt/fti/bin/python3 \
    --find-links "/images/wheels/$wheels" --no-deps --require-hashes --compile-bytecode --requirements "/images/$1.txt"
packages=$(echo /opt/fti/lib/python3.*/site-packages)
# What nothing loads: headers, test suites, torch's tools to build it, the web interface of Feast's own server.
rm -rf "$packages/feast/ui" "$packages/torch/include" "$packages/torch/test" "$packages/pyarrow/include"
find "$packages" -type d -name tests -prune -exec rm -rf {} +
if [ -d "$packages/torch" ]; then find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete; fi
# CUDA's libraries lie in wheels of their own: let the loader find them.
if [ -d "$packages/nvidia" ]; then
    ls -d "$packages"/nvidia/*/lib > /etc/ld.so.conf.d/nvidia-wheels.conf
    ldconfig
fi
