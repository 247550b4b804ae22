#!/bin/sh
# Every check as other processors would run it: torch picks its kernels by what a processor can do, and splits sums
# among threads, so that the last digits differ from machine to machine. A check that follows one machine's rounding
# fails here. Started by `make kernels`; KERNELS and THREADS narrow it. What was printed is in _report/kernels.
cd "$(dirname "$0")/.." || exit 1
BIN=${BIN:-.venv/bin}
KERNELS=${KERNELS:-default avx2 avx512}
THREADS=${THREADS:-1 2}
LOGS=_report/kernels
mkdir -p "$LOGS"

# What this processor can do at most; asked to do more, torch would end with an illegal instruction
native=$(env -u ATEN_CPU_CAPABILITY "$BIN/python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())') || exit 1
can_run() {
    case "$1-$native" in
        default-*|avx2-AVX2|avx2-AVX512|avx512-AVX512) return 0;;
        *) return 1;;
    esac
}

suite() {   # kernel, threads
    export ATEN_CPU_CAPABILITY="$1" OMP_NUM_THREADS="$2" NUMBA_NUM_THREADS="$2"
    workers=1
    if [ "$2" = 1 ]; then workers=2; fi
    "$BIN/nbdev_test" --n_workers "$workers"
    notebooks=$?
    "$BIN/python" -m pytest -n "$workers" --dist loadfile
    tests=$?
    [ "$notebooks" = 0 ] && [ "$tests" = 0 ]
}

failed=0
for kernel in $KERNELS; do
    if ! can_run "$kernel"; then
        echo "$kernel: left out, this processor goes as far as $native"
        continue
    fi
    for threads in $THREADS; do
        log="$LOGS/$kernel-$threads.log"
        start=$(date +%s)
        if (suite "$kernel" "$threads") > "$log" 2>&1; then verdict=passed; else verdict="FAILED, see $log"; failed=1; fi
        echo "$kernel, OMP_NUM_THREADS=$threads: $verdict ($(( ($(date +%s) - start)/60 )) min)"
    done
done
exit $failed
