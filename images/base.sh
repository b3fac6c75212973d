#!/bin/sh
# base.sh NAME:TAG: a base image made from Debian's own packages, where no image registry can be reached. Needs root,
# debootstrap and a Docker engine; MIRROR names a mirror of Debian, DOCKER the client.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root="$scratch/root"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" ${MIRROR:+"$MIRROR"} \
    > "$scratch/log" 2>&1 || { tail -n 20 "$scratch/log"; exit 1; }
ln -s python3 "$root/usr/bin/python"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale
find "$root/usr/share/doc" -type f ! -name copyright -delete
tar --directory "$root" --create . | "${DOCKER:-docker}" import - "$1"
