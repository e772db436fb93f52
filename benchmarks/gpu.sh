#!/usr/bin/env bash
# Everything that is measured on a GPU, in one go of less than eight minutes:
#
#     benchmarks/gpu.sh                       on an NVIDIA GPU; it was written for an H200
#     benchmarks/gpu.sh --device cpu --quick  small models on a CPU, to see that it works
#
# OUT (runs/gpu) gets the results: CSV files, pictures, report.html, what each step printed, and
# goals.txt: what was reached beside what should be, with date and versions. PYTHON
# (.venv/bin/python) is the interpreter, with what pip install -e ".[test]" installs. A step that
# fails or takes too long does not stop those after it; the exit status is 1 if there was one.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
device=cuda
quick=()
sequences=64 # of a batch
texts=(gpt2-1 gpt2-8)
lengths=(--longest 32768 --tokens 32768 --budget 1)
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:?--device needs cpu or cuda}; shift 2 ;;
        --quick) quick=(--quick) sequences=4 texts=(gpt2-1) lengths=(); shift
            export TORCH_COMPILE_DISABLE=1 ;; # a compiler takes minutes on a CPU
        *) echo "usage: benchmarks/gpu.sh [--device cpu|cuda] [--quick]" >&2; exit 2 ;;
    esac
done
dtype=bfloat16
[ "$device" = cpu ] && dtype=float32 # not every CPU computes in bfloat16
mkdir -p "$OUT/compiled" || exit 2
failed=()

# step NAME SECONDS COMMAND...: run a command for so long at most. What it prints goes to
# OUT/NAME.txt and the terminal, its progress to OUT/NAME.log.
step() {
    local name=$1 limit=$2 begin=$SECONDS status
    shift 2
    echo "== $name, at most $limit s"
    # A benchmark that is interrupted keeps the cases that it has measured.
    timeout --signal INT --kill-after 10 "$limit" "$@" 2>"$OUT/$name.log" | tee "$OUT/$name.txt"
    status=$?
    if [ $status -ne 0 ]; then
        failed+=("$name")
        tail -n 5 "$OUT/$name.log"
    fi
    echo "== $name took $((SECONDS - begin)) s, exit status $status"
}

# benchmark NAME SECONDS MODULE OPTION...: a benchmark with its results in OUT. What an earlier call
# of this script did not end goes on.
benchmark() {
    local name=$1 limit=$2 module=$3
    shift 3
    step "$name" "$limit" "$PYTHON" -m "benchmarks.$module" --device "$device" --dtype "$dtype" \
        --resume "${quick[@]}" --out "$OUT" "$@"
}

mapfile -t cuda_tests < <(grep --recursive --files-with-matches --include='test_*.py' \
    'pytest.mark.cuda' tests)

step tests 70 "$PYTHON" -m pytest -q -n 0 -m cuda "${cuda_tests[@]}"
benchmark training 120 training --cases full-50k lines-50k --settings default best \
    --batch-size "$sequences" --dropout 0.1
benchmark training_compiled 90 training --cases full-50k --settings best \
    --compile-theirs full-50k --batch-size "$sequences" --dropout 0.1 --out "$OUT/compiled"
benchmark generation 80 generation --cases "${texts[@]}" --compile-theirs
# Without FlexAttention, whose kernels are compiled for longer than all others take.
benchmark attention_cost 70 attention_cost "${lengths[@]}" \
    --sweeps "fixed batch" "fixed tokens" \
    --implementations "no attention" "ours eager" "ours sdpa" "ours optimized" \
    "sdpa: flash" "sdpa: efficient" "sdpa: cudnn" varlen_attn \
    "transformers eager" "transformers sdpa" \
    "ours sdpa, padded" "ours optimized, unpadded" "transformers sdpa, padded"
step report 25 "$PYTHON" -m benchmarks.report "$OUT"
benchmark goals 20 gpu_goals

echo "took $SECONDS s; results are in $OUT"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
