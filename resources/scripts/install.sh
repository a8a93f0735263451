#!/bin/bash
# install.sh BINARY DIR [NAME...]: the binary, and for each NAME a link under which it acts as that emulator. A link never
# replaces a file that is not a link to rhea.
set -euo pipefail
binary=$1 prefix=$2
shift 2
root=$(cd "$(dirname "$0")/../.." && pwd)
install -D -m 755 "$binary" "$prefix/bin/rhea"
for name in "$@"; do
    link=$prefix/bin/$name
    if [ ! -e "$link" ] || [ "$(readlink "$link")" = rhea ]; then
        ln -sfn rhea "$link"
    else
        echo "install: $link is another program, left alone" >&2
    fi
done
install -D -m 644 "$root/README.md" "$prefix/share/doc/rhea/README.md"
install -D -m 644 -t "$prefix/share/doc/rhea" "$root/LICENSE-APACHE" "$root/LICENSE-MIT"
