#!/usr/bin/env bash
# What the program does on a GPU, in about ten minutes: the tests that can run there, long trainings of ResNet-20, times
# against the processor. Needs a Python with a CUDA build of torch, the packages of the extra "dev", and the folder DIR of
# benchmarks/README.md; nothing is loaded from a network.
#
#   bash benchmarks/gpu.sh DIR [OUT]      OUT: folder for logs and rows, default gpu-results
#
# Every part has a limit of its own, so that one that hangs costs no other. Exit code: of the tests.
set -uo pipefail
data=$(realpath "${1:?give the folder with load.py and cifar10/}")
out=$(realpath -m "${2:-gpu-results}")
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONPATH=$PWD/src SIGMAQUANT_DATA=$data PYTHONUNBUFFERED=1

"$python" - <<'PYTHON' | tee "$out/machine.txt"
import sys, torch
print(sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda)
if not torch.cuda.is_available():
    sys.exit("no CUDA device: nothing to measure")
print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory // 2**30, "GiB")
PYTHON
[ "${PIPESTATUS[0]}" = 0 ] || exit 2

# 1. Rooms whose code computes on the device. Files, reports and compilers gain nothing from one.
timeout 200 "$python" -m pytest -q -x --device cuda -p no:cacheprovider -n "${JOBS:-4}" \
  tests/quant tests/statistics tests/training tests/search tests/data tests/test_api.py tests/test_resume.py \
  > "$out/tests.txt" 2>&1
tested=$?
tail -n 5 "$out/tests.txt"

# 2. A step on both, as ratios in one run each.
for device in cpu cuda; do
  timeout 60 "$python" benchmarks/training_step.py --data "$data" --device $device --batch-size 512 --steps 8
done 2>&1 | tee "$out/steps.txt"

# 3. Sixty epochs at 3 and at 2 bits; the limit is for both.
timeout 270 "$python" benchmarks/cifar.py --data "$data" --device cuda --mode trained --sizes 32/3,16 --epochs 60 \
  --batch-size 512 --settings '{"lr": 0.03}' --out "$out/cifar.jsonl" --quiet 2>&1 | tee "$out/cifar.txt"
exit $tested
