#!/bin/bash
# All checks that a change must pass. `.ci/run` calls this with every part required.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: tests/check.sh [PART]...
       tests/check.sh quick

Runs the checks, prints one line with result and duration for each, and fails if one fails. `quick` stands for fmt,
clippy and test, which need neither root nor a network.

  fmt             rustfmt finds nothing to change
  clippy          no warnings of the compiler and clippy
  unit            unit tests, and the model checker (tests/loom)
  suite           conversations with a running server, in four modes:
    suite-root      as root, with handles of the file system
    suite-path      as root, with handles by path
    suite-rootless  as an unprivileged user
    suite-release   the release build, with clients that exceed its limits
  test            unit, suite and fuzz as the current user: plain `cargo test`
  fuzz            the fuzz targets, two seconds each (or BOLERO_RANDOM_TEST_TIME_MS)
  page            the status page in a browser (tests/admin/page)
  chart           the Helm chart (tests/chart/run); also installed, if there is a control plane as for cluster
  guest           a real kernel client in a virtual machine (tests/guest/run)
  image           the container image, built and used (tests/image/run)
  arm64           the image for arm64, compiled here and used in a virtual machine (tests/image/arm64/run)
  engine          the Docker commands in the README and in docker/, word for word, in a virtual machine with Docker
                  (tests/engine/run)
  quickstart      the first commands of the README, word for word (tests/quickstart/run)
  bench           CPU time per call is at most NFS-Ganesha's (tests/bench/compare --quick --bar)
  cluster         claims in a real Kubernetes control plane (tests/cluster/run): with etcd,
                  kube-apiserver, kube-controller-manager and kubectl in KUBEBUILDER_ASSETS; without
                  it only on request, in the cluster of KUBECONFIG

Without a PART, runs all but those on request. As root on Debian, missing packages are installed; elsewhere, a part that
lacks something is left out and says why. With REQUIRE_E2E=1 that is a failure. The output of a part is kept in
target/check/PART.log, and printed if the part fails.
END
}

quick=(fmt clippy test)
all=(fmt clippy unit suite-root suite-path suite-rootless suite-release fuzz page chart guest quickstart image arm64 engine bench)
on_request=(test) # the others cover it
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then all+=(cluster); else on_request+=(cluster); fi
logs=target/check
left_out=77 # the exit status of a part that cannot run here
# What virtual machines need, as arguments of `needs`.
machine=(python3=python3 qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod mke2fs=e2fsprogs)

say() { echo "$*" >&2; }

# needs PROGRAM=PACKAGE...: installs missing programs, or leaves the part out.
needs() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "not tried: missing packages: ${missing[*]}"
        exit $left_out
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"
}

needs_root() {
    [ "$(id -u)" = 0 ] && return
    say "not tried: this needs root"
    exit $left_out
}

