#!/bin/bash
# Substitute for the entrypoint of the MariaDB image, as far as docker/compose.database.yaml needs it: root gives the
# directory to the user mysql and becomes that user; an empty directory gets the system tables, a database root account
# without a password for any host, and the database of MARIADB_DATABASE.
set -euo pipefail

data=/var/lib/mysql
socket=/run/mysqld/mysqld.sock

sql() { mariadb --user=root --socket=$socket --execute="$1"; }

first_start() {
    echo "[entrypoint] creating the database"
    mariadb-install-db --datadir=$data --auth-root-authentication-method=normal --skip-test-db >/tmp/install.log ||
        { cat /tmp/install.log; exit 1; }
    # Without networking, so that no client connects before the database is complete.
    mariadbd --skip-networking --socket=$socket &
    until sql 'SELECT 1' >/dev/null 2>&1; do
        kill -0 $!
        sleep 0.5
    done
    sql "CREATE USER root@'%'; GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION; CREATE DATABASE ${MARIADB_DATABASE}"
    kill $!
    wait $!
    echo "[entrypoint] the database is created"
}

if [ "${1:-}" = mariadbd ]; then
    if [ "$(id -u)" = 0 ]; then
        find $data ! -user mysql -exec chown mysql: {} +
        exec setpriv --reuid=mysql --regid=mysql --clear-groups "$0" "$@"
    fi
    if [ ! -d $data/mysql ]; then
        [ "${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:-}" = 1 ] || { echo "[entrypoint] MARIADB_ALLOW_EMPTY_ROOT_PASSWORD is not set"; exit 1; }
        first_start
    fi
fi
exec "$@"
