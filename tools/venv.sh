#!/usr/bin/env bash
# Create or renew a virtual environment: tools/venv.sh FOLDER CONSTRAINTS REQUIREMENT...
# Finds Python 3.11 with venv and ensurepip, says what to install where that is missing, and shows pip's progress in a few lines.
set -euo pipefail

folder=$1 constraints=$2
shift 2

fail() {
    printf '%s\n' '' "$@" >&2
    exit 1
}

is_python_3_11() {
    "$1" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if [ -n "$candidate" ] && is_python_3_11 "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    return 1
}

if ! python=$(find_python); then
    fail "orch needs Python 3.11, and none was found${PYTHON:+ (PYTHON=$PYTHON is not 3.11)}. Install it with one of:" \
        "    apt-get install python3.11 python3.11-venv       Debian 12 and its kin (as root, or with sudo)" \
        "    dnf install python3.11                           Fedora, RHEL" \
        "    brew install python@3.11                         Homebrew" \
        "    pyenv install 3.11 && pyenv local 3.11           anywhere" \
        "or name one that is elsewhere: make setup PYTHON=/path/to/python3.11"
fi

if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    fail "$("$python" --version) is here, but its venv module is not complete (venv or ensurepip is missing). Install it:" \
        "    apt-get install python3.11-venv                  Debian and Ubuntu (as root, or with sudo)" \
        "then run make again."
fi

# To clear a link is to empty the environment of another tree, which may be in use.
if [ -L "$folder" ]; then
    fail "$(pwd -P)/$folder is a link to $(readlink "$folder"): an environment of its own is made in a folder alone." \
        "Remove the link and run make again, or call the Python of that environment itself."
fi

# A folder that was copied, moved or left half made has a Python that does not know where it is: start over.
here=$(pwd -P)/$folder
if ! [ "$("$folder/bin/python" -c 'import sys; print(sys.prefix)' 2>/dev/null)" = "$here" ] ||
    ! grep -qF -- "$here" "$folder/bin/activate" 2>/dev/null ||
    ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "creating $folder with $("$python" --version)"
    "$python" -m venv --clear "$folder"
fi

echo "installing $* (about 80 packages, 1 GB on disk; the first time takes a minute or two)"
# One line for each large download and one for the rest; pip's errors go to stderr untouched.
PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONWARNINGS=ignore \
    "$folder/bin/python" -m pip install --progress-bar off -c "$constraints" "$@" | awk '
        /^ *(Downloading|Using cached) .*\([0-9.]+ MB\)/ {
            split($0, part, "("); size = part[2] + 0
            if (size >= 10) { sub(/^ */, ""); sub(/-(cp|py)[0-9].*whl/, ""); print "  " $0; fflush() }
        }
        /^Installing collected packages/ { print "  unpacking"; fflush() }'
