#!/bin/bash
# Everything that must hold before a change goes in; `.ci/run` calls this with every part required.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: tests/check.sh [PART]...

Runs the checks, one line for each with what it took, and fails if one fails.

  fmt             the code is formatted
  clippy          the compiler and clippy have nothing to say
  unit            the tests beside the code
  suite           conversations with a running server, in three modes:
    suite-root      as root, with the kernel's file handles
    suite-path      as root, with handles found again by inode and path
    suite-rootless  as an unprivileged user
    suite-release   peers that ask for too much, of the release build
  fuzz            the fuzz targets, two seconds each (or BOLERO_RANDOM_TEST_TIME_MS)
  page            the status page in a browser (tests/admin/page)
  chart           the Helm chart (tests/chart/run); with a control plane as for cluster, installed there too
  guest           a real kernel client in a virtual machine (tests/guest/run)
  image           the container image, built and lived with (tests/image/run)
  arm64           the same for arm64, compiled here and run in a virtual machine (tests/image/arm64/run)
  engine          the commands for Docker of the README and of docker/, word for word, with Docker's engine in a
                  virtual machine (tests/engine/run)
  quickstart      the first commands of the README, word for word (tests/quickstart/run)
  bench           the bar against NFS-Ganesha (tests/bench/compare --quick --bar)
  cluster         claims in a real Kubernetes control plane (tests/cluster/run): with etcd,
                  kube-apiserver, kube-controller-manager and kubectl in KUBEBUILDER_ASSETS; without
                  it only on request, in the cluster of KUBECONFIG

Without a PART, all but those on request. As root on Debian, packages that a part needs are installed; elsewhere a part
that lacks something says so and is left out. With REQUIRE_E2E=1 that is a failure.
What a part says is kept in target/check/PART.log and shown when it fails.
END
}

all=(fmt clippy unit suite-root suite-path suite-rootless suite-release fuzz page chart guest quickstart image arm64 engine bench)
on_request=()
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then all+=(cluster); else on_request+=(cluster); fi
logs=target/check
left_out=77 # the exit status of a part that cannot be tried here

say() { echo "$*" >&2; }

# needs PROGRAM=PACKAGE...: makes sure that the programs are there, or leaves the part out.
needs() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "not tried: missing ${missing[*]}"
        exit $left_out
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"
}

takes_root() {
    [ "$(id -u)" = 0 ] && return
    say "not tried: it takes root"
    exit $left_out
}

# built TARGET: builds a test target and prints the program's path.
built() {
    cargo test --test "$1" --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/'"$1"'-[^"]*\)".*/\1/p'
}

# Runs a command with a network of its own, where port 111 is free and nobody else connects.
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
        say "not tried: the mode $mode takes root"
        exit $left_out
    fi # else the tests themselves say what is missing
    program=$(built suite)
    if [ "$mode" = rootless ] && [ "$(id -u)" = 0 ]; then
        as_nobody "$program"
    else
        BERTH_TEST_MODE=$mode in_own_network "$program"
    fi
}

# The user may not be able to reach this folder, so that the programs are copied; the layers are
# those of the source, which have been read in the other modes.
as_nobody() {
    local place
    place=$(mktemp -d)
    trap "rm -rf '$place'" EXIT # now, while the name means something
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
part_unit() { cargo test --lib; }
part_suite-root() { suite root; }
part_suite-path() { suite path; }
part_suite-rootless() { suite rootless; }
# Those tests that need no disk with faults, which the release build does not have.
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
    needs python3=python3 ip=iproute2 qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod mke2fs=e2fsprogs
    cargo build --release
    tests/guest/run
    # What depends on how files are found again, with the other kind of handles.
    BERTH_HANDLES=path tests/guest/run exerciser git restart special
}

part_quickstart() {
    takes_root
    needs python3=python3 ip=iproute2 unshare=util-linux qemu-system-x86_64=qemu-system-x86 cpio=cpio \
        depmod=kmod mke2fs=e2fsprogs
    cargo build --release
    tests/quickstart/run
}

part_image() {
    takes_root
    needs apt-get=apt dpkg-deb=dpkg buildah=buildah nfs-cp=libnfs-utils capsh=libcap2-bin ip=iproute2 \
        pgrep=procps unshare=util-linux
    tests/image/run
}

part_arm64() {
    takes_root
    if [ "$(uname -m)" != x86_64 ]; then
        say "not tried: it compiles on amd64 for arm64"
        exit $left_out
    fi
    needs apt-get=apt dpkg-deb=dpkg buildah=buildah nfs-cp=libnfs-utils ip=iproute2 unshare=util-linux \
        qemu-system-aarch64=qemu-system-arm cpio=cpio depmod=kmod mke2fs=e2fsprogs
    tests/image/arm64/run
}

part_engine() {
    takes_root
    needs python3=python3 qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod mke2fs=e2fsprogs strip=binutils
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
        say "not tried: no control plane: KUBEBUILDER_ASSETS names no folder with" \
            "kube-controller-manager in it, and KUBECONFIG is not set"
        exit $left_out
    fi
}

part_bench() {
    needs python3=python3 # and NFS-Ganesha, for which the script sees by itself
    tests/bench/compare --quick --bar
}

# chosen [ARGUMENT]...: the parts that the arguments name.
chosen() {
    local part argument found
    [ $# -gt 0 ] || printf '%s\n' "${all[@]}"
    for argument in "$@"; do
        found=
        for part in "${all[@]}" "${on_request[@]}"; do
            if [[ $part = "$argument" || $part = "$argument"-* ]]; then
                echo "$part"
                found=1
            fi
        done
        [ -n "$found" ] || { say "there is no part $argument; see tests/check.sh --help"; exit 2; }
    done
}

# Runs a part with its output in a file, and says how it ended and what it did not try.
run_part() {
    local part=$1 log=$logs/$1.log start=$SECONDS status
    # Not `|| status=$?`: that would let the part go on after a failure.
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
