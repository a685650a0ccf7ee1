#!/bin/bash
# What the image of MariaDB does before its first start, as far as docker/compose.database.yaml goes by it: root
# gives the folder to the user mysql and becomes it; an empty folder gets the system's tables, a root without a
# password who may come from anywhere, and the database of the settings.
set -euo pipefail

data=/var/lib/mysql
socket=/run/mysqld/mysqld.sock

sql() { mariadb --user=root --socket=$socket --execute="$1"; }

first_start() {
    echo "[entrypoint] making the database"
    mariadb-install-db --datadir=$data --auth-root-authentication-method=normal --skip-test-db >/tmp/install.log ||
        { cat /tmp/install.log; exit 1; }
    # Nobody reaches it before it is ready.
    mariadbd --skip-networking --socket=$socket &
    until sql 'SELECT 1' >/dev/null 2>&1; do
        kill -0 $!
        sleep 0.5
    done
    sql "CREATE USER root@'%'; GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION; CREATE DATABASE ${MARIADB_DATABASE}"
    kill $!
    wait $!
    echo "[entrypoint] the database is made"
}

if [ "${1:-}" = mariadbd ]; then
    if [ "$(id -u)" = 0 ]; then
        find $data ! -user mysql -exec chown mysql: {} +
        exec setpriv --reuid=mysql --regid=mysql --clear-groups "$0" "$@"
    fi
    if [ ! -d $data/mysql ]; then
        [ "${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:-}" = 1 ] || { echo "[entrypoint] no password for root"; exit 1; }
        first_start
    fi
fi
exec "$@"
