#!/usr/bin/env bash
# Make a virtual environment that runs the project: bootstrap.sh VENV
# Installs the system libraries that Qt and OpenGL need where it may, else names what is missing.
set -euo pipefail
venv=${1:?usage: bootstrap.sh VENV}
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

libraries=(
    xvfb xauth libgl1 libegl1 libgl1-mesa-dri libfontconfig1 libxkbcommon-x11-0 libdbus-1-3
    libglib2.0-0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0
    libxcb-shape0 libxcb-xinerama0 libxcb-xfixes0 libxcb-cursor0
)

# Debian 13 and Ubuntu 24.04 renamed some libraries to NAMEt64, which answer to NAME
is_installed() {
    local states
    states=$(dpkg-query --show --showformat='${db:Status-Status}\n' "$1" "$1t64" 2>/dev/null || true)
    grep -qx installed <<<"$states"
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if is_recent "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "napari-dkp needs Python 3.11 or newer, and none of ${PYTHON:-python3, python3.11 to python3.14} is; install one, or name it: make PYTHON=/path/to/python"
    exit 1
fi

missing=()
if command -v dpkg-query >/dev/null; then
    for package in "${libraries[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
elif ! command -v xvfb-run >/dev/null; then
    say "This is no Debian or Ubuntu: install Xvfb and the libraries Qt and OpenGL need yourself."
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if command -v dpkg-query >/dev/null; then
        missing+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
    else
        say "This Python cannot make virtual environments: install its venv module."
        exit 1
    fi
fi

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        say "These system packages are missing and only an administrator may install them: sudo apt-get install ${missing[*]}"
        exit 1
    fi
    say "Installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable '.[napari]' --group dev
