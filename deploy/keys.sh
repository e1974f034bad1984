#!/bin/sh
# Makes the keys of compose.yaml: their hashes and Prometheus's own key go to .env beside this file, the other keys are printed once.
#   sh deploy/keys.sh
set -eu
umask 077
file=$(dirname "$0")/.env
if [ -e "$file" ]; then
    echo "$file is there already; to replace all keys, remove it first" >&2
    exit 1
fi
key() {
    printf 'freshet_%s' "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')"
}
entry() { # name scopes key
    printf '%s %s sha256:%s' "$1" "$2" "$(printf %s "$3" | sha256sum | cut -d ' ' -f 1)"
}
shop=$(key)
operator=$(key)
metrics=$(key)
{
    echo "FRESHET_API_KEYS=$(entry shop read,write "$shop");$(entry operator read,write,admin "$operator");$(entry prometheus metrics "$metrics")"
    echo "PROMETHEUS_KEY=$metrics"
} > "$file"
echo "shop (rankings and events):  $shop"
echo "operator (everything else, and the live page's password):  $operator"
