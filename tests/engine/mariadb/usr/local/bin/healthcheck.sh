#!/bin/bash
# healthcheck.sh TEST...: substitute for the health check of the MariaDB image, with the tests that the demo uses.
set -euo pipefail

sql() { mariadb --user=root --protocol=tcp --host=127.0.0.1 --skip-column-names --batch --execute="$1"; }

for test in "$@"; do
    case $test in
    --connect) sql 'SELECT 1' >/dev/null ;;
    --innodb_initialized)
        [ "$(sql "SELECT support FROM information_schema.engines WHERE engine = 'InnoDB'")" = DEFAULT ]
        ;;
    *) echo "healthcheck.sh does not know $test" >&2; exit 1 ;;
    esac
done