# built TARGET: builds a test target and prints the path of the program.
built() {
    cargo test --test "$1" --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/'"$1"'-[^"]*\)".*/\1/p'
}

# Runs a command in its own network namespace, where port 111 is free and no other program connects.
in_own_network() {
    if [ "$(id -u)" = 0 ] && unshare --net true 2>/dev/null; then
        unshare --net -- bash -c 'ip link set lo up && exec "$@"' - "$@"
    else
        "$@"
    fi
}

suite() {
    local mode=$1 program
    if [ "$(id -u)" = 0 ]; then
        needs mount=mount ip=iproute2 unshare=util-linux nfs-ls=libnfs-utils showmount=nfs-common \
            rpcinfo=rpcbind
    elif [ "$mode" != rootless ]; then
        say "not tried: the mode $mode needs root"
        exit $left_out
    fi # otherwise the tests say what is missing
    program=$(built suite)
    if [ "$mode" = rootless ] && [ "$(id -u)" = 0 ]; then
        as_nobody "$program"
    else
        BERTH_TEST_MODE=$mode in_own_network "$program"
    fi
}

# Copies the programs, because the user may be unable to enter this directory. Skips the test of the
# layers, which reads the source and has run in the other modes.
as_nobody() {
    local place
    place=$(mktemp -d)
    trap "rm -rf '$place'" EXIT # expanded now: the variable is local
    cp "$1" "$place/suite"
    cp target/debug/berth "$place/berth"
    mkdir "$place/tmp"
    chown -R 65534:65534 "$place"
    export BERTH_TEST_MODE=rootless BERTH_BIN=$place/berth TMPDIR=$place/tmp
    in_own_network setpriv --reuid=65534 --regid=65534 --clear-groups \
        "$place/suite" --skip layers::
}

part_fmt() { cargo fmt --check; }
part_clippy() { cargo clippy --all-targets -- -D warnings; }
part_test() { cargo test; }
part_unit() { cargo test --lib --test loom; }
part_suite-root() { suite root; }
part_suite-path() { suite path; }
part_suite-rootless() { suite rootless; }
# Only tests that need no fault injection, which the release build lacks.
part_suite-release() {
    local program
    cargo build --release
    program=$(built suite)
    BERTH_BIN=$PWD/target/release/berth in_own_network "$program" \
        hostile::budget hostile::crowd hostile::dribble memory::a_thousand
}
part_fuzz() { BOLERO_RANDOM_TEST_TIME_MS=${BOLERO_RANDOM_TEST_TIME_MS:-2000} cargo test --test fuzz; }

part_page() {
    needs chromium=chromium
    tests/admin/page
}

part_chart() {
    local assets=${KUBEBUILDER_ASSETS:-} build=../shared/control-plane/build
    needs python3=python3 pip3=python3-pip npm=npm openssl=openssl setpriv=util-linux nfs-cp=libnfs-utils
    cargo build
    if [ -z "$assets" ] && [ -x $build ]; then
        assets=$($build)
    fi
    KUBEBUILDER_ASSETS=$assets tests/chart/run
}

part_guest() {
    needs "${machine[@]}" ip=iproute2
    cargo build --release
    tests/guest/run
    # The scenarios that depend on the kind of file handles, with the other kind.
    BERTH_HANDLES=path tests/guest/run exerciser git restart special
}

part_quickstart() {
    needs_root
    needs "${machine[@]}" ip=iproute2 unshare=util-linux
    cargo build --release
    tests/quickstart/run
}

part_image() {
    needs_root
    needs apt-get=apt dpkg-deb=dpkg buildah=buildah nfs-cp=libnfs-utils capsh=libcap2-bin ip=iproute2 \
        pgrep=procps unshare=util-linux
    tests/image/run
}

part_arm64() {
    needs_root
    if [ "$(uname -m)" != x86_64 ]; then
        say "not tried: this cross-compiles from amd64 only"
        exit $left_out
    fi
    needs apt-get=apt dpkg-deb=dpkg buildah=buildah nfs-cp=libnfs-utils ip=iproute2 unshare=util-linux \
        qemu-system-aarch64=qemu-system-arm cpio=cpio depmod=kmod mke2fs=e2fsprogs
    tests/image/arm64/run
}

part_engine() {
    needs_root
    needs "${machine[@]}" strip=binutils
    cargo build --release
    tests/engine/run
}

part_cluster() {
    local assets=${KUBEBUILDER_ASSETS:-} build=../shared/control-plane/build
    needs python3=python3 openssl=openssl nfs-cat=libnfs-utils
    cargo build
    if [ -n "$assets" ] && [ -x "$assets/kube-controller-manager" ]; then
        tests/cluster/run --binaries "$assets"
    elif [ -x $build ]; then
        tests/cluster/run --binaries "$($build)"
    elif [ -n "${KUBECONFIG:-}" ]; then
        needs kubectl=kubernetes-client
        tests/cluster/run --kubeconfig "$KUBECONFIG"
    else
        say "not tried: no control plane: KUBEBUILDER_ASSETS names no directory with" \
            "kube-controller-manager, and KUBECONFIG is not set"
        exit $left_out
    fi
}

part_bench() {
    needs python3=python3 # the script installs NFS-Ganesha
    tests/bench/compare --quick --bar
}

# chosen [ARGUMENT]...: prints the parts that the arguments name.
chosen() {
    local part argument found
    [ $# -gt 0 ] || printf '%s\n' "${all[@]}"
    for argument in "$@"; do
        found=
        if [ "$argument" = quick ]; then
            printf '%s\n' "${quick[@]}"
            found=1
        fi
        for part in "${all[@]}" "${on_request[@]}"; do
            if [[ $part = "$argument" || $part = "$argument"-* ]]; then
                echo "$part"
                found=1
            fi
        done
        [ -n "$found" ] || { say "there is no part $argument; tests/check.sh --help lists them"; exit 2; }
    done
}

# Runs a part with its output in a file; prints its result, and which of its tests could not run.
run_part() {
    local part=$1 log=$logs/$1.log start=$SECONDS status
    # Not `|| status=$?`, which would disable `set -e` inside the part.
    set +e
    (set -e; "part_$part") >"$log" 2>&1 </dev/null
    status=$?
    set -e
    local took=$((SECONDS - start))
    if [ $status = 0 ]; then
        printf '%-15s ok     %4d s\n' "$part" $took
        passed=$((passed + 1))
    elif [ $status = $left_out ] && [ "${REQUIRE_E2E:-}" != 1 ]; then
        printf '%-15s left out\n' "$part"
    else
        printf '%-15s FAILED %4d s\n' "$part" $took
        failed=$((failed + 1))
        cat "$log"
        return
    fi
    grep -hE '^not tried|skipped:' "$log" | sort -u | sed 's/^/    /' || true
}

case ${1:-} in -h | --help) usage; exit ;; esac
parts=$(chosen "$@")
mkdir -p $logs
passed=0 failed=0
for part in $parts; do
    run_part "$part"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
